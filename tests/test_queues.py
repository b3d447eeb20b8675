"""Queues: order, limits, what travels, what dies, and waiting for a queue together with other things."""

from __future__ import annotations

import concurrent.futures
import gc
import inspect
import os
import pickle
import queue
import random
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import procession
from conftest import Programs
from forking import BOUND, Child, forked, until
from procession import connection
from procession.queues import JoinableQueue, Queue, SimpleQueue

KINDS: list[Callable[..., Any]] = [Queue, JoinableQueue, SimpleQueue]

OBJECTS: list[Any] = [
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    10**40,
    True,
    False,
    None,
    0.0,
    -1.5,
    float("inf"),
    "",
    "abc",
    "grüße \U0001f600",
    "lone \ud800",
    "x" * 100_000,
    "ü" * 100_000,
    b"",
    b"abc",
    b"x" * 65_535,
    b"x" * 65_536,
    b"x" * 1_000_001,
    bytearray(b"abc"),
    (1, 2),
    [1, [2, {3: "four"}]],
    list(range(100_000)),
    {"a": 1},
    range(5),
    int,
    os.path.join,
    ValueError("wrong", 5),
]


class Number(int):
    pass


class Text(str):
    pass


# --- what goes in comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_first_in_first_out(make: Callable[..., Any]) -> None:
    q = make()
    assert q.empty()
    for obj in OBJECTS:
        q.put(obj)
    assert not q.empty()
    for obj in OBJECTS:
        got = q.get()
        assert type(got) is type(obj)
        assert got == obj or (isinstance(obj, ValueError) and got.args == obj.args)
    assert q.empty()


def test_subclasses_of_simple_types_stay_what_they_are() -> None:
    q = Queue()
    for obj in (Number(5), Text("five")):
        q.put(obj)
        got = q.get()
        assert type(got) is type(obj) and got == obj


def test_objects_from_another_process() -> None:
    q = Queue()

    def put() -> None:
        for obj in OBJECTS:
            q.put(obj)

    with forked(put):
        for obj in OBJECTS:
            got = q.get(timeout=BOUND)
            assert type(got) is type(obj)
    assert q.empty()


def test_large_buffers_arrive_writable_and_without_a_copy_on_the_way() -> None:
    q = Queue()
    sent = pickle.PickleBuffer(bytearray(b"z" * 1_000_000))
    q.put([1, sent, 2])
    one, got, two = q.get()
    assert (one, two) == (1, 2)
    view = memoryview(got)
    assert not view.readonly and view.nbytes == 1_000_000 and view[-1] == ord("z")
    view[0] = 7
    assert view[0] == 7 and memoryview(sent)[0] == ord("z")


def test_a_received_buffer_outlives_the_queue() -> None:
    q = Queue()
    q.put(pickle.PickleBuffer(bytearray(range(250)) * 1000))
    view = memoryview(q.get())
    del q
    gc.collect()
    others = Queue()
    for _ in range(20):
        others.put(bytes(250_000))
    assert bytes(view[:3]) == b"\x00\x01\x02"


def test_a_put_is_visible_when_it_returns_and_so_are_sizes() -> None:
    q = Queue(maxsize=3)
    for count in range(3):
        assert q.qsize() == count and not q.full()
        q.put(count)
        assert not q.empty()
    assert q.full() and q.qsize() == 3
    assert [q.get_nowait() for _ in range(3)] == [0, 1, 2]
    assert q.empty() and q.qsize() == 0


def test_processes_may_exit_right_after_putting_much(ctx: Any) -> None:
    q = ctx.Queue()
    child = ctx.Process(target=q.put, args=(b"x" * 10_000_000,))
    child.start()
    child.join(BOUND)
    assert child.exitcode == 0
    assert len(q.get(timeout=BOUND)) == 10_000_000


# --- limits and time-outs -----------------------------------------------------------------------------


