"""Managers: a server process that holds objects, and proxies for them in any process.

A shared object lives in the server of a manager. Proxies for it can be sent to other processes,
also on other machines, and stored in other shared objects; calling a method of a proxy calls the
method of the object, and returns a copy of the result.

Between processes of one family, queues, locks and the like without a manager are faster by orders
of magnitude, and can be sent anywhere too.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from . import _managers_wire as wire
from . import process, util
from ._errors import ProcessError
from ._managers_containers import BaseListProxy as BaseListProxy
from ._managers_containers import DictProxy as DictProxy
from ._managers_containers import ListProxy as ListProxy
from ._managers_containers import SetProxy as SetProxy
from ._managers_proxies import AcquirerProxy as AcquirerProxy
from ._managers_proxies import Array as Array
from ._managers_proxies import ArrayProxy as ArrayProxy
from ._managers_proxies import AutoProxy as AutoProxy
from ._managers_proxies import BarrierProxy as BarrierProxy
from ._managers_proxies import BaseProxy as BaseProxy
from ._managers_proxies import ConditionProxy as ConditionProxy
from ._managers_proxies import EventProxy as EventProxy
from ._managers_proxies import IteratorProxy as IteratorProxy
from ._managers_proxies import MakeProxyType as MakeProxyType
from ._managers_proxies import Namespace as Namespace
from ._managers_proxies import NamespaceProxy as NamespaceProxy
from ._managers_proxies import PoolProxy as PoolProxy
from ._managers_proxies import RebuildProxy as RebuildProxy
from ._managers_proxies import Value as Value
from ._managers_proxies import ValueProxy as ValueProxy
from ._managers_proxies import make_proxy
from ._managers_server import Server as Server
from ._managers_server import SharedMemoryServer as SharedMemoryServer
from ._managers_server import public_methods as public_methods
from ._managers_server import survives
from ._managers_wire import ManagerDied as ManagerDied
from ._managers_wire import RemoteError as RemoteError
from ._managers_wire import State as State
from ._managers_wire import Token as Token
from ._managers_wire import convert_to_error as convert_to_error
from ._managers_wire import dispatch as dispatch
from ._managers_wire import listener_client as listener_client

if TYPE_CHECKING:
    from . import shared_memory
    from .connection import Connection
    from .context import BaseContext

__all__ = ["BaseManager", "BaseProxy", "SharedMemoryManager", "SyncManager", "Token"]


class _StartFailed:
    """What the server process tells its parent if it cannot serve."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class BaseManager:
    """Starts a server process, or connects to one, and creates shared objects in it.

    A subclass says with ``register`` what can be created.

    Args:
        address: where the server listens; by default any private place.
        authkey: what server and clients must prove to each other to know; by default this
            process's ``authkey``.
        serializer: how requests travel: ``"pickle"`` or ``"xmlrpclib"``.
        ctx: how the server process is started.
        shutdown_timeout: how many seconds the server has to end by itself, before it is terminated.

    Unlike the standard library's, the server ends when the process that started it has died.
    """

    _registry: ClassVar[dict[str, Any]] = {}
    _Server: ClassVar[type[Server]] = Server

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: BaseContext | None = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None:
        if serializer not in listener_client:
            raise ValueError(f"serializer must be 'pickle' or 'xmlrpclib', not {serializer!r}")
        if authkey is None:
            authkey = process.current_process().authkey
        if ctx is None:
            from .context import _default_context

            ctx = _default_context.get_context()
        self._address = address
        self._authkey = process.AuthenticationString(authkey)
        self._state = State()
        self._serializer = serializer
        self._Listener, self._Client = listener_client[serializer]
        self._ctx: Any = ctx
        self._shutdown_timeout = shutdown_timeout
        self._process: Any = None
        self._finalizer: util.Finalize | None = None

    # --- the server ------------------------------------------------------------------------------

    def get_server(self) -> Server:
        """The server, to be run in this process by its ``serve_forever``."""
        self._check_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def connect(self) -> None:
        """Connect to a server that runs already, at the manager's address.

        Raises:
            AuthenticationError: its key is another.
            OSError: nobody listens there.
        """
        with self._connection() as conn:
            dispatch(conn, None, "dummy")
        self._state.value = State.STARTED

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """Start the server in a process of its own.

        Args:
            initializer: called in the server process, before it serves.
            initargs: its arguments.

        Raises:
            Exception: what kept the server from serving, such as an OSError because the address
                is in use, or what the initializer has raised. The standard library's raises
                EOFError, whatever the reason.
        """
        self._check_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {type(initializer).__name__}")
        reader, writer = self._ctx.Pipe(duplex=False)
        with reader:
            with writer:
                self._process = self._ctx.Process(
                    target=type(self)._run_server,
                    args=(
                        self._registry, self._address, self._authkey, self._serializer, writer,
                        initializer, initargs,
                    ),
                )  # fmt: skip
                ident = ":".join(str(number) for number in self._process._identity)
                self._process.name = f"{type(self).__name__}-{ident}"
                self._process.start()
            try:
                self._address = self._first_word(reader)
            except BaseException:
                self._process.terminate()
                self._process.join()
                raise
        self._state.value = State.STARTED
        self._finalizer = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(
                self._process, self._address, self._authkey, self._state, self._Client,
                self._shutdown_timeout,
            ),
            exitpriority=0,
        )  # fmt: skip

    def _first_word(self, reader: Connection) -> Any:
        """The address of the server that has been started, once it serves."""
        try:
            word = reader.recv()
        except EOFError:
            self._process.join()
            raise ManagerDied(
                f"{self._process.name} ended before it could serve, with exit code {self._process.exitcode}"
            ) from None
        if isinstance(word, _StartFailed):
            raise wire.unpack_error(word.error)
        return word

    @classmethod
    def _run_server(
        cls,
        registry: Mapping[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str,
        writer: Connection,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        """Be the server process."""
        import signal

        # Ctrl-C is meant for the program; what it does about it may need the shared objects.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with writer:
            try:
                if initializer is not None:
                    initializer(*initargs)
                server = cls._Server(registry, address, authkey, serializer)
            except Exception as error:
                _tell_failure(writer, error)
                raise SystemExit(1) from None
            writer.send(server.address)
        util.info("manager serving at %r", server.address)
        parent = process.parent_process()
        if parent is not None:
            threading.Thread(target=_stop_after, args=(server, parent), daemon=True).start()
        server.serve_forever()

    def _check_initial(self) -> None:
        if self._state.value == State.STARTED:
            raise ProcessError("the manager has been started, or connected, already")
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("the manager has been shut down: make a new one")

    def shutdown(self) -> None:
        """End the server process, if ``start`` has started one. Calling it again does nothing."""
        if self._finalizer is not None:
            self._finalizer()

    @staticmethod
    def _finalize_manager(
        process: Any,
        address: Any,
        authkey: bytes,
        state: State,
        Client: Any,
        shutdown_timeout: float,
    ) -> None:
        if process.is_alive():
            util.info("sending shutdown message to manager")
            try:
                with Client(address, authkey=bytes(authkey), timeout=shutdown_timeout) as conn:
                    conn.send((None, "shutdown", (), {}))
                    conn.poll(shutdown_timeout)  # its answer, or its end
            except Exception as error:
                util.info("cannot ask the manager's server to shut down: %s", error)
            process.join(timeout=shutdown_timeout)
            for stop in (process.terminate, process.kill):
                if process.is_alive():
                    util.info("%s did not end in time", process.name)
                    stop()
                    process.join(timeout=shutdown_timeout)
        state.value = State.SHUTDOWN
        home = BaseProxy._homes.get(address)
        if home is not None:
            home.hang_up()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the server process has ended."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def __enter__(self) -> Self:
        if self._state.value == State.INITIAL:
            self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.shutdown()

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

    # --- shared objects --------------------------------------------------------------------------

    def _connection(self) -> Any:
        return self._Client(self._address, authkey=bytes(self._authkey))

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, Iterable[str]]:
        """Create a shared object; return what a proxy for it needs."""
        if self._state.value == State.INITIAL:
            raise ProcessError("the manager is not running: call start() or connect() first")
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("the manager has been shut down: make a new one")
        try:
            conn = self._connection()
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise ManagerDied(
                f"the manager's server at {self._address!r} is gone: it can't make a {typeid!r}. Start a new manager"
            ) from error
        with conn:
            ident, exposed = dispatch(conn, None, "create", (typeid, *args), kwds)
        token = Token(typeid, self._address, ident)
        token.held = True
        return token, exposed

    def _debug_info(self) -> str:
        """A text that lists the shared objects."""
        with self._connection() as conn:
            return str(dispatch(conn, None, "debug_info"))

    def _number_of_objects(self) -> int:
        """How many shared objects there are."""
        with self._connection() as conn:
            return int(dispatch(conn, None, "number_of_objects"))

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Any = None,
        exposed: Iterable[str] | None = None,
        method_to_typeid: Mapping[str, str] | None = None,
        create_method: bool = True,
    ) -> None:
        """Let managers of this class create shared objects of a kind.

        Args:
            typeid: the name of the kind, and of the method that creates one.
            callable: makes the object, in the server. Not needed to connect to a server.
            proxytype: a subclass of BaseProxy; by default a type with all exposed methods is made.
            exposed: the names of the methods that proxies may call; by default those that the
                proxy type lists, or all that have no underscore in front.
            method_to_typeid: for methods whose result is to be shared in its turn: as what.
            create_method: whether there is a method that creates one.
        """
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None) or None
        typeids = dict(method_to_typeid or getattr(proxytype, "_method_to_typeid_", None) or {})
        for method, result in typeids.items():
            if not isinstance(method, str) or not isinstance(result, str):
                raise TypeError(f"method_to_typeid maps names to names, not {method!r} to {result!r}")
        if exposed is not None:
            exposed = tuple(exposed)
        cls._registry[typeid] = (callable, exposed, typeids, proxytype)
        if create_method:
            setattr(cls, typeid, _creator(typeid, proxytype))


