"""Pickling for other processes: policy, buffers, reducers, descriptors, sockets."""

from __future__ import annotations

import copyreg
import functools
import io
import os
import pickle
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import procession
from conftest import Programs
from procession import reduction, resource_sharer


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def method(self) -> int:
        return self.x + self.y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)


def back(obj: object) -> Any:
    pickled = reduction.dumps(obj)
    return reduction.loads(pickled) if isinstance(pickled, bytes) else reduction.loads(*pickled)


@pytest.mark.parametrize(
    "obj",
    [
        0,
        None,
        "text",
        1.5,
        (1, [2, {3: 4}]),
        Point(1, 2),
        {Point: print},
        functools.partial(int, base=3),
        b"x" * 200_000,
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_there_and_back(obj: Any) -> None:
    copy = back(obj)
    assert type(copy) is type(obj)
    if isinstance(obj, functools.partial):
        assert copy("11") == 4
    else:
        assert copy == obj


def test_methods() -> None:
    assert back(Point(3, 4).method)() == 7
    assert back([1, 2].append).__self__ == [1, 2]
    assert back(str.upper)("x") == "X"


# --- buffers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "outside"), [(0, 0), (64 * 1024 - 1, 0), (64 * 1024, 1), (1_000_000, 1)])
def test_large_buffers_stay_outside(size: int, outside: int) -> None:
    data = bytearray(os.urandom(size))
    pickled = reduction.dumps(["head", pickle.PickleBuffer(data), "tail"])
    if not outside:
        assert isinstance(pickled, bytes)
        assert bytes(reduction.loads(pickled)[1]) == bytes(data)
        return
    text, buffers = pickled
    assert len(text) < 200 and len(buffers) == 1
    assert isinstance(buffers[0], memoryview) and buffers[0].obj is data and buffers[0].format == "B"
    assert bytes(reduction.loads(text, buffers)[1]) == bytes(data)


def test_arrays() -> None:
    np = pytest.importorskip("numpy")
    for array in (np.arange(100_000.0), np.arange(60_000).reshape(200, 300).T, np.arange(100_000)[::2], np.arange(5)):
        assert (back(array) == array).all()
        assert back([array, array])[0].dtype == array.dtype
    text, buffers = reduction.dumps({"a": np.zeros(10_000), "b": np.ones(20_000), "c": np.ones(10)})
    assert [b.nbytes for b in buffers] == [80_000, 160_000]
    assert len(text) < 1000


def test_buffers_of_one_pickle_do_not_leak_into_the_next() -> None:
    large = pickle.PickleBuffer(bytearray(100_000))
    assert len(reduction.dumps(large)[1]) == 1
    assert reduction.dumps(1) == pickle.dumps(1, 5)

    class Bad:
        def __reduce__(self) -> Any:
            raise LookupError

    with pytest.raises(LookupError):
        reduction.dumps([large, Bad()])
    assert reduction.dumps("x") == pickle.dumps("x", 5)
    assert len(reduction.dumps(large)[1]) == 1


# --- reducers -------------------------------------------------------------------------------------


class Odd:
    pass


def test_registered_reducers_are_ours_alone() -> None:
    class Special:
        pass

    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Special())
    reduction.register(Special, lambda obj: (int, (7,)))
    try:
        assert back(Special()) == 7
        assert reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps([Special()])) == [7]
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pickle.dumps(Special())
        reduction.register(Special, lambda obj: (int, (8,)))
        assert back(Special()) == 8
    finally:
        del reduction.ForkingPickler._extra_reducers[Special]
        reduction._snapshot = None


def test_copyreg_is_honoured_at_any_time() -> None:
    assert isinstance(back(Odd()), Odd)
    copyreg.pickle(Odd, lambda obj: (str, ("first",)))  # type: ignore[arg-type]
    try:
        assert back(Odd()) == "first"
        copyreg.pickle(Odd, lambda obj: (str, ("second",)))  # type: ignore[arg-type]
        assert back(Odd()) == "second"
    finally:
        del copyreg.dispatch_table[Odd]
    assert isinstance(back(Odd()), Odd)


def test_no_table_is_built_for_each_call() -> None:
    table = reduction._table()
    reduction.dumps(Point(1, 2))
    assert reduction._table() is table


def test_forking_pickler_class() -> None:
    file = io.BytesIO()
    reduction.ForkingPickler(file, 5).dump({"a": 1})
    assert pickle.loads(file.getvalue()) == {"a": 1}
    file = io.BytesIO()
    reduction.dump([1, 2], file)
    assert pickle.loads(file.getvalue()) == [1, 2]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(reduction.ForkingPickler.dumps("x", protocol)) == "x"

    class Subclass(reduction.ForkingPickler):
        def reducer_override(self, obj: Any) -> Any:
            return (int, (5,)) if isinstance(obj, Point) else NotImplemented

    file = io.BytesIO()
    Subclass(file).dump(Point(1, 2))
    assert pickle.loads(file.getvalue()) == 5
    assert procession.reducer is reduction
    assert reduction.AbstractReducer.ForkingPickler is reduction.ForkingPickler


