"""Plots as SVG, without a library: they follow the reader's light or dark theme and can be compared as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

STYLE = """
  svg { --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --paper: #ffffff; --ours: #d9480f; --standard: #1f2328;
        --rival: #8c959f; --good: #1a7f37; --c1: #d9480f; --c2: #0969da; --c3: #8250df; --c4: #1a7f37; --c5: #9a6700;
        --c6: #bf3989; font-family: system-ui, sans-serif; font-size: 12px }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --paper: #0d1117; --ours: #ff8c42; --standard: #e6edf3;
          --rival: #7d8590; --good: #3fb950; --c1: #ff8c42; --c2: #58a6ff; --c3: #bc8cff; --c4: #3fb950; --c5: #d29922;
          --c6: #f778ba } }
  text { fill: var(--ink) } .soft { fill: var(--soft) } .title { font-weight: 600; font-size: 14px }
  .grid { stroke: var(--line) } .one { stroke: var(--standard); stroke-width: 1.5 }
"""


class Drawing:
    """Lines, circles and words on a sheet."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height, self.parts = width, height, list[str]()

    def add(self, element: str, text: str | None = None, **attributes: Any) -> None:
        given = " ".join(
            f'{name.rstrip("_").replace("_", "-")}="{value:.5g}"'
            if isinstance(value, float)
            else f'{name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
            for name, value in attributes.items()
        )
        self.parts.append(f"<{element} {given}/>" if text is None else f"<{element} {given}>{escape(text)}</{element}>")

    def dot(self, x: float, y: float, radius: float, fill: str, tip: str) -> None:
        self.parts.append(
            f'<circle cx="{x:.5g}" cy="{y:.5g}" r="{radius:.5g}" fill="{fill}"><title>{escape(tip)}</title></circle>'
        )

    def render(self) -> str:
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}">\n<style>{STYLE}</style>\n'
            f'<rect width="100%" height="100%" fill="var(--paper)"/>\n{body}\n</svg>\n'
        )


class LogScale:
    """Positions on a logarithmic axis, and where to draw its marks."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = math.log10(low), math.log10(max(high, low * 10))
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        part = (math.log10(max(value, 1e-300)) - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def marks(self) -> list[float]:
        step = max(1, round((self.high - self.low) / 8))
        first = math.ceil(self.low - 1e-9)
        return [10.0**power for power in range(first, math.floor(self.high + 1e-9) + 1, step)]


class LinearScale:
    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[float]:
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / 4))
        step *= next(each for each in (1, 2, 5, 10) if span / (step * each) <= 5)
        first = math.ceil(self.low / step)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


# --- how many times better: a line for each row ------------------------------------------------------------

LABELS, PLOT, LINE = 400.0, 480.0, 21.0


def relations(row: dict[str, Any]) -> dict[str, float]:
    """How many times better than the base each contestant is."""
    base = row["contestants"][row["base"]]["median"]
    better = {}
    for label, found in row["contestants"].items():
        if found["status"] == "ok" and found["median"]:
            ratio = base / found["median"]
            better[label] = 1 / ratio if row["quantity"] == "share of the ideal" else ratio
    return better


def dots(rows: Sequence[dict[str, Any]], themes: dict[str, str]) -> str:
    """A row's contestants on one line: the base is at 1, ours is the large dot, the target a tick."""
    rows = [row for row in rows if "ratio" in row and row["contestants"][row["base"]]["median"] > 0]
    every = [value for row in rows for value in relations(row).values()]
    low, high = min([0.1, *every]), max([100.0, *every]) * 1.3
    low = 10.0 ** math.floor(math.log10(max(low, 1e-3)))
    at = LogScale(low, high, LABELS, LABELS + PLOT)
    used = [theme for theme in themes if any(row["theme"] == theme for row in rows)]
    height = 76 + LINE * (len(rows) + 1.6 * len(used)) + 20
    drawing = Drawing(LABELS + PLOT + 90, height)
    drawing.add("text", "How many times better than the base (logarithmic)", x=16, y=26, class_="title")
    legend = LABELS - 90
    for fill, radius, word in (
        ("var(--ours)", 6.0, "Procession"),
        ("var(--standard)", 4.0, "the base: best of the standard library, or as named"),
        ("var(--rival)", 3.5, "others"),
    ):
        drawing.dot(legend, 44, radius, fill, word)
        drawing.add("text", word, x=legend + 10, y=48, class_="soft")
        legend += 34 + 6.4 * len(word)
    drawing.add("path", d=f"M{legend:g} 37 v14", stroke="var(--good)", stroke_width=3)
    drawing.add("text", "target", x=legend + 8, y=48, class_="soft")
    top = 66.0
    for mark in at.marks():
        kind = "one" if mark == 1 else "grid"
        drawing.add("line", x1=at(mark), x2=at(mark), y1=top, y2=height - 28, class_=kind)
        drawing.add("text", f"{mark:g}x", x=at(mark), y=height - 12, text_anchor="middle", class_="soft")
    y = top
    for theme in used:
        y += LINE * 1.2
        drawing.add("text", themes[theme], x=16, y=y, class_="title")
        y += LINE * 0.4
        for row in (row for row in rows if row["theme"] == theme):
            y += LINE
            line_of_dots(drawing, row, y - 6, at)
    return drawing.render()


