"""Message-oriented connections over pipes and sockets, and waiting for several things at once."""

from __future__ import annotations

import select
import time

from . import _authentication, _procession
from ._authentication import CHALLENGE as CHALLENGE
from ._authentication import FAILURE as FAILURE
from ._authentication import MESSAGE_LENGTH as MESSAGE_LENGTH
from ._authentication import WELCOME as WELCOME
from ._authentication import answer_challenge as answer_challenge
from ._authentication import create_response as _create_response  # noqa: F401
from ._authentication import deliver_challenge as deliver_challenge
from ._authentication import verify_challenge as _verify_challenge  # noqa: F401
from ._errors import AuthenticationError as AuthenticationError
from ._errors import BufferTooShort as BufferTooShort
from ._limits import explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    # A TCP address is (host, port); a Unix address is a path, or an abstract name that begins with NUL.
    Address = str | bytes | tuple[Any, ...]

__all__ = ["Client", "Listener", "Pipe", "wait"]

# The names of Python 3.12 and later.
_CHALLENGE = CHALLENGE
_WELCOME = WELCOME
_FAILURE = FAILURE

families: list[str] = ["AF_INET", "AF_UNIX"]
default_family = "AF_UNIX"

# How long a peer that has been accepted may take to prove itself.
AUTHENTICATION_TIMEOUT = 20.0


# --- addresses -----------------------------------------------------------------------------------


#: How the names begin that are made up here.
_MADE_UP = "procession-listener-"


def arbitrary_address(family: str) -> Address:
    """An unused address of a family: a free TCP port of this machine, or a name that nobody can guess.

    The name is an abstract one: it has no file, which would be left behind by a process that is
    killed. Who listens there lets in processes of its own user, and of root, alone.
    """
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_UNIX":
        import secrets

        return f"\0{_MADE_UP}{secrets.token_hex(16)}"
    raise ValueError(f"no address can be made up for the family {family!r}")


def address_type(address: Address) -> str:
    """The family that an address belongs to, judging by its form.

    Raises:
        ValueError: it has the form of no address.
    """
    if isinstance(address, tuple):
        return "AF_INET"
    if isinstance(address, str):
        return "AF_PIPE" if address.startswith("\\\\") else "AF_UNIX"
    if isinstance(address, bytes) and address.startswith(b"\0"):
        return "AF_UNIX"
    raise ValueError(f"{address!r} is not an address: expected (host, port) or a path")


def _validate_family(family: str) -> None:
    import socket

    if family == "AF_PIPE":
        raise ValueError("AF_PIPE addresses (named pipes) exist on Windows only")
    if not family.startswith("AF_") or not hasattr(socket, family):
        raise ValueError(f"this system has no address family {family!r}")


# --- connections ---------------------------------------------------------------------------------


class Connection(_procession.Connection):
    """One end of a connection that carries objects and byte strings, each as one message.

    Takes over the descriptor ``handle``. A connection can be pickled on its way to another process
    of this machine, in process arguments, a queue or another connection: the receiver gets a
    duplicate of the descriptor.

    Unlike the standard library's, large buffers in what is sent through a ``Pipe`` (arrays, bytes)
    go through shared memory, and are copied once.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_connection(self)

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        where = "closed" if self.closed else f"handle {self.fileno()}"
        return f"<{name} {where} at {id(self):#x}>"


#: Its name in annotations and `isinstance` checks of many programs.
_ConnectionBase = Connection


def reduce_connection(connection: Connection) -> tuple[Any, ...]:
    """What a pickle of ``connection`` holds: a promise of a duplicate of its descriptor."""
    from . import reduction

    duplicate = reduction.DupFd(connection.fileno())
    mode = (connection.readable, connection.writable, connection.family)
    return rebuild_connection, (duplicate, type(connection), *mode)


def rebuild_connection(
    duplicate: Any, cls: type[Connection], readable: bool, writable: bool, family: bool
) -> Connection:
    """The connection that ``reduce_connection`` described, in the process that unpickles it."""
    return cls(duplicate.detach(), readable, writable, family=family)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends of a pipe.

    Args:
        duplex: both ends can send and receive; otherwise the first only receives and the second
            only sends.

    Raises:
        OSError: this process, or the system, has no descriptors left.
    """
    try:
        return _procession.pipe(duplex, Connection)
    except OSError as error:
        raise explained(error, "no pipe can be made") from None


# --- listening and connecting --------------------------------------------------------------------


