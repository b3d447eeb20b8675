"""The part of BENCHMARKS.md about growth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def scale_section(directory: Path, circumstances: Callable[[dict[str, Any]], str]) -> Iterator[str]:
    document = json.loads((directory / "scale.json").read_text())
    yield "## Scale"
    yield ""
    yield f"`make bench-scale`, {circumstances(document)}"
    if document["smoke"]:
        yield ""
        yield "**This was a smoke run: sizes are smaller than they say, and the numbers mean nothing.**"
    yield ""
    yield "| what | aimed at | found | |"
    yield "| --- | --- | --- | --- |"
    for experiment in document["experiments"]:
        for claim in experiment["claims"]:
            verdict = "met" if claim["holds"] else "missed"
            yield f"| {claim['what']} | {claim['target']} | {claim['found']} | {verdict} |"
    for experiment in document["experiments"]:
        yield ""
        yield f"### {experiment['title'][0].upper()}{experiment['title'][1:]}"
        yield ""
        for label, why in experiment["problems"].items():
            text = why.replace("`", "'")
            yield f"{label}: `{text}`"
            yield ""
        for plot in experiment["plots"]:
            if experiment["points"][plot["name"]]:
                yield f"![{plot['title']}]({directory.name}/scale-{experiment['name']}-{plot['name']}.svg)"
    yield ""
