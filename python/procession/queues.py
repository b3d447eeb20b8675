"""Queues between processes: rings in shared memory, without a thread behind them.

What was put can be got as soon as `put` returns. So a process may exit right after a `put`, and
joining a process that has put much cannot deadlock. A process that is killed in the middle of a
`put` or `get` has done it or has not; the others go on.
"""

from __future__ import annotations

from queue import Empty, Full

from . import _procession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, TypeVar

    from .context import BaseContext

    _T = TypeVar("_T")
else:
    _T = object

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]


class _End:
    """One end of a queue, for those who treat it as a connection. Ends of one queue are equal.

    An end is closed for this process, and `put` and `get` know nothing of that: concurrent.futures closes
    the one of a pool that is broken, and goes on to put. With both ends, the queue is closed.
    """

    __slots__ = ("_queue",)

    def __init__(self, queue: _procession.Queue[Any]) -> None:
        self._queue = queue

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._queue is other._queue

    def __hash__(self) -> int:
        return hash((type(self), id(self._queue)))

    @property
    def closed(self) -> bool:
        return self._queue._closed or type(self) in vars(self._queue).get("_closed_ends", ())

    def close(self) -> None:
        closed = vars(self._queue).setdefault("_closed_ends", set())
        closed.add(type(self))
        if len(closed) == 2:
            self._queue.close()

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(f"{self._queue!r} is closed")


class _Reader(_End):
    """The end to get from: `connection.wait([queue._reader])`, selectors, asyncio's `add_reader`.

    Its descriptor is readable exactly while the queue has something to get, except that what
    *another* process takes is noticed after up to 20 ms.
    """

    __slots__ = ()

    def fileno(self) -> int:
        self._check_open()
        return self._queue._readable_fd()

    def _has_message(self) -> bool:
        """Return whether there is one now, whatever the descriptor says yet; for `connection.wait`."""
        return self._queue.qsize() > 0

    def recv(self) -> Any:
        self._check_open()
        return self._queue.get()

    def poll(self, timeout: float | None = 0.0) -> bool:
        self._check_open()
        return self._queue._poll(timeout)


class _Writer(_End):
    """The end to put into."""

    __slots__ = ()

    def send(self, obj: Any) -> None:
        self._check_open()
        self._queue.put(obj)

    def fileno(self) -> int:
        raise OSError("the writing end of a queue has no descriptor: puts go to shared memory")


class _EndOf:
    """An attribute that is an end of the queue until it is set: PyTorch's queues put wrappers there."""

    def __init__(self, end: Callable[[_procession.Queue[Any]], _End]) -> None:
        self._end = end

    def __get__(self, queue: _procession.Queue[Any], owner: object = None) -> Any:
        return self._end(queue)


class Queue(_procession.Queue[_T]):
    """A queue for any number of producers and consumers.

    Different from the standard library's, for the better: `put` returns when the object is in the
    queue; `qsize`, `empty` and `full` are exact; what cannot be pickled is raised by `put`; the queue
    may travel to any process of the family at any time.

    Args:
        maxsize: how many objects it holds at most; 0 or less is no limit.
        ctx: the context that makes it; of no consequence.
    """

    #: What many programs read: what `maxsize` came to, and what is not in the queue yet.
    _maxsize = 2**31 - 1
    _buffer: ClassVar[tuple[()]] = ()

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext | None = None) -> None:
        super().__init__(maxsize)
        if maxsize > 0:
            self._maxsize = maxsize

    # Attributes of subclasses stay behind, as with the standard library's: the executor of
    # concurrent.futures has some that cannot be pickled. A subclass that wants them overrides these.

    def __getstate__(self) -> Any:
        return (self._maxsize,) if "_maxsize" in self.__dict__ else ()

    def __setstate__(self, state: Any) -> None:
        if state:
            (self._maxsize,) = state

    def join_thread(self) -> None:
        """Return at once: everything that was put is in the queue. For compatibility.

        Raises:
            AssertionError: the queue has not been closed.
        """
        if not self._closed:
            raise AssertionError(f"{self!r} is not closed: call close() before join_thread()")

    def cancel_join_thread(self) -> None:
        """Do nothing: exiting never waits for a queue, and never loses what was put. For compatibility."""

    def _not_pickled(self, error: BaseException, obj: object) -> None:
        """Decide what becomes of an object that `put` could not pickle.

        If a subclass has a handler for that (concurrent.futures does), the handler gets it. What the
        pickler says is raised, in the place where it can be understood. An error in the object's own
        code is printed, and the object dropped, as in the standard library.
        """
        overridden = type(self)._on_queue_feeder_error is not Queue._on_queue_feeder_error
        if not isinstance(error, Exception) or not (overridden or _is_of_its_own(error)):
            raise error
        self._on_queue_feeder_error(error, obj)

    @staticmethod
    def _on_queue_feeder_error(e: Exception, obj: object) -> None:
        """Handle the error of an object that could not be pickled; to be overridden."""
        import traceback

        traceback.print_exception(e)

    def _terminate_broken(self) -> None:
        """Close the queue, for concurrent.futures."""
        self.close()

    _reader = _EndOf(_Reader)
    _writer = _EndOf(_Writer)


def _is_of_its_own(error: Exception) -> bool:
    """Return whether the error comes from an object's own code, rather than from pickling."""
    from pickle import PickleError

    if isinstance(error, (PickleError, TypeError, NotImplementedError, RecursionError, MemoryError)):
        return False
    # Of a local class or function pickle says so with an AttributeError too, raised by no Python code
    # but what called it.
    return not str(error).startswith(("Can't ", "can't "))


class JoinableQueue(Queue[_T]):
    """A queue whose producers can wait until all they put has been dealt with.

    Consumers call `task_done()` for each object they got; `join()` waits until there have been as
    many calls as objects were put. A consumer that dies before its call leaves `join()` waiting: give
    such tasks to a `Pool`, which notices.
    """


class SimpleQueue(_procession.Queue[_T]):
    """A queue without a limit: `put`, `get`, `empty`, `close`. What cannot be pickled is raised by `put`.

    Args:
        ctx: the context that makes it; of no consequence.
    """

    _closed_error: ClassVar[type[Exception]] = OSError

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        super().__init__(0)

    def __getstate__(self) -> Any:
        return ()

    def __setstate__(self, state: Any) -> None:
        pass

    def empty(self) -> bool:
        """Return whether the queue is empty.

        Raises:
            OSError: this process has closed it.
        """
        if self._closed:
            raise OSError(f"{self!r} is closed")
        return super().empty()

    _reader = _EndOf(_Reader)
    _writer = _EndOf(_Writer)
