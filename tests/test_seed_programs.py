"""The programs of tests/seed, written for the standard library, do the same on procession.

Three ways (the import line changed, `python -m procession`, `procession.install()`), three start methods. What is
compared is what the standard library itself prints by fork (by spawn, two of them break it: it unlinks their lock
before their children have opened it), the order of concurrent lines, process ids and times aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome, Programs

SEED = Path(__file__).parent / "seed"
PROGRAMS = ("process_direct", "process_subclass", "pool_apply_async", "lock", "rlock")
MAIN = 'if __name__ == "__main__":\n'
INSTALL = "import procession\n\nprocession.install()\n\n"

# Says whose modules the parent and a child are using.
WITNESS = """
import multiprocessing
import multiprocessing.pool
import sys


def tell(who):
    from multiprocessing import pool, synchronize

    for module in (multiprocessing, pool, synchronize, sys.modules[multiprocessing.Process.__module__]):
        print(who, module.__file__)


if __name__ == "__main__":
    tell("parent")
    child = multiprocessing.Process(target=tell, args=["child"])
    child.start()
    child.join()
    with multiprocessing.Pool(1) as pool:
        pool.apply(tell, ["worker"])
        # In good order, with its output written, however long that takes.
        pool.close()
        pool.join()
"""


def with_import_changed(text: str) -> str:
    text = re.sub(r"^from multiprocessing import", "from procession import", text, flags=re.M)
    return re.sub(r"^(import .*)\bmultiprocessing$", r"\1procession as multiprocessing", text, flags=re.M)


def with_start_method(text: str, start_method: str) -> str:
    before, guard, after = text.partition(MAIN)
    assert guard
    module = "procession" if "procession" in before else "multiprocessing"
    return f'{before}{guard}    __import__("{module}").set_start_method("{start_method}")\n{after}'


def run_changed(run: Programs, text: str, start_method: str) -> Outcome:
    return run(with_start_method(with_import_changed(text), start_method))


def run_as_module(run: Programs, text: str, start_method: str) -> Outcome:
    return run(with_start_method(text, start_method), options=["-m", "procession"])


def run_installed(run: Programs, text: str, start_method: str) -> Outcome:
    return run(INSTALL + with_start_method(text, start_method))


WAYS = {"import": run_changed, "module": run_as_module, "install": run_installed}
Way = Callable[[Programs, str, str], Outcome]


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def masked(output: str) -> list[str]:
    """The lines in order of their text, with the numbers that differ from run to run put out of sight."""
    output = re.sub(r"\d+\.\d+(e-\d+)? seconds", "N seconds", output)
    output = re.sub(r"(run task \d+, |Parent process |^\d+:)\d+", r"\1PID", output, flags=re.M)
    return sorted(output.splitlines())


@pytest.fixture(scope="module")
def standard_output(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """What the standard library prints; each program is run once."""
    known: dict[str, list[str]] = {}
    run = Programs(tmp_path_factory.mktemp("standard"))

    def output(name: str) -> list[str]:
        if name not in known:
            text = (SEED / f"{name}.py").read_text(encoding="utf-8")
            known[name] = masked(run(with_start_method(text, "fork")).check().out)
        return known[name]

    return output


@pytest.mark.parametrize("name", PROGRAMS)
def test_prints_what_the_standard_library_prints(
    name: str, start_method: str, way: Way, run_program: Programs, standard_output: Callable[[str], list[str]]
) -> None:
    text = (SEED / f"{name}.py").read_text(encoding="utf-8")
    outcome = way(run_program, text, start_method).check()
    assert outcome.err == ""
    expected = standard_output(name)
    assert len(expected) >= 6
    assert masked(outcome.out) == expected


@pytest.mark.parametrize("name", ["lock", "rlock"])
def test_the_lock_keeps_speakers_apart(name: str, start_method: str, run_program: Programs) -> None:
    # Every line is written when it is printed: else each child's lines would stand together in any case.
    text = "import functools\n\nprint = functools.partial(print, flush=True)\n" + (SEED / f"{name}.py").read_text()
    lines = run_changed(run_program, text, start_method).check().out.splitlines()
    assert len(lines) == 20
    for running, done in zip(lines[::2], lines[1::2], strict=True):
        assert running.endswith("is running")
        assert done.startswith(running.removesuffix("running") + "done")


@pytest.mark.parametrize("unchanged_way", ["module", "install"])
def test_unchanged_programs_get_procession_everywhere(
    unchanged_way: str, start_method: str, run_program: Programs
) -> None:
    import procession

    outcome = WAYS[unchanged_way](run_program, WITNESS.lstrip(), start_method).check()
    found = [line.split(" ", 1) for line in outcome.out.splitlines()]
    assert sorted(who for who, _ in found) == ["child"] * 4 + ["parent"] * 4 + ["worker"] * 4
    package = str(Path(procession.__file__).parent)
    assert [file for _, file in found if not file.startswith(package)] == []


def test_a_program_gets_its_arguments(run_program: Programs, tmp_path: Path) -> None:
    program = tmp_path / "arguments.py"
    program.write_text("import sys\n\nprint(__name__, sys.argv)\nsys.exit(3)\n", encoding="utf-8")
    outcome = run_program(program, "one", "--two", options=["-m", "procession"])
    assert outcome.code == 3
    assert outcome.out == f"__main__ {[str(program), 'one', '--two']}\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_examples_run(name: str, run_program: Programs, standard_output: Callable[[str], list[str]]) -> None:
    """The programs a newcomer sees: the same ones, under their own names, by the default start method."""
    outcome = run_program(Path(__file__).parent.parent / "examples" / f"{name}.py").check()
    assert outcome.err == ""
    assert masked(outcome.out) == standard_output(name)
