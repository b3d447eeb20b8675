"""A program that is killed leaves nobody and nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import describe, held_by_strangers, kill, marked

PROGRAM = """
import os, sys, time
import procession

def long(x=None):
    time.sleep(60)

def hold(lock):
    with lock:
        long()

def inner(method, there):
    procession.set_start_method(method, force=True)
    pool = procession.Pool(2)
    pool.map(abs, range(10))
    manager = procession.Manager()
    shared = manager.list(range(9))
    there.set()
    long()

def busy_pool():
    pool = procession.Pool(3)
    pool.map(abs, range(30))
    pool.map_async(long, range(9))
    time.sleep(0.1)
    return pool

def idle_pool():
    pool = procession.Pool(3)
    pool.map(abs, range(30))
    return pool

def pool_with_a_full_pipe_of_results():
    pool = procession.Pool(2)
    pool.map_async(bytes, [1_000_000] * 200)
    return pool

def pool_at_its_start():
    return procession.Pool(4)

def manager():
    manager = procession.Manager()
    return manager, manager.dict(a=1), manager.Queue()

def daemons():
    lock = procession.Lock()
    for target, args in [(long, ()), (hold, (lock,)), (hold, (lock,))]:
        procession.Process(target=target, args=args, daemon=True).start()

def nested():
    # Not daemonic, so it may have children; it watches its parent by itself.
    there = procession.Event()
    child = procession.Process(target=watched_inner, args=(sys.argv[1], there, os.getpid()))
    child.start()
    there.wait()

def watched_inner(method, there, parent):
    import threading
    def watch():
        procession.parent_process().join()
        os.kill(os.getpid(), 9)
    threading.Thread(target=watch, daemon=True).start()
    inner(method, there)

def named_memory():
    from procession import shared_memory
    block = shared_memory.SharedMemory(create=True, size=10_000)
    segments = shared_memory.ShareableList([1, 2, 3])
    return block, segments, idle_pool()

def listener():
    from procession.connection import Listener
    return Listener(family="AF_UNIX"), Listener(authkey=b"key"), idle_pool()

def executor():
    from concurrent.futures import ProcessPoolExecutor
    executor = ProcessPoolExecutor(2, mp_context=procession.get_context(sys.argv[1]))
    executor.submit(abs, 1).result()
    executor.submit(long)
    return executor

def start(*calls):
    # Not daemonic: what they wait for is not going to happen.
    for target, *args in calls:
        procession.Process(target=target, args=args).start()
    time.sleep(0.3)

def consume(queue):
    while True:
        queue.get()

def pass_on(queue, next):
    while True:
        next.put(queue.get())

def fill(queue):
    while True:
        queue.put(1)

def consumers():
    queue = procession.Queue()
    start(*[(consume, queue)] * 3)
    return queue

def stages():
    first, second, third = procession.Queue(), procession.SimpleQueue(), procession.JoinableQueue(2)
    start((pass_on, first, second), (pass_on, second, third), (consume, third))
    return first

def producers():
    queue = procession.Queue(2)
    start((fill, queue), (fill, queue))
    return queue

def waiters():
    event, semaphore, condition = procession.Event(), procession.Semaphore(0), procession.Condition()
    start((event.wait,), (event.wait,), (semaphore.acquire,), (wait_for_condition, condition))
    return event, semaphore, condition

def wait_for_condition(condition):
    with condition:
        condition.wait()

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    kept = globals()[sys.argv[2]]()
    print("ready", flush=True)
    long()
"""

FAMILIES = (
    "busy_pool idle_pool pool_with_a_full_pipe_of_results pool_at_its_start manager daemons nested "
    "named_memory listener executor consumers stages producers waiters"
).split()


def shm_names() -> set[str]:
    """The names in /dev/shm that this package, or the standard library's, makes."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "procession", "pym-", "mp-"))}


def memory_users() -> set[int]:
    """The processes that have memory of a family mapped or open, as far as may be seen."""
    found = set()
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and "/memfd:procession" in Path(f"/proc/{name}/maps").read_text():
                found.add(int(name))
        except OSError:
            pass
    return found


