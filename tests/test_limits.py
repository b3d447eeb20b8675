"""When the system has no more of something: an error that says so, nothing is left behind, and the program goes on."""

from __future__ import annotations

import os

import pytest

from conftest import Programs

HEAD = '''
import errno, importlib, os, resource, signal, sys, time
import procession
from procession import WorkerLost, connection, pool
from procession.pool import PoolBroken

def add(x):
    return x + 1

def process():
    child = procession.Process(target=add, args=(1,))
    child.start()
    child.join()
    return child.exitcode == 0

def pool_of_two():
    with procession.Pool(2) as pool:
        return pool.map(add, range(5)) == [1, 2, 3, 4, 5]

def queue():
    queue = procession.Queue()
    queue.put([1, bytes(100_000)])
    return queue.get() == [1, bytes(100_000)]

def pipe():
    here, there = procession.Pipe()
    with here, there:
        here.send("x")
        return there.recv() == "x"

def manager():
    with procession.Manager() as manager:
        return list(manager.list([1])) == [1]

def handle():
    """A connection, sent through a pipe."""
    here, there = procession.Pipe()
    with here, there:
        here.send(there)
        with there.recv() as again:
            here.send("y")
            return again.recv() == "y"

def locks():
    with procession.Lock(), procession.RLock(), procession.Semaphore(), procession.Condition():
        return not procession.Event().is_set()

ALL = [process, pool_of_two, queue, pipe, manager, handle, locks]

def outcomes(calls=ALL):
    found = {}
    for call in calls:
        try:
            found[call.__name__] = call()
        except Exception as error:
            found[call.__name__] = error
    return found

def all_well(calls=ALL):
    found = outcomes(calls)
    assert all(outcome is True for outcome in found.values()), found

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def settled():
    """How many there are when the number has been the same for a second."""
    count, since = descriptors(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.05)
        if descriptors() != count:
            count, since = descriptors(), time.monotonic()
    return count

def no_descriptors():
    """Use up all descriptors; return what gives them back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 20, before[1]))
    held, refused = [], 0
    # Until there have been none for a while: what has ended may give back a descriptor a moment later.
    while refused < 3:
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
                refused = 0
        except OSError:
            refused += 1
            time.sleep(0.2)
    def give_back():
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    return give_back

def main():
'''


def program(text: str) -> str:
    body = "".join(f"    {line}\n" for line in text.strip().split("\n"))
    return f'{HEAD}{body}\nif __name__ == "__main__":\n    procession.set_start_method(sys.argv[1])\n    main()\n'


NO_DESCRIPTORS = program("""
all_well()  # and everything is imported
before = settled()  # what has ended may give back a descriptor a moment later
give_back = no_descriptors()
found = outcomes()
give_back()
for name in ("process", "pool_of_two", "pipe", "manager", "handle"):
    assert isinstance(found[name], OSError) and found[name].errno == errno.EMFILE, found
for name in ("process", "pool_of_two", "pipe"):
    assert "(ulimit -n, resource.RLIMIT_NOFILE)" in str(found[name]), found
assert str(found["process"]).startswith("[Errno 24] "), found
assert "Process-" in str(found["process"]) and "can't be started" in str(found["process"]), found
# What needs no descriptors works on.
assert found["queue"] is found["locks"] is True, found
assert settled() == before, (before, descriptors())
all_well()
print("done")
""")


def test_no_descriptors_left(run_program: Programs, start_method: str) -> None:
    outcome = run_program(NO_DESCRIPTORS, start_method).check()
    assert outcome.out == "done\n"


@pytest.mark.parametrize("how_many_die", [1, 2])
def test_a_pool_lives_through_a_lack_of_descriptors(run_program: Programs, how_many_die: int) -> None:
    outcome = run_program(
        program(f"""
with procession.Pool(2) as pool:
    assert pool.map(add, range(9)) == list(range(1, 10))
    give_back = no_descriptors()
    for worker in list(pool._pool)[:{how_many_die}]:
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.3)
    late = pool.map_async(add, range(9))
    late.wait(0.5)
    give_back()
    # With one worker left it was done by that one; with none, as soon as there are some again.
    assert late.get(20) == list(range(1, 10))
    assert pool.map(add, range(9)) == list(range(1, 10))
print("done")
"""),
        "spawn",
    ).check()
    assert outcome.out == "done\n"


