"""every_name.py uses each public name, is typed (ci/lint.sh runs mypy on it), and runs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import procession
from conftest import Programs

PROGRAM = Path(__file__).with_name("every_name.py")

#: Public names of the package itself that are not the standard library's, and so not in its __all__.
OWN = {"OwnerDiedError", "OwnerDiedWarning", "WorkerLost", "install"}


def public_names() -> set[tuple[str, str]]:
    names = {("procession", name) for name in OWN | set(procession.__all__)}
    for found in pkgutil.walk_packages(procession.__path__, "procession."):
        # How the start methods do it is nobody's interface.
        if any(part.startswith(("_", "popen_")) for part in found.name.split(".")):
            continue
        module = importlib.import_module(found.name)
        names |= {(found.name, name) for name in module.__all__}
    return names


def used_names() -> set[tuple[str, str]]:
    tree = ast.parse(PROGRAM.read_text())
    modules = {}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            used.add((modules[node.value.id], node.attr))
    return used


def test_no_public_name_is_missing() -> None:
    assert sorted(public_names() - used_names()) == []


def test_it_runs(start_method: str, run_program: Programs) -> None:
    outcome = run_program(PROGRAM, env={"PROCESSION_START_METHOD": start_method}).check()
    assert outcome.out == "every name was used\n"
