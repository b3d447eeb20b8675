"""Managers: their server, the objects in it, and the proxies for them."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import procession
from conftest import Programs
from procession import connection, managers
from procession.managers import (
    BaseManager,
    BaseProxy,
    DictProxy,
    ListProxy,
    RemoteError,
    SetProxy,
    SharedMemoryManager,
    SyncManager,
    ValueProxy,
)
from procession.shared_memory import ShareableList, SharedMemory

BOUND = 20.0
# Some fork with a second thread there.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def manager() -> Iterator[SyncManager]:
    with procession.Manager() as manager:
        yield manager
    manager.join()


@pytest.fixture
def ctx_manager(ctx: Any) -> Iterator[SyncManager]:
    """A manager whose server is started by each start method in turn."""
    with ctx.Manager() as manager:
        yield manager
    manager.join()


def run(ctx: Any, target: Callable[..., object], *args: Any) -> None:
    child = ctx.Process(target=target, args=args)
    child.start()
    child.join(BOUND)
    assert child.exitcode == 0


# --- containers ----------------------------------------------------------------------------------


def test_lists(manager: SyncManager) -> None:
    a = manager.list(range(5))
    assert isinstance(a, MutableSequence)
    assert (a[:], len(a), a[-1], list(a), 3 in a) == ([0, 1, 2, 3, 4], 5, 4, [0, 1, 2, 3, 4], True)
    assert list(reversed(a)) == [4, 3, 2, 1, 0]
    a.append("x")
    a += [7]
    a.extend(manager.list([8]))
    assert a[5:] == ["x", 7, 8]
    del a[5:]
    assert (a.__add__([9]), a * 2, 2 * a) == (
        [0, 1, 2, 3, 4, 9],
        [0, 1, 2, 3, 4] * 2,
        [0, 1, 2, 3, 4] * 2,
    )
    a *= 2
    assert isinstance(a, BaseProxy)
    assert (a.count(3), a.index(3), a.index(3, 4), len(a)) == (2, 3, 8, 10)
    assert (a.pop(), a.pop(0), a.copy()) == (4, 0, [1, 2, 3, 4, 0, 1, 2, 3])
    a.sort(reverse=True)
    a.reverse()
    a.insert(1, 5)
    a.remove(5)
    assert a._getvalue() == sorted([1, 2, 3, 4, 0, 1, 2, 3])
    iterator = iter(a)
    a[0] = 100
    assert next(iterator) == 100
    a.clear()
    assert a._getvalue() == []
    with pytest.raises(IndexError):
        a.pop(0)
    with pytest.raises(IndexError):
        a.__getitem__(0)


def test_dicts(manager: SyncManager) -> None:
    d = manager.dict({"a": 1}, b=2)
    assert isinstance(d, MutableMapping)
    assert (d["a"], d.get("z"), d.get("z", 9), "b" in d, len(d)) == (1, None, 9, True, 2)
    assert (d.keys(), d.values(), d.items()) == (["a", "b"], [1, 2], [("a", 1), ("b", 2)])
    assert (list(d), list(reversed(d))) == (["a", "b"], ["b", "a"])
    assert type(reversed(d)) is type(iter([]))  # what was there at that moment
    assert (d | {"c": 3}, {"c": 3} | d) == ({"a": 1, "b": 2, "c": 3}, {"c": 3, "a": 1, "b": 2})
    d |= {"c": 3}
    d.update(manager.dict(e=5), f=6)
    assert d.copy() == {"a": 1, "b": 2, "c": 3, "e": 5, "f": 6}
    assert (d.pop("a"), d.pop("a", None), d.setdefault("g", 7), d.popitem()) == (
        1,
        None,
        7,
        ("g", 7),
    )
    assert d.fromkeys("xy", 1) == {"x": 1, "y": 1}
    del d["b"]
    with pytest.raises(KeyError):
        d.pop("b")
    with pytest.raises(TypeError):
        d |= 3
    iterator = iter(d)
    d.clear()
    with pytest.raises(RuntimeError):
        next(iterator)


def test_sets(manager: SyncManager) -> None:
    s = manager.set([1, 2, 3])
    assert isinstance(s, MutableSet)
    assert (sorted(s), len(s), 2 in s) == ([1, 2, 3], 3, True)
    assert (s & {3, 4}, s | {4}, s - {1}, s ^ {3, 4}) == ({3}, {1, 2, 3, 4}, {2, 3}, {1, 2, 4})
    assert ({3, 4} & s, {4} | s, {1, 4} - s, {3, 4} ^ s) == ({3}, {1, 2, 3, 4}, {4}, {1, 2, 4})
    assert (s <= {1, 2, 3}, s < {1, 2, 3}, s >= {1}, s > {1, 2, 3}) == (True, False, True, False)
    assert (s.union([9], [8]), s.intersection([1]), s.difference([1])) == (
        {1, 2, 3, 8, 9},
        {1},
        {2, 3},
    )
    assert (s.issubset([1]), s.issuperset([1]), s.isdisjoint([7]), s.symmetric_difference([1])) == (
        False,
        True,
        True,
        {2, 3},
    )
    s.add(4)
    s.discard(77)
    s.remove(1)
    s.update(manager.set([5]), [6])
    s |= {7}
    s -= {7}
    s &= {2, 3, 4, 5}
    s ^= {5, 9}
    assert s.copy() == {2, 3, 4, 9}
    s.intersection_update([2, 3])
    s.difference_update([3])
    s.symmetric_difference_update([8])
    assert s.copy() == {2, 8}
    assert s.pop() in {2, 8}
    with pytest.raises(TypeError):
        s |= [1]
    with pytest.raises(KeyError):
        s.remove(77)
    s.clear()
    assert not s.copy()


def test_values_and_namespaces(manager: SyncManager) -> None:
    v = manager.Value("i", 1)
    v.value += 1
    v.set(v.get() * 2)
    assert (v.value, str(v)) == (4, "Value('i', 4)")
    a = manager.Array("i", [1, 2, 3])
    a[1] = 20
    assert (list(a), len(a), a[1:].tolist()) == ([1, 20, 3], 3, [20, 3])
    n = manager.Namespace(x=1)
    n.y = [2]
    n._hidden = 3
    assert (n.x, n.y, n._hidden, str(n)) == (1, [2], 3, "Namespace(x=1, y=[2])")
    del n.x
    assert not hasattr(n, "x")
    del n._hidden
    assert not hasattr(n, "_hidden")


def test_proxies_inside_containers(manager: SyncManager) -> None:
    inner = manager.list([1])
    outer = manager.dict(inner=inner)
    outer["inner"].append(2)
    assert inner[:] == [1, 2]
    del inner
    assert outer["inner"][:] == [1, 2]
    rescued = outer.pop("inner")
    rescued.append(3)
    assert rescued[:] == [1, 2, 3]
    lists = manager.list([manager.list([i]) for i in range(3)])
    assert [x[:] for x in lists] == [[0], [1], [2]]
    assert isinstance(manager.list([[1]])[0], list)


def test_objects_go_when_nobody_refers_to_them(manager: SyncManager) -> None:
    assert manager._number_of_objects() == 0
    a = manager.list()
    b = manager.dict(a=a)
    c = pickle.loads(pickle.dumps(a))
    assert manager._number_of_objects() == 2
    assert "refcount=2" in manager._debug_info()
    del a, c
    assert manager._number_of_objects() == 1
    b["a"].append(1)
    b["self"] = b
    it = iter(b)
    assert manager._number_of_objects() == 2
    del b, it
    gc.collect()
    assert manager._number_of_objects() == 0


def test_what_a_proxy_looks_like(manager: SyncManager) -> None:
    a = manager.list([1])
    assert repr(a).startswith("<ListProxy object, typeid 'list' at 0x")
    assert (str(a), copy.deepcopy(a)) == ("[1]", [1])
    assert (a == [1]) is False
    q = manager.Queue()
    assert "AutoProxy[Queue]" in repr(q)


# --- what threads synchronize with ---------------------------------------------------------------


def test_queues(manager: SyncManager) -> None:
    q = manager.Queue(2)
    q.put(1)
    q.put([2])
    assert (q.qsize(), q.full(), q.empty()) == (2, True, False)
    with pytest.raises(queue.Full):
        q.put(3, timeout=0.01)
    assert (q.get(), q.get_nowait()) == (1, [2])
    with pytest.raises(queue.Empty):
        q.get_nowait()
    j = manager.JoinableQueue()
    j.put(1)
    j.get()
    j.task_done()
    j.join()


def hold(lock: Any) -> None:
    assert lock.acquire()


def take_both(semaphore: Any) -> None:
    assert semaphore.acquire(False)
    assert semaphore.acquire(timeout=1)
    assert not semaphore.acquire(timeout=0.01)
    semaphore.release()


def test_locks_and_semaphores(ctx: Any, manager: SyncManager) -> None:
    lock = manager.Lock()
    run(ctx, hold, lock)
    assert lock.locked()
    assert not lock.acquire(False)
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()
    with lock:
        assert not lock.acquire(timeout=0.01)
    rlock = manager.RLock()
    with rlock, rlock:
        pass
    with pytest.raises(RuntimeError):
        rlock.release()
    semaphore = manager.Semaphore(2)
    run(ctx, take_both, semaphore)
    assert semaphore.acquire(False)
    bounded = manager.BoundedSemaphore(1)
    with pytest.raises(ValueError):
        bounded.release()


def set_and_wait(event: Any, answer: Any) -> None:
    assert not event.is_set()
    event.set()
    assert answer.wait(BOUND)


def meet(barrier: Any, condition: Any, numbers: Any) -> None:
    barrier.wait(BOUND)
    with condition:
        numbers.append(1)
        condition.notify()


def test_events_conditions_barriers(ctx: Any, manager: SyncManager) -> None:
    event, answer = manager.Event(), manager.Event()
    child = ctx.Process(target=set_and_wait, args=(event, answer))
    child.start()
    assert event.wait(BOUND)
    answer.set()
    child.join(BOUND)
    assert child.exitcode == 0
    event.clear()
    assert not event.wait(0.01)

    barrier, condition, numbers = manager.Barrier(2), manager.Condition(), manager.list()
    child = ctx.Process(target=meet, args=(barrier, condition, numbers))
    child.start()
    barrier.wait(BOUND)
    with condition:
        assert condition.wait_for(lambda: len(numbers), BOUND) == 1
        assert not condition.wait_for(lambda: False, 0.01)
        condition.notify_all()
    child.join(BOUND)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
    barrier.abort()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()


def square(x: int) -> int:
    return x * x


def test_pool_in_the_server(ctx_manager: SyncManager) -> None:
    with ctx_manager.Pool(2) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
        assert pool.apply_async(square, (7,)).get(BOUND) == 49
        assert list(pool.imap(square, range(3))) == [0, 1, 4]
        assert pool.starmap(pow, [(2, 3)]) == [8]
        with pytest.raises(TypeError):
            pool.apply(square, ("x",))


# --- in other processes --------------------------------------------------------------------------


def use_everything(a: Any, d: Any, q: Any, n: Any) -> None:
    a.append(os.getpid())
    d["list"] = a
    for key in d:  # an iterator is a proxy of its own
        d[key].append(key)
    q.put(d)
    n.x += 1
    assert str(a).startswith("[")


def test_proxies_travel(ctx: Any, ctx_manager: SyncManager) -> None:
    a, d, q, n = (
        ctx_manager.list(),
        ctx_manager.dict(),
        ctx_manager.Queue(),
        ctx_manager.Namespace(x=1),
    )
    run(ctx, use_everything, a, d, q, n)
    assert a[:][1] == "list"
    assert q.get()["list"][:] == a[:]
    assert n.x == 2
    del a, d, q, n
    gc.collect()
    assert ctx_manager._number_of_objects() == 0


def keep_proxy(box: Any, told: Any, done: Any) -> None:
    mine = box[0]
    told.set()
    assert done.wait(BOUND)
    mine.append("still there")
    box[0] = mine


def test_a_child_keeps_what_it_refers_to(ctx: Any, manager: SyncManager) -> None:
    box, told, done = manager.list([manager.list()]), manager.Event(), manager.Event()
    child = ctx.Process(target=keep_proxy, args=(box, told, done))
    child.start()
    assert told.wait(BOUND)
    box[0] = None
    done.set()
    child.join(BOUND)
    assert child.exitcode == 0
    assert box[0][:] == ["still there"]


def test_each_thread_is_one_to_the_server(manager: SyncManager) -> None:
    rlock, results = manager.RLock(), []
    with rlock:
        thread = threading.Thread(target=lambda: results.append(rlock.acquire(False)))
        thread.start()
        thread.join(BOUND)
    assert results == [False]


# --- one's own managers --------------------------------------------------------------------------


class Shop:
    def __init__(self, name: str = "shop") -> None:
        self.name = name
        self._stock = {"apple": 3}

    def sell(self, what: str) -> int:
        self._stock[what] -= 1
        return self._stock[what]

    def fail(self) -> None:
        raise ValueError("no such luck")

    def _count(self) -> int:
        return sum(self._stock.values())

    def department(self) -> Shop:
        return Shop(f"part of {self.name}")

    def get_name(self) -> str:
        return self.name

    def unpicklable(self) -> Any:
        return threading.Lock()

    def leave(self) -> None:
        raise SystemExit(3)


class PickyError(Exception):
    """Cannot be unpickled: its constructor wants two arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_picky() -> None:
    raise PickyError(1, 2)


