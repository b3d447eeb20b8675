"""The server of a manager: holds objects, and calls their methods for clients.

One thread takes connections, each of which then has a thread of its own, where its client proves
itself and its requests are carried out. So what a client's thread locks is locked by its thread in
the server.

An object lives while proxies outside the server refer to it, which are counted, and while proxies
inside do (a shared list in a shared list), which Python counts: they hold the object itself.
"""

from __future__ import annotations

import errno
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from . import _managers_wire as wire
from . import process, reduction, util
from ._managers_wire import Token

__all__ = ["Server", "SharedMemoryServer", "public_methods"]

# typeid: (callable, exposed methods, typeids of methods' results, type of the proxy)
Registry = Mapping[
    str,
    tuple[Callable[..., Any] | None, Iterable[str] | None, Mapping[str, str] | None, Any],
]

# Not to be waited for: the process has too much open, or too little memory, just now.
_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _as_list(view: Iterable[Any]) -> tuple[Any, ...]:
    return list, (list(view),)


# What dict proxies' keys(), values() and items() return.
_empty: dict[Any, Any] = {}
for _view in (_empty.keys(), _empty.values(), _empty.items()):
    reduction.register(type(_view), _as_list)


def all_methods(obj: object) -> list[str]:
    """The names of all that can be called on an object."""
    return [name for name in dir(obj) if callable(getattr(obj, name, None))]


def public_methods(obj: object) -> list[str]:
    """The names of an object's methods that have no underscore in front."""
    return [name for name in all_methods(obj) if not name.startswith("_")]


def _traceback() -> str:
    import traceback  # with much that is only needed when something has gone wrong

    return traceback.format_exc()


def survives(obj: object) -> bool:
    """Whether an object can be pickled and unpickled."""
    try:
        reduction.loads(reduction.dumps_whole(obj))
    except Exception:
        return False
    return True


class Entry:
    """A shared object in its server."""

    __slots__ = ("__weakref__", "exposed", "ident", "obj", "references", "typeids")

    def __init__(self, ident: str, obj: Any, exposed: frozenset[str], typeids: Mapping[str, str]) -> None:
        self.ident = ident
        self.obj = obj
        self.exposed = exposed
        # The methods whose results are shared in their turn, and as what.
        self.typeids = typeids
        # From proxies in other processes.
        self.references = 0


