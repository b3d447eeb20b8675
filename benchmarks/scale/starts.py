"""A thousand processes, one after the other."""

from __future__ import annotations

import os
import time
from typing import Any

from .. import processes
from ..libraries import Contestant
from ..quantities import size
from ..timing import Effort, same
from ..work import nothing
from .registry import Claim, Found, Note, Plot, growth

STARTS = 1000
METHODS = ("fork", "forkserver", "spawn")


def judge(found: Found) -> list[Claim]:
    claims = []
    for method in METHODS:
        contestant = f"procession {method}"
        grown, opened, arena = (settled(found[plot].get(contestant, [])) for plot in ("memory", "descriptors", "arena"))
        text = f"{size(grown)}, {opened:+.0f} descriptors, {size(arena)} of the family's memory"
        holds = grown < 1 << 20 and opened <= 0 and arena < 1 << 20
        claims.append(
            Claim(f"what 900 starts by {method} leave in the parent", "no descriptor, less than 1 MiB", text, holds)
        )
    return claims


def settled(points: list[tuple[float, float]]) -> float:
    """How much it grew after the first tenth."""
    if not points:
        return float("nan")
    first = next(y for x, y in points if x >= points[-1][0] / 10)
    return points[-1][1] - first


@growth(
    "starts",
    "1,000 processes started and joined, one after the other",
    [*(f"procession {method}" for method in METHODS), "multiprocessing fork"],
    [
        Plot("memory", "Memory of the parent, without what is shared", "starts", "", "count", "size", (False, False)),
        Plot("descriptors", "Descriptors of the parent", "starts", "open", "count", "count", (False, False)),
        Plot("arena", "Memory of the family", "starts", "", "count", "size", (False, False)),
        Plot("time", "Time for one start and join", "starts", "", "count", "time", (False, False)),
    ],
    judge,
)
def starts(contestant: Contestant, effort: Effort, note: Note) -> None:
    context: Any = contestant.module.get_context(contestant.way)  # type: ignore[attr-defined]
    step = effort.count(50)
    done = 0
    while done < effort.count(STARTS):
        began = time.perf_counter()
        for _ in range(step):
            child = context.Process(target=nothing)
            child.start()
            child.join()
            same(child.exitcode, 0)
        elapsed = time.perf_counter() - began
        done += step
        note("time", done, elapsed / step)
        note("memory", done, processes.resident_of_its_own())
        note("descriptors", done, processes.open_descriptors())
        if contestant.library.role == "ours":
            from procession import _procession

            note("arena", done, os.stat(f"/proc/self/fd/{_procession.arena_fd()}").st_blocks * 512)
