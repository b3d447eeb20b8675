"""Short tasks of a map, which go to the workers by turns before they are asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import pytest

import procession

LIMIT = 30.0
COUNT = 2000


def wait_if(gate: Any, x: int) -> int:
    """Return `x`; the first one only once it may."""
    if x == 0:
        assert gate.wait(LIMIT)
    return x


_gate: Any = None
_runs: Any = None


def set_up(gate: Any, runs: Any) -> None:
    global _gate, _runs
    _gate, _runs = gate, runs


def gated(x: int) -> int:
    return wait_if(_gate, x)


def counted(x: int) -> int:
    _runs[x] += 1
    return x * x


def warmed(pool: Any) -> None:
    """Have the pool see that tasks are short."""
    assert pool.map(abs, range(COUNT), 1) == list(range(COUNT))


def kill_workers(pool: Any, done: threading.Event, kills: list[int]) -> None:
    pause = 0.002
    while not done.wait(pause):
        pause = (pause * 7.3) % 0.015 + 0.001
        victim = pool.workers()[len(kills) % 3]
        if victim.done and victim.pid in {worker.pid for worker in list(pool._pool)}:
            try:
                os.kill(victim.pid, signal.SIGKILL)
                kills.append(victim.pid)
            except ProcessLookupError:
                pass


def test_none_waits_behind_a_busy_worker(ctx: Any) -> None:
    gate = ctx.Event()
    with ctx.Pool(2, set_up, (gate, None)) as pool:
        for _ in range(3):
            warmed(pool)
            results = pool.imap_unordered(gated, range(COUNT))
            assert sorted(results.next(LIMIT) for _ in range(COUNT - 1)) == list(range(1, COUNT))
            gate.set()
            assert list(results) == [0]
            gate.clear()


def test_none_waits_for_a_worker_that_was_stopped(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        warmed(pool)
        stopped = pool._pool[0].pid
        os.kill(stopped, signal.SIGSTOP)
        try:
            results = pool.imap_unordered(abs, range(COUNT))
            # All but the one in its hands, and what it may have been in the middle of.
            seen = [results.next(LIMIT) for _ in range(COUNT - 1)]
            assert len(set(seen)) == COUNT - 1
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert sorted([*seen, *results]) == list(range(COUNT))


def test_under_fire_each_runs_once_at_most_and_has_one_outcome(ctx: Any) -> None:
    runs = ctx.RawArray("B", COUNT)
    with ctx.Pool(3, set_up, (None, runs)) as pool:
        warmed(pool)
        done, kills = threading.Event(), list[int]()
        thread = threading.Thread(target=kill_workers, args=(pool, done, kills))
        thread.start()
        try:
            lost = rounds = 0
            end = time.monotonic() + 2
            while (now := time.monotonic()) < end or (len(kills) < 5 and now < end + LIMIT):
                rounds += 1
                results = pool.imap(counted, range(COUNT))
                for x in range(COUNT):
                    try:
                        assert results.next(LIMIT) == x * x
                        assert runs[x] == 1
                    except procession.WorkerLost as error:
                        assert error.exitcode == -signal.SIGKILL
                        assert runs[x] <= 1
                        lost += 1
                    runs[x] = 0
                with pytest.raises(StopIteration):
                    results.next(LIMIT)
        finally:
            done.set()
            thread.join()
        assert len(kills) >= 5
        assert lost <= len(kills)
    pool.join()


def test_what_a_killed_worker_has_not_begun_is_done_though_the_pool_is_closed(ctx: Any) -> None:
    for _ in range(5):
        runs = ctx.RawArray("B", COUNT)
        pool = ctx.Pool(2, set_up, (None, runs))
        warmed(pool)
        victim = pool._pool[0].pid
        results = pool.imap_unordered(counted, range(COUNT))
        pool.close()
        with contextlib.suppress(ProcessLookupError):  # all is done already
            os.kill(victim, signal.SIGKILL)
        lost, seen = 0, []
        for _ in range(COUNT):
            try:
                seen.append(results.next(LIMIT))
            except procession.WorkerLost:
                lost += 1
        pool.join()
        assert lost <= 1
        assert len(set(seen)) == COUNT - lost
        assert max(runs) == 1


def interrupt_self() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def sleeper() -> None:
    time.sleep(60)


def test_a_signal_is_heard_while_results_of_others_stream_in(ctx: Any) -> None:
    class HeardError(Exception):
        pass

    def hear(*_args: object) -> None:
        raise HeardError

    with ctx.Pool(2) as pool:
        result = pool.apply_async(sleeper)
        over = threading.Event()

        def stream() -> None:
            while not over.is_set():
                pool.map(abs, range(100_000), 1)

        thread = threading.Thread(target=stream)
        thread.start()
        before = signal.signal(signal.SIGUSR1, hear)
        timer = threading.Timer(0.3, interrupt_self)
        try:
            began = time.monotonic()
            with pytest.raises(HeardError):
                timer.start()
                result.get()
            # Without the look it took as long as the stream went on.
            assert time.monotonic() - began < 20
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, before)
            over.set()
            thread.join()
        pool.terminate()
