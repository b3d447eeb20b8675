"""Ctrl-C reaches every process of a terminal. One traceback is enough: the program's own.

A child that has not begun its `run()` ends without a word when it is interrupted; one that has is
interrupted by KeyboardInterrupt, as ever, and if that ends it, it ends without a traceback. No
signal is lost on the way: they are blocked, not ignored, until somebody can deal with them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    from .process import BaseProcess
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = ["allow", "ending", "hold", "prepare_executor_worker", "raising"]

#: What these functions are about.
INTERRUPT = frozenset((signal.SIGINT,))


def hold() -> set[Any]:
    """Keep interrupts from this thread until `allow` is called with what this returns."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)
    except BaseException:
        # One came just before. Its handler has run in this call, which has blocked the next all the same.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    return before


def allow(before: set[Any] | frozenset[Any] | None = None) -> None:
    """Let interrupts in again, or have this thread's signals as they were; what has come meanwhile, comes now."""
    if before is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ending() -> None:
    """Have an interrupt end this process at once, without a word, until `raising` is called.

    To be called by a child that was started with interrupts held. One that the program has had
    ignored from its start stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    allow()


def raising() -> None:
    """Have an interrupt raise KeyboardInterrupt, if `ending` has changed that."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    from . import _procession

    try:
        _procession.leave()
    finally:
        # As for a KeyboardInterrupt that nobody catches.
        os._exit(1)


def prepare_executor_worker(child: BaseProcess) -> None:
    """Have a worker of `concurrent.futures.ProcessPoolExecutor` end with its program, and after an interrupt.

    It is no daemon, and would go on with its task when the program is killed. Its own loop takes
    KeyboardInterrupt for the outcome of a task, and goes on with the next, while an executor that is
    left by Ctrl-C waits for all that were submitted.
    """
    target: Any = getattr(child, "_target", None)
    if getattr(target, "__module__", None) != "concurrent.futures.process" or not child._args:
        return
    if getattr(target, "__name__", None) != "_process_worker":
        return
    if child._parent_pid is not None:
        from . import _procession

        _procession.die_with(child._parent_pid)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        child._args = (_Tasks(child._args[0]), *child._args[1:])


class _Tasks:
    """The queue of an executor's tasks, which gives no more of them once there was an interrupt."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._interrupted = False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True
        signal.default_int_handler(number, frame)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        if self._interrupted:
            raise KeyboardInterrupt
        return self._queue.get(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self._queue, name)
        return found
