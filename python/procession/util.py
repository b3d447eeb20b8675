"""Logging, finalizers, what runs after a fork, temporary files, closing descriptors."""

from __future__ import annotations

import _thread
import atexit
import itertools
import os
import sys
from _weakref import ref

from . import _procession, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import signal
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any
    from weakref import WeakValueDictionary
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = [
    "SUBDEBUG",
    "SUBWARNING",
    "Finalize",
    "ForkAwareLocal",
    "ForkAwareThreadLock",
    "close_all_fds_except",
    "debug",
    "get_deadlock_timeout",
    "get_logger",
    "get_temp_dir",
    "info",
    "is_exiting",
    "log_to_stderr",
    "register_after_fork",
    "set_deadlock_timeout",
    "sub_debug",
    "sub_warning",
    "warn",
]

# Logging: silent, and `logging` not even imported, until someone asks for the logger.

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25
WARNING = 30

LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

_logger: logging.Logger | None = None
_log_to_stderr = False


def sub_debug(msg: str, *args: object) -> None:
    """Log what interests those who work on this package only."""
    if _logger is not None:
        _logger.log(SUBDEBUG, msg, *args, stacklevel=2)


def debug(msg: str, *args: object) -> None:
    """Log at level DEBUG, if the package's logger is in use."""
    if _logger is not None:
        _logger.log(DEBUG, msg, *args, stacklevel=2)


def info(msg: str, *args: object) -> None:
    """Log at level INFO, if the package's logger is in use."""
    if _logger is not None:
        _logger.log(INFO, msg, *args, stacklevel=2)


def sub_warning(msg: str, *args: object) -> None:
    """Log between INFO and WARNING, if the package's logger is in use."""
    if _logger is not None:
        _logger.log(SUBWARNING, msg, *args, stacklevel=2)


def warn(msg: str, *args: object) -> None:
    """Log at level WARNING, if the package's logger is in use."""
    if _logger is not None:
        _logger.log(WARNING, msg, *args, stacklevel=2)


def get_logger() -> logging.Logger:
    """Return the logger of the package, named as the standard library's is."""
    global _logger
    if _logger is None:
        import logging

        logger = logging.getLogger(LOGGER_NAME)
        logger.propagate = False
        logging.addLevelName(SUBDEBUG, "SUBDEBUG")
        logging.addLevelName(SUBWARNING, "SUBWARNING")
        # Handlers run youngest first: ours logs, so it comes before logging's own.
        atexit.unregister(_exit_function)
        atexit.register(_exit_function)
        _logger = logger
    return _logger


def log_to_stderr(level: int | str | None = None) -> logging.Logger:
    """Add a handler that writes to stderr to the package's logger, and return the logger."""
    global _log_to_stderr
    import logging

    logger = get_logger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
    if level:
        logger.setLevel(level)
    _log_to_stderr = True
    return logger


# Waits that take long.


def set_deadlock_timeout(seconds: float | None) -> None:
    """Set after how long a wait is reported, for all processes of this family.

    A thread that has waited so long for a lock says so on the package's logger, as a warning: who
    holds the lock (process and thread), who else waits, and where it waits itself. Two or more
    threads that wait for each other's locks in a circle, and a thread that waits for a `Lock` it
    holds itself, are reported within about a second. Each wait is reported once. Until a handler is
    configured, warnings go to standard error.

    Until this is called, what can be held (`Lock`, `RLock`, `BoundedSemaphore`) is reported after 30
    seconds. Afterwards waits for other semaphores, conditions, events, barriers and in
    `JoinableQueue.join` are reported as well. `PROCESSION_DEADLOCK_TIMEOUT` in the environment, a
    number of seconds or "off", does the same from outside.

    Args:
        seconds: more than 0; None for no reports at all, of circles neither.

    Raises:
        ValueError: `seconds` is 0 or less.
    """
    _procession.set_deadlock_timeout(seconds)


def get_deadlock_timeout() -> float | None:
    """Return after how many seconds the wait for a lock is reported; None is never."""
    return _procession.deadlock_timeout()


def _report_wait(text: str) -> None:
    """Log what the engine found out about a wait of the calling thread, which goes on."""
    import linecache

    frame = sys._getframe(1)
    package = os.path.dirname(__file__)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame = frame.f_back
    name, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(name, line).strip()
    place = f'\n  here: File "{name}", line {line}, in {frame.f_code.co_name}'
    get_logger().warning("%s%s%s", text, place, f"\n    {source}" if source else "")


# Sockets and temporary files.


def is_abstract_socket_namespace(address: str | bytes | None) -> bool:
    """Return whether this AF_UNIX address is an abstract one: a name without a file."""
    if not address:
        return False
    if isinstance(address, bytes):
        return address[0] == 0
    if isinstance(address, str):
        return address[0] == "\0"
    raise TypeError(f"address type of {address!r} unrecognized: expected str or bytes")


abstract_sockets_supported = True


