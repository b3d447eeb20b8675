"""Clients that are given one of our contexts: `concurrent.futures`' executor, and loaders such as PyTorch's.

They stand on the standard library's multiprocessing, which is loaded beside ours; nothing is installed in its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conftest import Programs

# What all programs begin with. They are imported by their children too.
HEAD = """
import concurrent.futures, os, signal, sys, time
from concurrent.futures.process import BrokenProcessPool
import multiprocessing.connection
import procession

def executor(workers, **options):
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=procession.get_context(sys.argv[1]), **options)

def square(x):
    return x * x

def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)

def parent_is(pid):
    return procession.parent_process().pid == pid
"""


def program(text: str) -> str:
    definitions, _, main = text.partition("\n---\n")
    return f"{HEAD}{definitions}\nif __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in main.split("\n"))


TASKS = program("""
def fail(x):
    raise LookupError(x)

class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not to be pickled")

---
with executor(2) as pool:
    assert list(pool.map(square, range(100), chunksize=7)) == [x * x for x in range(100)]
    assert pool.submit(parent_is, os.getpid()).result(30)  # its workers are our processes
    big = bytes(range(256)) * 40_000
    assert pool.submit(bytes.upper, big).result(30) == big.upper()
    error = pool.submit(fail, 3).exception(30)
    assert type(error) is LookupError and "raise LookupError(x)" in str(error.__cause__), error
    error = pool.submit(square, Unpicklable()).exception(30)
    assert type(error) is RuntimeError, error
    assert pool.submit(square, 4).result(30) == 16
try:
    pool.submit(square, 1)
except RuntimeError:
    print("done")
""")


def test_tasks(start_method: str, run_program: Programs) -> None:
    assert run_program(TASKS, start_method).check().out == "done\n"


INITIALIZER = program("""
def begin(*given):
    global lock, total, queue
    lock, total, queue = given
    queue.put(os.getpid())

def add(x):
    with lock:
        total.value += x

---
ctx = procession.get_context(sys.argv[1])
lock, total, queue = ctx.Lock(), ctx.RawValue("i"), ctx.Queue()
with executor(2, initializer=begin, initargs=(lock, total, queue)) as pool:
    list(pool.map(add, range(100)))
print(total.value, queue.get(timeout=30) != os.getpid())
""")


def test_shared_objects_in_the_initializer(start_method: str, run_program: Programs) -> None:
    assert run_program(INITIALIZER, start_method).check().out == "4950 True\n"


KILLED = program("""
---
with executor(2) as pool:
    futures = [pool.submit(time.sleep, 60), pool.submit(kill_me), pool.submit(time.sleep, 60)]
    for future in futures:
        assert type(future.exception(30)) is BrokenProcessPool, future
    try:
        pool.submit(square, 2)
    except BrokenProcessPool:
        print("broken")
with executor(1) as pool:
    assert pool.submit(square, 2).result(30) == 4
    worker = next(iter(pool._processes.values()))
    worker.terminate()  # an idle one
    worker.join(30)
    assert worker.exitcode == -signal.SIGTERM, worker
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            pool.submit(square, 2).exception(30)
        except BrokenProcessPool:
            print("broken")
            break
with executor(1) as pool:
    print(pool.submit(square, 5).result(30))
""")


def test_killed_worker_breaks_the_pool(start_method: str, run_program: Programs) -> None:
    assert run_program(KILLED, start_method).check().out == "broken\nbroken\n25\n"


ENDED = program("""
---
for end in ("terminate_workers", "kill_workers"):
    pool = executor(2)
    assert list(pool.map(square, range(20), buffersize=3)) == [x * x for x in range(20)]
    asleep = pool.submit(time.sleep, 60)
    while not asleep.running():
        time.sleep(0.01)
    workers = list(pool._processes.values())
    getattr(pool, end)()
    print(type(asleep.exception(30)).__name__)
    for worker in workers:
        worker.join(30)
        assert worker.exitcode is not None, worker
""")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the executor has these methods from Python 3.14 on")
def test_workers_are_ended(start_method: str, run_program: Programs) -> None:
    assert run_program(ENDED, start_method).check().out == "BrokenProcessPool\nBrokenProcessPool\n"


SLOW_TO_END = program("""
def dawdle(number, frame):
    time.sleep(0.3)
    os._exit(0)

