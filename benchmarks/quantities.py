"""What is measured, how it is shown, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def rate(seconds: float) -> str:
    """Seconds an item, as items a second."""
    per_second = 1 / seconds
    for size, unit in ((1e6, "M/s"), (1e3, "k/s")):
        if per_second >= size:
            return f"{per_second / size:.3g} {unit}"
    return f"{per_second:.3g} /s"


def time(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def size(count: float) -> str:
    for unit_size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(count) >= unit_size:
            return f"{count / unit_size:.3g} {unit}"
    return f"{count:.3g} B"


@dataclass(frozen=True)
class Quantity:
    """What a number means."""

    name: str
    show: Callable[[float], str]
    better: Literal["lower", "higher"] = "lower"

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is; infinite when it is nothing at all."""
        above, below = (theirs, ours) if self.better == "lower" else (ours, theirs)
        return above / below if below else float("inf")


RATE = Quantity("seconds an item, shown as a rate", rate)
TIME = Quantity("seconds", time)
SHARE = Quantity("share of the ideal", lambda share: f"{share:.0%}", "higher")
MULTIPLE = Quantity("multiple of the ideal", lambda multiple: f"{multiple:.2f}x")
MEMORY = Quantity("bytes", size)
CPU = Quantity("share of a core", lambda share: f"{share * 100:.3f} %")

#: By the name that is in the JSON.
QUANTITIES = {each.name: each for each in (RATE, TIME, SHARE, MULTIPLE, MEMORY, CPU)}


@dataclass(frozen=True)
class Target:
    """What is aimed at: a ratio to the standard library's best, or a bound for our own number."""

    kind: Literal["ratio", "at most", "at least"]
    value: float
    words: str

    def reached_by(self, number: float) -> bool:
        return number <= self.value if self.kind == "at most" else number >= self.value


def times(value: float) -> Target:
    return Target("ratio", value, f"{value:g}x")


def no_slower() -> Target:
    return Target("ratio", 1.0, "no slower")


def no_more() -> Target:
    return Target("ratio", 1.0, "no more")


def at_most(value: float, words: str) -> Target:
    return Target("at most", value, words)


def at_least(value: float, words: str) -> Target:
    return Target("at least", value, words)