def test_a_full_queue_takes_nothing() -> None:
    q = Queue(1)
    q.put("only")
    for put in (
        lambda: q.put_nowait(1),
        lambda: q.put(1, False),
        lambda: q.put(1, False, 5),
        lambda: q.put(1, True, 0),
        lambda: q.put(1, timeout=-1),
        lambda: q.put(b"x" * 1_000_000, False),
    ):
        with pytest.raises(queue.Full):
            put()
    start = time.monotonic()
    with pytest.raises(queue.Full):
        q.put([1], timeout=0.1)
    assert 0.09 <= time.monotonic() - start < BOUND
    assert q.get() == "only" and q.empty()


def test_an_empty_queue_gives_nothing() -> None:
    q = Queue()
    for get in (
        q.get_nowait,
        lambda: q.get(False),
        lambda: q.get(False, 5),
        lambda: q.get(True, 0),
        lambda: q.get(timeout=-1),
    ):
        with pytest.raises(queue.Empty):
            get()
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        q.get(timeout=0.1)
    assert 0.09 <= time.monotonic() - start < BOUND


@pytest.mark.parametrize("maxsize", [0, -1, -(10**30), 10**30])
def test_no_limit(maxsize: int) -> None:
    q = Queue(maxsize)
    for number in range(1000):
        q.put_nowait(number)
    assert not q.full() and q.qsize() == 1000


@pytest.mark.parametrize("wrong", ["1", 1.5, None])
def test_the_limit_must_be_a_whole_number(wrong: Any) -> None:
    with pytest.raises(TypeError):
        Queue(wrong)


def test_a_put_waits_for_room() -> None:
    q, blocked = Queue(1), procession.Event()
    q.put(0)

    def put() -> None:
        blocked.set()
        for number in range(1, 50):
            q.put(number)

    with forked(put):
        assert blocked.wait(BOUND)
        assert [q.get(timeout=BOUND) for _ in range(50)] == list(range(50))


def test_a_get_waits_for_an_object() -> None:
    q = Queue()

    def put() -> None:
        time.sleep(0.1)
        q.put("late")

    with forked(put):
        assert q.get() == "late"


