"""A mixed load with deaths, for minutes: memory, descriptors, threads and members must stay flat.

python -m chaos.soak [--minutes M] [--seed N]

What is compared are the medians of the second quarter of the time and of the last one.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import procession
from procession import _procession

from .program import is_torn, sealed

MIB = 1 << 20
#: How much each figure may grow from the second quarter to the last: a part, and so much more.
SLACK = {
    "arena bytes": (0.10, 8 * MIB),
    "resident bytes": (0.10, 8 * MIB),
    "descriptors": (0.0, 6),
    "threads": (0.0, 3),
    "members": (0.0, 4),
    "mappings": (0.0, 8),
}


def figures() -> dict[str, float]:
    """What the root and the family use now."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/maps") as file:
        mappings = sum(1 for _ in file)
    return {
        # Shared pages count as resident in whoever has touched them: they are counted with the arena.
        "resident bytes": resident - shared(),
        "arena bytes": os.fstat(_procession.arena_fd()).st_blocks * 512,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "members": len(_procession.members()),
        "mappings": mappings,
    }


def shared() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def judge(samples: list[dict[str, float]]) -> list[str]:
    """Say what has grown."""
    quarter = max(1, len(samples) // 4)
    grown = []
    for name, (part, more) in SLACK.items():
        early = statistics.median(sample[name] for sample in samples[quarter : 2 * quarter])
        late = statistics.median(sample[name] for sample in samples[-quarter:])
        if late > early * (1 + part) + more:
            grown.append(f"{name}: from {early:.0f} to {late:.0f}")
    return grown


def work(number: int, contents: bytes, event: Any) -> tuple[int, bytes]:
    """A task, with an object among its arguments."""
    if event is not None:
        event.set()
    return number, contents


def serve(queue: Any, answers: Any, lock: Any, pair: Any, seed: int) -> None:
    """A member: takes, changes what a lock protects, and sends on."""
    rng = random.Random(seed)
    while True:
        message = queue.get()
        with lock:
            pair[0] += 1
            pair[1] = pair[0]
        contents = rng.randbytes(rng.choice((10, 2000, 100_000)))
        answers.put((sealed(1, message[1], contents), is_torn(message)))


class Load:
    """All that goes on."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ctx: Any = procession.get_context("fork")
        self.counts: Counter[str] = Counter()
        self.queue = self.ctx.Queue()
        self.answers = self.ctx.Queue()
        self.lock = self.ctx.Lock(on_owner_death="ignore")
        self.pair = self.ctx.Array("q", 2, lock=False)
        self.pool = self.ctx.Pool(2)
        self.members = [self.start() for _ in range(2)]

    def start(self) -> Any:
        arguments = (self.queue, self.answers, self.lock, self.pair, self.rng.randrange(1 << 30))
        process = self.ctx.Process(target=serve, args=arguments, daemon=True)
        process.start()
        self.counts["members started"] += 1
        return process

    def step(self) -> None:
        act: Callable[[], None] = self.rng.choices(
            (self.send, self.receive, self.tasks, self.kill_member, self.kill_worker, self.pipe), (30, 30, 10, 1, 1, 3)
        )[0]
        act()

    def send(self) -> None:
        if self.queue.qsize() < 20:
            contents = self.rng.randbytes(self.rng.choice((5, 500, 70_000, 500_000)))
            self.queue.put(sealed(0, self.counts["sent"], contents, self.ctx.Event()))
            self.counts["sent"] += 1

    def receive(self) -> None:
        with suppress(Empty):
            while True:
                message, torn = self.answers.get(timeout=0.002)
                if torn or is_torn(message):
                    raise SystemExit("a message is torn")
                self.counts["received"] += 1

    def tasks(self) -> None:
        results = []
        for number in range(10):
            contents = self.rng.randbytes(self.rng.choice((5, 3000, 100_000)))
            event = self.ctx.Event() if self.rng.random() < 0.3 else None
            results.append((number, contents, self.pool.apply_async(work, (number, contents, event))))
        for number, contents, result in results:
            try:
                if result.get(20) != (number, contents):
                    raise SystemExit(f"task {number} has a wrong result")
                self.counts["tasks"] += 1
            except procession.WorkerLost:
                self.counts["tasks lost with their workers"] += 1

    def kill_member(self) -> None:
        at = self.rng.randrange(len(self.members))
        signal.pidfd_send_signal(self.members[at].sentinel, signal.SIGKILL)
        self.members[at].join(20)
        if self.members[at].exitcode != -signal.SIGKILL:
            raise SystemExit(f"a killed member has exit code {self.members[at].exitcode}")
        self.members[at].close()
        self.members[at] = self.start()
        self.counts["members killed"] += 1

    def kill_worker(self) -> None:
        worker = self.rng.choice(list(self.pool._pool))
        with suppress(OSError, ValueError):
            signal.pidfd_send_signal(worker.sentinel, signal.SIGKILL)
            self.counts["workers killed"] += 1

    def pipe(self) -> None:
        one, other = self.ctx.Pipe()
        with one, other:
            one.send((self.ctx.Lock(), self.rng.randbytes(1000)))
            lock, _ = other.recv()
            with lock:
                pass
        self.counts["pipes"] += 1

    def end(self) -> None:
        for member in self.members:
            member.kill()
            member.join()
        self.pool.terminate()
        self.pool.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    load = Load(arguments.seed)
    samples: list[dict[str, float]] = []
    began = time.monotonic()
    end = began + arguments.minutes * 60
    every = min(5.0, arguments.minutes * 60 / 40)
    due = began
    while time.monotonic() < end:
        load.step()
        if time.monotonic() >= due:
            due += every
            samples.append(figures())
            if len(samples) % 12 == 1:
                shown = ", ".join(f"{name} {value:.0f}" for name, value in samples[-1].items())
                print(f"{time.monotonic() - began:6.0f} s: {shown}", flush=True)
    seconds = time.monotonic() - began
    load.end()
    print(f"{seconds:.0f} s: " + ", ".join(f"{name}: {count}" for name, count in sorted(load.counts.items())))
    quarter = max(1, len(samples) // 4)
    for name in SLACK:
        early = statistics.median(sample[name] for sample in samples[quarter : 2 * quarter])
        late = statistics.median(sample[name] for sample in samples[-quarter:])
        print(f"  {name:16} {early:12.0f} in the second quarter, {late:12.0f} in the last")
    grown = judge(samples)
    for text in grown:
        print(f"GROWN {text}")
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(Path(directory))
        main()