NO_PROCESSES = program("""
all_well()
for name in ("queue", "socket", "fcntl", "_pickle", "typing", "math"):
    importlib.import_module(name)
# The limit counts for no process of root's; it is another's from here on.
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
found = outcomes([process, pool_of_two, manager, queue, pipe, locks])
for name in ("process", "pool_of_two", "manager"):
    assert isinstance(found[name], BlockingIOError) and found[name].errno == errno.EAGAIN, found
    assert "can't be started" in str(found[name]) and "(ulimit -u)" in str(found[name]), found
assert found["queue"] is found["pipe"] is found["locks"] is True, found
resource.setrlimit(resource.RLIMIT_NPROC, (resource.getrlimit(resource.RLIMIT_NPROC)[1],) * 2)
all_well([process, pool_of_two, queue, pipe, locks])
print("done")
""")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_no_processes_left(run_program: Programs) -> None:
    outcome = run_program(NO_PROCESSES, "fork").check()
    assert outcome.out == "done\n"


POOL_WITHOUT_PROCESSES = program("""
all_well()
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
with procession.Pool(3) as pool:
    assert pool.map(add, range(9)) == list(range(1, 10))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    os.kill(pool._pool[0].pid, signal.SIGKILL)
    time.sleep(0.3)
    assert pool.map(add, range(9)) == list(range(1, 10))  # by those that are left
    resource.setrlimit(resource.RLIMIT_NPROC, (resource.getrlimit(resource.RLIMIT_NPROC)[1],) * 2)
    deadline = time.monotonic() + 20
    while not all(worker.is_alive() for worker in list(pool._pool)):
        assert time.monotonic() < deadline, "no worker was hired again"
        time.sleep(0.01)
    assert pool.map(add, range(9)) == list(range(1, 10))
print("done")
""")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_pool_goes_on_with_fewer_workers_and_hires_when_it_can(run_program: Programs) -> None:
    outcome = run_program(POOL_WITHOUT_PROCESSES, "fork").check()
    assert outcome.out == "done\n"


NO_FILE_SIZE = program("""
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
found = outcomes()
for name in ("process", "pool_of_two", "queue", "manager", "locks"):
    assert isinstance(found[name], MemoryError), found
    assert "on file size (ulimit -f)" in str(found[name]), found
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
all_well()
print("done")
""")


def test_no_memory_for_a_family(run_program: Programs, start_method: str) -> None:
    outcome = run_program(NO_FILE_SIZE, start_method).check()
    assert outcome.out == "done\n"


SMALL_FILE = program("""
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
all_well()
queue = procession.Queue()
for what in (lambda: queue.put(bytes(50_000_000)), lambda: procession.Array("b", 80_000_000)):
    try:
        what()
    except MemoryError as error:
        assert "out of shared memory" in str(error) and "0000 bytes were asked for" in str(error), error
    else:
        raise AssertionError("50 MB in 20")
# Filled up, message by message, and emptied again.
put = 0
try:
    while True:
        queue.put(bytes(1_000_000))
        put += 1
except MemoryError as error:
    assert "the message was not put" in str(error), error
assert put > 3, put
for _ in range(put):
    assert len(queue.get()) == 1_000_000
queue.put(bytes(1_000_000))
all_well()
print("done")
""")


def test_a_family_short_of_memory(run_program: Programs, start_method: str) -> None:
    outcome = run_program(SMALL_FILE, start_method).check()
    assert outcome.out == "done\n"


FULL = program("""
queue = procession.Queue()
# The system has less than that, or refuses the range.
for size in (1 << 42, 1 << 62):
    try:
        procession.RawArray("b", size)
    except (MemoryError, OverflowError, ValueError) as error:
        assert str(error), type(error)
    else:
        raise AssertionError(size)
all_well()
print("done")
""")


def test_more_than_there_is(run_program: Programs) -> None:
    outcome = run_program(FULL, "fork").check()
    assert outcome.out == "done\n"
