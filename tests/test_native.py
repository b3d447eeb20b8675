"""The extension module by itself: blocks, parcels, connections, places in the family, arguments."""

from __future__ import annotations

import array
import gc
import inspect
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import procession
from conftest import Programs
from forking import BOUND, Child, forked
from procession import _procession, reduction
from procession._procession import Block, Connection, Parcel

# --- blocks -------------------------------------------------------------------------------------------


def test_a_block_is_zeroed_writable_memory() -> None:
    block = Block(1000)
    view = memoryview(block)
    assert len(block) == len(view) == 1000 and not view.readonly and view.format == "B"
    assert bytes(view) == bytes(1000)
    view[10:13] = b"abc"
    assert bytes(block)[9:14] == b"\0abc\0"
    assert len(block.handle) == 16 and block.address > 0


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000_000])
def test_blocks_of_all_sizes(size: int) -> None:
    block = Block(size)
    assert len(block) == size
    view = memoryview(block)
    assert view.nbytes == size
    if size:
        view[-1] = 255
        assert view[-1] == 255


def test_memory_that_was_used_is_zero_again() -> None:
    for _ in range(3):
        block = Block(5000)
        assert not any(memoryview(block))
        memoryview(block)[:] = b"\xff" * 5000


def test_all_processes_see_a_block() -> None:
    block = Block(16)

    def write() -> None:
        memoryview(block)[:4] = b"here"

    Child(write).check()
    assert bytes(block)[:5] == b"here\0"


def test_a_block_lives_as_long_as_its_views() -> None:
    view = memoryview(Block(100_000))
    view[:3] = b"abc"
    gc.collect()
    others = [Block(100_000) for _ in range(5)]
    for other in others:
        memoryview(other)[:3] = b"xyz"
    assert bytes(view[:3]) == b"abc"


def test_a_block_pickles_as_its_name() -> None:
    block = Block(1 << 20)
    data = pickle.dumps(block)
    assert len(data) < 300
    again = pickle.loads(data)
    memoryview(again)[0] = 5
    assert memoryview(block)[0] == 5


class Named(Block):
    def __init__(self, name: str) -> None:
        super().__init__(10)
        self.name = name


def test_a_subclass_of_block() -> None:
    block = Named("mine")
    again = pickle.loads(pickle.dumps(block))
    assert type(again) is Named and again.name == "mine" and len(again) == 10


