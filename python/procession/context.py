"""Contexts: the whole interface of the package, bound to one way of starting processes."""

from __future__ import annotations

import _thread
import os
import sys

from . import _beside, process
from ._errors import AuthenticationError, BufferTooShort, ProcessError, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any, Literal

    from . import pool, queues, synchronize
    from .connection import Connection
    from .managers import SyncManager
    from .popen_fork import Popen

__all__ = [
    "BaseContext",
    "DefaultContext",
    "ForkContext",
    "ForkProcess",
    "ForkServerContext",
    "ForkServerProcess",
    "Process",
    "SpawnContext",
    "SpawnProcess",
    "assert_spawning",
    "get_spawning_popen",
    "set_spawning_popen",
]


class _Rooted:
    """Lets `BaseContext` change its bases, which a direct child of `object` can't."""


class BaseContext(_Rooted):
    """The interface of the package, with a start method of its own or the default one."""

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    Process: type[process.BaseProcess]
    _name: str

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # Libraries ask isinstance(context, multiprocessing.context.BaseContext). When the
        # standard library's class is there to be asked about, ours becomes a subclass of
        # it. The first such question only looks at a class other than type(self).
        cls = type(self)
        if _join_standard():
            return type(cls.__name__, (cls,), {})
        return cls

    def __reduce__(self) -> str | tuple[Any, ...]:
        return _context_of, (self._name,)

    def cpu_count(self) -> int:
        """Return how many CPUs the machine has.

        How many of them this process may use, `len(os.sched_getaffinity(0))` tells.
        """
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("cannot determine number of cpus")
        return count

    def Manager(self) -> SyncManager:
        """Return a started manager: its server process holds objects for others to share."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Return two connected connections: both ways, or (receiving end, sending end)."""
        from .connection import Pipe

        return Pipe(duplex)

    def Lock(self, *, on_owner_death: Literal["warn", "raise", "ignore"] = "warn") -> synchronize.Lock:
        """Return a lock. It may travel to other processes at any time, by any way.

        Args:
            on_owner_death: how who acquires it next is told that its owner has died; see `synchronize.Lock`.
        """
        from .synchronize import Lock

        return Lock(ctx=self.get_context(), on_owner_death=on_owner_death)

    def RLock(self, *, on_owner_death: Literal["warn", "raise", "ignore"] = "warn") -> synchronize.RLock:
        """Return a lock that its owner may acquire again.

        Args:
            on_owner_death: how who acquires it next is told that its owner has died; see `synchronize.Lock`.
        """
        from .synchronize import RLock

        return RLock(ctx=self.get_context(), on_owner_death=on_owner_death)

    def Condition(self, lock: synchronize.Lock | synchronize.RLock | None = None) -> synchronize.Condition:
        """Return a condition variable, with an RLock of its own or with `lock`."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:
        """Return a semaphore."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore:
        """Return a semaphore that refuses to exceed its initial value."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> synchronize.Event:
        """Return an event: a flag that processes can wait for."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> synchronize.Barrier:
        """Return a barrier that opens when `parties` processes or threads wait at it."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> queues.Queue[Any]:
        """Return a queue, bounded if `maxsize` is positive."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> queues.JoinableQueue[Any]:
        """Return a queue with `task_done()` and `join()`."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> queues.SimpleQueue[Any]:
        """Return an unbounded queue with little more than `put` and `get`."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **options: Any,
    ) -> pool.Pool:
        """Return a pool of worker processes; `options` are those of `procession.pool.Pool`."""
        context = self.get_context()
        if context.get_start_method() == "forkserver":
            # It boots while this process loads what a pool is made of.
            from . import forkserver

            forkserver.ensure_running()
        from .pool import Pool

        return Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context=context,
            **options,
        )

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Return a ctypes object in shared memory, without a lock."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """Return a ctypes array in shared memory, without a lock."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a ctypes object in shared memory, by default with a lock round it."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
        """Return a ctypes array in shared memory, by default with a lock round it."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def freeze_support(self) -> None:
        """Run as a child, if a frozen executable was started as one; else do nothing."""
        if getattr(sys, "frozen", False):
            from .spawn import freeze_support

            freeze_support()

    def get_logger(self) -> Any:
        """Return the logger of the package."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: int | str | None = None) -> Any:
        """Log to stderr from here on, and return the logger."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def allow_connection_pickling(self) -> None:
        """Do nothing: our connections and the standard library's sockets always pickle."""

    def set_executable(self, executable: str | bytes | os.PathLike[Any]) -> None:
        """Start children by `spawn` and `forkserver` with this Python interpreter."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(self, module_names: list[str], *, on_error: str = "ignore") -> None:
        """Have the fork server import these modules before it forks children.

        `on_error` says what comes of a module that can't be imported: "ignore", "warn" or "fail"; see
        `ForkServer.set_forkserver_preload`.
        """
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names, on_error=on_error)

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method; without one, this context.

        Raises:
            ValueError: if there is no such start method.
        """
        if method is None:
            return self
        return _concrete(method)

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of this context's start method."""
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Raise ValueError: a concrete context keeps its start method."""
        raise ValueError(
            f"cannot set start method of concrete context ({self._name}): call procession.set_start_method()"
        )

    @property
    def reducer(self) -> Any:
        """The module, or the AbstractReducer, that pickles what goes to children."""
        return _reducer if _reducer is not None else _default_reducer()

    @reducer.setter
    def reducer(self, reduction: Any) -> None:
        global _reducer
        _reducer = reduction

    def _check_available(self) -> None:
        """Do nothing: all start methods exist on Linux."""


class Process(process.BaseProcess):
    """A process, started by the default start method."""

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        popen: Popen = _default_context.get_context().Process._Popen(process_obj)
        return popen


class DefaultContext(BaseContext):
    """The context of the module's own functions: its start method can be set, once."""

    Process = Process
    _name = "default"

    def __init__(self, context: BaseContext | None = None) -> None:
        self._default_context = context
        self._actual_context: BaseContext | None = None

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method; without one, of the one in force."""
        if method is not None:
            return _concrete(method)
        if self._actual_context is None:
            self._actual_context = self._default()
        return self._actual_context

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Set the start method for the whole program.

        Raises:
            RuntimeError: if it is set already, be it by use, and `force` isn't true.
            ValueError: if there is no such start method.
        """
        if self._actual_context is not None and not force:
            raise RuntimeError(
                f"context has already been set (to {self._actual_context._name!r}): call "
                "set_start_method() once, before anything is started, or pass force=True"
            )
        if method is None and force:
            self._actual_context = None
            return
        self._actual_context = self._default() if method is None else _concrete(method)

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method in force, which also settles it.

        With `allow_none`, return None if it isn't settled, and leave it so.
        """
        if self._actual_context is None:
            if allow_none:
                return None
            self._actual_context = self._default()
        return self._actual_context._name

    def get_all_start_methods(self) -> list[str]:
        """Return the names of the start methods, the default one first."""
        if sys.version_info >= (3, 14):
            return ["forkserver", "fork", "spawn"]
        return ["fork", "spawn", "forkserver"]

    def _default(self) -> BaseContext:
        """Return the context to use if nobody sets one.

        That of `$PROCESSION_START_METHOD`, else the one that this Python documents.
        """
        if self._default_context is None:
            method = os.environ.get("PROCESSION_START_METHOD") or self.get_all_start_methods()[0]
            try:
                self._default_context = _concrete(method)
            except ValueError as error:
                raise ValueError(f"in $PROCESSION_START_METHOD: {error}") from None
        return self._default_context


class ForkProcess(process.BaseProcess):
    """A process that starts as a copy of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(process.BaseProcess):
    """A process that starts as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        from .popen_spawn_posix import Popen

        return Popen(process_obj)


class ForkServerProcess(process.BaseProcess):
    """A process that starts as a copy of the fork server."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        from .popen_forkserver import Popen

        return Popen(process_obj)