def _creator(typeid: str, proxytype: Any) -> Callable[..., Any]:
    """The method of a manager that creates a shared object and returns a proxy for it."""

    def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
        util.debug("requesting creation of a shared %r object", typeid)
        token, exposed = self._create(typeid, *args, **kwds)
        return make_proxy(proxytype, token, self._serializer, self, self._authkey, exposed, self._Client)

    create.__name__ = typeid
    return create


def _tell_failure(writer: Connection, error: Exception) -> None:
    import traceback

    text = traceback.format_exc()
    packed = wire.pack_error(error, text)
    writer.send(_StartFailed(packed if survives(packed) else RemoteError(text)))


def _stop_after(server: Server, parent: process.BaseProcess) -> None:
    """Stop the server once its parent has died, with whom nobody is left to ask for it."""
    import os

    parent.join()
    util.info("manager's server stops: its parent has died")
    try:
        server.listener.close()
        directory = os.path.dirname(server.address) if isinstance(server.address, str) else ""
        if os.path.basename(directory).startswith("pymp-"):  # the parent's, which cannot remove it
            os.rmdir(directory)
    except OSError:
        pass  # there are files of others in it
    finally:
        server.stop_event.set()


def _make_pool(*args: Any, **kwds: Any) -> Any:
    from .pool import Pool

    return Pool(*args, **kwds)


