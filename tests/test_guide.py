"""What the guide shows is true: each example of docs/guide is run as the main part of a program."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from conftest import Programs

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guide"


def examples() -> list[tuple[str, str]]:
    found = []
    for page in sorted(GUIDE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append((f"{page.name}:{line}", match[1]))
    return found


EXAMPLES = examples()


def as_program(example: str) -> str:
    """The example with its definitions where children find them, and the rest where they don't run it."""
    top, main = ["import procession"], ['if __name__ == "__main__":']
    for node in ast.parse(example).body:
        text = ast.unparse(node).splitlines()
        if isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom)):
            top += text
        else:
            main += ["    " + line for line in text]
    return "\n".join([*top, *main, '    print("shown")', ""])


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize(("place", "example"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_example(place: str, example: str, start_method: str, run_program: Programs) -> None:
    outcome = run_program(as_program(example), env={"PROCESSION_START_METHOD": start_method}).check()
    assert outcome.out == "shown\n"
    assert outcome.err == ""
