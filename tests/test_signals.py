"""Ctrl-C and SIGTERM, as a terminal sends them; and programs that end without saying goodbye.

Each program runs in a session of its own with a terminal of its own, and Ctrl-C is typed there: every process of it
gets SIGINT, as with a person at the keyboard.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Programs, kill, pids, stat_fields

PROGRAM = """
import sys, time
import procession
# Here, for Python loses an interrupt that comes at certain moments of an import.
import procession.managers, procession.pool

def long(x=None):
    time.sleep(60)

def wait_for(what, *there):
    for event in there:
        event.set()
    what()

def hold(lock, there):
    with lock:
        there.set()
        long()

def ready():
    print("ready", flush=True)

def with_child(what):
    there = procession.Event()
    child = procession.Process(target=wait_for, args=(what, there))
    child.start()
    there.wait()
    ready()
    what()

def pool_map():
    with procession.Pool(3) as pool:
        pool.map_async(abs, range(30)).get()
        ready()
        pool.map(long, range(20))

def pool_left_open():
    pool = procession.Pool(3)
    ready()
    pool.apply(long)

def pool_join():
    pool = procession.Pool(2)
    pool.map_async(long, range(4))
    pool.close()
    ready()
    pool.join()

def imap():
    with procession.Pool(2) as pool:
        ready()
        for _ in pool.imap_unordered(long, range(4)):
            pass

def join():
    children = [procession.Process(target=long, daemon=n == 2) for n in range(3)]
    for child in children:
        child.start()
    ready()
    for child in children:
        child.join()

def queue_get():
    with_child(procession.Queue().get)

def queue_put():
    queue = procession.Queue(1)
    queue.put(1)
    ready()
    queue.put(2)

def lock():
    lock, there = procession.Lock(), procession.Event()
    procession.Process(target=hold, args=(lock, there)).start()
    there.wait()
    ready()
    lock.acquire()

def condition():
    condition = procession.Condition()
    with condition:
        ready()
        condition.wait()

def event():
    with_child(procession.Event().wait)

def barrier():
    with_child(procession.Barrier(3).wait)

def pipe():
    receiver, sender = procession.Pipe()
    ready()
    receiver.recv()

def manager():
    with procession.Manager() as manager:
        event = manager.Event()
        ready()
        event.wait()

def manager_left_running():
    queue = procession.Manager().Queue()
    ready()
    queue.get()

def executor():
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(2, mp_context=procession.get_context(sys.argv[1])) as executor:
        executor.submit(abs, 1).result()
        futures = [executor.submit(long) for _ in range(9)]
        ready()
        futures[0].result()

def inner_pool():
    with procession.Pool(2) as pool:
        pool.map(long, range(4))

def nested():
    child = procession.Process(target=inner_pool)
    child.start()
    ready()
    child.join()

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    globals()[sys.argv[2]]()
"""

BLOCKED = (
    "pool_map pool_left_open pool_join imap join queue_get queue_put lock condition event barrier pipe manager "
    "manager_left_running executor nested"
).split()


@dataclass
class Ending:
    """How a program ended at its terminal."""

    output: str
    status: int
    seconds: float
    settings_kept: bool


def session(leader: int) -> set[int]:
    """The living processes of a session."""
    found = set()
    for pid in pids():
        fields = stat_fields(pid)
        if fields and int(fields[3]) == leader and fields[0] not in "ZX":
            found.add(pid)
    return found


def at_terminal(path: Path, *args: str, pause: float, number: int | None = None) -> Ending:
    """Run a program at a terminal; when it is ready, wait a little and type Ctrl-C, or send the program a signal."""
    pid, terminal = pty.fork()
    if pid == 0:
        # Of the child of a process with threads: nothing but exec.
        os.execve(sys.executable, [sys.executable, str(path), *args], {**os.environ, "PYTHON_COLORS": "0"})
    output, sent, deadline = b"", None, time.monotonic() + 40
    settings = termios.tcgetattr(terminal)
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.02)[0]:
                try:
                    output += os.read(terminal, 65536)
                except OSError:
                    break  # the last process has closed it
            if sent is None and b"ready" in output:
                time.sleep(pause)
                sent = time.monotonic()
                if number is None:
                    os.write(terminal, b"\x03")
                else:
                    os.kill(pid, number)
        assert sent is not None, output.decode(errors="replace")
        while (left := session(pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        seconds = time.monotonic() - sent
        kept = termios.tcgetattr(terminal) == settings
        assert not left, f"still running: {left}\n{output.decode(errors='replace')}"
    finally:
        os.close(terminal)
        for straggler in session(pid):
            kill(straggler)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ending(output.decode(errors="replace").replace("\r", ""), status, seconds, kept)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", BLOCKED)
def test_ctrl_c_is_one_traceback_and_the_end(program: Path, start_method: str, what: str) -> None:
    ending = at_terminal(program, start_method, what, pause=0.4)
    assert ending.output.count("Traceback") == 1, ending.output
    assert ending.output.endswith("KeyboardInterrupt\n"), ending.output
    assert f"in {what}" in ending.output, ending.output
    assert "Process-" not in ending.output, ending.output
    assert ending.status == -signal.SIGINT
    assert ending.seconds < 30  # a second, on a machine with nothing else to do
    assert ending.settings_kept


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("pause", [0, 0.03, 0.1])
@pytest.mark.parametrize("what", ["nested", "join"])
def test_children_that_have_hardly_begun_end_silently(
    program: Path, start_method: str, what: str, pause: float
) -> None:
    ending = at_terminal(program, start_method, what, pause=pause)
    assert ending.output.count("Traceback") == 1, ending.output
    assert ending.status == -signal.SIGINT


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", ["pool_map", "pool_left_open", "manager", "executor", "queue_put"])
def test_sigterm_ends_all_without_a_word(program: Path, start_method: str, what: str) -> None:
    ending = at_terminal(program, start_method, what, pause=0.3, number=signal.SIGTERM)
    assert ending.output == "ready\n"
    assert ending.status == -signal.SIGTERM
    assert ending.seconds < 30


CHILD = """
import os, signal, sys, time
import procession

