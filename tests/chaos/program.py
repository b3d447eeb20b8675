"""The random program: what is made up from a seed, and what its members do."""

from __future__ import annotations

import faulthandler
import mmap
import os
import random
import signal
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Full
from threading import BrokenBarrierError
from typing import Any

import procession
from procession import OwnerDiedWarning, _procession

from .ledger import Journal

#: How long a process may take to be gone after it has let go of what it held, in seconds.
LAST_WAY = 1.0

#: Told to whoever waits for a message when the program is to end.
POISON = ("poison",)

FEATURES = ("queue", "lock", "semaphore", "condition", "event", "barrier", "pipe", "value", "manager", "pool")

# Places in the scratch memory.
STOP, GENERATION, HOLDERS, PERMITS, PLACES = 0, 1, 2, 16, 256


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    method: str
    members: int
    features: tuple[str, ...]
    queues: tuple[tuple[str, int], ...]
    seconds: float
    pace: float
    signals: tuple[str, ...]
    #: "attack", or what happens to the whole: "kill root", "ctrl-c".
    scene: str
    crash_points: bool
    attack_servers: bool
    #: Members have a child of their own.
    nested: bool

    @classmethod
    def of(cls, seed: int, crash_points: bool = False, scene: str | None = None) -> Plan:
        rng = random.Random(seed)
        method = rng.choices(("fork", "forkserver", "spawn"), (85, 10, 5))[0]
        features = {feature for feature in FEATURES if rng.random() < (0.12 if feature == "manager" else 0.5)}
        features |= {rng.choice(("queue", "lock", "pool"))}
        kinds = [rng.choice((("Queue", 0), ("Queue", 4), ("JoinableQueue", 0), ("SimpleQueue", 0))) for _ in range(2)]
        plan = cls(
            seed,
            method,
            rng.randint(2, 4) if method == "fork" else 2,
            tuple(sorted(features)),
            tuple(kinds),
            rng.uniform(0.1, 0.3) if method == "fork" else rng.uniform(0.25, 0.5),
            rng.choice((0.004, 0.015, 0.04)),
            rng.choice((("kill",), ("kill", "kill", "stop"), ("kill", "stop", "int"), ("stop",))),
            scene or rng.choices(("attack", "kill root", "ctrl-c"), (92, 5, 3))[0],
            crash_points,
            method == "fork" and rng.random() < 0.3,
            method == "fork" and rng.random() < 0.2,
        )
        # Members with children are no daemons: they may outlive the root.
        return replace(plan, nested=plan.nested and plan.scene == "attack")


class Scratch:
    """Plain words that all processes of a round share, by a file and not by what is under test."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * PLACES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * PLACES)
        self.words = memoryview(self._map).cast("q")

    def close(self) -> None:
        self.words.release()
        self._map.close()


@dataclass
class World:
    """What the members share. It travels to each as an argument."""

    directory: Path
    plan: Plan
    queues: list[Any] = field(default_factory=list)
    locks: list[Any] = field(default_factory=list)
    semaphore: Any = None
    permits: int = 2
    condition: Any = None
    event: Any = None
    barrier: Any = None
    pair: Any = None
    sums: Any = None
    names: Any = None


def make_world(ctx: Any, plan: Plan, directory: Path) -> World:
    """Make the shared objects. The manager is the caller's affair."""
    world = World(directory, plan)
    has = plan.features.__contains__
    if has("queue"):
        world.queues = [
            getattr(ctx, kind)() if kind == "SimpleQueue" else getattr(ctx, kind)(size) for kind, size in plan.queues
        ]
    if has("lock"):
        world.locks = [ctx.Lock(on_owner_death="raise"), ctx.RLock(on_owner_death="warn")]
    if has("semaphore"):
        world.semaphore = ctx.BoundedSemaphore(world.permits)
    if has("condition"):
        world.condition = ctx.Condition()
    if has("event"):
        world.event = ctx.Event()
    if has("barrier"):
        world.barrier = ctx.Barrier(max(2, plan.members - 1))
    if has("value"):
        lock = ctx.Lock(on_owner_death="raise")
        world.pair = ctx.Array("q", 2, lock=lock)
        world.sums = ctx.Value("q", 0, lock=False)
    return world


