"""Processes: the class `Process` without its start method, and who we and our parent are."""

from __future__ import annotations

import itertools
import os

from . import _beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any
    from weakref import WeakSet

    from .popen_fork import Popen
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]

#: Where this program was started: relative paths of scripts and modules are meant from here.
ORIGINAL_DIR: str | None
try:
    ORIGINAL_DIR = os.path.abspath(os.getcwd())
except OSError:
    ORIGINAL_DIR = None


def current_process() -> BaseProcess:
    """Return the object of the process that calls this."""
    return _current_process


def active_children() -> list[BaseProcess]:
    """Return the live children of this process, and join those that have ended."""
    _cleanup()
    return list(_children)


def parent_process() -> _ParentProcess | None:
    """Return the object of the process that started this one; None in the main process."""
    return _parent_process


def _cleanup() -> None:
    """Forget the children that have ended."""
    for child in list(_children):
        popen = child._popen
        if popen is not None and popen.poll() is not None:
            _children.discard(child)


class BaseProcess:
    """A process of its own that runs a function; the start method is the subclass's.

    Behaves as `multiprocessing.Process` is documented. What is wrong with a call is said in
    the exception, whose type is the documented one.
    """

    _start_method: str | None = None
    #: What it is in the family: "process", "worker" (of a pool) or "server" (of a manager).
    _role = "process"

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        if group is not None:
            raise AssertionError("group argument must be None for now: process groups are not implemented")
        count = next(_process_counter)
        self._identity: tuple[int, ...] = (*_current_process._identity, count)
        self._config: dict[str, Any] = _current_process._config.copy()
        self._parent_pid: int | None = os.getpid()
        self._parent_name: str | None = _current_process.name
        self._popen: Popen | None = None
        self._closed = False
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs) if kwargs is not None else {}
        self._name = name or f"{type(self).__name__}-{':'.join(map(str, self._identity))}"
        if daemon is not None:
            self.daemon = daemon
        try:
            _dangling.add(self)
        except NameError:
            __getattr__("_dangling").add(self)

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        raise NotImplementedError("BaseProcess has no start method: use procession.Process or get_context().Process")

    def run(self) -> None:
        """Call the target; override it in a subclass to do something else in the child."""
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Start the process: arrange for `run()` to be called in it.

        Raises:
            AssertionError: if it was started before, by another process's object, or if
                this process is daemonic (such a process may not have children).
            pickle.PicklingError, TypeError, AttributeError: by `spawn` and `forkserver`, if
                an argument can't be pickled. The message names the argument.
            RuntimeError: if this process is still importing its main module.
        """
        self._check_closed()
        if self._popen is not None:
            raise AssertionError(f"cannot start {self._name!r} twice: make a new Process object for each start")
        if self._parent_pid != os.getpid():
            raise AssertionError(
                "can only start a process object created by the current process: "
                f"{self._name!r} was made by process {self._parent_pid}"
            )
        if _current_process._config.get("daemon"):
            raise AssertionError(
                "daemonic processes are not allowed to have children: start "
                f"{_current_process.name!r} with daemon=False, or start {self._name!r} elsewhere"
            )
        _cleanup()
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel
        # The arguments may refer back to this object, and now they are the child's.
        del self._target, self._args, self._kwargs
        _children.add(self)

    def terminate(self) -> None:
        """Send SIGTERM to the process: exit handlers and `finally` clauses don't run there."""
        self._started("terminate").terminate()

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self._started("kill").kill()

    def interrupt(self) -> None:
        """Send SIGINT to the process, which raises KeyboardInterrupt in its main thread.

        Left alone, that ends the process with exit code 1. Present with every Python, not
        from 3.14 alone.
        """
        self._started("interrupt").interrupt()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, or `timeout` seconds have passed.

        Raises:
            AssertionError: if it was not started, or not by this process.
        """
        popen = self._popen
        if popen is None or self._closed or self._parent_pid != os.getpid() or self is _current_process:
            popen = self._started("join")
            self._check_parent("join")
        if popen.wait(timeout) is not None:
            _children.discard(self)

    def is_alive(self) -> bool:
        """Return whether the process runs: from the end of `start()` until it has ended."""
        self._check_closed()
        if self is _current_process:
            return True
        self._check_parent("test")
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return True
        _children.discard(self)
        return False

    def close(self) -> None:
        """Give back what this object holds; most methods then raise ValueError.

        Raises:
            ValueError: if the process still runs.
        """
        if self._popen is not None:
            if self._popen.poll() is None:
                raise ValueError(
                    f"cannot close {self._name!r} while it is still running: "
                    "you should first call join() or terminate()"
                )
            self._popen.close()
            self._popen = None
            del self._sentinel
            _children.discard(self)
        self._closed = True

    @property
    def name(self) -> str:
        """The name, for people to read; it need not be unique."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str):
            raise AssertionError(f"name must be a string, not {type(name).__name__}")
        self._name = name
        if self is _current_process:
            _forget_what_children_see()

    @property
    def daemon(self) -> bool:
        """Whether the process ends with its parent.

        Also when the parent is killed: the standard library's then stays behind.
        """
        return bool(self._config.get("daemon", False))

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        if self._popen is not None:
            raise AssertionError(f"{self._name!r} has already started: set daemon before start()")
        self._config["daemon"] = daemonic

    @property
    def authkey(self) -> AuthenticationString:
        """The key that connections between the processes of a family prove to know."""
        key: AuthenticationString = self._config["authkey"]
        return key

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._config["authkey"] = AuthenticationString(authkey)

    @property
    def exitcode(self) -> int | None:
        """The exit code; -N after signal N; None until the process has ended.

        255 if nobody can tell: it was started by a fork server that was then killed, and
        was killed itself.
        """
        self._check_closed()
        if self is _current_process:
            return None
        if self._popen is None or self._parent_pid != os.getpid():
            return None if self._popen is None else self._popen.returncode
        return self._popen.poll()

    @property
    def ident(self) -> int | None:
        """The process id; None before `start()`."""
        self._check_closed()
        if self is _current_process:
            return os.getpid()
        return None if self._popen is None else self._popen.pid

    pid = ident

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes ready when the process ends: a pidfd.

        Raises:
            ValueError: before `start()`.
        """
        self._check_closed()
        try:
            return self._sentinel
        except AttributeError:
            raise ValueError(f"{self._name!r} is not started: it has no sentinel yet") from None

    def __repr__(self) -> str:
        exitcode = None
        if self is _current_process:
            status = "started"
        elif self._closed:
            status = "closed"
        elif self._parent_pid != os.getpid():
            status = "unknown"
        elif self._popen is None:
            status = "initial"
        else:
            exitcode = self._popen.poll()
            status = "started" if exitcode is None else "stopped"
        info = [type(self).__name__, f"name={self._name!r}"]
        if self._popen is not None:
            info.append(f"pid={self._popen.pid}")
        info.append(f"parent={self._parent_pid}")
        info.append(status)
        if exitcode is not None:
            info.append(f"exitcode={_exitcode_to_name.get(exitcode, exitcode)}")
        if self.daemon:
            info.append("daemon")
        return f"<{' '.join(info)}>"

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError(f"process object {self._name!r} is closed")

    def _check_parent(self, verb: str) -> None:
        if self._parent_pid != os.getpid():
            raise AssertionError(
                f"can only {verb} a child process: {self._name!r} belongs to "
                f"process {self._parent_pid}, this is process {os.getpid()}"
            )

    def _started(self, verb: str) -> Popen:
        """Return the running side of this object, if it can be used to `verb` the process.

        That of a process forked by the parent is a copy, by which it can send signals, but not wait.
        """
        self._check_closed()
        if self is _current_process:
            raise AssertionError(f"can only {verb} a child process, not the current process")
        if self._popen is None:
            self._check_parent(verb)
            raise AssertionError(f"can only {verb} a started process: call {self._name!r}.start() first")
        return self._popen

    # In the child.

    def _bootstrap(
        self, parent_sentinel: int | None = None, *, forked: bool = False, held: set[Any] | None = None
    ) -> int:
        """Become this process: run, clean up, and return the exit code."""
        code: int = _run(self, parent_sentinel, forked=forked, held=held)
        return code


class AuthenticationString(bytes):
    """A key that may only be pickled on its way to a child."""

    def __reduce__(self) -> tuple[type[AuthenticationString], tuple[bytes]]:
        from .context import get_spawning_popen

        if get_spawning_popen() is None:
            raise TypeError(
                "Pickling an AuthenticationString object is disallowed for security reasons: "
                "give the other side the key as bytes(key), by a way you trust"
            )
        return AuthenticationString, (bytes(self),)


class _ParentProcess(BaseProcess):
    """The process that started this one."""

    def __init__(self, name: str | None, pid: int | None) -> None:
        self._identity = ()
        self._name = name or "unknown"
        self._pid = pid
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {}

    def is_alive(self) -> bool:
        """Return whether the parent still runs."""
        return not self._ended(0)

    @property
    def ident(self) -> int | None:
        """The parent's process id."""
        return self._pid

    pid = ident

    def join(self, timeout: float | None = None) -> None:
        """Wait until the parent has ended, or `timeout` seconds have passed."""
        self._ended(timeout)

    def _ended(self, timeout: float | None) -> bool:
        from ._pidfd import wait_readable

        return wait_readable(self.sentinel, timeout)


