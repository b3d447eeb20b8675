"""Locks, semaphores, conditions, events and barriers: what they do, and what they do when a process dies."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import procession
from forking import BOUND, Child, forked, until
from procession import OwnerDiedError, OwnerDiedWarning, synchronize
from procession.synchronize import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore

LOCKS: list[Callable[..., Any]] = [Lock, RLock]
SEMAPHORES: list[Callable[..., Any]] = [Semaphore, BoundedSemaphore]
HOLDABLE = [*LOCKS, *SEMAPHORES]


def timed(function: Callable[..., Any], *args: Any, **kwds: Any) -> tuple[Any, float]:
    start = time.monotonic()
    result = function(*args, **kwds)
    return result, time.monotonic() - start


# --- what is acquired and released --------------------------------------------------------------------


@pytest.mark.parametrize("make", HOLDABLE)
def test_one_holds_it_and_another_does_not_get_it(make: Callable[..., Any]) -> None:
    lock = make()
    assert lock.acquire() is True
    assert lock.locked()

    def other() -> None:
        assert lock.acquire(False) is False
        assert lock.acquire(block=False, timeout=5) is False
        assert lock.acquire(True, 0) is False
        assert lock.acquire(True, -1) is False
        got, seconds = timed(lock.acquire, timeout=0.1)
        assert got is False and 0.09 <= seconds < BOUND

    Child(other).check()
    assert lock.release() is None
    assert not lock.locked()

    def then() -> None:
        assert lock.acquire(True, 5)
        lock.release()

    Child(then).check()


@pytest.mark.parametrize("make", HOLDABLE)
def test_with_block(make: Callable[..., Any]) -> None:
    lock = make()
    with lock as got:
        assert got is True
        assert lock.locked()
    assert not lock.locked()
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert not lock.locked()


@pytest.mark.parametrize("make", HOLDABLE)
def test_a_waiter_in_another_process_gets_it_when_it_is_released(make: Callable[..., Any]) -> None:
    lock, done = make(), Event()
    lock.acquire()

    def wait() -> None:
        with lock:
            done.set()

    with forked(wait):
        until(lambda: lock.waiters() == 1)
        assert not done.is_set()
        lock.release()
        assert done.wait(BOUND)


@pytest.mark.parametrize("make", HOLDABLE)
def test_it_excludes_threads_and_processes(make: Callable[..., Any]) -> None:
    lock = make()
    value = procession.RawValue("i", 0)
    rounds = 500

    def work() -> None:
        for _ in range(rounds):
            with lock:
                seen = value.value
                time.sleep(0)
                value.value = seen + 1

    children = [Child(work) for _ in range(3)]
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    for child in children:
        child.check()
    assert value.value == 5 * rounds


@pytest.mark.parametrize("make", HOLDABLE)
@pytest.mark.parametrize("wrong", ["5", [], object()])
def test_a_timeout_must_be_a_number(make: Callable[..., Any], wrong: object) -> None:
    with pytest.raises(TypeError, match="timeout"):
        make().acquire(True, wrong)


def test_a_timeout_can_be_any_number() -> None:
    lock = Lock()
    for timeout in (1, 0.5, 10**30, float("inf"), True):
        assert lock.acquire(timeout=timeout)
        lock.release()
    with pytest.raises(ValueError, match="nan"):
        lock.acquire(timeout=float("nan"))
    assert not lock.locked()


def test_block_is_taken_by_its_truth() -> None:
    lock = Lock()
    assert lock.acquire(1)
    assert lock.acquire(0) is False
    assert lock.acquire([]) is False  # type: ignore[arg-type]


# --- Lock ---------------------------------------------------------------------------------------------


def test_a_lock_that_is_not_held_cannot_be_released() -> None:
    lock = Lock()
    with pytest.raises(ValueError, match="not held"):
        lock.release()
    with lock:
        pass
    with pytest.raises(ValueError, match="not held"):
        lock.release()
    assert lock.acquire(False)


def test_a_lock_may_be_released_by_another_process() -> None:
    lock = Lock()
    lock.acquire()
    Child(lock.release).check()
    assert lock.acquire(False)


def test_a_lock_is_not_recursive() -> None:
    lock = Lock()
    lock.acquire()
    assert lock.acquire(timeout=0.05) is False


def test_who_holds_it_is_seen() -> None:
    for lock in (Lock(), RLock()):
        assert lock.owner() is None
        with lock:
            pid, thread, name = lock.owner() or (0, 0, "")
            assert (pid, thread) == (os.getpid(), threading.get_native_id())
            assert isinstance(name, str)
            held = lock
            Child(lambda held=held, pid=pid: (held.owner() or (0,))[0] == pid or 1 / 0).check()  # type: ignore[misc]
        assert lock.owner() is None


# --- RLock --------------------------------------------------------------------------------------------


def test_an_rlock_is_recursive() -> None:
    lock = RLock()
    for _ in range(3):
        assert lock.acquire()
    assert repr(lock) == "<RLock(MainProcess, 3)>"
    for _ in range(3):
        assert lock.locked()
        lock.release()
    assert not lock.locked()
    with pytest.raises(AssertionError, match="not held by this thread"):
        lock.release()


def test_only_its_owner_releases_an_rlock() -> None:
    lock = RLock()
    errors: list[BaseException] = []

    def other() -> None:
        try:
            lock.release()
        except AssertionError as error:
            errors.append(error)

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(BOUND)
        assert len(errors) == 1

        def other_process() -> None:
            with pytest.raises(AssertionError):
                lock.release()
            assert not lock.acquire(False)

        Child(other_process).check()
        assert lock.locked()


def test_a_forked_child_does_not_own_what_its_parent_holds() -> None:
    lock = RLock()
    lock.acquire()

    def child() -> None:
        assert not lock._is_owned()
        assert not lock.acquire(timeout=0.05)

    Child(child).check()
    lock.release()


# --- Semaphore ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SEMAPHORES)
def test_permits_are_counted(make: Callable[..., Any]) -> None:
    semaphore = make(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire() and semaphore.acquire()
    assert semaphore.get_value() == 0
    assert semaphore.locked()
    assert semaphore.acquire(False) is False
    semaphore.release(2)
    assert semaphore.get_value() == 2


def test_a_semaphore_may_grow_and_a_bounded_one_may_not() -> None:
    semaphore = Semaphore(1)
    semaphore.release()
    semaphore.release(3)
    assert semaphore.get_value() == 5
    bounded = BoundedSemaphore(2)
    with pytest.raises(ValueError, match="more often than acquired"):
        bounded.release()
    bounded.acquire()
    with pytest.raises(ValueError, match="more often than acquired"):
        bounded.release(2)
    assert bounded.get_value() == 1
    bounded.release()
    assert bounded.get_value() == 2


@pytest.mark.parametrize("make", SEMAPHORES)
@pytest.mark.parametrize("value", [-1, 2**31, 10**20])
def test_a_semaphore_cannot_start_just_anywhere(make: Callable[..., Any], value: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        make(value)


@pytest.mark.parametrize("make", SEMAPHORES)
@pytest.mark.parametrize("n", [0, -1])
def test_a_release_of_nothing_is_a_mistake(make: Callable[..., Any], n: int) -> None:
    semaphore = make(1)
    with pytest.raises(ValueError, match="from 1"):
        semaphore.release(n)
    assert semaphore.get_value() == 1


def test_the_highest_value() -> None:
    semaphore = Semaphore(synchronize.SEM_VALUE_MAX)
    assert semaphore.get_value() == synchronize.SEM_VALUE_MAX
    with pytest.raises(ValueError, match="count that high"):
        semaphore.release()


def test_a_semaphore_signals_across_processes() -> None:
    there, back = Semaphore(0), Semaphore(0)

    def echo() -> None:
        for _ in range(200):
            assert there.acquire(timeout=BOUND)
            back.release()

    with forked(echo):
        for _ in range(200):
            there.release()
            assert back.acquire(timeout=BOUND)


# --- what the death of an owner does ------------------------------------------------------------------


def die_holding(lock: Any) -> None:
    """Have a process acquire it and be killed."""
    held = Event()

    def hold() -> None:
        lock.acquire()
        held.set()
        signal.pause()

    child = Child(hold)
    assert held.wait(BOUND)
    child.kill()


@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_whose_owner_died_goes_on_with_a_warning(make: Callable[..., Any]) -> None:
    lock = make()
    die_holding(lock)
    with pytest.warns(OwnerDiedWarning, match="process .* ended without releasing it"):
        assert lock.acquire(timeout=BOUND)
    lock.release()
    assert lock.acquire(False), "it is told once"
    lock.release()


@pytest.mark.parametrize("make", LOCKS)
def test_a_waiter_gets_the_lock_of_one_who_dies(make: Callable[..., Any]) -> None:
    lock, held = make(), Event()

    def hold() -> None:
        lock.acquire()
        held.set()
        signal.pause()

    child = Child(hold)
    assert held.wait(BOUND)
    told = []

    def wait() -> None:
        with pytest.warns(OwnerDiedWarning), lock:
            told.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: lock.waiters() == 1)
    start = time.monotonic()
    child.kill()
    thread.join(BOUND)
    assert told == [True]
    assert time.monotonic() - start < BOUND / 2


@pytest.mark.parametrize("make", LOCKS)
def test_the_death_of_an_owner_can_be_an_error_with_the_lock_held(make: Callable[..., Any]) -> None:
    lock = make(on_owner_death="raise")
    assert lock.on_owner_death == "raise"
    die_holding(lock)
    with pytest.raises(OwnerDiedError, match="half changed"):
        lock.acquire()
    assert lock._is_owned()
    lock.release()
    with lock:
        pass


@pytest.mark.parametrize("make", LOCKS)
def test_a_with_block_that_is_not_entered_does_not_hold_the_lock(make: Callable[..., Any]) -> None:
    lock = make(on_owner_death="raise")
    die_holding(lock)
    with pytest.raises(OwnerDiedError), lock:
        pytest.fail("entered")
    assert not lock.locked()


@pytest.mark.parametrize("make", LOCKS)
def test_a_warning_that_is_an_error_does_not_hold_the_lock(make: Callable[..., Any]) -> None:
    lock = make()
    die_holding(lock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OwnerDiedWarning):
            lock.acquire()
    assert not lock.locked()


@pytest.mark.parametrize("make", LOCKS)
def test_the_death_of_an_owner_can_be_ignored(make: Callable[..., Any]) -> None:
    lock = make(on_owner_death="ignore")
    die_holding(lock)
    with lock:
        assert lock._is_owned()


@pytest.mark.parametrize("make", LOCKS)
def test_what_happens_then_must_be_one_of_three(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="'warn', 'raise' or 'ignore'"):
        make(on_owner_death="explode")


def test_the_choice_travels_with_the_lock() -> None:
    lock = Lock(on_owner_death="raise")
    assert pickle.loads(pickle.dumps(lock)).on_owner_death == "raise"


def test_the_permit_of_a_dead_process_returns_to_a_bounded_semaphore() -> None:
    semaphore = BoundedSemaphore(2)
    semaphore.acquire()
    die_holding(semaphore)
    assert semaphore.acquire(timeout=BOUND)
    assert not semaphore.acquire(False)


def test_a_plain_semaphore_does_not_make_up_a_permit() -> None:
    semaphore = Semaphore(1)
    die_holding(semaphore)
    assert not semaphore.acquire(timeout=0.3)
    semaphore.release()
    assert semaphore.acquire(False)


@pytest.mark.parametrize("make", HOLDABLE)
def test_a_waiter_that_is_killed_takes_nothing_with_it(make: Callable[..., Any]) -> None:
    lock = make()
    lock.acquire()
    for _ in range(3):
        child = Child(lock.acquire)
        until(lambda: lock.waiters() > 0)
        child.kill()
    start = Event()

    def wait() -> None:
        start.set()
        with lock:
            pass

    with forked(wait):
        assert start.wait(BOUND)
        lock.release()


# --- Condition ----------------------------------------------------------------------------------------


def wait_in(condition: Condition, woken: Any, timeout: float | None = BOUND) -> Callable[[], None]:
    def wait() -> None:
        with condition:
            assert condition.wait(timeout)
        woken.release()

    return wait


@pytest.mark.parametrize("make", [None, Lock, RLock])
def test_notify_wakes_as_many_as_it_says(make: Callable[..., Any] | None) -> None:
    condition, woken = Condition(make and make()), Semaphore(0)
    children = [Child(wait_in(condition, woken)) for _ in range(4)]
    until(lambda: condition._waiting.waiters() == 4)
    with condition:
        condition.notify()
    assert woken.acquire(timeout=BOUND)
    assert not woken.acquire(timeout=0.1)
    with condition:
        condition.notify(n=2)
    assert woken.acquire(timeout=BOUND) and woken.acquire(timeout=BOUND)
    assert not woken.acquire(timeout=0.1)
    with condition:
        condition.notify_all()
        condition.notify(100)
    for child in children:
        child.check()
    assert woken.get_value() == 1
    with condition:
        condition.notify(0)
        condition.notify(-1)


def test_wait_says_whether_it_was_notified() -> None:
    condition = Condition()
    with condition:
        assert condition.wait(0) is False
        result, seconds = timed(condition.wait, 0.1)
        assert result is False and 0.09 <= seconds < BOUND
        assert condition._waiting.waiters() == 0

        def notify() -> None:
            with condition:
                condition.notify()

        with forked(notify):
            assert condition.wait(BOUND) is True


def test_wait_lets_go_of_a_lock_held_several_times_and_takes_it_as_often() -> None:
    condition = Condition()
    with condition, condition, condition:

        def notify() -> None:
            with condition:
                condition.notify()

        with forked(notify):
            assert condition.wait(BOUND)
        assert repr(condition) == "<Condition(<RLock(MainProcess, 3)>, 0)>"
    assert not condition._lock.locked()


def test_wait_for() -> None:
    condition, value = Condition(), procession.RawValue("i", 0)

    def count() -> None:
        for _ in range(3):
            with condition:
                value.value += 1
                condition.notify()

    with condition, forked(count):
        assert condition.wait_for(lambda: value.value >= 3 and "enough", BOUND) == "enough"
    with condition:
        result, seconds = timed(condition.wait_for, lambda: value.value > 3, 0.1)
        assert result is False and 0.09 <= seconds < BOUND
        assert condition.wait_for(lambda: 7, 0) == 7


@pytest.mark.parametrize("make", [Lock, RLock])
@pytest.mark.parametrize("what", ["wait", "notify", "notify_all"])
def test_a_condition_needs_its_lock(make: Callable[..., Any], what: str) -> None:
    condition = Condition(make())
    with pytest.raises(AssertionError, match="lock"):
        getattr(condition, what)()
    taken, go = threading.Event(), threading.Event()

    def other() -> None:
        with condition:
            taken.set()
            go.wait(BOUND)

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait(BOUND)
    with pytest.raises(AssertionError, match="lock"):
        getattr(condition, what)()
    go.set()
    thread.join(BOUND)


def test_a_condition_needs_a_lock_of_ours() -> None:
    for wrong in (threading.Lock(), 5, BoundedSemaphore(1)):
        with pytest.raises(TypeError, match="Lock"):
            Condition(wrong)  # type: ignore[arg-type]


def test_a_waiter_that_was_killed_costs_no_wakeup() -> None:
    condition, woken = Condition(), Semaphore(0)
    victims = []
    for count in range(1, 4):
        victims.append(Child(wait_in(condition, woken)))
        until(lambda count=count: condition._waiting.waiters() == count)  # type: ignore[misc]
    survivor = Child(wait_in(condition, woken))
    until(lambda: condition._waiting.waiters() == 4)
    for victim in victims:
        victim.kill()
    with condition:
        condition.notify()
    assert woken.acquire(timeout=BOUND)
    survivor.check()


def test_conditions_go_on_when_many_waiters_are_killed() -> None:
    # Some are killed before they have let go of the lock.
    condition, woken = Condition(RLock(on_owner_death="ignore")), Semaphore(0)
    for _ in range(100):
        child = Child(wait_in(condition, woken))
        until(lambda: condition._waiting.waiters() >= 1)
        child.kill()
    with condition:
        condition.notify_all()
    with forked(wait_in(condition, woken)):
        until(lambda: condition._waiting.waiters() >= 1)
        with condition:
            condition.notify()
    assert woken.get_value() == 1


def test_the_death_of_who_holds_a_conditions_lock_is_told_to_the_waiter() -> None:
    condition, held = Condition(), Event()
    with condition:

        def notify_and_die() -> None:
            condition.acquire()
            condition.notify()
            held.set()
            signal.pause()

        child = Child(notify_and_die)
        killer = threading.Thread(target=lambda: (held.wait(BOUND), child.kill()))
        killer.start()
        with pytest.warns(OwnerDiedWarning):
            assert condition.wait(BOUND)
        killer.join(BOUND)
        assert condition._lock._is_owned()


# --- Event --------------------------------------------------------------------------------------------


def test_an_event_is_set_and_cleared() -> None:
    event = Event()
    assert not event.is_set()
    assert event.wait(0) is False
    result, seconds = timed(event.wait, 0.1)
    assert result is False and 0.09 <= seconds < BOUND
    event.set()
    assert event.is_set() and event.wait() is True and event.wait(0) is True
    event.set()
    event.clear()
    event.clear()
    assert not event.is_set()


def test_an_event_lets_everybody_through() -> None:
    event, ready, done = Event(), Semaphore(0), Semaphore(0)

    def wait() -> None:
        ready.release()
        assert event.wait(BOUND)
        done.release()

    children = [Child(wait) for _ in range(5)]
    for _ in children:
        assert ready.acquire(timeout=BOUND)
    for child in children:
        child.sleeps()
    children.pop().kill()
    event.set()
    event.clear()
    for child in children:
        child.check()
    assert done.get_value() == 4


# --- Barrier ------------------------------------------------------------------------------------------


def test_a_barrier_is_passed_together_again_and_again() -> None:
    barrier, count = Barrier(3), procession.Value("i", 0)

    def go() -> None:
        for turn in range(50):
            with count:
                count.value += 1
            barrier.wait(BOUND)
            assert count.value == 3 * (turn + 1)
            barrier.wait(BOUND)

    with forked(go), forked(go):
        go()
    assert barrier.n_waiting == 0 and not barrier.broken and barrier.parties == 3


def test_each_party_gets_another_number() -> None:
    barrier, numbers = Barrier(4), procession.SimpleQueue()
    children = [Child(lambda: numbers.put(barrier.wait(BOUND))) for _ in range(4)]
    assert sorted(numbers.get() for _ in range(4)) == [0, 1, 2, 3]
    for child in children:
        child.check()


def test_the_action_is_run_once_before_anybody_goes_on() -> None:
    count = procession.RawValue("i", 0)

    def act() -> None:
        time.sleep(0.05)
        count.value += 1

    alone = Barrier(1, act)
    alone.wait()
    alone.wait()
    assert count.value == 2
    count.value = 0
    barrier = Barrier(3, act)

    def once() -> None:
        barrier.wait(BOUND)
        assert count.value == 1

    with forked(once), forked(once):
        once()


def test_an_action_that_fails_breaks_the_barrier() -> None:
    barrier = Barrier(2, lambda: 1 / 0)
    ends = procession.SimpleQueue()

    def go() -> None:
        try:
            barrier.wait(BOUND)
        except Exception as error:
            ends.put(type(error).__name__)

    with forked(go), forked(go):
        assert {ends.get(), ends.get()} == {"ZeroDivisionError", "BrokenBarrierError"}
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken


def test_a_timeout_breaks_the_barrier_for_all() -> None:
    barrier = Barrier(3, timeout=0.2)

    def go() -> None:
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(BOUND)

    with forked(go):
        until(lambda: barrier.n_waiting == 1)
        with pytest.raises(threading.BrokenBarrierError, match="did not come in time"):
            barrier.wait()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(BOUND)


@pytest.mark.parametrize("what", ["abort", "reset"])
def test_who_waits_is_told_of_an_abort_or_a_reset(what: str) -> None:
    barrier = Barrier(2)

    def go() -> None:
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(BOUND)

    with forked(go):
        until(lambda: barrier.n_waiting == 1)
        getattr(barrier, what)()
    assert barrier.broken is (what == "abort")


def test_the_death_of_a_party_breaks_the_barrier() -> None:
    barrier = Barrier(3)
    victim = Child(lambda: barrier.wait(BOUND))
    until(lambda: barrier.n_waiting == 1)

    def go() -> None:
        with pytest.raises(threading.BrokenBarrierError, match="died"):
            barrier.wait(BOUND)

    with forked(go):
        until(lambda: barrier.n_waiting == 2)
        start = time.monotonic()
        victim.kill()
    assert time.monotonic() - start < BOUND / 2
    assert barrier.broken
    barrier.reset()
    with forked(lambda: barrier.wait(BOUND)), forked(lambda: barrier.wait(BOUND)):
        barrier.wait(BOUND)


@pytest.mark.parametrize("parties", [2, 3])
def test_the_last_to_arrive_finds_those_dead_that_nobody_saw_die(ctx: Any, parties: int) -> None:
    barrier = ctx.Barrier(parties)
    others = [ctx.Process(target=barrier.wait, args=(BOUND,)) for _ in range(parties - 1)]
    for process in others:
        process.start()
    until(lambda: barrier.n_waiting == parties - 1)
    for process in others:
        process.kill()
    for process in others:
        process.join()
    with pytest.raises(threading.BrokenBarrierError, match="died"):
        barrier.wait(BOUND)
    assert barrier.broken


def test_the_death_of_the_leader_in_its_action_breaks_the_barrier() -> None:
    barrier = Barrier(2, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def come_last() -> None:
        until(lambda: barrier.n_waiting == 1)
        barrier.wait(BOUND)

    leader = Child(come_last)
    with pytest.raises(threading.BrokenBarrierError, match="died"):
        barrier.wait(BOUND)
    assert leader.wait() == -signal.SIGKILL


@pytest.mark.parametrize("parties", [0, -1, 2**40])
def test_a_barrier_needs_parties(parties: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Barrier(parties)


# --- signals ------------------------------------------------------------------------------------------


def waits() -> dict[str, Callable[[], Any]]:
    lock, rlock, semaphore, bounded = Lock(), RLock(), Semaphore(0), BoundedSemaphore(1)
    lock.acquire()
    bounded.acquire()
    holder = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with rlock:
            holder.set()
            release.wait(BOUND)

    threading.Thread(target=hold, daemon=True).start()
    holder.wait(BOUND)
    condition, event, barrier = Condition(), Event(), Barrier(2)

    def wait_in_condition() -> None:
        with condition:
            try:
                condition.wait()
            except KeyboardInterrupt:
                assert condition._lock._is_owned()
                raise

    return {
        "lock": lock.acquire,
        "rlock": rlock.acquire,
        "semaphore": semaphore.acquire,
        "bounded": bounded.acquire,
        "condition": wait_in_condition,
        "event": event.wait,
        "barrier": barrier.wait,
    }


@pytest.mark.parametrize("what", ["lock", "rlock", "semaphore", "bounded", "condition", "event", "barrier"])
def test_ctrl_c_ends_a_wait(what: str) -> None:
    def wait() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        wait = waits()[what]
        ready.set()
        with pytest.raises(KeyboardInterrupt):
            wait()

    ready = Event()
    with forked(wait) as child:
        assert ready.wait(BOUND)
        child.sleeps()
        child.send(signal.SIGINT)


def test_a_handler_that_raises_nothing_does_not_end_a_wait() -> None:
    lock, ready, seen = Lock(), Event(), Event()
    lock.acquire()

    def wait() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: seen.set())
        ready.set()
        start = time.monotonic()
        assert not lock.acquire(timeout=1)
        assert time.monotonic() - start >= 0.95

    with forked(wait) as child:
        assert ready.wait(BOUND)
        child.sleeps()
        child.send(signal.SIGUSR1)
        assert seen.wait(BOUND)


def test_a_handler_may_use_what_is_being_waited_for() -> None:
    semaphore, ready = Semaphore(0), Event()

    def wait() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: semaphore.release())
        ready.set()
        assert semaphore.acquire(timeout=BOUND)

    with forked(wait) as child:
        assert ready.wait(BOUND)
        child.sleeps()
        child.send(signal.SIGUSR1)


# --- travelling ---------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], Any]] = {
    "Lock": Lock,
    "RLock": RLock,
    "Semaphore": lambda: Semaphore(3),
    "BoundedSemaphore": lambda: BoundedSemaphore(3),
    "Condition": Condition,
    "Event": Event,
    "Barrier": lambda: Barrier(2, timeout=5.0),
}


def same(obj: Any, queue: Any) -> None:
    again = queue.get()
    queue.put((type(again).__name__, repr(again) if "Event" not in repr(again) else again.is_set()))
    if isinstance(again, (procession.synchronize.Lock, procession.synchronize.RLock)):
        assert not again.acquire(False) and not obj.acquire(False)


@pytest.mark.parametrize("name", MAKERS)
def test_it_travels_in_arguments_and_queues(name: str, ctx: Any) -> None:
    obj, queue = MAKERS[name](), ctx.Queue()
    if name in ("Lock", "RLock"):
        obj.acquire()
    child = ctx.Process(target=same, args=(obj, queue))
    child.start()
    queue.put(obj)
    child.join(BOUND)
    assert child.exitcode == 0
    assert queue.get(timeout=BOUND)[0] == name


@pytest.mark.parametrize("name", MAKERS)
def test_copies_are_the_same_object(name: str) -> None:
    obj = MAKERS[name]()
    for again in (copy.copy(obj), copy.deepcopy(obj), pickle.loads(pickle.dumps(obj))):
        assert type(again) is type(obj)
        if name == "Event":
            obj.set()
            assert again.is_set()
        elif name == "Barrier":
            again.abort()
            assert obj.broken and again.parties == 2 and again._timeout == 5.0
        else:
            obj.acquire()
            assert again._lock.locked() if name == "Condition" else again.locked() is (name in ("Lock", "RLock"))
            obj.release()


class Named(Lock):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_a_subclass_keeps_its_attributes() -> None:
    lock = Named("first")
    again = pickle.loads(pickle.dumps(lock))
    assert type(again) is Named and again.name == "first"
    with lock:
        assert again.locked()


class Forgetful(Lock):
    def __init__(self) -> None:
        pass


def test_a_subclass_that_forgets_its_base_is_told() -> None:
    with pytest.raises(RuntimeError, match=re.escape("Lock.__init__() has not been called")):
        Forgetful().acquire()


def test_it_lives_as_long_as_a_message_that_mentions_it() -> None:
    queue = procession.Queue()
    event = Event()
    event.set()
    queue.put([event])
    del event
    gc.collect()
    others = [Event() for _ in range(100)]  # which would take its place
    assert queue.get()[0].is_set()
    assert not any(other.is_set() for other in others)


def test_a_pickle_whose_object_is_gone_says_so() -> None:
    data = pickle.dumps(Lock())
    gc.collect()
    with pytest.raises(procession.ProcessError, match="lock"):
        pickle.loads(data)


def test_a_handle_is_not_taken_for_something_else() -> None:
    lock, event = Lock(), Event()
    rebuild, (_, handle, own), *_ = lock.__reduce__()
    with pytest.raises(procession.ProcessError):
        rebuild(Event, handle, own)
    assert not event.is_set()


# --- what they look like ------------------------------------------------------------------------------


def test_representations() -> None:
    lock, rlock = Lock(), RLock()
    assert repr(lock) == "<Lock(owner=None)>"
    assert repr(rlock) == "<RLock(None, 0)>"
    with lock, rlock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        assert repr(rlock) == "<RLock(MainProcess, 1)>"
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.extend([repr(lock), repr(rlock)]))
        thread.start()
        thread.join(BOUND)
        assert seen == ["<Lock(owner=SomeOtherThread)>", "<RLock(SomeOtherThread, nonzero)>"]

        def other() -> None:
            assert repr(lock) == "<Lock(owner=SomeOtherProcess)>"
            assert repr(rlock) == "<RLock(SomeOtherProcess, nonzero)>"

        Child(other).check()

    def named() -> None:
        with lock:
            seen.append(repr(lock))

    thread = threading.Thread(target=named, name="T")
    thread.start()
    thread.join(BOUND)
    assert seen[-1] == "<Lock(owner=MainProcess|T)>"
    assert repr(Semaphore(3)) == "<Semaphore(value=3)>"
    assert repr(BoundedSemaphore(3)) == "<BoundedSemaphore(value=3, maxvalue=3)>"
    assert repr(pickle.loads(pickle.dumps(bound := BoundedSemaphore(3)))) == repr(bound)
    assert repr(Condition()) == "<Condition(<RLock(None, 0)>, 0)>"
    assert re.fullmatch(r"<Event at 0x[0-9a-f]+ unset>", repr(Event()))
    assert re.fullmatch(r"<procession\.synchronize\.Barrier at 0x[0-9a-f]+: waiters=0/2>", repr(Barrier(2)))


def test_they_can_be_weakly_referenced_and_are_collected() -> None:
    import weakref

    for make in MAKERS.values():
        obj = make()
        gone = weakref.ref(obj)
        obj.me = obj
        del obj
        gc.collect()
        assert gone() is None


def test_a_contexts_locks_take_the_option(ctx: Any) -> None:
    for make in (ctx.Lock, ctx.RLock):
        assert make(on_owner_death="raise").on_owner_death == "raise"
        assert make().on_owner_death == "warn"


@pytest.mark.parametrize("make", LOCKS)
def test_the_quick_calls_of_locks_are_the_same_methods(make: Any) -> None:
    """Calls that need not wait take a shorter way, which must not show."""
    lock = make()
    cls: Any = type(lock)
    assert str(inspect.signature(lock.acquire)) == "(block=True, timeout=None)"
    assert "the lock" in cls.acquire.__doc__
    assert (cls.acquire.__name__, cls.release.__name__) == ("acquire", "release")
    taken = [lock.acquire(), *([] if make is Lock else [lock.acquire(False), lock.acquire(timeout=1)])]
    assert all(answer is True for answer in taken)
    for _ in taken:
        assert lock.release() is None
    unheld = ValueError if make is Lock else AssertionError
    for call in (lock.release, lambda: lock.__exit__(None, None, None), lock.__exit__):
        with pytest.raises(unheld, match="not held"):
            call()
    wrong: list[Callable[[], Any]] = [
        lambda: lock.acquire(True, None, 3),
        lambda: lock.acquire(blocking=True),
        lambda: lock.release(1),
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    assert lock.owner() is None
    base: Any = cls.__mro__[1]
    with pytest.raises(RuntimeError, match="__init__"):
        base.__new__(base).acquire()
    with pytest.raises(TypeError):
        base.acquire(Event())
    with lock as entered:
        assert entered is True
        assert lock.owner()[:2] == (os.getpid(), threading.get_native_id())
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(lock.acquire(False)))
        thread.start()
        thread.join(30)
        assert answers == [False]
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert lock.acquire(False)
    lock.release()


def test_threads_take_turns_with_a_recursive_lock() -> None:
    """Of threads of one process, which the word of the lock does not tell apart."""
    lock = RLock()
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(2000):
            with lock:
                before = count
                with lock:
                    count = before + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert count == 8000
    assert lock.owner() is None
