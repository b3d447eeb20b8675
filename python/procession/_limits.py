"""What to do when the system has no more of something: said in the errors that tell of it."""

from __future__ import annotations

import errno
import os

# At once: when it is needed there may be no descriptor to read a module with.
import resource

__all__ = ["explained"]


def explained(error: OSError, what: str) -> OSError:
    """Return an error of the same kind that says what could not be done, why, and what to do.

    An error that is not about a limit is returned as it is.
    """
    advice = _advice(error.errno)
    if advice is None:
        return error
    assert error.errno is not None
    return OSError(error.errno, f"{what}: {os.strerror(error.errno)}: {advice}")


def _advice(number: int | None) -> str | None:
    if number == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"this process has as many descriptors open as it may ({limit}): close some, such as those of processes "
            "and connections that are done with, or raise the limit (ulimit -n, resource.RLIMIT_NOFILE)"
        )
    if number == errno.ENFILE:
        return "the system has as many files open as it can: close some, in whatever program (fs.file-max)"
    if number == errno.EAGAIN:
        return (
            "there are as many processes as the user (ulimit -u) or the container (pids.max) may have: "
            "wait for some to end, or raise the limit"
        )
    if number == errno.ENOMEM:
        return "the system has no memory left for it: free some, or start children by spawn, which copies nothing"
    return None
