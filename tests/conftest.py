"""What every test here shares: the start methods, bounded programs, and a census after each test.

- ``start_method`` runs a test by fork, spawn and forkserver; ``ctx`` is the procession context for it.
- ``run_program`` runs a Python program in a process of its own, bounded, and fails if it leaves anyone behind.
- The census is automatic: after each test no child process, no more open descriptors than before and no new
  name in /dev/shm may be left.

The time limit is in pyproject.toml: a test fails with all stacks dumped after 60 s.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_METHODS = ("fork", "spawn", "forkserver")

# How long what a test has started may take to go away by itself, on a busy machine.
GRACE = 20.0

# Processes that outlive a test by design, recognised by their command line.
PERSISTENT_PROCESSES = (
    "procession.forkserver",
    "procession.resource_tracker",
    "multiprocessing.resource_tracker",  # of the standard library, when a test runs it for comparison
    "multiprocessing.forkserver",
)

# Descriptors that are opened once and kept, recognised by what they refer to. (libffi, which ctypes is made of, keeps
# one of its own file.)
PERSISTENT_DESCRIPTORS = ("/memfd:procession", "/libffi.so")

# A fork server holds a few descriptors for good: its sockets, its lifeline, its pidfd.
FORK_SERVER_DESCRIPTORS = 5


# --- start methods ---------------------------------------------------------------------------------


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Each of the three start methods in turn."""
    return str(request.param)


@pytest.fixture
def ctx(start_method: str) -> Any:
    """The procession context of each of the three start methods in turn."""
    import procession

    return procession.get_context(start_method)


# --- bounded programs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    code: int
    out: str
    err: str
    seconds: float

    def check(self) -> Outcome:
        """Fail unless the program ended well; return itself."""
        assert self.code == 0, f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        return self


class Programs:
    """Runs programs, each bounded and marked so that whatever it leaves behind is found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(
        self,
        program: str | Path | None,
        *args: str,
        options: Sequence[str] = (),
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout: float = 50.0,
        python: str = sys.executable,
        survivors: bool = False,
    ) -> Outcome:
        """Run ``python [options] [program] [args]`` and wait for it and for all that it started.

        Args:
            program: a path, or the text of a program (anything with a line break), or None.
            options: what stands before the program, such as ``("-m", "procession")``.
            survivors: the program is expected to leave processes behind; they are killed, not reported.
        """
        command = [python, "-X", "faulthandler", *options]
        if isinstance(program, str) and "\n" in program:
            path = self.directory / f"program_{uuid.uuid4().hex[:8]}.py"
            path.write_text(program, encoding="utf-8")
            command.append(str(path))
        elif program is not None:
            command.append(str(program))
        command += args
        mark = f"PROCESSION_TEST_RUN={uuid.uuid4().hex}"
        # Whole lines, whatever this process was told: unbuffered, a line and its end are written one by one.
        environment = {**os.environ, "PYTHONUNBUFFERED": "", **(env or {})}
        environment.update([mark.split("=", 1)])
        # Output goes to files: a pipe would stay open as long as any forgotten child does.
        with (self.directory / "out").open("w+b") as out, (self.directory / "err").open("w+b") as err:
            began = time.monotonic()
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=cwd or self.directory,
            )
            try:
                child.communicate(stdin.encode() if stdin is not None else None, timeout=timeout)
                late = False
            except subprocess.TimeoutExpired:
                late = True
                where = "".join(map(describe, sorted(marked(mark))))
                show_stacks(marked(mark))
                child.kill()
                child.wait()
            seconds = time.monotonic() - began
            left = kill_marked(mark, grace=0 if late or survivors else GRACE)
            out.seek(0)
            err.seek(0)
            outcome = Outcome(
                child.returncode, out.read().decode(errors="replace"), err.read().decode(errors="replace"), seconds
            )
        if late:
            pytest.fail(f"still running after {timeout} s:\n{where}\n{outcome.out}\n--- stderr\n{outcome.err}")
        if left and not survivors:
            pytest.fail(f"left behind:\n{''.join(left)}\n{outcome.out}\n--- stderr\n{outcome.err}")
        return outcome


@pytest.fixture
def run_program(tmp_path: Path) -> Programs:
    """Run a Python program in a process of its own; see ``Programs.__call__``."""
    return Programs(tmp_path)


# --- reading /proc ---------------------------------------------------------------------------------


def read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def command_line(pid: int) -> str:
    return read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def marked(mark: str) -> set[int]:
    """The living processes whose environment has the mark: a program run by a test, and all it started."""
    return {
        pid
        for pid in pids()
        if mark in read(f"/proc/{pid}/environ").split("\0") and stat_fields(pid)[:1] not in ([], ["Z"])
    }


def kill_marked(mark: str, grace: float) -> list[str]:
    """Wait for all marked processes to end; kill and describe those that do not."""
    deadline = time.monotonic() + grace
    pause = 0.001
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    described = [describe(pid) for pid in sorted(left)]
    for pid in left:
        kill(pid)
    return described


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def show_stacks(stuck: set[int]) -> None:
    """Have processes that hang write all their stacks to their standard error, and end: by faulthandler."""
    for pid in stuck:
        kill(pid, signal.SIGABRT)
    deadline = time.monotonic() + 2
    while any(stat_fields(pid)[:1] not in ([], ["Z"]) for pid in stuck) and time.monotonic() < deadline:
        time.sleep(0.05)


def describe(pid: int) -> str:
    state = (stat_fields(pid) or ["gone"])[0]
    place = read(f"/proc/{pid}/wchan") or "-"
    return f"  pid {pid} ({state}, {place}): {command_line(pid)[:300] or '(no command line)'}\n"


# --- the census ------------------------------------------------------------------------------------


def is_persistent(pid: int) -> bool:
    line = command_line(pid)
    return any(name in line for name in PERSISTENT_PROCESSES)


def fork_servers() -> set[int]:
    me = os.getpid()
    return {pid for pid in children_of({me}) if is_persistent(pid)}


def children_of(parents: set[int]) -> set[int]:
    found = set()
    for pid in pids():
        fields = stat_fields(pid)
        if fields and int(fields[1]) in parents:
            found.add(pid)
    return found


def children() -> set[int]:
    """This process's children, zombies too, and those of its fork servers, less these themselves and their spares."""
    direct = children_of({os.getpid()})
    servers = {pid for pid in direct if is_persistent(pid)}
    theirs = children_of(servers) if servers else set()
    return (direct - servers) | {pid for pid in theirs if not is_spare(pid)}


