"""Objects in a process of their own."""

from __future__ import annotations

from typing import Any

from ..libraries import Contestant
from ..quantities import TIME, times
from ..registry import row
from ..timing import Effort, per_item, same


@row("Manager().dict(): one operation", TIME, times(5), ("procession", "multiprocessing", "billiard"))
def dict_operations(contestant: Contestant, effort: Effort) -> float:
    """Setting and getting, by turns."""
    mp: Any = contestant.module
    with mp.Manager() as manager:
        shared = manager.dict()

        def batch() -> int:
            for i in range(100):
                shared[i] = i
                same(shared[i], i)
            return 200

        return per_item(batch, effort)
