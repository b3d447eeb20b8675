"""What the children run. Imports nothing of size: children that start afresh import it."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def nothing() -> None:
    pass


def successor(x: int) -> int:
    return x + 1


def add_up(count: int) -> int:
    """A short task: as long as it takes to add so many numbers."""
    total = 0
    for i in range(count):
        total += i
    return total


def busy(seconds: float) -> float:
    """Keeps a core busy for so long by the clock, so that two workers can't do it in less than half the sum."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


# --- channels ----------------------------------------------------------------------------------------


def produce(orders: Any, queue: Any, items: list[Any] | None) -> None:
    """Puts as many items as each order says: numbers, or those that it was given, in turn."""
    put = queue.put
    while count := orders.recv():
        if items is None:
            for i in range(count):
                put(i)
        else:
            for i in range(count):
                put(items[i % len(items)])


def echo_queue(questions: Any, answers: Any) -> None:
    while (item := questions.get()) is not None:
        answers.put(item)


def echo_connection(connection: Any) -> None:
    while (item := connection.recv()) is not None:
        connection.send(item)
        del item  # before the next is waited for: an array keeps its memory


# --- arrays ------------------------------------------------------------------------------------------


def touch(array: Any) -> tuple[int, float]:
    """The size of an array, and the sum of a number from each of its pages."""
    return array.nbytes, float(array[::512].sum())


def touch_all(receive: Callable[[], Any], answers: Any) -> None:
    while (array := receive()) is not None:
        answers.send(touch(array))
        del array


def touch_from_pipe(source: Any, answers: Any) -> None:
    touch_all(source.recv, answers)


def touch_from_queue(source: Any, answers: Any) -> None:
    touch_all(source.get, answers)


def touch_raw_from_queue(source: Any, answers: Any) -> None:
    """What comes is a RawArray, or an array."""
    import numpy

    while (array := source.get()) is not None:
        answers.send(touch(numpy.frombuffer(array)))
        del array


def touch_from_bytes(source: Any, answers: Any) -> None:
    import numpy

    while data := source.recv_bytes():
        answers.send(touch(numpy.frombuffer(data)))


def touch_from_shared_memory(source: Any, answers: Any) -> None:
    """Each message is the name of a piece of shared memory, which is removed here."""
    from multiprocessing.shared_memory import SharedMemory

    import numpy

    while (message := source.recv()) is not None:
        name, length = message
        memory = SharedMemory(name)
        answers.send(touch(numpy.ndarray((length,), numpy.float64, memory.buf)))
        memory.close()
        memory.unlink()


def touch_attached(source: Any, answers: Any, name: str, length: int) -> None:
    """The array is attached to once, and looked at again for each message."""
    from multiprocessing.shared_memory import SharedMemory

    import numpy

    memory = SharedMemory(name)
    while source.recv() is not None:
        answers.send(touch(numpy.ndarray((length,), numpy.float64, memory.buf)))
    memory.close()


_made: dict[int, Any] = {}


def give_array(length: int) -> Any:
    """An array, as the result of a task; made once."""
    if length not in _made:
        import numpy

        _made[length] = numpy.arange(length, dtype=numpy.float64)
    return _made[length]


# --- synchronization ---------------------------------------------------------------------------------


def add_under_lock(value: Any, count: int, start: Any) -> None:
    start.wait()
    for _ in range(count):
        with value.get_lock():
            value.value += 1


def events_back_and_forth(here: Any, there: Any, count: int) -> None:
    for _ in range(count):
        here.wait()
        here.clear()
        there.set()


def events_tell_when(event: Any, woken: Any, times: Any, count: int) -> None:
    for _ in range(count):
        event.wait()
        times.send(time.perf_counter())
        event.clear()
        woken.set()


def conditions_tell_when(condition: Any, ready: Any, times: Any, count: int) -> None:
    for _ in range(count):
        with condition:
            ready.set()
            condition.wait()
            woken = time.perf_counter()
        times.send(woken)


def turns(condition: Any, turn: Any, mine: int, count: int) -> None:
    """Waits for its turn and passes it on, `count` times."""
    for _ in range(count):
        with condition:
            while turn.value != mine:
                condition.wait()
            turn.value = 1 - mine
            condition.notify()