class Listener:
    """A bound socket that waits for connections.

    Args:
        address: where to listen; by default a free address of ``family``.
        family: ``"AF_UNIX"`` or ``"AF_INET"`` (or another that Python's ``socket`` knows); by
            default what ``address`` looks like.
        backlog: how many connections may wait to be accepted.
        authkey: if not None, who connects must prove that it holds this key.

    Unlike the standard library's, an accepted peer that does not complete its authentication
    within 20 seconds is turned away: a silent peer does not block ``accept`` for ever.
    """

    def __init__(
        self,
        address: Address | None = None,
        family: str | None = None,
        backlog: int = 1,
        authkey: bytes | None = None,
    ) -> None:
        if family is None:
            family = default_family if address is None else address_type(address)
        _validate_family(family)
        _check_authkey(authkey)
        if address is None:
            address = arbitrary_address(family)
        self._listener: SocketListener | None = SocketListener(address, family, backlog)
        self._authkey = authkey

    def accept(self) -> Connection:
        """Wait for a connection and return it.

        Raises:
            AuthenticationError: who connected does not hold the key, sent something else, went
                away or fell silent. The listener can go on accepting.
            OSError: the listener is closed.
        """
        return self._admit(self._pick_up())

    def _pick_up(self) -> socket.socket:
        """Wait for a connection, as yet unproven."""
        return self._open().accept_socket()

    def _admit(self, sock: socket.socket) -> Connection:
        """Make a connection of an accepted socket, once the peer has proved itself."""
        with sock:
            if self._authkey is not None:
                frames = _authentication.SocketFrames(sock, AUTHENTICATION_TIMEOUT)
                try:
                    deliver_challenge(frames, self._authkey)
                    answer_challenge(frames, self._authkey)
                except TimeoutError as error:
                    raise _authentication.HandshakeLost(
                        f"the peer did not authenticate in time ({AUTHENTICATION_TIMEOUT:g} s)"
                    ) from error
                except (EOFError, OSError) as error:
                    raise _authentication.HandshakeLost(f"the peer did not authenticate: {error}") from error
            return _to_connection(sock)

    def _open(self) -> SocketListener:
        if self._listener is None:
            raise OSError("listener is closed")
        return self._listener

    def close(self) -> None:
        """Close the socket and remove its path. Closing it again does nothing."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    @property
    def address(self) -> Address:
        """Where it listens, in the form that ``Client`` takes."""
        return self._open().address

    @property
    def last_accepted(self) -> Address | None:
        """The address from which the last accepted connection came, if it has one."""
        return self._open().last_accepted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


class SocketListener:
    """The socket of a Listener."""

    def __init__(self, address: Address, family: str, backlog: int = 1) -> None:
        import os
        import socket

        from . import util

        self._family = family
        #: An abstract name has no permissions; one that the program chose is the program's business.
        self._private = isinstance(address, str) and address.startswith(f"\0{_MADE_UP}")
        self.last_accepted: Address | None = None
        self._unlink: Callable[[], object] | None = None
        self._socket = socket.socket(getattr(socket, family))
        try:
            # A port whose last connections linger in TIME_WAIT can be listened on again.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setblocking(True)
            self._socket.bind(address)
            self._socket.listen(backlog)
            self.address: Address = self._socket.getsockname()
        except OSError:
            self._socket.close()
            raise
        if family == "AF_UNIX" and not _is_abstract(address):
            self._unlink = util.Finalize(self, os.unlink, args=(address,), exitpriority=0)

    def accept_socket(self) -> socket.socket:
        """Wait for a connection; return its socket."""
        while True:
            sock, peer = self._socket.accept()
            if not self._private or _is_of_our_user(sock):
                break
            sock.close()
        sock.setblocking(True)
        self.last_accepted = peer or None
        return sock

    def accept(self) -> Connection:
        """Wait for a connection and return it."""
        return _to_connection(self.accept_socket())

    def close(self) -> None:
        """Close the socket and remove its path."""
        try:
            self._socket.close()
        finally:
            unlink, self._unlink = self._unlink, None
            if unlink is not None:
                unlink()


def Client(
    address: Address,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    timeout: float | None = None,
) -> Connection:
    """Connect to a Listener.

    Args:
        address: where it listens.
        family: by default what ``address`` looks like.
        authkey: if not None, both ends prove to each other that they hold this key.
        timeout: how many seconds that may take. The standard library's waits for ever, as this
            does by default: until the listener accepts.

    Raises:
        AuthenticationError: the listener's key is another.
        EOFError: the listener went away during the authentication.
        TimeoutError: the listener did not accept in time.
        OSError: nobody listens there.
    """
    family = family or address_type(address)
    _validate_family(family)
    _check_authkey(authkey)
    deadline = None if timeout is None else time.monotonic() + timeout
    with _connected_socket(address, family, timeout) as sock:
        if authkey is not None:
            left = None if deadline is None else deadline - time.monotonic()
            frames = _authentication.SocketFrames(sock, left)
            answer_challenge(frames, authkey)
            deliver_challenge(frames, authkey)
        return _to_connection(sock)


def SocketClient(address: Address) -> Connection:
    """Connect to the socket at ``address``, without authentication."""
    with _connected_socket(address, address_type(address)) as sock:
        return _to_connection(sock)


def _connected_socket(address: Address, family: str, timeout: float | None = None) -> socket.socket:
    import socket

    sock = socket.socket(getattr(socket, family))
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _to_connection(sock: socket.socket) -> Connection:
    """Let a Connection take over the descriptor of a connected socket."""
    import socket

    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # A message must not wait for the acknowledgement of the one before it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(True)
    return Connection(sock.detach())


def _is_of_our_user(sock: socket.socket) -> bool:
    """Whether the process at the other end of a UNIX socket was our user's, or root's, when it connected."""
    import os
    import socket
    import struct

    credentials = struct.Struct("iII")
    _pid, user, _group = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return user in (os.geteuid(), 0)


def _is_abstract(address: Address) -> bool:
    return address[:1] in ("\0", b"\0")


def _check_authkey(authkey: bytes | None) -> None:
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError(f"authkey should be a byte string, not {type(authkey).__name__}")


# --- objects that travel as something other than pickles -----------------------------------------


class ConnectionWrapper:
    """A connection whose ``send`` and ``recv`` translate objects by the given functions."""

    def __init__(
        self,
        conn: Connection,
        dumps: Callable[[Any], bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        for name in ("fileno", "close", "poll", "recv_bytes", "send_bytes"):
            setattr(self, name, getattr(conn, name))

    def send(self, obj: Any) -> None:
        """Send an object."""
        self._conn.send_bytes(self._dumps(obj))

    def recv(self) -> Any:
        """Receive an object."""
        return self._loads(self._conn.recv_bytes())

    if TYPE_CHECKING:  # taken over from the connection

        def fileno(self) -> int: ...
        def close(self) -> None: ...
        def poll(self, timeout: float | None = 0.0) -> bool: ...
        def recv_bytes(self, maxlength: int | None = None) -> bytes: ...
        def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


def _xml_dumps(obj: Any) -> bytes:
    import xmlrpc.client

    return xmlrpc.client.dumps((obj,), allow_none=True).encode("utf-8")


def _xml_loads(data: bytes) -> Any:
    import xmlrpc.client

    ((obj,), _) = xmlrpc.client.loads(data.decode("utf-8"))
    return obj


class XmlListener(Listener):
    """A Listener whose connections carry objects in the format of XML-RPC."""

    def _admit(self, sock: socket.socket) -> Any:
        return ConnectionWrapper(super()._admit(sock), _xml_dumps, _xml_loads)


def XmlClient(
    address: Address,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    timeout: float | None = None,
) -> ConnectionWrapper:
    """Connect to an XmlListener."""
    conn = Client(address, family, authkey, timeout=timeout)
    return ConnectionWrapper(conn, _xml_dumps, _xml_loads)


# --- waiting -------------------------------------------------------------------------------------

# poll() takes a C int of milliseconds.
_LONGEST_POLL = 24 * 3600 * 1000


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Wait until at least one of several objects is ready; return all that are, in their order.

    Args:
        object_list: connections, sockets, descriptors, sentinels of processes, queues' readers:
            integers, or anything with a ``fileno()``. An object is ready when something can be
            read from it, or its other end is closed, or, for a sentinel, the process has ended.
        timeout: how many seconds to wait at most; None waits for as long as it takes, and a
            negative number not at all.

    Raises:
        ValueError: an object has no descriptor.
        OSError: a connection is closed.
    """
    objects = list(object_list)
    descriptors = [_descriptor(obj) for obj in objects]
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    deadline = None if timeout is None else time.monotonic() + max(timeout, 0.0)
    while True:
        if deadline is None:
            events = poller.poll()
            late = False
        else:
            left = max(deadline - time.monotonic(), 0.0)
            events = poller.poll(min(int(-(-left * 1000 // 1)), _LONGEST_POLL))
            late = not events and time.monotonic() >= deadline
        if events or late:
            ready = {descriptor for descriptor, _ in events}
            pairs = zip(objects, descriptors, strict=True)
            return [obj for obj, descriptor in pairs if descriptor in ready or _has_message(obj)]


def _has_message(obj: Any) -> bool:
    # A queue's descriptor follows a moment behind its memory. A process that is killed right after a put
    # must not be seen dead before what it has put.
    ask = getattr(obj, "_has_message", None)
    return ask is not None and bool(ask())


def _descriptor(obj: Any) -> int:
    if isinstance(obj, int):
        descriptor = obj
    else:
        try:
            descriptor = int(obj.fileno())
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"cannot wait for {obj!r}: it has no file descriptor") from error
    if descriptor < 0:
        raise ValueError(f"cannot wait for {obj!r}: {descriptor} is not a file descriptor")
    return descriptor
