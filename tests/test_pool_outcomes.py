"""Tasks that are tried again, stopped or cancelled, and what a pool tells of itself."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import procession
from procession import PoisonTask, TaskTimeout, WorkerLost
from procession.pool import ThreadPool

LIMIT = 20.0


def square(x: int) -> int:
    return x * x


def slow(x: Any, seconds: float = 0.05) -> Any:
    time.sleep(seconds)
    return x


def after(gate: Any, x: Any) -> Any:
    assert gate.wait(LIMIT)
    return x


def note(path: str) -> int:
    """Leave a byte in a file; return how many there are then."""
    with open(path, "ab") as file:
        file.write(b".")
        return file.tell()


def noted(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(LIMIT)


def survive(path: str, times: int) -> int:
    if note(path) < times:
        die()
    return times


def die_always(path: str) -> None:
    note(path)
    die(signal.SIGSEGV)


def die_once_on(x: int, bad: int, path: str) -> int:
    if x == bad and note(path) == 1:
        die()
    return x


def fail(path: str) -> None:
    note(path)
    raise ValueError("no")


def leak(megabytes: int, kept: list[bytes] = []) -> int:  # noqa: B006
    kept.append(b"x" * (megabytes << 20))
    return os.getpid()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.002)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes"


# --- retries ---------------------------------------------------------------------------------------


def test_a_task_is_tried_again_after_the_death_of_its_worker(ctx: Any, path: Path) -> None:
    with ctx.Pool(2) as pool:
        others = [pool.apply_async(slow, (x,)) for x in range(6)]
        assert pool.apply(survive, (str(path), 3), retries=2) == 3
        assert noted(path) == 3
        assert [other.get(LIMIT) for other in others] == list(range(6))
        assert pool.status().retried == 2 and pool.status().lost == 0
        with pytest.raises(WorkerLost) as raised:
            pool.apply(die)
        assert not isinstance(raised.value, PoisonTask)
    pool.join()


def test_a_task_that_costs_every_worker_is_given_up_with_all_causes(ctx: Any, path: Path) -> None:
    with ctx.Pool(2) as pool:
        with pytest.raises(PoisonTask, match=r"die_always has cost 3 workers") as raised:
            pool.apply(die_always, (str(path),), retries=2)
        error = raised.value
        assert noted(path) == 3
        assert len(error.deaths) == 3 and len(set(error.deaths)) == 3
        assert all("PoolWorker-" in death and "killed by SIGSEGV" in death for death in error.deaths)
        assert error.exitcode == -signal.SIGSEGV and "crashed" in str(error)
        assert pool.apply(square, (3,), retries=1) == 9
    pool.join()


def test_every_way_to_submit_takes_retries(ctx: Any, tmp_path: Path) -> None:
    numbers = list(range(8))

    def function(name: str) -> Any:
        return functools.partial(die_once_on, bad=5, path=str(tmp_path / name))

    with ctx.Pool(2) as pool:
        assert pool.map(function("a"), numbers, chunksize=1, retries=1) == numbers
        assert pool.map_async(function("c"), numbers, chunksize=4, retries=1).get(LIMIT) == numbers
        pairs = [(x,) for x in numbers]
        assert pool.starmap_async(function("e"), pairs, retries=1).get(LIMIT) == numbers
        assert list(pool.imap(function("f"), iter(numbers), retries=1)) == numbers
        assert sorted(pool.imap_unordered(function("g"), numbers, retries=1)) == numbers
        assert pool.apply_async(function("h"), (5,), retries=1).get(LIMIT) == 5
    pool.join()
    with ctx.Pool(2, retries=1) as pool:
        assert pool.map(function("i"), numbers) == numbers
        with pytest.raises(WorkerLost):
            pool.apply(function("j"), (5,), retries=0)
    pool.join()


def test_an_exception_is_not_tried_again(ctx: Any, path: Path) -> None:
    with ctx.Pool(1, retries=3) as pool:
        with pytest.raises(ValueError, match="no"):
            pool.apply(fail, (str(path),))
        assert noted(path) == 1 and pool.status().failed == 1
    pool.join()


def test_retries_and_callbacks_and_the_close(ctx: Any, path: Path) -> None:
    seen: list[int] = []
    with ctx.Pool(1) as pool:
        pool.apply_async(survive, (str(path), 4), callback=seen.append, retries=3)
        pool.close()
        pool.join()
    assert seen == [4] and noted(path) == 4


def test_under_fire_nothing_is_lost_that_may_be_tried_again(ctx: Any) -> None:
    done = threading.Event()
    with ctx.Pool(3, retries=10_000) as pool:

        def fire() -> None:
            for turn in itertools.count():
                if done.wait(0.01):
                    return
                worker = pool.workers()[turn % 3]
                if worker.done and worker.pid in {process.pid for process in list(pool._pool)}:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)

        thread = threading.Thread(target=fire)
        thread.start()
        try:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                results = [pool.apply_async(square, (x,)) for x in range(200)]
                assert [result.get(LIMIT) for result in results] == [x * x for x in range(200)]
                assert list(pool.imap(square, iter(range(200)))) == [x * x for x in range(200)]
        finally:
            done.set()
            thread.join()
    pool.join()


# --- what is told of a death -----------------------------------------------------------------------


def crash() -> None:
    ctypes.string_at(0)


def test_a_lost_worker_is_described(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        wait_until(lambda: pool.workers()[0].state == "idle", "it is ready")
        pid, name = pool._pool[0].pid, pool._pool[0].name
        with pytest.raises(WorkerLost) as raised:
            pool.apply(crash)
        error = raised.value
        assert (error.pid, error.worker, error.exitcode) == (pid, name, -signal.SIGSEGV)
        assert error.task is not None and error.task.endswith("crash") and not error.out_of_memory
        assert str(error).startswith(f"worker {pid} ({name}) was killed by SIGSEGV while it ran ")
        assert "native code" in str(error), "what can be done"
        with pytest.raises(WorkerLost, match=r"exited with code 3 while .*\(.* let it return or fail instead\)"):
            pool.apply(os._exit, (3,))
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.pid, copy.worker) == (str(error), pid, name)
    pool.join()


def test_out_of_memory_is_said() -> None:
    from procession import _pool_results

    loss = (12, -9, "PoolWorker-1", True, "give it more memory")
    error = _pool_results.exception_of(_pool_results.LOST, loss, square, " (item 3)", None)
    assert isinstance(error, WorkerLost) and error.out_of_memory
    assert "was killed by SIGKILL, probably out of memory while it ran" in str(error)
    unknown = (12, None, "", False, "")
    error = _pool_results.exception_of(_pool_results.POISON, [loss, unknown], square, "", None)
    assert isinstance(error, PoisonTask) and error.exitcode is None
    assert error.deaths[1] == "worker 12 died, of what is not known"


# --- time-outs of tasks ----------------------------------------------------------------------------


def test_a_task_that_runs_too_long_is_stopped(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        others = [pool.apply_async(slow, (x,)) for x in range(10)]
        began = time.monotonic()
        with pytest.raises(
            TaskTimeout, match=r"slow ran for longer than 0.2 seconds in worker \d+ \(.*PoolWorker"
        ) as raised:
            pool.apply(slow, (0, LIMIT), task_timeout=0.2)
        assert 0.2 <= time.monotonic() - began < LIMIT / 2
        error = raised.value
        assert isinstance(error, procession.TimeoutError) and isinstance(error, procession.ProcessError)
        assert isinstance(error, multiprocessing.TimeoutError)
        assert error.seconds == 0.2 and error.pid
        assert [other.get(LIMIT) for other in others] == list(range(10))
        status = pool.status()
        assert (status.done, status.timed_out) == (10, 1)
    pool.join()


def test_every_way_to_submit_takes_a_task_timeout(ctx: Any) -> None:
    naps = [0.0, LIMIT, 0.0]
    with ctx.Pool(2, task_timeout=0.3) as pool:
        calls: list[Callable[[], Any]] = [
            lambda: pool.map(time.sleep, naps, chunksize=1),
            lambda: pool.starmap(time.sleep, [(nap,) for nap in naps], chunksize=1),
            lambda: pool.map_async(time.sleep, naps, chunksize=3).get(LIMIT),
            lambda: pool.starmap_async(slow, [(1, LIMIT)]).get(LIMIT),
            lambda: pool.apply_async(time.sleep, (LIMIT,)).get(LIMIT),
        ]
        for call in calls:
            with pytest.raises(TaskTimeout):
                call()
        # Long enough for the short ones, on a busy machine too.
        iterator = pool.imap(time.sleep, iter(naps), task_timeout=2.0)
        assert next(iterator) is None
        with pytest.raises(TaskTimeout, match="item 1"):
            next(iterator)
        assert next(iterator) is None
        # Its own choice counts, and waiting is another matter.
        result = pool.apply_async(slow, (1, 0.6), task_timeout=float("inf"))
        with pytest.raises(procession.TimeoutError) as raised:
            result.get(0.01)
        assert not isinstance(raised.value, TaskTimeout)
        assert result.get(LIMIT) == 1
    pool.join()


def ignore_everything(seconds: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Holds the interpreter: no handler of Python's could run.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100_000))


def test_a_task_that_listens_to_nobody_is_stopped_too(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(TaskTimeout):
            pool.apply(ignore_everything, (LIMIT,), task_timeout=0.1)
        assert pool.apply(square, (4,), task_timeout=LIMIT) == 16
    pool.join()


def test_at_the_limit_the_next_task_is_unharmed(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        pool.map(slow, range(4), chunksize=1)
        for _ in range(15):
            close = pool.apply_async(slow, (1, 0.028), task_timeout=0.02)
            others = [pool.apply_async(square, (x,)) for x in range(8)]
            try:
                assert close.get(LIMIT) == 1
            except TaskTimeout:
                pass
            assert [other.get(LIMIT) for other in others] == [x * x for x in range(8)]
    pool.join()


# --- cancelling ------------------------------------------------------------------------------------


@pytest.fixture(params=["fork", "spawn", "forkserver", "threads"])
def make_pool(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes pools of each kind; those that a test leaves are ended."""
    pools = []

    def make(*args: Any, **kwargs: Any) -> Any:
        if request.param == "threads":
            pool: Any = ThreadPool(*args, **kwargs)
        else:
            pool = procession.get_context(request.param).Pool(*args, **kwargs)
        pools.append(pool)
        return pool

    yield make
    while pools:
        pool = pools.pop()
        pool.terminate()
        pool.join()


