"""Waits that never end, or take long, are reported: on the logger, visible without any configuration."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import procession
from forking import BOUND, until

CIRCLE = """
import os, sys, time
import procession

def work(own, next_, mine, theirs):
    with own:
        mine.set()
        theirs.wait()
        with next_:  # never
            pass

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    count = int(sys.argv[2])
    kinds = [procession.Lock, procession.RLock, procession.Lock]
    locks = [kinds[n]() for n in range(count)]
    ready = [procession.Event() for _ in range(count)]
    processes = []
    for n in range(count):
        after = (n + 1) % count
        args = (locks[n], locks[after], ready[n], ready[after])
        processes.append(procession.Process(target=work, args=args, name=f"number-{n}"))
    for process in processes:
        process.start()
    for event in ready:
        event.wait()
    # Until each has told, and a while longer, for none is to tell twice.
    deadline = time.monotonic() + 30
    while open("/proc/self/fd/2").read().count("deadlock: ") < count and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    print(*[process.pid for process in processes])
    for process in processes:
        process.kill()
        process.join()
"""


@pytest.mark.parametrize("count", [2, 3])
def test_a_circle_is_told_by_each_of_its_processes(run_program: Any, start_method: str, count: int) -> None:
    outcome = run_program(CIRCLE, start_method, str(count)).check()
    pids = outcome.out.split()
    reports = outcome.err.split("deadlock: ")[1:]
    assert len(reports) == count, outcome.err
    assert all(report.startswith(f"{count} threads wait for each other\n") for report in reports)
    # The whole circle, and where one is caught in it.
    for report in reports:
        for n, pid in enumerate(pids):
            assert report.count(f'process {pid} ("number-{n}"), thread {pid}') == 2
        assert re.search(r'here: File ".*", line 9, in work\n    with next_:  # never', report)
    assert len({report.split("\n")[1].split()[1] for report in reports}) == count


# A lock that is held, and who releases it as soon as there is something on standard error, a file.
RELEASE = """
import os, procession, threading, time
lock = procession.Lock()
lock.acquire()
def release():
    deadline = time.monotonic() + 30
    while os.fstat(2).st_size == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    lock.release()
"""


def test_a_lock_waited_for_by_its_own_thread_is_told_before_long(run_program: Any) -> None:
    program = f"""{RELEASE}
threading.Thread(target=release).start()
lock.acquire()
print("released by another thread")
"""
    outcome = run_program(program).check()
    assert outcome.out == "released by another thread\n"
    assert outcome.err.startswith("deadlock: process "), outcome.err
    assert "which it holds itself" in outcome.err
    assert "in <module>\n    lock.acquire()" in outcome.err
    assert outcome.err.count("deadlock") == 1


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What the package logs meanwhile."""
    found: list[logging.LogRecord] = []
    logger = procession.get_logger()
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign, assignment]
    logger.addHandler(handler)
    before = procession.get_deadlock_timeout()
    yield found
    procession.set_deadlock_timeout(before)
    logger.removeHandler(handler)


@contextmanager
def until_told(records: list[logging.LogRecord], end: Callable[[], object]) -> Iterator[None]:
    """Calls `end` as soon as something more has been logged."""
    before = len(records)

    def watch() -> None:
        until(lambda: len(records) > before)
        end()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def hold(lock: Any, held: Any, over: Any) -> None:
    with lock:
        held.set()
        over.wait()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "BoundedSemaphore", "Condition"])
def test_a_long_wait_names_the_holder(ctx: Any, records: list[logging.LogRecord], kind: str) -> None:
    lock, held, over = getattr(ctx, kind)(), ctx.Event(), ctx.Event()
    holder = ctx.Process(target=hold, args=(lock, held, over), name="holder")
    holder.start()
    held.wait()
    procession.set_deadlock_timeout(0.2)
    with until_told(records, over.set):
        assert lock.acquire(timeout=BOUND)
    procession.set_deadlock_timeout(100)
    lock.release()
    holder.join()
    waits = [record for record in records if "has waited" in record.getMessage()]
    assert [record.levelno for record in waits] == [logging.WARNING]
    assert f'held by process {holder.pid} ("holder")' in waits[0].getMessage()
    assert "test_deadlocks.py" in waits[0].getMessage()


