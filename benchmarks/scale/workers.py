"""More workers than cores."""

from __future__ import annotations

from ..libraries import Contestant
from ..pools import open_pool
from ..quantities import rate
from ..timing import Effort, per_item, same
from ..work import successor
from .registry import Claim, Found, Note, Plot, at, growth


def judge(found: Found) -> list[Claim]:
    ours = found["throughput"].get("procession", [])
    two, many = at(ours, 2), at(ours, 32)
    return [
        Claim(
            "throughput of 32 workers against 2",
            "at least half",
            f"{many / two:.2f} ({rate(1 / many) if many > 0 else '-'} against {rate(1 / two) if two > 0 else '-'})",
            many >= two / 2,
        )
    ]


@growth(
    "workers",
    "1 to 64 workers, tasks that do nothing, chunksize=1",
    ("procession", "multiprocessing"),
    [Plot("throughput", "Tasks a second, by workers", "workers", "tasks a second", "count", "count", (True, True))],
    judge,
)
def workers(contestant: Contestant, effort: Effort, note: Note) -> None:
    count = effort.count(20_000)
    for number in (1, 2, 32) if effort.smoke else (1, 2, 4, 8, 16, 32, 64):
        with open_pool(contestant, number) as pool:

            def batch() -> int:
                same(pool.map(successor, range(count), 1), list(range(1, count + 1)))
                return count

            note("throughput", number, 1 / per_item(batch, effort))
