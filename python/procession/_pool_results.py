"""What a pool gives for tasks: their results, to come."""

from __future__ import annotations

import os
import threading
import time

from . import _pool_worker
from ._errors import PoisonTask, ProcessError, TaskTimeout, TimeoutError, WorkerLost
from ._procession import ApplyResult, ReadyItems

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from ._pool_feeder import Feeder

    Callback = Callable[[Any], object] | None

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "PoolBroken",
    "PoolTerminated",
]

# What a reply is; the extension module counts the same way.
DONE = 0
FAILED = 1
LOST = 2
BROKEN = 3
TERMINATED = 4
LOCAL = 5
POISON = 6
TIMED_OUT = 7
CANCELLED = 8

# What a task is: the call of a function, or of one for each item of a chunk.
CALL = 0
ITEM = 1
STAR_ITEM = 2
CHUNK = 3
STAR_CHUNK = 4

#: How many replies are taken in at once.
BATCH = 512


class PoolBroken(ProcessError):
    """The pool can't go on: no worker can be started. The cause says why, where it is known."""


class PoolTerminated(ProcessError):
    """The pool was terminated before the task was done."""


def exception_of(status: int, value: Any, function: object, part: str, pool: Any) -> BaseException:
    """Return what to raise for a task that has no result.

    Args:
        status: what the reply is.
        value: what came with it.
        function: what the task ran.
        part: which of its tasks it was, for people; may be empty.
        pool: the pool it was submitted to.
    """
    if status == FAILED:
        return _pool_worker.rebuilt(value) if isinstance(value, bytes) else value
    if status in (LOST, POISON):
        return _lost([value] if status == LOST else value, f"{_pool_worker.described(function)}{part}", pool)
    if status == TIMED_OUT:
        pid, worker, seconds = value
        name = f"{_pool_worker.described(function)}{part}"
        return TaskTimeout(
            f"{name} ran for longer than {seconds:g} seconds in {_worker(pid, worker)}: it was stopped, "
            "and the worker is replaced",
            pid=pid,
            task=name,
            seconds=seconds,
        )
    if status == CANCELLED:
        return cancelled(function, part)
    if status == BROKEN:
        return broken(*value)
    if status == TERMINATED:
        return PoolTerminated(f"the pool was terminated before {_pool_worker.described(function)}{part} was done")
    error: BaseException = value
    return error


def broken(text: str, cause: bytes | BaseException | None) -> PoolBroken:
    """Return the error of a broken pool."""
    error = PoolBroken(text)
    error.__cause__ = _pool_worker.rebuilt(cause) if isinstance(cause, bytes) else cause
    return error


def cancelled(function: object, part: str) -> BaseException:
    """Return the error of a task that was cancelled."""
    # Imported by few programs, and not by this package otherwise.
    from concurrent.futures import CancelledError

    return CancelledError(f"{_pool_worker.described(function)}{part} was cancelled")


def _foreign(function: object) -> BaseException:
    """Return the error of a result in a forked child: the threads that see to it are not there, only their locks."""
    return exception_of(TERMINATED, None, function, "", None)


def _lost(losses: list[Any], task: str, pool: Any) -> WorkerLost:
    deaths = []
    for pid, exitcode, worker, out_of_memory, _advice in losses:
        if exitcode is None and pool is not None:
            exitcode = pool._exitcode_of(pid)
        deaths.append(f"{_worker(pid, worker)} {_end(exitcode)}{', probably out of memory' if out_of_memory else ''}")
    pid, _code, worker, out_of_memory, advice = losses[-1]
    known: dict[str, Any] = {"pid": pid, "exitcode": exitcode, "task": task, "worker": worker or None}
    known["out_of_memory"] = out_of_memory
    if len(losses) == 1:
        return WorkerLost(
            f"{deaths[0]} while it ran {task}: the task is lost, the worker is replaced, and the pool works on"
            f" ({advice})",
            **known,
        )
    return PoisonTask(
        f"{task} has cost {len(losses)} workers and is not tried again: {'; '.join(deaths)} ({advice})",
        deaths=deaths,
        **known,
    )