def test_those_who_wait_besides_are_named_and_the_dead_are_not(ctx: Any, records: list[logging.LogRecord]) -> None:
    lock, held, over = ctx.Lock(), ctx.Event(), ctx.Event()
    lock.acquire()
    waiters = [ctx.Process(target=hold, args=(lock, held, over), name=name) for name in ("killed", "other")]
    for waiter in waiters:
        waiter.start()
    while lock.waiters() < 2:
        held.wait(0.01)
    held.wait(0.2)  # until they have written down that they wait
    waiters[0].kill()
    waiters[0].join()
    procession.set_deadlock_timeout(0.3)
    told, over_here = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(lock, told, over_here))
    thread.start()
    until(lambda: any("held by" in record.getMessage() for record in records))
    procession.set_deadlock_timeout(100)
    lock.release()
    over.set()
    over_here.set()
    thread.join()
    waiters[1].join()
    message = next(record.getMessage() for record in records if "held by" in record.getMessage())
    assert f'1 more wait for it: process {waiters[1].pid} ("other")' in message
    assert "killed" not in message


def test_what_nobody_holds_is_reported_only_once_a_time_is_set(records: list[logging.LogRecord]) -> None:
    barrier, queue = procession.Barrier(2), procession.JoinableQueue()
    condition, event, semaphore = procession.Condition(), procession.Event(), procession.Semaphore(0)
    procession.set_deadlock_timeout(0.1)
    with until_told(records, event.set):
        assert event.wait(BOUND)
    with until_told(records, semaphore.release):
        assert semaphore.acquire(timeout=BOUND)
    with condition:
        condition.wait(2)
    with until_told(records, barrier.abort), pytest.raises(threading.BrokenBarrierError):
        barrier.wait(BOUND)
    queue.put(1)
    with until_told(records, lambda: (queue.get(), queue.task_done())):
        queue.join()
    words = [re.search(r"has waited [\d.]+ s for (\w+)", record.getMessage()) for record in records]
    assert [word and word[1] for word in words] == ["event", "semaphore", "condition", "barrier", "queue"]


def test_none_turns_reports_off_and_the_whole_family_has_one_setting(
    ctx: Any, records: list[logging.LogRecord]
) -> None:
    procession.set_deadlock_timeout(None)
    assert procession.get_deadlock_timeout() is None
    lock = procession.Lock()
    lock.acquire()
    lock.acquire(timeout=0.4)
    assert not [record for record in records if "waited" in record.getMessage()]
    setter = ctx.Process(target=procession.set_deadlock_timeout, args=(12.5,))
    setter.start()
    setter.join()
    assert procession.get_deadlock_timeout() == 12.5


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_time_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        procession.set_deadlock_timeout(wrong)


ASK = """
import procession
print(procession.get_deadlock_timeout())
"""


@pytest.mark.parametrize(("value", "seconds"), [("", "30.0"), ("2.5", "2.5"), ("off", "None")])
def test_the_environment_sets_it(run_program: Any, value: str, seconds: str) -> None:
    outcome = run_program(ASK, env={"PROCESSION_DEADLOCK_TIMEOUT": value}).check()
    assert (outcome.out.strip(), outcome.err) == (seconds, "")


def test_nonsense_in_the_environment_is_not_passed_over(run_program: Any) -> None:
    outcome = run_program(ASK, env={"PROCESSION_DEADLOCK_TIMEOUT": "soon"}).check()
    assert outcome.out.strip() == "30.0"
    assert outcome.err.startswith('PROCESSION_DEADLOCK_TIMEOUT is "soon", which is neither a number')


def test_a_logger_that_fails_does_not_end_the_wait(run_program: Any) -> None:
    program = f"""{RELEASE}
logger = procession.get_logger()
def fail(record):
    raise RuntimeError("no")
logger.addFilter(fail)
procession.set_deadlock_timeout(0.1)
threading.Thread(target=release).start()
print(lock.acquire())
"""
    outcome = run_program(program).check()
    assert outcome.out == "True\n"
    assert "RuntimeError: no" in outcome.err


def test_an_interrupt_while_a_wait_is_reported_ends_the_wait(run_program: Any) -> None:
    program = """
import logging, os, signal, procession

class Interrupted(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), signal.SIGINT)

procession.get_logger().addHandler(Interrupted())
procession.set_deadlock_timeout(0.1)
lock = procession.Semaphore(0)
try:
    print(lock.acquire(timeout=20))
except KeyboardInterrupt:
    print("interrupted")
"""
    outcome = run_program(program).check()
    assert (outcome.out, outcome.err) == ("interrupted\n", "")