class SyncManager(BaseManager):
    """A manager for the usual containers and for what threads synchronize with.

    ``procession.Manager()`` makes one and starts it.
    """

    if TYPE_CHECKING:  # made by register(), below

        def Queue(self, maxsize: int = ...) -> Any: ...
        def JoinableQueue(self, maxsize: int = ...) -> Any: ...
        def Event(self) -> EventProxy: ...
        def Lock(self) -> AcquirerProxy: ...
        def RLock(self) -> AcquirerProxy: ...
        def Semaphore(self, value: int = ...) -> AcquirerProxy: ...
        def BoundedSemaphore(self, value: int = ...) -> AcquirerProxy: ...
        def Condition(self, lock: Any = ...) -> ConditionProxy: ...
        def Barrier(
            self,
            parties: int,
            action: Callable[[], object] | None = ...,
            timeout: float | None = ...,
        ) -> BarrierProxy: ...
        def Pool(
            self,
            processes: int | None = ...,
            initializer: Callable[..., object] | None = ...,
            initargs: Iterable[Any] = ...,
            maxtasksperchild: int | None = ...,
        ) -> PoolProxy: ...
        def Value(self, typecode: Any, value: Any, lock: Any = ...) -> ValueProxy: ...
        def Array(self, typecode: str, sequence: Iterable[Any], lock: Any = ...) -> ArrayProxy: ...
        def Namespace(self, **kwds: Any) -> NamespaceProxy: ...
        def list(self, sequence: Iterable[Any] = ..., /) -> ListProxy[Any]: ...
        def dict(self, *args: Any, **kwds: Any) -> DictProxy[Any, Any]: ...
        def set(self, iterable: Iterable[Any] = ..., /) -> SetProxy[Any]: ...


