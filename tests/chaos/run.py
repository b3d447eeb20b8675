"""Runs rounds, each in a session of its own and bounded, and adds up what came of them.

python -m chaos.run [--rounds N | --seconds S] [--first-seed N] [--jobs N] [--seed N] [--crash-package DIRECTORY]

A round that has not ended after its limit is a hang: the stacks of all its processes are shown. Directories of
rounds that failed are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from .attacker import MARK
from .program import Plan

#: A round takes half a second; on a machine that is busy with other things, several times that. In seconds.
BOUND = 40.0
#: How long whoever is left may take to end once the root has ended, in seconds.
ORPHANS = 10.0


def read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def marked(mark: str) -> list[int]:
    """The living processes of a round."""
    word = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and word in read(f"/proc/{name}/environ").split(b"\0"):
            if read(f"/proc/{name}/stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"], [b"X"]):
                found.append(int(name))
    return found


def describe(pid: int) -> str:
    """Where a process is, seen from outside."""
    line = read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")[:120]
    text = f"--- pid {pid}: {line}\n"
    for task in sorted(os.listdir(f"/proc/{pid}/task") if os.path.exists(f"/proc/{pid}/task") else []):
        base = f"/proc/{pid}/task/{task}"
        state = read(f"{base}/stat").rpartition(b")")[2].split()[:1]
        wchan = read(f"{base}/wchan").decode() or "-"
        call = read(f"{base}/syscall").decode().split()[:4]
        stack = read(f"{base}/stack").decode(errors="replace").splitlines()[:3]
        name = read(f"{base}/comm").decode().strip()
        text += f"  {task} {name} {state} {wchan} syscall {call} {stack}\n"
    return text


def signal_marked(mark: str, signum: int) -> None:
    for pid in marked(mark):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if f"{MARK}={mark}".encode() in read(f"/proc/{pid}/environ").split(b"\0"):
                signal.pidfd_send_signal(pidfd, signum)
        except OSError:
            pass
        finally:
            os.close(pidfd)


@dataclass
class Tally:
    """The sum of the rounds."""

    rounds: int = 0
    scenes: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[int, list[str]] = field(default_factory=dict)


class Runner:
    """Runs rounds and tallies them."""

    def __init__(self, crash_package: Path | None, keep: bool, module: str = "chaos.round") -> None:
        self.crash_package = crash_package
        self.program = [module] if module.endswith(".py") else ["-m", module]
        self.keep = keep
        self.tally = Tally()
        self.lock = threading.Lock()

    def one(self, seed: int) -> list[str]:
        """Run a round; return what is wrong."""
        crash_points = self.crash_package is not None and seed % 3 == 0
        plan = Plan.of(seed, crash_points)
        directory = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        mark = f"{os.getpid()}-{seed}"
        environment = {**os.environ, MARK: mark}
        paths = [str(Path(__file__).parent.parent)]
        if crash_points:
            paths.insert(0, str(self.crash_package))
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command = [sys.executable, *self.program, str(seed), str(directory)]
        command += ["--crash-points"] if crash_points else []
        with (directory / "output").open("wb") as output:
            root = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                cwd=directory,
            )
        wrong = self.watch(plan, root, mark, directory)
        if b"panicked at" in (output := read(str(directory / "output"))):
            wrong.append("a panic: " + output[-2000:].decode(errors="replace"))
        self.enter(plan, directory, wrong)
        if wrong:
            print(f"\nseed {seed} FAILED ({directory})\n  " + "\n  ".join(wrong), flush=True)
        if not (wrong and self.keep):
            shutil.rmtree(directory, ignore_errors=True)
        return wrong

    def watch(self, plan: Plan, root: subprocess.Popen[bytes], mark: str, directory: Path) -> list[str]:
        wrong: list[str] = []
        rng = random.Random(plan.seed + 3)
        began = time.monotonic()
        if plan.scene != "attack":
            pause = rng.uniform(0.1, 0.6)
            try:
                root.wait(pause)
            except subprocess.TimeoutExpired:
                if plan.scene == "kill root":
                    root.kill()
                else:
                    os.killpg(root.pid, signal.SIGINT)
                began = time.monotonic()
        hung = False
        while root.poll() is None:
            if time.monotonic() - began > BOUND or self.says_hang(directory):
                hung = True
                wrong.append("hang: " + self.show(mark, directory))
                break
            time.sleep(0.004)
        ended = time.monotonic()
        while not hung and (left := marked(mark)):
            if time.monotonic() - ended > ORPHANS:
                wrong.append("left behind: " + "".join(map(describe, left)) + self.show(mark, directory))
                break
            time.sleep(0.01)
        if plan.scene != "attack" and not hung:
            with self.lock:
                self.tally.latencies[f"{plan.scene}: all gone"].append(time.monotonic() - began)
        signal_marked(mark, signal.SIGKILL)
        root.wait()
        if plan.scene == "attack" and root.returncode != 0 and not hung:
            wrong.append(f"the root ended with {root.returncode}: {tail(directory / 'output')}")
        return wrong

    @staticmethod
    def says_hang(directory: Path) -> bool:
        return b'"hang' in read(str(directory / "findings.json"))

    @staticmethod
    def show(mark: str, directory: Path) -> str:
        """All stacks of a round's processes."""
        pids = marked(mark)
        text = "".join(describe(pid) for pid in pids)
        signal_marked(mark, signal.SIGUSR2)
        time.sleep(0.5)
        return text + tail(directory / "output", 12000)

    def enter(self, plan: Plan, directory: Path, wrong: list[str]) -> None:
        with self.lock:
            self.tally.rounds += 1
            self.tally.scenes[plan.scene] += 1
            path = directory / "findings.json"
            if path.exists():
                found = json.loads(path.read_text())
                wrong += found["wrong"]
                self.tally.counts.update(found["counts"])
                for kind, seconds in found["latencies"].items():
                    self.tally.latencies[kind] += seconds
            if wrong:
                self.tally.failures[plan.seed] = wrong


