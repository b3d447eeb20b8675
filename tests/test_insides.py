"""Private names of multiprocessing that many programs use, and what programs put in the place of its parts."""

from __future__ import annotations

import functools
import multiprocessing.pool
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import procession
import procession.context
import procession.pool
from conftest import Programs
from procession import connection, reduction
from procession.pool import Pool, ThreadPool

LIMIT = 20.0


def add(x: int, y: int) -> int:
    return x + y


def divide(x: int, y: int) -> float:
    return x / y


def after(gate: Any, result: Any) -> Any:
    assert gate.wait(LIMIT)
    return result


def lazy_starmap(pool: Any, func: Callable[..., Any], items: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
    """What programs do that want a bar to move while a starmap runs."""
    module: Any = procession.pool if isinstance(pool, Pool) else multiprocessing.pool
    tasks = module.Pool._get_tasks(func, items, chunksize)
    result = module.IMapIterator(pool)
    pool._taskqueue.put((pool._guarded_task_generation(result._job, module.starmapstar, tasks), result._set_length))
    return (item for chunk in result for item in chunk)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("chunksize", [1, 7])
def test_a_starmap_of_the_programs_own(ctx: Any, chunksize: int) -> None:
    with ctx.Pool(2) as pool:
        assert list(lazy_starmap(pool, add, ((i, i) for i in range(50)), chunksize)) == list(range(0, 100, 2))
        # More than is read ahead.
        assert sum(lazy_starmap(pool, add, ((i, 1) for i in range(2000)), chunksize)) == sum(range(2001))
        assert list(lazy_starmap(pool, add, [], chunksize)) == []


@pytest.mark.parametrize("make", [procession.Pool, ThreadPool, multiprocessing.pool.ThreadPool])
def test_errors_of_a_starmap_of_the_programs_own(make: Any) -> None:
    def pairs() -> Iterator[tuple[int, int]]:
        yield 1, 1
        raise RuntimeError("no more")

    with make(2) as pool:
        results = lazy_starmap(pool, divide, [(1, 1), (1, 0)])
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)
        results = lazy_starmap(pool, divide, pairs())
        assert next(results) == 1
        with pytest.raises(RuntimeError, match="no more"):
            next(results)


def test_other_things_are_not_put_into_the_task_queue() -> None:
    with procession.Pool(1) as pool:
        for tasks in [([], None), (iter(()), pool.close)]:
            with pytest.raises(TypeError, match="_guarded_task_generation"):
                pool._taskqueue.put(tasks)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [procession.Pool, ThreadPool])
def test_how_much_a_pool_has_to_do(make: Any) -> None:
    with make(2) as pool:
        assert not pool._cache and pool._taskqueue.empty()
        gate = procession.Event()
        done: list[int] = []
        for number in range(8):
            pool.apply_async(after, (gate, number), callback=done.append)
        assert len(pool._cache) >= 6
        assert not pool._taskqueue.empty()
        gate.set()
        until(lambda: not pool._cache)
        assert sorted(done) == list(range(8))  # the callbacks have been called, too
        assert pool._taskqueue.qsize() == 0
        gate.clear()
        result = pool.map_async(functools.partial(after, gate), range(4), chunksize=1)
        assert pool._cache
        gate.set()
        until(lambda: not pool._cache)
        assert result.ready()


def limits(queue: Any, joinable: Any, unlimited: Any) -> None:
    assert (queue._maxsize, joinable._maxsize, unlimited._maxsize) == (3, 4, 2**31 - 1)


def test_limits_of_queues(ctx: Any) -> None:
    queue = ctx.Queue(3)
    process = ctx.Process(target=limits, args=(queue, ctx.JoinableQueue(4), ctx.Queue()))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == 0
    queue.put(1)
    assert len(queue._buffer) == 0  # it is in the queue


def test_other_names() -> None:
    ends = procession.Pipe()
    assert all(isinstance(end, connection._ConnectionBase) for end in ends)
    for end in ends:
        end.close()
    assert procession.context.reduction is reduction
    with pytest.raises(AttributeError, match="nothing_such"):
        procession.context.nothing_such  # noqa: B018
    pickled = reduction.ForkingPickler.dumps({1: 2})
    assert isinstance(pickled, memoryview)
    assert pickle.loads(pickled.tobytes()) == {1: 2}


