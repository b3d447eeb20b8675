"""The rows of the table."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .libraries import Contestant
from .quantities import Quantity, Target
from .timing import Effort

Measure = Callable[[Contestant, Effort], float]

#: In the order of the table: a module of rows/ each.
THEMES = {
    "pool": "Pool of 2",
    "pool_start": "Pool, at the start and at rest",
    "queues": "Queues and pipes",
    "arrays": "Large arrays",
    "synchronize": "Locks and their kin",
    "processes": "Processes",
    "managers": "Managers",
}


@dataclass(frozen=True)
class Row:
    theme: str
    name: str
    measure: Measure | None  # None: in Rust
    quantity: Quantity
    target: Target | None
    contestants: tuple[Contestant, ...]
    #: The best of these is what the ratio is to: the standard library's ways to do the same thing.
    base: frozenset[str]
    #: Shown beside the others, since it is another way than the one that the row is about.
    aside: frozenset[str] = frozenset()
    #: The main module of the program that is measured.
    main: str = "one"


ROWS: dict[str, Row] = {}


def row(
    name: str,
    quantity: Quantity,
    target: Target | None,
    contestants: Sequence[str],
    aside: Sequence[str] = (),
    main: str = "one",
) -> Callable[[Measure], Measure]:
    """Make a row of a function that does the work and returns a number.

    The first contestant is ours. Those in `aside` are shown beside the others.
    """

    def register(measure: Measure) -> Measure:
        theme = measure.__module__.rpartition(".")[2]
        if name in ROWS:
            raise ValueError(f"there is a row named {name!r} already")
        everyone = tuple(map(Contestant, (*contestants, *aside)))
        base = {each.label for each in everyone if each.library.role == "standard"} - set(aside)
        ROWS[name] = Row(theme, name, measure, quantity, target, everyone, frozenset(base), frozenset(aside), main)
        return measure

    return register


def load() -> dict[str, Row]:
    """All rows."""
    for theme in THEMES:
        importlib.import_module(f".rows.{theme}", __package__)
    return ROWS
