"""The rows for Rust. rust/ measures them, one a process, as the others are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from .libraries import CRATES, Contestant
from .quantities import RATE, TIME, Quantity, Target, times
from .registry import Row
from .run import ROOT, Command

THEMES = {"start": "Processes", "pool": "Pool of 2", "messages": "Messages", "lock": "Locks"}

ROWS: dict[str, Row] = {}

#: What the program calls each row.
NAMES: dict[str, str] = {}


def row(
    theme: str,
    program_name: str,
    name: str,
    quantity: Quantity,
    target: Target | None,
    base: Sequence[str],
    others: Sequence[str] = (),
    aside: Sequence[str] = (),
) -> None:
    everyone = tuple(map(Contestant, ("procession", *base, *others, *aside)))
    ROWS[name] = Row(theme, name, None, quantity, target, everyone, frozenset(base), frozenset(aside))
    NAMES[name] = program_name


def within(factor: float, of: str) -> Target:
    return Target("ratio", 1 / factor, f"within {factor:g}x of {of}")


row(
    "start",
    "start",
    "start a function in a process and join it",
    TIME,
    times(8),
    ["procspawn"],
    ["crossmist"],
    ["procession spawn", "procession fork", "std::thread"],
)
row("pool", "apply_async", "apply_async and get", RATE, times(50), ["procspawn"], aside=["rayon"])
row("pool", "map", "map, one task an item", RATE, None, ["rayon"])

CHANNELS = ["procession pipe"]
LARGE = ["ipc-channel", "ipc-channel typed", "ipc-channel shared"]
POLLING = "iceoryx2's busy polling"

row("messages", "small one way", "64 bytes one way", RATE, times(10), ["ipc-channel"], ["crossmist"], CHANNELS)
row("messages", "small one way", "64 bytes one way, against iceoryx2", RATE, within(2, POLLING), ["iceoryx2"])
row("messages", "large one way", "1 MiB one way", RATE, times(10), LARGE, ["crossmist"], CHANNELS)
row("messages", "large one way", "1 MiB one way, against iceoryx2", RATE, within(2, POLLING), ["iceoryx2"])
row(
    "messages",
    "small there and back",
    "64 bytes there and back",
    TIME,
    times(10),
    ["ipc-channel"],
    ["crossmist"],
    CHANNELS,
)
row(
    "messages",
    "small there and back",
    "64 bytes there and back, against iceoryx2",
    TIME,
    within(2, POLLING),
    ["iceoryx2"],
)
row("messages", "large there and back", "1 MiB there, and an answer", TIME, None, LARGE, ["crossmist"], CHANNELS)
row(
    "lock",
    "lock",
    "lock and unlock, nobody else wants it",
    TIME,
    within(1.5, "a raw futex word"),
    ["futex"],
    aside=["procession RLock"],
)


def command(program: str, smoke: bool) -> Command:
    def one(row: Row, contestant: Contestant, file: str) -> list[str]:
        return [program, NAMES[row.name], contestant.label, file, *(["--smoke"] if smoke else [])]

    return one


def versions() -> dict[str, str]:
    """What Cargo.lock says."""
    manifest = ROOT / "benchmarks" / "rust" / "Cargo.toml"
    told = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", str(manifest)],
        capture_output=True,
        text=True,
        check=True,
    )
    # rivals may have another version of a rival among their dependencies
    wanted = {each["name"]: each["version"] for each in json.loads(told.stdout)["packages"] if each["name"] in CRATES}
    return {name: wanted[name] for name in CRATES if name in wanted}