def body(rng: random.Random) -> Any:
    """The contents of a message: short, long, large, with a buffer of its own, by chance."""
    length = rng.choice((0, 10, 10, 10, 100, 100, 3000, 3000, 70_000, 300_000 if rng.random() < 0.2 else 50))
    data = rng.randbytes(min(length, 64)) * (length // 64 + 1)
    return bytearray(data) if rng.random() < 0.3 else data


def sealed(source: int, number: int, contents: Any, mentioned: Any = None) -> tuple[Any, ...]:
    """A message with its checksum, and maybe an object that it mentions."""
    return (source, number, contents, zlib.crc32(contents, source * 1_000_003 + number), mentioned)


def is_torn(message: Any) -> bool:
    """Whether a message is not what was sealed."""
    if not isinstance(message, tuple) or len(message) != 5:
        return True
    source, number, contents, checksum, _mentioned = message
    return bool(zlib.crc32(contents, source * 1_000_003 + number) != checksum)


def is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def ends_soon(pid: int) -> bool:
    """Whether the process is dead, or on its last way: one that ends in good order lets go before it is gone."""
    deadline = time.monotonic() + LAST_WAY
    while not is_dead(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class Actor:
    """One process's part: operations on what the world has, each written down before and after."""

    def __init__(self, world: World, source: int, name: str) -> None:
        self.world = world
        self.source = source
        self.rng = random.Random(world.plan.seed * 1000 + source)
        self.journal = Journal(world.directory / f"{name}.journal")
        self.scratch = Scratch(world.directory / "scratch")
        self.words = self.scratch.words
        self.numbers = 0
        self.permits_had = 0
        self.journal.note("start", os.getpid())

    @property
    def stopping(self) -> bool:
        return self.words[STOP] != 0

    def wrong(self, text: str) -> None:
        self.journal.note("wrong", text)

    def mentioned(self) -> Any:
        """An object for a message to mention: sometimes one that only the message keeps."""
        if self.rng.random() < 0.8:
            return None
        made = self.rng.choice((procession.Event, procession.Queue, procession.Lock))()
        if isinstance(made, procession.queues.Queue):
            made.put(self.numbers)
        return made

    def look_at(self, mentioned: Any, number: int) -> None:
        if isinstance(mentioned, procession.queues.Queue):
            inside = mentioned.get(timeout=1)
            if inside != number:
                self.wrong(f"a queue in message {number} has {inside} in it")
        elif isinstance(mentioned, procession.synchronize.Lock):
            with mentioned:
                pass
        elif mentioned is not None:
            mentioned.set()

    # Queues.

    def put(self, at: int, **how: Any) -> bool:
        queue = self.world.queues[at]
        self.numbers += 1
        message = sealed(self.source, self.numbers, body(self.rng), self.mentioned())
        self.journal.note("put", at, self.source, self.numbers)
        try:
            queue.put(message, **how)
        except Full:
            self.journal.note("refused-put", at, self.source, self.numbers)
            return False
        self.journal.note("done-put", at, self.source, self.numbers)
        return True

    def get(self, at: int, **how: Any) -> bool:
        queue = self.world.queues[at]
        self.journal.note("get", at)
        try:
            message = queue.get(**how)
        except Empty:
            self.journal.note("nothing", at)
            return False
        if message == POISON:
            self.journal.note("nothing", at)
        elif is_torn(message):
            self.wrong(f"torn: queue {at} gave {repr(message)[:200]}")
            return True
        else:
            self.journal.note("got", at, message[0], message[1])
            self.look_at(message[4], message[1])
        if self.world.plan.queues[at][0] == "JoinableQueue" and message != POISON:
            self.journal.note("tell", at)
            queue.task_done()
            self.journal.note("told", at)
        return True

    # What excludes others.

    def acquire(self, lock: Any, place: int) -> bool:
        """Acquire; what the lock says of its last owner must be so. Return whether the owner had died."""
        began = time.monotonic_ns()
        told = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", OwnerDiedWarning)
            try:
                lock.acquire()
            except procession._errors.OwnerDiedError:
                told = True
        told = told or any(issubclass(warning.category, OwnerDiedWarning) for warning in caught)
        holder = self.words[HOLDERS + place]
        if told:
            self.journal.note("took", place, holder, began)
            if holder and not is_dead(holder):
                # The ledger knows whether it was on its last way then, or has only been killed since.
                self.journal.note("lives", place, holder)
            if holder and not ends_soon(holder):
                self.wrong(f"lock {place} was taken from {holder}, which lives")
        elif holder:
            self.wrong(f"lock {place} was acquired while {holder} holds it, or nobody was told of its death")
        self.words[HOLDERS + place] = os.getpid()
        return told

    def release(self, lock: Any, place: int) -> None:
        if self.words[HOLDERS + place] != os.getpid():
            self.wrong(f"lock {place} is held by {self.words[HOLDERS + place]} too")
        self.words[HOLDERS + place] = 0
        lock.release()

    def dwell(self) -> None:
        if self.rng.random() < 0.3:
            time.sleep(self.rng.uniform(0, 0.004))

    def use_lock(self) -> None:
        # No `with`: who is interrupted inside ends holding it, and that is to be told too.
        place = self.rng.randrange(len(self.world.locks))
        lock = self.world.locks[place]
        self.acquire(lock, place)
        if place == 1 and self.rng.random() < 0.5:
            lock.acquire()
            self.dwell()
            lock.release()
        self.dwell()
        self.release(lock, place)

    def use_value(self) -> None:
        """Two numbers that are equal whenever nobody is inside."""
        pair = self.world.pair
        lock = pair.get_lock()
        died = self.acquire(lock, 5)
        raw = pair.get_obj()
        if raw[0] != raw[1]:
            if not died:
                self.wrong(f"value: {raw[0]} and {raw[1]} under a lock whose owner is not said to have died")
            raw[1] = raw[0]
        raw[0] += 1
        self.dwell()
        raw[1] += 1
        self.release(lock, 5)

    def use_semaphore(self) -> None:
        mine = PERMITS + self.source % 200
        self.world.semaphore.acquire()
        # With a number: who has let go and come back is not taken for one who has stayed.
        self.permits_had += 1
        self.words[mine] = self.permits_had << 32 | os.getpid()
        holders = [pid for pid in self.permit_holders() if not is_dead(pid)]
        if len(holders) > self.world.permits:
            # The ledger knows which of them were on their last way then, or have only been killed since.
            self.journal.note("crowd", self.world.permits, *holders)
            deadline = time.monotonic() + LAST_WAY
            while sum(not is_dead(pid) for pid in holders) > self.world.permits:
                if time.monotonic() > deadline:
                    self.wrong(f"semaphore: {holders} hold {self.world.permits} permits")
                    break
                time.sleep(0.001)
        self.dwell()
        self.words[mine] = 0
        self.world.semaphore.release()

    def permit_holders(self) -> list[int]:
        """Who holds permits, all at one moment, and who was killed with one."""
        places = self.words[PERMITS : PERMITS + 200]
        while (seen := places.tolist()) != places.tolist():
            pass
        places.release()
        return [word & 0xFFFF_FFFF for word in seen if word]

    # What waits for others.

    def use_condition(self) -> None:
        condition = self.world.condition
        with condition:
            if self.rng.random() < 0.5:
                self.words[GENERATION] += 1
                condition.notify_all() if self.rng.random() < 0.5 else condition.notify()
            else:
                target = self.words[GENERATION] + 1
                condition.wait_for(lambda: self.words[GENERATION] >= target or self.stopping)

    def use_event(self) -> None:
        if self.rng.random() < 0.5:
            self.world.event.wait()
        else:
            self.world.event.set()
            if not self.stopping:
                self.world.event.clear()

    def use_barrier(self) -> None:
        self.journal.note("barrier")
        try:
            self.world.barrier.wait(timeout=self.rng.uniform(0.05, 3))
            self.journal.note("passed")
        except BrokenBarrierError:
            self.journal.note("broken")
            if not self.stopping:
                self.world.barrier.reset()

    def append(self) -> None:
        self.numbers += 1
        self.journal.note("append", self.numbers)
        try:
            self.world.names.append((self.source, self.numbers))
        except (OSError, EOFError) as error:
            self.journal.note("refused-append", type(error).__name__)
            time.sleep(0.005)
        else:
            self.journal.note("appended", self.numbers)

    def operations(self) -> list[Callable[[], object]]:
        """What there is to do, for the features that the world has."""
        found: list[Callable[[], object]] = []
        for at in range(len(self.world.queues)):
            simple = self.world.plan.queues[at][0] == "SimpleQueue"
            found += [
                lambda at=at: self.put(at),
                lambda at=at: self.get(at),
                lambda at=at, simple=simple: self.get(at, **({} if simple else {"timeout": 0.03})),
            ]
            if not simple:
                found += [lambda at=at: self.put(at, block=False), lambda at=at: self.get(at, block=False)]
        if self.world.locks:
            found += [self.use_lock, self.use_lock]
        if self.world.semaphore is not None:
            found.append(self.use_semaphore)
        if self.world.condition is not None:
            found.append(self.use_condition)
        if self.world.event is not None:
            found.append(self.use_event)
        if self.world.barrier is not None:
            found.append(self.use_barrier)
        if self.world.pair is not None:
            found += [self.use_value, self.use_value]
        if self.world.names is not None:
            found.append(self.append)
        return found


def show_stacks_on_request() -> None:
    """On SIGUSR2 the stacks of all threads go to standard error."""
    faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)


def arm(world: World, rng: random.Random, journal: Journal) -> None:
    """Perhaps: this process is killed at a named place, by itself."""
    if world.plan.crash_points and rng.random() < 0.6:
        point = rng.choice(_procession._crash_points())
        journal.note("armed", point.replace(" ", "_"))
        _procession._arm_crash_point(point, rng.choice((1, 1, 2, 3, 5, 8, 20)))


def member(world: World, source: int, connection: Any) -> None:
    """What a member's process runs."""
    show_stacks_on_request()
    actor = Actor(world, source, f"member-{source}")
    if world.plan.scene != "ctrl-c" and actor.rng.random() < 0.5:
        signal.signal(signal.SIGINT, lambda *_: actor.journal.note("handled"))
    arm(world, actor.rng, actor.journal)
    try:
        if world.plan.nested and connection is None and source < 100:
            # It must not outlive this process, however it ends.
            child = procession.get_context("fork").Process(target=member, args=(world, source + 100, None), daemon=True)
            child.start()
        if connection is not None:
            echo(actor, connection)
        else:
            operations = actor.operations()
            while not actor.stopping:
                if operations:
                    actor.rng.choice(operations)()
                else:
                    time.sleep(0.005)
    except KeyboardInterrupt:
        actor.journal.note("interrupted")
    except BaseException as error:
        actor.wrong(f"member {source}: {type(error).__name__}: {error} at {where(error)}")
        raise


def where(error: BaseException) -> str:
    """The innermost place of this package in a traceback."""
    import traceback

    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(error.__traceback__)))


