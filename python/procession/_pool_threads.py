"""Pools of threads: the same interface, in one process, with nothing pickled."""

from __future__ import annotations

import itertools
import operator
import queue
import threading
import time
from collections import deque

from . import _pool_worker
from ._pool_results import (
    BROKEN,
    CALL,
    CANCELLED,
    CHUNK,
    DONE,
    FAILED,
    ITEM,
    LOCAL,
    STAR_CHUNK,
    STAR_ITEM,
    TERMINATED,
    CollectedResult,
    PoolBroken,
    PoolTerminated,
    exception_of,
)
from .pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from ._procession import ApplyResult, ReadyItems
    from .context import BaseContext
    from .pool import Choice

    Reply = tuple[int, int, Any]

__all__ = ["ThreadPool"]

_KEYWORDS = 5

#: Tasks that are submitted together are held back for at most so many seconds.
_HOLD_BACK = 0.1


class ThreadPool(Pool):
    """A pool of threads, as `multiprocessing.pool.ThreadPool` is documented."""

    # A thread can't be told to end in the middle of a task.
    _reaps = False

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Return a thread that is to be a worker."""
        from .dummy import Process

        return Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(processes, initializer, initargs)

    def _start(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
        context: BaseContext | None,
    ) -> None:
        self._core = core = _Core(self._processes)
        self._staff = _Threads(self._pool)
        try:
            for _ in range(self._processes):
                thread = self.Process(None, target=_work, args=(core, initializer, initargs))
                thread.name = thread.name.replace("Process", "PoolWorker")
                thread.daemon = True
                thread.start()
                self._pool.append(thread)
        except BaseException:
            core.terminate()
            raise

    def _refer(self, func: Callable[..., Any]) -> Any:
        return func

    def _choice(self, retries: int | None, task_timeout: float | None) -> Choice:
        if task_timeout is not None:
            raise ValueError("task_timeout needs a pool of processes: a thread can't be stopped")
        return super()._choice(retries, task_timeout)


class _Threads:
    """What `_Staff` is for processes."""

    hiring: int | None = None

    def __init__(self, threads: list[Any]) -> None:
        self._threads = threads

    def join(self, timeout: float | None) -> None:
        """Wait for the threads to end."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def exitcode_of(self, pid: int) -> None:
        """Return None: threads don't die."""


