"""Locks, events, conditions and shared numbers."""

from __future__ import annotations

import statistics
import time
from typing import Any

from ..libraries import Contestant
from ..quantities import TIME, Target, no_slower, times
from ..registry import row
from ..timing import Effort, per_item, same
from ..work import add_under_lock, conditions_tell_when, events_back_and_forth, events_tell_when, turns

SIMPLE = ("procession", "multiprocessing", "billiard")


def lock_rows(kind: str) -> None:
    @row(f"{kind}: acquire() and release()", TIME, no_slower(), SIMPLE)
    def calls(contestant: Contestant, effort: Effort) -> float:
        lock = getattr(contestant.module, kind)()
        acquire, release = lock.acquire, lock.release

        def batch() -> int:
            for _ in range(10_000):
                acquire()
                release()
            return 10_000

        same(acquire(), True)
        release()
        return per_item(batch, effort)

    @row(f"{kind}: with", TIME, times(1.5), SIMPLE)
    def blocks(contestant: Contestant, effort: Effort) -> float:
        lock = getattr(contestant.module, kind)()

        def batch() -> int:
            for _ in range(10_000):
                with lock:
                    pass
            return 10_000

        return per_item(batch, effort)


lock_rows("Lock")
lock_rows("RLock")


@row("Value += 1 under its lock, 2 processes", TIME, times(2), SIMPLE)
def value(contestant: Contestant, effort: Effort) -> float:
    mp: Any = contestant.module
    count = effort.count(20_000)
    shared = mp.Value("i", 0)
    start = mp.Barrier(3)
    children = [mp.Process(target=add_under_lock, args=(shared, count, start)) for _ in range(2)]
    for child in children:
        child.start()
    start.wait()
    began = time.perf_counter()
    for child in children:
        child.join()
    elapsed = time.perf_counter() - began
    same([child.exitcode for child in children], [0, 0])
    same(shared.value, 2 * count)
    return elapsed / (2 * count)


@row("Event: set to wake, back and forth", TIME, times(2), SIMPLE)
def event(contestant: Contestant, effort: Effort) -> float:
    """Half a round through two events."""
    mp: Any = contestant.module
    count = effort.count(4000)
    here, there = mp.Event(), mp.Event()
    child = mp.Process(target=events_back_and_forth, args=(there, here, count))
    child.start()
    began = 0.0
    for i in range(count):
        if i == count // 10:  # warm
            began = time.perf_counter()
        there.set()
        here.wait()
        here.clear()
    elapsed = time.perf_counter() - began
    child.join()
    same(child.exitcode, 0)
    return elapsed / (count - count // 10) / 2


@row("Condition: notify to wake, back and forth", TIME, times(2), SIMPLE)
def condition(contestant: Contestant, effort: Effort) -> float:
    """Two processes take turns under one condition; half a round."""
    mp: Any = contestant.module
    count = effort.count(4000)
    shared, turn = mp.Condition(), mp.RawValue("i", 0)
    child = mp.Process(target=turns, args=(shared, turn, 1, count))
    child.start()
    turns(shared, turn, 0, count // 10)
    began = time.perf_counter()
    turns(shared, turn, 0, count - count // 10)
    elapsed = time.perf_counter() - began
    child.join()
    same((child.exitcode, turn.value), (0, 0))
    return elapsed / (count - count // 10) / 2


# --- the same when whoever waits has been asleep for a while -------------------------------------------------

AWHILE = 0.002


def after_sleep(kind: str, target: Target | None) -> None:
    @row(f"{kind} to wake, after 2 ms asleep", TIME, target, SIMPLE)
    def wake(contestant: Contestant, effort: Effort) -> float:
        """From just before the call to when the other process goes on: both read the same clock."""
        mp: Any = contestant.module
        count = effort.count(150)
        times_there, times_here = mp.Pipe(duplex=False)
        if kind == "Event: set":
            event, woken = mp.Event(), mp.Event()
            child = mp.Process(target=events_tell_when, args=(event, woken, times_here, count))
        else:
            shared, ready = mp.Condition(), mp.Event()
            child = mp.Process(target=conditions_tell_when, args=(shared, ready, times_here, count))
        child.start()
        latencies: list[float] = []
        for _ in range(count):
            if kind == "Event: set":
                time.sleep(AWHILE)
                began = time.perf_counter()
                event.set()
                latencies.append(times_there.recv() - began)
                woken.wait()
                woken.clear()
            else:
                ready.wait()
                ready.clear()
                time.sleep(AWHILE)
                with shared:
                    began = time.perf_counter()
                    shared.notify()
                latencies.append(times_there.recv() - began)
        child.join()
        same(child.exitcode, 0)
        same(all(latency > 0 for latency in latencies), True)
        return statistics.median(latencies)


after_sleep("Event: set", None)
after_sleep("Condition: notify", None)
