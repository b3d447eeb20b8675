"""Values and arrays in shared memory."""

from __future__ import annotations

import array
import ctypes
import gc
import pickle
import threading
import time
import weakref
from typing import Any

import pytest

import procession
from procession import heap, sharedctypes

BOUND = 20.0
CODES = [
    ("i", 4343, -24),
    ("d", 3.625, -4.25),
    ("h", -232, 234),
    ("q", 2**33, 2**34),
    ("c", b"x", b"y"),
    ("B", 7, 9),
]


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Pixel(Point):
    _fields_ = [("colour", ctypes.c_ubyte)]


def run(ctx: Any, target: Any, *args: Any) -> None:
    child = ctx.Process(target=target, args=args)
    child.start()
    child.join(BOUND)
    assert child.exitcode == 0


def set_values(values: list[Any]) -> None:
    for value, (_, _, new) in zip(values, CODES, strict=True):
        value.value = new


@pytest.mark.parametrize("raw", [False, True])
def test_values(ctx: Any, raw: bool) -> None:
    make = ctx.RawValue if raw else ctx.Value
    values = [make(code, first) for code, first, _ in CODES]
    assert [value.value for value in values] == [first for _, first, _ in CODES]
    run(ctx, set_values, values)
    assert [value.value for value in values] == [new for _, _, new in CODES]


def running_sums(numbers: Any) -> None:
    for i in range(1, len(numbers)):
        numbers[i] += numbers[i - 1]


@pytest.mark.parametrize("raw", [False, True])
def test_arrays(ctx: Any, raw: bool) -> None:
    make = ctx.RawArray if raw else ctx.Array
    numbers = make("i", [1, 2, 3, 4])
    assert (len(numbers), numbers[1], numbers[1:3], list(numbers)) == (4, 2, [2, 3], [1, 2, 3, 4])
    numbers[2:] = array.array("i", [30, 40])
    run(ctx, running_sums, numbers)
    assert numbers[:] == [1, 3, 33, 73]
    assert list(make("d", 5)) == [0.0] * 5
    assert list(make(ctypes.c_short, range(3))) == [0, 1, 2]
    assert len(make("i", 0)) == 0
    with pytest.raises(ValueError):
        make("i", -1)


def double(point: Any, pixel: Any, text: Any, points: Any) -> None:
    point.x *= 2
    pixel.colour += 1
    pixel.y = 0.5
    text.value *= 2
    for p in points:
        p.x += 1


@pytest.mark.parametrize("lock", [True, False])
def test_structures_and_text(ctx: Any, lock: bool) -> None:
    point = ctx.Value(Point, 3, 2.5, lock=lock)
    pixel = ctx.Value(Pixel, 1, 2.0, 254, lock=lock)
    text = ctx.Array("c", 20, lock=lock)
    points = ctx.Array(Point, [(1, 1.0), (2, 2.0)], lock=lock)
    text.value = b"hello"
    run(ctx, double, point, pixel, text, points)
    assert (point.x, point.y) == (6, 2.5)
    assert (pixel.x, pixel.y, pixel.colour) == (1, 0.5, 255)
    assert (text.value, text.raw[:12]) == (b"hellohello", b"hellohello\0\0")
    assert [p.x for p in points] == [2, 3]


def test_locks() -> None:
    value = procession.Value("i", 5)
    with value, value.get_lock():
        value.value += 1
    assert (value.value, value.get_obj().value) == (6, 6)
    lock = procession.Lock()
    assert procession.Value("i", lock=lock).get_lock() is lock
    assert procession.Array("i", 2, lock=lock).get_lock() is lock
    assert not hasattr(procession.Value("i", lock=False), "get_lock")
    assert not hasattr(procession.RawArray("i", 2), "get_obj")
    for make in (procession.Value, procession.Array):
        with pytest.raises(AttributeError, match="acquire"):
            make("i", 5, lock="no lock")
    with pytest.raises(TypeError):
        sharedctypes.synchronized(value)
    for wrong in ("z", int, None):
        for make in (procession.Value, procession.RawValue):
            with pytest.raises(TypeError, match=f"bad typecode {wrong!r}"):
                make(wrong)
        for make in (procession.Array, procession.RawArray):
            with pytest.raises(TypeError, match=f"bad typecode {wrong!r}"):
                make(wrong, 1)
    assert "wrapper" in repr(value)


def count_up(value: Any, times: int) -> None:
    for _ in range(times):
        with value:
            value.value += 1


def test_increments_are_not_lost(ctx: Any) -> None:
    value = ctx.Value("i", 0)
    children = [ctx.Process(target=count_up, args=(value, 500)) for _ in range(3)]
    for child in children:
        child.start()
    count_up(value, 500)
    for child in children:
        child.join(BOUND)
        assert child.exitcode == 0
    assert value.value == 2000


def test_another_thread_waits_for_the_lock() -> None:
    value = procession.Value("i", 0)
    with value.get_lock():
        thread = threading.Thread(target=count_up, args=(value, 1), daemon=True)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert value.value == 0
    thread.join(BOUND)
    assert value.value == 1


def answer_in_what_was_sent(conn: Any) -> None:
    with conn:
        for value in iter(conn.recv, None):
            value[0] += 1
            conn.send(value)


def test_they_travel_at_any_time(ctx: Any) -> None:
    """The standard library lets them be inherited only."""
    here, there = ctx.Pipe()
    child = ctx.Process(target=answer_in_what_was_sent, args=(there,))
    child.start()
    there.close()
    with here:
        for make in (ctx.Array, ctx.RawArray):
            numbers = make("i", [1, 2])
            here.send(numbers)
            assert here.poll(BOUND)
            back = here.recv()
            assert (numbers[0], type(back)) == (2, type(numbers))
            back[1] = 7
            assert numbers[1] == 7
        here.send(None)
        child.join(BOUND)
    assert child.exitcode == 0


