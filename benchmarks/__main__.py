"""`make bench`: see --help."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import machine, report
from .libraries import CRATES, LIBRARIES, Contestant
from .registry import THEMES, Row, load
from .results import summarise
from .run import ROOT, Command, in_python, run

RESULTS = ROOT / "benchmarks" / "results"
PARTIAL = ROOT / "target" / "benchmarks"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Procession beside its rivals, in one run.")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows with this in theme or name")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--rivals", metavar="A,B", help="these beside the standard library; '' for none (default: all)")
    parser.add_argument("--smoke", action="store_true", help="small sizes and one round, no rivals: does it work?")
    parser.add_argument("--scale", action="store_true", help="how it grows, instead of the table")
    parser.add_argument("--rust", metavar="PROGRAM", help="the rows for Rust, measured by this program")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: benchmarks/results)")
    parser.add_argument("--report", action="store_true", help="measure nothing, write BENCHMARKS.md anew")
    parser.add_argument("--list", action="store_true", help="the rows and their contestants")
    return parser.parse_args()


def rivals(arguments: argparse.Namespace) -> set[str]:
    if arguments.rivals is not None:
        return {name.strip() for name in arguments.rivals.split(",") if name.strip()}
    return set() if arguments.smoke and not arguments.rust else {*LIBRARIES, *CRATES}


def chosen(rows: dict[str, Row], only: list[str]) -> list[Row]:
    def names(row: Row) -> str:
        return f"{row.theme}: {row.name}".lower()

    return [row for row in rows.values() if not only or any(text.lower() in names(row) for text in only)]


def where(arguments: argparse.Namespace) -> Path:
    """Results of a complete run go where BENCHMARKS.md is made from; others don't take their place."""
    complete = not arguments.only and not arguments.smoke and arguments.rivals is None
    return Path(arguments.out or (RESULTS if complete else PARTIAL))


def measure(arguments: argparse.Namespace) -> int:
    """Measure and print all rows, write them down; the exit code says whether ours worked."""
    kind, themes, command, versions, present = surroundings(arguments)
    rows = chosen(themes[1], arguments.only)
    if not rows:
        sys.exit("no row has that in its name: --list shows them")
    if arguments.list:
        for row in rows:
            print(f"{row.theme}: {row.name}: {', '.join(each.label for each in row.contestants)}")
        return 0
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "versions": versions,
        "rounds": 1 if arguments.smoke else arguments.rounds,
        "smoke": arguments.smoke,
        "themes": themes[0],
        "rows": [],
    }
    theme = None
    # A smoke run is not about time, so it may do several things at a time.
    for row, outcomes in run(rows, present, document["rounds"], command, at_once=4 if arguments.smoke else 1):
        document["rows"].append(summarise(row, outcomes))
        if theme != row.theme:
            theme = row.theme
            print(f"\n### {themes[0][theme]}\n\n{report.line(report.HEADER)}\n{report.line(report.ALIGN)}")
        print(report.table_row(document["rows"][-1]), flush=True)
    document["machine"]["load_after"] = os.getloadavg()[0]
    print()
    print(*report.complaints(document["rows"]), report.score(document["rows"]), sep="\n")
    out = where(arguments)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{kind}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    report.write_charts(out, kind)
    write_page(out)
    broken = [row["name"] for row in document["rows"] if row["verdict"] in ("failed", "hung", "absent")]
    for name in broken:
        print(f"procession has no number for: {name}", file=sys.stderr)
    return 1 if broken else 0


def surroundings(
    arguments: argparse.Namespace,
) -> tuple[str, tuple[dict[str, str], dict[str, Row]], Command, dict[str, str], Callable[[Contestant], bool]]:
    """What differs between Python and Rust: the rows, how they are measured, and who is there."""
    wanted = rivals(arguments)

    def taken(contestant: Contestant) -> bool:
        return contestant.library.role != "rival" or contestant.library.name in wanted

    if arguments.rust:
        from . import crates

        themes = (crates.THEMES, crates.ROWS)
        return "rust", themes, crates.command(arguments.rust, arguments.smoke), crates.versions(), taken
    there = {name for name, library in LIBRARIES.items() if library.installed()}
    versions = {
        name: LIBRARIES[name].version()
        for name in LIBRARIES
        if name in there and name in {"procession", *wanted} and LIBRARIES[name].distribution
    }
    command = in_python(sys.executable, arguments.smoke)
    themes = (THEMES, load())
    return "python", themes, command, versions, lambda each: taken(each) and each.library.name in there


def write_page(out: Path) -> None:
    page = ROOT / "BENCHMARKS.md" if out.resolve() == RESULTS else out / "BENCHMARKS.md"
    report.write(out, page)
    print(f"\nWritten: {page} and {out}", file=sys.stderr)


def main() -> int:
    arguments = parse()
    if arguments.report:
        write_page(arguments.out or RESULTS)
        return 0
    if arguments.scale:
        from .scale.run import measure_growth

        out = where(arguments)
        broken = measure_growth(arguments, out)
        write_page(out)
        return broken
    return measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
