"""Pools when they start, and when they have nothing to do."""

from __future__ import annotations

import time

from .. import processes
from ..libraries import Contestant
from ..pools import POOLS, Pool, open_pool
from ..quantities import CPU, MEMORY, TIME, Quantity, Target, at_most, no_more, times
from ..registry import row
from ..timing import Effort, same
from ..work import successor

#: loky starts its workers by a method of its own, which is closest to spawn; mpire's fork server is the standard's.
BY_METHOD = {
    "fork": tuple(name for name in POOLS if name != "loky"),
    "forkserver": tuple(name for name in POOLS if name not in ("loky", "billiard")),
    "spawn": POOLS,
}


def to_first_result(start_method: str, target: Target) -> None:
    @row(f"Pool(2) to its first result, {start_method}", TIME, target, BY_METHOD[start_method])
    def first(contestant: Contestant, effort: Effort) -> float:
        contestant.module  # noqa: B018  # imported before the clock starts
        began = time.perf_counter()
        with open_pool(contestant, 2, start_method) as pool:
            same(pool.apply(successor, 1), 2)
            return time.perf_counter() - began


to_first_result("fork", times(1))
to_first_result("forkserver", times(3))
to_first_result("spawn", times(3))


def warm(pool: Pool) -> None:
    """Every worker has run something."""
    same(pool.map(successor, range(400), 1), list(range(1, 401)))


@row("idle pool of 4: processor time", CPU, at_most(0.0005, "at most 0.05 % of a core"), POOLS)
def idle_time(contestant: Contestant, effort: Effort) -> float:
    """Of this process and all below it. Below 0.05 % of a core is what top shows as 0.0."""
    with open_pool(contestant, 4) as pool:
        warm(pool)
        time.sleep(0.2 if effort.smoke else 1)
        seconds = 0.3 if effort.smoke else 3.0
        others = processes.descendants()
        theirs, ours = processes.time_on_processor(others), time.process_time()
        time.sleep(seconds)
        ours = time.process_time() - ours  # read at once: what comes next takes longer than what is measured
        return (processes.time_on_processor(others) - theirs + ours) / seconds


def memory(start_method: str, quantity: Quantity = MEMORY) -> None:
    @row(f"memory of an idle worker of 4 (PSS), {start_method}", quantity, no_more(), BY_METHOD[start_method])
    def resting(contestant: Contestant, effort: Effort) -> float:
        """Whatever was started for the pool, shared among its workers."""
        with open_pool(contestant, 4, start_method) as pool:
            warm(pool)
            return sum(map(processes.proportional_set, processes.descendants())) / 4


for each in BY_METHOD:
    memory(each)
