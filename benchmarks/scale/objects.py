"""Many locks and queues at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .. import processes
from ..libraries import Contestant
from ..quantities import size
from ..quantities import time as show_time
from ..timing import Effort, same
from .registry import Claim, Found, Note, Plot, growth

BOTH = ("procession", "multiprocessing")
LOCKS, QUEUES = 100_000, 10_000


def plots(noun: str) -> list[Plot]:
    return [
        Plot("time", f"Time to make one, by {noun} alive", noun, "seconds", "count", "time", (True, True)),
        Plot("memory", f"Memory for each, by {noun} alive", noun, "", "count", "size", (True, True)),
    ]


def judge(noun: str, most: int) -> Callable[[Found], list[Claim]]:
    def claims(found: Found) -> list[Claim]:
        made = {name: max((x for x, _ in found["time"].get(name, [])), default=0) for name in BOTH}
        cost = (found["time"].get("procession") or [(0, float("nan"))])[-1][1]
        memory = (found["memory"].get("procession") or [(0, float("nan"))])[-1][1]
        text = f"{made['procession']:,.0f}, {show_time(cost)} and {size(memory)} each; "
        text += f"standard library {made['multiprocessing']:,.0f}"
        return [Claim(f"{noun} alive at once", f"{most:,}", text, made["procession"] >= most)]

    return claims


def fill(most: int, make: Callable[[], Any], use: Callable[[Any], None], note: Note) -> None:
    """Tenfold more at each step, all alive together; each new one is used once."""
    alive: list[Any] = []
    number = 1
    before = processes.resident()
    while number <= most:
        began = time.perf_counter()
        fresh = [make() for _ in range(number - len(alive))]
        elapsed = time.perf_counter() - began
        for each in fresh:
            use(each)
        note("time", number, elapsed / len(fresh))
        alive += fresh
        note("memory", number, max(1.0, (processes.resident() - before) / number))
        number *= 10


@growth("locks", "1 to 100,000 locks alive", BOTH, plots("locks"), judge("locks", LOCKS))
def locks(contestant: Contestant, effort: Effort, note: Note) -> None:
    def use(lock: Any) -> None:
        same(lock.acquire(), True)
        lock.release()

    fill(effort.count(LOCKS), contestant.module.Lock, use, note)  # type: ignore[attr-defined]


@growth("queues", "1 to 10,000 queues alive, each with a message in it", BOTH, plots("queues"), judge("queues", QUEUES))
def queues(contestant: Contestant, effort: Effort, note: Note) -> None:
    def use(queue: Any) -> None:
        queue.put(1)
        same(queue.get(), 1)
        queue.put(2)

    # SimpleQueue: the standard library's Queue would have a thread for each.
    fill(effort.count(QUEUES), contestant.module.SimpleQueue, use, note)  # type: ignore[attr-defined]
