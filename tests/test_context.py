"""Contexts and start methods; the package's names; helpers for exit, logging and forks."""

from __future__ import annotations

import gc
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import procession
from conftest import Programs
from procession import context, util


@pytest.fixture
def fresh() -> Iterator[context.DefaultContext]:
    """A default context of its own."""
    yield context.DefaultContext()


def test_names_are_multiprocessings() -> None:
    program = "import multiprocessing as m, json; print(json.dumps(sorted(m.__all__)))"
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    import json

    assert sorted(procession.__all__) == json.loads(theirs.stdout)
    for name in procession.__all__:
        assert hasattr(procession, name)
    assert (procession.SUBDEBUG, procession.SUBWARNING) == (5, 25)


MODULES = sorted(path.stem for path in Path(procession.__file__).parent.glob("*.py") if "win32" not in path.stem)


@pytest.mark.parametrize("stem", MODULES)
def test_star_import_of_each_module(stem: str) -> None:
    import importlib

    importlib.import_module("procession.pool")  # on which its parts build
    name = "procession" if stem == "__init__" else f"procession.{stem}"
    module = importlib.import_module(name)
    for attribute in module.__all__:
        assert hasattr(module, attribute)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_concrete_contexts(method: str) -> None:
    ctx = procession.get_context(method)
    assert ctx.get_start_method() == method
    assert ctx.get_context() is ctx
    assert ctx is procession.get_context(method)
    assert type(ctx).__name__.lower() == f"{method}context"
    assert ctx.Process.__name__.lower() == f"{method}process"
    for wrong in ("spawn", None):
        with pytest.raises(ValueError, match="concrete context"):
            ctx.set_start_method(wrong)
    assert pickle.loads(pickle.dumps(ctx)) is ctx
    assert ctx.cpu_count() == os.cpu_count()
    assert ctx.ProcessError is procession.ProcessError
    assert ctx.TimeoutError is procession.TimeoutError


def test_unknown_method(fresh: context.DefaultContext) -> None:
    for ask in (fresh.get_context, fresh.set_start_method, procession.get_context("fork").get_context):
        with pytest.raises(ValueError, match=r"cannot find context for 'thread'.*fork, spawn, forkserver"):
            ask("thread")


