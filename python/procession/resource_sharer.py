"""Descriptors inside messages: `DupFd(fd)` pickles, and `detach()` elsewhere makes a copy.

A message in a queue can't carry a descriptor. So the sender keeps a copy, and a thread of its
hands it out, over an abstract socket, to whoever names the random key that is in the message.
Once: a descriptor that was fetched is forgotten here.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
import time

from . import reduction

__all__ = ["DupFd", "stop"]

#: The size of the key of a descriptor.
KEY = 16
#: Seconds after which a peer is admitted again that could not be.
PAUSE = 0.05
_CREDENTIALS = struct.Struct("=iII")


class DupFd:
    """A descriptor on its way."""

    def __init__(self, fd: int) -> None:
        copy = os.dup(fd)
        try:
            self._address, self._key = _resource_sharer.offer(copy)
        except BaseException:
            os.close(copy)
            raise

    def detach(self) -> int:
        """Return a copy of the descriptor, in the receiver; once.

        Raises:
            ConnectionError: if its sender has ended, or stopped sharing.
            EOFError: if it was fetched before.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(None)
            try:
                sock.connect(self._address)
                sock.sendall(self._key)
                return reduction.recvfds(sock, 1)[0]
            except EOFError:
                raise EOFError("the descriptor in this message was fetched before") from None
            except ConnectionError as error:
                raise type(error)(error.errno, "the process that sent this descriptor no longer shares it") from None


class _ResourceSharer:
    """The descriptors that this process shares, and the thread that hands them out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered: dict[bytes, int] = {}
        self._stop_key = b""
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def offer(self, fd: int) -> tuple[bytes, bytes]:
        """Take charge of a descriptor; return where and by what key it can be fetched."""
        with self._lock:
            if self._listener is None:
                self._start()
            assert self._listener is not None
            key = secrets.token_bytes(KEY)
            self._offered[key] = fd
            address: bytes = self._listener.getsockname()
            return address, key

    def stop(self, timeout: float | None = None) -> None:
        """End the thread, and close what nobody has fetched."""
        with self._lock:
            thread, listener = self._thread, self._listener
            if thread is None or listener is None:
                return
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(timeout)
                sock.connect(listener.getsockname())
                sock.sendall(self._stop_key)
            thread.join(timeout)
            listener.close()
            self._listener = self._thread = None
            self._close_offered()

    def _close_offered(self) -> None:
        while self._offered:
            os.close(self._offered.popitem()[1])

    def _start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(None)
        self._listener.bind("")  # an abstract address that the kernel chooses
        self._listener.listen(128)
        self._stop_key = secrets.token_bytes(KEY)
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), name="resource sharer", daemon=True)
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _address = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return  # closed
                # No descriptor is left, say: whoever has asked waits in the queue until there is.
                time.sleep(PAUSE)
                continue
            with sock:
                try:
                    if self._answer(sock):
                        return
                except OSError:
                    pass  # of one who asks: no reason to leave the others

    def _answer(self, sock: socket.socket) -> bool:
        """Hand out one descriptor; return whether to stop instead."""
        sock.settimeout(5)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] not in (os.geteuid(), 0):
            return False
        key = sock.recv(KEY, socket.MSG_WAITALL)
        if key == self._stop_key:
            return True
        fd = self._offered.pop(key, None)
        if fd is not None:
            try:
                reduction.sendfds(sock, [fd])
            finally:
                os.close(fd)
        return False

    def _after_fork(self) -> None:
        # The thread isn't here, and what it shares is our parent's to hand out.
        self._lock = threading.Lock()
        if self._listener is not None:
            self._listener.close()
            self._listener = self._thread = None
        self._close_offered()


_resource_sharer = _ResourceSharer()
stop = _resource_sharer.stop
os.register_at_fork(after_in_child=_resource_sharer._after_fork)