def get_temp_dir() -> str:
    """Return the directory for temporary files of this process and its children.

    Made on first use, and removed when the process that made it exits.
    """
    known = process.current_process()._config.get("tempdir")
    if known is not None:
        return str(known)
    import tempfile

    made = tempfile.mkdtemp(prefix="pymp-")
    info("created temp directory %s", made)
    Finalize(None, _remove_temp_dir, args=(made,), exitpriority=-100)
    process.current_process()._config["tempdir"] = made
    return made


def _remove_temp_dir(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    process.current_process()._config.pop("tempdir", None)


# What runs in a child right after the fork.

#: Made when it is first needed: few programs need it, and a child that starts afresh loads less.
_afterfork_registry: WeakValueDictionary[tuple[int, int, object], object]
_afterfork_counter = itertools.count()


def register_after_fork(obj: object, func: Callable[[Any], object]) -> None:
    """Have `func(obj)` called in each process that is forked from this one, while obj lives."""
    try:
        registry = _afterfork_registry
    except NameError:
        registry = __getattr__("_afterfork_registry")
    registry[next(_afterfork_counter), id(obj), func] = obj


def __getattr__(name: str) -> Any:
    global _afterfork_registry
    if name == "_afterfork_registry":
        from weakref import WeakValueDictionary

        _afterfork_registry = WeakValueDictionary()
        return _afterfork_registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _run_after_forkers() -> None:
    for (_index, _ident, func), obj in sorted(_afterfork_registry.items(), key=lambda item: item[0][:2]):
        try:
            func(obj)  # type: ignore[operator]
        except Exception as e:
            info("after forker raised exception %s", e)


def _after_fork() -> None:
    """Put the state of this module right in a child that we forked."""
    global _exiting
    _exiting = False
    _finalizer_registry.clear()
    registry: Any = globals().get("_afterfork_registry")
    if registry is not None and registry.data:
        _run_after_forkers()


class ForkAwareThreadLock:
    """A lock between threads that is free again in a forked child."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        register_after_fork(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self) -> None:
        self._lock = _thread.allocate_lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()


class ForkAwareLocal(_thread._local):
    """Thread-local attributes that a forked child starts without."""

    def __init__(self) -> None:
        register_after_fork(self, _clear_attributes)

    def __reduce__(self) -> tuple[type[ForkAwareLocal], tuple[()]]:
        return type(self), ()


def _clear_attributes(obj: Any) -> None:
    obj.__dict__.clear()


# Finalizers: by object, by priority at exit, in the process that made them only.

_finalizer_registry: dict[tuple[int | None, int], Finalize] = {}
_finalizer_counter = itertools.count()


class Finalize:
    """Call a function once: when an object is collected, at exit, or when called itself.

    Args:
        obj: the object whose collection calls it; None for exit only.
        callback: called with `args` and `kwargs`.
        args: its arguments.
        kwargs: its keyword arguments.
        exitpriority: when at exit, the highest first, at equal priority the youngest
            first; a negative one comes after the children have been joined. None: not at
            exit.
    """

    def __init__(
        self,
        obj: object,
        callback: Callable[..., object],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        exitpriority: int | None = None,
    ) -> None:
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(f"Exitpriority ({exitpriority!r}) must be None or int, not {type(exitpriority).__name__}")
        if obj is None and exitpriority is None:
            raise ValueError("Without object, exitpriority cannot be None")
        self._weakref = None if obj is None else ref(obj, self)
        self._callback: Callable[..., object] | None = callback
        self._args = tuple(args)
        self._kwargs = dict(kwargs or {})
        self._key = (exitpriority, next(_finalizer_counter))
        self._pid = os.getpid()
        _finalizer_registry[self._key] = self

    def __call__(
        self,
        wr: object = None,
        # Bound here: the module's own names may be gone when the interpreter ends.
        _registry: dict[tuple[int | None, int], Finalize] = _finalizer_registry,
        _getpid: Callable[[], int] = os.getpid,
    ) -> object:
        """Call the function, unless that has been done, or this is another process."""
        if _registry.pop(self._key, None) is None:
            return None
        callback, args, kwargs = self._callback, self._args, self._kwargs
        self._forget()
        if self._pid != _getpid() or callback is None:
            return None
        return callback(*args, **kwargs)

    def cancel(self) -> None:
        """Don't call the function any more."""
        if _finalizer_registry.pop(self._key, None) is not None:
            self._forget()

    def still_active(self) -> bool:
        """Return whether the function is yet to be called."""
        return self._key in _finalizer_registry

    def _forget(self) -> None:
        self._weakref = self._callback = None
        self._args = ()
        self._kwargs = {}

    def __repr__(self) -> str:
        name = type(self).__name__
        obj = self._weakref() if self._weakref is not None else None
        if self._callback is None:
            return f"<{name} object, dead>"
        described = f"callback={getattr(self._callback, '__name__', self._callback)}"
        if obj is not None:
            described += f", obj={type(obj).__name__}"
        if self._args:
            described += f", args={self._args}"
        if self._key[0] is not None:
            described += f", exitpriority={self._key[0]}"
        return f"<{name} object, {described}>"


def _run_finalizers(minpriority: int | None = None) -> None:
    """Run the finalizers that have a priority, of at least `minpriority` if given.

    One that raises is reported, and doesn't keep the others from running.
    """
    due = [
        (key[0], key[1])
        # A copy made in one step: other threads and the collector change the registry.
        for key in list(_finalizer_registry)
        if key[0] is not None and (minpriority is None or key[0] >= minpriority)
    ]
    for key in sorted(due, reverse=True):
        finalizer = _finalizer_registry.get(key)
        if finalizer is None:
            continue
        sub_debug("calling %s", finalizer)
        try:
            finalizer()
        except Exception:
            import traceback

            traceback.print_exc()


# Exit.

_exiting: bool | None = False


def is_exiting() -> bool:
    """Return whether this process is shutting down."""
    return bool(_exiting) or _exiting is None


def _exit_function() -> None:
    """Run finalizers, terminate daemonic children, join the others."""
    global _exiting
    if _exiting:
        return
    _exiting = True
    info("process shutting down")
    _run_finalizers(0)
    children = process.active_children()
    for child in children:
        if child.daemon and child._popen is not None:
            info("calling terminate() for daemon %s", child.name)
            child._popen.terminate()
    for child in children:
        info("calling join() for process %s", child.name)
        child.join()
    debug("running the remaining finalizers")
    _run_finalizers()
    forkserver = sys.modules.get(f"{__package__}.forkserver")
    if forkserver is not None:
        forkserver._forkserver._stop()


atexit.register(_exit_function)


# Standard streams and descriptors.


def _flush_std_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, replaced by something odd, or taken away


#: An empty standard input for the next forked child, if one was made: see `_null_input.py`.
_null_input: Any = None
_parents_input: Any = None


def _close_stdin() -> None:
    """Give a child an empty standard input: the terminal is its parent's to read."""
    global _null_input, _parents_input
    if sys.stdin is None:
        return
    if _null_input is not None and sys.stdin is sys.__stdin__:
        # Out of reach, and never touched again: to close it would have some thirty pages of memory copied.
        _parents_input = sys.stdin
        # The empty one is not the next child's too, which would be ours.
        sys.stdin = sys.__stdin__ = _null_input  # type: ignore[misc]
        _null_input = None
        return
    try:
        sys.stdin.close()
    except (OSError, ValueError):
        pass
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
        try:
            sys.stdin = open(fd, encoding="utf-8", closefd=False)
        except BaseException:
            os.close(fd)
            raise
    except (OSError, ValueError):
        pass


MAXFD = os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 256


def close_all_fds_except(fds: Iterable[int]) -> None:
    """Close every descriptor of this process but the given ones."""
    kept = sorted({*fds, -1, MAXFD})
    for low, high in itertools.pairwise(kept):
        os.closerange(low + 1, high)


def close_fds(*fds: int) -> None:
    """Close these descriptors."""
    for fd in fds:
        os.close(fd)


def spawnv_passfds(path: str | bytes, args: list[Any], passfds: Iterable[int]) -> int:
    """Start a program that inherits `passfds` besides the standard streams; return its pid.

    What signals this thread blocks, the program starts with blocked.
    """
    kept = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in sorted(set(passfds))]
    return os.posix_spawn(path, args, os.environ, file_actions=kept)


