"""Starting a process that does nothing, and waiting for its end."""

from __future__ import annotations

import mmap
from typing import Any

from ..libraries import Contestant
from ..processes import available_memory
from ..quantities import TIME, times
from ..registry import row
from ..timing import Effort, Skipped, per_item, same
from ..work import nothing

LARGE = 4 << 30


def start_and_join(contestant: Contestant, effort: Effort, start_method: str) -> float:
    context: Any = contestant.module.get_context(start_method)  # type: ignore[attr-defined]

    def batch() -> int:
        child = context.Process(target=nothing)
        child.start()
        child.join()
        same(child.exitcode, 0)
        return 1

    return per_item(batch, effort)


@row("start and join, fork", TIME, times(1.2), ("procession", "multiprocessing", "billiard"))
def by_fork(contestant: Contestant, effort: Effort) -> float:
    return start_and_join(contestant, effort, "fork")


@row("start and join, forkserver", TIME, times(8), ("procession", "multiprocessing"))
def by_forkserver(contestant: Contestant, effort: Effort) -> float:
    return start_and_join(contestant, effort, "forkserver")


@row("start and join, spawn", TIME, times(3), ("procession", "multiprocessing", "billiard"))
def by_spawn(contestant: Contestant, effort: Effort) -> float:
    return start_and_join(contestant, effort, "spawn")


@row(
    "start and join, forkserver, of a program that imports NumPy",
    TIME,
    None,
    ("procession", "multiprocessing"),
    main="one_numpy",
)
def by_forkserver_with_numpy(contestant: Contestant, effort: Effort) -> float:
    return start_and_join(contestant, effort, "forkserver")


@row(
    "start and join, spawn, of a program that imports NumPy",
    TIME,
    None,
    ("procession", "multiprocessing"),
    main="one_numpy",
)
def by_spawn_with_numpy(contestant: Contestant, effort: Effort) -> float:
    return start_and_join(contestant, effort, "spawn")


@row(
    "start and join with 4 GiB touched in the parent, in pages of 4 KiB: forkserver, over the standard library's fork",
    TIME,
    times(80),
    ("procession forkserver", "multiprocessing fork"),
    ["procession fork", "multiprocessing forkserver", "multiprocessing spawn"],
)
def from_large_parent(contestant: Contestant, effort: Effort) -> float:
    """In the pages of a program's objects. For its arrays NumPy asks for huge ones, and a fork copies few of these."""
    if effort.smoke:
        size = 64 << 20
    elif available_memory() < LARGE + (2 << 30):
        raise Skipped("needs 6 GiB of free memory")
    else:
        size = LARGE
    touched = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touched.madvise(mmap.MADV_NOHUGEPAGE)
    touched[::4096] = b"1" * (size // 4096)
    result = start_and_join(contestant, effort, contestant.way)
    same(touched[::4096], b"1" * (size // 4096))
    return result
