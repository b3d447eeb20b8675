"""What strangers can't do: unpickle, connect, open, inherit. See SECURITY.md."""

from __future__ import annotations

import os
import pickle
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

import procession
from conftest import Programs
from procession import connection

KEY = b"the key of these tests"


class Planted:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> object:
        return os.mkdir, (self.path,)


def frame(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def say(address: object, words: bytes) -> None:
    """Connect, say this at once, and leave when the other end does, or after a little while."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(address)  # type: ignore[arg-type]
        try:
            sock.sendall(words)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        except OSError:
            pass


def in_threads(calls: list[tuple[object, bytes]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=say, args=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def test_nothing_is_unpickled_before_the_key_is_proven(tmp_path: Path) -> None:
    planted = pickle.dumps(Planted(tmp_path / "planted"))
    wrong = connection._authentication.create_response(b"a wrong key", b"{sha256}" + bytes(40))
    attempts = [
        frame(planted) * 4,
        frame(wrong) + frame(planted) * 4,
        frame(b"#WELCOME#") + frame(planted) * 4,
        frame(b"#CHALLENGE#" + b"{sha256}" + bytes(40)) + frame(wrong) + frame(planted),
        planted,
    ]
    with connection.Listener(authkey=KEY, backlog=10) as listener:
        threads = in_threads([(listener.address, attempt) for attempt in attempts])
        for _ in attempts:
            with pytest.raises(connection.AuthenticationError):
                listener.accept()
        for thread in threads:
            thread.join()
    assert not (tmp_path / "planted").exists()
    pickle.loads(planted)  # it would have been seen
    assert (tmp_path / "planted").exists()


def test_garbage_is_turned_away_and_the_listener_goes_on() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    garbage = [chance.randbytes(chance.choice([0, 1, 3, 4, 5, 16, 60, 300, 5000])) for _ in range(60)]
    garbage += [struct.pack("!i", length) + b"x" for length in (-1, -(1 << 31), (1 << 31) - 1, 257)]
    garbage += [struct.pack("!iQ", -1, 1 << 62) + b"x"]
    with connection.Listener(authkey=KEY, backlog=100) as listener:
        for part in range(0, len(garbage), 10):
            threads = in_threads([(listener.address, words) for words in garbage[part : part + 10]])
            for _ in threads:
                with pytest.raises(connection.AuthenticationError):
                    listener.accept()
            for thread in threads:
                thread.join()
        found: list[object] = []
        client = threading.Thread(
            target=lambda: found.append(connection.Client(listener.address, authkey=KEY)),
        )
        client.start()
        with listener.accept() as accepted:
            client.join()
            accepted.send("welcome")
            with found[0] as own:  # type: ignore[attr-defined]
                assert own.recv() == "welcome"


def resident(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_manager_serves_on_whoever_else_knocks(start_method: str) -> None:
    manager = procession.get_context(start_method).Manager()
    with manager:
        numbers = manager.list(range(5))
        server = manager._process.pid
        before = resident(server)
        half_open = []
        for said in [b"", b"\0", struct.pack("!i", 1 << 30), frame(b"#CHALLENGE#")[:9]] * 8:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(manager.address)
            sock.sendall(said)
            half_open.append(sock)
        began = time.monotonic()
        with pytest.raises(connection.AuthenticationError):
            connection.Client(manager.address, authkey=b"wrong")
        assert list(numbers) == list(range(5))
        other = procession.managers.SyncManager(manager.address, authkey=procession.current_process().authkey)
        other.connect()
        assert time.monotonic() - began < 15
        assert resident(server) - before < 100 << 20, "it has believed a giant length"
        for sock in half_open:
            sock.close()
        numbers.append(5)
        assert numbers[-1] == 5


def test_a_giant_length_takes_no_memory_and_a_torn_message_no_time() -> None:
    here, far = socket.socketpair()
    with far, connection.Connection(here.detach()) as conn:
        far.sendall(struct.pack("!iQ", -1, 1 << 46) + b"and so on")
        before = resident(os.getpid())
        reader: list[object] = []

        def read() -> None:
            try:
                conn.recv_bytes()
            except (OSError, EOFError, MemoryError) as error:
                reader.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(0.3)
        assert resident(os.getpid()) - before < 100 << 20
        far.close()  # in the middle of it
        thread.join(20)
        assert not thread.is_alive()
        assert isinstance(reader[0], (OSError, EOFError, MemoryError))


def test_no_descriptor_is_given_to_programs_that_are_started(run_program: Programs, start_method: str) -> None:
    program = """
import os, subprocess, sys
import procession
from procession.connection import Listener

def nothing():
    pass

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    before = [fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")]
    kept = [procession.Lock(), procession.Queue(), procession.Pipe(), procession.Pool(2), procession.Manager(),
            Listener(), Listener(family="AF_INET"), procession.Event()]
    process = procession.Process(target=nothing)
    process.start()
    here, there = procession.Pipe()
    here.send(there)
    again = there.recv()
    open_ones = [int(name) for name in os.listdir("/proc/self/fd")]
    new = [fd for fd in open_ones if fd not in before and os.path.exists(f"/proc/self/fd/{fd}")]
    print([fd for fd in new if os.get_inheritable(fd)])
    listing = f"import os; print([fd for fd in map(int, os.listdir('/proc/self/fd')) if fd > 3 and fd not in {before}])"
    print(subprocess.run([sys.executable, "-c", listing], close_fds=False, stdout=subprocess.PIPE).stdout.decode())
    process.join()
    kept[3].terminate()
    kept[4].shutdown()
"""
    outcome = run_program(program, start_method).check()
    assert outcome.out.split() == ["[]", "[]"]


STRANGER = """
import os, socket, sys
import procession
from procession import resource_sharer
from procession.connection import Listener

queue = procession.Queue()
queue.put("secret")
arena = procession._procession.arena_fd()
listener = Listener(backlog=5)
reader, writer = os.pipe()
sharer = resource_sharer.DupFd(reader)
me = os.getpid()
told, tell = os.pipe()
stranger = os.fork()
if stranger == 0:
    said = []
    try:
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)
        os.close(arena)
        for path in (f"/proc/{me}/fd/{arena}", f"/proc/{me}/mem", f"/proc/{me}/map_files"):
            try:
                os.listdir(path) if path.endswith("files") else os.open(path, os.O_RDWR)
                said.append(f"{path} is open")
            except OSError:
                pass
        for address, words in [(listener.address, b""), (sharer._address, sharer._key)]:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(10)
            try:
                sock.connect(address)
                sock.sendall(words)
                if sock.recv(10):
                    said.append(f"{address} has answered")
            except ConnectionError:
                pass
    except BaseException as error:
        said.append(repr(error))
    os.write(tell, repr(said).encode())
    os._exit(0)
os.close(tell)
import threading
accepted = []
thread = threading.Thread(target=lambda: accepted.append(listener.accept()), daemon=True)
thread.start()
print(os.read(told, 10_000).decode())
os.waitpid(stranger, 0)
assert not accepted
procession.connection.Client(listener.address).close()
thread.join(10)
assert len(accepted) == 1
assert os.fstat(sharer.detach()).st_ino == os.fstat(reader).st_ino  # nobody has fetched it
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_gets_in_nowhere(run_program: Programs) -> None:
    outcome = run_program(STRANGER).check()
    assert outcome.out.strip() == "[]"


def test_pools_and_fork_servers_have_no_name_to_connect_to(run_program: Programs, start_method: str) -> None:
    program = """
import os, sys
import procession

def names(pids):
    inodes = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    with open("/proc/net/unix") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    return [fields[7] for fields in lines if fields[6] in inodes and len(fields) > 7]

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    with procession.Pool(2) as pool:
        pool.map(abs, range(4))
        family = [member["pid"] for member in procession._procession.members() if member["alive"]]
        assert len(family) >= 3
        print(names(family))
"""
    outcome = run_program(program, start_method).check()
    assert outcome.out.strip() == "[]"
