"""A program that uses every public name of the package, for `mypy --strict` and to be run.

test_every_name.py sees to it that none is missing: it looks for `module.name` in this file.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import queue
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, assert_type

import procession
from procession import (
    connection,
    context,
    dummy,
    forkserver,
    heap,
    managers,
    pool,
    process,
    queues,
    reduction,
    resource_sharer,
    resource_tracker,
    shared_memory,
    sharedctypes,
    spawn,
    synchronize,
    util,
)
from procession.dummy import connection as dummy_connection


def square(number: int) -> int:
    return number * number


def add(a: int, b: int) -> int:
    return a + b


def greet(answers: queues.Queue[str], lock: synchronize.Lock, name: str) -> None:
    with lock:
        answers.put(f"hello {name}")


class Greeter(procession.Process):
    def __init__(self, answers: queues.SimpleQueue[str]) -> None:
        super().__init__(name="greeter", daemon=True)
        self.answers = answers

    def run(self) -> None:
        parent = procession.parent_process()
        assert parent is not None
        self.answers.put(f"{procession.current_process().name} of {parent.name}")


def processes() -> None:
    answers: queues.Queue[str] = procession.Queue(5)
    lock = procession.Lock(on_owner_death="raise")
    child = procession.Process(target=greet, args=(answers, lock, "Ada"), name="child", daemon=False)
    child.start()
    assert_type(child.pid, int | None)
    assert_type(child.sentinel, int)
    assert answers.get(timeout=30) == "hello Ada"
    child.join(30)
    assert child.exitcode == 0 and not child.is_alive() and child.name == "child" and not child.daemon
    child.close()
    said: queues.SimpleQueue[str] = procession.SimpleQueue()
    greeter = Greeter(said)
    greeter.start()
    assert said.get() == "greeter of MainProcess"
    assert greeter in [*procession.active_children(), greeter]
    greeter.join()
    asleep = procession.Process(target=procession.Event().wait)
    asleep.start()
    for stop in (asleep.interrupt, asleep.terminate, asleep.kill):
        stop()
    asleep.join()
    asleep.authkey = b"key"
    assert isinstance(child, process.BaseProcess) and isinstance(child, context.Process)
    assert process.current_process() is procession.current_process()
    assert process.parent_process() is None and process.active_children() == []
    assert procession.cpu_count() > 0


def contexts() -> None:
    assert procession.get_start_method(allow_none=True) in (None, *procession.get_all_start_methods())
    method = procession.get_start_method()
    procession.set_start_method(method, force=True)
    for name, cls, kind in (
        ("fork", context.ForkContext, context.ForkProcess),
        ("spawn", context.SpawnContext, context.SpawnProcess),
        ("forkserver", context.ForkServerContext, context.ForkServerProcess),
    ):
        ctx = procession.get_context(name)
        assert isinstance(ctx, cls) and isinstance(ctx, context.BaseContext) and ctx.Process is kind
        assert_type(ctx.Event(), synchronize.Event)
        assert_type(ctx.get_start_method(), str | None)
    assert issubclass(context.DefaultContext, context.BaseContext)
    procession.set_executable(sys.executable)
    procession.set_forkserver_preload(["json"], on_error="warn")
    procession.freeze_support()
    procession.allow_connection_pickling()
    assert procession.reducer is reduction
    assert context.get_spawning_popen() is None
    context.set_spawning_popen(None)
    try:
        context.assert_spawning(procession.current_process())
    except RuntimeError as error:
        assert "inheritance" in str(error)


def synchronization() -> None:
    rlock = procession.RLock()
    condition = procession.Condition(rlock)
    with condition:
        assert_type(condition.wait(0), bool)
        assert condition.wait_for(lambda: 5, timeout=1) == 5
        condition.notify()
        condition.notify_all()
    assert_type(rlock.owner(), tuple[int, int, str] | None)
    assert not rlock.locked() and rlock.waiters() == 0
    permits = procession.Semaphore(2)
    assert permits.acquire() and permits.get_value() == 1 and not permits.locked()
    permits.release()
    bounded = procession.BoundedSemaphore()
    try:
        bounded.release()
    except ValueError:
        pass
    event = procession.Event()
    event.set()
    assert event.is_set() and event.wait(1)
    event.clear()
    barrier = procession.Barrier(1, action=dict, timeout=5)
    assert_type(barrier.wait(), int)
    assert not barrier.broken and barrier.parties == 1 and barrier.n_waiting == 0
    made: list[object] = [
        synchronize.Lock(),
        synchronize.RLock(),
        synchronize.Condition(),
        synchronize.Event(),
        synchronize.Barrier(2),
        synchronize.Semaphore(),
        synchronize.BoundedSemaphore(),
    ]
    assert len(made) == 7
    assert issubclass(procession.OwnerDiedError, Exception)
    assert issubclass(procession.OwnerDiedWarning, Warning)


def channels() -> None:
    jobs: queues.JoinableQueue[int] = procession.JoinableQueue()
    jobs.put(1)
    assert jobs.qsize() == 1 and not jobs.empty() and not jobs.full()
    assert_type(jobs.get_nowait(), int)
    jobs.task_done()
    jobs.join()
    jobs.close()
    jobs.join_thread()
    jobs.cancel_join_thread()
    small: queues.Queue[int] = queues.Queue(1)
    small.put_nowait(1)
    try:
        small.put(2, block=False)
    except queues.Full as full:
        assert isinstance(full, queue.Full)
    small.get()
    try:
        small.get(timeout=0.01)
    except queues.Empty as empty:
        assert isinstance(empty, queue.Empty)
    assert queues.SimpleQueue().empty() and queues.JoinableQueue().empty()
    receiver, sender = procession.Pipe(duplex=False)
    with receiver, sender:
        sender.send({"a": 1})
        assert receiver.poll(1) and connection.wait([receiver], timeout=5) == [receiver]
        assert receiver.recv() == {"a": 1}
        sender.send_bytes(b"abc")
        try:
            receiver.recv_bytes_into(bytearray(1))
        except procession.BufferTooShort as error:
            assert error.args == (b"abc",)
    one, other = connection.Pipe()
    one.close()
    other.close()
    with connection.Listener(authkey=b"key") as listener:

        def call() -> None:
            with connection.Client(listener.address, authkey=b"key") as client:
                client.send("hello")

        caller = threading.Thread(target=call)
        caller.start()
        with listener.accept() as accepted:
            assert accepted.recv() == "hello"
        caller.join()
    assert issubclass(procession.AuthenticationError, procession.ProcessError)


def shared_values() -> None:
    number = procession.Value("i", 7)
    with number.get_lock():
        number.value += 1
    letters = procession.Array("c", b"abc", lock=False)
    assert letters.value == b"abc" and number.value == 8
    raw = procession.RawValue(ctypes.c_double, 1.5)
    assert sharedctypes.copy(raw).value == 1.5 and sharedctypes.synchronized(raw).value == 1.5
    assert list(procession.RawArray("i", [1, 2])) == list(sharedctypes.RawArray("i", [1, 2]))
    assert sharedctypes.Value("i", 1).value == sharedctypes.RawValue("i", 1).value
    assert sharedctypes.Array("i", 2)[:] == [0, 0]
    assert heap.BufferWrapper(16).create_memoryview().nbytes == 16
    memory = shared_memory.SharedMemory(create=True, size=16)
    memory.buf[:3] = b"abc"
    assert memory.size >= 16 and memory.name
    memory.close()
    memory.unlink()
    shared = shared_memory.ShareableList([1, "a", None])
    assert shared[1] == "a" and len(shared) == 3
    shared.shm.close()
    shared.shm.unlink()


class Counters(managers.BaseManager):
    pass


class CounterProxy(managers.BaseProxy):
    _exposed_ = ("count",)

    def count(self, item: object) -> int:
        result: int = self._callmethod("count", (item,))
        return result


Counters.register("Counter", list, CounterProxy)


def managed() -> None:
    with procession.Manager() as manager:
        assert_type(manager, managers.SyncManager)
        numbers = manager.list([1, 2])
        numbers.append(3)
        assert len(numbers) == 3 and manager.dict(a=1)["a"] == 1
        assert 1 in manager.set([1])
        namespace = manager.Namespace()
        namespace.x = 1
        with manager.Lock():
            assert manager.Value("i", 5).value == 5
    counters: Any = Counters()
    with counters:
        assert counters.Counter([1, 1]).count(1) == 2
    with managers.SharedMemoryManager() as memories:
        assert memories.SharedMemory(10).size >= 10
    assert managers.Token("list", None, "0").typeid == "list"


def pools() -> None:
    with procession.Pool(2, maxtasksperchild=100) as workers:
        assert_type(workers, pool.Pool)
        assert_type(workers.apply(square, (3,)), int)
        assert_type(workers.map(square, range(3)), list[int])
        assert workers.starmap(add, [(1, 2)]) == [3]
        coming: pool.AsyncResult = workers.apply_async(square, (2,), callback=repr)
        assert isinstance(coming, pool.ApplyResult) and coming.get(30) == 4 and coming.successful()
        many: pool.MapResult = workers.map_async(square, [1])
        many.wait(30)
        assert many.ready() and workers.starmap_async(add, [(1, 1)]).get() == [2]
        ordered: pool.IMapIterator = workers.imap(square, range(3), chunksize=2)
        assert list(ordered) == [0, 1, 4]
        status: pool.PoolStatus = workers.status()
        first: pool.WorkerStatus = workers.workers()[0]
        assert status.done > 0 and first.pid in [process.pid for process in procession.active_children()]
        unordered: pool.IMapUnorderedIterator = workers.imap_unordered(square, range(3))
        assert sorted(unordered) == [0, 1, 4]
        try:
            workers.apply(sys.exit, (3,))
        except pool.TaskExit as error:
            assert isinstance(error, Exception)
        try:
            workers.apply(os._exit, (3,))
        except procession.WorkerLost as lost:
            assert isinstance(lost, procession.ProcessError)
        try:
            workers.apply_async(threading.Event().wait).get(0.01)
        except procession.TimeoutError:
            pass
        except Exception as error:
            assert isinstance(error, (pool.MaybeEncodingError, TypeError))
    with pool.ThreadPool(2) as threads:
        assert threads.map(square, [2]) == [4]
    assert pool.mapstar((square, [2])) == [4] and pool.starmapstar((add, [(1, 2)])) == [3]
    assert {pool.INIT, pool.RUN, pool.CLOSE, pool.TERMINATE} == {"INIT", "RUN", "CLOSE", "TERMINATE"}
    assert issubclass(pool.PoolBroken, Exception) and issubclass(pool.PoolTerminated, Exception)
    remote = pool.ExceptionWithTraceback(ValueError("x"), None)
    rebuild, arguments = remote.__reduce__()
    assert rebuild is pool.rebuild_exc and isinstance(rebuild(*arguments).__cause__, pool.RemoteTraceback)
    inside: Callable[..., object] = pool.worker
    assert callable(inside)


def threads_in_their_place() -> None:
    answers: queue.Queue[int] = dummy.Queue()
    thread = dummy.Process(target=answers.put, args=(1,))
    thread.start()
    thread.join()
    assert answers.get() == 1 and dummy.current_process() in [*dummy.active_children(), dummy.current_process()]
    left, right = dummy.Pipe()
    left.send(1)
    assert right.recv() == 1
    with dummy.Lock(), dummy.RLock(), dummy.Semaphore(), dummy.BoundedSemaphore(), dummy.Condition():
        dummy.Event().set()
    assert dummy.Barrier(1).wait() == 0 and dummy.JoinableQueue().empty()
    assert dummy.Value("i", 1).value == 1 and dummy.Array("i", [1])[0] == 1
    with dummy.Pool(1) as threads:
        assert threads.map(square, [2]) == [4]
    dummy.freeze_support()
    dummy.parent_process()
    assert dummy.Manager() is dummy
    listener = dummy_connection.Listener()
    client = dummy_connection.Client(listener.address)
    accepted = listener.accept()
    client.send(1)
    assert isinstance(accepted, dummy_connection.Connection) and accepted.recv() == 1
    one, _ = dummy_connection.Pipe()
    one.close()
    listener.close()


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def reduce_point(point: Point) -> tuple[type[Point], tuple[int]]:
    return Point, (point.x + 1,)


def pickling() -> None:
    reduction.register(Point, reduce_point)
    reduction.ForkingPickler.register(Point, reduce_point)
    assert reduction.loads(reduction.dumps(Point(1))).x == 2
    assert reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(Point(1))).x == 2
    file = io.BytesIO()
    reduction.dump([1], file)
    assert reduction.loads(file.getvalue()) == [1]
    left, right = socket.socketpair()
    with left, right, tempfile.TemporaryFile() as opened:
        reduction.sendfds(left, [opened.fileno()])
        (received,) = reduction.recvfds(right, 1)
        os.close(received)
    one, other = procession.Pipe()
    with one, other, tempfile.TemporaryFile() as opened:
        reduction.send_handle(one, opened.fileno(), os.getpid())
        os.close(reduction.recv_handle(other))
    promise = resource_sharer.DupFd(sys.stdout.fileno())
    os.close(promise.detach())
    resource_sharer.stop()
    os.close(reduction.DupFd(sys.stdout.fileno()).detach())
    resource_sharer.stop(timeout=5)
    assert callable(reduction.name_culprit) and callable(reduction.dumps_result)
    frozen: list[int] = procession.freeze([1])
    assert frozen == reduction.freeze([1])


def insides() -> None:
    said: list[str] = []
    finalizer = util.Finalize(None, said.append, ("end",), exitpriority=1)
    assert finalizer.still_active()
    finalizer()
    assert said == ["end"]
    logger: logging.Logger = util.get_logger()
    procession.set_deadlock_timeout(60)
    assert util.get_deadlock_timeout() == 60
    util.set_deadlock_timeout(None)
    assert logger is procession.get_logger() and util.SUBDEBUG < util.SUBWARNING
    for log in (util.sub_debug, util.debug, util.info, util.sub_warning, util.warn):
        log("nobody listens to %s", log)
    util.register_after_fork(finalizer, repr)
    with util.ForkAwareThreadLock():
        local = util.ForkAwareLocal()
        local.x = 1
    assert os.path.isdir(util.get_temp_dir()) and not util.is_exiting()
    assert callable(util.close_all_fds_except)
    resource_tracker.ensure_running()
    resource_tracker.register("/nothing", "noop")
    resource_tracker.unregister("/nothing", "noop")
    forkserver.set_forkserver_preload(["json"])
    forkserver.ensure_running()
    assert forkserver.get_inherited_fds() == []
    spawn.set_executable(sys.executable)
    assert spawn.get_executable() in (sys.executable, os.fsencode(sys.executable))
    assert spawn.get_command_line() and not spawn.is_forking(["python"])
    assert spawn.get_preparation_data("child")["name"] == "child"
    spawn.freeze_support()
    assert callable(spawn.spawn_main) and callable(spawn.import_main_path)
    install: Callable[[], None] = procession.install
    install()
    assert procession.log_to_stderr(logging.CRITICAL) is logger and util.log_to_stderr(logging.CRITICAL) is logger


if __name__ == "__main__":
    for part in (
        processes, contexts, synchronization, channels, shared_values, managed, pools, threads_in_their_place, pickling,
        insides,
    ):  # fmt: skip
        part()
    print("every name was used")