def test_reducers_may_pickle() -> None:
    class Nested:
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def __reduce__(self) -> Any:
            inner = reduction.dumps(Nested(self.depth - 1)) if self.depth else b""
            return (list, ((self.depth, len(inner)),))

    assert back(Nested(30))[0] == 30
    assert back([Nested(3), Nested(2)])[1][0] == 2


def test_threads() -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        for i in range(300):
            obj = [Point(number, i), "x" * number, bytearray(70_000 if i % 50 == 0 else 3)]
            if back(obj) != obj:
                wrong.append(obj)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert wrong == []


# --- by value -------------------------------------------------------------------------------------


def test_lambdas_and_closures() -> None:
    offset = 5
    assert back(lambda x: x + offset)(1) == 6

    def closure(x: int) -> Any:
        return Point(x, offset)

    # Only what has no name goes by value: the class is the one that we have.
    assert back(closure)(2) == Point(2, 5)

    class Local:
        def answer(self) -> int:
            return 42

    assert back(Local)().answer() == 42
    assert back(Local()).answer() == 42


def test_large_buffers_by_value() -> None:
    data = pickle.PickleBuffer(bytearray(100_000))
    text, buffers = reduction.dumps([lambda: 1, data])
    assert len(buffers) == 1
    function, copy = reduction.loads(text, buffers)
    assert function() == 1 and len(copy) == 100_000


def test_what_has_a_reducer_of_ours_by_value(ctx: Any) -> None:
    numbers = procession.RawArray("i", [1, 2])
    here, there = socket.socketpair()
    with here, there, ctx.Pool(1) as pool:
        pool.apply(lambda: numbers.__setitem__(0, 9))
        pool.apply(lambda: there.sendall(b"x"))
        assert numbers[:] == [9, 2]
        assert here.recv(1) == b"x"
    resource_sharer.stop(20)


LAZY = """
lazy import json
lazy import xml.dom.minidom
lazy from collections import OrderedDict
lazy import not_there
import sys
import procession

def named(x):
    return json.dumps(OrderedDict(a=x))

if __name__ == "__main__":
    with procession.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.apply(named, (1,)), pool.apply(lambda: json.dumps(OrderedDict(a=2))))
        print(pool.apply(lambda: xml.dom.minidom.parseString("<a/>").documentElement.tagName))
        try:
            pool.apply(lambda: not_there)
        except Exception as error:
            print(error)
"""


@pytest.mark.skipif(sys.version_info < (3, 15), reason="`lazy import` came with Python 3.15")
def test_lazy_imports_by_value(start_method: str, run_program: Programs) -> None:
    outcome = run_program(LAZY.lstrip(), start_method).check()
    by_name, submodule, error = outcome.out.splitlines()
    assert by_name == '{"a": 1} {"a": 2}'
    assert submodule == "a"
    assert "No module named 'not_there'" in error


def test_results_by_name_only() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        reduction.dumps_result(lambda: 1)
    assert reduction.loads(reduction.dumps_result([1])) == [1]


def test_what_cannot_be_pickled_at_all() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
        reduction.dumps([1, lock])
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"lambda.*not by value either.*lock"):
        reduction.dumps(lambda: lock)
    with pytest.raises(TypeError, match="lock"):
        reduction.ForkingPickler.dumps(lock)


def test_without_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_cloud", None)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises((AttributeError, pickle.PicklingError)) as caught:
        reduction.dumps(lambda: 1)
    assert any("cloudpickle" in note for note in caught.value.__notes__)


def test_reducers_registered_while_something_is_pickled(run_program: Programs) -> None:
    # The pickler at work goes by the table as it was: it must not be used again.
    program = """
import procession
from procession import reduction

class Late:
    pass

class Thing:
    def __reduce__(self):
        reduction.ForkingPickler.register(Late, lambda late: (str, ("reduced",)))
        for _ in range(2):
            other.put((1, 2))
        return (int, (7,))

queue, other = procession.SimpleQueue(), procession.SimpleQueue()
queue.put([Thing()])
assert queue.get() == [7]
for _ in range(3):
    queue.put((Late(),))
    assert queue.get() == ("reduced",)
print("done")
"""
    assert run_program(program.lstrip()).check().out == "done\n"


def test_cloudpickle_is_not_imported_for_nothing(run_program: Programs) -> None:
    program = """
import sys, procession
from procession import reduction
class C: pass
reduction.dumps([C, C(), print, {1: 2}])
try:
    reduction.dumps_result(lambda: 1)
except Exception:
    pass
assert "cloudpickle" not in sys.modules and "pickle" not in sys.modules
reduction.dumps(lambda: 1)
assert "cloudpickle" in sys.modules
print("late")
"""
    assert run_program(program.lstrip()).check().out == "late\n"


def test_main_that_cannot_be_imported(run_program: Programs) -> None:
    program = """
from procession import reduction
class C:
    def answer(self):
        return offset
def f():
    return C()
offset = 42
data = reduction.dumps([f, C])
kept = C, f
del C, f, offset
function, cls = reduction.loads(data)
print(function().answer(), type(function()) is cls)
"""
    assert run_program(None, options=["-c", program]).check().out == "42 True\n"


