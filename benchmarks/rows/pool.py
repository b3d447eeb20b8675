"""Tasks through a pool of two workers that are warm."""

from __future__ import annotations

import random
import time

from ..libraries import Contestant
from ..pools import POOLS, open_pool
from ..quantities import MULTIPLE, RATE, SHARE, TIME, at_least, at_most, no_slower, times
from ..registry import row
from ..timing import Effort, per_item, same
from ..work import add_up, busy, successor

WORKERS = 2
#: Those with an unordered map.
UNORDERED = tuple(name for name in POOLS if name != "pebble")


@row("apply_async and get, 20,000 tasks", RATE, times(20), POOLS)
def apply_async(contestant: Contestant, effort: Effort) -> float:
    count = effort.count(20_000)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            same(pool.apply_async(successor, range(count)), list(range(1, count + 1)))
            return count

        same(pool.apply_async(successor, range(100)), list(range(1, 101)))
        return per_item(batch, effort)


@row("map, chunksize=1", RATE, times(50), POOLS)
def map_one_by_one(contestant: Contestant, effort: Effort) -> float:
    count = effort.count(20_000)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            same(pool.map(successor, range(count), 1), list(range(1, count + 1)))
            return count

        return per_item(batch, effort)


@row("imap_unordered, chunksize=1", RATE, times(50), UNORDERED)
def imap_unordered(contestant: Contestant, effort: Effort) -> float:
    count = effort.count(20_000)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            same(sorted(pool.imap_unordered(successor, range(count))), list(range(1, count + 1)))
            return count

        return per_item(batch, effort)


@row("imap, chunksize=1", RATE, times(30), POOLS)
def imap(contestant: Contestant, effort: Effort) -> float:
    count = effort.count(20_000)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            same(list(pool.imap(successor, range(count))), list(range(1, count + 1)))
            return count

        return per_item(batch, effort)


@row("map, default chunks", RATE, no_slower(), POOLS)
def map_in_chunks(contestant: Contestant, effort: Effort) -> float:
    count = effort.count(200_000)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            same(pool.map(successor, range(count), None), list(range(1, count + 1)))
            return count

        return per_item(batch, effort)


@row("one apply(), there and back", TIME, times(30), POOLS)
def one_apply(contestant: Contestant, effort: Effort) -> float:
    count = effort.count(200)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            for i in range(count):
                same(pool.apply(successor, i), i + 1)
            return count

        return per_item(batch, effort)


def sums_in(seconds: float) -> int:
    """How many numbers this machine adds up in this time, at best of several tries."""
    count = 40
    for _ in range(3):
        best = float("inf")
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(500):
                add_up(count)
            best = min(best, (time.perf_counter() - began) / 500)
        count = max(3, round(seconds / best * count))
    return count


@row("tasks of 2 µs, chunksize=1: parallel efficiency", SHARE, at_least(0.85, "85 %"), POOLS)
def efficiency(contestant: Contestant, effort: Effort) -> float:
    about = sums_in(2e-6)
    items = [about + i % 5 - 2 for i in range(effort.count(20_000))]
    with open_pool(contestant, WORKERS) as pool:
        serial = per_item(lambda: len([add_up(item) for item in items]), effort)
        expected = [add_up(item) for item in items]

        def batch() -> int:
            same(pool.map(add_up, items, 1), expected)
            return len(items)

        return serial / WORKERS / per_item(batch, effort)


@row("uneven tasks, 1 ms and 100 µs: elapsed over the ideal", MULTIPLE, at_most(1.1, "at most 1.1x"), POOLS)
def uneven(contestant: Contestant, effort: Effort) -> float:
    half = effort.count(200)
    tasks = [1e-3] * half + [1e-4] * half
    random.Random(5).shuffle(tasks)
    with open_pool(contestant, WORKERS) as pool:

        def batch() -> int:
            same(pool.map(busy, tasks, 1), tasks)
            return 1

        return per_item(batch, effort) / (sum(tasks) / WORKERS)
