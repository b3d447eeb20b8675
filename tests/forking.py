"""Children that tests fork by hand, to kill them in the middle of something."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conftest import stat_fields

BOUND = 30.0


class Child:
    """A forked process that runs a function; what it raises is its exit code 1."""

    def __init__(self, body: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            # Threads of the engine hold nothing that a child needs.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                body()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        self.pidfd = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """Wait until it has ended; return its exit code, as `Process.exitcode` has it."""
        ended, _, _ = select.select([self.pidfd], [], [], BOUND)
        if not ended:
            self.kill()
            pytest.fail(f"child {self.pid} is still running after {BOUND} s")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def sleeps(self) -> None:
        """Wait until its main thread waits for something."""
        until(lambda: stat_fields(self.pid)[:1] == ["S"])

    def check(self) -> None:
        """Wait until it has ended, in good order."""
        assert self.wait() == 0

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Kill it and wait until it has ended."""
        os.kill(self.pid, signum)
        assert self.wait() == -signum

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)


@contextmanager
def forked(body: Callable[[], object]) -> Iterator[Child]:
    """Run `body` in a forked child; when the block is left, it must end in good order, unless it was killed."""
    child = Child(body)
    try:
        yield child
    except BaseException:
        if child.pid:
            child.kill()
        raise
    if child.pid:
        child.check()


def until(condition: Callable[[], object], bound: float = BOUND) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + bound
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not come true")
        time.sleep(0.001)
