"""A stand-in for a Python installation, in which `multiprocessing` is procession.

CPython's tests start interpreters with `-I`, `-E` and `-S`, which look neither at the environment nor into
site-packages. So nothing is put in front of the standard library: the stand-in has a standard library of its own, a
directory of links to the real one's files, where `multiprocessing` is a stub that installs procession. The real
package is nowhere on its path, whatever the options.

    pyvenv.cfg                      makes the interpreter look for its standard library here
    bin/python                      -> the interpreter
    lib/python3.X/NAME              -> the same in the real standard library
    lib/python3.X/multiprocessing/  the stub
    lib/python3.X/procession        -> the package under test, and what it needs beside it
    lib/python3.X/suite_METHOD.py   CPython's tests, set up for a start method, with those that are for it alone
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

START_METHODS = ("fork", "spawn", "forkserver")

# Packages that stand beside the standard library in the stand-in, since -S leaves site-packages out.
PACKAGES = ("procession", "cloudpickle")

# Each interpreter that imports it says where it got procession from.
STUB = """\
import os

import procession

procession.install()
if "SUITE_WITNESSES" in os.environ:
    with open(os.environ["SUITE_WITNESSES"], "a") as file:
        file.write(os.path.dirname(os.path.realpath(procession.__file__)) + "\\n")
"""

TESTS = """\
from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), {method!r})
"""

# The modules of test.test_multiprocessing_METHOD that hold nothing but what TESTS takes in one go.
SHARES = ("test_manager", "test_misc", "test_processes", "test_threads")


class StandIn:
    """The installation, made in an empty directory; with `standard`, one whose multiprocessing is the real one."""

    def __init__(self, root: Path, *, standard: bool = False) -> None:
        self.root = root
        self.python = root / "bin" / "python"
        real = Path(sysconfig.get_path("stdlib"))
        self.lib = root / "lib" / real.name
        self.lib.mkdir(parents=True)
        self.python.parent.mkdir()
        self.python.symlink_to(os.path.realpath(sys.executable))
        (root / "pyvenv.cfg").write_text(f"home = {self.python.parent}\n")
        for entry in real.iterdir():
            if entry.name != "site-packages" and (standard or entry.name != "multiprocessing"):
                (self.lib / entry.name).symlink_to(entry.resolve())
        for method in START_METHODS:
            more = sorted(path.stem for path in (real / "test" / f"test_multiprocessing_{method}").glob("test_*.py"))
            imports = [f"from test.test_multiprocessing_{method}.{m} import *\n" for m in more if m not in SHARES]
            (self.lib / f"suite_{method}.py").write_text(TESTS.format(method=method) + "".join(imports))
        if standard:
            self.package = (real / "multiprocessing").resolve()
            return
        for name in PACKAGES:
            (self.lib / name).symlink_to(_place_of(name))
        self.package = _place_of(PACKAGES[0])
        (self.lib / "multiprocessing").mkdir()
        (self.lib / "multiprocessing" / "__init__.py").write_text(STUB)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment to run it in: nothing there tells Python anything."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PROCESSION", "VIRTUAL_ENV"))}
        return {**kept, **more}

    def run(self, *arguments: str, timeout: float = 120) -> str:
        """Run `python ARGUMENTS`, which must end well, and return what it prints."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise RuntimeError(f"python {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout


def _place_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{sys.executable} has no {package}")
    return Path(spec.origin).resolve().parent
