"""Signals to the program's processes, at random instants."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable

from .ledger import Journal

#: The process groups of a round are known by this variable of their environment.
MARK = "CHAOS_ROUND"


def belongs(pid: int) -> bool:
    """Whether the process is one of this round's: no other may be signalled, whatever became of its pid."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={os.environ[MARK]}".encode() in file.read().split(b"\0")
    except OSError:
        return False


class Attacker:
    """A thread that signals members until it is told to stop. Whoever it has stopped goes on afterwards."""

    def __init__(self, rng: random.Random, journal: Journal, pace: float, signals: list[str]) -> None:
        self._rng = rng
        self._journal = journal
        self._pace = pace
        self._signals = signals
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attacker", daemon=True)
        #: pid to pidfd of those who may be attacked.
        self._targets: dict[int, int] = {}
        self._lock = threading.Lock()
        #: Finds those whom others start: a pool's workers.
        self.more: Callable[[], list[int]] = list
        self.killed: dict[int, int] = {}
        #: Since when.
        self.interrupted: dict[int, int] = {}
        self.stopped: dict[int, float] = {}

    def start(self) -> None:
        self._thread.start()

    def add(self, pid: int) -> None:
        """Aim at a process too."""
        with self._lock:
            if pid in self._targets:
                return
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                return
            if belongs(pid):
                self._targets[pid] = pidfd
            else:
                os.close(pidfd)

    def stop(self) -> None:
        """Attack no more."""
        self._over.set()
        self._thread.join()
        for pidfd in self._targets.values():
            os.close(pidfd)
        self._targets.clear()

    def _run(self) -> None:
        while not self._over.wait(self._rng.expovariate(1 / self._pace)):
            for pid in self.more():
                self.add(pid)
            with self._lock:
                targets = sorted(self._targets)
            if targets:
                self._attack(self._rng.choice(targets), self._rng.choice(self._signals))

    def _attack(self, pid: int, what: str) -> None:
        if what == "kill":
            self._kill(pid)
        elif what == "int":
            began = self._journal.note("int", pid)
            if self._send(pid, signal.SIGINT):
                self.interrupted.setdefault(pid, began)
        else:
            self._journal.note("stop", pid)
            stopped = time.monotonic()
            if not self._send(pid, signal.SIGSTOP):
                return
            try:
                self._over.wait(self._rng.choice((0.001, 0.01, 0.05, 0.15, 0.15, 0.4)))
                # Killed while it is stopped, now and then.
                if self._rng.random() < 0.2:
                    self._kill(pid)
            finally:
                self._journal.note("go", pid)
                self._send(pid, signal.SIGCONT)
                self.stopped[pid] = self.stopped.get(pid, 0.0) + time.monotonic() - stopped

    def _kill(self, pid: int) -> None:
        if pid in self.killed:
            return
        self.killed[pid] = self._journal.note("kill", pid)
        if not self._send(pid, signal.SIGKILL):
            del self.killed[pid]

    def _send(self, pid: int, signum: int) -> bool:
        with self._lock:
            try:
                signal.pidfd_send_signal(self._targets[pid], signum)
                return True
            except OSError:
                os.close(self._targets.pop(pid))
                return False
