"""Pools of worker processes, and of threads.

Submitting and collecting are done by the threads of the program that ask for it: a pool has
one thread of its own, which isn't Python's and sleeps until a worker ends.
"""

from __future__ import annotations

import _pickle
import itertools
import os
import warnings
import weakref
from collections import namedtuple

from . import _pool_insides, _pool_worker, _procession, reduction, util
from ._errors import TimeoutError as TimeoutError
from ._pool_feeder import Feeder
from ._pool_results import (
    CHUNK,
    ITEM,
    STAR_CHUNK,
    STAR_ITEM,
    ApplyResult,
    AsyncResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
    PoolBroken,
    PoolTerminated,
)
from ._pool_staff import PATIENCE, Reports, Staff, end
from ._pool_worker import (
    ExceptionWithTraceback,
    MaybeEncodingError,
    RemoteTraceback,
    TaskExit,
    rebuild_exc,
    worker,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Self, TypeVar

    from .context import BaseContext
    from .process import BaseProcess

    R = TypeVar("R")
    Callback = Callable[[Any], object] | None
    Choice = tuple[int | None, float | None] | None

__all__ = [
    "CLOSE",
    "INIT",
    "RUN",
    "TERMINATE",
    "ApplyResult",
    "AsyncResult",
    "ExceptionWithTraceback",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "PoolBroken",
    "PoolStatus",
    "PoolTerminated",
    "RemoteTraceback",
    "TaskExit",
    "ThreadPool",
    "WorkerStatus",
    "mapstar",
    "rebuild_exc",
    "starmapstar",
    "worker",
]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

#: So many tasks of an imap over an iterator without a known length are ahead of its consumer.
AHEAD = 256
#: Chunks of a range, from this length on, are ranges themselves: a few bytes, however many numbers.
RANGES_FROM = 16
#: Functions whose pickles are kept.
KEPT_FUNCTIONS = 1024


class PoolStatus(namedtuple("PoolStatus", "queued running done failed lost timed_out cancelled retried")):
    """How far a pool has come, in numbers of tasks. A chunk of a map is one task.

    Attributes:
        queued: not begun.
        running: in workers' hands.
        done: done.
        failed: have raised an exception.
        lost: lost with a worker that died.
        timed_out: stopped because of their `task_timeout`.
        cancelled: cancelled.
        retried: how often one was given to another worker after the death of one.
    """

    __slots__ = ()


class WorkerStatus(namedtuple("WorkerStatus", "pid name state done task seconds")):
    """What a worker does now.

    Attributes:
        pid: its process id; 0 while there is none, because the last has ended and another is about
            to start. Of a thread its native id.
        name: its name.
        state: "starting", "idle", "running" or "leaving".
        done: how many tasks it has done.
        task: the name of the function that it runs, or None.
        seconds: for how long it has run that, to a hundredth of a second, or None.
    """

    __slots__ = ()


def mapstar(args: tuple[Any, ...]) -> list[Any]:
    """Return `list(map(*args))`."""
    return list(map(*args))


def starmapstar(args: tuple[Any, Any]) -> list[Any]:
    """Return `list(itertools.starmap(*args))`."""
    return list(itertools.starmap(args[0], args[1]))


class Pool:
    """A pool of worker processes, as `multiprocessing.pool.Pool` is documented.

    Different from the standard library's:

    - A worker that dies in a task fails that task alone, with WorkerLost; it is replaced.
    - SystemExit, KeyboardInterrupt and GeneratorExit in a task fail it with TaskExit.
    - `terminate()` fails what is not done with PoolTerminated; nobody waits for ever.
    - Workers that can't get ready break the pool (PoolBroken), with the cause, after a few tries.
    - Tasks are pickled by the thread that submits them. What can't be pickled is told by `get()`.
    - `imap` over an iterator of unknown length reads it some items ahead of its consumer only.

    The keyword-only arguments here and of the methods are not in the standard library. Those of
    a method count instead of the pool's.

    Args:
        retries: how often a task is given to another worker when one dies of it (an exception is no
            such death). After one death more it fails with PoisonTask. It is done again from its
            start each time. A chunk of a map is one task: all of it is done again.
        task_timeout: for how many seconds a task may run from the moment a worker takes it. Then its
            worker is killed (SIGKILL, at once, with no SIGTERM before it) and replaced, and the task fails
            with TaskTimeout; it is not tried again.
        max_memory_per_worker: with more bytes of resident memory of its own than this, after a task, a
            worker ends and is replaced. What it shares with other processes doesn't count.
    """

    #: Whether the end of the pool is also that of its workers.
    _reaps = True
    #: How what is sent is pickled, if a subclass has a way of its own.
    _reducers: Any = None

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> BaseProcess:
        """Return a process that is to be a worker; subclasses may make it another one."""
        return ctx.Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        retries: int = 0,
        task_timeout: float | None = None,
        max_memory_per_worker: int | None = None,
    ) -> None:
        # Early, for __del__.
        self._state = INIT
        self._pid = os.getpid()
        self._pool: list[Any] = []
        self._processes = _count(processes)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild < 1):
            raise ValueError(f"maxtasksperchild must be a positive int or None, not {maxtasksperchild!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {type(initializer).__name__}")
        if max_memory_per_worker is not None and (
            not isinstance(max_memory_per_worker, int) or max_memory_per_worker < 1
        ):
            raise ValueError(f"max_memory_per_worker must be a positive int or None, not {max_memory_per_worker!r}")
        _choice(retries, task_timeout)
        self._limits = max_memory_per_worker or 0, retries or 0, task_timeout
        there, back = getattr(self, "_forward_reducers", None), getattr(self, "_backward_reducers", None)
        if there or back:
            from ._pool_reducers import Reducers

            self._reducers = Reducers(there or {}, back or {})
        self._functions: dict[Any, Any] = {}
        self._feeders: weakref.WeakSet[Feeder] = weakref.WeakSet()
        self._start(initializer, tuple(initargs), maxtasksperchild, context)
        self._reports = Reports(self._core)
        self._finalizer = util.Finalize(
            self, end, (self._core, self._staff, self._reports, type(self)._reaps), exitpriority=15
        )
        self._state = RUN

    def _start(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
        context: BaseContext | None,
    ) -> None:
        if context is None:
            from .context import _default_context

            context = _default_context.get_context()
        self._ctx = context
        self._core: Any = _procession.PoolCore(self._processes, maxtasksperchild or 0, *self._limits)
        self._staff: Any
        staff = self._staff = Staff(context, self.Process, self._core.handle, initializer, initargs, self._pool)
        try:
            for slot in range(self._processes):
                staff.hire(slot)
            self._core.supervise(staff.introduce_all(), staff.replace)
        except BaseException:
            # Interrupted after the supervisor has begun, it would start others in the place of the dismissed.
            self._core.terminate()
            self._core.join(PATIENCE)
            staff.dismiss()
            raise

    def __del__(self, _warn: Any = warnings.warn, _getpid: Any = os.getpid) -> None:
        if self._state == RUN and self._pid == _getpid():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    # Submitting.

    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> R:
        """Call `func(*args, **kwds)` in a worker, and return its result."""
        result: R = self.apply_async(func, args, kwds, retries=retries, task_timeout=task_timeout).get()
        return result

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback = None,
        error_callback: Callback = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> ApplyResult:
        """Have a worker call `func(*args, **kwds)`, and return the result to come.

        `callback(result)` or `error_callback(exception)` is called in a thread of the pool,
        before `get()` and `wait()` return; it should be quick.

        Raises:
            ValueError: if the pool was closed or terminated.
        """
        if self._state != RUN:
            self._check_running()
        if self._reducers is not None:
            func, args, kwds = self._reducers.call(func, args, kwds)
        try:
            known = self._functions[func]
        except (KeyError, TypeError):
            try:
                known = self._refer(func)
            except Exception as error:
                known = error
        choice = None if retries is None and task_timeout is None else self._choice(retries, task_timeout)
        # An error in the place of the function fails the job at once.
        result: ApplyResult = self._core.apply(self, known, func, args, kwds, _name_argument, choice)
        if callback is not None or error_callback is not None:
            self._reports.expect(result, callback, error_callback)
        return result

    def map(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> list[R]:
        """Call `func` for each item, in chunks, and return the list of results."""
        choice = self._choice(retries, task_timeout)
        results: list[R] = self._map(func, iterable, chunksize, ITEM, CHUNK, None, None, choice, wait=True).get()
        return results

    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> list[R]:
        """As `map()`, with each item the arguments of a call: `func(*item)`."""
        choice = self._choice(retries, task_timeout)
        result = self._map(func, iterable, chunksize, STAR_ITEM, STAR_CHUNK, None, None, choice, wait=True)
        results: list[R] = result.get()
        return results

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> MapResult:
        """As `map()`, and return the result to come; callbacks as with `apply_async()`."""
        choice = self._choice(retries, task_timeout)
        return self._map(func, iterable, chunksize, ITEM, CHUNK, callback, error_callback, choice)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> MapResult:
        """As `starmap()`, and return the result to come; callbacks as with `apply_async()`."""
        choice = self._choice(retries, task_timeout)
        return self._map(func, iterable, chunksize, STAR_ITEM, STAR_CHUNK, callback, error_callback, choice)

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> IMapIterator:
        """As `map()`, and return an iterator that gives each result as soon as it is its turn.

        Args:
            func: what to call.
            iterable: the items. One without a length, such as a generator, is read by a
                thread of its own, which stays at most `buffersize` tasks ahead of the consumer.
            chunksize: how many items go to a worker at once.
            buffersize: by default 256, or 32 for each worker.
            retries: as in `Pool()`.
            task_timeout: as in `Pool()`. How long `next()` waits is another matter.
        """
        choice = self._choice(retries, task_timeout)
        iterator: IMapIterator = self._imap(IMapIterator, func, iterable, chunksize, buffersize, choice)
        return iterator

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        retries: int | None = None,
        task_timeout: float | None = None,
    ) -> IMapUnorderedIterator:
        """As `imap()`, with the results in the order in which they come."""
        choice = self._choice(retries, task_timeout)
        iterator: IMapUnorderedIterator = self._imap(
            IMapUnorderedIterator, func, iterable, chunksize, buffersize, choice
        )
        return iterator

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        item: int,
        chunk: int,
        callback: Callback,
        error_callback: Callback,
        choice: Choice,
        *,
        wait: bool = False,
    ) -> MapResult:
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        length = len(iterable)  # type: ignore[arg-type]
        if chunksize is None:
            chunksize, extra = divmod(length, self._processes * 4)
            chunksize += bool(extra)
        if length == 0 or chunksize < 1:
            chunksize = 1
        feeder = self._feeder(func, iterable, chunksize, item, chunk, None, choice)
        result = MapResult(self, feeder, func, length, chunksize)
        if callback is not None or error_callback is not None:
            self._reports.expect(result, callback, error_callback)
        if not wait:
            # What is too much to be submitted at once is so in the background.
            feeder.start()
        return result

    def _imap(
        self,
        cls: Any,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        choice: Choice,
    ) -> Any:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be 1 or more, not {buffersize}")
        window = buffersize
        if window is None and not hasattr(iterable, "__len__"):
            window = self._usual_window()
        feeder = self._feeder(func, iterable, chunksize, ITEM, CHUNK, window, choice)
        return cls(self, feeder, func, chunksize)

    def _usual_window(self) -> int:
        return max(AHEAD, 32 * self._processes)

    def _feeder(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        item: int,
        chunk: int,
        window: int | None,
        choice: Choice,
        job: Any = None,
    ) -> Feeder:
        error: BaseException | None = None
        known: Any = None
        payloads: Iterator[Any] = iter(())
        try:
            if self._reducers is not None:
                func, iterable = self._reducers.function(func), map(self._reducers.item, iterable)
            known = self._refer(func)
            payloads = _payloads(iterable, chunksize)
        except Exception as e:
            error = e
        if job is None:
            job = self._core.job(known, choice)
        least = 2 * self._processes
        if window is not None:
            least = min(least, window)
        feeder = Feeder(job, item if chunksize == 1 else chunk, known, payloads, window, least)
        if error is not None:
            feeder.fail(error)
            return feeder
        self._feeders.add(feeder)
        if hasattr(iterable, "__len__"):
            feeder.feed()
        else:
            feeder.start()
        return feeder

    def _choice(self, retries: int | None, task_timeout: float | None) -> Choice:
        return _choice(retries, task_timeout)

    def _refer(self, func: Callable[..., Any]) -> Any:
        """Return what stands for a function in its tasks: once pickled, if it can't change."""
        if not _pool_worker.is_plain(func):
            return self._core.function(reduction.dumps_whole(func), False, _pool_worker.described(func))
        known = self._functions.get(func)
        if known is None:
            pickled = reduction.dumps_whole(func)
            by_name = _is_by_name(func, pickled)
            known = self._core.function(pickled, by_name, _pool_worker.described(func))
            if by_name:
                if len(self._functions) >= KEPT_FUNCTIONS:
                    self._functions.clear()
                self._functions[func] = known
        return known

    # Ending.

    def close(self) -> None:
        """Take no more tasks; the workers end when those that there are are done."""
        util.debug("closing pool")
        if self._state == RUN:
            self._state = CLOSE
            self._core.close()

    def terminate(self) -> None:
        """End the workers without waiting for their tasks: SIGTERM, after a second SIGKILL.

        Who waits for a result is told with PoolTerminated.
        """
        util.debug("terminating pool")
        self._state = TERMINATE
        for feeder in list(self._feeders):
            feeder.stop(seal=False)
        self._finalizer()

    def join(self) -> None:
        """Wait for the workers to end.

        Raises:
            ValueError: if neither `close()` nor `terminate()` was called before.
        """
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running: call close() or terminate() before join()")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._pid != os.getpid():
            raise ValueError("a pool can be joined only by the process that made it")
        # Nobody may be asking for what is submitted only as results are asked for.
        for feeder in list(self._feeders):
            feeder.finish()
        self._core.join(None)
        self._reports.join(None)
        self._staff.join(None)

    # What is going on.

    def status(self) -> PoolStatus:
        """Return how far the pool has come. Doesn't wait. Not in the standard library."""
        return PoolStatus(*self._core.status())

    def workers(self) -> list[WorkerStatus]:
        """Return what each worker is doing now. Doesn't wait. Not in the standard library."""
        return [
            WorkerStatus(pid, name, state, done, *(task or (None, None)))
            for pid, name, state, done, task in self._core.workers()
        ]

    def _check_running(self) -> None:
        if self._state != RUN:
            how = {CLOSE: "closed", TERMINATE: "terminated"}.get(self._state)
            raise ValueError("Pool not running" if how is None else f"Pool not running: it was {how}")

    def _repopulate_pool(self) -> None:
        """Do nothing: a worker that has ended is replaced without being asked for."""

    # What many programs use of the insides of the standard library's pool.

    @property
    def _taskqueue(self) -> _pool_insides.TaskQueue:
        return _pool_insides.TaskQueue(self)

    @property
    def _cache(self) -> _pool_insides.Outstanding:
        return _pool_insides.Outstanding(self)

    _get_tasks = staticmethod(_pool_insides.batches)

    def _guarded_task_generation(
        self, result_job: Any, func: Callable[[Any], Any], iterable: Iterable[Any]
    ) -> _pool_insides.Tasks:
        return _pool_insides.Tasks(result_job, func, iterable)

    def _feed_job(self, result: IMapIterator, func: Callable[[Any], Any], iterable: Iterable[Any]) -> None:
        """Have `func` called for each item, with the results in an iterator that the program has made."""
        self._check_running()
        result._function = func
        result._feeder = self._feeder(func, iterable, 1, ITEM, CHUNK, self._usual_window(), None, result._job)

    def _exitcode_of(self, pid: int) -> int | None:
        exitcode: int | None = self._staff.exitcode_of(pid)
        return exitcode


