"""What a manager's server and its clients say to each other.

A client sends ``(object, method, args, kwds)``, the server answers ``(kind, result)``. The first
request of a connection has no object: its method is one of the server's own, such as ``create``.
After ``accept_connection``, requests name shared objects. The words are those that the standard
library's managers use. A client that finds a process of its own family at the other end of its socket
also names a mailbox in shared memory, through which requests and answers then go (`be_accepted`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

from . import _procession
from ._errors import ProcessError
from .connection import Client, Connection, Listener, XmlClient, XmlListener

__all__ = [
    "ManagerDied",
    "RemoteError",
    "State",
    "Token",
    "be_accepted",
    "convert_to_error",
    "dispatch",
    "listener_client",
]

# By serializer: how the server listens and how clients connect.
listener_client: dict[str, tuple[Any, Any]] = {
    "pickle": (Listener, Client),
    "xmlrpclib": (XmlListener, XmlClient),
}

# The kinds of answers.
RETURN = "#RETURN"  # the result of the call
PROXY = "#PROXY"  # what a proxy for the result needs
ERROR = "#ERROR"  # the exception that the call raised
TRACEBACK = "#TRACEBACK"  # an exception as text: it cannot be sent, or is not the method's
UNSERIALIZABLE = "#UNSERIALIZABLE"  # why the result cannot be sent

# The request for a copy of an object.
GETVALUE = "#GETVALUE"

# The argument of ``accept_connection`` that names a mailbox. The server's method does not see it.
MAILBOX = "#MAILBOX"


class State:
    """Whether a manager has been started, and shut down."""

    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2

    def __init__(self) -> None:
        self.value = State.INITIAL


class Token:
    """Names a shared object: its registered type, its server's address, its id there."""

    __slots__ = ("address", "held", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid = typeid
        self.address = address
        self.id = id
        # Whether the server counts a reference for whoever makes a proxy of this token.
        self.held = False

    def __getstate__(self) -> tuple[Any, ...]:
        return (self.typeid, self.address, self.id)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.typeid, self.address, self.id = state
        self.held = False

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"


class RemoteError(Exception):
    """Something went wrong in the server that is not an exception of the method called."""

    def __str__(self) -> str:
        line = "-" * 75
        return f"\n{line}\n{self.args[0]}{line}"


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in the server: the traceback there."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


class ManagerDied(ConnectionResetError, BrokenPipeError, EOFError):
    """A manager's server is gone, and with it the objects that it held.

    It is each of the errors by which the standard library's proxies may tell.
    """


# The attribute in which an exception carries its traceback: any peer can unpickle that.
_TRACEBACK_OF = "_remote_traceback"


def pack_error(error: BaseException, traceback: str) -> BaseException:
    """The error, to be pickled with its traceback as text."""
    error.__traceback__ = None  # would not travel, and keeps the objects of its frames alive
    try:
        setattr(error, _TRACEBACK_OF, traceback)
    except AttributeError:
        pass  # it has no room for attributes
    return error


def unpack_error(error: BaseException) -> BaseException:
    """The error that has been unpickled, with the traceback as its cause."""
    traceback = getattr(error, "__dict__", {}).pop(_TRACEBACK_OF, None)
    if traceback is not None:
        error.__cause__ = RemoteTraceback(traceback)
    return error


def dispatch(
    conn: Any,
    ident: str | None,
    methodname: str,
    args: Any = (),
    kwds: Any = {},  # noqa: B006
) -> Any:
    """Send one request and return the result, or raise the error, that comes back."""
    conn.send((ident, methodname, args, kwds))
    kind, result = conn.recv()
    if kind == RETURN:
        return result
    try:
        raise convert_to_error(kind, result)
    finally:
        del result  # the error's traceback refers to this frame: no cycle


def be_accepted(connect: Callable[[], Any], name: str) -> Any:
    """A connection whose requests name shared objects: those of the thread of this name."""
    conn = connect()
    made = _mailbox_for(conn)
    if made is not None:
        mailbox, ticket = made
        conn.send((None, "accept_connection", (name,), {MAILBOX: ticket}))
        conn._use_mailbox(mailbox)
        kind, _ = conn.recv()
        if kind == RETURN:
            return conn
        # It is another family's: numbers of processes may say the same in several places.
        conn.close()
        conn = connect()
    dispatch(conn, None, "accept_connection", (name,))
    return conn


def _mailbox_for(conn: Any) -> tuple[object, bytes] | None:
    """A mailbox, and what names it to the other end, if that is one of this process's family."""
    try:
        return Connection._make_mailbox() if _is_of_our_family(conn) else None
    except (MemoryError, OSError, ProcessError):
        return None  # without a family, or memory, the socket does


def _is_of_our_family(conn: Any) -> bool:
    """Whether the other end is a process of this one's family, as far as its number tells."""
    import socket

    if type(conn) is not Connection:
        return False
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        if sock.family != socket.AF_UNIX:
            return False
        credentials = struct.Struct("iII")
        answer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    pid, _user, _group = credentials.unpack(answer)
    return any(member["pid"] == pid for member in _procession.members())


def convert_to_error(kind: str, result: Any) -> BaseException:
    """The exception that an answer of this kind stands for."""
    if kind == ERROR and isinstance(result, BaseException):
        return unpack_error(result)
    if kind == TRACEBACK:
        return RemoteError(result)
    if kind == UNSERIALIZABLE:
        return RemoteError(f"the result cannot be sent: {result}\n")
    return ValueError(f"unknown kind of answer from the manager's server: {kind!r}")
