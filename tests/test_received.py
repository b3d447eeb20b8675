"""What was received belongs to the receiver: a copy, also after a fork, as with the standard library."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import procession
from procession import _procession

SIZE = 300_000


class Sent:
    """Bytes that stay outside the pickle, as those of a numpy array do."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Sent, (pickle.PickleBuffer(self.data),)


def received(queue: Any, fill: int) -> memoryview:
    queue.put(Sent(bytearray([fill]) * SIZE))
    data: memoryview = queue.get().data
    assert (len(data), data[0], data[-1], data.readonly) == (SIZE, fill, fill, False)
    return data


def forked(body: Callable[[], None]) -> int:
    """Fork in a way of which the package is told nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Turns:
    """Two processes that wait for each other's steps."""

    def __init__(self) -> None:
        self.there, self.here = procession.Event(), procession.Event()

    def over_to_parent(self) -> None:
        self.here.set()
        assert self.there.wait(30)
        self.there.clear()

    def await_child(self) -> None:
        assert self.here.wait(30)
        self.here.clear()


def write_and_look(data: memoryview, turns: Turns) -> None:
    data[0] = 9
    data[-1] = 9
    turns.over_to_parent()
    assert (data[0], data[1], data[-1]) == (9, 1, 9)

    # And so on, from a child to its own child.
    def grandchild() -> None:
        assert (data[0], data[1]) == (9, 1)
        data[1] = 8

    pid = forked(grandchild)
    assert ended(pid) == 0
    assert data[1] == 1


def test_parent_and_child_write_to_copies_of_their_own() -> None:
    queue: Any = procession.Queue()
    data, other = received(queue, 1), received(queue, 2)
    turns = Turns()
    pid = forked(lambda: write_and_look(data, turns))
    turns.await_child()
    assert (data[0], data[-1]) == (1, 1)
    data[1] = 7
    turns.there.set()
    assert ended(pid) == 0
    assert (data[0], data[1], data[-1]) == (1, 7, 1)
    assert bytes(other) == b"\2" * SIZE


def test_so_do_parent_and_child_of_a_process_that_is_started_by_fork() -> None:
    queue: Any = procession.Queue()
    data = received(queue, 1)
    turns = Turns()
    child = procession.get_context("fork").Process(target=write_and_look, args=(data, turns))
    child.start()
    turns.await_child()
    assert (data[0], data[-1]) == (1, 1)
    data[1] = 7
    turns.there.set()
    child.join(30)
    assert child.exitcode == 0
    assert (data[0], data[1]) == (1, 7)


def sums(questions: Any, answers: Any) -> None:
    while (sent := questions.get()) is not None:
        answers.put(sum(sent.data))
        del sent


def test_the_memory_is_everybodys_again_once_it_has_been_let_go(ctx: Any) -> None:
    """A block that was private for a while goes round between processes: all see what the others wrote."""
    queue: Any = procession.Queue()
    questions, answers = ctx.Queue(), ctx.Queue()
    child = ctx.Process(target=sums, args=(questions, answers))
    child.start()
    for turn in range(1, 6):
        data = received(queue, turn)
        data[0] = 200

        def hold(data: memoryview = data) -> None:
            data[5] = 1
            signal.pause()

        # One that lets go before its parent, one that outlives it, both without a word.
        first, second = forked(hold), forked(hold)
        os.kill(first, signal.SIGKILL)
        assert ended(first) == -signal.SIGKILL
        assert data[5] == turn
        data[6] = 201
        del data, hold
        for fill in (11, 12):
            questions.put(Sent(bytearray([fill]) * SIZE))
            assert answers.get(timeout=30) == fill * SIZE
            again = received(queue, fill)
            questions.put(Sent(again))
            assert answers.get(timeout=30) == fill * SIZE
            del again
        os.kill(second, signal.SIGKILL)
        assert ended(second) == -signal.SIGKILL
        for fill in (21, 22, 23):
            questions.put(Sent(bytearray([fill]) * SIZE))
            assert answers.get(timeout=30) == fill * SIZE
            assert sum(received(queue, fill)) == fill * SIZE
    questions.put(None)
    child.join(30)
    assert child.exitcode == 0


def test_what_is_shared_stays_shared() -> None:
    array = procession.RawArray("B", SIZE)
    queue: Any = procession.Queue()
    queue.put(array)
    same = queue.get()

    def body() -> None:
        array[0] = 1
        same[SIZE - 1] = 2

    assert ended(forked(body)) == 0
    assert (same[0], array[SIZE - 1]) == (1, 2)