def squares() -> Iterator[int]:
    return (i * i for i in range(5))


def make_refuser() -> Any:
    class Refuser:
        def refuse(self) -> None:
            raise_picky()

    return Refuser()


class ShopProxy(BaseProxy):
    _exposed_ = ("sell", "department", "get_name")
    _method_to_typeid_ = {"department": "Department"}  # noqa: RUF012

    def sell(self, what: str) -> Any:
        return self._callmethod("sell", (what,))

    def department(self) -> Any:
        return self._callmethod("department")

    def get_name(self) -> Any:
        return self._callmethod("get_name")


class ShopManager(BaseManager):
    if TYPE_CHECKING:  # made by register

        def __getattr__(self, name: str) -> Any: ...


ShopManager.register("Plain", Shop)
ShopManager.register("Some", Shop, exposed=("sell", "_count"))
ShopManager.register("Shop", Shop, ShopProxy)
ShopManager.register("Department", proxytype=ShopProxy, create_method=False)
ShopManager.register("squares", squares, managers.IteratorProxy)
ShopManager.register("Refuser", make_refuser)


def test_registered_types(ctx: Any) -> None:
    with ShopManager(ctx=ctx) as manager:
        plain, some, shop = manager.Plain(), manager.Some(), manager.Shop("mine")
        assert (plain.sell("apple"), some.sell("apple"), shop.sell("apple")) == (2, 2, 2)
        assert not hasattr(plain, "_count")
        assert some._count() == 2
        assert not hasattr(some, "get_name")
        with pytest.raises(RemoteError, match="not exposed"):
            plain._callmethod("_count")
        department = shop.department()
        assert isinstance(department, ShopProxy)
        assert department.department().get_name() == "part of part of mine"
        assert list(manager.squares()) == [0, 1, 4, 9, 16]
    assert not hasattr(BaseManager, "Plain")