def interrupted(there):
    there.set()
    # Not in one go: a signal that comes just before a sleep is only seen after it.
    for _ in range(600):
        time.sleep(0.1)

def cleans_up(there):
    try:
        interrupted(there)
    except KeyboardInterrupt:
        print("cleaned up", flush=True)

def ignores(there):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    there.set()
    time.sleep(0.5)

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    for target in (interrupted, cleans_up, ignores):
        there = procession.Event()
        child = procession.Process(target=target, args=(there,))
        child.start()
        there.wait()
        child.interrupt()
        child.join()
        print(target.__name__, child.exitcode, flush=True)
"""


def test_a_child_may_deal_with_its_interrupt(run_program: Programs, start_method: str) -> None:
    outcome = run_program(CHILD, start_method).check()
    assert outcome.out.splitlines() == ["interrupted 1", "cleaned up", "cleans_up 0", "ignores 0"]
    assert outcome.err == ""


HELD = """
import _thread, itertools, operator, signal
from procession import _interrupts, util

class JustInterrupted:
    # An interrupt comes when the function that blocks it has begun.
    def __iter__(self):
        return itertools.chain((signal.SIGINT,), filter(None, map(operator.call, (_thread.interrupt_main,))))

def blocked(call):
    try:
        call()
    except KeyboardInterrupt:
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

_interrupts.INTERRUPT = JustInterrupted()
print(blocked(_interrupts.hold), blocked(lambda: util.start_server(["/bin/true"], (), JustInterrupted())))
"""


def test_an_interrupt_just_before_interrupts_are_held_leaves_none_held(run_program: Programs) -> None:
    outcome = run_program(HELD).check()
    assert (outcome.out, outcome.err) == ("set() set()\n", "")


ENDINGS = {
    "a pool left open": "pool = procession.Pool(2); pool.map(abs, range(9))",
    "a pool at work": "pool = procession.Pool(2); pool.map_async(time.sleep, [30] * 9); time.sleep(0.2)",
    "a pool in a cycle": "pool = procession.Pool(2); pool.me = pool; del pool",
    "a queue with messages": "queue = procession.Queue(); queue.put(bytes(10_000_000))",
    "a full queue and a thread that waits": (
        "queue = procession.Queue(1); queue.put(1); "
        "threading.Thread(target=queue.put, args=(2,), daemon=True).start(); time.sleep(0.2)"
    ),
    "a daemonic process": "procession.Process(target=time.sleep, args=(60,), daemon=True).start()",
    "a process that has ended": "procession.Process(target=abs, args=(1,)).start(); time.sleep(0.3)",
    "a manager": "manager = procession.Manager(); shared = manager.dict(a=1)",
    "a lock that is held": "lock = procession.Lock(); lock.acquire(); condition = procession.Condition(lock)",
    "shared memory": "from procession import shared_memory; block = shared_memory.SharedMemory(create=True, size=99)",
}


@pytest.mark.parametrize("what", ENDINGS)
def test_a_program_just_ends(run_program: Programs, start_method: str, what: str) -> None:
    program = f"""
import sys, threading, time
import procession
if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    {ENDINGS[what]}
    print("over")
"""
    outcome = run_program(program, start_method).check()
    expected_err = "resource_tracker" if what == "shared memory" else ""
    assert outcome.out == "over\n"
    assert outcome.err == "" or (expected_err and expected_err in outcome.err), outcome.err
    assert outcome.seconds < 25
