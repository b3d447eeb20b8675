"""Proxies: objects whose methods are carried out by an object in a manager's server."""

from __future__ import annotations

import os
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from . import _managers_wire as wire
from . import process, util
from ._managers_wire import ManagerDied, Token

if TYPE_CHECKING:
    from ._managers_server import Entry
    from .managers import BaseManager

__all__ = [
    "AcquirerProxy",
    "ArrayProxy",
    "AutoProxy",
    "BarrierProxy",
    "BaseProxy",
    "ConditionProxy",
    "EventProxy",
    "IteratorProxy",
    "MakeProxyType",
    "NamespaceProxy",
    "PoolProxy",
    "RebuildProxy",
    "ValueProxy",
]

_R = TypeVar("_R")


class _Link(threading.local):
    """This thread's connection to one server."""

    connection: Any = None
    # The process that opened it: to a forked child it is another's.
    pid: int = 0


class _Home:
    """What this process knows of one server."""

    def __init__(self) -> None:
        self.link = _Link()
        # Those that have yet to give their reference back. Only changed by operations that are
        # one step: a proxy may be collected at any moment.
        self.proxies: set[object] = set()

    def forget_others(self) -> None:
        """Let go of a connection that is that of the process that this one was forked from."""
        if self.link.pid != os.getpid():
            self.link.connection = None

    def hang_up(self) -> None:
        """Close this thread's connection."""
        connection, self.link.connection = self.link.connection, None
        if connection is not None:
            connection.close()


