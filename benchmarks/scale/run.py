"""Measures growth: each contestant in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from .. import machine
from ..charts import lines
from ..libraries import LIBRARIES
from ..quantities import size
from ..quantities import time as show_time
from ..run import run_bounded
from .registry import Found, Growth, Plot, load

TIME_LIMIT = 180.0


def count(number: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


#: How a number of a plot is shown, by the name that the plot has for it.
SHOWS = {"count": count, "size": size, "time": show_time, "plain": lambda number: f"{number:g}"}


def read(file: Path) -> list[tuple[str, float, float]]:
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def grow(growth: Growth, smoke: bool) -> dict[str, Any]:
    """One growth with all its contestants, as it goes into the JSON."""
    found: Found = {plot.name: {} for plot in growth.plots}
    problems: dict[str, str] = {}
    for contestant in growth.contestants:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "points")
            command = [sys.executable, "-m", "benchmarks.scale.one", growth.name, contestant.label, str(file)]
            status, why = run_bounded([*command, *(["--smoke"] if smoke else [])], TIME_LIMIT)
            for plot, x, y in read(file):
                found[plot].setdefault(contestant.label, []).append((x, y))
        if status != "ok":
            problems[contestant.label] = f"{status}: {why}"
    claims = [vars(claim) for claim in growth.judge(found)]
    for claim in claims:
        claim["holds"] = bool(claim["holds"])
    return {
        "name": growth.name,
        "title": growth.title,
        "points": found,
        "problems": problems,
        "claims": claims,
        "plots": [vars(plot) for plot in growth.plots],
    }


def write_plots(experiment: dict[str, Any], out: Path) -> None:
    for given in experiment["plots"]:
        plot = Plot(**given)
        series = experiment["points"][plot.name]
        if series:
            show_x, show_y = SHOWS[plot.show_x], SHOWS[plot.show_y]
            across, up = plot.logarithmic
            text = lines(plot.title, plot.x, plot.y, series, show_x, show_y, (across, up))
            (out / f"scale-{experiment['name']}-{plot.name}.svg").write_text(text)


def measure_growth(arguments: argparse.Namespace, out: Path) -> int:
    """Measure all growths and write them down; the exit code says whether ours got through all of them."""
    growths = [
        each
        for each in load().values()
        if not arguments.only or any(text.lower() in f"{each.name}: {each.title}".lower() for text in arguments.only)
    ]
    if not growths:
        sys.exit("nothing has that in its name: " + ", ".join(load()))
    out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "versions": {"procession": LIBRARIES["procession"].version()},
        "smoke": arguments.smoke,
        "experiments": [],
    }
    broken = 0
    for growth in growths:
        experiment = grow(growth, arguments.smoke)
        document["experiments"].append(experiment)
        write_plots(experiment, out)
        print(f"{growth.title}")
        for claim in experiment["claims"]:
            print(f"  {'met   ' if claim['holds'] else 'MISSED'} {claim['what']}: {claim['found']} ({claim['target']})")
        for label, why in experiment["problems"].items():
            print(f"  {label} {why}")
            broken |= label.startswith("procession")
        sys.stdout.flush()
    document["machine"]["load_after"] = os.getloadavg()[0]
    (out / "scale.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return int(broken)
