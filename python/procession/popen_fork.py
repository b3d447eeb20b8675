"""Start by fork; and what every start method's running child has in common."""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import threading
import warnings

from . import _bootstrap, _procession, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .process import BaseProcess

__all__ = ["Popen"]


class Popen:
    """A started child: its pid, its pidfd (`sentinel`) and, in the end, its exit code."""

    method = "fork"

    pid: int
    sentinel: int

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()
        self.returncode: int | None = None
        self.finalizer: util.Finalize | None = None
        self._reaping = threading.Lock()
        self._seat = _procession.prepare_child(process_obj.name, process_obj._role)
        try:
            self._launch(process_obj)
        except BaseException:
            if not hasattr(self, "pid"):
                _procession.cancel_child(self._seat)
            raise

    def duplicate_for_child(self, fd: int) -> int:
        """Return the descriptor: a forked child has it anyway."""
        return fd

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the child runs; with a flag of 0, wait first."""
        return self.wait(0 if flag & os.WNOHANG else None)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, for `timeout` seconds at most; return the exit code or None."""
        if self.returncode is None and wait_readable(self.sentinel, timeout):
            with self._reaping:
                if self.returncode is None:
                    self.returncode = self._collect()
                    _procession.reap(self._seat)
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send_signal(signal.SIGKILL)

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._send_signal(signal.SIGINT)

    def close(self) -> None:
        """Close the sentinel."""
        if self.finalizer is not None:
            self.finalizer()

    def _send_signal(self, number: int) -> None:
        if self.returncode is None:
            try:
                # Not by pid, which may be another's by now.
                signal.pidfd_send_signal(self.sentinel, number)
            except ProcessLookupError:
                pass

    def _collect(self) -> int:
        """Take the exit code of the ended child."""
        try:
            _pid, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            # The program waited for it, or ignores SIGCHLD. The child left word if it could.
            noted = _procession.exit_status(self._seat)
            return 255 if noted is None else noted
        return os.waitstatus_to_exitcode(status)

    def _launch(self, process_obj: BaseProcess) -> None:
        parent = os.getpid()
        _procession.fork_with(self._seat)
        try:
            pid = _fork()
            if pid == 0:
                self._be_the_child(process_obj, parent)
        finally:
            _procession.fork_done()
        self._started(pid)

    def _started(self, pid: int, pidfd: int | None = None) -> None:
        """Take charge of the child."""
        if pidfd is None:
            try:
                pidfd = open_pidfd(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        self.pid = pid
        self.sentinel = pidfd
        self.finalizer = util.Finalize(self, os.close, (pidfd,))
        _procession.child_started(self._seat, pid)

    def _be_the_child(self, process_obj: BaseProcess, parent: int) -> NoReturn:
        code = 1
        try:
            code = process_obj._bootstrap(pidfd_of_parent(parent), forked=True)
        finally:
            _bootstrap.end(code, self._seat)


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


def pidfd_of_parent(parent: int) -> int:
    """Return a pidfd of our parent; one that says it has ended, if it has."""
    try:
        pidfd = open_pidfd(parent)
    except ProcessLookupError:
        return _ended()
    if os.getppid() == parent:
        return pidfd
    os.close(pidfd)  # of somebody else with the same number
    return _ended()


def _ended() -> int:
    """Return a descriptor that is ready, as the pidfd of an ended process is."""
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def wait_readable(fd: int, timeout: float | None) -> bool:
    """Wait until a descriptor is ready to read, for `timeout` seconds at most; say if it is."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if timeout is None or timeout > _LONG:
        return bool(poll.poll())
    return bool(poll.poll(max(0, math.ceil(timeout * 1000))))


#: Seconds; a longer time-out is the same as none.
_LONG = 2_000_000


def _fork() -> int:
    """Fork, without the warning for threads if all that run are the engine's own."""
    if threading.active_count() > 1:
        return os.fork()
    # Python counts the threads of the engine too. Those hold nothing that a child needs.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()