def test_what_was_cancelled_before_it_began_never_runs(make_pool: Callable[..., Any], path: Path) -> None:
    pool = make_pool(1)
    gate = procession.Event()
    running = pool.apply_async(after, (gate, 1))
    wait_until(lambda: pool.workers()[0].task, "it runs")
    waiting = [pool.apply_async(note, (str(path),), retries=n % 2) for n in range(20)]
    errors: list[BaseException] = []
    told = pool.apply_async(note, (str(path),), error_callback=errors.append)
    many = pool.map_async(note, [str(path)] * 50, chunksize=2)
    for result in [*waiting, told, many]:
        assert result.cancel()
        with pytest.raises(CancelledError, match=r"note.* was cancelled"):
            result.get(LIMIT)
        assert result.ready() and not result.successful() and not result.cancel()
    assert len(errors) == 1 and isinstance(errors[0], CancelledError)
    assert not running.cancel()
    gate.set()
    assert running.get(LIMIT) == 1
    assert not running.cancel()
    assert pool.apply(square, (3,)) == 9
    assert pool.status().cancelled == 20 + 1 + 25
    assert noted(path) == 0


def test_a_map_may_be_cancelled_in_the_middle_of_its_submission(ctx: Any) -> None:
    """As a signal handler does that runs while the thread below it submits."""
    with ctx.Pool(2) as pool:
        results: list[Any] = []

        class Items:
            """So large that they are not all submitted before somebody waits for results."""

            def __len__(self) -> int:
                return 200

            def __iter__(self) -> Iterator[bytes]:
                for number in range(len(self)):
                    if number == 150:
                        assert results[0].cancel()
                    yield bytes(1 << 20)

        # The workers take no more than one each before the call has returned.
        go = ctx.Event()
        results.append(pool.map_async(functools.partial(length_after, go), Items(), chunksize=1))
        go.set()
        with pytest.raises(CancelledError):
            results[0].get(LIMIT)
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
    pool.join()