@pytest.mark.parametrize("size", [-1, "5", 1.5, None])
def test_a_size_must_be_one(size: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Block(size)


def test_more_than_there_is() -> None:
    for size in (1 << 40, 1 << 62):
        with pytest.raises(MemoryError, match=str(size)):
            Block(size)
    with pytest.raises(OverflowError):
        Block(1 << 70)


def test_numpy_arrays_on_blocks() -> None:
    numpy = pytest.importorskip("numpy")
    q = procession.Queue()
    sent = numpy.arange(200_000, dtype="f8").reshape(400, 500)
    q.put({"a": sent})
    got = q.get()["a"]
    assert (got == sent).all() and got.flags.writeable
    got[0, 0] = -1
    assert sent[0, 0] == 0


# --- parcels ------------------------------------------------------------------------------------------


def test_a_parcel_can_be_unpacked_several_times_by_anyone() -> None:
    event = procession.Event()
    parcel = _procession.pack({"event": event, "list": [1, 2, 3], "bytes": pickle.PickleBuffer(bytearray(100_000))})
    assert len(parcel.handle) == 16

    def child() -> None:
        got = _procession.unpack(parcel.handle)
        assert got["list"] == [1, 2, 3] and len(got["bytes"]) == 100_000
        got["event"].set()

    Child(child).check()
    assert event.is_set()
    assert _procession.unpack(parcel.handle)["list"] == [1, 2, 3]


def test_a_parcel_keeps_what_it_contains() -> None:
    parcel = _procession.pack([procession.Semaphore(7)])
    gc.collect()
    others = [procession.Semaphore(1) for _ in range(50)]
    assert _procession.unpack(parcel.handle)[0].get_value() == 7
    assert all(other.get_value() == 1 for other in others)


def test_a_parcel_that_is_gone() -> None:
    handle = _procession.pack(1).handle
    gc.collect()
    with pytest.raises(procession.ProcessError):
        _procession.unpack(handle)


@pytest.mark.parametrize("handle", [b"", b"x" * 15, b"x" * 17, bytes(16), b"\xff" * 16, os.urandom(16)])
def test_nonsense_is_no_parcel(handle: bytes) -> None:
    with pytest.raises((ValueError, procession.ProcessError)):
        _procession.unpack(handle)


def test_a_lock_is_no_parcel() -> None:
    with pytest.raises(procession.ProcessError):
        _procession.unpack(procession.synchronize.Lock().handle)


def test_parcels_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Parcel()


class Mentions:
    """Pickles an object of the arena by its bare handle, as `__reduce__` methods in Python may."""

    def __init__(self, semaphore: Any) -> None:
        self.semaphore = semaphore

    def __reduce__(self) -> Any:
        rebuild, (cls, handle, own), *_ = self.semaphore.__reduce__()
        _procession.note_handle(handle)
        return rebuild, (cls, handle, own)


def test_a_noted_handle_is_kept_alive() -> None:
    q = procession.Queue()
    q.put(Mentions(procession.Semaphore(5)))
    gc.collect()
    others = [procession.Semaphore(1) for _ in range(50)]
    assert q.get().get_value() == 5
    assert len(others) == 50
    _procession.note_handle(bytes(16))  # nothing is being sent


def test_a_pickler_must_be_callable() -> None:
    with pytest.raises(TypeError, match="can't be called"):
        _procession.set_pickler(5, pickle.loads)  # type: ignore[arg-type]
    q = procession.Queue()
    q.put([1])
    assert q.get() == [1]


def test_another_pickler() -> None:
    seen: list[object] = []

    def dumps(obj: object) -> bytes:
        seen.append(obj)
        return pickle.dumps(obj)

    q = procession.Queue()
    _procession.set_pickler(dumps, pickle.loads)
    try:
        q.put([5])
        q.put(6)
    finally:
        _procession.set_pickler(reduction.dumps, reduction.loads)
    assert seen == [[5]] and q.get() == [5] and q.get() == 6


# --- connections --------------------------------------------------------------------------------------


def pair(duplex: bool = True) -> tuple[Connection, Connection]:
    return _procession.pipe(duplex, Connection)


@pytest.mark.parametrize("family", [True, False])
def test_objects_and_bytes(family: bool) -> None:
    a, b = pair()
    if not family:
        a, b = Connection(os.dup(a.fileno())), Connection(os.dup(b.fileno()))
    objects: list[Any] = [1, "two", b"three", [4], None, {"five": 6.0}, list(range(5000)), b"x" * 70_000]
    with a, b:
        for obj in objects:
            a.send(obj)
            assert b.poll(BOUND) and b.recv() == obj
        for data in (b"", b"abc", bytearray(b"abc"), memoryview(b"abcdef")[1:4], array.array("d", [1.5])):
            a.send_bytes(data)
            assert b.recv_bytes() == bytes(data)
        a.send([1, {"two": 3}])
        assert pickle.loads(b.recv_bytes()) == [1, {"two": 3}]
        b.send_bytes(pickle.dumps([7]))
        assert a.recv() == [7]
    assert a.closed and b.closed


def test_shared_objects_through_a_pipe() -> None:
    a, b = pair()
    with a, b:
        a.send([procession.Semaphore(4), pickle.PickleBuffer(bytearray(200_000))])
        gc.collect()
        others = [procession.Semaphore(1) for _ in range(50)]
        semaphore, buffer = b.recv()
        assert semaphore.get_value() == 4 and len(memoryview(buffer)) == 200_000 and others


@pytest.mark.parametrize(("offset", "size"), [(0, None), (0, 26), (5, None), (7, 8), (26, None), (26, 0), (0, 0)])
def test_parts_of_buffers(offset: int, size: int | None) -> None:
    message = b"abcdefghijklmnopqrstuvwxyz"
    a, b = pair()
    with a, b:
        a.send_bytes(message, offset, size)
        assert b.recv_bytes() == message[offset:][:size]


@pytest.mark.parametrize(("offset", "size"), [(27, None), (22, 5), (26, 1), (-1, None), (4, -1)])
def test_parts_that_are_not_there(offset: int, size: int | None) -> None:
    a, b = pair()
    with a, b:
        with pytest.raises(ValueError):
            a.send_bytes(b"abcdefghijklmnopqrstuvwxyz", offset, size)
        assert not b.poll()


def test_what_is_no_buffer_of_bytes() -> None:
    a, b = pair()
    with a, b:
        with pytest.raises(TypeError):
            a.send_bytes("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="contiguous"):
            a.send_bytes(memoryview(b"abcdef")[::2])
        assert not b.poll()


def test_receiving_into_a_buffer() -> None:
    a, b = pair()
    with a, b:
        into = bytearray(b" " * 10)
        a.send_bytes(b"abc")
        assert b.recv_bytes_into(into, 2) == 3 and into == b"  abc     "
        a.send_bytes(b"x" * 11)
        with pytest.raises(procession.BufferTooShort) as caught:
            b.recv_bytes_into(into)
        assert caught.value.args == (b"x" * 11,)
        a.send_bytes(b"still there")
        for wrong, offset in ((into, -1), (into, 11)):
            with pytest.raises(ValueError, match="offset"):
                b.recv_bytes_into(wrong, offset)
        with pytest.raises(TypeError, match="read-only"):
            b.recv_bytes_into(bytes(20))  # type: ignore[arg-type]
        assert b.recv_bytes() == b"still there"


def test_ends_that_only_send_or_receive() -> None:
    reader, writer = pair(False)
    with reader, writer:
        assert (reader.readable, reader.writable, writer.readable, writer.writable) == (True, False, False, True)
        for wrong in (
            lambda: reader.send(1),
            lambda: reader.send_bytes(b""),
            writer.recv,
            writer.recv_bytes,
            writer.poll,
        ):
            with pytest.raises(OSError):
                wrong()
        writer.send(1)
        assert reader.recv() == 1


def test_the_end_of_a_connection() -> None:
    a, b = pair()
    a.send("last")
    a.close()
    with b:
        assert b.poll() and b.recv() == "last"
        assert b.poll() and b.poll(None)
        for _ in range(2):
            with pytest.raises(EOFError):
                b.recv()
            with pytest.raises(EOFError):
                b.recv_bytes()
        with pytest.raises(BrokenPipeError):
            for _ in range(3):
                b.send(1)


def test_a_closed_connection() -> None:
    a, b = pair()
    b.close()
    a.close()
    a.close()
    for use in (a.recv, a.recv_bytes, a.fileno, a.poll, lambda: a.send(1), lambda: a.send_bytes(b"")):
        with pytest.raises(OSError, match="closed"):
            use()


def test_a_message_longer_than_allowed_ends_it() -> None:
    a, b = pair()
    with a, b:
        a.send_bytes(b"x" * 100)
        assert b.recv_bytes(100) == b"x" * 100
        a.send_bytes(b"x" * 101)
        with pytest.raises(OSError, match="101"):
            b.recv_bytes(100)
        with pytest.raises(OSError):
            b.recv_bytes()
        assert not b.readable
        with pytest.raises(ValueError, match="negative"):
            a.recv_bytes(-1)


def test_what_is_no_descriptor() -> None:
    for number in (-1, -5):
        with pytest.raises(ValueError, match="not a file descriptor"):
            Connection(number)
    bad = Connection(44977608)
    for use in (bad.poll, bad.recv, lambda: bad.send(1)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == 9
    with pytest.raises(ValueError):
        Connection(0, False, False)
    with pytest.raises(TypeError):
        Connection("0")  # type: ignore[arg-type]


def test_a_connection_closes_its_descriptor_when_it_goes() -> None:
    a, b = pair()
    fd = a.fileno()
    del a
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)
    with b, pytest.raises(EOFError):
        b.recv()


def test_closing_while_another_thread_receives_does_not_pull_the_descriptor_away() -> None:
    a, b = pair()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(b.recv()))
    thread.start()
    time.sleep(0.5)  # so that it waits there by then
    b.close()
    other = os.open("/dev/null", os.O_RDONLY)  # which would get the number
    a.send("message")
    thread.join(BOUND)
    os.close(other)
    assert got == ["message"]
    a.close()


class Picky(Connection):
    def __new__(cls, *args: Any, **kwds: Any) -> Picky:
        raise LookupError("no")


def test_a_class_that_refuses_a_descriptor_does_not_leak_it() -> None:
    for _ in range(5):  # the census counts
        with pytest.raises(LookupError):
            _procession.pipe(True, Picky)


def test_half_a_message_is_not_lost_by_a_signal() -> None:
    """A receive that is interrupted in the middle of a message goes on with it the next time."""
    a, b = pair()
    raw = b"x" * 300_000
    ready, stopped = procession.Event(), procession.Event()

    def receive() -> None:
        class Stop(Exception):
            pass

        def stop(*_: object) -> None:
            raise Stop

        signal.signal(signal.SIGUSR1, stop)
        ready.set()
        with pytest.raises(Stop):
            b.recv_bytes()
        stopped.set()
        assert b.recv_bytes() == raw

    with forked(receive) as child:
        b.close()
        assert ready.wait(BOUND)
        child.sleeps()
        message = len(raw).to_bytes(4, "big") + raw
        os.write(a.fileno(), message[:1000])
        time.sleep(0.2)
        child.send(signal.SIGUSR1)
        assert stopped.wait(BOUND)
        fd = a.fileno()
        sent = 1000
        while sent < len(message):
            sent += os.write(fd, message[sent : sent + 50_000])
    a.close()


# --- the family ---------------------------------------------------------------------------------------


def test_this_process_is_a_member() -> None:
    me = [member for member in _procession.members() if member["pid"] == os.getpid()]
    assert len(me) == 1 and me[0]["alive"]
    assert set(me[0]) == {"id", "pid", "name", "role", "parent", "alive"}


def test_a_child_made_by_hand_takes_its_seat() -> None:
    seat = _procession.prepare_child("by hand", "worker")
    _procession.fork_with(seat)
    q = procession.Queue()

    def child() -> None:
        q.put([member for member in _procession.members() if member["pid"] == os.getpid()])
        signal.pause()

    process = Child(child)
    _procession.fork_done()
    _procession.child_started(seat, process.pid)
    (member,) = q.get(timeout=BOUND)
    assert (member["name"], member["role"], member["alive"]) == ("by hand", "worker", True)
    pid = process.pid
    process.kill()
    _procession.reap(seat)
    assert not any(member["pid"] == pid for member in _procession.members())
    _procession.reap(seat)


def test_a_spare_takes_its_seat_when_it_is_given_one() -> None:
    q = procession.Queue()
    reader, writer = os.pipe()

    def child() -> None:
        _procession.take_seat(int(os.read(reader, 32)))
        q.put([member for member in _procession.members() if member["pid"] == os.getpid()])
        signal.pause()

    _procession.fork_spare()
    process = Child(child)
    _procession.fork_done()
    try:
        assert not any(member["pid"] == process.pid for member in _procession.members())
        seat = _procession.prepare_child("late", "worker")
        _procession.lend_to(seat)
        os.write(writer, str(seat).encode())
        (member,) = q.get(timeout=BOUND)
        assert (member["name"], member["role"], member["alive"]) == ("late", "worker", True)
    finally:
        process.kill()
        os.close(reader)
        os.close(writer)
    _procession.reap(seat)
    assert not any(member["name"] == "late" for member in _procession.members())


def test_a_spare_whose_seat_was_given_up() -> None:
    seat = _procession.prepare_child("given up", "process")
    _procession.cancel_child(seat)
    reader, writer = os.pipe()

    def child() -> None:
        try:
            _procession.take_seat(seat)
        except procession.ProcessError as error:
            os.write(writer, str(error).encode())
        signal.pause()

    _procession.fork_spare()
    process = Child(child)
    _procession.fork_done()
    try:
        os.close(writer)
        assert b"given up this child" in os.read(reader, 1000)
    finally:
        process.kill()
        os.close(reader)


def test_a_seat_that_is_not_taken() -> None:
    seat = _procession.prepare_child("never", "process")
    assert _procession.exit_status(seat) is None
    _procession.note_exit(seat, -9)
    assert _procession.exit_status(seat) == -9
    _procession.cancel_child(seat)


@pytest.mark.parametrize("use", ["cancel_child", "fork_with", "lend_to", "take_seat", "reap", "exit_status"])
@pytest.mark.parametrize("seat", [0, 2**63])
def test_what_is_no_seat(use: str, seat: int) -> None:
    with pytest.raises(ValueError, match="not a seat"):
        getattr(_procession, use)(seat)


def test_what_is_no_role() -> None:
    with pytest.raises(ValueError, match="'worker'"):
        _procession.prepare_child("x", "king")


def test_joining_comes_first() -> None:
    fd = os.dup(_procession.arena_fd())
    with pytest.raises(RuntimeError, match="belongs to a family already"):
        _procession.join_family(fd, 5)
    with pytest.raises(OSError):
        os.fstat(fd)  # it was taken over
    with pytest.raises(OSError):
        _procession.join_family(44977608, 5)
    with pytest.raises(ValueError):
        _procession.join_family(-1, 5)


def test_what_is_no_familys_memory(run_program: Programs) -> None:
    outcome = run_program(
        """
import os
from procession import _procession
try:
    _procession.join_family(os.open("/dev/zero", os.O_RDWR), 5)
except (RuntimeError, OSError) as error:
    print("refused")
"""
    ).check()
    assert outcome.out == "refused\n"


def test_spawn(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    program = f"import os, sys; os.write({writer}, repr((sys.argv[1:], os.environ.get('X'))).encode())"
    env = [b"X=a=b"] + [f"{k}={v}".encode() for k, v in os.environ.items()]
    pid, pidfd = _procession.spawn(sys.executable, ["-c", program, "one", b"two \xff"], [writer], env)
    os.close(writer)
    assert select.select([pidfd], [], [], BOUND)[0]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert eval(os.read(reader, 1000)) == (["one", "two \udcff"], "a=b")
    assert not os.get_inheritable(pidfd)
    os.close(pidfd)
    os.close(reader)


def test_spawn_of_what_cannot_be() -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        _procession.spawn("/no/such/program", [], [])
    with pytest.raises(PermissionError):
        _procession.spawn("/etc", [], [])
    with pytest.raises(ValueError, match="zero byte"):
        _procession.spawn(sys.executable, ["a\0b"], [])
    with pytest.raises(TypeError, match="str or bytes"):
        _procession.spawn(sys.executable, [5], [])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="NAME=value"):
        _procession.spawn(sys.executable, [], [], ["nonsense"])


def test_spawn_passes_the_environment_of_os_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSION_TEST_VALUE", "grüße")
    reader, writer = os.pipe()
    program = f"import os; os.write({writer}, os.environb[b'PROCESSION_TEST_VALUE'])"
    pid, pidfd = _procession.spawn(sys.executable, ["-c", program], [writer])
    os.close(writer)
    os.waitpid(pid, 0)
    assert os.read(reader, 100).decode() == "grüße"
    os.close(reader)
    os.close(pidfd)


def test_dying_with_another_process() -> None:
    ready = procession.Semaphore(0)
    victim = Child(signal.pause)

    def follower() -> None:
        _procession.die_with(victim.pid)
        ready.release()
        signal.pause()

    child = Child(follower)
    assert ready.acquire(timeout=BOUND)
    victim.kill()
    assert child.wait() == -signal.SIGKILL


def test_a_fork_that_nobody_announced() -> None:
    """A child of a plain os.fork() is a member of its own, and holds what its parent held."""
    lock, q = procession.Lock(), procession.Queue()

    def child() -> None:
        lock.acquire()
        me = [member["name"] for member in _procession.members() if member["pid"] == os.getpid()]
        q.put((me, lock.owner()))
        gc.collect()
        grandchild = Child(lambda: q.put(lock.acquire(False)))
        grandchild.check()
        lock.release()

    with forked(child):
        names, (pid, _thread, _name) = q.get(timeout=BOUND)
        assert names == ["forked"] and pid != os.getpid()
        assert q.get(timeout=BOUND) is False
    assert lock.acquire(False)


def test_forks_while_threads_are_busy() -> None:
    """No lock of ours is left locked in a child by a thread that it does not have."""
    q, stop = procession.Queue(10), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            q.put([1])
            q.get()
            _procession.Block(100)

    def child() -> None:
        mine = procession.Queue()
        mine.put(_procession.pack([5]).handle)
        assert len(mine.get(timeout=BOUND)) == 16
        with procession.Lock():
            pass

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads
                Child(child).check()
    finally:
        stop.set()
        for thread in threads:
            thread.join(BOUND)


# --- the module ---------------------------------------------------------------------------------------


def test_signatures_are_known() -> None:
    assert str(inspect.signature(_procession.Lock.acquire)) == "(self, /, block=True, timeout=None)"
    assert str(inspect.signature(_procession.Queue.put)) == "(self, /, obj, block=True, timeout=None)"
    assert str(inspect.signature(_procession.Queue)) == "(maxsize=0)"
    assert str(inspect.signature(_procession.spawn)) == "(executable, args, fds, env=None, blocked=())"


def test_everything_says_what_it_is() -> None:
    for name in dir(_procession):
        obj = getattr(_procession, name)
        if name.startswith("_"):
            continue
        assert obj.__doc__, name
        if inspect.isclass(obj):
            for member, value in vars(obj).items():
                if not member.startswith("_"):
                    assert value.__doc__, f"{name}.{member}"


def test_the_extension_alone_does_not_import_the_package_or_threading() -> None:
    program = """
import sys
before = set(sys.modules)
import procession._procession
allowed = {"procession", "procession._procession"}
print(sorted(name for name in set(sys.modules) - before if name in ("threading", "queue", "multiprocessing")))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=BOUND)
    assert done.returncode == 0, done.stderr
    assert "multiprocessing" not in done.stdout


UNMADE: list[tuple[Callable[..., Any], str]] = [
    (_procession.Lock, "acquire"),
    (_procession.RLock, "release"),
    (_procession.Semaphore, "get_value"),
    (_procession.Event, "is_set"),
    (_procession.WaitQueue, "waiters"),
    (_procession.Barrier, "abort"),
    (_procession.Queue, "qsize"),
    (_procession.Block, "__len__"),
]


@pytest.mark.parametrize(("cls", "method"), UNMADE)
def test_an_object_without_init_is_useless_but_harmless(cls: Any, method: str) -> None:
    obj = cls.__new__(cls)
    with pytest.raises(RuntimeError, match="has not been called"):
        getattr(obj, method)()
    with pytest.raises(RuntimeError, match="has not been called"):
        pickle.dumps(obj)
    repr(obj)
    gc.collect()


def test_a_second_init_changes_nothing() -> None:
    semaphore = _procession.Semaphore(3)
    semaphore.__init__(5)  # type: ignore[misc]
    assert semaphore.get_value() == 3