def be_slow_to_end(path):
    signal.signal(signal.SIGTERM, dawdle)
    open(path, "w").close()
    time.sleep(60)

---
with executor(2) as pool:
    # Of a worker that was started for the very task that kills it the executor may not know yet.
    list(pool.map(time.sleep, [0.2, 0.2]))
    slow = pool.submit(be_slow_to_end, sys.argv[2])
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    killed = pool.submit(kill_me)
    for future in (slow, killed):
        assert type(future.exception(30)) is BrokenProcessPool, future
    workers = list(pool._processes.values())
print([worker.is_alive() for worker in workers])
""")


def test_workers_that_outlive_their_broken_pool_are_awaited(
    start_method: str, run_program: Programs, tmp_path: Path
) -> None:
    # Its queue is one of ours then.
    options = ["-m", "procession"]
    outcome = run_program(SLOW_TO_END, start_method, str(tmp_path / "begun"), options=options).check()
    assert (outcome.out, outcome.err) == ("[False, False]\n", "")


WORN_OUT = program("""
---
with executor(2, max_tasks_per_child=1) as pool:
    pids = {pool.submit(os.getpid).result(30) for _ in range(6)}
    print(len(pids), sum(future.result(30) for future in [pool.submit(square, x) for x in range(6)]))
""")


# The executor refuses to do that by fork.
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_end_after_each_task(method: str, run_program: Programs) -> None:
    """A worker ends right after its result was put. Were its end seen first, the pool would be broken."""
    assert run_program(WORN_OUT, method).check().out == "6 55\n"


LAST_WORDS = program("""
def say(queue, x):
    queue.put(x)

---
ctx = procession.get_context(sys.argv[1])
queue = ctx.SimpleQueue()
for x in range(int(sys.argv[2])):
    process = ctx.Process(target=say, args=(queue, x))
    process.start()
    ready = multiprocessing.connection.wait([queue._reader, process.sentinel], 30)
    assert queue._reader in ready, ready
    assert queue.get() == x
    assert not queue._reader.poll()
    process.join()
    assert process.exitcode == 0
print("done")
""")


def test_message_is_seen_before_the_end_of_its_sender(start_method: str, run_program: Programs) -> None:
    rounds = 20 if start_method == "spawn" else 200
    assert run_program(LAST_WORDS, start_method, str(rounds)).check().out == "done\n"


# As PyTorch's DataLoader does it: the context is checked to be one, each worker has a queue of indices, there is one
# queue of results, and an event says that it is over.
LOADER = program("""
def work(dataset, indices, results, over):
    while not over.is_set():
        try:
            index = indices.get(timeout=5)
        except multiprocessing.queues.Empty:
            continue
        if index is None:
            break
        results.put((index, dataset[index]))
    if over.is_set():
        results.cancel_join_thread()
        results.close()

---
ctx = procession.get_context(sys.argv[1])
assert isinstance(ctx, multiprocessing.context.BaseContext)
assert isinstance(procession.context._default_context, multiprocessing.context.BaseContext)
assert ctx.get_start_method() == sys.argv[1]
dataset = [x * x for x in range(50)]
results, over = ctx.Queue(), ctx.Event()
workers = []
for number in range(2):
    indices = ctx.Queue()
    indices.cancel_join_thread()
    process = ctx.Process(target=work, args=(dataset, indices, results, over))
    process.daemon = True
    process.start()
    workers.append((process, indices))
for index in range(50):
    workers[index % 2][1].put(index)
loaded = dict(results.get(timeout=30) for _ in range(50))
assert loaded == dict(enumerate(dataset)), loaded
over.set()
for process, indices in workers:
    indices.put(None)
    process.join(30)
    assert process.exitcode == 0, process
    indices.cancel_join_thread()
    indices.close()
print("done")
""")


@pytest.mark.parametrize("first", ["multiprocessing.context", "procession"])
def test_loader(start_method: str, first: str, run_program: Programs) -> None:
    assert run_program(f"import {first}\n{LOADER}", start_method).check().out == "done\n"
