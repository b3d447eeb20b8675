"""The exceptions and warnings of the package.

Those that Python's documentation names are also the standard library's own classes for
whoever catches them: `except multiprocessing.TimeoutError` matches ours. The standard
library isn't imported for that. A clause that names its classes can only exist once it is
loaded, so the first exception made after that moment joins the two families.
"""

from __future__ import annotations

from . import _beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "AuthenticationError",
    "BufferTooShort",
    "Gone",
    "OwnerDiedError",
    "OwnerDiedWarning",
    "PoisonTask",
    "ProcessError",
    "TaskTimeout",
    "TimeoutError",
    "WorkerLost",
]


class _Joined(Exception):
    """Base of the exceptions that have a namesake in the standard library."""

    _namesakes_joined = False

    def __new__(cls, *args: Any, **kwargs: Any) -> _Joined:
        if not _Joined._namesakes_joined:
            _join_namesakes()
        return super().__new__(cls, *args, **kwargs)


class ProcessError(_Joined):
    """The base class of the exceptions of this package."""


class BufferTooShort(ProcessError):
    """Raised by `Connection.recv_bytes_into`; the message is `e.args[0]`."""


class TimeoutError(ProcessError):
    """Raised by methods with a timeout when it expires."""


class AuthenticationError(ProcessError):
    """Raised when the other end of a connection doesn't know the key."""


class WorkerLost(ProcessError):
    """The process that ran a task ended before the task did.

    The standard library has no such error: there, whoever waits for the task waits for ever.

    Attributes:
        pid: the process that was lost, where known.
        exitcode: its exit code (the negative number of a signal), where known.
        task: what it ran, as text.
        worker: the name of the process, where known.
        out_of_memory: whether the kernel has killed a process for want of memory at that moment.
    """

    def __init__(
        self,
        message: str = "the worker process was lost",
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        task: str | None = None,
        worker: str | None = None,
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.worker = worker
        self.out_of_memory = out_of_memory


class PoisonTask(WorkerLost):
    """A task has cost one worker after the other, as often as it might be tried again.

    Pid, exitcode and the rest are those of the last one.

    Attributes:
        deaths: for each worker, oldest first, what it died of, as text.
    """

    def __init__(self, message: str = "a task has cost several workers", *, deaths: Any = (), **known: Any) -> None:
        super().__init__(message, **known)
        self.deaths: tuple[str, ...] = tuple(deaths)


class TaskTimeout(TimeoutError):
    """A task ran for longer than its `task_timeout`, and was stopped with its worker.

    A `TimeoutError` of `get(timeout)` is another thing: there the task goes on.

    Attributes:
        pid: the process that ran it, where known.
        task: what it was, as text.
        seconds: how long it might run.
    """

    def __init__(
        self,
        message: str = "the task ran for too long",
        *,
        pid: int | None = None,
        task: str | None = None,
        seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.task = task
        self.seconds = seconds


class Gone(ProcessError):
    """A handle names an object that no longer exists: its last holder let it go."""


class OwnerDiedWarning(RuntimeWarning):
    """A lock was acquired whose last owner died while holding it.

    What the lock protects may be half changed. `Lock(on_owner_death="raise")` makes it an
    `OwnerDiedError`; the standard library would have waited for ever.
    """


class OwnerDiedError(RuntimeError):
    """The owner of a lock died while holding it; raised with `on_owner_death="raise"`.

    The caller holds the lock all the same, and should release it once all is in order.
    """


def _join_namesakes() -> None:
    """Put the standard library's classes behind ours, if it is loaded."""
    standard = _beside.standard("context")
    if standard is None or not hasattr(standard, "TimeoutError"):
        return  # not loaded, or just being loaded
    _Joined._namesakes_joined = True
    ProcessError.__bases__ = (_Joined, standard.ProcessError)
    for ours in (BufferTooShort, TimeoutError, AuthenticationError):
        ours.__bases__ = (ProcessError, getattr(standard, ours.__name__))
