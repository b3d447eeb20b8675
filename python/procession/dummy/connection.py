"""Listeners, clients and pipes between the threads of one process."""

from __future__ import annotations

from queue import Queue
from typing import Any, Self

__all__ = ["Client", "Listener", "Pipe"]

families: list[None] = [None]


class Connection:
    """One end of a connection between threads. Objects are handed over as they are.

    All threads have the same object, which one of them "closes" as soon as it has started another
    that is to use it: so closing does nothing, and there is no end to notice.
    """

    def __init__(
        self,
        inbox: Queue[Any],
        outbox: Queue[Any],
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        self._in = inbox
        self._out = outbox
        self.readable = readable
        self.writable = writable

    def send(self, obj: Any) -> None:
        """Hand an object to the other end."""
        if not self.writable:
            raise OSError("connection is read-only")
        self._out.put(obj)

    def recv(self) -> Any:
        """Wait for an object from the other end."""
        self._check_readable()
        return self._in.get()

    send_bytes = send
    recv_bytes = recv

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether something can be received within ``timeout`` seconds."""
        self._check_readable()
        with self._in.not_empty:
            wait = None if timeout is None else max(timeout, 0.0)
            return self._in.not_empty.wait_for(self._in._qsize, wait) > 0

    def close(self) -> None:
        """Do nothing."""

    def _check_readable(self) -> None:
        if not self.readable:
            raise OSError("connection is write-only")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


class Listener:
    """Waits for the connections of other threads; its address is the object to connect to.

    Args:
        address: ignored, like ``family``: it is there to be called as the real one is.
        family: ignored.
        backlog: how many connections may wait to be accepted; more make ``Client`` wait.
    """

    def __init__(self, address: Any = None, family: Any = None, backlog: int = 1) -> None:
        self._waiting: Queue[tuple[Queue[Any], Queue[Any]]] | None = Queue(backlog)

    def accept(self) -> Connection:
        """Wait for a connection and return it."""
        return Connection(*self.address.get())

    def close(self) -> None:
        """Stop listening."""
        self._waiting = None

    @property
    def address(self) -> Any:
        """What ``Client`` takes."""
        if self._waiting is None:
            raise OSError("listener is closed")
        return self._waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def Client(address: Any) -> Connection:
    """Connect to a Listener of this process."""
    there: Queue[Any] = Queue()
    back: Queue[Any] = Queue()
    address.put((there, back))
    return Connection(back, there)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends; with ``duplex=False``, the first only receives, the second only sends."""
    there: Queue[Any] = Queue()
    back: Queue[Any] = Queue()
    first = Connection(there, back, writable=bool(duplex))
    second = Connection(back, there, readable=bool(duplex))
    return first, second