class BaseProxy:
    """What all proxies have in common.

    A proxy refers to an object in a manager's server; the object lives for as long as some proxy
    does. Proxies can be pickled, and stored in other shared objects.

    When the server has died, every call raises an error at once: one that is a
    ConnectionResetError, a BrokenPipeError and an EOFError.

    Args:
        token: names the object.
        serializer: how requests travel.
        manager: whose server it is, if this process knows.
        authkey: the server's key; by default the manager's, or this process's.
        exposed: the methods that can be called.
        incref: whether the proxy keeps the object alive.
        manager_owned: whether the proxy is in the server itself.
    """

    _exposed_: ClassVar[tuple[str, ...]] = ()
    _method_to_typeid_: ClassVar[dict[str, str]] = {}

    # By address. A home lives for as long as there are proxies of its server.
    _homes: ClassVar[weakref.WeakValueDictionary[Any, _Home]] = weakref.WeakValueDictionary()

    _isauto: bool = False
    _token: Token
    _close: util.Finalize | None = None

    def __init__(
        self,
        token: Token,
        serializer: str,
        manager: BaseManager | None = None,
        authkey: bytes | None = None,
        exposed: Iterable[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        self._home = BaseProxy._homes.setdefault(token.address, _Home())
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._Client = wire.listener_client[serializer][1]
        self._owned_by_manager = manager_owned
        # In the server itself: the object, which lives for as long as this proxy.
        self._entry: Entry | None = None
        if authkey is None:
            authkey = manager._authkey if manager is not None else process.current_process().authkey
        self._authkey = process.AuthenticationString(authkey)
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    # --- calls -----------------------------------------------------------------------------------

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
        """Call a method of the object and return a copy of its result, or a proxy for it.

        Args:
            methodname: the method; it must be among those exposed.
            args: its positional arguments.
            kwds: its keyword arguments.

        Raises:
            RemoteError: the method is not exposed, or something else went wrong in the server.
            ConnectionError: the server has died.
            Exception: whatever the method raises; the traceback in the server is its cause.
        """
        conn = self._connection()
        try:
            conn.send((self._id, methodname, args, kwds))
            kind, result = conn.recv()
        except (EOFError, ConnectionError) as error:
            self._home.hang_up()
            raise self._died() from error
        except Exception:
            raise  # not to be pickled, or to be unpickled: the connection is in order
        except BaseException:
            # Interrupted. The answer, when it comes, must not be taken for that of another call.
            self._home.hang_up()
            raise
        if kind == wire.RETURN:
            return result
        if kind == wire.PROXY:
            exposed, token = result
            token.address = self._token.address
            token.held = True
            return self._make(token, exposed)
        try:
            raise wire.convert_to_error(kind, result)
        finally:
            del result  # the error's traceback refers to this frame: no cycle

    def _getvalue(self) -> Any:
        """A copy of the object."""
        return self._callmethod(wire.GETVALUE)

    def _make(self, token: Token, exposed: Iterable[str]) -> Any:
        """A proxy for what a method has returned."""
        if self._manager is not None:
            registry = self._manager._registry
        else:  # this proxy has come from another process: the usual types are known by name
            from .managers import SyncManager

            registry = SyncManager._registry
        maker = registry[token.typeid][3] if token.typeid in registry else AutoProxy
        return make_proxy(maker, token, self._serializer, self._manager, self._authkey, exposed, self._Client)

    # --- connections -----------------------------------------------------------------------------

    def _connection(self) -> Any:
        """This thread's connection to the server."""
        self._home.forget_others()
        conn = self._home.link.connection
        if conn is None:
            return self._connect()
        if conn.poll(0):  # though nothing was asked for: the server has gone
            self._home.hang_up()
            return self._connect()
        return conn

    def _connect(self) -> Any:
        util.debug("making connection to manager")
        name = process.current_process().name
        if threading.current_thread() is not threading.main_thread():
            name += "|" + threading.current_thread().name
        try:
            conn = wire.be_accepted(lambda: self._Client(self._token.address, authkey=bytes(self._authkey)), name)
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            raise self._died() from error
        link = self._home.link
        link.connection, link.pid = conn, os.getpid()
        return conn

    def _died(self) -> ManagerDied:
        return ManagerDied(
            f"the manager's server at {self._token.address!r} is gone, and with it the "
            f"{self._token.typeid!r} that this proxy refers to"
        )

    # --- references ------------------------------------------------------------------------------

    def _incref(self) -> None:
        if self._owned_by_manager:
            return
        if self._token.held:  # the server has counted this one already
            self._token.held = False
        else:
            with self._Client(self._token.address, authkey=bytes(self._authkey)) as conn:
                wire.dispatch(conn, None, "incref", (self._id,))
        key = object()
        self._home.proxies.add(key)
        state = self._manager._state if self._manager is not None else None
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(self._token, self._authkey, state, self._home, key, self._Client),
            exitpriority=10,
        )

    @staticmethod
    def _decref(token: Token, authkey: bytes, state: Any, home: _Home, key: object, Client: Any) -> None:
        home.proxies.discard(key)
        if state is None or state.value == wire.State.STARTED:
            try:
                with Client(token.address, authkey=bytes(authkey)) as conn:
                    wire.dispatch(conn, None, "decref", (token.id,))
            except Exception as error:
                util.debug("cannot give the reference to %s back: %s", token, error)
        if not home.proxies:
            home.hang_up()

    def _after_fork(self) -> None:
        self._manager = None
        self._home.forget_others()
        try:
            self._incref()
        except Exception as error:
            util.info("a proxy for %s has no reference in this process: %s", self._token, error)

    # --- the proxy as an object ------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        from .context import get_spawning_popen

        kwds: dict[str, Any] = {}
        if get_spawning_popen() is not None:
            kwds["authkey"] = self._authkey
        if self._entry is not None:
            server = getattr(process.current_process(), "_manager_server", None)
            if server is not None:
                server.pickled_here(self._entry)
        maker: Any = type(self)
        if self._isauto:
            maker = AutoProxy
            kwds["exposed"] = self._exposed_
        return RebuildProxy, (maker, self._token, self._serializer, kwds)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        """The representation of the object, not of the proxy."""
        try:
            return str(self._callmethod("__repr__"))
        except Exception:
            return repr(self)[:-1] + "; '__str__()' failed>"


def RebuildProxy(func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]) -> Any:
    """The proxy that was pickled, in the process that unpickles it."""
    server = getattr(process.current_process(), "_manager_server", None)
    if server is not None and server.address == token.address:
        entry = server.entry(token.id)
        kwds = {**kwds, "authkey": server.authkey, "incref": False, "manager_owned": True}
        proxy = func(token, serializer, **kwds)
        proxy._entry = entry
        return proxy
    return func(token, serializer, **kwds)