def test_default_method_is_pythons(fresh: context.DefaultContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROCESSION_START_METHOD", raising=False)
    program = "import multiprocessing as m; print(m.get_start_method(), *m.get_all_start_methods())"
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    default, *methods = theirs.stdout.split()
    assert fresh.get_start_method(allow_none=True) is None
    assert fresh.get_start_method() == default
    assert fresh.get_start_method(allow_none=True) == default
    assert sorted(fresh.get_all_start_methods()) == sorted(methods)
    assert fresh.get_all_start_methods()[0] == default


NOT_SETTLED = """
import procession

def look(sender):
    sender.send(procession.get_start_method(allow_none=True))

if __name__ == "__main__":
    for method in ("spawn", "forkserver"):
        ctx = procession.get_context(method)
        receiver, sender = ctx.Pipe(duplex=False)
        child = ctx.Process(target=look, args=(sender,))
        child.start()
        print(receiver.recv(), procession.get_start_method(allow_none=True))
        child.join()
    procession.set_start_method("fork")
"""


def test_a_context_does_not_settle_the_default(run_program: Programs) -> None:
    outcome = run_program(NOT_SETTLED.lstrip()).check()
    assert outcome.out == "spawn None\nforkserver None\n"


def test_method_from_the_environment(fresh: context.DefaultContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSION_START_METHOD", "forkserver")
    assert fresh.get_start_method(allow_none=True) is None
    assert fresh.get_start_method() == "forkserver"
    another = context.DefaultContext()
    another.set_start_method("spawn")  # what the program says comes first
    assert another.get_start_method() == "spawn"
    monkeypatch.setenv("PROCESSION_START_METHOD", "telepathy")
    with pytest.raises(ValueError, match=r"PROCESSION_START_METHOD.*'telepathy'"):
        context.DefaultContext().get_start_method()


def test_method_is_set_once(fresh: context.DefaultContext) -> None:
    fresh.set_start_method("spawn")
    with pytest.raises(RuntimeError, match=r"already been set \(to 'spawn'\)"):
        fresh.set_start_method("fork")
    assert fresh.get_context().get_start_method() == "spawn"
    fresh.set_start_method("fork", force=True)
    assert fresh.get_start_method() == "fork"
    fresh.set_start_method(None, force=True)
    assert fresh.get_start_method(allow_none=True) is None


def test_method_is_settled_by_use(fresh: context.DefaultContext) -> None:
    used = fresh.get_context()
    with pytest.raises(RuntimeError, match="already been set"):
        fresh.set_start_method("spawn")
    assert fresh.get_context() is used


def test_preload_takes_names(ctx: Any) -> None:
    with pytest.raises(TypeError, match="module_names must be a list of strings"):
        ctx.set_forkserver_preload([1, 2, 3])
    with pytest.raises(ValueError, match=r"on_error must be .* not 'raise'"):
        ctx.set_forkserver_preload(["json"], on_error="raise")


PRELOAD = """
import sys
import procession

MARK = "colorsys"  # a module that nothing else imports

def look(sender):
    sender.send((MARK in sys.modules, __name__, "not_there" in sys.modules))

if __name__ == "__main__":
    procession.set_start_method("forkserver")
    procession.set_forkserver_preload(["__main__", "not_there", MARK])
    receiver, sender = procession.Pipe(duplex=False)
    child = procession.Process(target=look, args=(sender,))
    child.start()
    print(receiver.recv())
    child.join()
else:
    print("imported", __name__, flush=True)
"""


def test_preload(run_program: Programs) -> None:
    outcome = run_program(PRELOAD.lstrip()).check()
    # The main module was imported by the server, and by nobody else.
    assert outcome.out == "imported __mp_main__\n(True, '__mp_main__', False)\n"
    assert outcome.err == ""


PRELOAD_FAILS = """
import os, signal, sys
import procession
from procession import forkserver
from procession.pool import PoolBroken

def start(ctx):
    child = ctx.Process(target=print, args=("child",), kwargs={"flush": True})
    try:
        child.start()
    except EOFError as error:
        print(error, *error.__notes__, flush=True)
    else:
        child.join()

if __name__ == "__main__":
    ctx = procession.get_context("forkserver")
    ctx.set_forkserver_preload(["not_there", "json"], on_error=sys.argv[1])
    for _ in range(2):
        start(ctx)
    ctx.set_forkserver_preload(["json"], on_error="fail")
    start(ctx)
    with ctx.Pool(1) as pool:
        worker = pool.apply(os.getpid)
        os.environ["FAIL"] = "1"
        ctx.set_forkserver_preload(["__main__"], on_error="fail")
        forkserver._forkserver._stop()
        os.kill(worker, signal.SIGKILL)
        try:
            pool.apply(abs, (-1,))
        except PoolBroken as error:
            print(error)
elif "FAIL" in os.environ:
    raise RuntimeError("not in the server")
"""


def test_preload_that_fails_is_passed_over(run_program: Programs) -> None:
    outcome = run_program(PRELOAD_FAILS.lstrip(), "ignore").check()
    assert outcome.out.startswith("child\nchild\nchild\n")
    assert "not_there" not in outcome.err


def test_preload_that_fails_is_warned_of(run_program: Programs) -> None:
    outcome = run_program(PRELOAD_FAILS.lstrip(), "warn", options=["-W", "always::ImportWarning"]).check()
    assert outcome.out.startswith("child\nchild\nchild\n")
    assert outcome.err.count("ImportWarning: Failed to preload module 'not_there': No module named 'not_there'") == 1


def test_preload_that_fails_ends_the_server(run_program: Programs) -> None:
    outcome = run_program(PRELOAD_FAILS.lstrip(), "fail").check()
    refused, again, child, broken = outcome.out.splitlines()
    assert refused == again
    assert "could not preload" in refused and "No module named 'not_there'" in refused and "standard error" in refused
    assert child == "child"
    assert "a worker can't be started" in broken and "RuntimeError: not in the server" in broken
    assert outcome.err.count("ModuleNotFoundError: No module named 'not_there'") == 2


@pytest.mark.parametrize("form", [str, os.fsencode, Path])
def test_set_executable(form: Any) -> None:
    from procession import spawn

    before = spawn.get_executable()
    try:
        procession.set_executable(form(sys.executable))
        child = procession.get_context("spawn").Process(target=sys.exit, args=(4,))
        child.start()
        child.join()
        assert child.exitcode == 4
    finally:
        procession.set_executable(before)  # type: ignore[arg-type]


def test_freeze_support_does_nothing_here() -> None:
    assert procession.freeze_support() is None  # type: ignore[func-returns-value]
    assert procession.allow_connection_pickling() is None  # type: ignore[func-returns-value]
    from procession import spawn

    assert spawn.is_forking(["program", "--multiprocessing-fork", "a=1"])
    assert not spawn.is_forking(["program"])


FLAGS = """
import json, sys, procession

def show(sender):
    sender.send((list(sys.flags), sys.argv, sys.orig_argv[:1]))

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    receiver, sender = procession.Pipe(duplex=False)
    child = procession.Process(target=show, args=(sender,))
    child.start()
    flags, argv, orig = receiver.recv()
    child.join()
    assert flags == list(sys.flags), (flags, sys.flags)
    assert argv == sys.argv
    print("same")
"""


@pytest.mark.parametrize("options", [[], ["-O"], ["-E", "-S", "-OO"], ["-I"]], ids=" ".join)
def test_children_have_the_flags(start_method: str, options: list[str], run_program: Programs) -> None:
    place = str(Path(procession.__file__).parent.parent)
    program = f"import sys; sys.path.insert(0, {place!r})\n{FLAGS.lstrip()}"
    outcome = run_program(program, start_method, options=options).check()
    assert outcome.out == "same\n"
    assert outcome.err == ""


# --- beside the standard library ------------------------------------------------------------------


def test_contexts_are_the_standard_librarys_too(run_program: Programs) -> None:
    program = """
import procession
ctx = procession.get_context("spawn")
default = procession.context._default_context
import multiprocessing.context
assert isinstance(ctx, multiprocessing.context.BaseContext)
assert isinstance(default, multiprocessing.context.BaseContext)
assert isinstance(procession.get_context("fork"), procession.context.BaseContext)
assert not isinstance(ctx, multiprocessing.context.SpawnContext)
assert type(ctx) is ctx.__class__ is procession.context.SpawnContext
assert ctx.get_start_method() == "spawn"
print("instances")
"""
    assert run_program(program.lstrip()).check().out == "instances\n"


def test_pools_module_has_the_time_out_that_its_users_catch() -> None:
    from procession import pool

    assert pool.TimeoutError is procession.TimeoutError


def test_exceptions_are_the_standard_librarys_too(run_program: Programs) -> None:
    program = """
import sys
import procession
assert "multiprocessing" not in sys.modules
early = procession.TimeoutError("early")
import multiprocessing, pickle
for name in ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"):
    ours, theirs = getattr(procession, name), getattr(multiprocessing, name)
    for expected in (theirs, multiprocessing.ProcessError, procession.ProcessError, ours):
        try:
            raise ours(name)
        except expected as error:
            assert error.args == (name,)
try:
    raise procession.WorkerLost("gone", pid=7, exitcode=-9)
except multiprocessing.ProcessError as error:
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.pid, copy.exitcode) == ("gone", 7, -9)
try:
    raise early
except multiprocessing.TimeoutError:
    print("caught")
"""
    assert run_program(program.lstrip()).check().out == "caught\n"


EXECUTOR = """
import sys
import concurrent.futures
import procession

def square(x):
    return x * x

def fail(x):
    raise LookupError(x)

if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=ctx) as executor:
        print(sum(executor.map(square, range(100), chunksize=7)))
        try:
            executor.submit(fail, 3).result(timeout=30)
        except LookupError as error:
            print(repr(error))
"""


def test_process_pool_executor(start_method: str, run_program: Programs) -> None:
    outcome = run_program(EXECUTOR.lstrip(), start_method).check()
    assert outcome.out == "328350\nLookupError(3)\n"
    assert outcome.err == ""


LOGGED = """
import sys, logging
import concurrent.futures.process
import multiprocessing
import procession

def show(sender):
    sender.send((multiprocessing.current_process().name, multiprocessing.parent_process().name,
                 multiprocessing.active_children(), bytes(multiprocessing.current_process().authkey)))

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    receiver, sender = procession.Pipe(duplex=False)
    child = procession.Process(target=show, args=(sender,), name="shown")
    child.start()
    name, parent, children, key = receiver.recv()
    child.join()
    print(name, parent, children, key == bytes(multiprocessing.current_process().authkey))
"""


def test_standard_library_knows_our_children(start_method: str, run_program: Programs) -> None:
    assert run_program(LOGGED.lstrip(), start_method).check().out == "shown MainProcess [] True\n"


LATE = """
import sys
import procession

def grandchild(sender):
    import multiprocessing
    sender.send((multiprocessing.current_process().name, bytes(multiprocessing.current_process().authkey)))

def child(sender):
    loaded = [name for name in sys.modules if name.startswith("multiprocessing.")]
    finders = len(sys.meta_path)
    procession.Process(target=grandchild, args=(sender,), name="grandchild").start()
    import multiprocessing
    process = multiprocessing.process
    assert process.__spec__.loader is process.__loader__ and process.__loader__.get_source(process.__name__)
    sender.send((multiprocessing.current_process().name, multiprocessing.parent_process().name,
                 bytes(multiprocessing.current_process().authkey), loaded, finders - len(sys.meta_path)))

if __name__ == "__main__":
    import multiprocessing.process
    procession.set_start_method(sys.argv[1])
    key = bytes(multiprocessing.current_process().authkey)
    receiver, sender = procession.Pipe(duplex=False)
    started = procession.Process(target=child, args=(sender,), name="shown")
    started.start()
    answers = sorted((receiver.recv(), receiver.recv()), key=len)
    (second, second_key), (name, parent, its_key, loaded, finders) = answers
    started.join()
    fresh = sys.argv[1] != "fork"
    assert (loaded == []) == fresh and finders == fresh, (loaded, finders)
    print(name, parent, second, key == its_key == second_key)
"""


def test_a_child_loads_the_standard_library_only_when_it_asks_for_it(start_method: str, run_program: Programs) -> None:
    assert run_program(LATE.lstrip(), start_method).check().out == "shown MainProcess grandchild True\n"


# --- util -----------------------------------------------------------------------------------------


class Thing:
    pass


def test_finalize() -> None:
    calls: list[str] = []
    thing = Thing()
    first = util.Finalize(thing, calls.append, ("collected",))
    assert first.still_active() and "obj=Thing" in repr(first)
    del thing
    gc.collect()
    assert calls == ["collected"]
    assert not first.still_active() and "dead" in repr(first)
    thing = Thing()
    second = util.Finalize(thing, calls.append, ("called",))
    second()
    second()
    third = util.Finalize(thing, calls.append, ("cancelled",))
    third.cancel()
    del thing
    gc.collect()
    assert calls == ["collected", "called"]
    with pytest.raises(ValueError, match="exitpriority cannot be None"):
        util.Finalize(None, print)
    with pytest.raises(TypeError, match="must be None or int"):
        util.Finalize(None, print, exitpriority="high")  # type: ignore[arg-type]


def test_finalizers_run_by_priority() -> None:
    calls: list[str] = []

    def fail() -> None:
        calls.append("fail")
        raise LookupError("shown, and no reason to stop")

    util.Finalize(None, calls.append, ("low",), exitpriority=1)
    util.Finalize(None, calls.append, ("high",), exitpriority=10)
    util.Finalize(None, fail, exitpriority=5)
    util.Finalize(None, calls.append, ("younger",), exitpriority=1)
    last = util.Finalize(None, calls.append, ("last",), exitpriority=-1)
    with pytest.MonkeyPatch.context() as patch:
        shown = io.StringIO()
        patch.setattr(sys, "stderr", shown)
        util._run_finalizers(0)
    assert calls == ["high", "fail", "younger", "low"]
    assert "LookupError: shown" in shown.getvalue()
    last()
    assert calls[-1] == "last"


def test_finalizer_belongs_to_its_process() -> None:
    reader, writer = os.pipe()
    thing = Thing()
    util.Finalize(thing, os.write, (writer, b"x"))
    pid = os.fork()
    if pid == 0:
        del thing
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    del thing
    gc.collect()
    os.close(writer)
    assert os.read(reader, 10) == b"x"
    os.close(reader)


def count_in_child(sender: Any, lock: util.ForkAwareThreadLock, local: util.ForkAwareLocal) -> None:
    sender.send((len(util._afterfork_registry), lock.acquire(), hasattr(local, "x")))


def test_fork_aware_lock_and_local() -> None:
    ctx = procession.get_context("fork")
    before = len(util._afterfork_registry)
    lock, local = util.ForkAwareThreadLock(), util.ForkAwareLocal()
    local.x = 1  # type: ignore[attr-defined]
    receiver, sender = ctx.Pipe(duplex=False)
    with lock:
        child = ctx.Process(target=count_in_child, args=(sender, lock, local))
        child.start()
        assert receiver.recv() == (before + 2, True, False)
        child.join()
    del lock, local, child
    gc.collect()
    assert len(util._afterfork_registry) == before
    receiver.close()
    sender.close()


def test_after_fork_runs_in_order(tmp_path: Path) -> None:
    calls: list[str] = []
    things = [Thing(), Thing()]
    for number, thing in enumerate(things):
        util.register_after_fork(thing, lambda obj, number=number: calls.append(f"{number}"))
    child = procession.get_context("fork").Process(target=lambda: sys.exit("".join(calls) != "01"))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert calls == []


def test_logging() -> None:
    logger = procession.get_logger()
    assert logger.name == "multiprocessing" and logger is procession.get_logger()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(filename)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    try:
        logger.setLevel(util.DEBUG)
        util.info("one %d", 1)
        util.debug("two")
        util.sub_warning("three")
        util.warn("four")
        util.sub_debug("not this")
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    here = Path(__file__).name
    assert stream.getvalue() == (f"INFO {here} one 1\nDEBUG {here} two\nSUBWARNING {here} three\nWARNING {here} four\n")


def send_level(sender: Any) -> None:
    sender.send(procession.get_logger().getEffectiveLevel())


def test_log_level_reaches_children(ctx: Any) -> None:
    logger = procession.get_logger()
    level = logger.level
    receiver, sender = ctx.Pipe(duplex=False)
    try:
        logger.setLevel(37)
        child = ctx.Process(target=send_level, args=(sender,))
        child.start()
        assert receiver.recv() == 37
        child.join()
    finally:
        logger.setLevel(level)
        receiver.close()
        sender.close()


def test_log_to_stderr(start_method: str, run_program: Programs) -> None:
    program = """
import sys, procession
if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    procession.log_to_stderr("INFO")
    child = procession.Process(target=int)
    child.start()
    child.join()
"""
    err = run_program(program.lstrip(), start_method).check().err
    for line in ("child process calling self.run()", "process exiting with exitcode 0"):
        assert err.count(f"[INFO/Process-1] {line}\n") == 1
    assert err.count("[INFO/MainProcess] process shutting down\n") == 1


def test_temp_dir(run_program: Programs) -> None:
    program = """
import os, procession, sys
from procession import util
if __name__ == "__main__":
    made = util.get_temp_dir()
    assert made == util.get_temp_dir() and os.path.isdir(made)
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)
    assert os.path.isdir(made)
    print(made)
"""
    assert not os.path.exists(run_program(program.lstrip()).check().out.strip())


def test_abstract_sockets() -> None:
    assert util.abstract_sockets_supported
    assert util.is_abstract_socket_namespace("\0x") and util.is_abstract_socket_namespace(b"\0x")
    for address in ("/tmp/x", b"/tmp/x", "", None):
        assert not util.is_abstract_socket_namespace(address)
    with pytest.raises(TypeError, match="unrecognized"):
        util.is_abstract_socket_namespace(("host", 1))  # type: ignore[arg-type]


def test_close_all_fds_except(run_program: Programs) -> None:
    program = """
import os
from procession import util
kept = os.dup(1)
other = os.dup(1)
util.close_all_fds_except([1, kept])
left = []
for fd in range(100):
    try:
        os.fstat(fd)
        left.append(fd)
    except OSError:
        pass
os.write(kept, str(left == [1, kept]).encode())
os._exit(0)
"""
    assert run_program(program.lstrip()).check().out == "True"


def test_is_exiting(run_program: Programs) -> None:
    program = """
import atexit
from procession import util
assert not util.is_exiting()
util.Finalize(None, lambda: print(util.is_exiting()), exitpriority=0)
"""
    assert run_program(program.lstrip()).check().out == "True\n"


def test_spawnv_passfds(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    argv = [sys.executable, "-c", f"import os; os.write({writer}, b'passed')"]
    pid = util.spawnv_passfds(sys.executable, argv, [writer])
    os.close(writer)
    assert os.read(reader, 100) == b"passed"
    os.waitpid(pid, 0)
    os.close(reader)


def test_threads_may_start_processes(ctx: Any) -> None:
    codes: list[int | None] = []

    def use() -> None:
        child = ctx.Process(target=sys.exit, args=(3,))
        child.start()
        child.join()
        codes.append(child.exitcode)

    import warnings

    with warnings.catch_warnings():
        # Python's own, for a fork while threads run.
        warnings.simplefilter("ignore", DeprecationWarning)
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    assert codes == [3] * 4
