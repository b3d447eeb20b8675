"""Descriptors of processes, which tell of their end."""

from __future__ import annotations

import errno
import os
import select

__all__ = ["open_pidfd", "wait_readable"]


def open_pidfd(pid: int) -> int:
    """Return a pidfd of a process.

    Raises:
        OSError: if it doesn't exist, descriptors have run out, or the kernel has no pidfds.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise OSError(
                error.errno,
                "this kernel has no pidfd_open: procession needs Linux 5.3 or later",
            ) from None
        raise


def wait_readable(fd: int, timeout: float | None) -> bool:
    """Wait until a descriptor is ready to read, for `timeout` seconds at most; say if it is."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if timeout is None or timeout > _LONG:
        return bool(poll.poll())
    return bool(poll.poll(max(0, int(-(-timeout * 1000 // 1)))))


#: Seconds; a longer time-out is the same as none.
_LONG = 2_000_000