def _count(processes: Any) -> int:
    if processes is None:
        return _usable_cpus()
    if not isinstance(processes, int):
        try:
            processes = processes.__index__()
        except (AttributeError, TypeError):
            raise TypeError(
                f"the number of processes must be an int or None, not {type(processes).__name__} ({processes!r})"
            ) from None
    if processes < 1:
        raise ValueError(f"Number of processes must be at least 1, not {processes}")
    return int(processes)


def _choice(retries: int | None, task_timeout: float | None) -> Choice:
    """Return how tasks are dealt with, as the pool's core takes it: None if nothing was chosen."""
    if retries is None and task_timeout is None:
        return None
    if retries is not None and (not isinstance(retries, int) or not 0 <= retries < 1 << 32):
        raise ValueError(f"retries must be 0 or a positive int, not {retries!r}")
    if task_timeout is not None:
        if not isinstance(task_timeout, (int, float)):
            raise TypeError(f"task_timeout must be a number of seconds, not {type(task_timeout).__name__}")
        if not task_timeout > 0:
            raise ValueError(f"task_timeout must be more than 0 seconds, not {task_timeout!r}")
        task_timeout = float(task_timeout)
    return retries, task_timeout


def _usable_cpus() -> int:
    # From Python 3.13 on, the CPUs that this process may use; before, as documented, all.
    count: int | None = getattr(os, "process_cpu_count", os.cpu_count)()
    return count or 1


