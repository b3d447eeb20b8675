"""Libraries of the scientific stack, unmodified, in programs that know nothing of this package.

Each is skipped where its library is not installed; `make clients` has an environment with all of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from conftest import Programs


def needs(*libraries: str) -> pytest.MarkDecorator:
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: make clients installs it")


def run(run_program: Programs, start_method: str, program: str) -> str:
    # Both multiprocessing's start method and whatever a library makes of it.
    return (
        run_program(
            program, options=("-W", "error::ResourceWarning", "-m", "procession", "--start-method", start_method)
        )
        .check()
        .out
    )


@needs("scipy")
@pytest.mark.parametrize("workers", ["pool.map", "2"])
def test_scipy_minimizes_with_workers(workers: str, start_method: str, run_program: Programs) -> None:
    out = run(
        run_program,
        start_method,
        f"""
import multiprocessing
from scipy.optimize import differential_evolution, rosen

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        found = differential_evolution(
            rosen, [(0, 2)] * 3, workers={workers}, updating="deferred", seed=1, maxiter=40
        )
    print(multiprocessing.__name__, *found.x.round(1))
""",
    )
    assert out == "procession 1.0 1.0 1.0\n"


@needs("joblib", "numpy")
@pytest.mark.parametrize("backend", ["multiprocessing", "loky", "threading"])
def test_joblib_runs_a_job_by_each_of_its_backends(backend: str, start_method: str, run_program: Programs) -> None:
    out = run(
        run_program,
        start_method,
        f"""
import multiprocessing
import numpy
from joblib import Parallel, delayed

def total(number, array):
    return float(array.sum()) + number

def fail(number):
    raise KeyError(number)

if __name__ == "__main__":
    print(multiprocessing.__name__)
    # Above a megabyte joblib sends arrays as mapped files, below it pickles them.
    for size in (10, 1_000_000):
        array = numpy.ones(size)
        print(Parallel(n_jobs=2, backend="{backend}")(delayed(total)(i, array) for i in range(4)))
    try:
        Parallel(n_jobs=2, backend="{backend}")(delayed(fail)(5) for _ in range(4))
    except KeyError as error:
        print(repr(error))
    # What loky starts are interpreters of its own: they too can reach a manager of ours.
    with multiprocessing.Manager() as manager:
        seen = manager.list()
        Parallel(n_jobs=2, backend="{backend}")(delayed(seen.append)(i) for i in range(3))
        print(sorted(seen))
""",
    )
    assert out.splitlines() == [
        "procession",
        "[10.0, 11.0, 12.0, 13.0]",
        "[1000000.0, 1000001.0, 1000002.0, 1000003.0]",
        "KeyError(5)",
        "[0, 1, 2]",
    ]


@needs("joblib", "numpy")
def test_joblib_shares_mapped_files(start_method: str, run_program: Programs, tmp_path: Path) -> None:
    out = run(
        run_program,
        start_method,
        f"""
import multiprocessing
import numpy
from joblib import Parallel, delayed

def fill(mapped, place):
    mapped[place] = place + 1
    return type(mapped).__name__

if __name__ == "__main__":
    print(multiprocessing.__name__)
    mapped = numpy.memmap({str(tmp_path / "mapped")!r}, dtype="f8", shape=4, mode="w+")
    print(set(Parallel(n_jobs=2, backend="multiprocessing")(delayed(fill)(mapped, i) for i in range(4))))
    print(mapped.tolist())
""",
    )
    assert out.splitlines() == ["procession", "{'memmap'}", "[1.0, 2.0, 3.0, 4.0]"]


@needs("joblib")
def test_installed_in_a_program_that_has_imported_everything_before(run_program: Programs) -> None:
    out = run_program(
        """
import concurrent.futures.process
import multiprocessing.pool

import procession

procession.install()

import multiprocessing as now
from joblib import Parallel, delayed

def double(number):
    return 2 * number

if __name__ == "__main__":
    print(now.__name__, multiprocessing.__name__)
    print(Parallel(n_jobs=2)(delayed(double)(i) for i in range(3)))
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        print(list(executor.map(double, range(3))))
    with multiprocessing.pool.Pool(2) as pool:
        print(pool.map(double, range(3)))
    with now.Pool(2) as pool:
        print(pool.map(double, range(3)))
"""
    ).check()
    assert out.out.splitlines() == ["procession multiprocessing"] + 4 * ["[0, 2, 4]"]


@needs("tqdm")
def test_tqdm_maps_with_a_bar(start_method: str, run_program: Programs) -> None:
    out = run(
        run_program,
        start_method,
        """
import multiprocessing
import tqdm
from tqdm.contrib.concurrent import process_map

def square(number):
    return number * number

if __name__ == "__main__":
    print(process_map(square, range(8), max_workers=2, chunksize=3))
    with multiprocessing.Pool(2) as pool:
        print(list(tqdm.tqdm(pool.imap(square, range(5)), total=5)))
""",
    )
    assert out == "[0, 1, 4, 9, 16, 25, 36, 49]\n[0, 1, 4, 9, 16]\n"


@needs("pandas", "numpy")
def test_pandas_and_numpy_through_a_pool(start_method: str, run_program: Programs) -> None:
    out = run(
        run_program,
        start_method,
        """
import multiprocessing
import numpy
import pandas

def halve(frame):
    return frame.assign(half=frame.a / 2)

def double(array):
    array *= 2  # what a worker gets is its own, and writable
    return array

if __name__ == "__main__":
    frame = pandas.DataFrame({"a": numpy.arange(100_000.0), "b": ["x"] * 100_000})
    with multiprocessing.Pool(2) as pool:
        parts = pool.map(halve, [frame.iloc[i::4] for i in range(4)])
        print(pandas.concat(parts).sort_index().equals(halve(frame)))
        arrays = [numpy.full((300, 300), i) for i in range(5)]
        results = pool.map(double, arrays)
        print([int(array.sum()) // 90_000 for array in results], [int(array[0, 0]) for array in arrays])
        results[0][0, 0] = 7
""",
    )
    assert out == "True\n[0, 2, 4, 6, 8] [0, 1, 2, 3, 4]\n"
