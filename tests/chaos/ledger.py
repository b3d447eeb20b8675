"""What every process writes down, and the accounting over it.

Journals are files, one a process, written with one system call a line: what was written before a SIGKILL stays
written, and nothing here depends on what is under test. The operations:

    start PID                 the process runs
    put QUEUE SOURCE NUMBER   a put begins;  done-put when it has returned
    get QUEUE                 a get begins;  got QUEUE SOURCE NUMBER, or nothing QUEUE, when it has returned
    tell QUEUE                a task_done begins;  told when it has returned
    barrier                   a wait begins;  passed or broken when it has returned
    run TASK                  a pool's worker runs a task
    append NUMBER             a manager's list is appended to;  appended when it has returned
    took LOCK PID BEGAN       a lock was acquired whose dead owner was PID;  lives LOCK PID if PID was not quite gone
    crowd PERMITS PIDS        a semaphore's permits are held by these, who are more, and not quite gone
    kill, stop, go, int PID   the attacker's doing, written just before it
    interrupted               a KeyboardInterrupt ended it
    wrong TEXT                something that must not be
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

#: No waiter may wait longer than this for the dead, in seconds.
LIMIT = 2.0


class Journal:
    """One process's record. Each line is there whole once `note` has returned."""

    def __init__(self, path: Path | str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, *words: object) -> int:
        """Write a line; return the time that it bears, in ns."""
        now = time.monotonic_ns()
        line = " ".join(str(word) for word in words).replace("\n", "\\n")
        os.write(self._fd, f"{now} {line}\n".encode())
        return now

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Line:
    """One line of a journal."""

    time: int
    what: str
    words: tuple[str, ...]

    def number(self, at: int) -> int:
        return int(self.words[at])


def read(path: Path) -> list[Line]:
    """Read a journal."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        now, what, *words = text.split(" ")
        lines.append(Line(int(now), what, tuple(words)))
    return lines


@dataclass
class Findings:
    """What a round came to."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    #: Seconds from a SIGKILL to what its waiters were told, by what they waited for.
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def late(self, kind: str, seconds: float, excuse: float = 0.0) -> None:
        """Enter a latency. `excuse` is how long the waiter itself had been stopped."""
        self.latencies[kind].append(max(0.0, seconds - excuse))
        if seconds - excuse > LIMIT:
            self.wrong.append(f"{kind}: waited {seconds:.2f} s on the dead")


Message = tuple[str, str]  # source and number


class Queues:
    """The messages of each queue: who has put and got what, and what the dead took with them."""

    def __init__(self, journals: Iterable[list[Line]]) -> None:
        self.begun: dict[str, set[Message]] = defaultdict(set)
        self.put: dict[str, set[Message]] = defaultdict(set)
        self.got: dict[str, list[Message]] = defaultdict(list)
        #: Takers that ended between a get's begin and its return: each may have taken one message along.
        self.excuses: Counter[str] = Counter()
        self.open_puts: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.open_tells: Counter[str] = Counter()
        self.wrong: list[str] = []
        for journal in journals:
            self._read(journal)

    def _read(self, journal: list[Line]) -> None:
        getting = putting = telling = None
        last: dict[tuple[str, str], int] = {}
        for line in journal:
            if line.what == "put":
                putting = line.words[0]
                self.begun[putting].add((line.words[1], line.words[2]))
            elif line.what == "done-put":
                putting = None
                self.put[line.words[0]].add((line.words[1], line.words[2]))
            elif line.what == "refused-put":
                putting = None
                self.begun[line.words[0]].discard((line.words[1], line.words[2]))
            elif line.what == "get":
                getting = line.words[0]
            elif line.what == "nothing":
                getting = None
            elif line.what == "got":
                getting = None
                queue, source, number = line.words
                self.got[queue].append((source, number))
                if int(number) <= last.get((queue, source), -1):
                    self.wrong.append(f"order: queue {queue} gave {source}/{number} after {last[queue, source]}")
                last[queue, source] = int(number)
            elif line.what == "tell":
                telling = line.words[0]
            elif line.what == "told":
                telling = None
                self.told[line.words[0]] += 1
        if getting is not None:
            self.excuses[getting] += 1
        if putting is not None:
            self.open_puts[putting] += 1
        if telling is not None:
            self.open_tells[telling] += 1

    def check(self, findings: Findings) -> None:
        """No message twice, none out of nothing, none lost that was reported as put."""
        findings.wrong += self.wrong
        for queue in self.begun.keys() | self.got.keys():
            seen = Counter(self.got[queue])
            findings.counts["messages"] += len(seen)
            for message, times in seen.items():
                if times > 1:
                    findings.wrong.append(f"duplicate: queue {queue} gave {'/'.join(message)} {times} times")
            if strange := seen.keys() - self.begun[queue]:
                findings.wrong.append(f"invented: queue {queue} gave {sorted(strange)[:3]}, which nobody put")
            missing = self.put[queue] - seen.keys()
            if len(missing) > self.excuses[queue]:
                findings.wrong.append(
                    f"lost: queue {queue}: {len(missing)} that were put were never got, {self.excuses[queue]} "
                    f"takers died in a get: {sorted(missing)[:5]}"
                )
            findings.counts["taken along by the dead"] += len(missing)

    def unfinished(self, queue: str) -> tuple[int, int]:
        """How many task_done() are missing at least and at most."""
        told, seen = self.told[queue], len(set(self.got[queue]))
        least = max(len(self.put[queue]), seen) - told - self.open_tells[queue]
        most = len(self.put[queue]) + self.open_puts[queue] - told
        return least, max(most, seen - told)