class _InFlight(threading.local):
    """What the last answer of this thread refers to, until its receiver refers to it itself."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []


class Server:
    """Holds the objects of a manager; ``BaseManager.get_server`` makes one.

    Args:
        registry: what can be created.
        address: where to listen; None for any private place.
        authkey: what clients must prove to know.
        serializer: ``"pickle"`` or ``"xmlrpclib"``.
    """

    # What a client may ask of the server itself.
    public: tuple[str, ...] = (
        "accept_connection", "create", "debug_info", "decref", "dummy", "get_methods", "incref",
        "number_of_objects", "shutdown",
    )  # fmt: skip

    def __init__(self, registry: Registry, address: Any, authkey: bytes, serializer: str) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"authkey should be a byte string, not {type(authkey).__name__}")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        self.serializer = serializer
        listener, self._Client = wire.listener_client[serializer]
        self.listener = listener(address=address, backlog=128, authkey=bytes(authkey))
        self.address = self.listener.address
        self.stop_event = threading.Event()
        self._mutex = threading.RLock()
        # All objects; and those that proxies in other processes refer to.
        self._known: weakref.WeakValueDictionary[str, Entry] = weakref.WeakValueDictionary()
        self._referenced: dict[str, Entry] = {}
        self._in_flight = _InFlight()

    # --- serving ---------------------------------------------------------------------------------

    def serve_forever(self) -> NoReturn:
        """Serve until a client asks for the shutdown; then exit this process, with code 0."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        try:
            threading.Thread(target=self._accept_all, name="accepter", daemon=True).start()
            self.stop_event.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop_event.set()
            self._stopped()
        sys.exit(0)

    def _stopped(self) -> None:
        """Give back what clients have entrusted to the server."""

    def _accept_all(self) -> None:
        while not self.stop_event.is_set():
            try:
                sock = self.listener._pick_up()
            except OSError as error:
                if error.errno not in _TRANSIENT and error.errno != errno.ECONNABORTED:
                    util.info("manager's server cannot accept: %s", error)
                    self.stop_event.set()
                    return
                time.sleep(0.05)  # for as long as there is nothing to accept with
                continue
            try:
                threading.Thread(target=self._handle, args=(sock,), daemon=True).start()
            except RuntimeError as error:
                util.info("manager's server turns a client away: %s", error)
                sock.close()

    def _handle(self, sock: Any) -> None:
        try:
            conn = self.listener._admit(sock)
        except Exception as error:
            util.info("manager's server turns a client away: %s", error)
            return
        with conn:
            self.handle_request(conn)

    def handle_request(self, conn: Any) -> None:
        """Carry out the one request to the server itself with which a connection begins."""
        try:
            _, name, args, kwds = conn.recv()
            if name not in self.public:
                raise AttributeError(f"a manager's server has no function {name!r}")
            ticket = kwds.pop(wire.MAILBOX, None)
            if ticket is not None:
                conn._use_mailbox(ticket)
            result = getattr(self, name)(conn, *args, **kwds)
        except EOFError:
            return
        except Exception:
            answer = (wire.TRACEBACK, _traceback())
        else:
            if name in ("accept_connection", "shutdown"):
                return  # they answer themselves
            answer = (wire.RETURN, result)
        self._answer(conn, answer)

    def accept_connection(self, conn: Any, name: str) -> None:
        """Serve this connection from now on, for the client thread of this name."""
        threading.current_thread().name = name
        conn.send((wire.RETURN, None))
        self.serve_client(conn)

    def serve_client(self, conn: Any) -> None:
        """Carry out a client's requests to shared objects until it closes the connection."""
        while not self.stop_event.is_set():
            try:
                ident, name, args, kwds = conn.recv()
            except (EOFError, ConnectionError):
                return
            except Exception:  # it cannot be unpickled here
                undo, answer = None, (wire.TRACEBACK, _traceback())
            else:
                self._in_flight.entries = []
                undo, answer = self._call(ident, name, args, kwds)
            args = kwds = None  # while waiting, hold on to nothing of the last request
            if not self._answer(conn, answer):
                if undo is not None and answer[0] == wire.RETURN:
                    undo(answer[1])
                return
            undo = answer = None  # type: ignore[assignment]

    def _call(
        self, ident: str, name: str, args: Any, kwds: Any
    ) -> tuple[Callable[[Any], object] | None, tuple[str, Any]]:
        """Call a method of an object. Return how to undo that, if it can be, and the answer."""
        try:
            entry = self._entry_with(ident, name)
            if name in entry.exposed:
                method = getattr(entry.obj, name)
            else:
                method = _UNEXPOSED[name].__get__(entry.obj)
        except Exception:
            return None, (wire.TRACEBACK, _traceback())
        try:
            result = method(*args, **kwds)
        except Exception as error:
            return None, self._error(error)
        except BaseException:  # it tried to end the server
            return None, (wire.TRACEBACK, _traceback())
        if result is entry.obj and name in _IN_PLACE:
            result = None  # the caller has a proxy for it
        typeid = entry.typeids.get(name)
        if typeid is None:
            return _undoing(entry.obj, name), (wire.RETURN, result)
        try:
            shared, exposed = self.create(None, typeid, result)
        except Exception:
            return None, (wire.TRACEBACK, _traceback())
        return None, (wire.PROXY, (exposed, Token(typeid, self.address, shared)))

    def _error(self, error: Exception) -> tuple[str, Any]:
        """The answer that lets the client raise the error, if the error survives the way there."""
        text = _traceback()
        if self.serializer == "pickle":
            packed = wire.pack_error(error, text)
            if survives(packed):
                return (wire.ERROR, packed)
        return (wire.TRACEBACK, text)

    def _answer(self, conn: Any, answer: tuple[str, Any]) -> bool:
        """Send an answer; return whether the client is still there."""
        try:
            try:
                conn.send(answer)
            except (BrokenPipeError, ConnectionError):
                return False
            except Exception:
                conn.send((wire.UNSERIALIZABLE, _traceback()))
        except Exception as error:
            util.info("manager's server cannot answer %s: %s", threading.current_thread(), error)
            return False
        return True

    # --- objects ---------------------------------------------------------------------------------

    def entry(self, ident: str) -> Entry:
        """The shared object of this id."""
        try:
            return self._known[ident]
        except KeyError:
            raise LookupError(f"the shared object {ident} no longer exists: its last proxy has been deleted") from None

    def _entry_with(self, ident: str, name: str) -> Entry:
        entry = self.entry(ident)
        if name not in entry.exposed and name not in _UNEXPOSED:
            raise AttributeError(
                f"method {name!r} of {type(entry.obj).__name__!r} object is not exposed: "
                f"exposed are {', '.join(sorted(entry.exposed))}"
            )
        return entry

    def pickled_here(self, entry: Entry) -> None:
        """The answer being sent refers to an object, which must live till it has arrived."""
        self._in_flight.entries.append(entry)

    def create(self, conn: Any, typeid: str, /, *args: Any, **kwds: Any) -> tuple[str, Any]:
        """Create an object, with one reference; return its id and the methods exposed."""
        make, exposed, typeids, _ = self.registry[typeid]
        if make is not None:
            obj = make(*args, **kwds)
        elif len(args) == 1 and not kwds:
            (obj,) = args
        else:
            raise ValueError(f"{typeid!r} is registered without a callable: give it one object")
        methods = public_methods(obj) if exposed is None else exposed
        ident = f"{typeid}-{id(obj):x}"
        with self._mutex:
            entry = self._known.get(ident)
            if entry is None:
                everything = frozenset([*methods, *(typeids or ())])
                entry = Entry(ident, obj, everything, dict(typeids or {}))
                self._known[ident] = entry
            self._refer(entry)
        util.debug("%r shared as %s", type(obj), ident)
        return ident, tuple(entry.exposed)

    def _refer(self, entry: Entry) -> None:
        entry.references += 1
        self._referenced[entry.ident] = entry

    def incref(self, conn: Any, ident: str) -> None:
        """Count one more proxy that refers to an object."""
        with self._mutex:
            self._refer(self.entry(ident))

    def decref(self, conn: Any, ident: str) -> None:
        """Count one proxy less that refers to an object."""
        with self._mutex:
            entry = self.entry(ident)
            if entry.references > 0:
                entry.references -= 1
            if entry.references == 0:
                self._referenced.pop(ident, None)
        # Here, outside the mutex, it may go.

    def get_methods(self, conn: Any, token: Token) -> tuple[str, ...]:
        """The methods that an object exposes."""
        return tuple(self.entry(token.id).exposed)

    def number_of_objects(self, conn: Any) -> int:
        """How many objects proxies in other processes refer to."""
        return len(self._referenced)

    def debug_info(self, conn: Any) -> str:
        """A text that lists the objects that proxies in other processes refer to."""
        with self._mutex:
            entries = sorted(self._referenced.items())
        lines = []
        for ident, entry in entries:
            lines.append(f"  {ident}:       refcount={entry.references}\n    {str(entry.obj)[:75]}")
        return "\n".join(lines)

    def dummy(self, conn: Any) -> None:
        """Do nothing: who asks wants to know that the server is there."""

    def shutdown(self, conn: Any) -> None:
        """Stop serving."""
        util.debug("manager's server is asked to shut down")
        try:
            conn.send((wire.RETURN, None))
        finally:
            self.stop_event.set()


