"""Programs that know nothing of the package: install(), and python -m procession."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import Programs

UNMODIFIED = """
import multiprocessing
import multiprocessing.util
import sys
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection

def report(connection):
    import multiprocessing.process
    from multiprocessing import context
    names = [multiprocessing.__name__, multiprocessing.process.__name__, context.__name__,
             Process.__module__, Connection.__module__]
    connection.send((names, multiprocessing.get_start_method()))

def nested(connection):
    child = Process(target=report, args=(connection,))
    child.start()
    child.join()

if __name__ == "__main__":
    receiver, sender = Pipe(duplex=False)
    child = Process(target=nested, args=(sender,))
    child.start()
    print(*receiver.recv())
    child.join()
    print(multiprocessing.__name__, multiprocessing.util.__name__, sys.argv[1:], __file__ == sys.argv[0])
"""

OURS = ["procession", "procession.process", "procession.context", "procession.context", "procession.connection"]


def test_unmodified_program(start_method: str, run_program: Programs, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(UNMODIFIED)
    options = ["-m", "procession", "--start-method", start_method]
    outcome = run_program(path, "a", "-b", options=options).check()
    assert outcome.out == f"{OURS} {start_method}\nprocession procession.util ['a', '-b'] True\n"
    assert outcome.err == ""


@pytest.mark.parametrize("order", ["before", "after"])
def test_install(start_method: str, order: str, run_program: Programs) -> None:
    head = "import procession\nprocession.install()\nprocession.install()\n"
    if order == "after":
        head = f"import multiprocessing.pool, multiprocessing.util\n{head}"
    head += f"if __name__ == '__main__': procession.set_start_method({start_method!r})\n"
    outcome = run_program(head + UNMODIFIED).check()
    assert outcome.out.splitlines()[0] == f"{OURS} {start_method}"
    assert outcome.err == ""


def test_install_aliases_every_module(run_program: Programs) -> None:
    program = """
import procession
procession.install()
import importlib, os, sys
import multiprocessing
assert multiprocessing is procession
for name in sorted(os.listdir(os.path.dirname(procession.__file__))):
    stem, extension = os.path.splitext(name)
    if extension != ".py" or stem.startswith("_") or stem.endswith("win32"):
        continue
    module = importlib.import_module(f"multiprocessing.{stem}")
    assert module is importlib.import_module(f"procession.{stem}"), stem
    assert module.__name__ == module.__spec__.name == f"procession.{stem}"
import multiprocessing.dummy.connection
assert multiprocessing.dummy.connection.__name__ == "procession.dummy.connection"
from multiprocessing.pool import ThreadPool
try:
    import multiprocessing.nonsense
except ModuleNotFoundError as error:
    print(error.name)
assert [f for f in sys.meta_path if type(f).__module__ == "procession._install"].__len__() == 1
"""
    assert run_program(program.lstrip()).check().out == "multiprocessing.nonsense\n"


def test_executor_on_the_installed_package(start_method: str, run_program: Programs) -> None:
    program = f"""
import procession
procession.install()
import concurrent.futures, os