class _Core:
    """What `PoolCore` is for processes."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.changed = threading.Condition()
        self.tasks: deque[tuple[_Job, int, int, Any, Any]] = deque()
        #: Each entry wakes a thread, which then performs tasks until there are none; False is the last one.
        self.calls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.end: tuple[int, Any] | None = None
        self._closing = False
        self._open = 0
        self._announced: deque[int] = deque()
        self._to_announce: set[_Job] = set()
        self._numbers = itertools.count(1)
        self._totals = dict.fromkeys((DONE, FAILED, CANCELLED), 0)
        #: What each thread is doing: the thread, how many tasks it has done, its task, since when.
        self.doing: dict[int, tuple[threading.Thread, int, Any, float]] = {}

    def job(self, func: Any = None, choice: Any = None) -> _Job:
        with self.changed:
            if self.end is not None:
                if self.end[0] == BROKEN:
                    raise PoolBroken(self.end[1][0]) from self.end[1][1]
                raise ValueError("Pool not running: it was terminated")
            if self._closing:
                raise ValueError("Pool not running: it was closed")
            self._open += 1
            return _Job(self, next(self._numbers))

    def apply(
        self,
        pool: Any,
        known: Any,
        func: Any,
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        name_argument: Any,
        choice: Any,
    ) -> ApplyResult:
        job = self.job()
        job.submit(_KEYWORDS if kwds else CALL, func, (args, kwds) if kwds else args)
        job.seal()
        return _Result(pool, job, func)

    def sealed(self) -> None:
        with self.changed:
            self._open -= 1
            self._end_workers()

    def close(self) -> None:
        with self.changed:
            self._closing = True
            self._end_workers()

    def _end_workers(self) -> None:
        if self._closing and self._open == 0:
            self.calls.put(False)
            self.changed.notify_all()

    def terminate(self) -> None:
        self.stop(TERMINATED, None)

    def stop(self, status: int, value: Any) -> None:
        with self.changed:
            if self.end is None:
                self.end = (status, value)
            self.tasks.clear()
            self.changed.notify_all()
        self.calls.put(False)

    def join(self, timeout: float | None) -> bool:
        """Don't wait: running tasks can't be ended. `_Threads.join` does."""
        return True

    # What is going on.

    def count(self, status: int) -> None:
        self._totals[FAILED if status == LOCAL else status] += 1

    def status(self) -> tuple[int, ...]:
        with self.changed:
            queued = len(self.tasks)
            running = sum(task is not None for _thread, _done, task, _since in list(self.doing.values()))
            totals = self._totals
            return queued, running, totals[DONE], totals[FAILED], 0, 0, totals[CANCELLED], 0

    def workers(self) -> list[tuple[int, str, str, int, tuple[str, float] | None]]:
        now = time.monotonic()
        found: list[tuple[int, str, str, int, tuple[str, float] | None]] = []
        for thread, done, task, since in list(self.doing.values()):
            name = None if task is None else (_pool_worker.described(task), now - since)
            found.append((thread.native_id or 0, thread.name, "running" if name else "idle", done, name))
        return found

    # Callbacks.

    def announce(self, job: _Job) -> None:
        with self.changed:
            self._to_announce.add(job)
            self.announce_if_complete(job)

    def announce_if_complete(self, job: _Job) -> None:
        if job in self._to_announce and job.is_complete():
            self._to_announce.remove(job)
            self._announced.append(job.number)
            self.changed.notify_all()

    def next_announced(self) -> int | None:
        with self.changed:
            while True:
                if self._announced:
                    return self._announced.popleft()
                if self.end is not None:
                    if self.end[0] == BROKEN and self._to_announce:
                        return self._to_announce.pop().number
                    return None
                if self._closing and self._open == 0 and not self._to_announce:
                    return None
                self.changed.wait()


class _Job:
    """What `JobCore` is for processes."""

    cost = 0

    def __init__(self, core: _Core, number: int) -> None:
        self.number = number
        self.submitted = 0
        self._core = core
        self._sealed = False
        self._discard = False
        self._missing: set[int] = set()
        self._replies: deque[Reply] = deque()
        self._outcome: tuple[int, Any] | None = None

    def __del__(self) -> None:
        self.seal()

    @property
    def outstanding(self) -> int:
        return len(self._missing)

    def is_complete(self) -> bool:
        return self._sealed and not self._missing

    def submit(self, kind: int, func: Any, payload: Any) -> None:
        self._submit(kind, func, (payload,))

    def submit_many(
        self, kind: int, func: Any, payloads: Iterator[Any], count: int, ahead: int, name_item: Any
    ) -> tuple[bool, BaseException | None]:
        # Those of a list all at once: a pool that is terminated right away has then begun none of them.
        # A generator may be waiting for the results of what it gave before.
        patience = _HOLD_BACK if operator.length_hint(payloads) else 0
        began = time.monotonic()
        ready: list[Any] = []
        error: Exception | None = None
        try:
            for payload in itertools.islice(payloads, count):
                ready.append(payload)
                if time.monotonic() - began >= patience:
                    count -= len(ready)
                    self._submit(kind, func, ready)
                    began = time.monotonic()
                    ready = []
        except PoolTerminated:
            raise
        except Exception as e:
            error = e
        self._submit(kind, func, ready)
        return error is not None or count > len(ready), error

    def _submit(self, kind: int, func: Any, payloads: Sequence[Any]) -> None:
        core = self._core
        with core.changed:
            if core.end is not None:
                raise PoolTerminated("the pool has ended")
            first = self.submitted
            self.submitted += len(payloads)
            self._missing.update(range(first, self.submitted))
            core.tasks.extend([(self, index, kind, func, payload) for index, payload in enumerate(payloads, first)])
        for _ in range(min(len(payloads), core.threads)):
            core.calls.put(True)

    def seal(self) -> None:
        if not self._sealed:
            self._sealed = True
            self._core.sealed()
            with self._core.changed:
                self._core.announce_if_complete(self)
                self._core.changed.notify_all()

    def announce(self) -> None:
        self._core.announce(self)

    def discard(self) -> None:
        self._discard = True

    def cancel(self, running_too: bool) -> tuple[int, int]:
        core = self._core
        with core.changed:
            prevented = 0
            self.seal()
            # A copy: the threads take tasks without the lock.
            for task in [task for task in list(core.tasks) if task[0] is self]:
                try:
                    core.tasks.remove(task)
                except ValueError:
                    continue  # begun meanwhile
                self.settle(task[1], CANCELLED, None)
                prevented += 1
            # A thread can't be stopped.
            return prevented, 0 if running_too else len(self._missing)

    def settle(self, index: int, status: int, value: Any) -> None:
        core = self._core
        with core.changed:
            if index not in self._missing:
                return
            core.count(status)
            self._missing.remove(index)
            if not self._discard:
                self._replies.append((index, status, value))
            core.announce_if_complete(self)
            core.changed.notify_all()

    def wait_outstanding(self, count: int, timeout: float | None) -> bool:
        core = self._core
        with core.changed:
            core.changed.wait_for(lambda: core.end is not None or len(self._missing) <= count, timeout)
            return core.end is None

    def only(self, timeout: float | None) -> tuple[int, Any] | None:
        with self._core.changed:
            if self._outcome is None:
                batch = self.take(timeout, 1)
                if batch:
                    self._outcome = batch[0][1:]
            return self._outcome

    def take(self, timeout: float | None, limit: int) -> list[Reply] | None:
        core = self._core
        deadline = None if timeout is None else time.monotonic() + timeout
        with core.changed:
            while not self._replies:
                if self.is_complete():
                    return None
                if core.end is not None:
                    index = self._missing.pop() if self._missing else self.submitted
                    return [(index, *core.end)]
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return []
                core.changed.wait(left)
            replies = self._replies
            return [replies.popleft() for _ in range(min(limit, len(replies)))]

    def take_sorted(self, items: ReadyItems, timeout: float | None, limit: int) -> int | None:
        replies = self.take(timeout, limit)
        if replies is None:
            return None
        items.sort_in_all(replies)
        return len(replies)

    def take_into(self, results: list[Any], timeout: float | None, limit: int) -> tuple[int, list[Reply]] | None:
        replies = self.take(timeout, limit)
        if replies is None:
            return None
        others = []
        for index, status, value in replies:
            if status == DONE:
                results[index] = value
            else:
                others.append((index, status, value))
        return len(replies), others


class _Result(CollectedResult):
    """The result of one call, to come."""

    def _collect(self, timeout: float | None) -> bool:
        job = self._job
        outcome = None if job is None else job.only(timeout)
        if outcome is None:
            return False
        status, value = outcome
        self._success = status == DONE
        self._value = value if self._success else exception_of(status, value, self._function, "", self._pool)
        return True


def _work(core: _Core, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            core.stop(BROKEN, ("the pool is broken: its initializer failed", error))
            return
    more = True
    me = threading.current_thread()
    done = 0
    core.doing[id(me)] = (me, 0, None, 0.0)
    while more:
        more = core.calls.get()
        while core.tasks:
            try:
                task = core.tasks.popleft()
            except IndexError:
                break
            core.doing[id(me)] = (me, done, task[3], time.monotonic())
            _perform(*task)
            del task
            done += 1
            core.doing[id(me)] = (me, done, None, 0.0)
    del core.doing[id(me)]
    core.calls.put(False)  # for the next one


def _perform(job: _Job, index: int, kind: int, func: Any, payload: Any) -> None:
    try:
        value = _call(kind, func, payload)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        exit = _pool_worker.exit_of(error, func)
        exit.__cause__ = error
        job.settle(index, LOCAL, exit)
    except BaseException as error:
        job.settle(index, FAILED, error)
    else:
        job.settle(index, DONE, value)


def _call(kind: int, func: Any, payload: Any) -> Any:
    if kind == ITEM:
        return func(payload)
    if kind in (CALL, STAR_ITEM):
        return func(*payload)
    if kind == CHUNK:
        return list(map(func, payload))
    if kind == STAR_CHUNK:
        return list(itertools.starmap(func, payload))
    args, kwds = payload
    return func(*args, **kwds)