def _payloads(iterable: Iterable[Any], chunksize: int) -> Iterator[Any]:
    if type(iterable) is range and chunksize >= RANGES_FROM:
        bounds = map(slice, itertools.count(0, chunksize), itertools.count(chunksize, chunksize))
        return itertools.takewhile(bool, map(iterable.__getitem__, bounds))
    iterator = iter(iterable)
    if chunksize == 1:
        return iterator
    return iter(lambda: tuple(itertools.islice(iterator, chunksize)), ())


def _is_by_name(func: Callable[..., Any], pickled: bytes) -> bool:
    try:
        return _pickle.dumps(func, reduction.PROTOCOL) == pickled
    except Exception:
        return False


def _name_argument(error: Exception, func: Any, args: Any, kwds: Any) -> Exception:
    """Return the error of a call that can't be pickled, with the name of the argument."""
    try:
        parts = [(f"argument {place}", arg) for place, arg in enumerate(args)]
        parts += [(f"argument {name!r}", arg) for name, arg in dict(kwds).items()]
    except Exception:
        return error  # they are no arguments at all
    of = f" of {_pool_worker.described(func)}" if callable(func) else ""
    return reduction.name_culprit(error, [(name + of, arg) for name, arg in parts])


from ._pool_threads import ThreadPool  # noqa: E402  (which is a Pool)
