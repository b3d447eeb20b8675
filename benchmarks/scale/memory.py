"""The memory of a family, from empty to 8 GiB and back."""

from __future__ import annotations

import os
import time
from typing import Any

from .. import processes
from ..libraries import Contestant
from ..quantities import size
from ..timing import Effort, same
from .registry import Claim, Found, Note, Plot, growth

WANTED = 8 << 30
#: What idle blocks may keep, so that the next message finds them warm, and what is not blocks.
KEPT = (1 << 30) + (64 << 20)


def arena_size() -> int:
    """Bytes that the family's memory really takes."""
    from procession import _procession

    return os.stat(f"/proc/self/fd/{_procession.arena_fd()}").st_blocks * 512


def judge(found: Found) -> list[Claim]:
    points = found["memory"].get("procession", [])
    most = max((y for _, y in points), default=0)
    left = points[-1][1] if points else float("nan")
    return [
        Claim("memory in use at the top", size(WANTED), size(most), most >= WANTED),
        Claim("memory after all was read", f"at most {size(KEPT)}", size(left), left <= KEPT),
    ]


@growth(
    "memory",
    "the family's memory while messages of 64 MiB fill a queue, and are read",
    ["procession"],
    [Plot("memory", "Memory of the family", "seconds", "", "plain", "size", (False, False))],
    judge,
)
def memory(contestant: Contestant, effort: Effort, note: Note) -> None:
    mp: Any = contestant.module
    part = effort.bytes(64 << 20)
    total = min(WANTED if not effort.smoke else 32 * part, int(processes.available_memory() * 0.7))
    queue = mp.Queue()
    began = time.perf_counter()
    data = b"\x01" * part
    for _ in range(-(-total // part)):
        queue.put(data)
        note("memory", time.perf_counter() - began, arena_size())
    for _ in range(-(-total // part)):
        same(queue.get() == data, True)
        note("memory", time.perf_counter() - began, arena_size())