class _MainProcess(BaseProcess):
    """The process that nobody of this family started."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        # The standard library's key, if it has one already: it may be its process, with proxies of ours sent to it.
        key = _beside.secret() or os.urandom(32)
        self._config = {"authkey": AuthenticationString(key), "daemon": False}

    def close(self) -> None:
        """Do nothing: the main process isn't ours to close."""


_parent_process: _ParentProcess | None = None
#: This process as its next forked child sees it.
_seen_by_children: _ParentProcess | None = None
_current_process: BaseProcess = _MainProcess()
_process_counter: Iterator[int] = itertools.count(1)
_children: set[BaseProcess] = set()
#: All process objects, for who looks for leaks. Made with the first: most children have none.
_dangling: WeakSet[BaseProcess]


def __getattr__(name: str) -> Any:
    global _dangling
    if name == "_dangling":
        from _weakrefset import WeakSet

        _dangling = WeakSet()
        return _dangling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


#: What a child does: `_bootstrap.run`, which that module puts here. An import statement would cost a
#: forked child more than all that it does in this module.
_run: Any = None

_exitcode_to_name: dict[int, str] = {
    -number: f"-{name}" for name, number in signal.__dict__.items() if name[:3] == "SIG" and "_" not in name
}


def _become(process: BaseProcess, parent_sentinel: int | None) -> None:
    """Set who we are, at the start of a child."""
    global _children, _current_process, _parent_process, _process_counter, _seen_by_children
    _process_counter = itertools.count(1)
    _children = set()
    _current_process = process
    parent, _seen_by_children = _seen_by_children, None
    # One that an `os.fork` has left behind is somebody else's.
    if parent is None or parent._pid != process._parent_pid:
        parent = _ParentProcess(process._parent_name, process._parent_pid)
    if parent_sentinel is not None:
        parent._sentinel = parent_sentinel
    _parent_process = parent


def _prepare_for_fork() -> None:
    """Make now what a forked child would have to make: each page of memory that it writes to is a copy first."""
    global _seen_by_children
    _seen_by_children = _ParentProcess(_current_process._name, os.getpid())


def _forget_what_children_see() -> None:
    global _seen_by_children
    _seen_by_children = None


def _after_fork_in_child() -> None:
    """Forget the children after any fork, `os.fork()` included: they are the parent's."""
    global _children
    _children = set()


os.register_at_fork(after_in_child=_after_fork_in_child)
