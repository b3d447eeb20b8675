"""Connections, listeners, the handshake, and waiting for several things."""

from __future__ import annotations

import array
import hashlib
import hmac
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import procession
from conftest import Programs
from procession import connection

KEY = b"supersecret"
FAMILIES = ("AF_INET", "AF_UNIX")
BOUND = 20.0


class InThread:
    """Runs a function in a thread; ``result()`` returns its value or raises its error, bounded."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function, self._args = function, args
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function(*self._args)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join(BOUND)
        assert not self._thread.is_alive(), "the thread is still at it"
        if self._error is not None:
            raise self._error
        return self._value


def raw_client(address: Any) -> socket.socket:
    """A peer that is not a Connection."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    sock = socket.socket(family)
    sock.settimeout(BOUND)
    sock.connect(address)
    return sock


def frame(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def read_frame(sock: socket.socket) -> bytes:
    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = sock.recv(size - len(data))
            assert more, "the other end closed"
            data += more
        return data

    return read(*struct.unpack("!i", read(4)))


# --- pipes ---------------------------------------------------------------------------------------


def echo(conn: connection.Connection) -> None:
    with conn:
        for message in iter(conn.recv, None):
            conn.send(message)


@pytest.mark.parametrize("message", [1, "text", [1, {"a": b"b"}], b"x" * 300_000, array.array("d", range(9))])
def test_objects_go_there_and_back(ctx: Any, message: Any) -> None:
    here, there = ctx.Pipe()
    child = ctx.Process(target=echo, args=(there,))
    child.start()
    there.close()
    with here:
        here.send(message)
        assert here.poll(BOUND)
        assert here.recv() == message
        here.send(None)
        child.join(BOUND)
        assert child.exitcode == 0
        with pytest.raises(EOFError):
            here.recv()


def test_bytes_into_buffers() -> None:
    first, second = connection.Pipe()
    with first, second:
        first.send_bytes(b"0123456789", 2, 5)
        assert second.recv_bytes() == b"23456"
        buffer = array.array("i", [0] * 4)
        first.send_bytes(array.array("i", [7, 8]))
        assert second.recv_bytes_into(buffer, 4) == 8
        assert list(buffer) == [0, 7, 8, 0]
        first.send_bytes(b"too long for it")
        with pytest.raises(procession.BufferTooShort) as caught:
            second.recv_bytes_into(bytearray(3))
        assert caught.value.args == (b"too long for it",)
        first.send_bytes(b"five!")
        with pytest.raises(OSError):
            second.recv_bytes(4)


def test_one_way_pipe_goes_one_way() -> None:
    reader, writer = connection.Pipe(duplex=False)
    with reader, writer:
        assert (reader.readable, reader.writable) == (True, False)
        assert (writer.readable, writer.writable) == (False, True)
        writer.send(1)
        assert reader.recv() == 1
        for misuse in (lambda: reader.send(1), writer.recv, writer.poll):
            with pytest.raises(OSError):
                misuse()


def test_closed_connection_says_so() -> None:
    first, second = connection.Pipe()
    with first, second:
        assert not first.closed
        assert "handle" in repr(first)
    assert first.closed
    assert "closed" in repr(first)
    for use in (first.recv, first.fileno, first.poll):
        with pytest.raises(OSError):
            use()
    first.close()


@pytest.mark.parametrize("handle", [-1, -2])
def test_no_connection_of_a_bad_handle(handle: int) -> None:
    with pytest.raises((ValueError, OSError)):
        connection.Connection(handle)


def pass_on(conn: connection.Connection) -> None:
    with conn:
        with conn.recv() as passed:
            passed.send(("I am", type(passed).__name__))
        with conn.recv() as passed:
            conn.send(passed.recv() * 2)


def test_connections_travel_through_connections(ctx: Any) -> None:
    here, there = ctx.Pipe()
    child = ctx.Process(target=pass_on, args=(there,))
    child.start()
    there.close()
    with here:
        reader, writer = ctx.Pipe(duplex=False)
        with reader:
            here.send(writer)
            writer.close()
            assert reader.recv() == ("I am", "Connection")
            with pytest.raises(EOFError):
                reader.recv()
        reader, writer = ctx.Pipe(duplex=False)
        with writer:
            here.send(reader)
            reader.close()
            writer.send("twice")
        assert here.recv() == "twicetwice"
    child.join(BOUND)
    assert child.exitcode == 0
    stop_sharing()


def stop_sharing() -> None:
    from procession import resource_sharer

    resource_sharer.stop(timeout=BOUND)


# --- listening -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", [None, KEY, b""])
def test_listener_and_client(family: str, key: bytes | None) -> None:
    with connection.Listener(family=family, authkey=key) as listener:
        client = InThread(connection.Client, listener.address, None, key)
        with listener.accept() as ours, client.result() as theirs:
            theirs.send({"hello": 1})
            assert ours.recv() == {"hello": 1}
            ours.send_bytes(b"bye")
            assert theirs.recv_bytes() == b"bye"
            if family == "AF_INET":
                assert listener.last_accepted == raw_name(theirs)
            else:
                assert listener.last_accepted is None


def raw_name(conn: connection.Connection) -> Any:
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        return sock.getsockname()


def connect_and_say(address: Any, key: bytes | None) -> None:
    with connection.Client(address, authkey=key) as conn:
        conn.send(os.getpid())


@pytest.mark.parametrize("family", FAMILIES)
def test_processes_connect(ctx: Any, family: str) -> None:
    with connection.Listener(family=family, authkey=KEY) as listener:
        child = ctx.Process(target=connect_and_say, args=(listener.address, KEY))
        child.start()
        with listener.accept() as conn:
            assert conn.recv() == child.pid
        child.join(BOUND)
        assert child.exitcode == 0


def test_listener_makes_and_removes_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "here")
    with connection.Listener(path) as listener:
        assert listener.address == path
        assert os.path.exists(path)
        with pytest.raises(OSError):
            connection.Listener(path)
    assert not os.path.exists(path)
    listener.close()
    with pytest.raises(OSError, match="closed"):
        listener.accept()


