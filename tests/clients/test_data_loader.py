"""A loader in the shape of PyTorch's takes our contexts, and runs with `multiprocessing` meaning this package."""

from __future__ import annotations

from pathlib import Path

from conftest import Programs

LOADER = Path(__file__).parent / "loader.py"


def test_takes_a_context_of_ours_beside_the_standard_library(start_method: str, run_program: Programs) -> None:
    outcome = run_program(LOADER, start_method, "procession").check()
    assert outcome.out == "failed 20\ndied\nmultiprocessing\n"


def test_runs_on_this_package(start_method: str, run_program: Programs) -> None:
    outcome = run_program(LOADER, start_method, "multiprocessing", options=("-m", "procession")).check()
    assert outcome.out == "failed 20\ndied\nprocession\n"


def test_takes_a_context_of_ours_on_this_package(start_method: str, run_program: Programs) -> None:
    outcome = run_program(LOADER, start_method, "procession", options=("-m", "procession")).check()
    assert outcome.out == "failed 20\ndied\nprocession\n"