if __name__ == "__main__":
    procession.set_start_method({start_method!r})
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        print(sum(executor.map(abs, range(-50, 0))))
"""
    outcome = run_program(program.lstrip()).check()
    assert outcome.out == "1275\n"
    assert outcome.err == ""


# --- python -m procession behaves as python -------------------------------------------------------

SHOW = """
import sys, os
print(__name__, os.path.basename(__file__), os.path.isabs(__file__), sys.argv, sys.path[0], __package__)
print(__spec__ is None, sorted(n for n in globals() if n.startswith("__")))
print(sys.modules["__main__"].__dict__ is globals())
def f(): return 1
"""


def test_looks_like_python(run_program: Programs, tmp_path: Path) -> None:
    place = tmp_path / "somewhere"
    place.mkdir()
    (place / "show.py").write_text(SHOW)
    link = tmp_path / "link.py"
    link.symlink_to(place / "show.py")
    for path in (Path("somewhere/show.py"), place / "show.py", link):
        expected = run_program(path, "x", "--y").check()
        outcome = run_program(path, "x", "--y", options=["-m", "procession"]).check()
        assert outcome.out == expected.out


def test_module(run_program: Programs, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sibling.py").write_text("VALUE = 5\n")
    (package / "program.py").write_text(f"from .sibling import VALUE\n{UNMODIFIED}")
    options = ["-m", "procession", "--start-method=spawn", "-m", "package.program"]
    outcome = run_program(None, options=options).check()
    assert outcome.out.splitlines()[0] == f"{OURS} spawn"
    assert outcome.out.splitlines()[1].endswith(" [] True")
    (package / "show.py").write_text(SHOW)
    expected = run_program(None, "a", options=["-m", "package.show"]).check()
    shown = run_program(None, "a", options=["-m", "procession", "-m", "package.show"]).check()
    assert shown.out == expected.out


@pytest.mark.parametrize("form", ["directory", "zip", "pyc"])
def test_other_forms_of_programs(form: str, run_program: Programs, tmp_path: Path) -> None:
    source = tmp_path / "__main__.py"
    source.write_text("import multiprocessing, sys\nprint(multiprocessing.__name__, __name__, sys.argv[1:])\n")
    path = tmp_path
    if form == "zip":
        path = tmp_path / "program.pyz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(source, "__main__.py")
    elif form == "pyc":
        import py_compile

        path = tmp_path / "program.pyc"
        py_compile.compile(str(source), str(path), doraise=True)
    outcome = run_program(path, "x", options=["-m", "procession"]).check()
    assert outcome.out == "procession __main__ ['x']\n"


DEFINES = """
import multiprocessing, sys
class Thing:
    pass
def task(thing):
    return isinstance(thing, Thing), Thing()
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        seen, made = pool.apply(task, (Thing(),))
        print(multiprocessing.__name__, seen, isinstance(made, Thing))