def echo(actor: Actor, connection: Any) -> None:
    """Send back what comes, until the other end is closed."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if message == POISON:
            return
        if is_torn(message):
            actor.wrong(f"torn: a pipe gave {repr(message)[:200]}")
        connection.send(sealed(actor.source, message[1], message[2]))


# A pool's workers.

_actor: Actor | None = None


class TaskError(Exception):
    """A task's own error, of a class that takes two arguments."""

    def __init__(self, task: int, why: str) -> None:
        super().__init__(task, why)
        self.task = task


def enter_pool(world: World) -> None:
    """Each worker's initializer."""
    global _actor
    show_stacks_on_request()
    _actor = Actor(world, 1000 + os.getpid() % 1_000_000_000, f"worker-{os.getpid()}")
    arm(world, random.Random(world.plan.seed ^ os.getpid()), _actor.journal)


def task(number: int, kind: str, contents: bytes) -> tuple[int, bytes, int]:
    """What a pool is to do."""
    assert _actor is not None
    _actor.journal.note("run", number)
    if kind == "error":
        raise TaskError(number, "as it should")
    if kind == "exit":
        os._exit(7)
    if kind == "sleep":
        time.sleep(0.005)
    if kind == "put":
        for at in range(len(_actor.world.queues)):
            _actor.put(at)
    if kind == "lock" and _actor.world.locks:
        _actor.use_lock()
    return number, contents, zlib.crc32(contents, number)


def simple_task(number: int) -> int:
    """One item of an imap."""
    assert _actor is not None
    _actor.journal.note("run", number)
    return number


def square(number: int) -> int:
    return number * number