_IN_PLACE = frozenset(("__iadd__", "__iand__", "__imul__", "__ior__", "__isub__", "__ixor__"))

# What every object understands, exposed or not.
_UNEXPOSED: dict[str, Callable[..., Any]] = {
    "__str__": lambda obj: str(obj),
    "__repr__": lambda obj: repr(obj),
    wire.GETVALUE: lambda obj: obj,
}


def _undoing(obj: Any, name: str) -> Callable[[Any], object] | None:
    """How to undo a call whose caller is gone: it had waited for a lock, or for an item."""
    if name == "acquire":
        return lambda acquired: acquired is True and obj.release()
    if name in ("get", "get_nowait") and type(obj) is queue.Queue:

        def put_back(item: Any) -> None:
            with obj.mutex:
                obj.queue.appendleft(item)
                obj.not_empty.notify()

        return put_back
    return None


class SharedMemoryServer(Server):
    """A server that also removes, when it stops, the blocks of shared memory it was told of."""

    public = (*Server.public, "track_segment", "release_segment", "list_segments")

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        self._segments: list[str] = []

    def track_segment(self, conn: Any, name: str) -> None:
        """Remove the block of this name in the end."""
        self._segments.append(name)

    def release_segment(self, conn: Any, name: str) -> None:
        """Remove the block of this name now."""
        from .shared_memory import SharedMemory

        self._segments.remove(name)
        memory = SharedMemory(name)
        memory.close()
        memory.unlink()

    def list_segments(self, conn: Any) -> list[str]:
        """The names of the blocks to remove in the end."""
        return list(self._segments)

    def shutdown(self, conn: Any) -> None:
        """Remove all blocks, then stop serving."""
        self._stopped()
        super().shutdown(conn)

    def _stopped(self) -> None:
        for name in list(self._segments):
            try:
                self.release_segment(None, name)
            except FileNotFoundError:
                pass  # its user has removed it
