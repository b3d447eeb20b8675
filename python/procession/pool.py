"""Pools of worker processes, and of threads.

Submitting and collecting are done by the threads of the program that ask for it: a pool has
one thread of its own, which isn't Python's and sleeps until a worker ends.
"""

from __future__ import annotations

import _pickle
import fcntl
import itertools
import os
import sys
import threading
import warnings
import weakref

from . import _pool_worker, _procession, reduction, util
from ._pool_feeder import Feeder
from ._pool_results import (
    CALL,
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
    "PoolTerminated",
    "RemoteTraceback",
    "TaskExit",
    "ThreadPool",
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
#: How long `terminate()` waits for workers that are sent SIGTERM, and after a second SIGKILL.
PATIENCE = 10.0
#: Functions whose pickles are kept.
KEPT_FUNCTIONS = 1024


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
    """

    #: Whether the end of the pool is also that of its workers.
    _reaps = True

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
        self._functions: dict[Any, Any] = {}
        self._feeders: weakref.WeakSet[Feeder] = weakref.WeakSet()
        self._start(initializer, tuple(initargs), maxtasksperchild, context)
        self._reports = _Reports(self._core)
        self._finalizer = util.Finalize(self, _end, (self._core, self._staff, self._reports, type(self)._reaps), exitpriority=15)
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
        self._core: Any = _procession.PoolCore(self._processes, maxtasksperchild or 0)
        staff = self._staff = _Staff(context, self.Process, self._core.handle, initializer, initargs, self._pool)
        try:
            for slot in range(self._processes):
                staff.hire(slot)
            self._core.supervise([staff.introduce(slot) for slot in range(self._processes)], staff.replace)
        except BaseException:
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

    def apply(self, func: Callable[..., R], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> R:
        """Call `func(*args, **kwds)` in a worker, and return its result."""
        result: R = self.apply_async(func, args, kwds).get()
        return result

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> ApplyResult:
        """Have a worker call `func(*args, **kwds)`, and return the result to come.

        `callback(result)` or `error_callback(exception)` is called in a thread of the pool,
        before `get()` and `wait()` return; it should be quick.

        Raises:
            ValueError: if the pool was closed or terminated.
        """
        if self._state != RUN:
            self._check_running()
        try:
            known = self._functions[func]
        except (KeyError, TypeError):
            try:
                known = self._refer(func)
            except Exception as error:
                known = error
        # An error in the place of the function fails the job at once.
        result = ApplyResult(self, self._core.apply(known, func, args, kwds, _name_argument), func)
        if callback is not None or error_callback is not None:
            self._reports.expect(result, callback, error_callback)
        return result

    def map(self, func: Callable[[Any], R], iterable: Iterable[Any], chunksize: int | None = None) -> list[R]:
        """Call `func` for each item, in chunks, and return the list of results."""
        results: list[R] = self._map(func, iterable, chunksize, ITEM, CHUNK, None, None, wait=True).get()
        return results

    def starmap(self, func: Callable[..., R], iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[R]:
        """As `map()`, with each item the arguments of a call: `func(*item)`."""
        results: list[R] = self._map(func, iterable, chunksize, STAR_ITEM, STAR_CHUNK, None, None, wait=True).get()
        return results

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult:
        """As `map()`, and return the result to come; callbacks as with `apply_async()`."""
        return self._map(func, iterable, chunksize, ITEM, CHUNK, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult:
        """As `starmap()`, and return the result to come; callbacks as with `apply_async()`."""
        return self._map(func, iterable, chunksize, STAR_ITEM, STAR_CHUNK, callback, error_callback)

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1, buffersize: int | None = None
    ) -> IMapIterator:
        """As `map()`, and return an iterator that gives each result as soon as it is its turn.

        Args:
            func: what to call.
            iterable: the items. One without a length, such as a generator, is read by a
                thread of its own, which stays at most `buffersize` tasks ahead of the consumer.
            chunksize: how many items go to a worker at once.
            buffersize: by default 256, or 32 for each worker.
        """
        return self._imap(IMapIterator, func, iterable, chunksize, buffersize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1, buffersize: int | None = None
    ) -> IMapUnorderedIterator:
        """As `imap()`, with the results in the order in which they come."""
        iterator: IMapUnorderedIterator = self._imap(IMapUnorderedIterator, func, iterable, chunksize, buffersize)
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
        feeder = self._feeder(func, iterable, chunksize, item, chunk, None)
        result = MapResult(self, feeder, func, length, chunksize)
        if callback is not None or error_callback is not None:
            self._reports.expect(result, callback, error_callback)
        if not wait:
            # What is too much to be submitted at once is so in the background.
            feeder.start()
        return result

    def _imap(
        self, cls: Any, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, buffersize: int | None
    ) -> Any:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be 1 or more, not {buffersize}")
        window = buffersize
        if window is None and not hasattr(iterable, "__len__"):
            window = max(AHEAD, 32 * self._processes)
        feeder = self._feeder(func, iterable, chunksize, ITEM, CHUNK, window)
        return cls(self, feeder, func, chunksize)

    def _feeder(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        item: int,
        chunk: int,
        window: int | None,
    ) -> Feeder:
        error: BaseException | None = None
        known: Any = None
        payloads: Iterator[Any] = iter(())
        try:
            known = self._refer(func)
            payloads = _payloads(iterable, chunksize)
        except Exception as e:
            error = e
        job = self._core.job()
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

    def _refer(self, func: Callable[..., Any]) -> Any:
        """Return what stands for a function in its tasks: once pickled, if it can't change."""
        if not _pool_worker.is_plain(func):
            return self._core.function(reduction.ForkingPickler.dumps(func), False)
        known = self._functions.get(func)
        if known is None:
            pickled = reduction.ForkingPickler.dumps(func)
            by_name = _is_by_name(func, pickled)
            known = self._core.function(pickled, by_name)
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

    def _check_running(self) -> None:
        if self._state != RUN:
            how = {CLOSE: "closed", TERMINATE: "terminated"}.get(self._state)
            raise ValueError("Pool not running" if how is None else f"Pool not running: it was {how}")

    def _repopulate_pool(self) -> None:
        """Do nothing: a worker that has ended is replaced without being asked for."""

    def _exitcode_of(self, pid: int) -> int | None:
        return self._staff.exitcode_of(pid)


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


def _usable_cpus() -> int:
    # From Python 3.13 on, the CPUs that this process may use; before, as documented, all.
    count: int | None = getattr(os, "process_cpu_count", os.cpu_count)()
    return count or 1


def _payloads(iterable: Iterable[Any], chunksize: int) -> Iterator[Any]:
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


class _Staff:
    """The worker processes of a pool. It does not know the pool, which may go first."""

    def __init__(
        self,
        ctx: BaseContext,
        make: Callable[..., Any],
        handle: bytes,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        workers: list[Any],
    ) -> None:
        self._ctx = ctx
        self._make = make
        self._args = (handle, initializer, initargs)
        self._workers = workers
        self._exitcodes: dict[int, int] = {}
        #: The thread that starts a worker now.
        self.hiring: int | None = None

    def hire(self, slot: int) -> None:
        """Start a worker."""
        handle, initializer, initargs = self._args
        process = self._make(self._ctx, target=worker, args=(handle, slot, initializer, initargs))
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = True
        process.start()
        self._workers[slot : slot + 1] = [process]

    def introduce(self, slot: int) -> tuple[int, int, int]:
        """Return a worker's pid, a new descriptor of it, and its seat in the family."""
        process = self._workers[slot]
        # Inheritable, by which the extension knows that it is to be taken over.
        fd = fcntl.fcntl(process.sentinel, fcntl.F_DUPFD, 3)
        return process.pid, fd, process._popen._seat

    def replace(self, slot: int) -> tuple[int, int, int]:
        """Start a worker in the place of one that has ended. Called by the supervisor."""
        self.hiring = threading.get_ident()
        try:
            self._note_end(self._workers[slot])
            self.hire(slot)
            util.debug("added worker")
            return self.introduce(slot)
        finally:
            self.hiring = None

    def dismiss(self) -> None:
        """End those that were started: the pool is not to be."""
        for process in self._workers:
            if process.exitcode is None:
                process.terminate()
        for process in self._workers:
            process.join()

    def join(self, timeout: float | None) -> None:
        """Wait for the processes, as a parent has to."""
        for process in self._workers:
            process.join(timeout)

    def exitcode_of(self, pid: int) -> int | None:
        """Return the exit code of a worker that has ended, where it is known."""
        for process in list(self._workers):
            if process.pid == pid:
                self._note_end(process)
        return self._exitcodes.get(pid)

    def _note_end(self, process: Any) -> None:
        exitcode = process.exitcode
        if exitcode is not None:
            if len(self._exitcodes) >= 1000:
                self._exitcodes.clear()
            self._exitcodes[process.pid] = exitcode


class _Reports:
    """Calls callbacks, in one thread, which is there once there are any."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._expected: dict[int, ApplyResult] = {}
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def expect(self, result: ApplyResult, callback: Callback, error_callback: Callback) -> None:
        """Call one of them when the result is there."""
        result._reported = threading.Event()
        result._callback = callback
        result._error_callback = error_callback
        job = result._job
        self._expected[job.number] = result
        job.announce()
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="pool-callbacks", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            number = self._core.next_announced()
            if number is None:
                break
            result = self._expected.pop(number, None)
            if result is None:
                continue
            try:
                result._report()
            except BaseException:
                # As if each callback had a thread of its own.
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            result = None
        # The pool was terminated: nobody is called back, and nobody is left waiting for that.
        while self._expected:
            _number, result = self._expected.popitem()
            result._give_up_reporting()

    def join(self, timeout: float | None) -> None:
        """Wait for the callbacks to have been called."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)


def _end(core: Any, staff: _Staff, reports: _Reports, reap: bool) -> None:
    """End a pool that was terminated, or collected, or is left when the program ends."""
    core.terminate()
    if staff.hiring == threading.get_ident():
        return  # collected by the supervisor's thread: it can't wait for itself
    core.join(PATIENCE)
    reports.join(PATIENCE)
    if reap:
        staff.join(PATIENCE)


from ._pool_threads import ThreadPool  # noqa: E402  (which is a Pool)