def length_after(event: Any, data: bytes) -> int:
    event.wait(LIMIT)
    return len(data)


def test_a_signal_handler_may_cancel_a_map(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        results: list[Any] = []
        before = signal.signal(signal.SIGUSR1, lambda *_: results and results[0].cancel())
        try:
            results.append(pool.map_async(slow, [0] * 2000, chunksize=1))
            killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            killer.start()
            with pytest.raises(CancelledError):
                results[0].get(LIMIT)
            killer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
    pool.join()


def test_a_running_call_is_stopped_if_asked_for(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        gate = ctx.Event()
        victim = pool.apply_async(slow, (1, LIMIT), retries=3)
        other = pool.apply_async(after, (gate, 2))
        wait_until(lambda: all(worker.task for worker in pool.workers()), "both run")
        assert not victim.cancel() and not victim.ready()
        began = time.monotonic()
        assert victim.cancel(terminate=True)
        with pytest.raises(CancelledError):
            victim.get(LIMIT)
        assert time.monotonic() - began < LIMIT / 2
        gate.set()
        assert other.get(LIMIT) == 2
        chunks = pool.map_async(slow, [(x) for x in range(40)], chunksize=10)
        wait_until(lambda: pool.status().running, "they run")
        assert chunks.cancel(terminate=True)
        with pytest.raises(CancelledError):
            chunks.get(LIMIT)
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
    pool.join()


def test_done_cancelled_or_killed_there_is_one_outcome(ctx: Any, path: Path) -> None:
    most = 0
    outcomes = set()
    with ctx.Pool(2) as pool:
        pool.map(slow, range(4), chunksize=1)
        for turn in range(120):
            result = pool.apply_async(note, (str(path),))
            time.sleep(turn % 6 * 0.0001)
            if turn % 9 == 4:
                worker = pool.workers()[turn % 2]
                # Three in a row that don't get ready break a pool.
                ready = worker.state != "starting"
                if ready and worker.pid in {process.pid for process in list(pool._pool)}:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
            cancelled = result.cancel(terminate=turn % 4 == 1)
            try:
                result.get(LIMIT)
                outcomes.add("done")
                most += 1
            except CancelledError:
                outcomes.add("cancelled")
                most += turn % 4 == 1
                assert cancelled or turn % 4 != 1
            except WorkerLost:
                outcomes.add("lost")
                most += 1
    pool.join()
    assert {"done", "cancelled"} <= outcomes
    # One that was about to begin may have been taken for one that had, and was not.
    assert noted(path) <= most


# --- what a pool tells of itself -------------------------------------------------------------------


def test_status_and_workers(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    wait_until(lambda: [worker.state for worker in pool.workers()] == ["idle"] * 2, "both are ready")
    gate = procession.Event()
    release = [pool.apply_async(after, (gate, x)) for x in range(5)]
    wait_until(lambda: pool.status().running == 2, "both work")
    assert pool.status().queued == 3
    time.sleep(0.1)
    for worker in pool.workers():
        assert worker.state == "running" and worker.task.endswith("after")
        assert 0.05 < worker.seconds < LIMIT
        assert worker.name and worker.pid > 0
    assert len({worker.pid for worker in pool.workers()}) == 2
    gate.set()
    assert [result.get(LIMIT) for result in release] == list(range(5))
    with pytest.raises(TypeError):
        pool.apply(square, ("x",))
    wait_until(lambda: not any(worker.task for worker in pool.workers()), "both are idle")
    status = pool.status()
    assert (status.queued, status.running, status.done, status.failed) == (0, 0, 5, 1)
    wait_until(lambda: sum(worker.done for worker in pool.workers()) == 6, "each has said that it is through")


def test_workers_that_have_grown_are_replaced(ctx: Any) -> None:
    with ctx.Pool(1, max_memory_per_worker=150 << 20) as pool:
        pids = [pool.apply(leak, (60,)) for _ in range(9)]
        runs = [pid for pid, _ in itertools.groupby(pids)]
        assert len(runs) == len(set(pids)) >= 3
        assert pool.status().done == 9
        pool.close()
        pool.join()


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat_over_an_endless_iterator(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"{read:08}" * 2000

    for function in (pool.imap, pool.imap_unordered):
        read = before = 0
        for given, text in enumerate(itertools.islice(function(str.upper, texts()), 6000)):
            assert len(text) == 16_000 and read - given <= 1024
            if given == 1500:
                before = resident()
        assert resident() - before < 24 << 20, "72 MB have gone through"


# --- wrong use -------------------------------------------------------------------------------------


def test_choices_that_make_no_sense() -> None:
    for wrong in (-1, 1.5, "2", 1 << 32):
        with pytest.raises(ValueError, match="retries must be 0 or a positive int"):
            procession.Pool(1, retries=wrong)
    for size in (0, -5, 1.5):
        with pytest.raises(ValueError, match="max_memory_per_worker must be a positive int"):
            procession.Pool(1, max_memory_per_worker=size)
    with procession.Pool(1) as pool:
        for seconds in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="task_timeout must be more than 0"):
                pool.map(square, [1], task_timeout=seconds)
        with pytest.raises(TypeError, match="task_timeout must be a number"):
            pool.apply(square, (1,), task_timeout="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="retries must be"):
            pool.imap(square, [1], retries=-1)
        assert pool.apply(square, (3,)) == 9
    pool.join()
    with ThreadPool(1) as threads:
        with pytest.raises(ValueError, match="a thread can't be stopped"):
            threads.apply_async(square, (1,), task_timeout=1)
        assert threads.apply(square, (3,), retries=3) == 9


def test_threads_take_tasks_while_others_are_cancelled() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPool(4) as threads:
            for _ in range(60):
                results = [threads.apply_async(abs, (-1,)) for _ in range(300)]
                cancelled = {result for result in results[::10] if result.cancel()}
                for result in results:
                    with pytest.raises(CancelledError) if result in cancelled else contextlib.nullcontext():
                        assert result.get(30) == 1
    finally:
        sys.setswitchinterval(interval)
