"""Tables in Markdown, from the JSON: for the terminal while it is measured, and BENCHMARKS.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .charts import dots
from .quantities import QUANTITIES, size
from .scale.report import scale_section

#: What there may be in the results directory, and the heading and introduction of its part.
PARTS = {
    "python": (
        "Python",
        "make bench",
        "Medians of {rounds} rounds, each measurement in a process of its own, contestants by turns. Where a row says "
        "no more: pools of 2 workers, started by fork, and a function that does nothing. **Ratio**: how many times "
        "better Procession is than the best of the standard library's ways to do the same thing, with the middle half "
        "of the rounds. **Met**: the ratio, or our own number where the target is one, reaches the target. **Near**: "
        "the target is within the middle half of the rounds. In italics: another way to the same end, which the ratio "
        "is not to.",
    ),
    "rust": (
        "Rust",
        "make bench-rust",
        "The same for the crate. **Ratio**: to the crate that the row is about, named beside its number. `futex` is a "
        "bare word with compare-and-swap and no owner: the least that a lock between processes can cost.",
    ),
}

HEADER = ("work", "Procession", "base", "ratio", "target", "", "others")
ALIGN = ("---", "---:", "---:", "---:", "---:", "---", "---")


def line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(row: dict[str, Any], label: str) -> str:
    found = row["contestants"].get(label)
    if found is None:
        return "not installed"
    if found["status"] != "ok":
        return str(found["status"])
    return QUANTITIES[row["quantity"]].show(found["median"])


def multiple(value: float) -> str:
    if value == float("inf"):
        return "∞"
    return f"{value:.0f}x" if value >= 100 else f"{value:.3g}x"


def ratio(row: dict[str, Any]) -> str:
    if "ratio" not in row:
        return ""
    low, high = row["ratio_quartiles"]
    return f"**{multiple(row['ratio'])}** ({multiple(low)} to {multiple(high)})"


def verdict(row: dict[str, Any]) -> str:
    found = str(row["verdict"])
    ahead = row.get("leader")
    if ahead and ahead != row["ours"] and row["contestants"][ahead]["role"] != "ours":
        found += f"{', ' if found else ''}behind {ahead}"
    return found


def table_row(row: dict[str, Any]) -> str:
    base = row.get("base")
    others = []
    for label, found in row["contestants"].items():
        if label not in (row["ours"], base):
            shown = f"{label} {number(row, label)}"
            others.append(f"_{shown}_" if found["aside"] else shown)
    standard = f"{number(row, base)}" if base else ""
    if base and base != "multiprocessing":
        standard += f" ({base})"
    target = row["target"]["words"] if row["target"] else ""
    return line((row["name"], number(row, row["ours"]), standard, ratio(row), target, verdict(row), "; ".join(others)))


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield line(HEADER)
    yield line(ALIGN)
    yield from map(table_row, rows)


def complaints(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Why something has no number."""
    for row in rows:
        for label, found in row["contestants"].items():
            if found["status"] != "ok":
                why = found.get("why", "").replace("|", "\\|").replace("`", "'")
                yield f"- {row['name']}: {label} {found['status']} (`{why}`)"


def score(rows: list[dict[str, Any]]) -> str:
    aimed = [row for row in rows if row["target"]]
    counts = {each: sum(row["verdict"] == each for row in aimed) for each in ("met", "near")}
    behind = sum("behind" in verdict(row) for row in rows)
    led = f"Procession leads {len(rows) - behind} of {len(rows)} rows."
    return f"{counts['met']} of {len(aimed)} targets met, {counts['near']} near. {led}"


def circumstances(document: dict[str, Any]) -> str:
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"{machine['date']}; {machine['processor']}, {machine['cores']} cores, {size(machine['memory'])}; "
        f"Linux {machine['kernel']}, {machine['libc']}; Python {machine['python']}, Rust {machine['rust']}; "
        f"commit {machine['commit']}; {versions}. "
        f"Load average before and after: {machine['load_before']:.1f}, {machine['load_after']:.1f}."
    )


def section(directory: Path, kind: str) -> Iterator[str]:
    document = json.loads((directory / f"{kind}.json").read_text())
    title, command, introduction = PARTS[kind]
    rows = document["rows"]
    yield f"## {title}"
    yield ""
    yield f"`{command}`, {circumstances(document)}"
    yield ""
    yield introduction.format(rounds=document["rounds"])
    if document["smoke"]:
        yield ""
        yield "**This was a smoke run: sizes are smaller than they say, and the numbers mean nothing.**"
    yield ""
    yield f"**{score(rows)}**"
    yield ""
    yield f"![How many times better than the base each is]({directory.name}/{kind}.svg)"
    for theme in dict.fromkeys(row["theme"] for row in rows):
        yield ""
        yield f"### {document['themes'][theme]}"
        yield ""
        yield from table([row for row in rows if row["theme"] == theme])
    failed = list(complaints(rows))
    if failed:
        yield ""
        yield "What has no number:"
        yield ""
        yield from failed
    yield ""


def write_charts(directory: Path, kind: str) -> None:
    document = json.loads((directory / f"{kind}.json").read_text())
    (directory / f"{kind}.svg").write_text(dots(document["rows"], document["themes"]))


def write(directory: Path, page: Path) -> None:
    """Write the page, from whatever results there are."""
    lines = [
        "# Benchmarks",
        "",
        "Generated by `make bench`, `make bench-scale` and `make bench-rust`, each of which writes its part anew; do "
        "not edit. Your machine gives other numbers: the commands set up all they need. "
        f"The raw numbers are in [{directory.name}]({relative(directory, page)}).",
        "",
    ]
    for kind in ("python", "scale", "rust"):
        if (directory / f"{kind}.json").exists():
            lines += scale_section(directory, circumstances) if kind == "scale" else section(directory, kind)
    text = "\n".join(lines).rstrip() + "\n"
    page.write_text(text.replace(f"]({directory.name}/", f"]({relative(directory, page)}/"))


def relative(directory: Path, page: Path) -> str:
    return directory.resolve().relative_to(page.resolve().parent).as_posix()
