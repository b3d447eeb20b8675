"""Small and middling messages."""

from __future__ import annotations

from typing import Any

from ..libraries import Contestant
from ..quantities import RATE, TIME, times
from ..registry import row
from ..timing import Effort, per_item, same
from ..work import echo_connection, echo_queue, produce

#: The library's module has these under multiprocessing's names.
SIMPLE = ("procession", "multiprocessing", "billiard")
QUEUES = ("procession", "multiprocessing", "multiprocessing SimpleQueue", "billiard", "faster-fifo")


def make(contestant: Contestant, kind: str = "Queue") -> Any:
    if contestant.library.name == "faster-fifo":
        from faster_fifo import Queue

        return Queue(max_size_bytes=64 << 20)
    return getattr(contestant.module, contestant.way or kind)()


def surroundings(contestant: Contestant) -> Any:
    """What makes the processes and pipes around the queue."""
    import multiprocessing

    return multiprocessing if contestant.library.name == "faster-fifo" else contestant.module


def one_way(contestant: Contestant, effort: Effort, count: int, items: list[bytes] | None) -> float:
    """A child puts, this process gets."""
    mp = surroundings(contestant)
    queue = make(contestant)
    theirs, orders = mp.Pipe(duplex=False)
    child = mp.Process(target=produce, args=(theirs, queue, items))
    child.start()
    get = queue.get

    def numbers() -> int:
        orders.send(count)
        same(sum(get() for _ in range(count)), count * (count - 1) // 2)
        return count

    def payloads(given: list[bytes]) -> int:
        orders.send(count)
        for i in range(count):
            item, expected = get(), given[i % len(given)]
            same((len(item), item[0], item[-1]), (len(expected), expected[0], expected[-1]))
        return count

    result = per_item(numbers if items is None else lambda: payloads(items), effort)
    orders.send(0)
    child.join()
    same(child.exitcode, 0)
    return result


@row("Queue one way, ints", RATE, times(20), QUEUES)
def ints(contestant: Contestant, effort: Effort) -> float:
    return one_way(contestant, effort, effort.count(20_000), None)


@row("Queue one way, 1 KiB of bytes", RATE, times(10), QUEUES)
def kibibytes(contestant: Contestant, effort: Effort) -> float:
    return one_way(contestant, effort, effort.count(10_000), [bytes([i]) * 1024 for i in range(8)])


@row("Queue one way, 1 MiB of bytes", RATE, times(5), QUEUES)
def mebibytes(contestant: Contestant, effort: Effort) -> float:
    return one_way(contestant, effort, effort.count(50), [bytes([i]) * (1 << 20) for i in range(8)])


def through_queues(contestant: Contestant, effort: Effort, kind: str) -> float:
    mp = surroundings(contestant)
    questions, answers = make(contestant, kind), make(contestant, kind)
    child = mp.Process(target=echo_queue, args=(questions, answers))
    child.start()

    def batch() -> int:
        for i in range(200):
            questions.put(i)
            same(answers.get(), i)
        return 200

    result = per_item(batch, effort)
    questions.put(None)
    child.join()
    same(child.exitcode, 0)
    return result


@row("Queue, there and back", TIME, times(10), (*SIMPLE, "faster-fifo"))
def queue_ping_pong(contestant: Contestant, effort: Effort) -> float:
    return through_queues(contestant, effort, "Queue")


@row("SimpleQueue, there and back", TIME, times(10), SIMPLE)
def simple_queue_ping_pong(contestant: Contestant, effort: Effort) -> float:
    return through_queues(contestant, effort, "SimpleQueue")


@row("Pipe, there and back", TIME, times(1.3), SIMPLE)
def pipe_ping_pong(contestant: Contestant, effort: Effort) -> float:
    mp: Any = contestant.module
    ours, theirs = mp.Pipe()
    child = mp.Process(target=echo_connection, args=(theirs,))
    child.start()

    def batch() -> int:
        for i in range(200):
            ours.send(i)
            same(ours.recv(), i)
        return 200

    result = per_item(batch, effort)
    ours.send(None)
    child.join()
    same(child.exitcode, 0)
    return result
