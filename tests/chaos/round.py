"""One round: the program's root process, which starts members, is in the thick of it, and does the accounting.

Run by `run`, in a session of its own: `python -m chaos.round SEED DIRECTORY`. What came of it is in
DIRECTORY/findings.json.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full
from typing import Any

import procession
from procession.connection import wait

from . import ledger
from .attacker import Attacker
from .ledger import Findings, Journal
from .program import (
    GENERATION,
    POISON,
    STOP,
    Actor,
    Plan,
    TaskError,
    enter_pool,
    is_torn,
    make_world,
    member,
    sealed,
    show_stacks_on_request,
    simple_task,
    square,
    task,
)

#: How long, once the attack is over, everyone may take to come to an end, in seconds.
SETTLE = 12.0


#: After this, in seconds, it is looked at who has not come to an end yet: nothing in a round takes that long.
SLOW = 4.0


class Stuck(Exception):
    """Somebody has not come to an end."""


def census() -> dict[str, int]:
    """What this process has."""
    gc.collect()
    links: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links[os.readlink(f"/proc/self/fd/{name}").split(":")[0]] += 1
    with open("/proc/self/maps") as file:
        mappings = sum("memfd:" in line or "/dev/shm/" in line for line in file)
    return {"descriptors": links.total(), "mappings": mappings}


class Pool:
    """A pool in the round, and each task's outcomes."""

    def __init__(self, ctx: Any, round: Round) -> None:
        self.round = round
        self.rng = round.rng
        limit = self.rng.choice((None, None, 5))
        self.pool = ctx.Pool(2, initializer=enter_pool, initargs=(round.world,), maxtasksperchild=limit)
        self.next = 0
        self.outcomes: dict[int, list[str]] = {}
        self.pending: list[tuple[int, Any]] = []
        self.exits = 0
        self.asked: dict[int, int] = {}
        self.streams: list[tuple[Any, int]] = []

    def pids(self) -> list[int]:
        """The workers that are ready: a pool whose workers die again and again before that is to break."""
        pids = [process.pid for process in list(self.pool._pool) if process.pid]
        return [pid for pid in pids if (self.round.directory / f"worker-{pid}.journal").exists()]

    def submit(self) -> None:
        kind = self.rng.choices(("plain", "error", "sleep", "put", "lock", "exit"), (8, 2, 3, 3, 3, 0.15))[0]
        self.exits += kind == "exit"
        number = self.next
        self.next += 1
        contents = self.rng.randbytes(self.rng.choice((0, 10, 4000, 100_000 if self.rng.random() < 0.2 else 1)))
        called: list[str] = []
        how: dict[str, Any] = {}
        if self.rng.random() < 0.3:
            how = {
                "callback": lambda _result, called=called: called.append("result"),
                "error_callback": lambda _error, called=called: called.append("error"),
            }
        self.outcomes[number] = []
        self.pending.append((number, self.pool.apply_async(task, (number, kind, contents), **how)))
        if how:
            self.round.called.append((number, called))

    def submit_many(self) -> None:
        if self.streams or self.rng.random() < 0.8:
            return
        numbers = range(1_000_000, 1_000_000 + self.rng.randint(1, 40))
        for number in numbers:
            self.outcomes[number] = []
        self.streams.append((self.pool.imap_unordered(simple_task, numbers, self.rng.choice((1, 1, 3))), len(numbers)))

    def collect_stream(self, stream: Any, expected: int) -> None:
        """Each item has one outcome; a chunk is lost as a whole."""
        got = lost = 0
        while True:
            try:
                number = stream.next(SETTLE)
            except StopIteration:
                break
            except procession.WorkerLost:
                lost += 1
                continue
            except procession.pool.TaskExit:
                lost += 1
                continue
            except procession.TimeoutError:
                raise Stuck(f"an imap has no outcome for an item after {SETTLE} s") from None
            got += 1
            self.outcomes[number].append("done")
        for number, had in self.outcomes.items():
            if number >= 1_000_000 and not had:
                had.append("lost with its chunk")
        if got + 3 * lost < expected or got + lost > expected:
            self.round.findings.wrong.append(f"imap: {got} results and {lost} losses of {expected}")

    def collect(self, timeout: float) -> None:
        number, result = self.pending[0]
        # Since it was first asked for: what the root did in between counts as waiting.
        began = self.asked.setdefault(number, time.monotonic_ns())
        try:
            outcome = self.outcome(number, result, timeout, began)
        except procession.TimeoutError:
            if timeout >= 1:
                raise Stuck(f"task {number} has no outcome after {timeout} s") from None
            return
        self.pending.pop(0)
        self.outcomes[number].append(outcome)

    def outcome(self, number: int, result: Any, timeout: float, began: int) -> str:
        try:
            value = result.get(timeout)
        except TaskError as error:
            return "error" if error.task == number else f"another's error: {error!r}"
        except procession.WorkerLost as lost:
            killed = self.round.attacker.killed.get(lost.pid or 0)
            if killed:
                self.round.findings.late("pool", (time.monotonic_ns() - max(killed, began)) / 1e9)
            return "lost"
        except procession.pool.TaskExit:
            return "exit" if self.round.attacker.interrupted else "TaskExit, and nobody was interrupted"
        except procession.TimeoutError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        if value[0] != number or zlib.crc32(value[1], number) != value[2]:
            return f"torn: {value!r:.100}"
        return "done"

    def finish(self) -> None:
        """Collect all that is left; the pool must go on, and end."""
        for stream, expected in self.streams:
            self.collect_stream(stream, expected)
        while self.pending:
            self.collect(SETTLE)
        # A worker that is armed may still be killed at a crash point: its task is lost then, and told.
        for _ in range(20):
            try:
                squares = self.pool.map_async(square, range(20), chunksize=3).get(SETTLE)
                break
            except procession.WorkerLost:
                continue
        else:
            squares = None
        if squares != [n * n for n in range(20)]:
            self.round.findings.wrong.append(f"the pool does not go on: map gave {squares}")
        how = self.rng.choice((self.pool.close, self.pool.terminate))
        how()
        core = self.pool._core
        if not core.join(SETTLE):
            raise Stuck(f"the pool does not end after {how.__name__}(): {core.state}, {core.workers()}, {self.pids()}")
        self.pool.join()