def test_ordinary_ctypes_objects_are_copied(ctx: Any) -> None:
    procession.RawValue(Point, 1, 2)
    here, there = ctx.Pipe()
    with here, there:
        original = Point(3, 4.0)
        here.send(original)
        copied = there.recv()
        copied.x = 5
        assert (original.x, copied.y) == (3, 4.0)


def test_plain_pickle_of_a_synchronized_object() -> None:
    numbers = procession.Array("i", [1, 2])
    twin = pickle.loads(pickle.dumps(numbers))
    twin[0] = 9
    assert numbers[:] == [9, 2]


def test_copy() -> None:
    point = procession.RawValue(Point, 2, 5.0)
    other = sharedctypes.copy(point)
    point.x = 0
    assert (other.x, other.y) == (2, 5.0)


def test_memory_is_zeroed_and_given_back() -> None:
    for _ in range(3):
        numbers = procession.RawArray("i", 1000)
        assert not any(numbers)
        numbers[:] = range(1000)
        del numbers
    arena = heap.BufferWrapper._heap
    before = arena._n_mallocs - arena._n_frees
    kept = [heap.BufferWrapper(n) for n in range(50)]
    assert arena._n_mallocs - arena._n_frees == before + 50
    for wrapper in kept:
        wrapper.create_memoryview()[:] = b"x" * wrapper._size
    del kept, wrapper
    gc.collect()
    assert arena._n_mallocs - arena._n_frees == before
    with pytest.raises(ValueError):
        heap.BufferWrapper(-1)


def test_a_view_keeps_the_memory() -> None:
    wrapper = heap.BufferWrapper(10)
    view = wrapper.create_memoryview()
    del wrapper
    gc.collect()
    others = [heap.BufferWrapper(10).create_memoryview() for _ in range(100)]
    view[:] = b"0123456789"
    assert not any(any(other) for other in others)


def test_more_memory_than_there_is() -> None:
    with pytest.raises((MemoryError, OSError)):
        procession.RawArray("d", 1 << 50)
    with pytest.raises(OverflowError):
        heap.BufferWrapper(1 << 63)


# --- the wrapper of a single value ---------------------------------------------------------------


class Counting(procession.synchronize.RLock):
    """A lock with methods of its own."""

    calls = 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        self.calls += 1
        return super().acquire(block, timeout)


@pytest.mark.parametrize("make", [procession.Lock, procession.RLock, threading.Lock, threading.RLock, Counting])
def test_a_value_is_read_and_written_under_any_lock(make: Any) -> None:
    lock = make()
    value = procession.Value("i", 5, lock=lock)
    assert value.get_lock() is lock
    assert (value._lock, value._obj.value) == (lock, 5)
    value.value = 6
    value.value += 1
    assert (value.value, value.get_obj().value) == (7, 7)
    with pytest.raises(TypeError):
        value.value = "text"
    # It is free again after each access, also after one that failed.
    assert lock.acquire(timeout=5)
    lock.release()
    if make is Counting:
        assert lock.calls == 6
    with pytest.raises(AttributeError, match="can't be replaced"):
        value._obj = 1
    with pytest.raises(AttributeError, match="can't be replaced"):
        value._lock = lock
    assert value.value == 7


def test_a_value_waits_for_its_lock() -> None:
    value = procession.Value("i", 1, lock=procession.Lock())
    seen: list[int] = []
    with value.get_lock():
        reader = threading.Thread(target=lambda: seen.append(value.value))
        reader.start()
        reader.join(0.1)
        assert not seen
        value.get_obj().value = 2
    reader.join(30)
    assert seen == [2]


def test_a_value_in_a_circle_is_collected() -> None:
    value = procession.Value("i", 1)
    value.itself = value
    gone = weakref.ref(value)
    del value
    gc.collect()
    assert gone() is None


def test_a_value_is_read_and_written_with_its_lock_held(ctx: Any) -> None:
    value = ctx.Value("i", 1)
    lock = value.get_lock()
    started, got = threading.Event(), []

    def use() -> None:
        started.set()
        got.append(value.value)
        value.value = 3

    with lock:
        other = threading.Thread(target=use)
        other.start()
        assert started.wait(30)
        time.sleep(0.05)
        assert not got
        value.value += 1  # its holder may
    other.join(30)
    assert (got, value.value) == ([2], 3)
    with pytest.raises(TypeError):
        value.value = "three"
    with pytest.raises(AttributeError):
        del value.value
    assert value.get_lock() is lock
    assert lock.acquire(block=False)  # nobody has kept it
    lock.release()
    with pytest.raises(TypeError):
        value.get_lock(1)


def test_the_lock_of_a_value_may_be_any() -> None:
    class Counting:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def acquire(self, *args: Any) -> bool:
            self.calls.append("acquire")
            return True

        def release(self) -> None:
            self.calls.append("release")

    counting: Any = Counting()
    value = procession.Value("d", 1.5, lock=counting)
    assert value.value == 1.5
    value.value = 2
    assert value.get_lock() is counting
    assert counting.calls == ["acquire", "release"] * 2
    unmade: Any = type(value).__new__(type(value))
    for use in (lambda: unmade.value, unmade.get_lock):
        with pytest.raises(AttributeError, match="__init__"):
            use()
