"""The worker processes of a pool, and the thread that calls its callbacks."""

from __future__ import annotations

import fcntl
import os
import sys
import threading

from . import util
from ._pool_worker import worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._pool_results import ApplyResult
    from .context import BaseContext

    Callback = Callable[[Any], object] | None

__all__ = ["Reports", "Staff", "end"]

#: How long the end of a pool waits for workers that are sent SIGTERM, and after a second SIGKILL.
PATIENCE = 10.0


class Staff:
    """The worker processes of a pool. It does not know the pool, which may go first."""

    def __init__(
        self,
        ctx: BaseContext,
        make: Callable[..., Any],
        handle: bytes,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        workers: list[Any],
    ) -> None:
        self._ctx = ctx
        self._make = make
        self._args = (handle, initializer, initargs)
        self._workers = workers
        self._exitcodes: dict[int, int] = {}
        #: The thread that starts a worker now.
        self.hiring: int | None = None

    def hire(self, slot: int) -> None:
        """Start a worker."""
        handle, initializer, initargs = self._args
        process = self._make(self._ctx, target=worker, args=(handle, slot, initializer, initargs))
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = True
        process.start()
        self._workers[slot : slot + 1] = [process]

    def introduce(self, slot: int) -> tuple[int, int, int]:
        """Return a worker's pid, a new descriptor of it, and its seat in the family."""
        process = self._workers[slot]
        fd = fcntl.fcntl(process.sentinel, fcntl.F_DUPFD_CLOEXEC, 3)
        return process.pid, fd, process._popen._seat

    def introduce_all(self) -> list[tuple[int, int, int]]:
        """Return the same of all workers."""
        introduced: list[tuple[int, int, int]] = []
        try:
            for slot in range(len(self._workers)):
                introduced.append(self.introduce(slot))
        except BaseException:
            for _pid, fd, _seat in introduced:
                os.close(fd)
            raise
        return introduced

    def replace(self, slot: int) -> tuple[int, int, int]:
        """Start a worker in the place of one that has ended. Called by the supervisor."""
        self.hiring = threading.get_ident()
        try:
            self._note_end(self._workers[slot])
            self.hire(slot)
            util.debug("added worker")
            return self.introduce(slot)
        finally:
            self.hiring = None

    def dismiss(self) -> None:
        """End those that were started: the pool is not to be."""
        for process in self._workers:
            if process.exitcode is None:
                process.terminate()
        for process in self._workers:
            process.join()

    def join(self, timeout: float | None) -> None:
        """Wait for the processes, as a parent has to."""
        for process in self._workers:
            process.join(timeout)

    def exitcode_of(self, pid: int) -> int | None:
        """Return the exit code of a worker that has ended, where it is known."""
        for process in list(self._workers):
            if process.pid == pid:
                self._note_end(process)
        return self._exitcodes.get(pid)

    def _note_end(self, process: Any) -> None:
        exitcode = process.exitcode
        if exitcode is not None:
            if len(self._exitcodes) >= 1000:
                self._exitcodes.clear()
            self._exitcodes[process.pid] = exitcode


class Reports:
    """Calls callbacks, in one thread, which is there once there are any."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._expected: dict[int, tuple[ApplyResult, Callback, Callback]] = {}
        self._calling = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def expect(self, result: ApplyResult, callback: Callback, error_callback: Callback) -> None:
        """Call one of them when the result is there."""
        self._expected[result._withhold()] = result, callback, error_callback
        result._announce()
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="pool-callbacks", daemon=True)
                    self._thread.start()

    @property
    def outstanding(self) -> int:
        """How many results are still to be reported."""
        return len(self._expected) + self._calling

    def _run(self) -> None:
        while True:
            self._calling = False
            number = self._core.next_announced()
            if number is None:
                break
            self._calling = True
            expected = self._expected.pop(number, None)
            if expected is None:
                continue
            result, callback, error_callback = expected
            try:
                result._report(callback, error_callback)
            except BaseException:
                # As if each callback had a thread of its own.
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            del expected, result, callback, error_callback
        # The pool was terminated: nobody is called back, and nobody is left waiting for that.
        while self._expected:
            _number, (result, _callback, _error_callback) = self._expected.popitem()
            result._report(None, None)

    def join(self, timeout: float | None) -> None:
        """Wait for the callbacks to have been called."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)


def end(core: Any, staff: Any, reports: Reports, reap: bool) -> None:
    """End a pool that was terminated, or collected, or is left when the program ends."""
    core.terminate()
    if staff.hiring == threading.get_ident():
        return  # collected by the supervisor's thread: it can't wait for itself
    core.join(PATIENCE)
    reports.join(PATIENCE)
    if reap:
        staff.join(PATIENCE)
