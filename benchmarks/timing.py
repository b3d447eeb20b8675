"""How much is measured, and how it is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much is enough: a smoke run only shows that everything works."""

    smoke: bool

    @property
    def seconds(self) -> float:
        """How long to measure what can be repeated at will."""
        return 0.01 if self.smoke else 0.4

    @property
    def few(self) -> int:
        """How often to do what takes long."""
        return 1 if self.smoke else 5

    def count(self, full: int) -> int:
        return max(10, full // 200) if self.smoke else full

    def bytes(self, full: int) -> int:
        return max(4096, full // 50) if self.smoke else full


def per_item(batch: Callable[[], int], effort: Effort) -> float:
    """Seconds an item: `batch`, which returns how many it dealt with, is repeated after once to warm up."""
    batch()
    items = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < effort.seconds or not items:
        items += batch()
    return elapsed / items


def median_of(once: Callable[[], float], effort: Effort) -> float:
    """The median of a few, after one to warm up."""
    once()
    return statistics.median(once() for _ in range(effort.few))


def same(found: object, expected: object) -> None:
    """What was computed is right, or the measurement fails."""
    if found != expected:
        raise AssertionError(f"got {found!r:.200}, not {expected!r:.200}")


class Skipped(Exception):
    """This machine can't do it; the message says why."""