def tail(path: Path, length: int = 3000) -> str:
    return read(str(path))[-length:].decode(errors="replace")


def report(tally: Tally, seconds: float) -> None:
    """Print what the rounds came to."""
    print(f"\n{tally.rounds} rounds in {seconds:.0f} s ({dict(tally.scenes)}), {len(tally.failures)} failed")
    points = {name: count for name, count in tally.counts.items() if name.startswith("at ")}
    others = {name: count for name, count in tally.counts.items() if name not in points}
    print("  " + ", ".join(f"{name}: {count}" for name, count in sorted(others.items())))
    if points:
        named = ", ".join(
            f"{name.removeprefix('at ').replace('_', ' ')} {count}" for name, count in sorted(points.items())
        )
        print(f"  {len(points)} crash points: {named}")
    print("  from SIGKILL to whoever waits being told, in ms (median, worst, how many):")
    for kind, values in sorted(tally.latencies.items()):
        print(f"    {kind:24} {1000 * statistics.median(values):8.1f} {1000 * max(values):8.1f} {len(values):7}")
    for seed, wrong in tally.failures.items():
        print(f"  seed {seed}: {wrong[0][:150]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="one round, this one")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seconds", type=float, help="begin no round after this long")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=3, help="rounds at a time")
    parser.add_argument("--crash-package", type=Path, help="a package whose extension has crash points")
    parser.add_argument("--keep-going", action="store_true", help="do not stop after ten failures")
    arguments = parser.parse_args()
    runner = Runner(arguments.crash_package, keep=True)
    began = time.monotonic()
    if arguments.seed is not None:
        runner.one(arguments.seed)
    else:
        seeds = iter(range(arguments.first_seed, arguments.first_seed + arguments.rounds))
        take = threading.Lock()

        def work() -> None:
            while True:
                with take:
                    seed = next(seeds, None)
                late = arguments.seconds is not None and time.monotonic() - began > arguments.seconds
                many = len(runner.tally.failures) >= 10 and not arguments.keep_going
                if seed is None or late or many:
                    return
                runner.one(seed)

        threads = [threading.Thread(target=work) for _ in range(arguments.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report(runner.tally, time.monotonic() - began)
    sys.exit(1 if runner.tally.failures else 0)


if __name__ == "__main__":
    main()