def test_errors_come_back(manager: SyncManager) -> None:
    with ShopManager() as shops:
        shop = shops.Plain()
        with pytest.raises(ValueError, match="no such luck") as caught:
            shop.fail()
        assert "in fail" in str(caught.value.__cause__)
        with pytest.raises(KeyError):
            shop.sell("pear")
        with pytest.raises(RemoteError, match="pickle"):
            shop.unpicklable()
        with pytest.raises(RemoteError, match="SystemExit"):
            shop.leave()
        with pytest.raises(RemoteError, match="1 and 2"):
            shops.Refuser().refuse()
        with pytest.raises(Exception, match="pickle"):
            shop.sell(threading.Lock())
        assert shop.get_name() == "shop"
        with pytest.raises(TypeError):
            shop.sell()
        with pytest.raises(RemoteError, match="unexpected keyword"):
            shops.Plain(nonsense=1)


def test_misuse_is_told() -> None:
    manager = SyncManager()
    with pytest.raises(procession.ProcessError, match="start"):
        manager.list()
    manager.shutdown()
    with manager:
        with pytest.raises(procession.ProcessError, match="already"):
            manager.start()
    manager.shutdown()
    for use in (manager.list, manager.start, manager.connect):
        with pytest.raises((procession.ProcessError, OSError)):
            use()
    with pytest.raises(ValueError, match="serializer"):
        SyncManager(serializer="json")
    with pytest.raises(TypeError, match="initializer"):
        SyncManager().start(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        BaseManager.register("x", method_to_typeid={"a": 1})  # type: ignore[dict-item]


# --- starting and ending -------------------------------------------------------------------------


def add_one(namespace: Any) -> None:
    namespace.x += 1


def fail_to_start() -> None:
    raise LookupError("nothing here")


def end_at_once() -> None:
    os._exit(7)


def test_initializer(ctx: Any, manager: SyncManager) -> None:
    namespace = manager.Namespace(x=1)
    second = SyncManager(ctx=ctx)
    second.start(add_one, (namespace,))
    assert namespace.x == 2
    second.shutdown()
    second.join()
    failing = SyncManager(ctx=ctx)
    with pytest.raises(LookupError, match="nothing here") as caught:
        failing.start(fail_to_start)
    assert "fail_to_start" in str(caught.value.__cause__)
    with pytest.raises(RemoteError, match="1 and 2"):
        SyncManager(ctx=ctx).start(raise_picky)
    with pytest.raises(EOFError, match="exit code 7"):
        SyncManager(ctx=ctx).start(end_at_once)


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_address_in_use(family: str, tmp_path: Path) -> None:
    address = ("127.0.0.1", 0) if family == "AF_INET" else str(tmp_path / "socket")
    with SyncManager(address=address) as manager:
        with pytest.raises(OSError) as caught:
            SyncManager(address=manager.address).start()
        assert caught.value.errno == errno.EADDRINUSE
    with SyncManager(address=manager.address) as again:
        assert again.list([1])[:] == [1]


def test_shutdown_ends_the_server(ctx: Any) -> None:
    manager = SyncManager(ctx=ctx, shutdown_timeout=BOUND)
    manager.start()
    server = manager._process
    assert server.name.startswith("SyncManager-")
    address = manager.address
    procession.connection.Client(address, authkey=procession.current_process().authkey).close()
    a = manager.list()
    manager.shutdown()
    manager.shutdown()
    assert server.exitcode == 0
    with pytest.raises(ConnectionRefusedError):
        procession.connection.Client(address)
    with pytest.raises(EOFError):
        a.append(1)
    manager.join()


def test_server_that_does_not_end_is_terminated() -> None:
    manager = SyncManager(shutdown_timeout=0.2)
    manager.start()
    server = manager._process
    os.kill(server.pid, signal.SIGSTOP)
    manager.shutdown()
    assert server.exitcode == -signal.SIGKILL


def test_server_lets_ctrl_c_pass(ctx_manager: SyncManager) -> None:
    a = ctx_manager.list()
    os.kill(ctx_manager._process.pid, signal.SIGINT)
    a.append(1)
    assert a[:] == [1]


def test_proxies_raise_at_once_when_the_server_dies(ctx: Any) -> None:
    with ctx.Manager() as manager:
        a, q = manager.list([1]), manager.Queue()
        caught: list[BaseException] = []

        def wait_for_ever() -> None:
            try:
                q.get()
            except BaseException as error:
                caught.append(error)

        waiter = threading.Thread(target=wait_for_ever)
        waiter.start()
        assert a[:] == [1]
        time.sleep(0.1)
        os.kill(manager._process.pid, signal.SIGKILL)
        began = time.monotonic()
        waiter.join(BOUND)
        for use in (lambda: a[0], lambda: q.put(1), lambda: len(a)):
            for kind in (EOFError, ConnectionResetError, BrokenPipeError):
                with pytest.raises(kind, match="is gone"):
                    use()
        with pytest.raises(managers.ManagerDied, match="is gone: it can't make a 'list'"):
            manager.list()
        assert time.monotonic() - began < BOUND
        assert isinstance(caught[0], EOFError)
        assert "failed>" in str(a)


def test_server_ends_with_its_parent(run_program: Programs, start_method: str, tmp_path: Path) -> None:
    outcome = run_program(
        """
import os, signal, sys
import procession

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    manager = procession.Manager()
    manager.list([1])
    print(manager.address, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        start_method,
        env={"TMPDIR": str(tmp_path)},
    )  # which fails if the server is still there
    assert outcome.code == -signal.SIGKILL
    assert not list(tmp_path.glob("pymp-*"))


def test_killed_server_leaves_no_files(run_program: Programs, start_method: str, tmp_path: Path) -> None:
    run_program(
        """
import os, signal, sys
import procession

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    manager = procession.Manager()
    os.kill(manager._process.pid, signal.SIGKILL)
""",
        start_method,
        env={"TMPDIR": str(tmp_path)},
    ).check()
    assert not list(tmp_path.glob("pymp-*"))


def test_manager_that_is_forgotten_ends(run_program: Programs) -> None:
    run_program(
        """
import procession

if __name__ == "__main__":
    manager = procession.Manager()
    kept = manager.list([1])
    print(kept)
"""
    ).check()


# --- remote managers -----------------------------------------------------------------------------


shared_queue: queue.Queue[Any] = queue.Queue()


def get_queue() -> queue.Queue[Any]:
    return shared_queue


class QueueServer(BaseManager):
    pass


class QueueClient(BaseManager):
    pass


QueueServer.register("get_queue", get_queue)
QueueClient.register("get_queue")

VALUES = ["hello world", None, True, 2.25, "hall\xe5 v\xe4rlden", "\u043f\u0440"]


def put_values(address: Any, authkey: bytes, serializer: str) -> None:
    manager = QueueClient(address=address, authkey=authkey, serializer=serializer)
    manager.connect()
    manager.get_queue().put(VALUES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
def test_remote_manager(ctx: Any, serializer: str) -> None:
    key = os.urandom(16)
    with QueueServer(("127.0.0.1", 0), key, serializer, ctx) as manager:
        run(ctx, put_values, manager.address, key, serializer)
        client = QueueClient(manager.address, key, serializer)
        client.connect()
        q = client.get_queue()  # type: ignore[attr-defined]
        assert q.get() == VALUES
        q.put("one more")
        assert manager.get_queue().get() == "one more"  # type: ignore[attr-defined]
        if serializer == "xmlrpclib":
            with pytest.raises(TypeError):
                q.put(time.sleep)
            with pytest.raises(RemoteError, match="Empty"):
                q.get_nowait()
        with client:  # leaves the server alone
            pass
        q.put(1)
        del q


def test_wrong_key_is_refused() -> None:
    with QueueServer(("127.0.0.1", 0), b"right") as manager:
        client = QueueClient(manager.address, b"wrong")
        with pytest.raises(procession.AuthenticationError):
            client.connect()
        assert manager.get_queue().qsize() == 0  # type: ignore[attr-defined]


def test_silent_and_nonsensical_peers_do_not_hold_up_others() -> None:
    with QueueServer(("127.0.0.1", 0), b"right") as manager:
        silent = [socket.create_connection(manager.address) for _ in range(5)]
        loud = [socket.create_connection(manager.address) for _ in range(5)]
        for sock in loud:
            sock.sendall(b"\x7f\xff\xff\xff nonsense")
        q = manager.get_queue()  # type: ignore[attr-defined]
        q.put(1)
        assert q.get() == 1
        for sock in silent + loud:
            sock.close()


def test_authenticated_nonsense_is_answered() -> None:
    with QueueServer(("127.0.0.1", 0), b"key") as manager:
        for request in (
            17,
            (None, "no_such_function", (), {}),
            (None, "create", ("nothing",), {}),
            ("x",),
        ):
            with procession.connection.Client(manager.address, authkey=b"key") as conn:
                conn.send(request)
                kind, text = conn.recv()
                assert kind == "#TRACEBACK"
                assert "Traceback" in text
        assert manager.get_queue().empty()  # type: ignore[attr-defined]


SERVE = """
import queue, sys
from {module}.managers import BaseManager
class QueueServer(BaseManager): pass
q = queue.Queue()
QueueServer.register("get_queue", callable=lambda: q)
server = QueueServer(address=("127.0.0.1", 0), authkey=b"key").get_server()
print(server.address, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("module", ["procession", "multiprocessing"])
def test_serve_forever(module: str) -> None:
    """The documented recipe; the standard library's server understands our client too."""
    server = subprocess.Popen([sys.executable, "-c", SERVE.format(module=module)], stdout=subprocess.PIPE, text=True)
    with server:
        try:
            assert server.stdout is not None
            client = QueueClient(eval(server.stdout.readline()), b"key")
            client.connect()
            q = client.get_queue()  # type: ignore[attr-defined]
            q.put({"a": 1})
            assert (q.get(), q.qsize()) == ({"a": 1}, 0)
            del q
            with client._connection() as conn:
                managers.dispatch(conn, None, "shutdown")
            assert server.wait(BOUND) == 0
        finally:
            server.kill()


STANDARD_CLIENT = """
import queue, sys
from multiprocessing.managers import BaseManager
class QueueClient(BaseManager): pass
QueueClient.register("get_queue")
client = QueueClient(address=eval(sys.argv[1]), authkey=b"key")
client.connect()
q = client.get_queue()
q.put([1])
assert q.get() == [1]
try:
    q.get_nowait()
except queue.Empty:
    q.put("done")
"""


def test_a_client_of_the_standard_library() -> None:
    with QueueServer(("127.0.0.1", 0), b"key") as manager:
        command = [sys.executable, "-c", STANDARD_CLIENT, repr(manager.address)]
        subprocess.run(command, check=True, timeout=BOUND)
        assert manager.get_queue().get() == "done"  # type: ignore[attr-defined]


# --- clients that die, and calls that are interrupted --------------------------------------------


def wait_for(obj: Any, method: str, told: Any) -> None:
    told.set()
    getattr(obj, method)()


def test_a_client_killed_while_waiting_takes_nothing(ctx: Any, manager: SyncManager) -> None:
    q, lock, told = manager.Queue(), manager.Lock(), manager.Event()
    lock.acquire()
    for obj, method in ((q, "get"), (lock, "acquire")):
        child = ctx.Process(target=wait_for, args=(obj, method, told))
        child.start()
        assert told.wait(BOUND)
        told.clear()
        time.sleep(0.2)
        child.kill()
        child.join(BOUND)
    q.put("item")
    assert q.get(timeout=BOUND) == "item"
    lock.release()
    assert lock.acquire(timeout=BOUND)


class Interrupted(BaseException):
    pass


def test_an_interrupted_call_does_not_confuse_the_next(manager: SyncManager) -> None:
    q, event = manager.Queue(), manager.Event()

    def interrupt(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            event.wait(BOUND)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    event.set()
    assert q.empty() is True
    q.put("x")
    assert q.get() == "x"


# --- shared memory -------------------------------------------------------------------------------


def write_into(name: str) -> None:
    memory = SharedMemory(name)
    memory.buf[:5] = b"HELLO"
    memory.close()


def test_shared_memory_manager(ctx: Any) -> None:
    with pytest.raises(ValueError):
        SharedMemoryManager().SharedMemory(9)
    with SharedMemoryManager(ctx=ctx, shutdown_timeout=BOUND) as manager:
        memory = manager.SharedMemory(32)
        shared = manager.ShareableList(range(4))
        run(ctx, write_into, memory.name)
        assert bytes(memory.buf[:5]) == b"HELLO"
        twin = ShareableList(name=shared.shm.name)
        assert list(twin) == [0, 1, 2, 3]
        names = [memory.name, shared.shm.name]
        for block in (memory, shared.shm, twin.shm):
            block.close()
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
    procession.resource_tracker._resource_tracker._stop()


def test_shared_memory_manager_tolerates_unlinked_blocks() -> None:
    with SharedMemoryManager(shutdown_timeout=BOUND) as manager:
        memory = manager.SharedMemory(32)
        memory.close()
        memory.unlink()
    assert manager._process.exitcode == 0
    procession.resource_tracker._resource_tracker._stop()


def test_names_of_the_package() -> None:
    for name in managers.__all__:
        assert hasattr(managers, name)


def link_of(proxy: Any) -> Any:
    """The connection of this thread to the server of a proxy."""
    return proxy._home.link.connection


def test_calls_within_the_family_use_a_mailbox(manager: SyncManager) -> None:
    shared = manager.dict()
    shared["a"] = 1
    mailbox, ticket = connection.Connection._make_mailbox()
    with pytest.raises(ValueError, match="serves one connection"):
        link_of(shared)._use_mailbox(mailbox)  # it has one
    one, other = socket.socketpair()
    with connection.Connection(one.detach()) as asks, connection.Connection(other.detach()) as answers:
        wrong = ticket[:-1] + bytes([ticket[-1] ^ 1])
        with pytest.raises(procession.ProcessError, match="another family"):
            asks._use_mailbox(wrong)
        del mailbox, ticket
        mailbox, ticket = connection.Connection._make_mailbox()
        answers._use_mailbox(ticket)
        asks._use_mailbox(mailbox)
        asks.send("a question")
        assert not connection.wait([answers.fileno()], timeout=0)
        assert answers.poll()
        assert answers.recv() == "a question"


def test_requests_and_answers_of_all_sizes(manager: SyncManager) -> None:
    shared = manager.dict()
    for size in (0, 10, 1000, 3900, 3950, 4000, 4024, 4100, 100_000, 3_000_000):
        shared[size] = bytes(size)
        assert shared[size] == bytes(size)
        if size == 1000:
            time.sleep(0.01)  # both ends have gone to sleep
    assert shared.copy() == {size: bytes(size) for size in shared.keys()}


def test_clients_of_another_family_use_none(ctx: Any, run_program: Programs) -> None:
    with ctx.Manager() as manager:
        address = manager.address
        assert isinstance(address, bytes)
        # The second time the client takes the server for one of its own family.
        for mistaken in ("no", "yes"):
            outcome = run_program(
                """
import sys
from procession import _managers_wire
from procession.managers import SyncManager

address, key, mistaken = sys.argv[1:]
if mistaken == "yes":
    _managers_wire._is_of_our_family = lambda conn: True
manager = SyncManager(bytes.fromhex(address), authkey=bytes.fromhex(key))
manager.connect()
theirs = manager.dict()
for i in range(100):
    theirs[i] = i
    assert theirs[i] == i
link = theirs._home.link.connection
mailbox, _ = link._make_mailbox()
link._use_mailbox(mailbox)  # it has none
print("done")
""",
                address.hex(),
                bytes(manager._authkey).hex(),
                mistaken,
            )
            assert outcome.out.strip() == "done", outcome


def test_calls_go_by_the_socket_where_no_mailbox_can_be_made(
    manager: SyncManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(connection.Connection, "_make_mailbox", refuse)
    shared = manager.list([1])
    got: list[Any] = []
    user = threading.Thread(target=lambda: got.append(shared[0]))  # with a connection of its own
    user.start()
    user.join(BOUND)
    assert got == [1]


def test_proxies_with_type_arguments() -> None:
    proxies: tuple[Any, ...] = (ListProxy, DictProxy, SetProxy, ValueProxy)
    for proxy in proxies:
        alias = proxy[int]
        assert (alias.__origin__, alias.__args__) == (proxy, (int,))
    alias = proxies[1][str, int]
    assert alias.__args__ == (str, int)

    class Table(alias):  # type: ignore[misc, valid-type]
        pass

    assert issubclass(Table, DictProxy)
