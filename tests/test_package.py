"""The package as it is installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

import procession
from conftest import Programs

# Uses whatever the five seed programs use, and then asks who was imported.
INDEPENDENT = """
import sys

import procession


def task(lock, rlock, queue, connection):
    with lock, rlock:
        queue.put("multiprocessing" in sys.modules)
        connection.send("multiprocessing" in sys.modules)


if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    receiver, sender = procession.Pipe(duplex=False)
    queue = procession.Queue()
    child = procession.Process(target=task, args=(procession.Lock(), procession.RLock(), queue, sender))
    child.start()
    found = [queue.get(), receiver.recv()]
    child.join()
    with procession.Pool(1) as pool:
        found.append(pool.apply(eval, ["'multiprocessing' in __import__('sys').modules"]))
    found.append("multiprocessing" in sys.modules)
    print(found)
"""


def test_is_independent_of_the_standard_library(start_method: str, run_program: Programs) -> None:
    outcome = run_program(INDEPENDENT.lstrip(), start_method).check()
    assert outcome.out == "[False, False, False, False]\n"
    assert outcome.err == ""


def test_says_its_version() -> None:
    manifest = (Path(__file__).parent.parent / "Cargo.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{importlib.metadata.version("procession")}"\n' in manifest


@pytest.mark.parametrize("name", ["py.typed", "_procession.pyi"])
def test_is_typed(name: str) -> None:
    assert (Path(procession.__file__).parent / name).is_file()


def test_one_wheel_serves_all_versions() -> None:
    """The extension is built for the stable ABI."""
    import procession._procession

    assert procession._procession.__file__ is not None
    assert procession._procession.__file__.endswith(".abi3.so")


# A program of one module that starts a process.
LITTLE = """
import sys

NOT_NEEDED = {
    "asyncio", "ctypes", "enum", "inspect", "logging", "pickle", "queue", "random", "re", "selectors", "shutil",
    "signal", "socket", "subprocess", "tempfile", "threading", "traceback", "typing", "weakref",
}


def loaded():
    return sorted(NOT_NEEDED & sys.modules.keys())


before = loaded()  # by a start-up file, say
import procession


def tell(path):
    with open(path, "w") as out:
        print(sorted(set(loaded()) - set(before)), file=out)


if __name__ == "__main__":
    child = procession.get_context(sys.argv[1]).Process(target=tell, args=(sys.argv[2],))
    child.start()
    child.join()
    print(child.exitcode)
"""


@pytest.mark.parametrize("fresh_method", ["spawn", "forkserver"])
def test_a_child_that_starts_afresh_loads_little(fresh_method: str, run_program: Programs, tmp_path: Path) -> None:
    """The interpreter itself takes 13 ms; each of these would add one or more."""
    outcome = run_program(LITTLE.lstrip(), fresh_method, str(tmp_path / "found")).check()
    assert outcome.out == "0\n"
    assert (tmp_path / "found").read_text() == "[]\n"