class ForkContext(BaseContext):
    """The context whose processes start by fork."""

    Process = ForkProcess
    _name = "fork"


class SpawnContext(BaseContext):
    """The context whose processes start as fresh interpreters."""

    Process = SpawnProcess
    _name = "spawn"


class ForkServerContext(BaseContext):
    """The context whose processes are forked by the fork server."""

    Process = ForkServerProcess
    _name = "forkserver"


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}
_default_context = DefaultContext()


def _concrete(method: str | None) -> BaseContext:
    try:
        return _concrete_contexts[method]  # type: ignore[index]
    except (KeyError, TypeError):
        raise ValueError(
            f"cannot find context for {method!r}: the start methods are {', '.join(_concrete_contexts)}"
        ) from None


def _context_of(name: str) -> BaseContext:
    """Rebuild a pickled context: there is one of each in a process."""
    return _concrete_contexts.get(name, _default_context)


def _force_start_method(method: str) -> None:
    _default_context._actual_context = _concrete(method)


_joined = False


def _join_standard() -> bool:
    """Make our contexts instances of the standard library's `BaseContext`, if it is loaded.

    Return whether this call did it.
    """
    global _joined
    if _joined:
        return False
    standard = _beside.standard("context")
    if standard is None or not hasattr(standard, "DefaultContext"):
        return False  # not loaded, or just being loaded
    _joined = True
    BaseContext.__bases__ = (_Rooted, standard.BaseContext)
    return True


# Pickling on the way to a child.

_reducer: Any = None


def _default_reducer() -> ModuleType:
    from . import reduction

    return reduction


_tls = _thread._local()


def get_spawning_popen() -> Any:
    """Return the `Popen` that is being started by this thread, or None."""
    return getattr(_tls, "spawning_popen", None)


def set_spawning_popen(popen: Any) -> None:
    """Say which `Popen` is being started by this thread."""
    _tls.spawning_popen = popen


def assert_spawning(obj: object) -> None:
    """Raise RuntimeError unless this thread is starting a process."""
    if get_spawning_popen() is None:
        raise RuntimeError(
            f"{type(obj).__name__} objects should only be shared between processes "
            "through inheritance: pass it as an argument of Process"
        )


class spawning:
    """With this, what is pickled is on its way to the child that `popen` starts."""

    def __init__(self, popen: Any) -> None:
        self._popen = popen

    def __enter__(self) -> None:
        self._before = get_spawning_popen()
        set_spawning_popen(self._popen)
        self._standard = _beside.set_spawning(self._popen)

    def __exit__(self, *args: object) -> None:
        set_spawning_popen(self._before)
        _beside.set_spawning(self._standard)


def __getattr__(name: str) -> Any:
    # Programs name the module by way of this one, which loads it only when a process is started.
    if name == "reduction":
        from . import reduction

        return reduction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