SyncManager.register("Queue", queue.Queue)
SyncManager.register("JoinableQueue", queue.Queue)
SyncManager.register("Event", threading.Event, EventProxy)
SyncManager.register("Lock", threading.Lock, AcquirerProxy)
SyncManager.register("RLock", threading.RLock, AcquirerProxy)
SyncManager.register("Semaphore", threading.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", threading.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", threading.Condition, ConditionProxy)
SyncManager.register("Barrier", threading.Barrier, BarrierProxy)
SyncManager.register("Pool", _make_pool, PoolProxy)
SyncManager.register("list", list, ListProxy)
SyncManager.register("dict", dict, DictProxy)
SyncManager.register("set", set, SetProxy)
SyncManager.register("Value", Value, ValueProxy)
SyncManager.register("Array", Array, ArrayProxy)
SyncManager.register("Namespace", Namespace, NamespaceProxy)
# What methods of the others return.
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)


class SharedMemoryManager(BaseManager):
    """A manager for blocks of shared memory, which removes them when it is shut down."""

    _Server = SharedMemoryServer

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """Start the server in a process of its own; see ``BaseManager.start``."""
        from . import resource_tracker

        # Before the server is there, which is to tell the same tracker what it has removed.
        resource_tracker.ensure_running()
        super().start(initializer, initargs)

    def SharedMemory(self, size: int) -> shared_memory.SharedMemory:
        """A new block of at least ``size`` bytes.

        Raises:
            ValueError: the manager is not running.
        """
        from . import shared_memory

        self._check_started()
        memory = shared_memory.SharedMemory(None, create=True, size=size)
        self._entrust(memory)
        return memory

    def ShareableList(self, sequence: Iterable[Any] | None) -> shared_memory.ShareableList[Any]:
        """A new ShareableList with these values.

        Raises:
            ValueError: the manager is not running.
        """
        from . import shared_memory

        self._check_started()
        shared = shared_memory.ShareableList(sequence)
        self._entrust(shared.shm)
        return shared

    def _check_started(self) -> None:
        if self._state.value != State.STARTED:
            raise ValueError("the manager is not running: call start() or connect() first")

    def _entrust(self, memory: shared_memory.SharedMemory) -> None:
        """Have the server remove a block in the end."""
        try:
            with self._connection() as conn:
                dispatch(conn, None, "track_segment", (memory.name,))
        except BaseException:
            memory.close()
            memory.unlink()
            raise