"""


@pytest.mark.parametrize("form", ["package", "directory", "zip"])
def test_what_a_program_without_an_importable_name_defines_reaches_its_children(
    form: str, start_method: str, run_program: Programs, tmp_path: Path
) -> None:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "__main__.py").write_text(DEFINES)
    path = folder
    if form == "zip":
        path = tmp_path / "program.pyz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(folder / "__main__.py", "__main__.py")
    program = ["-m", "program"] if form == "package" else [str(path)]
    outcome = run_program(None, *program, start_method, options=["-m", "procession"], cwd=tmp_path).check()
    assert outcome.out == "procession True True\n"


def test_missing_file(run_program: Programs, tmp_path: Path) -> None:
    outcome = run_program("not_there.py", options=["-m", "procession"])
    assert outcome.code == 2
    assert outcome.out == ""
    path = tmp_path / "not_there.py"
    assert outcome.err == f"procession: can't open file '{path}': [Errno 2] No such file or directory\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "procession: which program?"),
        (["--wrong", "x.py"], "procession: unknown option --wrong"),
        (["--start-method", "thread", "x.py"], "procession: cannot find context for 'thread'"),
        (["-m"], "procession: -m needs the name of a module"),
    ],
    ids=["nothing", "option", "method", "module"],
)
def test_wrong_usage(args: list[str], message: str, run_program: Programs) -> None:
    outcome = run_program(None, *args, options=["-m", "procession"])
    assert outcome.code == 2
    assert outcome.err.startswith(message)
    assert "Traceback" not in outcome.err


def test_missing_module(run_program: Programs) -> None:
    outcome = run_program(None, options=["-m", "procession", "-m", "not_there"])
    assert outcome.code == 1
    assert outcome.err.strip().endswith("No module named not_there")
    assert "Traceback" not in outcome.err


def test_help(run_program: Programs) -> None:
    outcome = run_program(None, "--help", options=["-m", "procession"]).check()
    assert outcome.out.startswith("usage: python -m procession")


def test_failing_program(run_program: Programs, tmp_path: Path) -> None:
    """What it raises is shown as Python shows it: without a frame of ours."""
    path = tmp_path / "program.py"
    path.write_text("def f():\n    return 1 / 0\n\nf()\n")
    expected = run_program(path)
    outcome = run_program(path, options=["-m", "procession"])
    assert outcome.code == expected.code == 1
    assert outcome.err == expected.err
    path.write_text("x = = 1\n")
    expected, outcome = run_program(path), run_program(path, options=["-m", "procession"])
    assert outcome.code == expected.code == 1
    assert outcome.err == expected.err


@pytest.mark.parametrize("code", ["None", "0", "7", "'text'"])
def test_exit_code(code: str, run_program: Programs, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"import sys\nsys.exit({code})\n")
    expected, outcome = run_program(path), run_program(path, options=["-m", "procession"])
    assert (outcome.code, outcome.out, outcome.err) == (expected.code, expected.out, expected.err)


def test_program_without_a_guard(run_program: Programs, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import multiprocessing\np = multiprocessing.Process(target=print)\np.start()\np.join()\n")
    options = ["-m", "procession", "--start-method", "spawn"]
    outcome = run_program(path, options=options)
    assert outcome.err.count("RuntimeError:") == 1
    assert "bootstrapping phase" in outcome.err


def test_program_may_set_the_method_itself(run_program: Programs, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "import multiprocessing\n"
        "print(multiprocessing.get_start_method(allow_none=True))\n"
        "multiprocessing.set_start_method('fork')\n"
        "print(multiprocessing.get_start_method())\n"
    )
    options = ["-m", "procession", "--start-method", "spawn"]
    assert run_program(path, options=options).check().out == "None\nfork\n"


def test_interactive_programs(start_method: str, run_program: Programs) -> None:
    """Typed at a prompt: children can't import it, and run it all the same."""
    typed = f"""
import procession
ctx = procession.get_context({start_method!r})
def double(connection, x):
    connection.send(2 * x + offset)

offset = 1
receiver, sender = ctx.Pipe(duplex=False)
child = ctx.Process(target=double, args=(sender, 20))
child.start()
print(receiver.recv())
child.join()
"""
    for how in (["-c", typed], ["-i", "-q", "-"]):
        outcome = run_program(None, options=how, stdin=typed if "-i" in how else None).check()
        assert outcome.out == "41\n", outcome.err


def test_starting_costs_little() -> None:
    """Importing the package takes no more of the processor than importing multiprocessing and 10 ms."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    costs: dict[str, list[float]] = {"procession": [], "multiprocessing": []}
    for _ in range(8):
        # By turns: a busy machine is as slow for both.
        for module, times in costs.items():
            before = used()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=os.environ)
            times.append(used() - before)
    assert min(costs["procession"]) < min(costs["multiprocessing"]) + 0.010


LATE = """
import concurrent.futures.process
import multiprocessing
import multiprocessing.pool

import procession

procession.install()

import multiprocessing as now

def double(number):
    return 2 * number

if __name__ == "__main__":
    assert now is procession and multiprocessing is not procession
    # What was made before is the standard library's, and looks for the rest of it as late as now.
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        assert list(executor.map(double, range(3))) == [0, 2, 4]
    context = concurrent.futures.process.mp.get_context(METHOD)
    assert type(context).__module__ == "procession._standard.context", type(context)
    with context.Pool(2) as pool:
        assert pool.map(double, range(3)) == [0, 2, 4]
    queue = context.Queue()
    child = context.Process(target=queue.put, args=(double,))
    child.start()
    assert queue.get(timeout=30)(2) == 4
    child.join()
    with now.get_context(METHOD).Pool(2) as pool:
        assert pool.map(double, range(3)) == [0, 2, 4]
    print("both")
