"""Processes: their life from start to exit code, by every start method."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import procession
from conftest import Programs
from procession import process, util


def touch(path: str) -> None:
    Path(path).touch()


def leave_with(code: Any) -> None:
    sys.exit(code)


def exit_hard(code: int) -> None:
    os._exit(code)


def fail() -> None:
    raise LookupError("what it was looking for")


def wait_for_end(connection: Any) -> None:
    connection.send("ready")
    connection.recv()


def started(ctx: Any, **options: Any) -> tuple[Any, Any]:
    """A running process that ends when it's told to, and the connection to tell it."""
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=wait_for_end, args=(theirs,), **options)
    child.start()
    theirs.close()
    assert ours.recv() == "ready"
    return child, ours


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"), [(None, 0), (0, 0), (3, 3), (True, 1), (False, 0), (-1, 255), (256, 0)], ids=repr
)
def test_exit_code_of_sys_exit(ctx: Any, given: Any, code: int) -> None:
    child = ctx.Process(target=leave_with, args=(given,))
    child.start()
    child.join()
    assert child.exitcode == code
    child.close()


def test_exit_with_a_message(ctx: Any, capfd: pytest.CaptureFixture[str]) -> None:
    child = ctx.Process(target=leave_with, args=(["some", "thing"],))
    child.start()
    child.join()
    assert child.exitcode == 1
    assert capfd.readouterr().err == "['some', 'thing']\n"


def test_exception_is_shown_with_the_name_of_the_process(ctx: Any, capfd: pytest.CaptureFixture[str]) -> None:
    child = ctx.Process(target=fail, name="searcher")
    child.start()
    child.join()
    assert child.exitcode == 1
    err = capfd.readouterr().err
    assert err.startswith("Process searcher:\nTraceback (most recent call last):\n")
    assert err.endswith("LookupError: what it was looking for\n")


def test_exit_code_of_os_exit(ctx: Any) -> None:
    child = ctx.Process(target=exit_hard, args=(77,))
    child.start()
    child.join()
    assert child.exitcode == 77