@pytest.mark.parametrize("maxsize", [0, 7])
def test_many_producers_and_consumers(maxsize: int) -> None:
    q, results = Queue(maxsize), Queue()
    count = 1500

    def produce(who: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(count):
                q.put((who, number) if number % 3 else who * count + number)

        return run

    def consume() -> None:
        got = []
        while (obj := q.get()) is not None:
            got.append(divmod(obj, count) if isinstance(obj, int) else obj)
        results.put(got)

    producers = [Child(produce(who)) for who in range(3)]
    consumers = [Child(consume) for _ in range(3)]
    for child in producers:
        child.check()
    for _ in consumers:
        q.put(None)
    lists = [results.get(timeout=BOUND) for _ in consumers]
    for child in consumers:
        child.check()
    assert sorted(obj for got in lists for obj in got) == [(who, number) for who in range(3) for number in range(count)]
    for got in lists:
        for who in range(3):
            numbers = [number for producer, number in got if producer == who]
            assert numbers == sorted(numbers)


# --- closing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Queue, JoinableQueue])
def test_a_closed_queue_is_closed_for_this_process_only(make: Callable[..., Any]) -> None:
    q = make()
    q.put(1)
    closed = procession.Event()

    def child() -> None:
        assert closed.wait(BOUND)
        assert q.get(timeout=BOUND) == 1
        q.put(2)

    with forked(child):
        q.close()
        q.close()
        closed.set()
        q.join_thread()
        for use in (lambda: q.put(1), q.get, q.get_nowait, lambda: q.put_nowait(1)):
            with pytest.raises(ValueError, match="is closed"):
                use()
        with pytest.raises(OSError, match="is closed"):
            q.empty()


def test_join_thread_is_for_closed_queues_and_does_nothing() -> None:
    q = Queue()
    q.cancel_join_thread()
    with pytest.raises(AssertionError, match="close"):
        q.join_thread()
    q.close()
    q.join_thread()


def test_a_closed_simple_queue() -> None:
    q = SimpleQueue()
    q.put(1)
    q.close()
    q.close()
    for use in (q.empty, q.get, lambda: q.put(1), q._reader.fileno, q._reader.poll):
        with pytest.raises(OSError, match="is closed"):
            use()
    assert q._reader.closed and q._writer.closed


@pytest.mark.parametrize("make", [Queue, SimpleQueue])
def test_an_end_is_closed_by_itself(make: Callable[..., Any]) -> None:
    q = make()
    q._reader.close()
    assert q._reader.closed and not q._writer.closed
    for use in (q._reader.fileno, q._reader.poll, q._reader.recv):
        with pytest.raises(OSError, match="is closed"):
            use()
    q.put(1)
    q._writer.send(2)
    assert not q._closed
    q._writer.close()
    assert q._closed
    other = make()
    other._writer.close()
    with pytest.raises(OSError, match="is closed"):
        other._writer.send(1)
    other.put(1)
    assert other._reader.recv() == 1 and other._reader.fileno() >= 0
    other._reader.close()
    assert other._closed


# --- join ---------------------------------------------------------------------------------------------


def test_join_waits_until_everything_is_done() -> None:
    q, done = JoinableQueue(), procession.RawValue("i", 0)
    q.join()

    def work() -> None:
        while (pause := q.get()) is not None:
            time.sleep(pause)
            done.value += 1
            q.task_done()
        q.task_done()

    with forked(work):
        for _ in range(10):
            q.put(0.01)
        q.join()
        assert done.value == 10
        q.put(None)
        q.join()
    with pytest.raises(ValueError, match="more often"):
        q.task_done()


# --- what cannot be pickled -----------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Broken:
    def __reduce__(self) -> Any:
        raise AttributeError("a mistake of its own")


class BrokenOnArrival:
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise LookupError("boom")


@pytest.mark.parametrize("make", KINDS)
def test_what_cannot_be_pickled_is_raised_at_once(make: Callable[..., Any]) -> None:
    q = make()
    for wrong in (Unpicklable(), [1, Unpicklable()], threading.Lock()):
        with pytest.raises(TypeError):
            q.put(wrong)
    assert q.empty()
    q.put("goes on")
    assert q.get() == "goes on"


def test_an_error_in_the_objects_own_code_is_printed_as_ever(capfd: pytest.CaptureFixture[str]) -> None:
    q = Queue(maxsize=1)
    q.put(Broken())
    assert "a mistake of its own" in capfd.readouterr().err
    q.put(True)
    assert q.get() is True and q.empty()
    with pytest.raises(AttributeError):
        SimpleQueue().put(Broken())


def test_a_subclass_may_deal_with_it() -> None:
    told = []

    class Mine(Queue[Any]):
        @staticmethod
        def _on_queue_feeder_error(e: Exception, obj: object) -> None:
            told.append((e, obj))

    q, obj = Mine(), Unpicklable()
    q.put(obj)
    ((error, culprit),) = told
    assert isinstance(error, TypeError) and culprit is obj and q.empty()


def test_what_cannot_be_unpickled_is_raised_where_it_arrives() -> None:
    q = Queue()
    q.put(BrokenOnArrival())
    q.put(2)
    with pytest.raises(LookupError, match="boom"):
        q.get()
    assert q.get() == 2


class PutsWhilePickled:
    def __init__(self, q: Any) -> None:
        self.q = q

    def __reduce__(self) -> Any:
        event = procession.Event()
        event.set()
        self.q.put([event, "inner"])
        return list, ((1, 2),)


def test_pickling_may_itself_put() -> None:
    q, outer_event = Queue(), procession.Event()
    q.put([outer_event, PutsWhilePickled(q), procession.Lock()])
    gc.collect()
    inner, (event, numbers, lock) = q.get(), q.get()
    assert inner[0].is_set() and inner[1] == "inner"
    assert not event.is_set() and numbers == [1, 2] and lock.acquire(False)


def test_a_queue_travels_in_itself(ctx: Any) -> None:
    q = ctx.Queue()
    q.put({"queue": q, "answer": ctx.SimpleQueue()})
    child = ctx.Process(target=answer, args=(q,))
    child.start()
    child.join(BOUND)
    assert child.exitcode == 0
    assert q.get(timeout=BOUND) == "here"


def answer(q: Any) -> None:
    received = q.get(timeout=BOUND)
    received["queue"].put("here")


class Counting(Queue[Any]):
    def __init__(self, name: str) -> None:
        super().__init__(ctx=procession.get_context())
        self.name = name
        self.unpicklable = threading.Lock()

    def __getstate__(self) -> Any:
        return super().__getstate__(), self.name

    def __setstate__(self, state: Any) -> None:
        base, self.name = state
        super().__setstate__(base)


def test_a_subclass_chooses_what_travels_of_it() -> None:
    q = Counting("first")
    again = pickle.loads(pickle.dumps(q))
    assert type(again) is Counting and again.name == "first"
    again.put(1)
    assert q.get() == 1


def test_memory_that_is_not_there_is_an_error_that_names_the_size() -> None:
    with pytest.raises(MemoryError, match="1099511627776"):
        procession._procession.Block(1 << 40)


# --- death --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_a_producer_may_be_killed_at_any_moment(large: bool) -> None:
    q = Queue()
    rng = random.Random(5)

    def produce() -> None:
        number = 0
        while True:
            q.put((number, b"x" * (200_000 if large else number % 3000)))
            number += 1
            if number % 200 == 0:
                while q.qsize() > 200:
                    time.sleep(0)

    for _ in range(12):
        child = Child(produce)
        expected, until_then = 0, time.monotonic() + rng.random() * 0.05
        while time.monotonic() < until_then or expected == 0:
            number, _data = q.get(timeout=BOUND)
            assert number == expected
            expected += 1
        child.kill()
        while not q.empty():
            number, data = q.get(timeout=BOUND)
            assert number == expected and set(data) <= {ord("x")}
            expected += 1
        q.put("still works")
        assert q.get(timeout=BOUND) == "still works"


def test_a_consumer_may_be_killed_at_any_moment() -> None:
    q, done = Queue(50), procession.RawValue("q", 0)
    rng = random.Random(6)

    def consume() -> None:
        while True:
            q.get()
            done.value += 1

    put = 0
    for _ in range(12):
        child = Child(consume)
        until_then = time.monotonic() + rng.random() * 0.03
        while time.monotonic() < until_then:
            try:
                q.put([put] * (put % 5), timeout=0.1)
                put += 1
            except queue.Full:
                pass
        child.kill()
    # Each kill may cost the consumer the message in its hands, and no more.
    assert put - 12 - q.qsize() <= done.value <= put
    while not q.empty():
        q.get_nowait()
    q.put("still works")
    assert q.get() == "still works"


def test_those_killed_while_waiting_are_not_missed() -> None:
    q = Queue(1)
    for _ in range(5):
        child = Child(q.get)
        time.sleep(0.01)
        child.kill()
    q.put(1)
    for _ in range(5):
        child = Child(lambda: q.put(2))
        time.sleep(0.01)
        child.kill()
    assert q.get(timeout=BOUND) == 1
    with forked(lambda: q.put(3)):
        assert q.get(timeout=BOUND) == 3
    assert q.empty()


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["get", "put", "join", "large put"])
def test_ctrl_c_ends_a_wait(what: str) -> None:
    q, ready = JoinableQueue(1), procession.Event()
    if what != "get":
        q.put(0)

    def wait() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        use = {"get": q.get, "put": lambda: q.put(1), "join": q.join, "large put": lambda: q.put(bytes(500_000))}[what]
        ready.set()
        with pytest.raises(KeyboardInterrupt):
            use()

    with forked(wait) as child:
        assert ready.wait(BOUND)
        child.sleeps()
        child.send(signal.SIGINT)
    assert q.qsize() == (0 if what == "get" else 1)