"""


def test_modules_that_came_before_keep_a_standard_library_that_works(start_method: str, run_program: Programs) -> None:
    assert run_program(LATE.replace("METHOD", repr(start_method))).check().out == "both\n"


def test_libraries_built_on_private_parts_see_the_standard_library(
    start_method: str, tmp_path: Path, run_program: Programs
) -> None:
    """loky and its like. This one stands in for it: a queue and a process of its own, made from private parts."""
    (tmp_path / "loky").mkdir()
    (tmp_path / "loky" / "__init__.py").write_text("from .inside import *\nfrom . import inside\n")
    (tmp_path / "loky" / "inside.py").write_text(
        """
import multiprocessing.util
import multiprocessing.queues as queues_module
from multiprocessing import process, queues, spawn
from multiprocessing.queues import Queue as StandardQueue, _sentinel

class Queue(StandardQueue):
    def __getstate__(self):
        return (super().__getstate__(), self._maxsize)
    def __setstate__(self, state):
        super().__setstate__(state[0])

def late():
    from multiprocessing import resource_sharer, context
    import multiprocessing
    return multiprocessing, resource_sharer, context

def missing():
    from multiprocessing import nonsense
"""
    )
    program = """
import multiprocessing
import sys

import loky

if __name__ == "__main__":
    assert multiprocessing.__name__ == "procession" and sys.modules["multiprocessing"] is multiprocessing
    ours = sys.modules["procession"].__path__[0]
    for module in (loky.inside.process, loky.inside.queues, loky.inside.queues_module, *loky.inside.late()):
        assert not module.__file__.startswith(ours), module
    assert loky.inside.multiprocessing.util is not multiprocessing.util
    assert loky.inside.late()[0] is loky.inside.multiprocessing
    try:
        loky.inside.missing()
    except ImportError as error:
        assert "nonsense" in str(error)
    # Theirs run, with their own children; and ours beside them.
    context = loky.inside.multiprocessing.get_context(METHOD)
    queue = loky.Queue(ctx=context)
    child = context.Process(target=queue.put, args=(1,))
    child.start()
    assert queue.get(timeout=30) == 1
    child.join()
    with multiprocessing.get_context(METHOD).Pool(1) as pool:
        assert pool.apply(abs, (-1,)) == 1
    from multiprocessing import queues
    assert queues is multiprocessing.queues and queues.__file__.startswith(ours)
    print("each its own")
"""
    outcome = run_program(program.replace("METHOD", repr(start_method)), options=("-m", "procession"))
    assert outcome.check().out == "each its own\n"


STOWAWAY = """
import multiprocessing
import multiprocessing.process
from multiprocessing import spawn

class Stowaway:
    def __init__(self):
        self.__setstate__(None)

    def __getstate__(self):
        return "something"

    def __setstate__(self, state):
        import multiprocessing.process
        if hasattr(multiprocessing, "patched"):
            return
        multiprocessing.patched = True
        real = multiprocessing.process.BaseProcess._bootstrap
        def bootstrap(self, *args, **kwargs):
            print("patched", multiprocessing.__name__, flush=True)
            return real(self, *args, **kwargs)
        multiprocessing.process.BaseProcess._bootstrap = bootstrap
        prepare = spawn.get_preparation_data
        def prepare_with_stowaway(name):
            return {**prepare(name), "stowaway": Stowaway()}
        spawn.get_preparation_data = prepare_with_stowaway
"""


def test_children_are_patched_before_anything_else(start_method: str, run_program: Programs, tmp_path: Path) -> None:
    """What coverage does: an object in the preparation data patches `multiprocessing` where it is unpickled."""
    (tmp_path / "stowaway.py").write_text(STOWAWAY)
    path = tmp_path / "program.py"
    path.write_text("""
import multiprocessing

def nested():
    process = multiprocessing.Process(target=print, args=("nested",))
    process.start()
    process.join()

if __name__ == "__main__":
    import stowaway
    stowaway.Stowaway()
    process = multiprocessing.Process(target=nested)
    process.start()
    process.join()
""")
    options = ["-m", "procession", "--start-method", start_method]
    environment = {"PYTHONPATH": str(tmp_path)}
    outcome = run_program(path, options=options, env=environment).check()
    assert outcome.out.splitlines() == ["patched procession"] * 2 + ["nested"]