def test_a_child_nobody_announced_holds_what_its_parent_lets_go_of_at_once() -> None:
    """On one processor the parent goes on first: it must not take away what the child has a copy of."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        for turn in range(30):
            queue: Any = procession.Queue()
            data, lock = received(queue, 1), procession.Lock()

            def body(data: memoryview = data, lock: Any = lock) -> None:
                data[5] = 2
                with lock:
                    assert sum(data) == SIZE + 1

            pid = forked(body)
            del data, lock, body
            again = received(queue, 3)
            assert ended(pid) == 0, turn
            assert sum(again) == 3 * SIZE
            del again
    finally:
        os.sched_setaffinity(0, processors)


# --- read-only buffers -----------------------------------------------------------------------------------


def block_of(data: memoryview) -> Any:
    """The block in which a view lies that was received."""
    block = data.obj
    assert type(block) is _procession.Block
    return block


def frozen(fill: int, queue: Any) -> memoryview:
    """A view that was received read-only."""
    queue.put(Sent(bytes([fill]) * SIZE))
    data: memoryview = queue.get().data
    assert (len(data), data[0], data[-1]) == (SIZE, fill, fill)
    return data


def is_gone(handle: bytes) -> bool:
    try:
        _procession._rebuild(_procession.Block, handle, 1)
    except procession.ProcessError:
        return True
    return False


def test_what_is_read_only_arrives_so_and_nobody_can_change_that() -> None:
    queue: Any = procession.Queue()
    data = frozen(1, queue)
    assert data.readonly
    block = block_of(data)
    assert block.frozen
    assert memoryview(block).readonly
    with pytest.raises(TypeError):
        data[0] = 2
    # Its block by itself, too, as whoever unpickles it has it.
    queue.put(block)
    again = queue.get()
    assert again.frozen
    assert memoryview(again).readonly
    assert not block_of(received(queue, 1)).frozen


def test_an_array_of_numpy_stays_read_only() -> None:
    numpy = pytest.importorskip("numpy")
    queue: Any = procession.Queue()
    array = numpy.arange(SIZE, dtype="u4").reshape(2, -1)
    array.flags.writeable = False
    queue.put([array, array[1], "and so on", numpy.ones(SIZE)])
    whole, row, _, own = queue.get()
    assert (whole == array).all()
    assert (row == array[1]).all()
    for view in (whole, row, whole[0]):
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    own[0] = 5
    # Sent on: nothing is copied, the place is the same in this process.
    queue.put((whole, own))
    again, other = queue.get()
    place = whole.__array_interface__["data"][0]
    assert again.__array_interface__["data"][0] == place
    assert other.__array_interface__["data"][0] != own.__array_interface__["data"][0]
    assert other.flags.writeable
    del whole, row, view
    assert (again == array).all()


def test_what_is_read_only_is_sent_on_without_a_copy() -> None:
    queue: Any = procession.Queue()
    ends = procession.Pipe()
    data = frozen(1, queue)
    handle = block_of(data).handle
    for _ in range(3):
        queue.put((1, Sent(data), Sent(data)))
        _, one, other = queue.get()
        ends[0].send(Sent(one.data))
        ends[0].send([Sent(data)] * 2)
        third, fourth = ends[1].recv(), ends[1].recv()[1]
        for sent in (one, other, third, fourth):
            assert block_of(sent.data).handle == handle
            assert sent.data.readonly
            assert sent.data == data
    # With much else in the pickle, and with buffers of other kinds beside it.
    mixed = [Sent(bytearray(b"a") * SIZE), Sent(data), Sent(b"b" * SIZE), list(range(50_000))]
    queue.put(mixed)
    own, same, new, rest = queue.get()
    assert rest == mixed[3]
    assert (own.data.readonly, same.data.readonly, new.data.readonly) == (False, True, True)
    assert block_of(same.data).handle == handle
    assert (own.data[-1], new.data[-1], block_of(new.data).frozen) == (ord("a"), ord("b"), True)
    # Bytes are no objects: who asks for bytes is told.
    ends[0].send(Sent(data))
    with pytest.raises(OSError):
        ends[1].recv_bytes()


def test_memory_that_somebody_may_write_to_is_copied() -> None:
    queue: Any = procession.Queue()
    mine = bytearray(b"1") * SIZE
    queue.put(Sent(memoryview(mine).toreadonly()))
    mine[0] = ord("2")
    first = queue.get().data
    assert (first[0], first.readonly) == (ord("1"), True)
    # What was received writable, seen through a read-only view: its owner may write to it.
    own = received(queue, 1)
    queue.put(Sent(own.toreadonly()))
    own[0] = 9
    second = queue.get().data
    assert (second[0], second.readonly) == (1, True)
    assert block_of(second).handle != block_of(own).handle
    # So may everyone to a RawArray.
    array = procession.RawArray("B", SIZE)
    queue.put(Sent(memoryview(array).toreadonly()))
    array[0] = 7
    assert queue.get().data[0] == 0


def test_a_part_goes_by_name_unless_it_is_small() -> None:
    queue: Any = procession.Queue()
    queue.put(Sent(bytes(range(250)) * 2000))
    data = queue.get().data
    handle = block_of(data).handle
    for start, end, same in ((1, 500_000, True), (0, 499_999, True), (7, 300_000, True), (0, 100_000, False)):
        queue.put(Sent(data[start:end]))
        part = queue.get().data
        assert part.readonly
        assert part == data[start:end]
        assert (block_of(part).handle == handle) is same
        queue.put(Sent(part))
        assert queue.get().data == part


def test_the_memory_is_free_again_when_the_last_view_is_gone() -> None:
    queue: Any = procession.Queue()
    data = frozen(1, queue)
    handle = block_of(data).handle
    queue.put(Sent(data))
    queue.put(Sent(data))
    del data
    assert not is_gone(handle)
    first = queue.get().data
    half = first[: SIZE // 2]
    del first
    second = queue.get().data
    assert second[0] == half[0] == 1
    del second
    assert not is_gone(handle)
    del half
    assert is_gone(handle)
    # What is made there next is not taken for it.
    for fill in range(2, 5):
        own = received(queue, fill)
        queue.put(Sent(own))
        copy = queue.get().data
        assert (copy[0], copy.readonly) == (fill, False)
        assert block_of(copy).handle != block_of(own).handle
        del own, copy


def pass_on(questions: Any, answers: Any) -> None:
    held = []
    while (sent := questions.get()) is not None:
        assert sent.data.readonly
        held.append(sent)
        answers.put(sent)
    signal.pause()


def test_receivers_that_die_take_nothing_with_them_and_leave_nothing(ctx: Any) -> None:
    questions, answers = ctx.Queue(), ctx.Queue()
    children = [ctx.Process(target=pass_on, args=(questions, answers)) for _ in range(2)]
    for child in children:
        child.start()
    queue = ctx.Queue()
    data = frozen(3, queue)
    handle = block_of(data).handle
    for _ in range(8):
        questions.put(Sent(data))
    back = [answers.get(timeout=30).data for _ in range(8)]
    assert {block_of(view).handle for view in back} == {handle}
    del back
    for child in children:
        child.kill()
        child.join(30)
    assert sum(data) == 3 * SIZE
    del data
    assert is_gone(handle)


def test_a_sender_may_end_before_anyone_has_looked(ctx: Any) -> None:
    queue, answers = ctx.Queue(), ctx.Queue()
    data = frozen(4, queue)
    handle = block_of(data).handle
    child = ctx.Process(target=send_and_end, args=(Sent(data), answers))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    del data, child
    gc.collect()
    last = answers.get(timeout=30).data
    assert block_of(last).handle == handle
    assert sum(last) == 4 * SIZE
    del last
    assert is_gone(handle)


def send_and_end(sent: Any, answers: Any) -> None:
    answers.put(sent)


def test_a_fork_shares_what_is_read_only() -> None:
    queue: Any = procession.Queue()
    data = frozen(5, queue)
    handle = block_of(data).handle
    turns = Turns()

    def body(data: memoryview = data) -> None:
        turns.over_to_parent()
        assert sum(data) == 5 * SIZE

    pid = forked(body)
    turns.await_child()
    del data, body
    assert not is_gone(handle)
    turns.there.set()
    assert ended(pid) == 0


def test_pools_take_and_give_back_what_is_read_only(ctx: Any) -> None:
    queue = ctx.Queue()
    data = frozen(6, queue)
    handle = block_of(data).handle
    with ctx.Pool(2) as pool:
        for back in (*pool.map(same, [Sent(data)] * 4, chunksize=2), pool.apply(same, (Sent(data),))):
            assert block_of(back.data).handle == handle
            assert back.data == data


def same(sent: Any) -> Any:
    assert sent.data.readonly
    return sent


def test_freeze() -> None:
    queue: Any = procession.Queue()
    mine = bytearray(b"1") * SIZE
    sent, rest = procession.freeze((Sent(mine), {"a": [1]}))
    mine[0] = 0
    assert rest == {"a": [1]}
    assert sent.data.readonly
    assert bytes(sent.data) == b"1" * SIZE
    handle = block_of(sent.data).handle
    queue.put(sent)
    assert block_of(queue.get().data).handle == handle
    # What is frozen is not copied again; what is mixed becomes frozen altogether.
    again, other = procession.freeze([sent, Sent(mine)])
    assert block_of(again.data).handle == handle
    assert block_of(other.data).frozen
    assert procession.freeze([1, "two", b"3" * 10]) == [1, "two", b"3" * 10]
    assert procession.freeze(b"b" * SIZE) == b"b" * SIZE
    large = procession.freeze([list(range(50_000)), Sent(mine)])
    assert large[0][-1] == 49_999
    assert large[1].data.readonly
    with pytest.raises((TypeError, pickle.PicklingError)):
        procession.freeze(unpicklable())
    del sent, again
    assert is_gone(handle)


def unpicklable() -> Any:
    return threading.Lock()
