"""Locks, semaphores, conditions, events and barriers between processes.

They may travel to any process of the family at any time, in arguments, through queues and pipes,
not only by inheritance. None of them hangs because a process died that held it or waited for it;
each class says what happens instead.
"""

from __future__ import annotations

import os
import threading
import time

from . import _procession, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal, Self, TypeVar

    from .context import BaseContext

    _T = TypeVar("_T")

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

#: The highest value of a semaphore.
SEM_VALUE_MAX = 2**31 - 1

#: For `_procession.WaitQueue.notify`: more than can wait.
_ALL = 2**32 - 1


class SemLock:
    """What locks and semaphores have in common: a name to recognise them by.

    The standard library's own `Queue`, of which `concurrent.futures.ProcessPoolExecutor` makes one in whatever
    context it is given, asks a semaphore's `_semlock` for its value. So does this offer one: the object itself.
    """

    __slots__ = ()

    @property
    def _semlock(self) -> Self:
        return self

    def _get_value(self) -> int:
        free = getattr(self, "get_value", None)
        return free() if free is not None else int(not self.locked())  # type: ignore[attr-defined]

    def _is_zero(self) -> bool:
        return self._get_value() == 0


class Lock(_procession.Lock, SemLock):
    """A lock that one process or thread holds at a time. Any process or thread may release it.

    Better than in the standard library: if its owner ends without releasing it, however it ends,
    the next to acquire it gets it within 50 ms, and is told that what the lock protects may be half
    changed.

    Args:
        ctx: the context that makes it; of no consequence.
        on_owner_death: how that is told. "warn" issues an `OwnerDiedWarning`, "raise" raises an
            `OwnerDiedError` and "ignore" does nothing. When `acquire` raises `OwnerDiedError`, the
            caller holds the lock and should release it once all is in order; when a `with` block
            is not entered because of it, or warnings are errors, the lock is not held.
    """

    def __init__(
        self, *, ctx: BaseContext | None = None, on_owner_death: Literal["warn", "raise", "ignore"] = "warn"
    ) -> None:
        super().__init__(on_owner_death=on_owner_death)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={_describe_owner(self)})>"


class RLock(_procession.RLock, SemLock):
    """A lock that the thread which holds it may acquire again; only that thread can release it.

    If its owner ends without releasing it, the same happens as with a `Lock`.

    Args:
        ctx: the context that makes it; of no consequence.
        on_owner_death: "warn", "raise" or "ignore"; see `Lock`.
    """

    def __init__(
        self, *, ctx: BaseContext | None = None, on_owner_death: Literal["warn", "raise", "ignore"] = "warn"
    ) -> None:
        super().__init__(on_owner_death=on_owner_death)

    def __repr__(self) -> str:
        owner = _describe_owner(self)
        count = "nonzero" if owner.startswith("SomeOther") else self._count()
        return f"<{type(self).__name__}({owner}, {count})>"


def _describe_owner(lock: _procession.Lock | _procession.RLock) -> str:
    owner = lock.owner()
    if owner is None:
        return "None"
    pid, thread, _name = owner
    if pid != os.getpid():
        return "SomeOtherProcess"
    if thread != threading.get_native_id():
        return "SomeOtherThread"
    name = process.current_process().name
    thread_name = threading.current_thread().name
    return name if thread_name == "MainThread" else f"{name}|{thread_name}"


class Semaphore(_procession.Semaphore, SemLock):
    """A counter of permits: `acquire` takes one, and waits while there is none.

    A process that dies keeps the permits it had taken: a semaphore may be used for signalling, and
    giving back would make up a signal. Where permits stand for a resource use `BoundedSemaphore`.

    Args:
        value: how many permits there are at first.
        ctx: the context that makes it; of no consequence.

    Raises:
        ValueError: `value` is negative or too large.
    """

    def __init__(self, value: int = 1, *, ctx: BaseContext | None = None) -> None:
        super().__init__(value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"


class BoundedSemaphore(_procession.BoundedSemaphore, SemLock):
    """A semaphore that never has more permits than it started with: a `release` too many is an error.

    Better than in the standard library: the permits of a process that dies go to whoever waits.

    Args:
        value: how many permits there are at first, and at most.
        ctx: the context that makes it; of no consequence.

    Raises:
        ValueError: `value` is negative or too large.
    """

    def __init__(self, value: int = 1, *, ctx: BaseContext | None = None) -> None:
        super().__init__(value)
        self._bound = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self._bound})>"


