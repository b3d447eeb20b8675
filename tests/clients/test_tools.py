"""Tools and libraries that patch `multiprocessing`, or have pools of their own on top of it.

Each is skipped where it is not installed; `make clients` has an environment with all of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from conftest import Programs


def needs(library: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"needs {library}: make clients installs it")


@needs("coverage")
def test_coverage_sees_what_children_run(start_method: str, run_program: Programs, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("[run]\nconcurrency = multiprocessing\nparallel = true\n")
    (tmp_path / "program.py").write_text("""
import multiprocessing
import part

if __name__ == "__main__":
    process = multiprocessing.Process(target=part.in_process)
    process.start()
    process.join()
    with multiprocessing.Pool(2) as pool:
        pool.map(part.in_pool, range(4))
        pool.close()
        pool.join()
""")
    (tmp_path / "part.py").write_text("""\
def in_process():
    return 1

def in_pool(number):
    return number

def nowhere():
    return 2
""")
    settings = f"--rcfile={tmp_path}/settings"
    ours = ("-m", "procession", "--start-method", start_method)
    run = ("-m", "coverage", "run", settings, str(tmp_path / "program.py"))
    run_program(None, options=(*ours, *run)).check()
    run_program(None, options=("-m", "coverage", "combine", "-q", settings)).check()
    options = ("-m", "coverage", "report", "-m", settings, "--include=*/part.py")
    out = run_program(None, options=options).check().out
    (line,) = (line for line in out.splitlines() if "part.py" in line)
    assert line.split()[1:] == ["6", "1", "83%", "8"]


def run(run_program: Programs, start_method: str, program: str) -> str:
    return run_program(program, options=("-m", "procession", "--start-method", start_method)).check().out


@needs("pebble")
def test_pebble_stops_and_replaces_workers(start_method: str, run_program: Programs) -> None:
    out = run(
        run_program,
        start_method,
        """
import concurrent.futures
import multiprocessing
import os
import time
import pebble

if __name__ == "__main__":
    with pebble.ProcessPool(2, max_tasks=3, context=multiprocessing.get_context()) as pool:
        print(list(pool.map(abs, range(-5, 0)).result()))
        try:
            pool.schedule(time.sleep, (60,), timeout=0.3).result()
        except concurrent.futures.TimeoutError:
            print("too slow")
        try:
            pool.schedule(os._exit, (5,)).result()
        except pebble.ProcessExpired as expired:
            print(expired.exitcode)
        print(pool.schedule(abs, (-1,)).result())
""",
    )
    assert out.splitlines() == ["[5, 4, 3, 2, 1]", "too slow", "5", "1"]


@needs("aiomultiprocess")
def test_aiomultiprocess_runs_coroutines(start_method: str, run_program: Programs) -> None:
    out = run(
        run_program,
        start_method,
        """
import asyncio
import multiprocessing
import aiomultiprocess

async def square(number):
    await asyncio.sleep(0.01)
    return number * number

async def main():
    async with aiomultiprocess.Pool(2) as pool:
        print(await pool.map(square, range(5)))
    print(await aiomultiprocess.Worker(target=square, args=(4,)))

if __name__ == "__main__":
    aiomultiprocess.set_start_method(multiprocessing.get_start_method())
    asyncio.run(main())
""",
    )
    assert out == "[0, 1, 4, 9, 16]\n16\n"
