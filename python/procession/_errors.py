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
    "ProcessError",
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
    """

    def __init__(
        self,
        message: str = "the worker process was lost",
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        task: str | None = None,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task


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
