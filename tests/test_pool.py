"""Pools: what they compute, and what becomes of them when somebody dies."""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import os
import pickle
import signal
import threading
import time
import types
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import procession
from conftest import Programs
from procession import _procession
from procession.pool import (
    ApplyResult,
    AsyncResult,
    MaybeEncodingError,
    Pool,
    PoolBroken,
    PoolTerminated,
    RemoteTraceback,
    TaskExit,
    ThreadPool,
)

LIMIT = 20.0


def square(x: int) -> int:
    return x * x


def add(x: int, y: int = 0) -> int:
    return x + y


def pid_after(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def slow(x: Any, seconds: float = 0.05) -> Any:
    time.sleep(seconds)
    return x


def after(gate: Any, x: Any) -> Any:
    assert gate.wait(LIMIT)
    return x


def meet(barrier: Any, _item: int) -> int:
    barrier.wait(LIMIT)
    return os.getpid()


def fail_on(x: int, bad: int = 3) -> int:
    if x == bad:
        raise ValueError(f"not {x}")
    return x


def kill_self(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(LIMIT)


def kill_self_on(x: int, bad: int) -> int:
    if x == bad:
        kill_self()
    return x


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


class Base(BaseException):
    pass


def raising(error: Callable[[], BaseException]) -> None:
    raise error()


def note(text: str, path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{text}\n")


def is_replaced(pool: Any, victim: int) -> bool:
    return bool(pool._pool[0].pid != victim)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.002)


mark: int | None = None


def set_mark(value: int | None) -> None:
    global mark
    mark = value


def get_mark(_item: int) -> int | None:
    return mark


@pytest.fixture(params=["fork", "spawn", "forkserver", "threads"])
def make_pool(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes pools of each kind; those that a test leaves are ended."""
    pools = []

    def make(*args: Any, **kwargs: Any) -> Any:
        if request.param == "threads":
            pool = ThreadPool(*args, **kwargs)
        else:
            pool = procession.get_context(request.param).Pool(*args, **kwargs)
        pools.append(pool)
        return pool

    yield make
    while pools:
        pool = pools.pop()
        pool.terminate()
        pool.join()


# --- what it computes ------------------------------------------------------------------------------


def test_all_ways_to_submit(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(3)
    numbers = list(range(100))
    squares = [square(x) for x in numbers]
    assert pool.apply(square, (7,)) == 49
    assert pool.apply(add, (1,), {"y": 2}) == 3
    assert pool.apply(os.getpid) > 0
    assert pool.apply_async(add, [1, 2]).get(LIMIT) == 3
    for chunksize in (None, 1, 7, 1000):
        assert pool.map(square, numbers, chunksize) == squares
        assert pool.map(square, iter(numbers), chunksize) == squares
        assert pool.map_async(square, numbers, chunksize).get(LIMIT) == squares
        assert pool.starmap(add, zip(numbers, numbers, strict=True), chunksize) == [2 * x for x in numbers]
        assert pool.starmap_async(add, [(x,) for x in numbers], chunksize).get(LIMIT) == numbers
    for chunksize in (1, 7, 1000):
        assert list(pool.imap(square, numbers, chunksize)) == squares
        assert list(pool.imap(square, iter(numbers), chunksize)) == squares
        assert sorted(pool.imap_unordered(square, numbers, chunksize)) == squares
        assert sorted(pool.imap_unordered(square, iter(numbers), chunksize=chunksize)) == squares
    assert pool.map(square, []) == []
    assert list(pool.imap(square, [])) == list(pool.imap_unordered(square, iter(()))) == []
    pool.close()
    pool.join()


@pytest.mark.parametrize("numbers", [range(1000), range(-5, 2000, 3), range(500, 0, -1), range(15), range(0)])
def test_chunks_of_a_range_are_the_same_numbers(make_pool: Callable[..., Any], numbers: range) -> None:
    pool = make_pool(2)
    for chunksize in (None, 15, 16, 17, 999, 5000):
        assert pool.map(square, numbers, chunksize) == [x * x for x in numbers]
    assert list(pool.imap(square, numbers, 16)) == [x * x for x in numbers]


def test_a_range_without_length_in_chunks(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    numbers = range(0, 10**30, 10**9)
    results = pool.imap(square, numbers, 20, buffersize=4)
    assert list(itertools.islice(results, 50)) == [x * x for x in numbers[:50]]


def test_results_are_asked_for_in_every_way(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    gate = procession.Event()
    result = pool.apply_async(after, (gate, 5))
    assert isinstance(result, AsyncResult) and AsyncResult is ApplyResult
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(procession.TimeoutError):
        result.get(timeout=0.01)
    result.wait(0.01)
    assert not result.ready()
    gate.set()
    result.wait()
    assert result.ready() and result.successful()
    assert result.get() == result.get(0) == 5
    result = pool.map_async(fail_on, range(10), chunksize=2)
    with pytest.raises(ValueError, match="not 3"):
        result.get(LIMIT)
    assert result.ready() and not result.successful()
    gate.clear()
    iterator = pool.imap(functools.partial(after, gate), [1, 2])
    with pytest.raises(procession.TimeoutError):
        iterator.next(timeout=0.001)
    gate.set()
    assert iterator.next(LIMIT) == 1
    assert next(iterator) == 2
    with pytest.raises(StopIteration):
        iterator.next()
    with pytest.raises(StopIteration):
        next(iterator)


class Asking:
    """Keeps the result of a call of its own method, as programs do: a cycle."""

    def __init__(self, pool: Any) -> None:
        self.result = pool.apply_async(self.answer)
        self.result.owner = self

    def answer(self) -> int:
        return 42


def test_a_result_is_an_object_like_any_other(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    asking = Asking(pool)
    assert asking.result.owner is asking and asking.result.get(LIMIT) == 42
    assert asking.result._success and asking.result._value == 42
    for finished in (True, False):
        asking = Asking(pool)
        if finished:
            asking.result.wait(LIMIT)
        gone = weakref.ref(asking.result), weakref.ref(asking)
        del asking
        wait_until(lambda gone=gone: gc.collect() >= 0 and gone[0]() is gone[1]() is None, "the cycle is collected")
    threshold = gc.get_threshold()
    gc.set_threshold(3)
    try:
        results = [pool.apply_async(square, (x,)) for x in range(200)]
    finally:
        gc.set_threshold(*threshold)
    assert [result.get(LIMIT) for result in results] == [x * x for x in range(200)]
    with pytest.raises(RuntimeError, match="only a pool makes them"):
        ApplyResult().get()
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(pool.apply_async(square, (2,)))
    assert ApplyResult[int].__origin__ is ApplyResult and ApplyResult.__module__ == "procession.pool"


def test_what_a_call_has_raised_is_raised_in_its_context(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    result = pool.apply_async(fail_on, (3,))
    raised = []
    for _ in range(2):
        try:
            try:
                raise KeyError("first")
            except KeyError:
                result.get(LIMIT)
        except ValueError as error:
            raised.append(error)
            assert isinstance(error.__context__, KeyError)
    assert raised[0] is raised[1] is result._value and not result._success


def test_a_result_with_a_callback_waits_for_it(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    began, go_on = threading.Event(), threading.Event()

    def callback(value: int) -> None:
        began.set()
        go_on.wait(LIMIT)

    result = pool.apply_async(square, (3,), callback=callback)
    assert began.wait(LIMIT)
    assert not result.ready()
    result.wait(0.01)
    with pytest.raises(procession.TimeoutError, match=r"no result within 0\.06 seconds"):
        result.get(timeout=0.06)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(result.get, LIMIT) for _ in range(2)]
        go_on.set()
        assert [each.result(LIMIT) for each in waiting] == [9, 9]
    assert result.ready() and result.successful() and result.get(0) == 9


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_forked_while_a_callback_runs_is_given_no_error_for_a_result(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    began, go_on = threading.Event(), threading.Event()
    result = pool.map_async(square, [2], callback=lambda value: began.set() or go_on.wait(LIMIT))
    assert began.wait(LIMIT)

    def ask(told: Any) -> None:
        try:
            told.put(result.get())
        except PoolTerminated as error:
            told.put(str(error))

    fork = procession.get_context("fork")
    told = fork.SimpleQueue()
    child = fork.Process(target=ask, args=(told,))
    child.start()
    text = told.get()
    assert isinstance(text, str) and "square was done" in text
    child.join(LIMIT)
    go_on.set()
    assert result.get(LIMIT) == [4]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_results_are_not_waited_for_in_a_forked_child(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    results = [
        pool.apply_async(slow, (1, 1.0)),
        pool.apply_async(slow, (2,), callback=lambda value: None),
        pool.map_async(slow, [3]),
        pool.map_async(slow, [4], callback=lambda value: None),
    ]
    iterator = pool.imap(slow, [5])

    def ask(errors: Any) -> None:
        for call in [*(result.get for result in results), iterator.next]:
            try:
                call()
            except PoolTerminated as error:
                errors.put(str(error))

    fork = procession.get_context("fork")
    errors = fork.SimpleQueue()
    child = fork.Process(target=ask, args=(errors,))
    child.start()
    told = [errors.get() for _ in (*results, iterator)]
    assert all("slow was done" in text for text in told)
    child.join(LIMIT)
    assert [result.get(LIMIT) for result in results] == [1, 2, [3], [4]] and list(iterator) == [5]


def test_many_threads_share_a_pool_and_a_result(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    shared = pool.apply_async(slow, ([1], 0.2))
    shared_map = pool.map_async(slow, range(8), chunksize=1)
    found: list[Any] = []

    def use(number: int) -> None:
        assert [pool.apply(add, (number, x)) for x in range(30)] == [number + x for x in range(30)]
        assert pool.map(square, range(20)) == [x * x for x in range(20)]
        found.append((shared.get(LIMIT), shared_map.get(LIMIT)))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(found) == 6
    assert all(one is found[0][0] and whole is found[0][1] for one, whole in found)
    assert found[0] == ([1], list(range(8)))


def test_an_exception_comes_with_its_remote_traceback(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(ValueError, match="not 3") as raised:
            pool.apply(fail_on, (3,))
        cause = raised.value.__cause__
        assert type(cause) is RemoteTraceback
        assert "in fail_on" in str(cause) and "ValueError: not 3" in str(cause)
    pool.join()


def test_what_the_iterable_raises_is_raised_after_what_it_gave(make_pool: Callable[..., Any]) -> None:
    def give(count: int) -> Iterator[int]:
        yield from range(count)
        raise LookupError("no more")

    class Sized:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[int]:
            return give(3)

    pool = make_pool(2)
    for call in (pool.map, lambda *args: pool.map_async(*args).get(LIMIT)):
        with pytest.raises(LookupError, match="no more"):
            call(square, give(3))
        with pytest.raises(LookupError, match="no more"):
            call(square, Sized(), 1)
    for chunksize, whole in ((1, 5), (2, 4)):
        iterator = pool.imap(square, give(5), chunksize)
        assert list(itertools.islice(iterator, whole)) == [x * x for x in range(whole)]
        with pytest.raises(LookupError, match="no more"):
            next(iterator)
        with pytest.raises(StopIteration):
            next(iterator)
    assert pool.apply(square, (2,)) == 4


def test_an_imap_goes_on_after_a_failed_task(make_pool: Callable[..., Any]) -> None:
    iterator = make_pool(2).imap(fail_on, range(6))
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="not 3"):
        next(iterator)
    assert list(iterator) == [4, 5]


UNIMPORTABLE = """
import enum, procession
class Color(enum.Enum):
    RED = 1
class Thing:
    def look(self):
        return type(self) is Thing, setting
setting = None
def initialize(value):
    global setting
    setting = value
def task(thing, color):
    return type(thing) is Thing, color is Color.RED, setting
if __name__ == "__main__":
    with procession.get_context("fork").Pool(1, initialize, (7,)) as pool:
        print(pool.apply(task, (Thing(), Color.RED)), pool.apply(Thing().look))
        before, new = task, lambda *args: ("new", *before(*args))
        task = new
        print(pool.apply(task, (Thing(), Color.RED)))
        class Thing:
            pass
        print(pool.apply(before, (Thing(), Color.RED)))
"""


def test_a_forked_worker_runs_its_own_functions_though_nobody_can_import_them(run_program: Programs) -> None:
    # What an initializer has set is seen by the tasks, as in a script.
    outcome = run_program(None, options=["-c", UNIMPORTABLE]).check()
    assert outcome.out.splitlines() == [
        "(True, True, 7) (True, 7)",
        "('new', True, True, 7)",
        "(False, True, 7)",
    ]


SHARED_GLOBALS = """
import sys, procession
setting, other = None, 1
def initialize(value):
    global setting
    setting = value
def task():
    return setting, other
if __name__ == "__main__":
    with procession.get_context(sys.argv[1]).Pool(1, initialize, (7,)) as pool:
        print(pool.apply(task), pool.apply(lambda: (setting, other)))
        other = 2
        print(pool.apply(task)[0], pool.apply(lambda: setting))
"""


def test_what_the_initializer_sets_is_seen_though_nobody_can_import_the_main_module(
    start_method: str, run_program: Programs
) -> None:
    outcome = run_program(None, start_method, options=["-c", SHARED_GLOBALS]).check()
    assert outcome.out.splitlines()[0].startswith("(7, 1)")
    assert outcome.out.splitlines()[1].startswith("7")
    if start_method != "fork":
        assert outcome.out.splitlines() == ["(7, 1) (7, 1)", "7 7"]


def test_lambdas_closures_and_methods(ctx: Any) -> None:
    offset = 10
    with ctx.Pool(2) as pool:
        assert pool.map(lambda x: x + offset, range(3)) == [10, 11, 12]
        assert pool.apply("-".join, (["a", "b"],)) == "a-b"
        assert pool.map(functools.partial(add, y=5), range(3)) == [5, 6, 7]
        assert pool.map(operator.methodcaller("upper"), "abc") == ["A", "B", "C"]
        assert pool.map(int, ["1", "2"]) == [1, 2]
    pool.join()


class Counting:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, step: int) -> int:
        self.count += step
        return self.count

    def method(self, step: int) -> int:
        return self(step)


def test_what_a_callable_holds_is_sent_anew_with_each_call(ctx: Any) -> None:
    counting = Counting()
    with ctx.Pool(1) as pool:
        for function in (counting, counting.method, functools.partial(Counting.__call__, counting)):
            counting.count = 0
            assert pool.apply(function, (1,)) == 1
            assert pool.apply(function, (1,)) == 1, "the worker's copy of before was used"
            counting.count = 10
            assert pool.apply(function, (1,)) == 11
            assert pool.map(function, [1, 1], chunksize=1) == [11, 11]
        factor = 1
        closure = lambda x: x * factor  # noqa: E731
        assert pool.apply(closure, (2,)) == 2
        factor = 3
        assert pool.apply(closure, (2,)) == 6
    pool.join()


def test_large_things_travel(ctx: Any) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000, dtype=float)
    with ctx.Pool(2) as pool:
        doubled = pool.apply(operator.mul, (array, 2))
        assert doubled.flags.writeable and (doubled == array * 2).all()
        sums = pool.map(numpy.sum, [array, array + 1], chunksize=1)
        assert sums == [array.sum(), (array + 1).sum()]
        assert pool.apply(len, (b"x" * 10_000_000,)) == 10_000_000
        assert len(pool.apply(operator.mul, (b"xy", 5_000_000))) == 10_000_000
        big = functools.partial(operator.add, list(range(2000)))
        assert pool.map(big, [[1], [2]], chunksize=1) == [[*range(2000), 1], [*range(2000), 2]]
    pool.join()


def test_no_argument_or_result_is_kept(make_pool: Callable[..., Any]) -> None:
    class Tracked:
        living = 0

        def __init__(self) -> None:
            Tracked.living += 1

        def __del__(self) -> None:
            Tracked.living -= 1

        def __reduce__(self) -> Any:
            return str, ("rebuilt",)

    pool = make_pool(2)
    assert len(pool.map(slow, [Tracked() for _ in range(10)], chunksize=2)) == 10
    assert len(list(pool.imap(id, [Tracked()]))) == 1
    pool.apply(id, (Tracked(),))
    wait_until(lambda: gc.collect() >= 0 and Tracked.living == 0, "everything collected")


def test_initializer_and_its_arguments(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2, set_mark, (7,))
    try:
        assert pool.map(get_mark, range(4)) == [7] * 4
    finally:
        set_mark(None)


def test_workers_are_replaced_after_their_number_of_tasks(ctx: Any) -> None:
    with ctx.Pool(2, maxtasksperchild=3) as pool:
        pids = Counter(pool.apply(os.getpid) for _ in range(20))
        assert len(pids) >= 7 and max(pids.values()) <= 3
        # A chunk is a task.
        assert len(set(pool.map(pid_after, [0] * 12, chunksize=4))) <= 3
        pool.close()
        pool.join()
    with ctx.Pool(3, maxtasksperchild=1) as pool:
        results = [pool.apply_async(slow, (x,)) for x in range(7)]
        pool.close()
        pool.join()
        assert [result.get(0) for result in results] == list(range(7))


# --- callbacks -------------------------------------------------------------------------------------


def test_callbacks_run_before_the_result_is_seen(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    seen: list[Any] = []
    errors: list[BaseException] = []
    for x in range(10):
        result = pool.apply_async(fail_on, (x,), {}, seen.append, errors.append)
        result.wait(LIMIT)
        assert (seen[-1] if x != 3 else str(errors[-1])) == (x if x != 3 else "not 3")
    pool.map_async(square, range(5), callback=seen.append, error_callback=errors.append).get(LIMIT)
    assert seen[-1] == [0, 1, 4, 9, 16]
    with pytest.raises(ValueError):
        pool.map_async(fail_on, range(5), 1, callback=seen.append, error_callback=errors.append).get(LIMIT)
    assert len(errors) == 2
    nothing = pool.map_async(square, [], callback=seen.append)
    assert nothing.get(LIMIT) == [] and seen[-1] == []
    last = [pool.apply_async(slow, (x,), callback=seen.append) for x in range(4)]
    pool.close()
    pool.join()
    assert sorted(seen[-4:]) == [0, 1, 2, 3] and all(result.ready() for result in last)


def test_a_callback_that_raises_is_reported_and_the_next_one_runs(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    reported: list[Any] = []
    before, threading.excepthook = threading.excepthook, reported.append
    try:
        bad = pool.apply_async(square, (2,), callback=lambda value: 1 // 0)
        assert bad.get(LIMIT) == 4
        exits = pool.apply_async(square, (3,), callback=lambda value: os.sys.exit(1))  # type: ignore[attr-defined]
        assert exits.get(LIMIT) == 9
        seen: list[int] = []
        assert pool.apply_async(square, (4,), callback=seen.append).get(LIMIT) == 16
        assert seen == [16]
        wait_until(lambda: len(reported) == 2, "both are reported")
        assert [args.exc_type for args in reported] == [ZeroDivisionError, SystemExit]
    finally:
        threading.excepthook = before


# --- imap and its input ----------------------------------------------------------------------------


def test_an_endless_iterator_is_read_only_some_way_ahead(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        read = 0
        while True:
            yield read
            read += 1

    for make in (pool.imap, pool.imap_unordered):
        iterator = make(square, numbers())
        for position, _result in enumerate(itertools.islice(iterator, 2000)):
            assert read - position <= 600
        del iterator
    assert list(itertools.islice(pool.imap(square, numbers(), buffersize=4), 20)) == [x * x for x in range(20)]
    assert read <= 25
    assert pool.apply(square, (2,)) == 4


def test_results_come_while_the_iterator_waits(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    answers: list[int] = []
    answered = threading.Event()

    def questions() -> Iterator[int]:
        for number in range(5):
            yield number
            assert answered.wait(LIMIT), "the next question comes after the answer"
            answered.clear()

    for answer in pool.imap(square, questions()):
        answers.append(answer)
        answered.set()
    assert answers == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("sized", [True, False])
def test_tasks_are_run_though_nobody_asks_for_results(
    make_pool: Callable[..., Any], tmp_path: Any, sized: bool
) -> None:
    pool = make_pool(2)
    path = tmp_path / "notes"
    texts: Any = [str(number) for number in range(700)]
    pool.imap_unordered(functools.partial(note, path=str(path)), texts if sized else iter(texts))
    kept = pool.imap(square, iter(range(700)))
    pool.close()
    pool.join()
    assert sorted(path.read_text().split(), key=int) == texts
    assert list(kept) == [x * x for x in range(700)]


def test_work_goes_on_while_nobody_asks(make_pool: Callable[..., Any], tmp_path: Any) -> None:
    pool = make_pool(2)
    path = tmp_path / "notes"
    result = pool.map_async(functools.partial(note, path=str(path)), [str(x) for x in range(500)], chunksize=1)
    wait_until(lambda: path.exists() and len(path.read_text().split()) == 500, "all are done")
    wait_until(result.ready, "and their results sent")
    assert result.get(0) == [None] * 500


# --- deaths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_killed_in_a_task_costs_that_task_alone(ctx: Any, number: signal.Signals) -> None:
    with ctx.Pool(2) as pool:
        others = [pool.apply_async(slow, (x,)) for x in range(6)]
        with pytest.raises(procession.WorkerLost, match=rf"{number.name}.*kill_self") as raised:
            pool.apply(kill_self, (number,))
        assert raised.value.exitcode == -number
        assert raised.value.pid not in (None, os.getpid())
        assert [other.get(LIMIT) for other in others] == list(range(6))
        # It is replaced: each of these waits for the other one.
        assert len(set(pool.map(functools.partial(meet, ctx.Barrier(2)), range(2), chunksize=1))) == 2
    pool.join()


def test_a_worker_that_exits_in_a_task_costs_that_task_alone(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(procession.WorkerLost, match="exited with code 7") as raised:
            pool.apply(os._exit, (7,))
        assert raised.value.exitcode == 7
        assert pool.apply(square, (3,)) == 9
    pool.join()


def test_a_map_tells_which_items_were_lost(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        with pytest.raises(procession.WorkerLost, match=r"kill_self_on \(item 7\)"):
            pool.map(functools.partial(kill_self_on, bad=7), range(20), chunksize=1)
        iterator = pool.imap(functools.partial(kill_self_on, bad=2), range(6))
        assert [next(iterator), next(iterator)] == [0, 1]
        with pytest.raises(procession.WorkerLost):
            next(iterator)
        assert list(iterator) == [3, 4, 5]
    pool.join()


def test_a_death_is_told_soon(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        pool.map(pid_after, [0.05] * 4, chunksize=1)
        delays = []
        for _ in range(7):
            results = [pool.apply_async(slow, (0, LIMIT)) for _ in range(2)]
            wait_until(lambda: all(worker.task for worker in pool.workers()), "both are busy")
            began = time.monotonic()
            for worker in pool.workers():
                os.kill(worker.pid, signal.SIGKILL)
            for result in results:
                with pytest.raises(procession.WorkerLost):
                    result.get(LIMIT)
            delays.append(time.monotonic() - began)
        # A tenth of a second at most on an idle machine, and by far: RELIABILITY.md. This one may be busy.
        assert sorted(delays)[3] < 2, delays
    pool.join()


def test_an_idle_worker_killed_is_replaced_and_nothing_is_lost(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        for _ in range(5):
            victim = pool._pool[0].pid
            os.kill(victim, signal.SIGKILL)
            assert pool.map(square, range(10), chunksize=1) == [x * x for x in range(10)]
            wait_until(functools.partial(is_replaced, pool, victim), "replaced")
            assert pool._pool[0].is_alive()
    pool.join()


def test_under_fire_every_task_has_exactly_one_outcome(ctx: Any) -> None:
    kills = 0
    with ctx.Pool(3) as pool:
        done = threading.Event()

        def fire() -> None:
            nonlocal kills
            pause = 0.003
            while not done.wait(pause):
                pause = (pause * 7.3) % 0.02 + 0.001
                victim = pool.workers()[kills % 3]
                # One that has done something: else they might all be killed before that.
                if victim.done and victim.pid in {worker.pid for worker in list(pool._pool)}:
                    try:
                        os.kill(victim.pid, signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass

        thread = threading.Thread(target=fire)
        thread.start()
        try:
            lost = right = 0
            end = time.monotonic() + 3
            # A busy machine takes its time to start workers that can be killed.
            while (now := time.monotonic()) < end or (kills < 5 and now < end + LIMIT):
                results = [pool.apply_async(square, (x,)) for x in range(300)]
                for x, result in enumerate(results):
                    try:
                        assert result.get(LIMIT) == x * x
                        right += 1
                    except procession.WorkerLost as error:
                        assert error.exitcode == -signal.SIGKILL
                        lost += 1
        finally:
            done.set()
            thread.join()
        assert kills >= 5 and lost <= kills and right > lost
        assert pool.map(square, range(100)) == [x * x for x in range(100)]
    pool.join()


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (functools.partial(SystemExit, 3), TaskExit, r"sys\.exit\(3\)"),
        (functools.partial(SystemExit, "bye"), TaskExit, r"sys\.exit\('bye'\)"),
        (KeyboardInterrupt, TaskExit, "KeyboardInterrupt"),
        (GeneratorExit, TaskExit, "GeneratorExit"),
        (Base, Base, "^$"),
        (functools.partial(TwoArguments, 1, 2), MaybeEncodingError, "TwoArguments.*missing 1 required"),
        (Unpicklable, MaybeEncodingError, "I stay here"),
        (functools.partial(ValueError, "plain"), ValueError, "plain"),
    ],
)
def test_whatever_a_task_raises_fails_that_task_only(
    ctx: Any, error: Callable[[], BaseException], expected: type[BaseException], text: str
) -> None:
    with ctx.Pool(1) as pool:
        pid = pool.apply(os.getpid)
        with pytest.raises(expected, match=text) as raised:
            pool.apply(raising, (error,))
        assert "in raising" in str(raised.value.__cause__)
        seen: list[BaseException] = []
        failed = pool.map_async(raising, [error] * 2, chunksize=1, error_callback=seen.append)
        failed.wait(LIMIT)
        assert len(seen) == 1 and isinstance(seen[0], expected)
        assert pool.apply(os.getpid) == pid, "the worker went on"
    pool.join()


def test_an_initializer_that_fails_breaks_the_pool_with_its_cause(ctx: Any, capfd: Any) -> None:
    pool = ctx.Pool(2, fail_on, (3,))
    began = time.monotonic()
    with pytest.raises(PoolBroken, match="initializer") as raised:
        pool.map(square, range(10))
    assert time.monotonic() - began < LIMIT
    assert isinstance(raised.value.__cause__, ValueError)
    assert "in fail_on" in str(raised.value.__cause__.__cause__)
    with pytest.raises(PoolBroken, match="initializer") as raised:
        pool.apply_async(square, (1,))
    assert isinstance(raised.value.__cause__, ValueError)
    pool.close()
    pool.join()
    assert capfd.readouterr().err.count("ValueError: not 3") <= 8


def test_workers_that_die_at_start_break_the_pool(ctx: Any) -> None:
    with ctx.Pool(2, kill_self) as pool:
        seen: list[BaseException] = []
        with pytest.raises(PoolBroken, match="SIGKILL"):
            pool.apply_async(square, (1,), error_callback=seen.append).get(LIMIT)
        assert len(seen) == 1
    pool.join()


def test_the_cause_of_a_death_is_known_whoever_waits_for_the_process(ctx: Any) -> None:
    for _ in range(5):
        with ctx.Pool(2, kill_self) as pool:
            # It may be broken before there is a task.
            with pytest.raises(PoolBroken, match="SIGKILL"):
                result = pool.apply_async(square, (1,))
                deadline = time.monotonic() + LIMIT
                while not result.ready() and time.monotonic() < deadline:
                    procession.active_children()
                    time.sleep(0)  # else it has the interpreter nearly for itself
                result.get(LIMIT)
        pool.join()


def test_terminate_tells_everybody_who_waits(ctx: Any) -> None:
    pool = ctx.Pool(2)
    outcomes: list[BaseException] = []

    def expect(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            outcomes.append(error)

    mapping = threading.Thread(target=expect, args=(functools.partial(pool.map, time.sleep, [LIMIT] * 5),))
    mapping.start()
    wait_until(lambda: pool.status().queued + pool.status().running > 0, "the map is submitted")
    waiting = [
        pool.apply_async(time.sleep, (LIMIT,)).get,
        pool.apply_async(time.sleep, (LIMIT,), callback=print).get,
        pool.map_async(time.sleep, [LIMIT] * 5).get,
        pool.imap(time.sleep, iter([LIMIT] * 500)).next,
    ]
    threads = [mapping, *(threading.Thread(target=expect, args=(call,)) for call in waiting)]
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.1)
    began = time.monotonic()
    pool.terminate()
    for thread in threads:
        thread.join(LIMIT)
    assert time.monotonic() - began < LIMIT / 2
    assert [type(error) for error in outcomes] == [PoolTerminated] * 5
    pool.join()
    pool.terminate()


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def test_workers_that_ignore_sigterm_are_killed(ctx: Any) -> None:
    pool = ctx.Pool(2, ignore_sigterm)
    assert pool.apply(square, (2,)) == 4
    pool.map_async(time.sleep, [LIMIT] * 2, chunksize=1)
    began = time.monotonic()
    pool.terminate()
    assert 0.5 < time.monotonic() - began < LIMIT / 2
    assert not any(worker.is_alive() for worker in pool._pool)
    pool.join()


# --- the life of a pool ----------------------------------------------------------------------------


def test_a_forgotten_pool_is_ended_with_a_warning(make_pool: Callable[..., Any], ctx: Any) -> None:
    pool = ctx.Pool(2)
    workers = list(pool._pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    assert not any(worker.is_alive() for worker in workers)


def test_a_pool_lives_as_long_as_its_results(ctx: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = ctx.Pool(1).apply_async(slow, (5, 0.2))
        iterator = ctx.Pool(1).imap(slow, range(3))
        gc.collect()
        assert result.get(LIMIT) == 5
        assert list(iterator) == [0, 1, 2]
        del result, iterator
        gc.collect()


END = """
import sys, time, procession
def square(x):
    return x * x
def main():
    procession.set_start_method({method!r})
    pool = procession.Pool(2)
    print(pool.map(square, range(4)))
    {ending}
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "global keep; keep = pool",
        "pool.map_async(time.sleep, [30] * 10); global keep; keep = pool",
        "global keep; keep = pool.imap(square, iter(int, 1)), pool",
        "pool.apply_async(square, (1,), callback=print).get(); global keep; keep = pool",
        "pool.close(); global keep; keep = pool",
        "sys.exit()",
    ],
)
def test_a_program_may_end_without_ending_its_pool(run_program: Programs, start_method: str, ending: str) -> None:
    outcome = run_program(END.format(method=start_method, ending=ending)).check()
    assert outcome.out.splitlines()[0] == "[0, 1, 4, 9]"
    assert outcome.err == ""
    assert outcome.seconds < 25


INTERRUPTED = """
import os, signal, sys, threading, time, procession
def work(x):
    time.sleep(30)
if __name__ == "__main__":
    procession.set_start_method({method!r})
    os.setpgid(0, 0)
    with procession.Pool(3) as pool:
        pool.map(abs, range(6))
        began = time.monotonic()
        try:
            # As a terminal does: to the whole group.
            threading.Timer(0.3, os.killpg, (0, signal.SIGINT)).start()
            pool.map(work, range(6))
        finally:
            print(time.monotonic() - began < 20)
"""


def test_ctrl_c_gives_one_traceback(run_program: Programs, start_method: str) -> None:
    outcome = run_program(INTERRUPTED.format(method=start_method))
    assert outcome.code == -signal.SIGINT, outcome
    assert outcome.out == "True\n"
    assert outcome.err.count("Traceback") == 1, outcome.err
    assert outcome.err.rstrip().endswith("KeyboardInterrupt")


def test_an_interrupted_get_leaves_the_pool_in_order(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        gate = ctx.Event()
        result = pool.map_async(slow, [1, 2], chunksize=1)
        result = pool.apply_async(after, (gate, 3))
        timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            result.get(LIMIT)
        timer.join()
        gate.set()
        assert result.get(LIMIT) == 3
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
    pool.join()


ORPHANS = """
import os, signal, time, procession
def work(x):
    time.sleep(30)
if __name__ == "__main__":
    procession.set_start_method({method!r})
    pool = procession.Pool(3)
    pool.map(abs, range(6))
    pool.map_async(work, range(2), chunksize=1)
    time.sleep(0.1)
    print(*(worker.pid for worker in pool._pool), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_their_parent_is_killed(run_program: Programs, start_method: str) -> None:
    # Whoever is left is reported by run_program itself, after a few seconds.
    outcome = run_program(ORPHANS.format(method=start_method))
    assert outcome.code == -signal.SIGKILL
    assert len(outcome.out.split()) == 3


def in_child_of(pool: Pool, done: Any) -> None:
    problems = []
    for call in (pool.close, pool.terminate, gc.collect):
        call()
    try:
        pool.join()
        problems.append("joined a pool that is another process's")
    except ValueError:
        pass
    with procession.get_context("fork").Pool(1) as own:
        if own.apply(square, (3,)) != 9:
            problems.append("a pool of its own does not work")
    done.put(problems)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_pool_alone() -> None:
    context = procession.get_context("fork")
    with context.Pool(2) as pool:
        pool.apply_async(square, (1,), callback=str).get(LIMIT)
        done = context.SimpleQueue()
        child = context.Process(target=in_child_of, args=(pool, done))
        child.start()
        assert done.get() == []
        child.join(LIMIT)
        assert child.exitcode == 0
        pid = os.fork()
        if pid == 0:
            del pool
            gc.collect()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
    pool.join()


def nested(count: int) -> list[int]:
    with procession.get_context("fork").Pool(count) as pool:
        return pool.map(square, range(count))


def test_a_process_may_have_a_pool_of_its_own(ctx: Any) -> None:
    queue = ctx.SimpleQueue()
    child = ctx.Process(target=put_result, args=(queue, nested, 3))
    child.start()
    assert queue.get() == [0, 1, 4]
    child.join(LIMIT)
    assert child.exitcode == 0


def put_result(queue: Any, function: Callable[..., Any], *args: Any) -> None:
    queue.put(function(*args))


def test_many_workers() -> None:
    with procession.get_context("fork").Pool(100) as pool:
        assert sum(pool.map(square, range(1000))) == 332_833_500
        assert len(pool._pool) == 100
    pool.join()


def test_pools_come_and_go_without_a_trace() -> None:
    context = procession.get_context("fork")
    for _ in range(30):
        with context.Pool(2) as pool:
            assert pool.map(square, range(4)) == [0, 1, 4, 9]
        pool.join()
        assert repr(pool) == "<procession.pool.Pool state=TERMINATE pool_size=2>"


def test_an_interrupt_at_the_end_of_the_start_leaves_no_workers(ctx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        """Interrupted when the supervisor has just begun."""

        def __init__(self, *args: Any) -> None:
            self._core = _procession.PoolCore(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._core, name)

        def supervise(self, *args: Any) -> None:
            self._core.supervise(*args)
            raise KeyboardInterrupt

    replaced = types.SimpleNamespace(PoolCore=Core)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(procession.pool, "_procession", replaced)
        ctx.Pool(2)
    assert not procession.active_children()


# --- tasks that travel together ----------------------------------------------------------------------


class Reluctant:
    """Has a length, and gives an item only when the tasks of all before it are done."""

    def __init__(self, pool: Pool, length: int) -> None:
        self._pool, self._length = pool, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        end = time.monotonic() + LIMIT
        for item in range(self._length):
            while self._pool.status().done < item:
                assert time.monotonic() < end, f"item {item - 1} was not handed out"
                time.sleep(0.001)
            yield item


def test_no_task_waits_for_the_item_after_it() -> None:
    with procession.get_context("fork").Pool(2) as pool:
        assert pool.map(square, Reluctant(pool, 5), 1) == [0, 1, 4, 9, 16]


def test_items_of_all_kinds_come_back_in_order() -> None:
    buffer = b"x" * 5000
    items: list[Any] = [0, "1", (2, "2"), buffer, [4] * 5000, None, b"x" * 100_000, 7.0] * 40
    with procession.get_context("fork").Pool(2) as pool:
        for iterable in (items, tuple(items)):
            assert pool.map(slow, iterable[:0], 1) == []
            assert pool.map(functools.partial(slow, seconds=0), iterable, 1) == items
        assert list(pool.imap(type, items)) == [type(item) for item in items]
        assert Counter(pool.imap_unordered(type, set(range(100)))) == {int: 100}
        assert pool.starmap(add, {(i, 1): i for i in range(100)}, 1) == list(range(1, 101))


def test_an_item_that_cant_be_pickled_is_named_by_its_place_among_those_that_travel_together() -> None:
    items: list[Any] = [*range(70), threading.Lock(), 71]
    with procession.get_context("fork").Pool(2) as pool:
        with pytest.raises(TypeError) as caught:
            pool.map(slow, items, 1)
        assert "item 70" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert pool.status().done == 70
        assert pool.map(square, range(10), 1) == [x * x for x in range(10)]


def test_failures_among_tasks_that_travel_together_are_told_apart() -> None:
    with procession.get_context("fork").Pool(2) as pool:
        with pytest.raises(ValueError, match="not 45"):
            pool.map(functools.partial(fail_on, bad=45), range(100), 1)
        results = pool.imap(functools.partial(fail_on, bad=45), range(100))
        assert list(itertools.islice(results, 45)) == list(range(45))
        with pytest.raises(ValueError, match="not 45"):
            next(results)
        assert list(results) == list(range(46, 100))


def sleeps(pid: int) -> int:
    """How often its threads have gone to sleep."""
    count = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            count += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return count


def test_who_has_nothing_to_do_sleeps_on(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        assert pool.map(square, range(50), 1) == [x * x for x in range(50)]
        wait_until(lambda: all(worker.state == "idle" for worker in pool.workers()), "both are ready")
        workers = [worker.pid for worker in pool.workers()]
        time.sleep(0.5)
        before = [sleeps(pid) for pid in workers]
        time.sleep(1.5)
        woken = [sleeps(pid) - count for pid, count in zip(workers, before, strict=True)]
        assert max(woken) <= 5, f"{woken} times in 1.5 s"
        # Who slept for long hears of a task, and of a signal, as soon as ever.
        assert pool.apply(square, (3,)) == 9