# --- waiting for a queue with other things ---------------------------------------------------------------


def readable(q: Any) -> bool:
    return bool(select.select([q._reader], [], [], 0)[0])


@pytest.mark.parametrize("make", KINDS)
def test_the_reader_is_readable_exactly_while_there_is_something(make: Callable[..., Any]) -> None:
    q = make()
    assert not readable(q)
    for _ in range(300):
        q.put(1)
        assert readable(q)
        q.put(2)
        q.get()
        assert readable(q)
        q.get()
        assert not readable(q)
    q.close()


def test_the_reader_of_a_queue_that_has_something_already() -> None:
    q = SimpleQueue()
    q.put(1)
    assert readable(q)
    assert q._reader.poll() and q._reader.recv() == 1
    assert not q._reader.poll() and not q._reader.poll(0.01) and not readable(q)
    q.close()


def test_waiting_for_what_another_process_puts() -> None:
    q, (end, other_end) = SimpleQueue(), procession.Pipe()
    reader = q._reader
    assert connection.wait([reader, end], 0.05) == []

    def put() -> None:
        for number in range(100):
            q.put(number)
            if number % 10 == 0:
                time.sleep(0.002)
        other_end.send("end")

    got: list[int] = []
    with forked(put), end, other_end:
        while len(got) < 100:
            ready = connection.wait([reader, end], BOUND)
            assert ready
            if reader in ready:
                got.append(reader.recv())
        assert connection.wait([end], BOUND) == [end]
    assert got == list(range(100))
    assert connection.wait([reader], 0.05) == []
    q.close()


