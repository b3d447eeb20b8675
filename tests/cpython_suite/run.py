#!/usr/bin/env python3
"""Runs CPython's own tests of multiprocessing, those installed with this Python, on procession.

Each class of tests runs in a process of its own, in an installation in which `multiprocessing` is procession for
parents and children alike (see standin.py). A test fails, too, if it doesn't end in time, or is skipped here though
the standard library passes it. Exit status: 0 if nothing failed, 1 if something did, 2 if there was nothing to run.

    not_applicable.txt   tests that are left out, each with the reason
    skipped.txt          tests that the standard library itself skips, and by which start methods
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from standin import START_METHODS, StandIn

HERE = Path(__file__).resolve().parent
ONE_CLASS = str(HERE / "one_class.py")
STATUSES = ("passed", "failed", "error", "skipped", "hung")

# How long the processes that a class has started may take to go away after it.
GRACE = 10.0

# The longest report on a test that is shown.
LINES = 25


@dataclass
class Attempt:
    """One process that ran tests of a class."""

    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)  # test: (status, detail)
    fixtures: list[tuple[str, str, str]] = field(default_factory=list)  # (where, status, detail)
    problems: list[str] = field(default_factory=list)
    running: str | None = None
    done: bool = False
    how: str = ""  # if it didn't end well: "hung" or "error"
    log: str = ""

    def take(self, event: dict[str, str]) -> None:
        """Note one line of what the process has written down."""
        if "started" in event:
            self.running = event["started"]
        elif "ended" in event:
            self.outcomes[event["ended"]] = (event["status"], event["detail"])
            self.running = None
        elif "fixture" in event:
            self.fixtures.append((event["fixture"], event["status"], event["detail"]))
        elif "problem" in event:
            self.problems.append(event["problem"])
        else:
            self.done = True


@dataclass
class ClassResult:
    """What became of a class."""

    name: str
    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: int = 0
    seconds: float = 0.0

    def count(self) -> Counter[str]:
        return Counter(status for status, _ in self.outcomes.values())

    def is_well(self) -> bool:
        return not self.problems and self.count().keys() <= {"passed", "skipped"}


class Suite:
    """The tests for one start method."""

    def __init__(self, standin: StandIn, method: str, limit: float, *, any_skip: bool = False) -> None:
        self.standin = standin
        self.method = method
        self.limit = limit
        self.any_skip = any_skip
        listed = standin.run(ONE_CLASS, "list", method)
        self.classes: dict[str, list[str]] = json.loads(listed)
        self.left_out = set(not_applicable())
        self.may_skip = {test for test, methods in read_skipped().items() if method in methods}

    def check(self) -> None:
        """Fail unless the code under test is ours, in parents and children."""
        self.standin.run(ONE_CLASS, "check", self.method, str(self.standin.package))

    def select(self, patterns: list[str]) -> dict[str, list[str]]:
        """The classes and tests of which the name of either matches one of the patterns."""

        def wanted(cls: str, test: str) -> bool:
            return not patterns or any(
                fnmatch.fnmatchcase(name, p) for name in (cls, f"{cls}.{test}") for p in patterns
            )

        selected = {cls: [test for test in tests if wanted(cls, test)] for cls, tests in self.classes.items()}
        return {cls: tests for cls, tests in selected.items() if tests}

    def run_class(self, name: str, tests: list[str]) -> ClassResult:
        """Run tests of a class; what hangs or crashes doesn't keep the others from being run."""
        result = ClassResult(name)
        began = time.monotonic()
        remaining = [test for test in tests if f"{name}.{test}" not in self.left_out]
        result.left_out = len(tests) - len(remaining)
        while remaining:
            attempt = self._attempt(name, remaining)
            result.outcomes.update(attempt.outcomes)
            result.problems += attempt.problems
            result.problems += [f"{where}: {text}" for where, status, text in attempt.fixtures if status != "skipped"]
            if attempt.how:
                if attempt.running is None and attempt.done:
                    result.problems.append(f"{attempt.how} at the end: {attempt.log}")
                stopped = [attempt.running] if attempt.running else [t for t in remaining if t not in result.outcomes]
                result.outcomes.update({test: (attempt.how, attempt.log) for test in stopped})
            else:
                # The class's or the module's preparation has said why.
                skipped = [text for _, status, text in attempt.fixtures if status == "skipped"]
                outcome = ("skipped", skipped[0]) if skipped else ("error", "not run")
                result.outcomes.update({test: outcome for test in remaining if test not in result.outcomes})
            remaining = [test for test in remaining if test not in result.outcomes]
        result.problems += [
            f"{test} was skipped: {detail}"
            for test, (status, detail) in result.outcomes.items()
            if status == "skipped" and not self.any_skip and f"{name}.{test}" not in self.may_skip
        ]
        result.seconds = time.monotonic() - began
        return result

    def _attempt(self, name: str, tests: list[str]) -> Attempt:
        attempt = Attempt()
        mark = uuid.uuid4().hex
        with tempfile.TemporaryDirectory(prefix="suite", ignore_cleanup_errors=True) as directory:
            place = Path(directory)
            events, log, witnesses = place / "events", place / "log", place / "witnesses"
            for path in (events, log, witnesses):
                path.touch()
            for path in (place / "tmp", place / "cwd"):
                path.mkdir()
            environment = self.standin.environment(
                SUITE_MARK=mark, SUITE_WITNESSES=str(witnesses), TMPDIR=str(place / "tmp")
            )
            with events.open() as lines, log.open("wb") as output:
                process = subprocess.Popen(
                    [self.standin.python, ONE_CLASS, "run", self.method, self.standin.package, name, events, *tests],
                    cwd=place / "cwd",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
                try:
                    self._follow(process, lines, attempt)
                finally:
                    process.kill()
                    process.wait()
                    left = end_marked(mark, grace=0 if attempt.how == "hung" else GRACE)
            if left and attempt.how != "hung":
                attempt.problems.append("processes were left behind:\n" + "\n".join(left))
            attempt.problems += [
                f"a process ran the code in {where}"
                for where in set(witnesses.read_text().split("\n")) - {"", str(self.standin.package)}
            ]
            attempt.log = log.read_text(errors="replace")
        return attempt

    def _follow(self, process: subprocess.Popen[bytes], lines: object, attempt: Attempt) -> None:
        """Read what the process writes down, until it ends or nothing happens for too long."""
        last = time.monotonic()
        while True:
            ended = process.poll() is not None
            for line in iter(lines.readline, ""):  # type: ignore[attr-defined]
                attempt.take(json.loads(line))
                last = time.monotonic()
            if ended:
                if process.returncode != 0 or not attempt.done:
                    attempt.how = "error"
                    attempt.problems.append(f"the process of the tests ended with {process.returncode}")
                return
            if time.monotonic() - last > self.limit:
                attempt.how = "hung"
                process.send_signal(signal.SIGUSR2)  # it shows its stacks
                time.sleep(0.5)
                return
            time.sleep(0.05)


# --- processes -------------------------------------------------------------------------------------


def marked(mark: str) -> dict[int, str]:
    """The living processes with this mark in their environment: {pid: command line}."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            process = Path("/proc", pid)
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and f"SUITE_MARK={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(pid)] = (process / "cmdline").read_text().replace("\0", " ")[:200]
        except OSError:
            continue  # it has gone
    return found


def end_marked(mark: str, grace: float) -> list[str]:
    """Wait for the marked processes to end, kill those that don't, and return their command lines."""
    deadline = time.monotonic() + grace
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return list(left.values())


# --- the two lists ---------------------------------------------------------------------------------


def entries(name: str) -> dict[str, str]:
    """The lines of a list: {test: what is said of it}."""
    found = {}
    for line in (HERE / name).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            test, _, rest = line.partition(" ")
            found[test] = rest.strip(" -\N{EM DASH}")
    return found


def not_applicable() -> dict[str, str]:
    """The tests that are left out: {test: reason}."""
    return entries("not_applicable.txt")


def read_skipped() -> dict[str, list[str]]:
    """The tests that the standard library skips: {test: start methods}."""
    return {test: methods.split() for test, methods in entries("skipped.txt").items()}


def record_skipped(method: str, skipped: set[str]) -> None:
    """Add to the list what the standard library has been seen to skip."""
    listed = read_skipped()
    for test in skipped:
        listed[test] = [m for m in START_METHODS if m == method or m in listed.get(test, [])]
    path = HERE / "skipped.txt"
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    path.write_text("\n".join([*head, *(f"{test} {' '.join(listed[test])}" for test in sorted(listed))]) + "\n")


# --- telling ---------------------------------------------------------------------------------------


def row(name: str, counts: Counter[str], left_out: int, seconds: float) -> str:
    numbers = "".join(f"{counts[status]:8}" for status in STATUSES)
    return f"{name:38}{counts.total():6}{numbers}{left_out:6}{seconds:9.1f}"


def heading() -> str:
    return f"{'':38}{'run':>6}" + "".join(f"{status:>8}" for status in STATUSES) + f"{'n/a':>6}{'seconds':>9}"


def shorten(text: str) -> str:
    lines = text.strip().splitlines()
    if len(lines) > LINES:
        lines = ["...", *lines[-LINES:]]
    return textwrap.indent("\n".join(lines), "        ")


def tell(result: ClassResult) -> None:
    """Print what became of a class."""
    print(row(result.name, result.count(), result.left_out, result.seconds))
    for test, (status, detail) in result.outcomes.items():
        if status not in ("passed", "skipped"):
            print(f"    {status}: {test}\n{shorten(detail)}")
    for problem in result.problems:
        print(f"    {shorten(problem).strip()}")
    sys.stdout.flush()


# --- all together ----------------------------------------------------------------------------------


def run_method(standin: StandIn, method: str, options: argparse.Namespace) -> tuple[int, int]:
    """Run the tests for a start method; return how many there were, and how many of them are not well."""
    suite = Suite(standin, method, options.limit, any_skip=options.standard)
    if not options.standard:
        suite.check()
    print(f"\n=== CPython {platform.python_version()}'s tests by {method}, on {standin.package}")
    selected = suite.select(options.pattern)
    if not selected:
        return 0, 0
    print(heading())
    began = time.monotonic()
    results = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as threads:
        for result in threads.map(suite.run_class, selected.keys(), selected.values()):
            tell(result)
            if options.second_try and not result.is_well():
                result = suite.run_class(result.name, selected[result.name])
                print(f"    second try of {result.name} by {method}: {'ok' if result.is_well() else 'FAILED'}")
                tell(result)
            results.append(result)
    total = sum((result.count() for result in results), Counter[str]())
    print(row("all", total, sum(result.left_out for result in results), time.monotonic() - began))
    problems = sum(len(result.problems) for result in results)
    bad = total["failed"] + total["error"] + total["hung"] + problems
    # One line that can be found in a long log.
    print(
        f"CPython's tests: Python {platform.python_version()} by {method}: {'FAILED' if bad else 'ok'}, "
        + ", ".join(f"{total[status]} {status}" for status in STATUSES)
        + f", {sum(result.left_out for result in results)} not applicable"
        + (f", {problems} problems besides the tests'" if problems else "")
        + f"; {time.monotonic() - began:.0f} s",
        flush=True,
    )
    if options.standard:
        record_skipped(
            method, {f"{r.name}.{test}" for r in results for test, o in r.outcomes.items() if o[0] == "skipped"}
        )
    return total.total(), bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start-method", action="append", choices=START_METHODS, help="default: all three")
    parser.add_argument(
        "--limit", type=float, default=90, metavar="S", help="a test may take this long (default: %(default)s s)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="run N classes at the same time")
    parser.add_argument("--second-try", action="store_true", help="run a class once more in which something failed")
    parser.add_argument(
        "--standard",
        action="store_true",
        help="run them on the standard library, and note in skipped.txt what it skips",
    )
    parser.add_argument(
        "pattern", nargs="*", help="only these classes or tests, such as 'TestWait' or '*Pool.test_map*'"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tests = bad = 0
    with tempfile.TemporaryDirectory(prefix="standin") as directory:
        standin = StandIn(Path(directory), standard=options.standard)
        for method in options.start_method or START_METHODS:
            counted, failed = run_method(standin, method, options)
            tests += counted
            bad += failed
    if not tests:
        print("no such tests")
        return 2
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