def _worker(pid: int, name: str) -> str:
    return f"worker {pid} ({name})" if name else f"worker {pid}"


def _end(exitcode: int | None) -> str:
    import signal

    if exitcode is None:
        return "died, of what is not known"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


def _part(index: int, size: int) -> str:
    return f" (item {index})" if size == 1 else f" (items {index * size} to {(index + 1) * size - 1})"


def _acquire(lock: threading.Lock, timeout: float | None) -> bool:
    if timeout is None:
        return lock.acquire()
    return lock.acquire(True, min(timeout, threading.TIMEOUT_MAX)) if timeout > 0 else lock.acquire(False)


class _Clock:
    """What is left of a time-out."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


AsyncResult = ApplyResult


def raise_outcome(error: BaseException) -> NoReturn:
    """Raise what a call has raised."""
    try:
        raise error
    finally:
        # The exception's traceback holds this frame.
        del error


class CollectedResult(ApplyResult):
    """A result that is collected here: all but the most common, that of one call by a process."""

    #: Set when callbacks are to run before anybody sees the result.
    _reported: threading.Event | None = None
    _success = False
    _value: Any = None

    def __init__(self, pool: Any, job: Any, function: object) -> None:
        # Keeps the pool, which ends its workers when it is collected.
        self._pool = pool
        self._job = job
        self._function = function
        self._done = False
        self._pid = os.getpid()

    def ready(self) -> bool:
        return self._done or self._receive(0)

    def successful(self) -> bool:
        if not self.ready():
            raise ValueError(f"{self!r} not ready: wait() for it first")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        if not self._done:
            self._receive(timeout)

    def get(self, timeout: float | None = None) -> Any:
        if not self._done and not self._receive(timeout):
            raise TimeoutError(f"no result within {timeout} seconds")
        if self._success:
            return self._value
        try:
            raise_outcome(self._value)
        finally:
            # The exception's traceback holds this frame.
            del self

    def cancel(self, terminate: bool = False) -> bool:
        job = self._job
        if self._done or job is None:
            return False
        prevented, running = job.cancel(terminate)
        return bool(prevented or (terminate and running))

    def _withhold(self) -> int:
        self._reported = threading.Event()
        return int(self._job.number)

    def _announce(self) -> None:
        self._job.announce()

    def _report(self, callback: Callback, error_callback: Callback) -> None:
        try:
            if self._collect(None):
                report = callback if self._success else error_callback
                if report is not None:
                    report(self._value)
        finally:
            self._finish()
            if self._reported is not None:
                self._reported.set()

    def _receive(self, timeout: float | None) -> bool:
        """Wait for the outcome; return whether it is there."""
        if self._pid != os.getpid():
            # It may have been collected, with its callback running, when this process was forked.
            self._success, self._value = False, _foreign(self._function)
            self._finish()
            return True
        if self._reported is not None:
            return self._reported.wait(timeout if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        if not self._collect(timeout):
            return self._done
        self._finish()
        return True

    def _collect(self, timeout: float | None) -> bool:
        """Set success and value; return whether they are there in the time given."""
        raise NotImplementedError

    def _finish(self) -> None:
        self._done = True
        self._pool = self._job = self._function = None


class MapResult(CollectedResult):
    """The results of a map, to come."""

    def __init__(self, pool: Any, feeder: Feeder, function: object, length: int, chunksize: int) -> None:
        super().__init__(pool, feeder.job, function)
        self._feeder: Feeder | None = feeder
        self._chunksize = chunksize
        self._collecting = threading.Lock()
        self._results: list[Any] = [None] * length
        self._error: BaseException | None = None

    def cancel(self, terminate: bool = False) -> bool:
        feeder, job = self._feeder, self._job
        if feeder is None or job is None:
            return False
        # What was not even submitted isn't any more.
        early = feeder.cancel(cancelled(self._function, ""))
        return super().cancel(terminate) or early

    @property
    def _number_left(self) -> int:
        """How many chunks have no result yet: programs that show progress ask for it."""
        job = self._job
        return 0 if job is None or self.ready() else int(job.outstanding)

    def _collect(self, timeout: float | None) -> bool:
        clock = _Clock(timeout)
        # One thread at a time takes the replies in.
        if not _acquire(self._collecting, timeout):
            return False
        try:
            job, feeder = self._job, self._feeder
            if feeder is None:
                return False
            while True:
                feeder.feed()
                if self._chunksize == 1:
                    # What is a result is in its place by then.
                    taken = job.take_into(self._results, clock.left(), BATCH)
                    if taken is None:
                        break
                    count, batch = taken
                else:
                    batch = job.take(clock.left(), BATCH)
                    if batch is None:
                        break
                    count = len(batch)
                if not count and clock.left() == 0:
                    return False
                self._store(batch)
            error = self._error or feeder.error
            self._success = error is None
            self._value = self._results if error is None else error
            del self._results
            self._error = self._feeder = None
            return True
        finally:
            self._collecting.release()

    def _store(self, batch: list[tuple[int, int, Any]]) -> None:
        results, size = self._results, self._chunksize
        for index, status, value in batch:
            if status != DONE:
                # The first to come is raised, when all are done.
                if self._error is None:
                    self._error = exception_of(status, value, self._function, _part(index, size), self._pool)
            else:
                results[index * size : (index + 1) * size] = value


class IMapIterator(ReadyItems):
    """The results of an imap, in the order of the items, as they come."""

    _ordered = True

    def __init__(self, pool: Any, feeder: Feeder | None = None, function: object = None, chunksize: int = 1) -> None:
        self._pool = pool
        # A program that makes one itself says afterwards what it is to give: see `_pool_insides`.
        self._feeder: Any = feeder
        self._job = pool._core.job(None, None) if feeder is None else feeder.job
        self._function = function
        self._chunksize = chunksize
        self.set_up(self._ordered, chunksize == 1)
        self._taken = 0
        self._waiting = threading.Lock()
        self._pid = os.getpid()

    def __del__(self) -> None:
        feeder = getattr(self, "_feeder", None)
        if feeder is not None and not feeder.over:
            feeder.consumer_left()

    def _set_length(self, length: int) -> None:
        """Do nothing: how many results there are is seen when the last task has been submitted."""

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Raises:
            TimeoutError: if it doesn't arrive within `timeout` seconds.
            StopIteration: after the last one.
        """
        success, value = self.pop() or self._wait(timeout)
        if success:
            return value
        try:
            raise value
        finally:
            del self, value

    def _wait(self, timeout: float | None) -> tuple[bool, Any]:
        if self._pid != os.getpid():
            raise _foreign(self._function)
        clock = _Clock(timeout)
        if not _acquire(self._waiting, timeout):
            raise TimeoutError(f"no result within {timeout} seconds")
        try:
            self._feeder.consumed(self._taken)
            while (found := self.pop()) is None:
                if self._job is None:
                    raise StopIteration
                self._feeder.feed()
                taken = self._job.take_sorted(self, clock.left(), BATCH)
                if taken is None:
                    self._job = self._pool = None
                    if self._feeder.error is not None:
                        self.append(False, self._feeder.error)
                elif taken:
                    self._taken += taken
                elif clock.left() == 0:
                    raise TimeoutError(f"no result within {timeout} seconds")
            return found
        finally:
            self._waiting.release()

    def _give(self, index: int, status: int, value: Any) -> None:
        size = self._chunksize
        if status != DONE:
            part = _part(index, size)
            self.append(False, exception_of(status, value, self._function, part, self._pool))
        elif size == 1:
            self.append(True, value)
        else:
            for item in value:
                self.append(True, item)


class IMapUnorderedIterator(IMapIterator):
    """The results of an imap_unordered, in the order in which they come."""

    _ordered = False
