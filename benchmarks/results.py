"""From measurements to what is written down: medians, spread, ratios, verdicts."""

from __future__ import annotations

import statistics
from typing import Any

from .registry import Row
from .run import Outcome


def quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return [values[0]] * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def describe(outcome: Outcome, role: str, aside: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"role": role, "aside": aside, "status": outcome.status}
    if outcome.why:
        found["why"] = outcome.why
    if outcome.values:
        found["median"] = statistics.median(outcome.values)
        found["quartiles"] = quartiles(outcome.values)
        found["values"] = outcome.values
    return found


def summarise(row: Row, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """A row as it goes into the JSON."""
    ours = row.contestants[0].label
    roles = {each.label: each.library.role for each in row.contestants}
    summary: dict[str, Any] = {
        "theme": row.theme,
        "name": row.name,
        "quantity": row.quantity.name,
        "ours": ours,
        "target": vars(row.target) if row.target else None,
        "contestants": {
            label: describe(outcome, roles[label], label in row.aside) for label, outcome in outcomes.items()
        },
    }
    higher = row.quantity.better == "higher"
    well = {label: outcome.values for label, outcome in outcomes.items() if outcome.status == "ok"}
    best = sorted(well, key=lambda label: statistics.median(well[label]), reverse=higher)
    base = next((label for label in best if label in row.base), None)
    summary["base"] = base
    summary["leader"] = next((label for label in best if label not in row.aside), None)
    if ours in well and base and (higher or statistics.median(well[ours]) > 0):  # how many times better than nothing?
        summary["ratio"] = row.quantity.ratio(statistics.median(well[ours]), statistics.median(well[base]))
        # Rounds are measured next to each other, so each has a ratio of its own.
        each = [row.quantity.ratio(mine, theirs) for mine, theirs in zip(well[ours], well[base], strict=False)]
        summary["ratio_quartiles"] = quartiles(each)
    summary["verdict"] = verdict(row, summary)
    return summary


def verdict(row: Row, summary: dict[str, Any]) -> str:
    """Met, near (the target is within the middle half of the rounds), or missed."""
    ours = summary["contestants"].get(summary["ours"], {"status": "absent"})
    if ours["status"] != "ok":
        return str(ours["status"])
    if row.target is None:
        return ""
    if row.target.kind == "ratio":
        if "ratio" not in summary:
            return "no base"
        number, spread = summary["ratio"], summary["ratio_quartiles"]
    else:
        number, spread = ours["median"], ours["quartiles"]
    if row.target.reached_by(number):
        return "met"
    return "near" if any(map(row.target.reached_by, spread)) else "missed"