def test_name_culprit() -> None:
    error = TypeError("whole")
    parts = [("first", 1), ("second", threading.Lock())]
    named = reduction.name_culprit(error, parts)
    assert type(named) is TypeError
    assert str(named).startswith("second can't be pickled: cannot pickle '_thread.lock'")
    assert reduction.name_culprit(error, [("first", 1)]) is error


# --- descriptors and sockets ----------------------------------------------------------------------


def test_sendfds() -> None:
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    reduction.sendfds(left, [reader, writer])
    received = reduction.recvfds(right, 2)
    assert [os.get_inheritable(fd) for fd in received] == [False, False]
    os.write(received[1], b"x")
    assert os.read(reader, 1) == b"x"
    left.send(b"\0")
    with pytest.raises(RuntimeError, match="expected a message with 1 descriptors, received 0"):
        reduction.recvfds(right, 1)
    left.close()
    with pytest.raises(EOFError):
        reduction.recvfds(right, 1)
    right.close()
    for fd in [*received, reader, writer]:
        os.close(fd)


def write_to_received(connection: Any) -> None:
    fd = reduction.recv_handle(connection)
    os.write(fd, b"from the child")
    os.close(fd)


def test_send_handle(ctx: Any, tmp_path: Path) -> None:
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=write_to_received, args=(theirs,))
    child.start()
    with open(tmp_path / "file", "wb") as file:
        reduction.send_handle(ours, file.fileno(), child.pid)
        child.join()
    assert (tmp_path / "file").read_bytes() == b"from the child"
    ours.close()
    theirs.close()


def use_socket(sock: socket.socket, connection: Any) -> None:
    other = connection.recv()
    sock.sendall(b"by argument")
    other.sendall(b"by message")
    sock.close()
    other.close()
    connection.send(connection.recv().read().decode())


class Readable:
    """A descriptor of a pipe, pickled by itself."""

    def __init__(self, fd: Any) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return rebuild_readable, (reduction.DupFd(self.fd),)

    def read(self) -> bytes:
        try:
            return os.read(self.fd, 100)
        finally:
            os.close(self.fd)


def rebuild_readable(dup: Any) -> Readable:
    return Readable(dup.detach())


def test_sockets_and_descriptors_travel(ctx: Any) -> None:
    ours, theirs = ctx.Pipe()
    (a, a2), (b, b2) = socket.socketpair(), socket.socketpair()
    child = ctx.Process(target=use_socket, args=(a2, theirs))
    child.start()
    ours.send(b2)
    assert a.recv(100) == b"by argument"
    assert b.recv(100) == b"by message"
    reader, writer = os.pipe()
    ours.send(Readable(reader))
    os.write(writer, b"by hand")
    assert ours.recv() == "by hand"
    child.join()
    assert child.exitcode == 0
    for sock in (a, a2, b, b2):
        sock.close()
    for fd in (reader, writer):
        os.close(fd)
    ours.close()
    theirs.close()
    resource_sharer.stop(20)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_many_descriptors_as_arguments(method: str) -> None:
    ctx = procession.get_context(method)
    pairs = [os.pipe() for _ in range(150)]
    things = [Readable(reader) for reader, _writer in pairs]
    receiver, sender = ctx.Pipe(duplex=False)
    extra = [Readable(reader) for reader, _writer in pairs]
    child = ctx.Process(target=read_all, args=(things, extra, sender))
    for number, (_reader, writer) in enumerate(pairs):
        os.write(writer, f"{number},".encode())
        os.close(writer)
    child.start()
    assert receiver.recv() == "".join(f"{n}," for n in range(150))
    child.join()
    for reader, _writer in pairs:
        os.close(reader)
    receiver.close()
    sender.close()


def read_all(things: list[Readable], extra: list[Readable], sender: Any) -> None:
    sender.send(b"".join(thing.read() for thing in things).decode())


def test_dup_fd_is_fetched_once() -> None:
    reader, writer = os.pipe()
    dup = pickle.loads(pickle.dumps(resource_sharer.DupFd(reader)))
    copy = dup.detach()
    os.write(writer, b"x")
    assert os.read(copy, 1) == b"x"
    with pytest.raises(EOFError, match="fetched before"):
        dup.detach()
    unused = resource_sharer.DupFd(reader)
    resource_sharer.stop(20)
    with pytest.raises(ConnectionError, match="no longer shares"):
        unused.detach()
    for fd in (reader, writer, copy):
        os.close(fd)


def test_pickled_sockets_when_the_module_came_late(run_program: Programs) -> None:
    program = """
import sys
from procession import reduction, resource_sharer
assert "socket" not in sys.modules or True
reduction.dumps(1)
import socket
a, b = socket.socketpair()
c = reduction.loads(reduction.dumps(a))
c.send(b"x")
print(b.recv(1))
resource_sharer.stop(20)
"""
    assert run_program(program.lstrip()).check().out == "b'x'\n"