def make_proxy(
    maker: Callable[..., Any],
    token: Token,
    serializer: str,
    manager: BaseManager | None,
    authkey: bytes,
    exposed: Iterable[str] | None,
    Client: Any,
) -> Any:
    """A proxy by its type, or by another function that takes the same arguments.

    The server has counted a reference for it. Should the function not want that, it goes back.
    """
    try:
        return maker(token, serializer, manager=manager, authkey=authkey, exposed=exposed)
    finally:
        if token.held:
            token.held = False
            with Client(token.address, authkey=bytes(authkey)) as conn:
                wire.dispatch(conn, None, "decref", (token.id,))


# --- proxy types by their methods' names ---------------------------------------------------------

_made: dict[tuple[str, tuple[str, ...]], type[BaseProxy]] = {}


def MakeProxyType(name: str, exposed: Iterable[str], _cache: dict[Any, Any] = _made) -> type[BaseProxy]:
    """A proxy type of this name, with methods that call those of these names."""
    methods = tuple(exposed)
    made = _cache.get((name, methods))
    if made is None:
        namespace: dict[str, Any] = {method: _remote_method(method) for method in methods}
        namespace["_exposed_"] = methods
        made = _cache[name, methods] = type(name, (BaseProxy,), namespace)
    return made


def _remote_method(name: str) -> Callable[..., Any]:
    def call(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    call.__name__ = call.__qualname__ = name
    return call


def AutoProxy(
    token: Token,
    serializer: str,
    manager: BaseManager | None = None,
    authkey: bytes | None = None,
    exposed: Iterable[str] | None = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> BaseProxy:
    """A proxy with all the methods that the object exposes; asks the server which, if need be."""
    if authkey is None:
        authkey = manager._authkey if manager is not None else process.current_process().authkey
    if exposed is None:
        client = wire.listener_client[serializer][1]
        with client(token.address, authkey=bytes(authkey)) as conn:
            exposed = wire.dispatch(conn, None, "get_methods", (token,))
    cls = MakeProxyType(f"AutoProxy[{token.typeid}]", sorted(exposed or ()))
    proxy = cls(
        token,
        serializer,
        manager=manager,
        authkey=authkey,
        incref=incref,
        manager_owned=manager_owned,
    )
    proxy._isauto = True
    return proxy


# --- proxies for what has no value ---------------------------------------------------------------


class IteratorProxy(BaseProxy):
    """An iterator, or a generator."""

    _exposed_ = ("__next__", "send", "throw", "close")

    def __iter__(self) -> Self:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        """Send a value into the generator."""
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        """Raise an exception in the generator."""
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        """End the generator."""
        return self._callmethod("close", args)


class AcquirerProxy(BaseProxy):
    """A lock or a semaphore. In the server, each thread of a client is a thread of its own."""

    _exposed_: ClassVar[tuple[str, ...]] = ("acquire", "release", "locked")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire it; return whether that succeeded in time."""
        args = (blocking,) if timeout is None else (blocking, timeout)
        return bool(self._callmethod("acquire", args))

    def release(self) -> None:
        """Release it."""
        return self._callmethod("release")  # type: ignore[no-any-return]

    def locked(self) -> bool:
        """Whether it is held. For an RLock, Python 3.14 is needed."""
        return bool(self._callmethod("locked"))

    def __enter__(self) -> Any:
        return self._callmethod("acquire")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._callmethod("release")


class ConditionProxy(AcquirerProxy):
    """A condition variable."""

    _exposed_ = ("acquire", "release", "wait", "notify", "notify_all")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified; return whether that happened in time."""
        return bool(self._callmethod("wait", (timeout,)))

    def notify(self, n: int = 1) -> None:
        """Wake up to ``n`` of those who wait."""
        return self._callmethod("notify", (n,))  # type: ignore[no-any-return]

    def notify_all(self) -> None:
        """Wake all who wait."""
        return self._callmethod("notify_all")  # type: ignore[no-any-return]

    def wait_for(self, predicate: Callable[[], _R], timeout: float | None = None) -> _R:
        """Wait until the predicate, which is called in this process, is true; return its value."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class EventProxy(BaseProxy):
    """An event."""

    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self) -> bool:
        """Whether it is set."""
        return bool(self._callmethod("is_set"))

    def set(self) -> None:
        """Set it, and wake all who wait."""
        return self._callmethod("set")  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Unset it."""
        return self._callmethod("clear")  # type: ignore[no-any-return]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return whether that happened in time."""
        return bool(self._callmethod("wait", (timeout,)))


class BarrierProxy(BaseProxy):
    """A barrier."""

    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the others; return which of them this one is."""
        return int(self._callmethod("wait", (timeout,)))

    def abort(self) -> None:
        """Break the barrier."""
        return self._callmethod("abort")  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Make it whole again; who waits gets BrokenBarrierError."""
        return self._callmethod("reset")  # type: ignore[no-any-return]

    @property
    def parties(self) -> int:
        """How many it waits for."""
        return int(self._callmethod("__getattribute__", ("parties",)))

    @property
    def n_waiting(self) -> int:
        """How many are waiting."""
        return int(self._callmethod("__getattribute__", ("n_waiting",)))

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return bool(self._callmethod("__getattribute__", ("broken",)))


class PoolProxy(BaseProxy):
    """A pool of processes, which are children of the manager's server."""

    _exposed_ = (
        "apply", "apply_async", "close", "imap", "imap_unordered", "join", "map", "map_async",
        "starmap", "starmap_async", "terminate",
    )  # fmt: skip
    _method_to_typeid_: ClassVar[dict[str, str]] = {
        "apply_async": "AsyncResult",
        "map_async": "AsyncResult",
        "starmap_async": "AsyncResult",
        "imap": "Iterator",
        "imap_unordered": "Iterator",
    }

    apply = _remote_method("apply")
    apply_async = _remote_method("apply_async")
    close = _remote_method("close")
    imap = _remote_method("imap")
    imap_unordered = _remote_method("imap_unordered")
    join = _remote_method("join")
    map = _remote_method("map")
    map_async = _remote_method("map_async")
    starmap = _remote_method("starmap")
    starmap_async = _remote_method("starmap_async")
    terminate = _remote_method("terminate")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.terminate()


# --- simple values, and the proxies for them -----------------------------------------------------


class Namespace:
    """An object to set attributes on."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        shown = [f"{k}={v!r}" for k, v in sorted(self.__dict__.items()) if not k.startswith("_")]
        return f"{type(self).__name__}({', '.join(shown)})"


class NamespaceProxy(BaseProxy):
    """An object to set attributes on. Names that begin with "_" are the proxy's own."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        return self._callmethod("__getattribute__", (name,))

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._callmethod("__setattr__", (name, value))

    def __delattr__(self, name: str) -> None:
        if name.startswith("_"):
            object.__delattr__(self, name)
        else:
            self._callmethod("__delattr__", (name,))


class Value:
    """An object with an attribute ``value``."""

    def __init__(self, typecode: Any, value: Any, lock: Any = True) -> None:
        self._typecode = typecode
        self.value = value

    def get(self) -> Any:
        """The value."""
        return self.value

    def set(self, value: Any) -> None:
        """Set the value."""
        self.value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self.value!r})"


class ValueProxy(BaseProxy):
    """An object with an attribute ``value``."""

    _exposed_ = ("get", "set")

    def get(self) -> Any:
        """The value."""
        return self._callmethod("get")

    def set(self, value: Any) -> None:
        """Set the value."""
        return self._callmethod("set", (value,))  # type: ignore[no-any-return]

    value = property(get, set)

    def __class_getitem__(cls, item: Any) -> Any:
        from types import GenericAlias

        return GenericAlias(cls, item)


def Array(typecode: str, sequence: Sequence[Any], lock: Any = True) -> array[Any]:
    """An array of the module ``array``."""
    return array(typecode, sequence)


class ArrayProxy(BaseProxy):
    """An array of the module ``array``."""

    _exposed_ = ("__len__", "__getitem__", "__setitem__")

    def __len__(self) -> int:
        return int(self._callmethod("__len__"))

    def __getitem__(self, index: Any) -> Any:
        return self._callmethod("__getitem__", (index,))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._callmethod("__setitem__", (index, value))

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])
