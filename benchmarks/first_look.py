"""A first look at speed: procession and the standard library's multiprocessing, side by side in one run.

    python benchmarks/first_look.py [--rounds N] [--smoke] [NAME...]

Every measurement runs in a process of its own, for each library in turn, N rounds; the table shows medians. Each
measures the sustained regime: a warm-up first, then batches until enough time has gone by. What was computed is
checked, and a wrong result fails the run. NAME selects the measurements whose name contains it; --smoke makes
everything small, to see that it works.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

LIBRARIES = ("multiprocessing", "procession")
TIME_LIMIT = 120.0
WORKERS = 2


class Scale:
    """How much is enough."""

    def __init__(self, smoke: bool) -> None:
        self.seconds = 0.02 if smoke else 0.5
        self.large = (4 if smoke else 100) * 1_000_000
        self.few = 2 if smoke else 5


def seconds_per_item(batch: Callable[[], int], scale: Scale) -> float:
    """Time ``batch``, which returns how many items it dealt with, until enough time has gone by."""
    batch()
    items = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < scale.seconds:
        items += batch()
    return elapsed / items


def same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"got {found!r}, not {expected!r}")


# --- what the children run -------------------------------------------------------------------------


def successor(x: int) -> int:
    return x + 1


def nothing() -> None:
    pass


def produce(orders: Any, queue: Any) -> None:
    while count := orders.recv():
        for i in range(count):
            queue.put(i)


def echo(questions: Any, answers: Any) -> None:
    while (item := questions.get()) is not None:
        answers.put(item)


def summarise(receive: Callable[[], Any], answers: Any) -> None:
    while (item := receive()) is not None:
        answers.send(summary(item))
        del item


def summarise_pipe(source: Any, answers: Any) -> None:
    summarise(source.recv, answers)


def summarise_queue(source: Any, answers: Any) -> None:
    summarise(source.get, answers)


def summary(item: Any) -> tuple[int, int]:
    """The size of an array or bytes, and the sum of a value from each of its pages."""
    view = memoryview(item).cast("B")
    return view.nbytes, sum(view[::4096])


# --- what is measured: a function of the library gives seconds per item -------------------------------


def apply_async(mp: Any, scale: Scale) -> float:
    with mp.Pool(WORKERS) as pool:

        def batch() -> int:
            results = [pool.apply_async(successor, (i,)) for i in range(2000)]
            same([result.get() for result in results], list(range(1, 2001)))
            return 2000

        return seconds_per_item(batch, scale)


def map_one_by_one(mp: Any, scale: Scale) -> float:
    with mp.Pool(WORKERS) as pool:

        def batch() -> int:
            same(pool.map(successor, range(5000), chunksize=1), list(range(1, 5001)))
            return 5000

        return seconds_per_item(batch, scale)


def one_apply(mp: Any, scale: Scale) -> float:
    with mp.Pool(WORKERS) as pool:

        def batch() -> int:
            for i in range(100):
                same(pool.apply(successor, (i,)), i + 1)
            return 100

        return seconds_per_item(batch, scale)


def queue_one_way(mp: Any, scale: Scale) -> float:
    queue = mp.Queue()
    theirs, orders = mp.Pipe(duplex=False)
    child = mp.Process(target=produce, args=(theirs, queue))
    child.start()

    def batch() -> int:
        orders.send(20_000)
        same(sum(queue.get() for _ in range(20_000)), 19_999 * 10_000)
        return 20_000

    result = seconds_per_item(batch, scale)
    orders.send(0)
    child.join()
    same(child.exitcode, 0)
    return result


def queue_ping_pong(mp: Any, scale: Scale) -> float:
    questions, answers = mp.Queue(), mp.Queue()
    child = mp.Process(target=echo, args=(questions, answers))
    child.start()

    def batch() -> int:
        for i in range(200):
            questions.put(i)
            same(answers.get(), i)
        return 200

    result = seconds_per_item(batch, scale)
    questions.put(None)
    child.join()
    same(child.exitcode, 0)
    return result


def large(mp: Any, scale: Scale, item: Any, queue: bool) -> float:
    answers, theirs = mp.Pipe(duplex=False)
    if queue:
        channel = mp.Queue()
        send, child = channel.put, mp.Process(target=summarise_queue, args=(channel, theirs))
    else:
        receiver, sender = mp.Pipe(duplex=False)
        send, child = sender.send, mp.Process(target=summarise_pipe, args=(receiver, theirs))
    child.start()
    expected = summary(item)

    def one() -> float:
        began = time.perf_counter()
        send(item)
        answer = answers.recv()
        elapsed = time.perf_counter() - began
        same(answer, expected)
        return elapsed

    one()
    result = statistics.median(one() for _ in range(scale.few))
    send(None)
    child.join()
    same(child.exitcode, 0)
    return result


def large_bytes(scale: Scale) -> bytes:
    return bytes(range(250)) * (scale.large // 250)


def large_array(scale: Scale) -> Any:
    import numpy

    return numpy.arange(scale.large // 8, dtype=numpy.float64)


def bytes_by_pipe(mp: Any, scale: Scale) -> float:
    return large(mp, scale, large_bytes(scale), queue=False)


def bytes_by_queue(mp: Any, scale: Scale) -> float:
    return large(mp, scale, large_bytes(scale), queue=True)


def array_by_pipe(mp: Any, scale: Scale) -> float:
    return large(mp, scale, large_array(scale), queue=False)


def array_by_queue(mp: Any, scale: Scale) -> float:
    return large(mp, scale, large_array(scale), queue=True)


def start_and_join(mp: Any, scale: Scale, start_method: str) -> float:
    context = mp.get_context(start_method)

    def batch() -> int:
        child = context.Process(target=nothing)
        child.start()
        child.join()
        same(child.exitcode, 0)
        return 1

    return seconds_per_item(batch, scale)


def start_by_fork(mp: Any, scale: Scale) -> float:
    return start_and_join(mp, scale, "fork")


def start_by_spawn(mp: Any, scale: Scale) -> float:
    return start_and_join(mp, scale, "spawn")


def start_by_fork_server(mp: Any, scale: Scale) -> float:
    return start_and_join(mp, scale, "forkserver")


def lock_calls(mp: Any, scale: Scale) -> float:
    lock = mp.Lock()
    acquire, release = lock.acquire, lock.release

    def batch() -> int:
        for _ in range(10_000):
            acquire()
            release()
        return 10_000

    return seconds_per_item(batch, scale)


def lock_with(mp: Any, scale: Scale) -> float:
    lock = mp.Lock()

    def batch() -> int:
        for _ in range(10_000):
            with lock:
                pass
        return 10_000

    return seconds_per_item(batch, scale)


def rate(seconds: float) -> str:
    return f"{1 / seconds / 1000:,.1f} k/s"


def time_each(seconds: float) -> str:
    if seconds < 1e-6:
        return f"{seconds * 1e9:.3g} ns"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms"


# What each is called, the function that measures it, and how its result (seconds per item) is shown.
MEASUREMENTS: dict[str, tuple[Callable[[Any, Scale], float], Callable[[float], str]]] = {
    f"pool of {WORKERS}: apply_async, tasks": (apply_async, rate),
    f"pool of {WORKERS}: map with chunksize=1, tasks": (map_one_by_one, rate),
    f"pool of {WORKERS}: one apply()": (one_apply, time_each),
    "queue: ints one way": (queue_one_way, rate),
    "queue: ping-pong of an int": (queue_ping_pong, time_each),
    "pipe: 100 MB of bytes": (bytes_by_pipe, time_each),
    "queue: 100 MB of bytes": (bytes_by_queue, time_each),
    "pipe: array of 100 MB": (array_by_pipe, time_each),
    "queue: array of 100 MB": (array_by_queue, time_each),
    "process: start and join, fork": (start_by_fork, time_each),
    "process: start and join, spawn": (start_by_spawn, time_each),
    "process: start and join, forkserver": (start_by_fork_server, time_each),
    "lock: acquire() and release()": (lock_calls, time_each),
    "lock: with": (lock_with, time_each),
}


# --- running them ----------------------------------------------------------------------------------


def measure(name: str, library: str, smoke: bool) -> float:
    """One round of one measurement, in a process of its own."""
    command = [sys.executable, __file__, "--measure", library, *(["--smoke"] if smoke else []), name]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, _ = child.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise SystemExit(f"{name}, {library}: still running after {TIME_LIMIT:.0f} s") from None
    if child.returncode != 0:
        raise SystemExit(f"{name}, {library}: failed with exit code {child.returncode}")
    return float(json.loads(out))


def table(names: list[str], rounds: int, smoke: bool) -> Iterator[str]:
    yield "| | multiprocessing | procession | ratio |"
    yield "| --- | ---: | ---: | ---: |"
    for name in names:
        found: dict[str, list[float]] = {library: [] for library in LIBRARIES}
        for turn in range(rounds):
            for library in LIBRARIES if turn % 2 == 0 else reversed(LIBRARIES):
                found[library].append(measure(name, library, smoke))
        theirs, ours = (statistics.median(found[library]) for library in LIBRARIES)
        show = MEASUREMENTS[name][1]
        yield f"| {name} | {show(theirs)} | {show(ours)} | {theirs / ours:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only what has this in its name")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="small sizes and one round: does it work at all?")
    parser.add_argument("--measure", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        function = MEASUREMENTS[arguments.names[0]][0]
        print(json.dumps(function(importlib.import_module(arguments.measure), Scale(arguments.smoke))))
        return
    names = [name for name in MEASUREMENTS if all(part in name for part in arguments.names)]
    if not names:
        parser.error("no measurement has that in its name")
    rounds = 1 if arguments.smoke else arguments.rounds
    size = ", smoke run: sizes are smaller than they say" if arguments.smoke else ""
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; "
        f"medians of {rounds} alternated rounds; ratio: how many times faster procession is{size}\n"
    )
    for line in table(names, rounds, arguments.smoke):
        print(line, flush=True)


if __name__ == "__main__":
    main()