def start_server(command: list[Any], passfds: Iterable[int], ignored: Iterable[int]) -> int:
    """Start a program that will ignore some signals, and must not be hit by them before it can.

    It has to call `ignore_signals` with the same ones. Return its pid.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Raises what the handler of one that came just before does, when it has blocked the next.
        signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
        return spawnv_passfds(command[0], command, passfds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(ignored: Iterable[int]) -> None:
    """Ignore signals from here on: first thing in a program that `start_server` has started."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


#: The flags in `sys.flags` that an option without more sets, and the option.
_OPTIONS = {"optimize": "O", "debug": "d", "dont_write_bytecode": "B", "no_site": "S", "verbose": "v", "quiet": "q"}


def _args_from_interpreter_flags() -> list[str]:
    """Return the command-line options that give a new interpreter the flags of this one."""
    flags = sys.flags
    if sys.warnoptions or sys._xoptions or flags.dev_mode or flags.bytes_warning:
        # Knows what each version passes on of these. To load it takes longer than to start a process.
        import subprocess

        known: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        return known
    options = [f"-{option * getattr(flags, name)}" for name, option in _OPTIONS.items() if getattr(flags, name) > 0]
    if flags.isolated:
        options.append("-I")
    else:
        options += ["-E"] * flags.ignore_environment + ["-s"] * flags.no_user_site + ["-P"] * flags.safe_path
    return options


def _cleanup_tests() -> None:
    """Stop what this package keeps running in the background, and collect what is left."""
    import gc

    from . import forkserver, resource_tracker

    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()
    _run_finalizers()
    gc.collect()
    process._cleanup()
