"""Start by fork; and what every start method's running child has in common."""

from __future__ import annotations

import _thread
import builtins
import os
import sys

from . import _bootstrap, _imports, _interrupts, _null_input, _procession, process, reduction, util
from ._limits import explained
from ._pidfd import open_pidfd as open_pidfd
from ._pidfd import wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn

    from .process import BaseProcess
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = ["Popen"]

#: Loaded before there is a child, even if Python puts off every import (`-X lazy_imports=all`).
_LOADED = (_bootstrap, _imports, _interrupts, _null_input, process, reduction, util)


class Popen:
    """A started child: its pid, its pidfd (`sentinel`) and, in the end, its exit code."""

    method = "fork"

    pid: int
    sentinel: int

    def __init__(self, process_obj: BaseProcess) -> None:
        self.returncode: int | None = None
        self.finalizer: util.Finalize | None = None
        self._reaping = _thread.allocate_lock()
        self._seat = _procession.prepare_child(process_obj.name, process_obj._role)
        try:
            self._launch(process_obj)
        except BaseException as error:
            if not hasattr(self, "pid"):
                _procession.cancel_child(self._seat)
            else:
                # Interrupted: nobody would know of it.
                self.kill()
                self.wait()
                self.close()
            if isinstance(error, OSError):
                named = explained(error, f"{process_obj.name} can't be started")
                if named is not error:
                    raise named from error
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
                    code = self._collect()
                    self.returncode = 255 if code is None else code
                    _procession.reap(self._seat, code)
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

    def _collect(self) -> int | None:
        """Take the exit code of the ended child, if anybody knows it."""
        try:
            _pid, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            # The program waited for it, or ignores SIGCHLD. The child left word if it could.
            return _procession.exit_status(self._seat)
        return os.waitstatus_to_exitcode(status)

    def _launch(self, process_obj: BaseProcess) -> None:
        parent = os.getpid()
        _check_fork()
        # Each function that is called has its memory copied for this process and the child: so few are.
        if _imports._locks:
            _imports.wait_for_others()
        reduction.before_fork()
        if util._null_input is None:
            _null_input.prepare()
        if process._seen_by_children is None:
            process._prepare_for_fork()
        # Last of all: a stream that another thread is writing to would stay locked in the child.
        util._flush_std_streams()
        held = _interrupts.hold()
        try:
            pid, pidfd = _procession.fork(self._seat)
            if pid == 0:
                self._be_the_child(process_obj, parent, pidfd, held)
            self._started(pid, pidfd)
        finally:
            _interrupts.allow(held)

    def _started(self, pid: int, pidfd: int) -> None:
        """Take charge of the child."""
        self.pid = pid
        self.sentinel = pidfd
        self.finalizer = util.Finalize(self, os.close, (pidfd,))
        _procession.child_started(self._seat, pid)

    def _be_the_child(self, process_obj: BaseProcess, parent: int, sentinel: int, held: set[Any]) -> NoReturn:
        code = 1
        try:
            _imports.abandon_others()
            if sentinel < 0:
                sentinel = _procession.pidfd_of_parent(parent)
            code = process_obj._bootstrap(sentinel, forked=True, held=held)
        except BaseException:
            # The program's own errors don't come this far.
            sys.excepthook(*sys.exc_info())
        finally:
            _bootstrap.end(code, self._seat)


def _check_fork() -> None:
    """Do what `os.fork` does before and after, and what only Python code can.

    Raises:
        PythonFinalizationError, RuntimeError: if the interpreter is shutting down.
        DeprecationWarning: if there are threads, and this warning is an error, from Python 3.15 on.
    """
    sys.audit("os.fork")
    if sys.is_finalizing():
        raise _FinalizationError("can't fork at interpreter shutdown")
    if sys.version_info >= (3, 12) and _thread._count() > 0 and _has_threads():
        import warnings

        try:
            warnings.warn(
                f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks in the "
                "child: locks that other threads hold stay locked there. Start processes by spawn or forkserver.",
                DeprecationWarning,
                stacklevel=5,
            )
        except DeprecationWarning:
            # Made an error. To os.fork that is one from Python 3.15 on, by when it has forked. The thread that keeps a
            # pool's workers has nobody to tell.
            if sys.version_info >= (3, 15) and _is_of_the_program():
                raise


def _has_threads() -> bool:
    """Return whether the program has threads: those of the engine hold nothing that a child needs."""
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return True  # they were started by `_thread`
    return sum(not isinstance(thread, threading._DummyThread) for thread in threading.enumerate()) > 1


def _is_of_the_program() -> bool:
    """Return whether this thread is one of the program's, and not of the engine's."""
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return True
    return type(threading._active.get(_thread.get_ident())) not in (type(None), threading._DummyThread)


_FinalizationError: type[RuntimeError] = getattr(builtins, "PythonFinalizationError", RuntimeError)