def barriers(journals: list[list[Line]], killed: dict[int, int], stopped: dict[int, float], findings: Findings) -> None:
    """Who waited at the barrier when a party was killed there has been told."""
    waits: list[tuple[int, int, int | None]] = []  # pid, from, until
    for journal in journals:
        pid, began = 0, None
        for line in journal:
            if line.what == "start":
                pid = line.number(0)
            elif line.what == "barrier":
                began = line.time
            elif line.what in ("passed", "broken") and began is not None:
                waits.append((pid, began, line.time))
                began = None
        if began is not None:
            waits.append((pid, began, None))
    for dead, began, until in waits:
        # The journal's line comes before the arrival: only one that has waited for a while has arrived.
        if until is not None or dead not in killed or killed[dead] - began < 20_000_000:
            continue
        for pid, from_, end in waits:
            if pid not in killed and end is not None and from_ < killed[dead] < end:
                findings.late("barrier", (end - killed[dead]) / 1e9, stopped.get(pid, 0.0))


def locks(
    journals: list[list[Line]],
    killed: dict[int, int],
    stopped: dict[int, float],
    interrupted: dict[int, int],
    findings: Findings,
) -> None:
    """How long the next in line waited for a dead owner's lock, and what else was found wrong on the spot.

    Only who was interrupted ends in good order with a lock or a permit in its hands, and then lets go before it is
    gone. From all others nothing is taken as long as they live, even if they are killed a moment later.
    """
    for journal in journals:
        pid = 0
        for line in journal:
            if line.what == "start":
                pid = line.number(0)
            elif line.what == "took":
                findings.counts["locks taken over"] += 1
                owner, began = line.number(1), line.number(2)
                if owner in killed:
                    since = max(killed[owner], began)
                    findings.late("lock", (line.time - since) / 1e9, stopped.get(pid, 0.0))
            elif line.what == "lives":
                owner = line.number(1)
                if interrupted.get(owner, line.time) >= line.time:
                    findings.wrong.append(f"lock {line.words[0]} was taken from {owner}, which lived")
            elif line.what == "crowd":
                permits, *holders = map(int, line.words)
                staying = [owner for owner in holders if interrupted.get(owner, line.time) >= line.time]
                if len(staying) > permits:
                    findings.wrong.append(f"semaphore: {staying}, which lived, had {permits} permits")
            elif line.what == "wrong":
                findings.wrong.append(" ".join(line.words))


def tasks(
    outcomes: dict[int, list[str]], journals: list[list[Line]], deaths: int, interrupts: int, findings: Findings
) -> None:
    """Each task has exactly one outcome, and ran once at most; only a death loses one."""
    runs = Counter(line.number(0) for journal in journals for line in journal if line.what == "run")
    lost = 0
    for task, had in outcomes.items():
        findings.counts["tasks"] += 1
        if len(had) != 1:
            findings.wrong.append(f"task {task} has {len(had)} outcomes: {had}")
            continue
        lost += had[0] == "lost"
        if had[0] not in ("done", "error", "lost", "exit", "lost with its chunk"):
            findings.wrong.append(f"task {task}: {had[0]}")
        if runs[task] > 1:
            findings.wrong.append(f"task {task} ran {runs[task]} times")
        if had[0] in ("done", "error") and runs[task] != 1:
            findings.wrong.append(f"task {task} is {had[0]} and ran {runs[task]} times")
    findings.counts["tasks lost with their workers"] += lost
    if lost > deaths + interrupts:
        findings.wrong.append(f"{lost} tasks were lost, {deaths} workers were killed and {interrupts} interrupted")
