"""Measures: each contestant of a row in turn, each time in a new process, within a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .libraries import Contestant
from .registry import Row

#: Seconds for one measurement. The slowest takes a few.
TIME_LIMIT = 90.0
#: Rounds for those that no target is about, at most.
ROUNDS_OF_RIVALS = 3

ROOT = Path(__file__).resolve().parent.parent

#: How to have one measurement made: a command for a row, a contestant and a file for the answer.
Command = Callable[[Row, Contestant, str], list[str]]


@dataclass
class Outcome:
    """What became of a contestant in a row."""

    status: Literal["ok", "hung", "failed", "skipped"] = "ok"
    why: str = ""
    values: list[float] = field(default_factory=list)


def environment() -> dict[str, str]:
    """As in a program that is installed: its children find compiled modules, ours and those of the rivals."""
    environ = {**os.environ, "RUST_BACKTRACE": "0"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def in_python(interpreter: str, smoke: bool) -> Command:
    def command(row: Row, contestant: Contestant, file: str) -> list[str]:
        program = [interpreter, "-m", f"benchmarks.{row.main}"]
        return [*program, row.name, contestant.label, file, *(["--smoke"] if smoke else [])]

    return command


def end_session(leader: int) -> None:
    """Kill whatever a measurement has left, so that it does not disturb the next."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_bounded(command: list[str], time_limit: float) -> tuple[Literal["ok", "hung", "failed"], str]:
    """Run a command with all its descendants; say how it ended and what it complained of last."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            cwd=ROOT,
            env=environment(),
        )
        try:
            code = child.wait(time_limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_session(child.pid)
            child.wait()
        errors.seek(0)
        told = errors.read().decode(errors="replace").strip().splitlines()
        lines = [line for line in told if not line.startswith("note: ")]
    if code is None:
        return "hung", f"still running after {time_limit:.0f} s"
    if code != 0:
        said = f": {lines[-1].strip():.120}" if lines else ""
        return "failed", f"exit code {code}{said}"
    return "ok", ""


def measure(command: list[str], file: Path, outcome: Outcome, time_limit: float) -> None:
    """Make one measurement and add it to the outcome."""
    file.unlink(missing_ok=True)
    status, why = run_bounded(command, time_limit)
    answer: dict[str, Any] = json.loads(file.read_text()) if status == "ok" and file.exists() else {}
    if "value" in answer:
        outcome.values.append(float(answer["value"]))
    elif "skipped" in answer:
        outcome.status, outcome.why = "skipped", answer["skipped"]
    else:
        outcome.status, outcome.why = ("failed", "no answer") if status == "ok" else (status, why)


def run_row(row: Row, contestants: list[Contestant], rounds: int, command: Command) -> dict[str, Outcome]:
    """All rounds of a row. Who fails once is not asked again."""
    outcomes = {each.label: Outcome() for each in contestants}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "answer.json")
        for turn in range(rounds):
            order = contestants if turn % 2 == 0 else contestants[::-1]
            for contestant in order:
                outcome = outcomes[contestant.label]
                targeted = contestant.library.role != "rival" and contestant.label not in row.aside
                targeted = targeted or contestant.label in row.base
                if outcome.status == "ok" and (targeted or turn < ROUNDS_OF_RIVALS):
                    measure(command(row, contestant, str(file)), file, outcome, TIME_LIMIT)
    return outcomes


def run(
    rows: Iterable[Row], present: Callable[[Contestant], bool], rounds: int, command: Command, at_once: int
) -> Iterator[tuple[Row, dict[str, Outcome]]]:
    """Row by row, with those contestants that are present."""

    def measured(row: Row) -> tuple[Row, dict[str, Outcome]]:
        if sys.stderr.isatty():
            print(f"{row.theme}: {row.name} …", end="\r", file=sys.stderr, flush=True)
        return row, run_row(row, [each for each in row.contestants if present(each)], rounds, command)

    if at_once == 1:
        yield from map(measured, rows)
    else:
        with ThreadPoolExecutor(at_once) as threads:
            yield from threads.map(measured, rows)
