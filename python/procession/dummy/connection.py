"""Listeners, clients and pipes between the threads of one process."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Self

__all__ = ["Client", "Listener", "Pipe"]

families: list[None] = [None]


class _Channel:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._closed = False

    def put(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def get(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                raise EOFError("the other end of the connection is closed")
            return self._items.popleft()

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._items or self._closed, timeout))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Connection:
    """One end of a connection between threads. Objects are handed over as they are.

    Unlike the standard library's, whoever receives is told when the other end has been closed.
    """

    def __init__(
        self, inbox: _Channel, outbox: _Channel, readable: bool = True, writable: bool = True
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self.readable = readable
        self.writable = writable
        self.closed = False

    def send(self, obj: Any) -> None:
        """Hand an object to the other end."""
        if self.closed or not self.writable:
            raise OSError("connection is closed" if self.closed else "connection is read-only")
        self._outbox.put(obj)

    def recv(self) -> Any:
        """Wait for an object from the other end."""
        self._check_readable()
        return self._inbox.get()

    send_bytes = send
    recv_bytes = recv

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether something can be received within ``timeout`` seconds."""
        self._check_readable()
        return self._inbox.wait(None if timeout is None else max(timeout, 0.0))

    def close(self) -> None:
        """Close this end; the other end receives what was sent, then EOFError."""
        self.closed = True
        self._outbox.close()

    def _check_readable(self) -> None:
        if self.closed or not self.readable:
            raise OSError("connection is closed" if self.closed else "connection is write-only")

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
        from queue import Queue

        self._waiting: Queue[tuple[_Channel, _Channel]] | None = Queue(backlog)

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
    there, back = _Channel(), _Channel()
    address.put((there, back))
    return Connection(back, there)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends; with ``duplex=False``, the first only receives, the second only sends."""
    there, back = _Channel(), _Channel()
    first = Connection(there, back, writable=bool(duplex))
    second = Connection(back, there, readable=bool(duplex))
    return first, second