def test_another_pickler_in_place_of_ours(start_method: str, run_program: Programs) -> None:
    # As a recipe for dill has it.
    run_program(
        """
import io
import pickle
import multiprocessing
import multiprocessing.queues
import multiprocessing.reduction

class Other(pickle._Pickler):
    loads = staticmethod(pickle.loads)

    @staticmethod
    def dumps(obj):
        file = io.BytesIO()
        Other(file).dump(obj)
        return file.getvalue()

multiprocessing.reduction.ForkingPickler = Other
multiprocessing.queues._ForkingPickler = Other

def fail(number):
    raise KeyError(number)

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
        assert pool.apply(sum, ([1, 2],)) == 3
        try:
            pool.apply(fail, (5,))
        except KeyError as error:
            assert error.args == (5,)
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=queue.put, args=({3},))
    process.start()
    assert queue.get() == {3}
    process.join()
    with multiprocessing.Manager() as manager:
        assert manager.list([1])[0] == 1
""",
        options=("-m", "procession", "--start-method", start_method),
    ).check()


class Marked:
    """Says which way it has gone."""

    def __init__(self, marks: str = "") -> None:
        self.marks = marks


def there(obj: Marked) -> Any:
    return Marked, (obj.marks + ">",)


def back(obj: Marked) -> Any:
    return Marked, (obj.marks + "<",)


def marks_in(obj: Marked, *more: Marked, last: Marked | None = None) -> tuple[str, Marked]:
    both = [obj, *more] if last is None else [obj, *more, last]
    return " ".join(one.marks for one in both), obj


class Bound:
    def __init__(self) -> None:
        self.obj = Marked("self")

    def marks(self) -> str:
        return self.obj.marks


class ReducingPool(Pool):
    """What joblib's pools are, that send arrays as the names of files."""

    def __init__(self, forward: Any, backward: Any, **options: Any) -> None:
        self._forward_reducers = forward
        self._backward_reducers = backward
        super().__init__(1, **options)


def seen(outcome: tuple[str, Marked]) -> tuple[str, str]:
    return outcome[0], outcome[1].marks


def test_a_pool_with_reducers_of_its_own(ctx: Any) -> None:
    with ReducingPool({Marked: there}, {Marked: back}, context=ctx) as pool:
        assert seen(pool.apply(marks_in, (Marked(), Marked("b")), {"last": Marked("c")})) == ("> b> c>", "><")
        assert pool.apply(Bound().marks) == "self>"
        for chunksize in (1, 2):
            items = [Marked("a"), Marked("b"), Marked("c")]
            expected = [("a>", "a><"), ("b>", "b><"), ("c>", "c><")]
            assert [seen(outcome) for outcome in pool.map(marks_in, items, chunksize)] == expected
            assert [seen(outcome) for outcome in pool.imap(marks_in, iter(items), chunksize)] == expected
            pairs = [(item,) for item in items]
            assert [seen(outcome) for outcome in pool.starmap(marks_in, pairs, chunksize)] == expected
        assert pool.apply(len, (bytes(1_000_000),)) == 1_000_000
        assert pool.apply(bytes, (1_000_000,)) == bytes(1_000_000)
        tag = "d"
        assert seen(pool.apply(lambda obj: marks_in(obj, Marked(tag)), (Marked(),))) == ("> d", "><")
        lock = ctx.Lock()
        assert pool.apply(with_lock, (lock,)) and lock.acquire(timeout=LIMIT)
        with pytest.raises(ZeroDivisionError):
            pool.apply(divide, (1, 0))
        with pytest.raises(TypeError, match=r"argument 0 of .*marks_in can't be pickled: cannot pickle"):
            pool.apply(marks_in, (threading.Lock(),))
        with pytest.raises(TypeError):
            pool.apply(marks_in, 5)  # type: ignore[arg-type]
    assert seen(marks_in(Marked())) == ("", "")


def with_lock(lock: Any) -> bool:
    with lock:
        return True


@pytest.mark.parametrize(("forward", "backward", "expected"), [(True, False, (">", ">")), (False, True, ("", "<"))])
def test_a_pool_with_reducers_for_one_way(forward: bool, backward: bool, expected: tuple[str, str]) -> None:
    reducers = {Marked: there} if forward else {}, {Marked: back} if backward else None
    with ReducingPool(*reducers) as pool:
        assert seen(pool.apply(marks_in, (Marked(),))) == expected