class Family:
    """A program whose every process can be found."""

    def __init__(self, path: Path, *args: str) -> None:
        self.mark = f"PROCESSION_TEST_RUN={uuid.uuid4().hex}"
        self.folder = path.parent / "tmp"
        self.folder.mkdir()
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        environment.update([self.mark.split("=", 1)])
        self.root = subprocess.Popen([sys.executable, str(path), *args], stdout=subprocess.PIPE, env=environment)

    def ready(self) -> None:
        assert self.root.stdout is not None
        assert self.root.stdout.readline() == b"ready\n"

    def kill_root(self) -> None:
        self.root.kill()
        assert self.root.wait(20) == -signal.SIGKILL

    def survivors(self, within: float) -> set[int]:
        deadline = time.monotonic() + within
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left


@pytest.fixture
def family(tmp_path: Path, request: pytest.FixtureRequest, start_method: str) -> Iterator[Family]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    family = Family(path, start_method, request.param)
    yield family
    for pid in marked(family.mark):
        kill(pid)
    family.root.wait()
    assert family.root.stdout is not None
    family.root.stdout.close()


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_nobody_survives_a_root_that_is_killed(family: Family) -> None:
    names = shm_names()
    family.ready()
    others = marked(family.mark) - {family.root.pid}
    assert others
    family.kill_root()
    left = family.survivors(within=30)  # a second, on a machine with nothing else to do
    assert not left, "".join(map(describe, left))
    assert not others & memory_users()

    def left_names() -> set[str]:
        new = shm_names() - names
        return new - held_by_strangers(new)

    deadline = time.monotonic() + 10
    while (kept := left_names()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not kept
    assert not list(family.folder.rglob("*"))  # no socket, no temporary folder


OUTLIVES = """
import os, sys, time
import procession

def worker(queue, path):
    # Its parent is gone; what they shared is not.
    procession.parent_process().join()
    lock = procession.Lock()
    with lock:
        queue.put("still here")
    with open(path, "w") as file:
        file.write(queue.get())

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    queue = procession.Queue()
    child = procession.Process(target=worker, args=(queue, sys.argv[2]))
    child.start()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_no_daemon_goes_on_and_can_use_what_it_has(tmp_path: Path, start_method: str) -> None:
    path, written = tmp_path / "program.py", tmp_path / "written"
    path.write_text(OUTLIVES, encoding="utf-8")
    family = Family(path, start_method, str(written))
    try:
        family.ready()
        family.kill_root()
        assert not family.survivors(within=20)
        assert written.read_text() == "still here"
    finally:
        for pid in marked(family.mark):
            kill(pid)
        assert family.root.stdout is not None
        family.root.stdout.close()


COMES_LATER = """
import os, sys, threading, time
import procession

def consume(queue, path):
    procession.parent_process().join()
    with open(path, "w") as file:
        file.write(queue.get())

def work_on(queue, path):
    procession.parent_process().join()
    time.sleep(2)
    queue.put("from a sibling")

def consume_from_oneself(queue, path):
    procession.parent_process().join()
    threading.Timer(2, queue.put, ["from a thread"]).start()
    with open(path, "w") as file:
        file.write(queue.get())

def nobody_comes(queue, path):
    procession.parent_process().join()
    try:
        queue.get()
    except EOFError as error:
        with open(path, "w") as file:
            file.write(str(error))

def join(queue, path):
    procession.parent_process().join()
    try:
        queue.join()
    except EOFError as error:
        with open(path, "a") as file:
            file.write(str(error))

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    queue = procession.JoinableQueue()
    if "join" in sys.argv:
        queue.put("nobody gets it")
    for name in sys.argv[3:]:
        procession.Process(target=globals()[name], args=(queue, sys.argv[2])).start()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["consume", "work_on"], "from a sibling"),
        (["consume_from_oneself"], "from a thread"),
        (["nobody_comes"], "nobody is left who could put anything into this queue"),
        (["join", "join"], "nobody is left who could finish what was put into this queue"),
    ],
)
def test_who_waits_in_vain_is_told_and_nobody_else(
    tmp_path: Path, start_method: str, names: list[str], expected: str
) -> None:
    path, written = tmp_path / "program.py", tmp_path / "written"
    path.write_text(COMES_LATER, encoding="utf-8")
    family = Family(path, start_method, str(written), *names)
    try:
        family.ready()
        family.kill_root()
        assert not family.survivors(within=20)
        assert written.read_text().startswith(expected)
    finally:
        for pid in marked(family.mark):
            kill(pid)
        assert family.root.stdout is not None
        family.root.stdout.close()
