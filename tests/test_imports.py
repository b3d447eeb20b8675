"""Processes that are forked while another thread imports a module."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conftest import Programs

#: A module that takes long to load: {how long, seconds}.
MODULE = """
import threading, time
loading = getattr(threading, "loading", None)
if loading is not None:
    loading.set()
    if threading.current_thread().name == "loader":
        time.sleep({seconds})
from slow.inner import INNER
VALUE = 7
"""

MAIN = """
import threading, time
import procession as mp

def child(where):
    import slow
    print("child", slow.VALUE, slow.INNER, slow.inner.INNER, flush=True)

def load():
    import slow
    print("loader", slow.VALUE, flush=True)

if __name__ == "__main__":
    threading.loading = threading.Event()
    loader = threading.Thread(target=load, name="loader")
    loader.start()
    threading.loading.wait()
    began = time.monotonic()
    process = mp.get_context("fork").Process(target=child, args=("there",))
    process.start()
    waited = time.monotonic() - began
    process.join(20)
    print(process.exitcode)
    loader.join()
    print("waited" if waited > 1 else "waited less")
"""


def package(folder: Path, seconds: float) -> None:
    slow = folder / "slow"
    slow.mkdir()
    (slow / "__init__.py").write_text(MODULE.format(seconds=seconds))
    (slow / "inner.py").write_text("INNER = 3\n")


@pytest.mark.parametrize("seconds", [0.3, 4])
def test_a_child_imports_what_another_thread_was_importing(
    run_program: Programs, tmp_path: Path, seconds: float
) -> None:
    package(tmp_path, seconds)
    main = tmp_path / "main.py"
    main.write_text(MAIN)
    outcome = run_program(main).check()
    lines = sorted(outcome.out.splitlines())
    assert lines[:3] == ["0", "child 7 3 3", "loader 7"]
    if seconds > 1:
        assert lines[3] == "waited"


# The loader writes as soon as it has loaded, and for a while.
SLOW_STREAM = """
import io, sys, time

class Slow(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        time.sleep(0.3)
        sys.__stdout__.buffer.raw.write(data)
        return len(data)

sys.stdout = io.TextIOWrapper(io.BufferedWriter(Slow()))
"""


def test_a_stream_that_is_written_to_after_an_import_is_not_locked_in_the_child(
    run_program: Programs, tmp_path: Path
) -> None:
    package(tmp_path, 0.3)
    main = tmp_path / "main.py"
    main.write_text(SLOW_STREAM + MAIN)
    outcome = run_program(main).check()
    assert sorted(outcome.out.splitlines())[:3] == ["0", "child 7 3 3", "loader 7"]


def test_a_module_that_starts_a_process_while_it_is_imported(run_program: Programs, tmp_path: Path) -> None:
    (tmp_path / "starter.py").write_text(
        "import procession as mp\n"
        "def child():\n"
        "    import starter\n"
        "    print('child', hasattr(starter, 'LAST'), flush=True)\n"
        "process = mp.get_context('fork').Process(target=child)\n"
        "process.start()\n"
        "process.join(20)\n"
        "LAST = True\n"
    )
    main = tmp_path / "main.py"
    main.write_text("import threading, starter\nprint(starter.process.exitcode)\n")
    # Its own thread's locks are the child's as well: it goes on with the module as it is.
    assert run_program(main).check().out == "child False\n0\n"


ALL_LAZY = """
import sys
import procession

def answer(lock, queue):
    with lock:
        queue.put(sys.flags.lazy_imports)

if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[1])
    lock, queue = ctx.Lock(), ctx.Queue()
    child = ctx.Process(target=answer, args=(lock, queue))
    child.start()
    print(queue.get(timeout=30) == sys.flags.lazy_imports)
    child.join()
    with ctx.Pool(2) as pool, ctx.Manager() as manager:
        print(pool.map(lambda x: x + 1, range(3)), manager.list([1]))
"""


@pytest.mark.skipif(sys.version_info < (3, 15), reason="Python 3.15 brought it")
@pytest.mark.parametrize("how", [(), ("-m", "procession")])
def test_every_import_is_lazy(how: tuple[str, ...], start_method: str, run_program: Programs) -> None:
    outcome = run_program(ALL_LAZY.lstrip(), start_method, options=("-X", "lazy_imports=all", *how)).check()
    assert outcome.out == "True\n[1, 2, 3] [1]\n"
    assert outcome.err == ""