class _Count:
    """A number of waiters, in the form in which the standard library's conditions have it."""

    __slots__ = ("_value",)

    def __init__(self, value: int) -> None:
        self._value = value

    def get_value(self) -> int:
        return self._value


class Condition:
    """A condition variable: threads of any processes wait until another one notifies them.

    A waiter that was killed costs no wake-up: `notify` goes to the next. If the process that holds
    the condition's lock ends, who comes next gets the lock and is told, as with every `Lock`.

    Args:
        lock: a `Lock` or `RLock` to use; by default an `RLock` of its own.
        ctx: the context that makes it; of no consequence.
    """

    def __init__(self, lock: Lock | RLock | None = None, *, ctx: BaseContext | None = None) -> None:
        if lock is None:
            lock = RLock()
        elif not isinstance(lock, (_procession.Lock, _procession.RLock)):
            raise TypeError(f"a condition needs a Lock or an RLock of this package, not {type(lock).__name__}")
        self._lock: Lock | RLock = lock
        self._waiting = _procession.WaitQueue()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock; see `Lock.acquire`."""
        return self._lock.acquire(block, timeout)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def locked(self) -> bool:
        """Return whether the lock is held by anyone."""
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._lock.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock!r}, {self._waiting.waiters()})>"

    def _check_held(self, what: str) -> None:
        if not self._lock._is_owned():
            raise AssertionError(f"{what}() needs the condition's lock: acquire it first, in this thread")

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and acquire the lock again.

        Args:
            timeout: how many seconds to wait at most; None waits for as long as it takes.

        Returns:
            Whether it was notified: False if the time has passed.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        self._check_held("wait")
        return self._waiting._wait_releasing(self._lock, timeout)

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate()` is true, looking each time it is notified.

        Args:
            predicate: called with the lock held.
            timeout: how many seconds to wait at most, in all.

        Returns:
            What `predicate` returned last: something false if the time has passed.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        result = predicate()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not result:
            left = None
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake the `n` that have waited longest, or all if fewer wait.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        self._check_held("notify")
        if n > 0:
            self._waiting.notify(min(n, _ALL))

    def notify_all(self) -> None:
        """Wake all that wait.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        self.notify(_ALL)

    # What CPython's own tests look at: sleepers less those woken is how many wait.

    @property
    def _sleeping_count(self) -> _Count:
        return _Count(self._waiting.waiters())

    @property
    def _woken_count(self) -> _Count:
        return _Count(0)

    @property
    def _wait_semaphore(self) -> _Count:
        return _Count(0)


class Event(_procession.Event):
    """A flag that processes wait for. A waiter that is killed takes nothing with it.

    Args:
        ctx: the context that makes it; of no consequence.
    """

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        super().__init__()

    def __repr__(self) -> str:
        state = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {state}>"


class Barrier(_procession.Barrier):
    """A meeting point for a fixed number of threads of any processes.

    Better than in the standard library: if a process dies that has come to the barrier, the others
    get `threading.BrokenBarrierError`, within 50 ms, instead of waiting for ever.

    Args:
        parties: how many it takes.
        action: called by one of them when all have come, before they go on. If it raises, the
            barrier is broken.
        timeout: how many seconds `wait` waits unless it is told otherwise.
        ctx: the context that makes it; of no consequence.

    Raises:
        ValueError: `parties` is less than 1.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: BaseContext | None = None,
    ) -> None:
        super().__init__(parties)
        self._action = action
        self._timeout = timeout

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come.

        Args:
            timeout: how many seconds to wait at most; None is what the barrier was made with.

        Returns:
            A number from 0 to `parties - 1`, another for each of them.

        Raises:
            threading.BrokenBarrierError: the barrier is or gets broken: by a time-out (also
                another's), `abort`, `reset`, an action that failed, or the death of a party.
        """
        return self._pass(self._timeout if timeout is None else timeout, self._action)

    def __repr__(self) -> str:
        cls = type(self)
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{cls.__module__}.{cls.__qualname__} at {id(self):#x}: {state}>"