def is_spare(pid: int) -> bool:
    """Whether a fork server keeps this process for the next one who asks."""
    return read(f"/proc/{pid}/comm") == "spare child\n"


def descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        if not any(name in target for name in PERSISTENT_DESCRIPTORS):
            found[target] += 1
    return found


def shm_names() -> set[str]:
    # Not the standard library's semaphores: another program on this machine may be making them right now.
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def held_by_strangers(names: set[str]) -> set[str]:
    """Those of the names that a process maps which is none of this test run's: of another run, at the same time."""
    mine, group = {os.getpid()}, os.getpgid(0)
    while more := children_of(mine) - mine:
        mine |= more
    held = set()
    for pid in pids() if names else ():
        try:
            if pid in mine or os.getpgid(pid) == group:
                continue
        except ProcessLookupError:
            continue
        maps = read(f"/proc/{pid}/maps")
        held |= {name for name in names if f"/dev/shm/{name}" in maps}
    return held


@dataclass
class Census:
    """Who and what is there."""

    children: set[int]
    servers: set[int]
    descriptors: Counter[str]
    names: set[str]

    @classmethod
    def take(cls) -> Census:
        return cls(children(), fork_servers(), descriptors(), shm_names())

    def complaints(self, before: Census) -> list[str]:
        """What is here now that was not there before and should not be."""
        found = []
        if new := self.children - before.children:
            found.append("child processes:\n" + "".join(map(describe, sorted(new))))
        allowed = FORK_SERVER_DESCRIPTORS if len(self.servers) > len(before.servers) else 0
        grown = self.descriptors.total() - before.descriptors.total()
        if grown > allowed:
            new_ones = self.descriptors - before.descriptors
            found.append(f"{grown} more open descriptors; new ones: {dict(new_ones)}")
        names = self.names - before.names
        if names := names - held_by_strangers(names):
            found.append(f"names in /dev/shm: {sorted(names)}")
        return found


@pytest.fixture(autouse=True)
def census() -> Iterator[Callable[[], Census]]:
    """Fail a test that leaves processes, descriptors or names behind."""
    gc.collect()
    before = Census.take()
    yield Census.take
    deadline = time.monotonic() + GRACE
    pause = 0.001
    while complaints := Census.take().complaints(before):
        if time.monotonic() > deadline:
            for pid in children() - before.children:
                kill(pid)
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass  # a child of the fork server
            pytest.fail("left behind:\n" + "\n".join(complaints))
        gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


# --- what is under test ----------------------------------------------------------------------------


def pytest_report_header() -> str:
    try:
        import procession
    except ImportError as error:
        return f"procession cannot be imported: {error}"
    return f"procession from {Path(procession.__file__).parent}"