def test_what_another_process_takes_is_noticed() -> None:
    q = Queue()
    q.put(1)
    assert readable(q)
    Child(q.get).check()
    until(lambda: not readable(q))
    q.put(2)
    assert readable(q)
    q.close()


def test_what_a_process_put_is_seen_before_its_death_by_sigkill() -> None:
    q: Any = Queue()
    reader = q._reader

    def put_and_die() -> None:
        q.put(os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(200):
        child = Child(put_and_die)
        ready = connection.wait([reader, child.pidfd], BOUND)
        assert reader in ready, "its end is seen before its message"
        assert q.get(timeout=BOUND) == child.pid
        assert child.wait() == -signal.SIGKILL


def test_a_forked_child_has_a_reader_of_its_own() -> None:
    q = Queue()
    q.put(1)
    assert readable(q)

    def child() -> None:
        assert readable(q)
        q.get()
        assert not readable(q)
        q.close()

    Child(child).check()
    until(lambda: not readable(q))
    q.close()


def test_descriptors_and_threads_of_readers_go_with_their_queues() -> None:
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    queues = [Queue() for _ in range(20)]
    for q in queues:
        q._reader.fileno()
        assert q._reader.fileno() == q._reader.fileno()
    for q in queues[::2]:
        q.close()
    del q, queues
    gc.collect()
    until(lambda: (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before)


def test_asyncio_can_wait_for_a_queue() -> None:
    import asyncio

    q = Queue()

    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        got: list[Any] = []
        enough = asyncio.Event()

        def take() -> None:
            got.append(q.get_nowait())
            if len(got) == 3:
                enough.set()

        loop.add_reader(q._reader.fileno(), take)
        for number in range(3):
            q.put(number)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(enough.wait(), BOUND)
        loop.remove_reader(q._reader.fileno())
        return got

    assert asyncio.run(run()) == [0, 1, 2]
    q.close()


def square(number: int) -> int:
    return number * number


EXECUTOR = """
import concurrent.futures, os, signal, sys
import procession

def square(number):
    return number * number

def die(_):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=ctx) as executor:
        assert list(executor.map(square, range(200))) == [n * n for n in range(200)]
        assert list(executor.map(square, range(200), chunksize=20)) == [n * n for n in range(200)]
        wrong = executor.submit(square, __import__("threading").Lock())
        try:
            wrong.result(20)
        except TypeError as error:
            print("TypeError", error)
        assert executor.submit(square, 3).result(20) == 9
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=ctx) as executor:
        try:
            executor.submit(die, 1).result(20)
        except concurrent.futures.process.BrokenProcessPool:
            print("broken")
    print("done")
"""


def test_the_executor_of_the_standard_library_works_on_them(start_method: str, run_program: Programs) -> None:
    outcome = run_program(EXECUTOR, start_method, options=("-W", "ignore::DeprecationWarning")).check()
    lines = outcome.out.split("\n")
    assert lines[0].startswith("TypeError") and "pickle" in lines[0]
    assert lines[1:3] == ["broken", "done"]


# --- threads ------------------------------------------------------------------------------------------


def test_threads_share_a_queue() -> None:
    there, back = Queue(4), Queue()

    def echo() -> None:
        while (obj := there.get()) is not None:
            back.put(obj)

    threads = [threading.Thread(target=echo) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        there.put(number)
    for _ in threads:
        there.put(None)
    for thread in threads:
        thread.join(BOUND)
    assert sorted(back.get() for _ in range(2000)) == list(range(2000))


def test_a_thread_that_waits_does_not_keep_the_interpreter() -> None:
    q = Queue()
    thread = threading.Thread(target=q.get)
    thread.start()
    start = time.monotonic()
    total = sum(range(200_000))
    assert total and time.monotonic() - start < BOUND
    q.put(1)
    thread.join(BOUND)
    assert not thread.is_alive()


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_program_ends_while_daemon_threads_wait(pause: float, run_program: Programs) -> None:
    outcome = run_program(
        f"""
import queue, sys, threading, time
import procession

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep({pause})

def poll():
    while True:
        try:
            q.get(timeout=0.002)
        except queue.Empty:
            pass

sys.modules["slow to end"] = Slow()
q = procession.Queue()
lock = procession.Lock()
lock.acquire()
for target in (q.get, lock.acquire, procession.Event().wait, procession.Pipe()[0].recv, poll, poll):
    threading.Thread(target=target, daemon=True).start()
time.sleep(0.05)
print("ends")
"""
    ).check()
    assert outcome.out == "ends\n"


def test_generic_and_in_annotations() -> None:
    assert Queue[int].__origin__ is Queue
    assert SimpleQueue[int].__origin__ is SimpleQueue
    assert issubclass(JoinableQueue, Queue)


def test_the_executor_of_the_standard_library_in_this_process() -> None:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=procession.get_context("spawn")) as executor:
        assert list(executor.map(square, range(10))) == [number * number for number in range(10)]


@pytest.mark.parametrize("made_for", ["fork", "spawn", "forkserver"])
def test_a_queue_made_by_any_context_works_in_a_process_of_any_other(made_for: str, ctx: Any) -> None:
    q = procession.get_context(made_for).Queue()
    child = ctx.Process(target=q.put, args=("from the child",))
    child.start()
    assert q.get(timeout=30) == "from the child"
    child.join()
    assert child.exitcode == 0


class Wrapped(Queue[Any]):
    """As PyTorch's queues are: something of their own stands for the ends."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = [self._reader]


def test_a_subclass_may_replace_the_ends() -> None:
    q = Wrapped()
    q.put(1)
    assert q.get() == 1
    assert connection.wait(q._reader, 0) == []
    assert Queue()._reader != q._reader


@pytest.mark.parametrize("kind", KINDS)
def test_quick_calls_and_others_mix(kind: Callable[..., Any]) -> None:
    """Short plain objects take a way of their own; whatever lies at its borders keeps its place."""
    sizes = (0, 1, 7, 8, 9, 510, 511, 512, 513, 2000, 16383, 16384, 16385, 65535, 65536)
    items: list[Any] = []
    for size in sizes:
        items += [b"b" * size, "s" * size, "\u00e9" * size, ["pickled", size], size, 2**63 - 1, 2**63, -(2**63)]
    items += [None, True, False, 1.5, "\ud800", bytearray(b"x"), float("inf"), ""]
    q = kind()
    for item in items:
        q.put(item)
    for item in items:
        got = q.get()
        assert got == item
        assert type(got) is type(item)
    assert q.empty()
    for _ in range(3):
        # Wrong calls are told as ever.
        with pytest.raises(TypeError):
            q.put()
        with pytest.raises(TypeError):
            q.put(1, True, None, 4)
        q.put(obj=1)
        assert q.get() == 1
    assert "obj" in str(inspect.signature(kind.put))
    assert kind.get.__doc__
    q.close()
    for use in (q.get, lambda: q.put(1)):
        with pytest.raises((ValueError, OSError), match="is closed"):
            use()
    with pytest.raises(TypeError):
        kind.put(object(), 1)


def test_quick_puts_mind_the_limit() -> None:
    q = Queue(2)
    q.put(1)
    q.put(2)
    with pytest.raises(queue.Full):
        q.put(3, timeout=0.01)
    released = threading.Timer(0.05, q.get)
    released.start()
    q.put(3)  # waits
    released.join()
    assert [q.get(), q.get()] == [2, 3]
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)
