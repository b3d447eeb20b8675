"""Many tasks, and tasks without end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import processes
from ..libraries import Contestant
from ..quantities import size
from ..timing import Effort, same
from ..work import successor
from .registry import Claim, Found, Note, Plot, at, growth, last

BOTH = ("procession", "multiprocessing")
MOST = 10_000_000


def judge_map(found: Found) -> list[Claim]:
    ours, theirs = (found["memory"].get(name, []) for name in BOTH)
    mine, others = at(ours, MOST), at(theirs, MOST)
    return [
        Claim(
            "peak memory of the parent for a map of 10 million tasks",
            "no more than the standard library",
            f"{size(mine)} against {size(others)}",
            mine <= others * 1.05,
        )
    ]


@growth(
    "tasks",
    "10 to 10 million tasks in one map, 2 workers, default chunks",
    BOTH,
    [
        Plot("time", "Seconds for one map, by tasks", "tasks", "seconds", "count", "time", (True, True)),
        Plot("memory", "Peak growth of the parent's memory, by tasks", "tasks", "", "count", "size", (True, True)),
    ],
    judge_map,
)
def tasks(contestant: Contestant, effort: Effort, note: Note) -> None:
    mp: Any = contestant.module
    with mp.get_context("fork").Pool(2) as pool:
        same(pool.map(successor, range(1000)), list(range(1, 1001)))
        number = 10
        while number <= effort.count(MOST):
            Path("/proc/self/clear_refs").write_text("5")  # from here on counts the peak
            before = processes.resident()
            began = time.perf_counter()
            results = pool.map(successor, range(number))
            note("time", number, time.perf_counter() - began)
            peak = processes.field("self", "status", "VmHWM")
            note("memory", number, max(1, peak - before))
            same((len(results), results[0], results[-1]), (number, 1, number))
            del results
            number *= 10


def judge_endless(found: Found) -> list[Claim]:
    growth = found["memory"].get("procession", [])
    settled = [y for x, y in growth if x >= 1] or [y for _, y in growth]
    more = settled[-1] - settled[0] if settled else float("nan")
    flight = max((y for _, y in found["flight"].get("procession", [])), default=float("nan"))
    theirs = last(found["memory"].get("multiprocessing", []))
    return [
        Claim(
            "memory of the parent, imap over an endless generator",
            "flat: less than 4 MiB more after the first second",
            f"{size(more)} more (standard library: {size(theirs)} in all)",
            more < 4 << 20,
        ),
        Claim("items drawn and not yet handed out", "bounded", f"{flight:.0f} at most", flight < 100_000),
    ]


@growth(
    "endless",
    "imap over an endless generator, with a reader that takes 20 µs for each result",
    BOTH,
    [
        Plot("memory", "Growth of the parent's memory", "seconds", "", "plain", "size", (False, False)),
        Plot("flight", "Items drawn and not yet handed out", "seconds", "items", "plain", "count", (False, True)),
    ],
    judge_endless,
)
def endless(contestant: Contestant, effort: Effort, note: Note) -> None:
    mp: Any = contestant.module
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for i in itertools.count():
            drawn = i
            yield i

    with mp.get_context("fork").Pool(2) as pool:
        same(pool.map(successor, range(1000)), list(range(1, 1001)))
        seconds = 0.5 if effort.smoke else 8
        before = processes.resident()
        began = noted = time.perf_counter()
        for taken, result in enumerate(pool.imap(successor, items())):
            same(result, taken + 1)
            now = time.perf_counter()
            while time.perf_counter() < now + 20e-6:
                pass
            if now - noted > seconds / 32:
                noted = now
                note("memory", now - began, processes.resident() - before)
                note("flight", now - began, max(1, drawn - taken))
                if now - began > seconds:
                    break