@pytest.mark.parametrize(
    ("verb", "code"), [("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL), ("interrupt", 1)]
)
def test_ended_by_signal(ctx: Any, verb: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    child, connection = started(ctx)
    getattr(child, verb)()
    child.join(20)
    assert child.exitcode == code
    # Once more, after the end, is no error.
    getattr(child, verb)()
    connection.close()
    assert capfd.readouterr().err == ""


def test_killed_from_outside(ctx: Any) -> None:
    child, connection = started(ctx)
    os.kill(child.pid, signal.SIGUSR1)
    child.join(20)
    assert child.exitcode == -signal.SIGUSR1
    connection.close()


def test_exit_code_when_the_program_has_waited_itself() -> None:
    child = procession.get_context("fork").Process(target=leave_with, args=(5,))
    child.start()
    os.waitpid(child.pid, 0)
    child.join(20)
    assert child.exitcode == 5


# --- state ----------------------------------------------------------------------------------------


def test_states(ctx: Any) -> None:
    child = ctx.Process(target=time.sleep, args=(0,), name="napper")
    assert (child.is_alive(), child.pid, child.ident, child.exitcode) == (False, None, None, None)
    assert " initial" in repr(child)
    with pytest.raises(ValueError, match="not started"):
        _ = child.sentinel
    child, connection = started(ctx, name="waiter")
    assert child.is_alive() and child.exitcode is None
    assert child.pid == child.ident != os.getpid()
    assert child in procession.active_children()
    assert repr(child) == f"<{type(child).__name__} name='waiter' pid={child.pid} parent={os.getpid()} started>"
    began = time.monotonic()
    child.join(0)
    child.join(-1)
    child.join(0.05)
    assert time.monotonic() - began < 10
    assert child.is_alive()
    assert not select.select([child.sentinel], [], [], 0)[0]
    connection.send("go")
    assert select.select([child.sentinel], [], [], 20)[0]
    child.join()
    assert not child.is_alive() and child.exitcode == 0
    assert repr(child).endswith(" stopped exitcode=0>")
    connection.close()
    assert child not in procession.active_children()
    assert select.select([child.sentinel], [], [], 0)[0]


def test_close(ctx: Any) -> None:
    child, connection = started(ctx)
    with pytest.raises(ValueError, match=r"still running.*join\(\) or terminate\(\)"):
        child.close()
    child.kill()
    child.join(20)
    child.close()
    child.close()
    assert "closed" in repr(child)
    for use in (child.join, child.is_alive, child.terminate, child.kill, child.interrupt, child.start):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        _ = child.exitcode
    connection.close()


def test_join_wakes_for_signals(ctx: Any) -> None:
    class Alarm(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    child, connection = started(ctx)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(Alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            child.join()
    finally:
        signal.signal(signal.SIGALRM, before)
        child.kill()
        child.join(20)
        connection.close()


def test_joined_by_two_threads(ctx: Any) -> None:
    child, connection = started(ctx)
    codes: list[int | None] = []

    def join() -> None:
        child.join()
        codes.append(child.exitcode)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    child.kill()
    for thread in threads:
        thread.join(20)
    assert codes == [-signal.SIGKILL] * 4
    connection.close()


def send_identity(connection: Any) -> None:
    current, parent = procession.current_process(), procession.parent_process()
    assert parent is not None
    connection.send(
        {
            "name": current.name,
            "daemon": current.daemon,
            "pid": (current.pid, os.getpid()),
            "alive": current.is_alive(),
            "authkey": bytes(current.authkey),
            "parent": (parent.name, parent.pid, parent.is_alive()),
            "children": procession.active_children(),
            "method": procession.get_start_method(),
            "stdin": sys.stdin.read(),
            "main thread": threading.current_thread() is threading.main_thread(),
            "native id": threading.main_thread().native_id == threading.get_native_id(),
        }
    )


@pytest.mark.parametrize("daemon", [None, True, False])
def test_identity(ctx: Any, daemon: bool | None) -> None:
    other = ctx.Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    receiver, sender = ctx.Pipe(duplex=False)
    child = ctx.Process(target=send_identity, args=(sender,), name="someone", daemon=daemon)
    child.start()
    me = procession.current_process()
    assert receiver.recv() == {
        "name": "someone",
        "daemon": bool(daemon),
        "pid": (child.pid, child.pid),
        "alive": True,
        "authkey": bytes(me.authkey),
        "parent": (me.name, os.getpid(), True),
        "children": [],
        "method": ctx.get_start_method(),
        "stdin": "",
        "main thread": True,
        "native id": True,
    }
    child.join()
    assert child.exitcode == 0
    other.kill()
    other.join()
    receiver.close()
    sender.close()


class Multiplier(procession.Process):
    """A subclass as the documentation shows them."""

    def __init__(self, connection: Any, factor: int) -> None:
        super().__init__(name=f"times {factor}")
        self.connection = connection
        self.factor = factor

    def run(self) -> None:
        self.connection.send((self.name, self.connection.recv() * self.factor))


def test_subclass(start_method: str) -> None:
    procession.set_start_method(start_method, force=True)
    try:
        ours, theirs = procession.Pipe()
        child = Multiplier(theirs, 6)
        child.start()
        ours.send(7)
        assert ours.recv() == ("times 6", 42)
        child.join()
        assert child.exitcode == 0
        ours.close()
        theirs.close()
    finally:
        procession.set_start_method(None, force=True)


def test_names() -> None:
    first, second = procession.Process(), procession.Process()
    kind, _, number = first.name.rpartition("-")
    assert kind == "Process"
    assert second.name == f"Process-{int(number) + 1}"
    second.name = "another"
    assert second.name == "another"
    assert procession.current_process().name == "MainProcess"
    assert procession.parent_process() is None


def test_main_process() -> None:
    me = procession.current_process()
    assert (me.pid, me.is_alive(), me.daemon, me.exitcode) == (os.getpid(), True, False, None)
    assert len(me.authkey) == 32
    me.close()
    assert me.is_alive()


def test_target_is_let_go(ctx: Any) -> None:
    import gc
    import weakref

    class Target:
        pass

    args = [Target()]
    gone = weakref.ref(args[0])
    child = procession.get_context("fork").Process(target=print, args=args)
    child._target = None
    args.clear()
    child.start()
    child.join()
    gc.collect()
    assert gone() is None


# --- what children inherit, and what they don't ---------------------------------------------------


def send_surroundings(connection: Any) -> None:
    umask = os.umask(0)
    connection.send((os.getcwd(), os.environ.get("PROCESSION_TEST_ONLY"), umask, os.sched_getaffinity(0)))


def test_children_inherit_the_surroundings(ctx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ctx.get_start_method() == "forkserver":
        from procession.forkserver import ensure_running

        ensure_running()  # before anything changes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROCESSION_TEST_ONLY", "here")
    umask, affinity = os.umask(0o027), os.sched_getaffinity(0)
    receiver, sender = ctx.Pipe(duplex=False)
    try:
        os.sched_setaffinity(0, {min(affinity)})
        child = ctx.Process(target=send_surroundings, args=(sender,))
        child.start()
        assert receiver.recv() == (str(tmp_path), "here", 0o027, {min(affinity)})
        child.join()
    finally:
        os.umask(umask)
        os.sched_setaffinity(0, affinity)
        receiver.close()
        sender.close()


def say_and_go(text: str) -> None:
    print(text)
    print(text, file=sys.stderr, end="")


def test_output_goes_where_ours_goes(ctx: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Also when the streams were redirected after the fork server had started. And it's flushed."""
    child = ctx.Process(target=say_and_go, args=("here",))
    child.start()
    child.join()
    assert tuple(capfd.readouterr()) == ("here\n", "here")


def send_descriptors(connection: Any, event_file: str) -> None:
    connection.send(sorted(int(fd) for fd in os.listdir("/proc/self/fd")))
    while not os.path.exists(event_file):
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_do_not_inherit_descriptors(method: str, tmp_path: Path) -> None:
    ctx = procession.get_context(method)
    ours = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    high = os.dup2(ours[0], 200, inheritable=True)
    go = str(tmp_path / "go")
    pipes, children = [], []
    for _ in range(3):
        receiver, sender = ctx.Pipe(duplex=False)
        child = ctx.Process(target=send_descriptors, args=(sender, go))
        child.start()
        sender.close()
        pipes.append(receiver)
        children.append(child)
    seen = [receiver.recv() for receiver in pipes]
    touch(go)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len({len(fds) for fds in seen}) == 1, seen
    assert not any(high in fds for fds in seen)
    assert len(seen[0]) < 16
    for fd in [*ours, high]:
        os.close(fd)
    for receiver in pipes:
        receiver.close()


def start_nested(connection: Any, depth: int) -> None:
    if depth:
        child = procession.Process(target=start_nested, args=(connection, depth - 1))
        child.start()
        child.join()
        connection.send((depth, child.name, child.exitcode))
    else:
        connection.send(procession.get_start_method())


def test_children_have_children(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    child = ctx.Process(target=start_nested, args=(sender, 2))
    child.start()
    sender.close()
    child.join(50)
    assert receiver.recv() == ctx.get_start_method()
    depth, name, code = receiver.recv()
    assert (depth, code) == (1, 0) and name.endswith(":1:1")
    depth, name, code = receiver.recv()
    assert (depth, code) == (2, 0) and name.endswith(":1")
    receiver.close()


# --- the end --------------------------------------------------------------------------------------


def write_at_exit(path: str) -> None:
    import atexit

    def write(text: str) -> None:
        with open(path, "a") as file:
            file.write(text)

    atexit.register(write, "handler ")
    util.Finalize(None, write, ("finalizer ",), exitpriority=5)
    thread = threading.Thread(target=lambda: (time.sleep(0.1), write("thread ")))
    thread.start()
    daemon = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
    daemon.start()


def test_children_end_in_order(ctx: Any, tmp_path: Path) -> None:
    path = tmp_path / "order"
    child = ctx.Process(target=write_at_exit, args=(str(path),))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert path.read_text() == "thread handler finalizer "


AT_EXIT = """
import procession, sys, time

def nap(seconds, text, said):
    said.wait()
    time.sleep(seconds)
    print(text, flush=True)

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    said = procession.Event()
    procession.Process(target=nap, args=(0.3, "joined", said), daemon=False).start()
    procession.Process(target=nap, args=(100, "never", said), daemon=True).start()
    print("main ends", flush=True)
    said.set()
"""


def test_exit_joins_children_and_terminates_daemons(start_method: str, run_program: Programs) -> None:
    outcome = run_program(AT_EXIT.lstrip(), start_method).check()
    assert outcome.out == "main ends\njoined\n"
    assert outcome.err == ""
    assert outcome.seconds < 45


KILLED = """
import os, procession, signal, sys, time

def stay(sender):
    sender.send(os.getpid())
    procession.parent_process().join(20)
    time.sleep(10)  # it is to be killed within a moment, on a busy machine too
    os.kill(os.getppid(), 0)
    print("still here", flush=True)

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    receiver, sender = procession.Pipe(duplex=False)
    procession.Process(target=stay, args=(sender,), daemon=True).start()
    receiver.recv()
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_daemons_die_with_a_killed_parent(start_method: str, run_program: Programs) -> None:
    # run_program fails if anyone is left, the fork server included.
    outcome = run_program(KILLED.lstrip(), start_method)
    assert outcome.code == -signal.SIGKILL
    assert outcome.out == "ready\n"


def watch_parent(connection: Any) -> None:
    connection.send(os.getpid())
    parent = procession.parent_process()
    assert parent is not None
    parent.join(20)
    connection.send((parent.is_alive(), bool(select.select([parent.sentinel], [], [], 0)[0])))


def start_watcher(connection: Any) -> None:
    procession.Process(target=watch_parent, args=(connection,)).start()
    time.sleep(100)


def test_parent_process_ends(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    child = ctx.Process(target=start_watcher, args=(sender,))
    child.start()
    sender.close()
    grandchild = receiver.recv()
    child.kill()
    child.join()
    assert receiver.recv() == (False, True)
    with pytest.raises(EOFError):
        receiver.recv()
    receiver.close()
    for _ in range(500):
        if not os.path.exists(f"/proc/{grandchild}"):
            break
        time.sleep(0.01)


def break_streams(path: str) -> None:
    sys.stdout.close()
    sys.stderr = None
    touch(path)


def test_streams_that_are_gone(ctx: Any, tmp_path: Path) -> None:
    child = ctx.Process(target=break_streams, args=(str(tmp_path / "done"),))
    child.start()
    child.join()
    assert child.exitcode == 0 and (tmp_path / "done").exists()


def send_log_name(connection: Any) -> None:
    record = logging.getLogRecordFactory()("name", 20, "path", 1, "message", (), None)
    connection.send(record.processName)


def test_log_records_name_the_process(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    child = ctx.Process(target=send_log_name, args=(sender,), name="logger")
    child.start()
    assert receiver.recv() == "logger"
    child.join()
    receiver.close()
    sender.close()


# --- the fork server ------------------------------------------------------------------------------


def test_fork_server_is_replaced_when_it_dies() -> None:
    from procession.forkserver import _forkserver

    ctx = procession.get_context("forkserver")
    child, connection = started(ctx)
    server = _forkserver._forkserver_pid
    assert server is not None
    os.kill(server, signal.SIGKILL)
    second, other = started(ctx)
    assert _forkserver._forkserver_pid not in (None, server)
    # The child of the dead server lives on, and says itself how it ends.
    assert child.is_alive()
    for process_, connection_ in ((child, connection), (second, other)):
        connection_.send("go")
        process_.join(20)
        assert process_.exitcode == 0
        connection_.close()


def test_fork_server_killed_again_and_again() -> None:
    """Whenever it is killed: each start gives one child, which runs once."""
    from procession.forkserver import _forkserver

    ctx = procession.get_context("forkserver")
    _forkserver.ensure_running()
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.03):
            server = _forkserver._forkserver_pid
            if server is not None:
                try:
                    os.kill(server, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    receiver, sender = ctx.Pipe(duplex=False)
    killer = threading.Thread(target=kill)
    killer.start()
    ran, given_up = 0, 0
    try:
        for number in range(15):
            child = ctx.Process(target=SenderOf(number), args=(sender,))
            try:
                child.start()
            except OSError as error:
                assert "fork server" in str(error)
                given_up += 1
                continue
            child.join(30)
            assert child.exitcode == 0
            assert receiver.recv() == number
            ran += 1
    finally:
        stop.set()
        killer.join()
    assert not receiver.poll(0.2)
    assert ran + given_up == 15
    _forkserver.ensure_running()  # collects the last one that was killed
    receiver.close()
    sender.close()


class SenderOf:
    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, connection: Any) -> None:
        connection.send(self.number)


def test_fork_server_serves_many_threads() -> None:
    ctx = procession.get_context("forkserver")
    codes: list[int | None] = []

    def use(code: int) -> None:
        child = ctx.Process(target=leave_with, args=(code,))
        child.start()
        child.join()
        codes.append(child.exitcode)

    threads = [threading.Thread(target=use, args=(code,)) for code in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert sorted(codes, key=str) == sorted(range(20), key=str)


# --- forks that aren't ours -----------------------------------------------------------------------


def test_raw_fork_has_no_children_and_can_have_some() -> None:
    sleeper, connection = started(procession.get_context("fork"))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert procession.active_children() == []
            assert process._children == set()
            child = procession.get_context("fork").Process(target=leave_with, args=(9,))
            child.start()
            child.join()
            code = child.exitcode or 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert sleeper.is_alive()
    sleeper.kill()
    sleeper.join()
    connection.close()


def test_no_lock_of_ours_stays_locked_in_a_fork() -> None:
    from procession.forkserver import _forkserver
    from procession.resource_sharer import _resource_sharer
    from procession.resource_tracker import _resource_tracker

    locks = [_forkserver._lock, _resource_sharer._lock, _resource_tracker._lock]
    for lock in locks:
        lock.acquire()
    try:
        pid = os.fork()
        if pid == 0:
            ours = [_forkserver._lock, _resource_sharer._lock, _resource_tracker._lock]
            os._exit(0 if all(lock.acquire(timeout=1) for lock in ours) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        for lock in locks:
            lock.release()


LOOKUP = """
import builtins, os, sys, threading, time
import procession

usual = builtins.__import__
looking = threading.Event()
forked = threading.Event()

def slow(name, *args, **kwargs):
    # The extension looks something up in one of these when it first waits: another thread forks just then.
    if name in ("_thread", "threading") and not looking.is_set():
        looking.set()
        forked.wait(10)
    return usual(name, *args, **kwargs)

def fork():
    looking.wait(10)
    pid = os.fork()
    if pid == 0:
        builtins.__import__ = usual
        try:
            queue.get(timeout=0.05)
        except Exception as error:
            os._exit(0 if type(error).__name__ == "Empty" else 1)
        os._exit(2)
    forked.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            print("child:", os.waitstatus_to_exitcode(status))
            return
        time.sleep(0.01)
    print("the child hangs")
    os.kill(pid, 9)
    os.waitpid(pid, 0)

queue = procession.Queue()
other = threading.Thread(target=fork)
other.start()
builtins.__import__ = slow
try:
    queue.get(timeout=0.05)
except Exception as error:
    print(type(error).__name__)
builtins.__import__ = usual
other.join()
print("looked:", looking.is_set())
"""


def test_a_fork_in_the_middle_of_a_first_lookup(run_program: Programs) -> None:
    said = run_program(LOOKUP.lstrip()).check().out.split("\n")
    assert sorted(said) == ["", "Empty", "child: 0", "looked: True"]


FLAGS = """
import sys
from procession import util
ours = util._args_from_interpreter_flags()
assert "subprocess" not in sys.modules or sys.argv[1:] == ["loads"], ours
import subprocess
assert ours == subprocess._args_from_interpreter_flags(), (ours, subprocess._args_from_interpreter_flags())
print(*ours)
"""


@pytest.mark.parametrize(
    ("options", "loads"),
    [
        ("", False),
        ("-B", False),
        ("-OO", False),
        ("-E -s", False),
        ("-P -q", False),
        ("-S", False),
        ("-X utf8", True),
        ("-Werror", True),
        ("-bb", True),
        ("-X dev", True),
    ],
)
def test_flags_of_the_interpreter_are_passed_on(options: str, loads: bool, run_program: Programs) -> None:
    path = run_program.directory / "flags.py"
    path.write_text(f"import sys; sys.path.append({PLACE!r})\n{FLAGS}")
    env = {"PYTHONPATH": PLACE, "PYTHONWARNINGS": "", "PYTHONDONTWRITEBYTECODE": ""}
    # As a program by itself: `run_program` adds an option of its own.
    command = [sys.executable, *options.split(), str(path), *(["loads"] if loads else [])]
    result = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stderr
    passed = result.stdout.split()
    assert all(option in passed for option in options.split()), (options, passed)


PLACE = os.path.dirname(os.path.dirname(procession.__file__))


WITH_A_THREAD = """
import threading, procession

if __name__ == "__main__":
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    child = procession.get_context("fork").Process(target=print, args=("child",))
    try:
        child.start()
        child.join()
    except DeprecationWarning as warning:
        print(child.pid, procession.active_children(), warning)
    end.set()
"""


@pytest.mark.parametrize("action", ["default", "error"])
def test_fork_with_threads_is_warned_of(action: str, run_program: Programs) -> None:
    """As by `os.fork`, from Python 3.12 on; from 3.15 on it can be made an error. There is no child then."""
    outcome = run_program(WITH_A_THREAD.lstrip(), options=["-W", f"{action}::DeprecationWarning"]).check()
    words = "is multi-threaded, use of fork() may lead to deadlocks in the child"
    if action == "error" and sys.version_info >= (3, 15):
        assert outcome.out.startswith("None [] This process (pid=") and words in outcome.out
    else:
        assert outcome.out == "child\n"
        assert (words in outcome.err) == (action == "default" and sys.version_info >= (3, 12))
