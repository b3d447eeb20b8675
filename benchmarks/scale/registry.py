"""What grows, and what is said of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..libraries import Contestant
from ..timing import Effort

Points = list[tuple[float, float]]
#: What was found: by plot, then by contestant.
Found = dict[str, dict[str, Points]]
#: Writes down a point of a plot: name, x, y.
Note = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    x: str
    y: str
    show_x: str
    show_y: str
    logarithmic: tuple[bool, bool]


@dataclass(frozen=True)
class Claim:
    """One sentence about the growth, with what was aimed at and what was found."""

    what: str
    target: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Growth:
    name: str
    title: str
    contestants: tuple[Contestant, ...]
    plots: tuple[Plot, ...]
    measure: Callable[[Contestant, Effort, Note], None]
    judge: Callable[[Found], list[Claim]]


GROWTHS: dict[str, Growth] = {}

#: Modules of this directory, in the order of the page.
MODULES = ("workers", "tasks", "messages", "objects", "memory", "starts")


def growth(
    name: str,
    title: str,
    contestants: Sequence[str],
    plots: Sequence[Plot],
    judge: Callable[[Found], list[Claim]],
) -> Callable[[Callable[[Contestant, Effort, Note], None]], Callable[[Contestant, Effort, Note], None]]:
    def register(
        measure: Callable[[Contestant, Effort, Note], None],
    ) -> Callable[[Contestant, Effort, Note], None]:
        GROWTHS[name] = Growth(name, title, tuple(map(Contestant, contestants)), tuple(plots), measure, judge)
        return measure

    return register


def load() -> dict[str, Growth]:
    for module in MODULES:
        importlib.import_module(f".{module}", __package__)
    return GROWTHS


def at(points: Points, x: float) -> float:
    """The value at x; not a number if it never got there."""
    return dict(points).get(x, float("nan"))


def last(points: Points) -> float:
    return points[-1][1] if points else float("nan")
