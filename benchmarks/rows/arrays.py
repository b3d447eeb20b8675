"""An array of 100 MB of float64, until its receiver has looked at every page of it and said so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..libraries import Contestant
from ..pools import POOLS, open_pool
from ..quantities import MULTIPLE, TIME, at_most, times
from ..registry import Measure, row
from ..timing import Effort, median_of, same
from ..work import (
    echo_connection,
    give_array,
    touch,
    touch_attached,
    touch_from_bytes,
    touch_from_pipe,
    touch_from_queue,
    touch_from_shared_memory,
    touch_raw_from_queue,
)

SIMPLE = ("procession", "multiprocessing", "billiard")


def length(effort: Effort) -> int:
    return effort.bytes(100_000_000) // 8


def make_array(effort: Effort) -> Any:
    import numpy

    return numpy.arange(length(effort), dtype=numpy.float64)


def warm_copy(effort: Effort) -> float:
    """How long memcpy takes for as much, between two arrays that have been used."""
    import numpy

    source = make_array(effort)
    target = source.copy()

    def once() -> float:
        began = time.perf_counter()
        numpy.copyto(target, source)
        return time.perf_counter() - began

    return median_of(once, effort)


def until_touched(
    mp: Any,
    effort: Effort,
    target: Callable[..., None],
    source: Any,
    send: Callable[[], None],
    end: Callable[[], None],
    expected: tuple[int, float],
    *more: Any,
) -> float:
    """The time from the beginning of `send` to the answer of a child that runs `target`."""
    answers, theirs = mp.Pipe(duplex=False)
    child = mp.Process(target=target, args=(source, theirs, *more))
    child.start()

    def once() -> float:
        began = time.perf_counter()
        send()
        answer = answers.recv()
        elapsed = time.perf_counter() - began
        same(answer, expected)
        return elapsed

    result = median_of(once, effort)
    end()
    child.join()
    same(child.exitcode, 0)
    return result


def by_pipe(contestant: Contestant, effort: Effort) -> float:
    mp: Any = contestant.module
    array = make_array(effort)
    receiver, sender = mp.Pipe(duplex=False)
    if contestant.way == "send_bytes":
        return until_touched(
            mp,
            effort,
            touch_from_bytes,
            receiver,
            lambda: sender.send_bytes(array.view("u1")),
            lambda: sender.send_bytes(b""),
            touch(array),
        )
    if contestant.way == "shared_memory":
        return until_touched(
            mp,
            effort,
            touch_from_shared_memory,
            receiver,
            lambda: send_by_name(sender, array),
            lambda: sender.send(None),
            touch(array),
        )
    return until_touched(
        mp, effort, touch_from_pipe, receiver, lambda: sender.send(array), lambda: sender.send(None), touch(array)
    )


def send_by_name(sender: Any, array: Any) -> None:
    """By hand: a piece of shared memory for each message."""
    from multiprocessing.shared_memory import SharedMemory

    import numpy

    memory = SharedMemory(create=True, size=array.nbytes)
    numpy.copyto(numpy.ndarray(array.shape, array.dtype, memory.buf), array)
    sender.send((memory.name, len(array)))
    memory.close()


def by_queue(contestant: Contestant, effort: Effort) -> float:
    mp: Any = contestant.module
    array = make_array(effort)
    queue = getattr(mp, contestant.way or "Queue")()
    return until_touched(
        mp, effort, touch_from_queue, queue, lambda: queue.put(array), lambda: queue.put(None), touch(array)
    )


def as_result(contestant: Contestant, effort: Effort) -> float:
    expected = touch(make_array(effort))
    with open_pool(contestant, 1) as pool:

        def once() -> float:
            began = time.perf_counter()
            answer = touch(pool.apply(give_array, length(effort)))
            elapsed = time.perf_counter() - began
            same(answer, expected)
            return elapsed

        return median_of(once, effort)


def over_copy(measure: Measure) -> Measure:
    def ratio(contestant: Contestant, effort: Effort) -> float:
        return measure(contestant, effort) / warm_copy(effort)

    ratio.__module__ = __name__
    return ratio


BY_HAND = ("multiprocessing send_bytes", "multiprocessing shared_memory")

for name, measure, contestants, aside in (
    ("array through a Pipe", by_pipe, SIMPLE, BY_HAND),
    ("array through a Queue", by_queue, (*SIMPLE[:2], "multiprocessing SimpleQueue", SIMPLE[2]), ()),
    ("array as the result of a task", as_result, POOLS, ()),
):
    row(name, TIME, times(20), contestants, aside)(measure)
    row(f"{name}, over a warm memcpy", MULTIPLE, at_most(2.5, "at most 2.5x"), SIMPLE[:2])(over_copy(measure))


@row("an array that was received, sent on", TIME, times(200), SIMPLE)
def sent_again(contestant: Contestant, effort: Effort) -> float:
    """There and back, since it came from the other side; half of that is one way."""
    return there_and_back(contestant, effort, make_array(effort))


@row("a read-only array that was received, sent on", TIME, times(200), SIMPLE)
def read_only_sent_again(contestant: Contestant, effort: Effort) -> float:
    """The same of one with `flags.writeable = False`."""
    array = make_array(effort)
    array.flags.writeable = False
    return there_and_back(contestant, effort, array)


def there_and_back(contestant: Contestant, effort: Effort, array: Any) -> float:
    mp: Any = contestant.module
    ours, theirs = mp.Pipe()
    child = mp.Process(target=echo_connection, args=(theirs,))
    child.start()
    ours.send(array)
    array = ours.recv()
    expected = touch(array)

    def once() -> float:
        nonlocal array
        began = time.perf_counter()
        ours.send(array)
        del array
        array = ours.recv()
        answer = touch(array)
        elapsed = time.perf_counter() - began
        same(answer, expected)
        return elapsed / 2

    result = median_of(once, effort)
    ours.send(None)
    child.join()
    same(child.exitcode, 0)
    return result


@row("an array born in shared memory (RawArray), sent", TIME, times(200), SIMPLE, ["multiprocessing attached"])
def born_shared(contestant: Contestant, effort: Effort) -> float:
    """Beside: what a program can do that attaches both processes to one piece of memory, and then sends a word."""
    import numpy

    mp: Any = contestant.module
    receiver, sender = mp.Pipe(duplex=False)
    values = make_array(effort)
    if contestant.way == "attached":
        from multiprocessing.shared_memory import SharedMemory

        memory = SharedMemory(create=True, size=values.nbytes)
        try:
            numpy.copyto(numpy.ndarray(values.shape, values.dtype, memory.buf), values)
            return until_touched(
                mp,
                effort,
                touch_attached,
                receiver,
                lambda: sender.send(1),
                lambda: sender.send(None),
                touch(values),
                memory.name,
                len(values),
            )
        finally:
            memory.close()
            memory.unlink()
    array = numpy.frombuffer(mp.RawArray("d", len(values)))
    numpy.copyto(array, values)
    return until_touched(
        mp, effort, touch_from_pipe, receiver, lambda: sender.send(array), lambda: sender.send(None), touch(values)
    )


@row("an array for all to read (freeze), sent", TIME, times(200), SIMPLE)
def frozen(contestant: Contestant, effort: Effort) -> float:
    """Copied once before, where that can be done; the standard library's is copied each time."""
    mp: Any = contestant.module
    values = make_array(effort)
    array = mp.freeze(values) if contestant.library.name == "procession" else values
    receiver, sender = mp.Pipe(duplex=False)
    return until_touched(
        mp, effort, touch_from_pipe, receiver, lambda: sender.send(array), lambda: sender.send(None), touch(values)
    )


@row("a RawArray itself, sent by a queue", TIME, times(200), SIMPLE)
def raw_array(contestant: Contestant, effort: Effort) -> float:
    """Its receiver works on the same memory. The standard library can only send the numbers in it."""
    import numpy

    mp: Any = contestant.module
    values = make_array(effort)
    raw = mp.RawArray("d", len(values))
    array = numpy.frombuffer(raw)
    numpy.copyto(array, values)
    queue = mp.SimpleQueue()
    sent = raw if contestant.library.name == "procession" else array
    return until_touched(
        mp, effort, touch_raw_from_queue, queue, lambda: queue.put(sent), lambda: queue.put(None), touch(values)
    )
