"""Pools of different libraries, under one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

from .libraries import Contestant

Function = Callable[[Any], Any]


class Pool(Protocol):
    """What the rows need of a pool. `items` are what is worked on, one at a time or in chunks."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: Any) -> None: ...
    def apply(self, function: Function, item: Any) -> Any: ...
    def apply_async(self, function: Function, items: Iterable[Any]) -> list[Any]: ...
    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]: ...
    def imap(self, function: Function, items: Sequence[Any]) -> Iterator[Any]: ...
    def imap_unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]: ...


def default_chunk(items: Sequence[Any], workers: int) -> int:
    """What multiprocessing takes by default, for those that would take 1."""
    return -(-len(items) // (4 * workers)) or 1


class Standard:
    """multiprocessing's, and what looks like it."""

    def __init__(self, contestant: Contestant, workers: int, start_method: str) -> None:
        self._pool = contestant.module.get_context(start_method).Pool(workers)  # type: ignore[attr-defined]
        self.imap = self._pool.imap
        self.imap_unordered = self._pool.imap_unordered
        self.map = self._pool.map

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.terminate()
        self._pool.join()

    def apply(self, function: Function, item: Any) -> Any:
        return self._pool.apply(function, (item,))

    def apply_async(self, function: Function, items: Iterable[Any]) -> list[Any]:
        submit = self._pool.apply_async
        return [result.get() for result in [submit(function, (item,)) for item in items]]


class Executor:
    """concurrent.futures', and what looks like it."""

    def __init__(self, contestant: Contestant, workers: int, start_method: str) -> None:
        kind: Any = contestant.module.ProcessPoolExecutor  # type: ignore[attr-defined]
        self._workers = workers
        if contestant.library.name == "loky":
            self._executor = kind(workers)
        else:
            from multiprocessing import get_context  # not for everyone: a program that has it is another program

            self._executor = kind(workers, mp_context=get_context(start_method))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._executor.shutdown()

    def apply(self, function: Function, item: Any) -> Any:
        return self._executor.submit(function, item).result()

    def apply_async(self, function: Function, items: Iterable[Any]) -> list[Any]:
        submit = self._executor.submit
        return [future.result() for future in [submit(function, item) for item in items]]

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        chunk = chunksize or default_chunk(items, self._workers)
        return list(self._executor.map(function, items, chunksize=chunk))

    def imap(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        return iter(self._executor.map(function, items))

    def imap_unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        from concurrent.futures import as_completed

        for future in as_completed([self._executor.submit(function, item) for item in items]):
            yield future.result()


class Pebble:
    def __init__(self, contestant: Contestant, workers: int, start_method: str) -> None:
        from multiprocessing import get_context

        kind: Any = contestant.module.ProcessPool  # type: ignore[attr-defined]
        self._workers = workers
        self._pool = kind(max_workers=workers, context=get_context(start_method))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.close()
        self._pool.join()

    def apply(self, function: Function, item: Any) -> Any:
        return self._pool.schedule(function, args=[item]).result()

    def apply_async(self, function: Function, items: Iterable[Any]) -> list[Any]:
        schedule = self._pool.schedule
        return [future.result() for future in [schedule(function, args=[item]) for item in items]]

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        chunk = chunksize or default_chunk(items, self._workers)
        return list(self._pool.map(function, items, chunksize=chunk).result())

    def imap(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        return iter(self._pool.map(function, items, chunksize=1).result())

    def imap_unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        raise NotImplementedError("pebble has no unordered map")


class Mpire:
    def __init__(self, contestant: Contestant, workers: int, start_method: str) -> None:
        kind: Any = contestant.module.WorkerPool  # type: ignore[attr-defined]
        self._workers = workers
        self._pool = kind(n_jobs=workers, start_method=start_method, keep_alive=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.terminate()

    def apply(self, function: Function, item: Any) -> Any:
        return self._pool.apply(function, (item,))

    def apply_async(self, function: Function, items: Iterable[Any]) -> list[Any]:
        submit = self._pool.apply_async
        return [result.get() for result in [submit(function, (item,)) for item in items]]

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        return list(self._pool.map(function, items, chunk_size=chunksize or default_chunk(items, self._workers)))

    def imap(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        return iter(self._pool.imap(function, items, chunk_size=1))

    def imap_unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        return iter(self._pool.imap_unordered(function, items, chunk_size=1))


KINDS: dict[str, Callable[[Contestant, int, str], Pool]] = {
    "procession": Standard,
    "multiprocessing": Standard,
    "concurrent.futures": Executor,
    "loky": Executor,
    "mpire": Mpire,
    "pebble": Pebble,
    "billiard": Standard,
}

#: All that have a pool, ours first.
POOLS = tuple(KINDS)


def open_pool(contestant: Contestant, workers: int, start_method: str = "fork") -> Pool:
    """A pool of a library. loky has a start method of its own and is always started by that."""
    return KINDS[contestant.library.name](contestant, workers, start_method)