def line_of_dots(drawing: Drawing, row: dict[str, Any], y: float, at: LogScale) -> None:
    drawing.add("text", shortened(row["name"], 60), x=28, y=y + 4)
    drawing.add("line", x1=LABELS, x2=LABELS + PLOT, y1=y, y2=y, class_="grid", stroke_dasharray="1 4")
    better = relations(row)
    for label, ratio in better.items():
        if label not in (row["ours"], row["base"]):
            drawing.dot(at(ratio), y, 3.5, "var(--rival)", f"{label}: {ratio:.3g}x")
    drawing.dot(at(1), y, 4, "var(--standard)", f"{row['base']}: 1x")
    target = row["target"]
    if target and target["kind"] == "ratio":
        drawing.add("path", d=f"M{at(target['value']):.5g} {y - 7:.5g} v14", stroke="var(--good)", stroke_width=3)
    if row["ours"] in better:
        low, high = (max(each, 1e-9) for each in row["ratio_quartiles"])
        drawing.add("line", x1=at(low), x2=at(high), y1=y, y2=y, stroke="var(--ours)", stroke_width=3)
        ratio = better[row["ours"]]
        drawing.dot(at(ratio), y, 6, "var(--ours)", f"procession: {ratio:.3g}x")
        drawing.add("text", f"{ratio:.3g}x" if ratio < 100 else f"{ratio:.0f}x", x=LABELS + PLOT + 12, y=y + 4)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# --- growth: a line for each series -----------------------------------------------------------------------


def lines(
    title: str,
    x_name: str,
    y_name: str,
    series: dict[str, list[tuple[float, float]]],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
    logarithmic: tuple[bool, bool],
) -> str:
    """Series of points, joined. The first series is ours."""
    width, height, left, bottom = 720.0, 380.0, 84.0, 330.0
    drawing = Drawing(width, height)
    drawing.add("text", title, x=16, y=26, class_="title")
    points = [point for each in series.values() for point in each]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across = axis(xs, logarithmic[0], left, width - 24, False)
    up = axis(ys, logarithmic[1], bottom, 70.0, True)
    for mark in across.marks():
        drawing.add("line", x1=across(mark), x2=across(mark), y1=70.0, y2=bottom, class_="grid")
        drawing.add("text", show_x(mark), x=across(mark), y=bottom + 16, text_anchor="middle", class_="soft")
    for mark in up.marks():
        drawing.add("line", x1=left, x2=width - 24, y1=up(mark), y2=up(mark), class_="grid")
        drawing.add("text", show_y(mark), x=left - 6, y=up(mark) + 4, text_anchor="end", class_="soft")
    drawing.add("text", x_name, x=(left + width - 24) / 2, y=height - 10, text_anchor="middle", class_="soft")
    drawing.add("text", y_name, x=16, y=58, class_="soft")
    legend = width - 24
    for index, (name, each) in reversed(list(enumerate(series.items()))):
        colour = f"var(--c{index % 6 + 1})"
        legend -= 6.6 * len(name) + 30
        drawing.dot(legend, 54, 4, colour, name)
        drawing.add("text", name, x=legend + 8, y=58)
        path = " ".join(f"{across(x):.5g},{up(y):.5g}" for x, y in each)
        drawing.add("polyline", points=path, fill="none", stroke=colour, stroke_width=2)
        for x, y in each:
            drawing.dot(across(x), up(y), 3, colour, f"{name}: {show_x(x)}, {show_y(y)}")
    return drawing.render()


def axis(values: list[float], logarithmic: bool, start: float, end: float, from_zero: bool) -> LogScale | LinearScale:
    if not logarithmic:
        return LinearScale(min(0.0, *values) if from_zero else min(values), max(values), start, end)
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    if from_zero:  # whole decades, so that there is always a mark
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    return LogScale(low, high, start, end)
