"""The tracker of named shared memory: unlinks what a program leaves behind.

Only what has a name in the file system needs it: `shared_memory.SharedMemory`. All else of
this package lives in the arena and goes with the last process. The tracker is a process of
its own, started by the first name that is registered; it outlives the programs that hold the
other end of its pipe, however they end, and then cleans up.
"""

from __future__ import annotations

import _thread
import os
import sys

from . import process, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = ["ensure_running", "register", "unregister"]

#: A message must reach the tracker in one piece: this much every pipe guarantees.
_LONGEST = 512
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _unlink_shared_memory(name: str) -> None:
    from _posixshmem import shm_unlink  # type: ignore[import-not-found]

    shm_unlink(name)


def _cleanup_noop(name: str) -> None:
    """Do nothing: for names that only test the tracker."""
    raise RuntimeError("noop should never be registered or cleaned up")


#: How to clean up a name, by the type of the resource.
_CLEANUP_FUNCS: dict[str, Callable[[str], object]] = {
    "noop": _cleanup_noop,
    "shared_memory": _unlink_shared_memory,
}
if sys.version_info >= (3, 13):
    _CLEANUP_FUNCS["dummy"] = lambda name: None  # for tests too; earlier ones expect each type to be real


class ResourceTracker:
    """The tracker as the programs see it: a pipe to its process."""

    def __init__(self) -> None:
        self._lock = _thread.RLock()
        self._fd: int | None = None
        self._pid: int | None = None
        self._exitcode: int | None = None

    def getfd(self) -> int:
        """Return the descriptor of the pipe, starting the tracker if need be."""
        self.ensure_running()
        assert self._fd is not None
        return self._fd

    def inheritable_fd(self) -> int | None:
        """Return the descriptor that a child must have to use the same tracker, if any."""
        return self._fd

    def inherit(self, fd: int | None) -> None:
        """Use the tracker of the parent."""
        if fd is not None:
            os.set_inheritable(fd, False)
        self._fd, self._pid = fd, None

    def ensure_running(self) -> None:
        """Start the tracker, unless it runs. One that has died is replaced, with a warning."""
        with self._lock:
            if self._fd is not None:
                if self._check_alive():
                    return
                self._collect()
                import warnings

                warnings.warn(
                    "resource_tracker: process died unexpectedly, relaunching.  Some resources might leak.",
                    stacklevel=2,
                )
            self._start()

    def register(self, name: str, rtype: str) -> None:
        """Have a name cleaned up if the program doesn't do it itself."""
        self._send("REGISTER", name, rtype)

    def unregister(self, name: str, rtype: str) -> None:
        """Say that a name has been cleaned up."""
        self._send("UNREGISTER", name, rtype)

    def _check_alive(self) -> bool:
        assert self._fd is not None
        try:
            os.write(self._fd, b"PROBE:noop:\n")
        except OSError:
            return False
        return True

    def _send(self, command: str, name: str, rtype: str) -> None:
        from binascii import b2a_base64

        # A name may have any character but NUL: colons, ends of lines.
        encoded = b2a_base64(os.fsencode(name), newline=False).decode()
        message = f"{command}:{rtype}:{encoded}\n".encode()
        if len(message) > _LONGEST:
            raise ValueError(f"name too long to be tracked: {len(name)} characters")
        self.ensure_running()
        assert self._fd is not None
        os.write(self._fd, message)

    def _start(self) -> None:
        reader, writer = os.pipe()
        passed = [reader]
        # What a child leaves behind may still be used by its parent.
        parent = process.parent_process()
        waits_for = None if parent is None else parent.sentinel
        if waits_for is not None:
            passed.append(waits_for)
        command = spawn.interpreter_command(f"from {__name__} import main; main({reader}, {waits_for})")
        try:
            pid = util.start_server(command, passed, _IGNORED_SIGNALS)
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        self._fd, self._pid = writer, pid

    def _collect(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        if self._pid is not None:
            try:
                status = os.waitpid(self._pid, 0)[1]
                self._exitcode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                self._exitcode = None
        self._fd = self._pid = None

    def _stop(self) -> None:
        """Close the pipe, and wait until the tracker has cleaned up."""
        with self._lock:
            if self._fd is not None and self._pid is not None:
                self._collect()
            elif self._exitcode is None:
                self._exitcode = 0  # nothing was tracked, so nothing has leaked

    def _after_fork(self) -> None:
        # The tracker is our parent's child, and ours to use.
        self._lock = _thread.RLock()
        self._pid = None


_resource_tracker = ResourceTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd
os.register_at_fork(after_in_child=_resource_tracker._after_fork)


# In the tracker.


def main(fd: int, waits_for: int | None = None) -> NoReturn:
    """Be the tracker: keep the books until nobody holds the pipe, then clean up.

    Args:
        fd: the reading end of the pipe.
        waits_for: a pidfd of a process whose end is awaited besides.
    """
    util.ignore_signals(_IGNORED_SIGNALS)
    spawn.forget_finder()
    spawn.close_others([fd] if waits_for is None else [fd, waits_for])
    # Who reads the program's output to its end shouldn't have to wait for us.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    kept: dict[str, set[str]] = {rtype: set() for rtype in _CLEANUP_FUNCS}
    code = 0
    with open(fd, "rb") as pipe:
        for line in pipe:
            if not _note(line, kept):
                code = 3
    if waits_for is not None:
        import select

        select.select([waits_for], [], [])
        _forget_the_cleaned(kept)
    for rtype, names in kept.items():
        if names:
            code = code or 1
            _clean(rtype, sorted(names))
    sys.exit(code)


def _note(line: bytes, kept: dict[str, set[str]]) -> bool:
    """Take down one message; return whether it made sense."""
    from binascii import a2b_base64

    try:
        command, rtype, encoded = line.decode("ascii").rstrip("\n").split(":")
        name = os.fsdecode(a2b_base64(encoded))
        if command == "REGISTER":
            kept[rtype].add(name)
        elif command == "UNREGISTER":
            # Many programs unregister what they attached to, which the standard library's registers.
            kept[rtype].discard(name)
        elif command != "PROBE":
            raise RuntimeError(f"unrecognized command {command!r}")
    except Exception:
        sys.excepthook(*sys.exc_info())
        return False
    return True


def _forget_the_cleaned(kept: dict[str, set[str]]) -> None:
    """Strike out what another process has unlinked meanwhile: it told its own tracker."""
    names = kept["shared_memory"]
    for name in list(names):
        if not os.path.exists(f"/dev/shm/{name.lstrip('/')}"):
            names.remove(name)


def _clean(rtype: str, names: list[str]) -> None:
    _warn(
        f"resource_tracker: There appear to be {len(names)} leaked {rtype} objects "
        f"to clean up at shutdown: {', '.join(names)}"
    )
    for name in names:
        try:
            _CLEANUP_FUNCS[rtype](name)
        except Exception as error:
            _warn(f"resource_tracker: {name!r}: {error}")


def _warn(message: str) -> None:
    import warnings

    warnings.warn(message, UserWarning, stacklevel=1)
