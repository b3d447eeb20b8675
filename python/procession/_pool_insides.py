"""What programs use of the insides of the standard library's pool.

Two things are common: to ask how much there is to do (`pool._taskqueue.qsize()`, `pool._cache`), and a recipe
for a starmap that gives its results as they come, which puts tasks into the pool's queue itself.
"""

from __future__ import annotations

import itertools
from collections import namedtuple

from ._pool_results import IMapIterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .pool import Pool

__all__ = ["Outstanding", "TaskQueue", "Tasks", "batches"]

#: What `Pool._guarded_task_generation` returns: what is to be run, for which job.
Tasks = namedtuple("Tasks", "job function items")


def batches(func: Callable[..., Any], items: Iterable[Any], size: int) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the items, in chunks of this size, each with the function."""
    iterator = iter(items)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield func, chunk


class TaskQueue:
    """What `pool._taskqueue` is: the tasks that no worker has begun."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """Return how many there are."""
        return int(self._pool._core.status()[0])

    def empty(self) -> bool:
        """Return whether there are none."""
        return self.qsize() == 0

    def put(self, obj: tuple[Tasks, Any]) -> None:
        """Have tasks run, whose results an `IMapIterator(pool)` gives.

        Args:
            obj: what `pool._guarded_task_generation` has returned for the iterator's `_job`, and its `_set_length`.

        Raises:
            TypeError: if it is anything else.
        """
        tasks, set_length = obj
        result = getattr(set_length, "__self__", None)
        if not isinstance(tasks, Tasks) or not isinstance(result, IMapIterator) or tasks.job is not result._job:
            raise TypeError(
                "the queue of a pool's tasks takes pairs of pool._guarded_task_generation(result._job, ...) "
                "and result._set_length, where result is an IMapIterator(pool)"
            )
        self._pool._feed_job(result, tasks.function, tasks.items)


class Outstanding:
    """What `pool._cache` is: the tasks that are not done, of which there is only the number."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __len__(self) -> int:
        pool = self._pool
        unread = sum(feeder.waits_for_room for feeder in list(pool._feeders))
        queued, running = pool._core.status()[:2]
        return max(int(queued + running) + unread, pool._reports.outstanding)
