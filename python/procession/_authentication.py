"""The handshake by which two ends of a connection prove to each other that they hold the same key.

Each end sends the other a random challenge and expects back its HMAC under the shared key; the key
itself never travels. The messages are those of Python 3.12 and later, which name the digest in the
challenge (``{sha256}``), and of Python 3.11 and earlier, where it is always MD5, so that either may
be at the other end. Nothing that arrives is unpickled before both ends have passed.
"""

from __future__ import annotations

import os
import struct
import time

from ._errors import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Protocol

    class Frames(Protocol):
        """What the handshake needs of a connection."""

        def send_bytes(self, data: bytes, /) -> None: ...
        def recv_bytes(self, maxlength: int, /) -> bytes: ...


__all__ = [
    "CHALLENGE",
    "FAILURE",
    "MESSAGE_LENGTH",
    "WELCOME",
    "HandshakeLost",
    "SocketFrames",
    "answer_challenge",
    "create_response",
    "deliver_challenge",
    "verify_challenge",
]

CHALLENGE = b"#CHALLENGE#"
WELCOME = b"#WELCOME#"
FAILURE = b"#FAILURE#"

# Random bytes in a challenge.
MESSAGE_LENGTH = 40

# No message of the handshake is longer than this: a longer one is refused unread.
_LONGEST = 256

# What Python 3.11 and earlier send has no digest name: a challenge of 20 bytes, a digest of 16.
_BARE_CHALLENGE = 20
_BARE_DIGEST = 16

_DIGESTS = {b"md5": "md5", b"sha256": "sha256", b"sha384": "sha384",
            b"sha3_256": "sha3_256", b"sha3_384": "sha3_384"}  # fmt: skip
_PREFERRED = b"sha256"


class HandshakeLost(AuthenticationError, EOFError):
    """The other end went away, or fell silent, in the middle of the handshake."""


def deliver_challenge(connection: Frames, authkey: bytes) -> None:
    """Challenge the other end to prove that it holds ``authkey``.

    Args:
        connection: a connection, or anything with ``send_bytes`` and ``recv_bytes``.
        authkey: the shared key.

    Raises:
        AuthenticationError: the answer was not the digest of the challenge under this key.
        ValueError: ``authkey`` is not bytes.
    """
    _check_key(authkey)
    challenge = b"{%s}" % _PREFERRED + os.urandom(MESSAGE_LENGTH)
    connection.send_bytes(CHALLENGE + challenge)
    answer = connection.recv_bytes(_LONGEST)
    try:
        verify_challenge(authkey, challenge, answer)
    except AuthenticationError:
        try:
            connection.send_bytes(FAILURE)
        except OSError:
            pass  # it has already gone: the reason to report is the wrong answer
        raise
    connection.send_bytes(WELCOME)


def answer_challenge(connection: Frames, authkey: bytes) -> None:
    """Prove to the other end that this one holds ``authkey``.

    Args:
        connection: a connection, or anything with ``send_bytes`` and ``recv_bytes``.
        authkey: the shared key.

    Raises:
        AuthenticationError: what arrived is no challenge, or the other end refused the answer.
        ValueError: ``authkey`` is not bytes.
    """
    _check_key(authkey)
    message = connection.recv_bytes(_LONGEST)
    if not message.startswith(CHALLENGE):
        raise AuthenticationError(
            f"expected a challenge, received {message[:20]!r}: does the other end authenticate its connections?"
        )
    challenge = message[len(CHALLENGE) :]
    if len(challenge) < _BARE_CHALLENGE:
        raise AuthenticationError(f"a challenge of {len(challenge)} bytes is too short to answer")
    connection.send_bytes(create_response(authkey, challenge))
    if connection.recv_bytes(_LONGEST) != WELCOME:
        raise AuthenticationError("the other end refused our digest: the keys differ")


def create_response(authkey: bytes, challenge: bytes) -> bytes:
    """The answer to ``challenge``: the digest that it names, or bare MD5 when it names none."""
    digest = _digest_named_by(challenge)
    mac = _mac(authkey, challenge, digest or b"md5")
    return b"{%s}" % digest + mac if digest else mac


def verify_challenge(authkey: bytes, challenge: bytes, answer: bytes) -> None:
    """Raise AuthenticationError unless ``answer`` is the digest of ``challenge``."""
    import hmac

    digest = _digest_named_by(answer)
    given = answer[len(digest) + 2 :] if digest else answer
    expected = _mac(authkey, challenge, digest or b"md5")
    if not hmac.compare_digest(expected, given):
        raise AuthenticationError("the other end sent a wrong digest: the keys differ")


def _digest_named_by(message: bytes) -> bytes:
    """The name that a message starts with, or b"" for a message of Python 3.11 and earlier."""
    if len(message) in (_BARE_CHALLENGE, _BARE_DIGEST):
        return b""
    if message.startswith(b"{"):
        name, brace, _ = message[1:].partition(b"}")
        if brace and name in _DIGESTS:
            return name
    raise AuthenticationError(
        f"a message of {len(message)} bytes that names none of the digests "
        f"{', '.join(_DIGESTS.values())} is not part of a handshake"
    )


def _mac(authkey: bytes, message: bytes, digest: bytes) -> bytes:
    import hmac

    try:
        return hmac.new(authkey, message, _DIGESTS[digest]).digest()
    except ValueError as error:  # this build of Python is not allowed to compute it
        raise AuthenticationError(f"cannot compute {digest.decode()} digests: {error}") from error


def _check_key(authkey: bytes) -> None:
    if not isinstance(authkey, bytes):
        raise ValueError(f"authkey must be bytes, not {type(authkey).__name__}")


class SocketFrames:
    """A socket's messages during the handshake, all within one time limit.

    A Connection reads and writes the same frames, but waits for as long as it takes: a peer that
    says half a word and then nothing would hold up whoever accepts connections.
    """

    def __init__(self, sock: socket.socket, time_limit: float | None) -> None:
        self._socket = sock
        self._deadline = None if time_limit is None else time.monotonic() + time_limit

    def send_bytes(self, data: bytes, /) -> None:
        self._limit()
        self._socket.sendall(struct.pack("!i", len(data)) + data)

    def recv_bytes(self, maxlength: int, /) -> bytes:
        (length,) = struct.unpack("!i", self._read(4))
        if not 0 <= length <= maxlength:
            raise AuthenticationError(f"a message that claims {length & 0xFFFFFFFF} bytes is not part of a handshake")
        return self._read(length)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._limit()
            more = self._socket.recv(size - len(data))
            if not more:
                raise EOFError("the other end closed the connection during the handshake")
            data += more
        return bytes(data)

    def _limit(self) -> None:
        if self._deadline is None:
            self._socket.settimeout(None)
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the handshake is over")
        self._socket.settimeout(left)