@pytest.mark.parametrize("family", FAMILIES)
def test_address_in_use(family: str) -> None:
    with connection.Listener(family=family) as listener, pytest.raises(OSError):
        connection.Listener(listener.address, family)


def test_abstract_address() -> None:
    name = f"\0procession-test-{os.getpid()}"
    with connection.Listener(name) as listener:
        with connection.Client(listener.address) as theirs, listener.accept() as ours:
            theirs.send(1)
            assert ours.recv() == 1
        with connection.Client(name) as theirs, listener.accept() as ours:
            ours.send(2)
            assert theirs.recv() == 2


def test_backlog_holds_who_waits_to_be_accepted() -> None:
    with connection.Listener(family="AF_UNIX", backlog=4) as listener:
        clients = [connection.Client(listener.address) for _ in range(4)]
        for number, client in enumerate(clients):
            client.send(number)
        for number, client in enumerate(clients):
            with listener.accept() as conn:
                assert conn.recv() == number
            client.close()


def test_default_timeout_of_sockets_does_not_matter() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        with connection.Listener(family="AF_INET") as listener:
            accepting = InThread(listener.accept)
            time.sleep(0.2)
            with connection.Client(listener.address) as theirs, accepting.result() as ours:
                receiving = InThread(ours.recv)
                time.sleep(0.2)
                theirs.send("late")
                assert receiving.result() == "late"
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.parametrize("address", [r"\\.\pipe\name", r"\\.\test"])
def test_no_windows_pipes_here(address: str) -> None:
    assert connection.address_type(address) == "AF_PIPE"
    with pytest.raises(ValueError, match="AF_PIPE"):
        connection.Listener(address)
    with pytest.raises(ValueError, match="AF_PIPE"):
        connection.Client(address)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="AF_NONSENSE"):
        connection.Listener(family="AF_NONSENSE")
    with pytest.raises(ValueError, match="address"):
        connection.address_type(17)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="authkey"):
        connection.Listener(authkey="text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="authkey"):
        connection.Client("/nowhere", authkey="text")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        connection.Client("/nowhere/at/all")
    with pytest.raises(ValueError, match="authkey"):
        connection.deliver_challenge(None, "text")  # type: ignore[arg-type]


# --- the handshake -------------------------------------------------------------------------------


def accept_fails(listener: connection.Listener, peer: Callable[[Any], Any]) -> BaseException:
    """What ``accept`` raises when this peer connects; the listener is then in order."""
    error = turned_away(listener, peer)
    client = InThread(connection.Client, listener.address, None, KEY)
    with listener.accept() as ours, client.result() as theirs:
        theirs.send("in order")
        assert ours.recv() == "in order"
    return error


def turned_away(listener: connection.Listener, peer: Callable[[Any], Any]) -> BaseException:
    visit = InThread(peer, listener.address)
    with pytest.raises(procession.AuthenticationError) as caught:
        listener.accept()
    visit.result()
    return caught.value


def with_wrong_key(address: Any) -> None:
    with pytest.raises(procession.AuthenticationError):
        connection.Client(address, authkey=b"wrong")


def sending(data: bytes) -> Callable[[Any], None]:
    def peer(address: Any) -> None:
        with raw_client(address) as sock:
            try:
                sock.sendall(data)
                while sock.recv(100):
                    pass
            except ConnectionError:
                pass  # the listener has hung up without having read everything

    peer.__name__ = f"sending {data[:24]!r}"
    return peer


def closing(address: Any) -> None:
    raw_client(address).close()


def resetting(address: Any) -> None:
    with raw_client(address) as sock:
        sock.recv(10)  # not all of it: the rest makes the kernel send a reset
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Bomb:
    """Its pickle, if anyone loads it, leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "peer",
    [
        with_wrong_key,
        sending(b"GET / HTTP/1.1\r\n\r\n"),
        sending(bytes(range(255, -1, -1)) * 10),
        sending(struct.pack("!i", 0x7FFFFFFF)),
        sending(struct.pack("!iQ", -1, 1 << 60)),
        sending(struct.pack("!i", -2) + bytes(20)),
        sending(frame(b"{sha256}")),
        sending(frame(b"{md4}" + bytes(16))),
        sending(frame(b"#CHALLENGE#" + bytes(20))),
        closing,
        resetting,
    ],
    ids=lambda peer: peer.__name__,
)
def test_bad_peers_are_turned_away(family: str, peer: Callable[[Any], Any]) -> None:
    with connection.Listener(family=family, authkey=KEY) as listener:
        accept_fails(listener, peer)


@pytest.mark.parametrize("said", [b"", b"\0\0", struct.pack("!i", 20) + b"half a di"])
def test_silent_peer_does_not_block_the_listener(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with connection.Listener(authkey=KEY) as listener:
        began = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(connection, "AUTHENTICATION_TIMEOUT", 0.3)
            error = turned_away(listener, sending(said))
        assert 0.2 < time.monotonic() - began < BOUND / 2
        assert "in time" in str(error)
        accept_fails(listener, closing)


def test_nothing_is_unpickled_before_the_handshake(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    pickled = pickle.dumps(Bomb(bomb))
    with connection.Listener(authkey=KEY) as listener:
        accept_fails(listener, sending(frame(pickled)))
        accept_fails(listener, sending(frame(pickled) * 3))
    assert not bomb.exists()
    with connection.Listener() as listener:  # and it would have worked
        peer = InThread(sending(frame(pickled)), listener.address)
        with listener.accept() as conn:
            conn.recv()
        peer.result()
    assert bomb.exists()


def test_client_turns_a_false_listener_away() -> None:
    for said in (b"#CHALLENGE#", b"#CHALLENGE#" + bytes(7), b"#NONSENSE#" + bytes(40), b"x" * 300):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(BOUND)
            client = InThread(connection.Client, server.getsockname(), None, KEY)
            peer, _ = server.accept()
            with peer:
                peer.sendall(frame(said))
                with pytest.raises(procession.AuthenticationError):
                    client.result()


def test_client_can_give_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError):
        connection.Client(server.getsockname(), authkey=KEY, timeout=0.1)


def test_client_notices_that_the_listener_goes_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(BOUND)
        client = InThread(connection.Client, server.getsockname(), None, KEY)
        server.accept()[0].close()
        with pytest.raises((EOFError, ConnectionError)):
            client.result()


@pytest.mark.parametrize("digest", [None, "md5", "sha256", "sha384", "sha3_256", "sha3_384"])
def test_challenge_and_response(digest: str | None) -> None:
    prefix = b"{%s}" % digest.encode() if digest else b""
    challenge = prefix + b"is-twenty-bytes-long"
    answer = connection._create_response(KEY, challenge)
    assert answer == prefix + hmac.new(KEY, challenge, digest or "md5").digest()
    connection._verify_challenge(KEY, challenge, answer)
    for wrong in (answer[:-1] + bytes([answer[-1] ^ 1]), b"", answer[:-1], b"{sha1}" + bytes(20)):
        with pytest.raises(procession.AuthenticationError):
            connection._verify_challenge(KEY, challenge, wrong)


def test_peer_of_python_3_11_and_earlier() -> None:
    """It knows only MD5, and names no digest."""

    def md5(message: bytes) -> bytes:
        return hmac.new(KEY, message, hashlib.md5).digest()

    def old_client(address: Any) -> bytes:
        with raw_client(address) as sock:
            challenge = read_frame(sock)
            sock.sendall(frame(md5(challenge.removeprefix(b"#CHALLENGE#"))))
            assert read_frame(sock) == b"#WELCOME#"
            ours = os.urandom(20)
            sock.sendall(frame(b"#CHALLENGE#" + ours))
            assert read_frame(sock) == md5(ours)
            sock.sendall(frame(b"#WELCOME#"))
            return read_frame(sock)

    with connection.Listener(authkey=KEY) as listener:
        client = InThread(old_client, listener.address)
        with listener.accept() as conn:
            conn.send_bytes(b"well met")
            assert client.result() == b"well met"


STANDARD_PEER = """
import sys
from multiprocessing.connection import Client, Listener
if sys.argv[1] == "listen":
    with Listener(family=sys.argv[2], authkey=b"supersecret") as listener:
        print(repr(listener.address), flush=True)
        with listener.accept() as conn:
            conn.send(conn.recv() * 2)
else:
    with Client(eval(sys.argv[2]), authkey=b"supersecret") as conn:
        conn.send("from the standard library")
        print(conn.recv(), flush=True)
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_standard_library_at_the_other_end(family: str) -> None:
    command = [sys.executable, "-c", STANDARD_PEER]
    with connection.Listener(family=family, authkey=KEY) as listener:
        with subprocess.Popen([*command, "connect", repr(listener.address)], stdout=subprocess.PIPE, text=True) as peer:
            with listener.accept() as conn:
                assert conn.recv() == "from the standard library"
                conn.send("to it")
            out, _ = peer.communicate(timeout=BOUND)
            assert (out, peer.returncode) == ("to it\n", 0)
    with subprocess.Popen([*command, "listen", family], stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        with connection.Client(eval(peer.stdout.readline()), authkey=KEY) as conn:
            conn.send([1, "two"])
            assert conn.recv() == [1, "two", 1, "two"]
        assert peer.wait(BOUND) == 0


def test_giant_message_is_not_believed() -> None:
    """A peer that announces more than it sends costs no memory, and is over when it closes."""
    with connection.Listener(family="AF_INET") as listener, raw_client(listener.address) as peer:
        with listener.accept() as conn:
            peer.sendall(struct.pack("!iQ", -1, 1 << 50) + b"a little")
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises((EOFError, OSError)):
                conn.recv_bytes()


def test_strangers_cannot_name_memory_of_the_family() -> None:
    with connection.Listener(family="AF_INET") as listener, raw_client(listener.address) as peer:
        with listener.accept() as conn:
            peer.sendall(struct.pack("!i", -2) + bytes(20))
            with pytest.raises(OSError):
                conn.recv()


# --- waiting -------------------------------------------------------------------------------------


def test_wait_for_all_kinds(ctx: Any) -> None:
    one, other = ctx.Pipe()
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    child = ctx.Process(target=echo, args=(other,))
    child.start()
    try:
        things = [left, one, child.sentinel, reader]
        assert connection.wait(things, 0) == []
        os.write(writer, b"x")
        assert connection.wait(things) == [reader]
        right.send(b"x")
        assert connection.wait(things, BOUND) == [left, reader]
        one.send("message")
        assert one.poll(BOUND)
        assert connection.wait(things, BOUND) == [left, one, reader]
        assert one.recv() == "message"
        one.send(None)
        child.join(BOUND)
        assert child.sentinel in connection.wait([child.sentinel], BOUND)
    finally:
        for end in (one, other, left, right):
            end.close()
        os.close(reader)
        os.close(writer)
        child.join(BOUND)


def test_wait_times_out() -> None:
    first, second = connection.Pipe()
    with first, second:
        for timeout, least in ((-1, 0.0), (0, 0.0), (0.2, 0.2)):
            began = time.monotonic()
            assert connection.wait([first, second], timeout) == []
            assert least <= time.monotonic() - began < least + BOUND / 2
        second.close()
        assert connection.wait([first]) == [first]
        assert connection.wait([first, first], 1e10) == [first, first]
    assert connection.wait([], 0.01) == []


def test_wait_wakes_when_something_comes() -> None:
    first, second = connection.Pipe()
    with first, second:
        waiting = InThread(connection.wait, [first], BOUND)
        time.sleep(0.1)
        second.send(1)
        assert waiting.result() == [first]


def test_wait_refuses_what_has_no_descriptor() -> None:
    first, second = connection.Pipe()
    first.close()
    second.close()
    with pytest.raises(OSError):
        connection.wait([first])
    for nonsense in ("text", -1, object()):
        with pytest.raises(ValueError):
            connection.wait([nonsense])
    with socket.socket() as closed:
        pass
    with pytest.raises(ValueError):
        connection.wait([closed])


def send_some(writer: connection.Connection, number: int) -> None:
    with writer:
        for i in range(20):
            writer.send((number, i))


def test_wait_collects_from_many_writers(ctx: Any) -> None:
    readers, children, received = [], [], []
    for number in range(3):
        reader, writer = ctx.Pipe(duplex=False)
        child = ctx.Process(target=send_some, args=(writer, number))
        child.start()
        writer.close()
        readers.append(reader)
        children.append(child)
    while readers:
        ready = connection.wait(readers, BOUND)
        assert ready, "nobody sends any more"
        for reader in ready:
            try:
                received.append(reader.recv())
            except EOFError:
                readers.remove(reader)
                reader.close()
    assert sorted(received) == [(number, i) for number in range(3) for i in range(20)]
    for child in children:
        child.join(BOUND)


def test_a_listener_leaves_no_file(run_program: Programs, tmp_path: Path) -> None:
    outcome = run_program(
        """
        import os, signal
        from procession.connection import Client, Listener
        listener = Listener(family="AF_UNIX", backlog=5)
        Client(listener.address)
        assert listener.address[:1] == b"\\0"
        assert not [name for name in os.listdir(os.environ["TMPDIR"]) if name.startswith("pymp-")]
        os.kill(os.getpid(), signal.SIGKILL)
        """.replace("\n        ", "\n"),
        env={"TMPDIR": str(tmp_path)},
    )
    assert outcome.code == -signal.SIGKILL, outcome.err


OUTSIDE = """
import sys
from procession.connection import Connection
with Connection(int(sys.argv[1])) as end:
    try:
        end.send_bytes(end.recv_bytes())
    except OSError as error:
        print(error)
"""


@pytest.mark.parametrize("plain", [True, False])
def test_an_end_in_a_process_outside_the_family(plain: bool) -> None:
    mine, theirs = procession.Pipe()
    with mine, connection.Connection(os.dup(mine.fileno())) as plainly:
        command = [sys.executable, "-c", OUTSIDE, str(theirs.fileno())]
        child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True)
        theirs.close()
        end = plainly if plain else mine
        sending = InThread(end.send_bytes, bytes(1_000_000))
        if plain:
            assert len(end.recv_bytes()) == 1_000_000
        output, _ = child.communicate(timeout=BOUND)
        assert ("takes this process for a member of its own family" in output) == (not plain), output
        if plain:
            sending.result()