class Round:
    """The root's part."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.rng = random.Random(plan.seed + 1_000_000_007)
        self.ctx: Any = procession.get_context(plan.method)
        self.findings = Findings()
        self.world = make_world(self.ctx, plan, directory)
        self.actor = Actor(self.world, 0, "root")
        self.words = self.actor.words
        self.attacker = Attacker(
            random.Random(plan.seed + 2), Journal(directory / "attacker.journal"), plan.pace, list(plan.signals)
        )
        self.members: dict[int, Any] = {}
        self.links: dict[int, tuple[Any, int]] = {}
        self.ended: list[Any] = []
        self.sources = 0
        self.manager: Any = None
        self.pool: Pool | None = None
        self.called: list[tuple[int, list[str]]] = []
        #: How many were put into each queue.
        self.poisons: Counter[int] = Counter()

    # Starting.

    def begin(self) -> None:
        if "manager" in self.plan.features:
            self.manager = self.ctx.Manager()
            self.world.names = self.manager.list()
        if "pool" in self.plan.features:
            self.pool = Pool(self.ctx, self)
            self.attacker.more = self.pool.pids
        for _ in range(self.plan.members):
            self.start()
        if self.manager is not None and self.plan.attack_servers:
            self.attacker.add(self.manager._process.pid)
        if self.plan.scene == "attack":
            self.attacker.start()

    def start(self) -> None:
        self.sources += 1
        source = self.sources
        mine = theirs = None
        if "pipe" in self.plan.features and self.rng.random() < 0.4:
            mine, theirs = self.ctx.Pipe()
        process = self.ctx.Process(target=member, args=(self.world, source, theirs), daemon=not self.plan.nested)
        process.start()
        if theirs is not None:
            theirs.close()
            self.links[source] = (mine, 0)
        self.members[source] = process
        self.attacker.add(process.pid)

    # In the thick of it.

    def act(self) -> None:
        deadline = time.monotonic() + self.plan.seconds
        while time.monotonic() < deadline:
            self.rng.choice(self.acts())()
            self.look()

    def acts(self) -> list[Callable[[], object]]:
        found: list[Callable[[], object]] = [lambda: time.sleep(0.001), self.serve]
        for at in range(len(self.world.queues)):
            simple = self.plan.queues[at][0] == "SimpleQueue"
            found.append(lambda at=at, simple=simple: self.actor.put(at, **({} if simple else {"block": False})))
            if not simple:
                found.append(lambda at=at: self.actor.get(at, block=False))
        if self.world.locks:
            found.append(self.actor.use_lock)
        if self.world.pair is not None:
            found.append(self.actor.use_value)
        if self.world.condition is not None:
            found.append(self.notify)
        if self.world.event is not None:
            found += [self.world.event.set, self.world.event.clear]
        if self.world.names is not None:
            found.append(self.actor.append)
        if self.pool is not None:
            found += [self.pool.submit, self.pool.submit, self.pool.submit_many]
            if self.pool.pending:
                found.append(lambda: self.pool.collect(0.01))  # type: ignore[union-attr]
        return found

    def notify(self) -> None:
        with self.world.condition:
            self.words[GENERATION] += 1
            self.world.condition.notify_all()

    def serve(self) -> None:
        """Send to, and receive from, those at the other end of a pipe."""
        for source, (link, waits_for) in list(self.links.items()):
            process = self.members.get(source)
            try:
                if waits_for == 0:
                    number = self.rng.randint(1, 1 << 30)
                    link.send(sealed(0, number, self.rng.randbytes(self.rng.choice((5, 500, 100_000)))))
                    self.links[source] = (link, number)
                elif link.poll(0.002):
                    message = link.recv()
                    if is_torn(message) or message[1] != waits_for:
                        self.findings.wrong.append(f"torn: a pipe gave {message!r:.200} for {waits_for}")
                    self.findings.counts["pipe messages"] += 1
                    self.links[source] = (link, 0)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                killed = self.attacker.killed.get(process.pid) if process is not None else None
                if killed:
                    self.findings.late("pipe", (time.monotonic_ns() - killed) / 1e9)
                del self.links[source]
                link.close()

    def look(self) -> None:
        """Whoever has ended is joined, and maybe replaced."""
        for process in wait([process.sentinel for process in self.members.values()], 0):
            source = next(source for source, member in self.members.items() if member.sentinel == process)
            self.bury(source)
            if not self.actor.stopping and self.rng.random() < 0.7 and self.sources < 12:
                self.start()

    def bury(self, source: int) -> None:
        process = self.members.pop(source)
        process.join(SETTLE)
        killed = self.attacker.killed.get(process.pid)
        allowed = {0}
        if killed or self.plan.crash_points:
            allowed.add(-9)
        if process.pid in self.attacker.interrupted:
            allowed |= {1, -2}
        if process.exitcode not in allowed:
            self.findings.wrong.append(f"member {source} ended with exit code {process.exitcode}")
        if process.exitcode == -9:
            self.findings.counts["deaths"] += 1
            if killed:
                self.findings.late("join", (time.monotonic_ns() - killed) / 1e9)
            else:
                self.findings.counts["deaths at crash points"] += 1
        self.ended.append(process)
        if source in self.links:
            # What it has sent last is not of interest any more.
            self.links.pop(source)[0].close()

    # Coming to an end.

    def settle(self) -> None:
        """No more attacks: everyone must come to an end."""
        self.attacker.stop()
        self.words[STOP] = 1
        began = time.monotonic()
        deadline = began + SETTLE
        shown = False
        slow = SLOW if self.plan.method == "fork" else 2 * SLOW
        for source, (link, _) in list(self.links.items()):
            with suppress(OSError):
                link.send(POISON) if source in self.members else None
        while self.members:
            self.nudge()
            self.serve()
            wait([process.sentinel for process in self.members.values()], 0.005)
            self.look()
            if time.monotonic() - began > slow and not shown:
                shown = True
                self.findings.wrong.append(f"slow: members {sorted(self.members)} have not ended after {slow} s")
                self.show()
            if time.monotonic() > deadline:
                raise Stuck(f"members {sorted(self.members)} do not end: {[p.pid for p in self.members.values()]}")
        if self.pool is not None:
            self.finish_pool(self.pool)

    def show(self) -> None:
        """Where everyone is."""
        for process in self.members.values():
            with open(f"/proc/{process.pid}/wchan") as file:
                print(process.pid, process.name, file.read(), file=sys.stderr, flush=True)
            os.kill(process.pid, signal.SIGUSR2)
            time.sleep(0.05)

    def finish_pool(self, pool: Pool) -> None:
        # Tasks may wait for room in a queue.
        over = threading.Event()

        def drain() -> None:
            while not over.wait(0.005):
                self.nudge(poison=False)

        drainer = threading.Thread(target=drain, daemon=True) if self.world.queues else None
        if drainer is not None:
            drainer.start()
        try:
            pool.finish()
        finally:
            over.set()
            if drainer is not None:
                drainer.join()

    def nudge(self, poison: bool = True) -> None:
        """Give those that wait what they wait for."""
        for at, queue in enumerate(self.world.queues):
            kind, limit = self.plan.queues[at]
            if limit and queue.full():
                self.actor.get(at, block=False)
            elif poison and queue.empty():
                with suppress(Full):
                    if kind == "SimpleQueue":
                        queue.put(POISON)
                    else:
                        queue.put(POISON, block=False)
                    self.poisons[at] += 1
        if poison and self.world.condition is not None:
            self.notify()
        if poison and self.world.event is not None:
            self.world.event.set()
        if poison and self.world.barrier is not None:
            self.world.barrier.abort()

    # The accounting.

    def account(self) -> None:
        for at in range(len(self.world.queues)):
            self.empty(at)
        journals = self.journals()
        self.check_pool(journals)
        queues = ledger.Queues(journals)
        queues.check(self.findings)
        for at, queue in enumerate(self.world.queues):
            if self.plan.queues[at][0] == "JoinableQueue":
                self.check_join(at, queue, queues)
        for place, lock in enumerate(self.world.locks):
            self.actor.acquire(lock, place)
            self.actor.release(lock, place)
        if self.world.pair is not None:
            self.actor.use_value()
        if self.world.semaphore is not None:
            self.check_semaphore()
        if self.manager is not None:
            self.check_manager(journals)
        journals = self.journals()
        killed = dict(self.attacker.killed)
        ledger.barriers(journals, killed, self.attacker.stopped, self.findings)
        ledger.locks(journals, killed, self.attacker.stopped, self.attacker.interrupted, self.findings)
        self.findings.counts["kills"] += len(killed)
        if self.plan.crash_points:
            self.count_crash_points(killed)
        for name in ("stop", "int"):
            path = self.directory / "attacker.journal"
            self.findings.counts[f"{name}s"] += sum(line.what == name for line in ledger.read(path))

    def count_crash_points(self, killed: dict[int, int]) -> None:
        """Members that were killed and by nobody were killed where they had been told to be."""
        codes = {process.pid: process.exitcode for process in self.ended}
        for journal in self.journals():
            pid = 0
            for line in journal:
                if line.what == "start":
                    pid = line.number(0)
                elif line.what == "armed" and codes.get(pid) == -signal.SIGKILL and pid not in killed:
                    self.findings.counts[f"at {line.words[0]}"] += 1

    def journals(self) -> list[list[ledger.Line]]:
        paths = sorted(self.directory.glob("*.journal"))
        return [ledger.read(path) for path in paths if path.name != "attacker.journal"]

    def empty(self, at: int) -> None:
        queue = self.world.queues[at]
        while not queue.empty():
            self.actor.get(at, **({} if self.plan.queues[at][0] == "SimpleQueue" else {"timeout": SETTLE}))

    def check_join(self, at: int, queue: Any, queues: ledger.Queues) -> None:
        least, most = queues.unfinished(str(at))
        # Poisons count as messages that nobody reports done.
        least, most = least + self.poisons[at], most + self.poisons[at] + queues.excuses[str(at)]
        missing = 0
        with suppress(ValueError):
            while missing <= most + 1000:
                queue.task_done()
                missing += 1
        if not least <= missing <= most:
            self.findings.wrong.append(f"queue {at}: {missing} messages are unfinished, not {least} to {most}")
        queue.join()

    def check_semaphore(self) -> None:
        semaphore = self.world.semaphore
        for permit in range(self.world.permits):
            began = time.monotonic()
            if not semaphore.acquire(timeout=SETTLE):
                self.findings.wrong.append(f"semaphore: permit {permit} was not given back by the dead")
                return
            self.findings.late("semaphore", time.monotonic() - began)
        if semaphore.acquire(block=False):
            self.findings.wrong.append("semaphore: there is a permit too many")
        for _ in range(self.world.permits):
            semaphore.release()

    def check_manager(self, journals: list[list[ledger.Line]]) -> None:
        if self.manager._process.pid in self.attacker.killed:
            began = time.monotonic()
            with suppress(OSError, EOFError):
                len(self.world.names)
                self.findings.wrong.append("manager: a proxy works without its server")
            self.findings.late("manager", time.monotonic() - began)
            return
        there = Counter(tuple(item) for item in self.world.names)
        begun, done = set(), set()
        for journal in journals:
            source = next((line.number(0) for line in journal if line.what == "start"), 0)
            for line in journal:
                if line.what == "append":
                    begun.add((source, line.number(0)))
                elif line.what == "appended":
                    done.add((source, line.number(0)))
        if any(times > 1 for times in there.values()):
            self.findings.wrong.append(f"manager: appended twice: {there.most_common(2)}")
        if len(there) > len(begun) or len(there) < len(done):
            self.findings.wrong.append(f"manager: {len(there)} in the list, {len(done)} to {len(begun)} were appended")

    def check_pool(self, journals: list[list[ledger.Line]]) -> None:
        if self.pool is None:
            return
        for number, called in self.called:
            if len(called) != 1:
                self.findings.wrong.append(f"task {number}: callbacks called: {called}")
        deaths = self.pool.exits + len(self.attacker.killed)
        deaths += sum(line.what == "armed" for journal in journals for line in journal)
        ledger.tasks(self.pool.outcomes, journals, deaths, len(self.attacker.interrupted), self.findings)

    def close(self) -> None:
        for link, _ in self.links.values():
            link.close()
        if self.manager is not None:
            self.manager.shutdown()
        for process in self.ended:
            process.close()


def run(plan: Plan, directory: Path) -> Findings:
    """A whole round, with the census before and after it."""
    warnings.simplefilter("ignore")
    warm_up(plan)
    before = census()
    round = Round(plan, directory)
    stuck = False
    try:
        round.begin()
        round.act()
        round.settle()
        round.account()
        round.close()
    except Stuck as error:
        round.findings.wrong.append(f"hang: {error}")
        stuck = True
    findings = round.findings
    if not stuck:
        round.actor.scratch.close()
        round.actor.journal.close()
        round.attacker._journal.close()
        del round
        check_census(before, findings)
    return findings


def warm_up(plan: Plan) -> None:
    """What is opened once and kept is opened before it is counted."""
    ctx = procession.get_context(plan.method)
    process = ctx.Process(target=square, args=(2,))
    process.start()
    process.join()
    process.close()
    ctx.Queue().close()


def check_census(before: dict[str, int], findings: Findings) -> None:
    deadline = time.monotonic() + 10
    while True:
        after = census()
        grown = {what: (before[what], count) for what, count in after.items() if count > before[what]}
        if not grown:
            return
        if time.monotonic() > deadline:
            found = os.popen(f"ls -l /proc/{os.getpid()}/fd").read()
            findings.wrong.append(f"left behind: {grown}: {found}")
            return
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--crash-points", action="store_true")
    parser.add_argument("--scene")
    arguments = parser.parse_args()
    faulthandler.enable()
    show_stacks_on_request()
    plan = Plan.of(arguments.seed, arguments.crash_points, arguments.scene)
    print(plan, file=sys.stderr, flush=True)
    findings = run(plan, arguments.directory)
    result = {"wrong": findings.wrong, "counts": findings.counts, "latencies": findings.latencies}
    path = arguments.directory / "findings.part"
    path.write_text(json.dumps(result))
    path.rename(arguments.directory / "findings.json")
    if any(text.startswith("hang") for text in findings.wrong):
        # Its stacks are to be looked at.
        time.sleep(3600)


if __name__ == "__main__":
    main()
