"""The interface on top of threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from procession import dummy
from procession.dummy import connection

BOUND = 20.0


def test_processes_are_threads() -> None:
    seen: list[Any] = []
    go = threading.Event()

    def work(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs, dummy.current_process().name))
        assert go.wait(BOUND)

    process = dummy.Process(target=work, name="worker", args=(1,), kwargs={"two": 2})
    assert process.exitcode is None
    assert dummy.active_children() == []
    process.start()
    assert process.is_alive()
    assert process.exitcode is None
    assert dummy.active_children() == [process]
    go.set()
    process.join(BOUND)
    assert (process.exitcode, dummy.active_children()) == (0, [])
    assert seen == [((1,), {"two": 2}, "worker")]


def test_only_its_maker_starts_a_process() -> None:
    process = dummy.Process(target=int)
    errors: list[BaseException] = []

    def start() -> None:
        try:
            process.start()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(BOUND)
    assert "can start it" in str(errors[0])


def test_pipes() -> None:
    one, other = dummy.Pipe()
    anything = object()
    one.send(anything)
    assert other.poll()
    assert other.recv() is anything
    assert not other.poll(0.01)
    assert not other.poll(-1)
    with one:
        one.send(1)
    assert other.recv() == 1
    assert not other.poll()
    one.send("closed by the thread that made it, not by this one")
    assert other.poll(BOUND)
    reader, writer = dummy.Pipe(duplex=False)
    writer.send_bytes(b"x")
    assert reader.recv_bytes() == b"x"
    for misuse in (lambda: reader.send(1), writer.recv, writer.poll):
        with pytest.raises(OSError):
            misuse()


def test_listener_and_client() -> None:
    with connection.Listener() as listener:
        with connection.Client(listener.address) as theirs, listener.accept() as ours:
            theirs.send("hello")
            assert ours.recv() == "hello"
            ours.send("bye")
            assert theirs.recv() == "bye"
    with pytest.raises(OSError):
        listener.accept()


def test_manager_is_the_module() -> None:
    manager = dummy.Manager()
    namespace = manager.Namespace(a=1)
    namespace.b = [2]
    assert repr(namespace) == "Namespace(a=1, b=[2])"
    assert manager.dict(a=1) == {"a": 1}
    assert manager.list((1, 2)) == [1, 2]
    value = manager.Value("i", 3)
    value.value += 1
    assert "4" in repr(value)
    assert list(manager.Array("i", [1, 2])) == [1, 2]
    manager.shutdown()


def test_queues_and_locks() -> None:
    queue: dummy.Queue[int] = dummy.JoinableQueue(1)
    queue.put(1)
    assert queue.get() == 1
    queue.task_done()
    queue.join()
    for make in (dummy.Lock, dummy.RLock, dummy.Semaphore, dummy.BoundedSemaphore, dummy.Condition):
        with make():
            pass
    event = dummy.Event()
    event.set()
    assert event.wait(BOUND)
    assert dummy.Barrier(1).wait(BOUND) == 0


def test_pool_of_threads() -> None:
    here = threading.get_ident()
    with dummy.Pool(2) as pool:
        assert pool.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]
        assert pool.apply(threading.get_ident) != here
