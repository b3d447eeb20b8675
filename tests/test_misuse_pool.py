"""Pools used in the wrong way: what is said about it, and that the pool is unharmed."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import procession
from procession.pool import MaybeEncodingError, Pool, ThreadPool


def square(x: int) -> int:
    return x * x


def make_lambda() -> Callable[[], int]:
    return lambda: 42


class Rebuilt:
    """Pickles well, and can't be rebuilt."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def make_rebuilt() -> Rebuilt:
    return Rebuilt()


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")

    def __call__(self, x: int) -> int:
        return x


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with procession.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture(autouse=True)
def unharmed(pool: Pool) -> Iterator[None]:
    yield
    assert pool.map(square, range(20), chunksize=1) == [x * x for x in range(20)]


# The pool of this module lives from the first test to the last.
@pytest.fixture(autouse=True)
def census() -> None:
    pass


@pytest.mark.parametrize("make", [Pool, ThreadPool, procession.Pool])
def test_the_number_of_processes(make: Any) -> None:
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"at least 1, not {count}"):
            make(count)
    for wrong in ("4", 2.5, [4]):
        with pytest.raises(TypeError, match="must be an int or None"):
            make(wrong)


def test_other_arguments_of_a_pool() -> None:
    for wrong in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="maxtasksperchild must be a positive int"):
            procession.Pool(1, maxtasksperchild=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="initializer must be a callable"):
        procession.Pool(1, initializer=5)  # type: ignore[arg-type]


def test_initargs_that_cant_be_sent() -> None:
    with pytest.raises(RuntimeError, match="I stay here"):
        procession.get_context("spawn").Pool(2, square, (Unpicklable(),))


@pytest.mark.parametrize("make", [procession.Pool, ThreadPool])
def test_join_before_close(make: Any) -> None:
    with make(1) as pool:
        with pytest.raises(ValueError, match=r"still running: call close\(\) or terminate\(\) before join\(\)"):
            pool.join()
        assert pool.apply(square, (3,)) == 9
        pool.close()
        pool.join()


@pytest.mark.parametrize("make", [procession.Pool, ThreadPool])
@pytest.mark.parametrize(("end", "how"), [("close", "closed"), ("terminate", "terminated")])
def test_submitting_to_a_pool_that_was_ended(make: Any, end: str, how: str) -> None:
    pool = make(1)
    getattr(pool, end)()
    submissions = [
        lambda: pool.apply(square, (1,)),
        lambda: pool.apply_async(square, (1,)),
        lambda: pool.map(square, [1]),
        lambda: pool.map_async(square, [1]),
        lambda: pool.starmap(square, [(1,)]),
        lambda: pool.imap(square, [1]),
        lambda: pool.imap_unordered(square, [1]),
        lambda: pool.__enter__(),
    ]
    for submit in submissions:
        with pytest.raises(ValueError, match=f"Pool not running: it was {how}"):
            submit()
    pool.join()


def test_chunk_and_buffer_sizes(pool: Pool) -> None:
    with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
        pool.imap(square, [1], 0)
    with pytest.raises(ValueError, match="buffersize must be 1 or more"):
        pool.imap_unordered(square, [1], buffersize=0)


def test_an_argument_that_cant_be_pickled_is_named(pool: Pool) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"argument 1 of .*square can't be pickled"):
        pool.apply(square, (1, lock))
    with pytest.raises(TypeError, match=r"argument 'x' of .*square can't be pickled"):
        pool.apply(square, (), {"x": lock})
    with pytest.raises(RuntimeError, match="I stay here"):
        pool.apply(square, (Unpicklable(),))
    errors: list[BaseException] = []
    result = pool.apply_async(square, (lock,), error_callback=errors.append)
    result.wait(10)
    assert len(errors) == 1 and not result.successful()
    with pytest.raises(TypeError, match=r"argument 0 of .*square"):
        result.get(0)


def test_an_item_that_cant_be_pickled_is_named(pool: Pool) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="item 2 of the iterable can't be pickled"):
        pool.map(square, [1, 2, lock, 4], chunksize=1)
    with pytest.raises(TypeError, match="can't be pickled"):
        pool.map(square, [1, 2, lock, 4], chunksize=2)
    iterator = pool.imap(square, [1, 2, lock, 4])
    assert [next(iterator), next(iterator)] == [1, 4]
    with pytest.raises(TypeError, match="item 2"):
        next(iterator)


def test_a_function_that_cant_be_pickled(pool: Pool) -> None:
    function = Unpicklable()
    with pytest.raises(RuntimeError, match="I stay here"):
        pool.apply(function, (1,))
    with pytest.raises(RuntimeError, match="I stay here"):
        pool.map(function, [1])
    with pytest.raises(RuntimeError, match="I stay here"):
        list(pool.imap(function, [1]))


def test_what_is_no_function(pool: Pool) -> None:
    with pytest.raises(TypeError, match="not callable"):
        pool.apply(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not callable"):
        pool.map(5, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        pool.apply(square, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        pool.map(square, 5)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_result_that_cant_be_pickled() -> None:
    errors: list[BaseException] = []
    # By fork: other children of `python -m pytest` have no main module, and send by value.
    with procession.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(make_lambda, error_callback=errors.append)
        with pytest.raises(MaybeEncodingError, match="Error sending result: '<function make_lambda") as raised:
            result.get(10)
    assert errors == [raised.value]
    assert "lambda" in raised.value.value and raised.value.exc


def test_a_task_or_result_that_cant_be_rebuilt(pool: Pool) -> None:
    with pytest.raises(ValueError, match="invalid literal") as raised:
        pool.apply(square, (Rebuilt(),))
    assert "could not be rebuilt in the worker" in "".join(raised.value.__notes__)
    with pytest.raises(ValueError, match="invalid literal") as raised:
        pool.apply(make_rebuilt)
    assert "could not be rebuilt in this process" in "".join(raised.value.__notes__)
    with pytest.raises(ValueError, match="invalid literal"):
        pool.map(square, [1, Rebuilt(), 3], chunksize=1)


def test_a_pool_does_not_travel(pool: Pool) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(pool)


def test_a_pool_in_a_daemonic_worker_is_refused(pool: Pool) -> None:
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        pool.apply(procession.Pool, (1,))


def test_the_end_of_a_pool_more_than_once() -> None:
    pool = procession.Pool(1)
    for call in (pool.close, pool.close, pool.join, pool.join, pool.terminate, pool.terminate, pool.join, pool.close):
        call()
    assert pool.apply_async is not None and repr(pool).startswith("<procession.pool.Pool state=TERMINATE")
