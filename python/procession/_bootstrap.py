"""A child's life, from its first line to its exit code."""

from __future__ import annotations

import atexit
import os
import sys

from . import _beside, _interrupts, _procession, context, process, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["end", "forget_parent", "run"]


def run(child: process.BaseProcess, parent_sentinel: int | None, *, forked: bool, held: set[Any] | None = None) -> int:
    """Become `child`, run it, clean up behind it, and return its exit code.

    Args:
        child: the object whose `run()` is this process's program.
        parent_sentinel: a pidfd of the parent, ready once it has ended.
        forked: whether this process holds a copy of its parent's state.
        held: if interrupts are held, this thread's signal mask for when they no longer are.
    """
    code = 1
    try:
        _enter(child, parent_sentinel, forked)
        util.info("child process calling self.run()")
        if not forked:
            _interrupts.raising()
        if "concurrent.futures.process" in sys.modules:
            _interrupts.prepare_executor_worker(child)
        if held is not None:
            _interrupts.allow(held)
        child.run()
        code = 0
    except SystemExit as exit:
        code = _exit_status(exit)
    except BaseException:
        _print_exception(child.name)
    if not _finish(child.name):
        code = 1
    util.info("process exiting with exitcode %d", code)
    util._flush_std_streams()
    return code


process._run = run


def end(code: int, seat: int | None = None) -> NoReturn:
    """End this process at once, after its last Python code has run.

    Args:
        code: the exit code.
        seat: where to leave the code for a requester who isn't our parent.
    """
    try:
        if seat is not None:
            _procession.note_exit(seat, code & 0xFF)
        _procession.leave()
    finally:
        os._exit(code & 0xFF)


def _enter(child: process.BaseProcess, parent_sentinel: int | None, forked: bool) -> None:
    if child._start_method is not None:
        context._force_start_method(child._start_method)
    util._close_stdin()
    process._become(child, parent_sentinel)
    if forked:
        forget_parent()
    else:
        atexit.unregister(util._exit_function)
    atexit.register(util._exit_function)
    _beside.adopt(child, process._parent_process, _standard_key, forked=forked)
    if "logging" in sys.modules:
        _name_log_records()
    if child.daemon and child._parent_pid is not None:
        _procession.die_with(child._parent_pid)


def forget_parent() -> None:
    """Put right, after a fork, what this process has copied from its parent."""
    # What the parent registered for its own exit isn't for us to run.
    atexit._clear()
    util._after_fork()
    # The thread that called fork is the main thread now, under a new id.
    threading: Any = sys.modules.get("threading")
    renew = threading and getattr(threading.main_thread(), "_set_native_id", None)
    if renew:
        renew()


#: The key of the standard library's multiprocessing in our parent, where it was loaded.
_standard_key: bytes | None = None


def _finish(name: str) -> bool:
    """Wait for threads, then run exit handlers, in the order of an interpreter's own exit."""
    try:
        threading: Any = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        _beside.leave()
        atexit._run_exitfuncs()
        # Only does anything if a handler was cleared away: it runs once.
        util._exit_function()
    except SystemExit:
        return True
    except BaseException:
        _print_exception(name)
        return False
    return True


def _exit_status(exit: SystemExit) -> int:
    """Return the exit code that the interpreter itself would give for this exception."""
    if exit.code is None:
        return 0
    if isinstance(exit.code, int):
        return int(exit.code)
    _write(f"{exit.code}\n")
    return 1


def _print_exception(name: str) -> None:
    """Write the traceback of what ends this process; but of an interrupt the program writes its own."""
    if isinstance(sys.exception(), KeyboardInterrupt):
        util.info("process interrupted")
        return
    import traceback

    try:
        _write(f"Process {name}:\n{traceback.format_exc()}")
    except KeyboardInterrupt:
        util.info("process interrupted")


def _write(text: str) -> None:
    """Write to stderr, which the program may have closed or taken away."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass


def _name_log_records() -> None:
    """Give log records this process's name.

    `logging` asks the standard library's multiprocessing for it, where that is loaded;
    without it every record would say MainProcess.
    """
    logging: Any = sys.modules.get("logging")
    if logging is None or "multiprocessing" in sys.modules:
        return
    make = logging.getLogRecordFactory()
    if hasattr(make, "names_process"):
        return

    def named(*args: Any, **kwargs: Any) -> Any:
        record = make(*args, **kwargs)
        if record.processName is not None:
            record.processName = process.current_process().name
        return record

    factory: Any = named
    factory.names_process = True
    logging.setLogRecordFactory(factory)
