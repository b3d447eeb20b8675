"""The engine: shared memory, processes, and what travels between them. Private to the package.

Whatever blocks here does so without the interpreter, honours its time-out, and looks for signals in
the main thread: an exception that a handler raises ends the wait.
"""

from collections.abc import Callable, Iterable, Iterator
from types import GenericAlias, TracebackType
from typing import Any, Generic, Literal, Self, SupportsIndex, TypeVar, final

from _typeshed import ReadableBuffer, WriteableBuffer
from typing_extensions import disjoint_base

_T = TypeVar("_T")
_C = TypeVar("_C", bound=Connection)

# --- the family of processes ---------------------------------------------------------------------

def arena_fd() -> int:
    """Return the descriptor of the family's memory, which a child joins by.

    It is close-on-exec and belongs to the engine. The family is made if there is none yet.

    Raises:
        OSError: the memory can't be set up, e.g. because the kernel has no memfd.
        MemoryError: no address range is free for it.
    """

def join_family(fd: int, seat: int) -> None:
    """Join the family of the parent, as the first act of a child started by executing a program.

    Args:
        fd: the descriptor that `arena_fd` returned in the parent; it is taken over.
        seat: what `prepare_child` returned in the parent.

    Raises:
        RuntimeError: this process has used its own family already, or `fd` is no family's memory.
        ProcessError: the parent has given up this child.
    """

def prepare_child(name: str, role: Literal["process", "worker", "forkserver", "server"] | str) -> int:
    """Keep a place in the family for a child that is about to start; return it as a number.

    Raises:
        ValueError: there is no such role.
        OSError: the family has as many members as it can have.
    """

def cancel_child(seat: int) -> None:
    """Give up a place: the child did not start."""

def child_started(seat: int, pid: int) -> None:
    """Note that the child has started as process `pid`."""

def fork_with(seat: int) -> None:
    """Announce that the calling thread forks now: the child takes this place, and holds all that this process holds."""

def fork_spare() -> None:
    """Announce that the calling thread forks a spare now: a child without a place in the family.

    Until it takes one, it may use nothing that is shared, and ends without `leave()`.
    """

def lend_to(seat: int) -> None:
    """Give a place, which a spare of this process is to take, all that this process holds."""

def take_seat(seat: int) -> None:
    """Take a place in the family, in a spare.

    Raises:
        ProcessError: the place was given up; this process is to end.
    """

def fork_done() -> None:
    """Note, in the parent, that the fork is over or has failed."""

def fork(seat: int) -> tuple[int, int]:
    """Fork, with this place for the child, as `os.fork` does but for its warning and its audit event.

    Returns:
        The pid and a pidfd of the child; in the child 0 and a pidfd of its parent, or -1 if it can't be had.

    Raises:
        OSError: there can be no more processes, or no descriptor is left.
    """

def pidfd_of_parent(parent: int) -> int:
    """Return a pidfd of our parent; one that says it has ended, if it has.

    Raises:
        OSError: descriptors have run out, or the kernel has no pidfds.
    """

def leave() -> None:
    """Leave the family: this process ends in good order, and what it holds goes back."""

def reap(seat: int, code: int | None = None) -> None:
    """Give back what a child held that was seen to have ended, with this exit code if that is known.

    Harmless if that was done.
    """

def note_exit(seat: int, code: int) -> None:
    """Write down how a child ended, for whoever is not its parent: its exit code, or a signal's number below zero."""

def exit_status(seat: int) -> int | None:
    """Return what `note_exit` wrote down, or None if it has not yet."""

def die_with(pid: int) -> None:
    """Have this process killed when process `pid` ends, however that ends.

    If it has ended already, this does not return.
    """

def members() -> list[dict[str, Any]]:
    """Return what is known of each member of the family.

    Returns:
        Dicts with `id`, `pid`, `name`, `role`, `parent` (an id or None) and `alive`.
    """

def spawn(
    executable: str | bytes,
    args: Iterable[str | bytes],
    fds: Iterable[int],
    env: Iterable[str | bytes] | None = None,
    blocked: Iterable[int] = (),
) -> tuple[int, int]:
    """Start a program as a child of this process. It takes no longer if this process is large.

    Args:
        executable: its path, which is also its own name.
        args: its arguments, after its own name.
        fds: descriptors that are open in it, at the same numbers.
        env: its environment as `NAME=value`; by default a copy of `os.environ`.
        blocked: signals that it starts with blocked; no others.

    Returns:
        Its process id and a descriptor for it (pidfd), which is close-on-exec and the caller's.

    Raises:
        OSError: it can't be started.
        ValueError: an argument has a zero byte.
    """

# --- diagnostics ---------------------------------------------------------------------------------

def set_deadlock_timeout(seconds: float | None) -> None:
    """Set after how long a wait is reported, for the whole family; None is never.

    What is found goes to `procession.util._report_wait`, in the thread that waits.

    Raises:
        ValueError: `seconds` is 0 or less.
    """

def deadlock_timeout() -> float | None:
    """Return after how many seconds the wait for a lock is reported; None is never."""

# --- pickling ------------------------------------------------------------------------------------

def set_pickler(dumps: Callable[[Any], Any], loads: Callable[..., Any]) -> None:
    """Register the functions that pickle.

    Args:
        dumps: called with an object; returns bytes, or bytes and a list of contiguous buffers.
        loads: called with a bytes-like object, and `buffers=` a list of blocks if there were any.
    """

def set_pickler_maker(
    make: Callable[[], Any],
    main_is_importable: Callable[[], bool],
    modules: list[dict[str, Any]],
    name: str,
    reducers: list[dict[type, Any]],
) -> None:
    """Register how picklers are made that are then used again and again.

    Args:
        make: returns an object with `dump` and `clear_memo`, and the lists `parts` and `buffers`
            of what was written and what was left outside. Good for as long as `modules` and
            `reducers` are as they are now.
        main_is_importable: says whether children find the main module by its name.
        modules: where the module `name` is looked for, whose reducers count too.
        name: that module's name.
        reducers: what the table of reducers was made from.
    """

def forget_pickler_maker() -> None:
    """Make no use of such picklers until another maker is registered."""

def note_handle(handle: bytes) -> None:
    """Have the message that is being pickled keep the object alive that `handle` names.

    For `__reduce__` methods written in Python; does nothing when what is pickled is not being sent.
    """

def freeze(obj: _T) -> _T:
    """Return a copy of an object whose large buffers can only be read, and are passed on by name."""

def pack(obj: object) -> Parcel:
    """Pickle an object into shared memory.

    Raises:
        MemoryError: there is no room for it.
    """

def unpack(handle: bytes) -> Any:
    """Return the object of a parcel that its packer still holds.

    Raises:
        Gone: the parcel is no longer there.
    """

@final
class Parcel:
    """A pickled object in shared memory. Dropping the last reference to it frees it."""

    @property
    def handle(self) -> bytes:
        """The name under which `unpack` finds it, in any process of the family: 16 bytes."""

def _rebuild(cls: type[Any], handle: bytes, own: int) -> Any: ...

# --- memory --------------------------------------------------------------------------------------

@disjoint_base
class Block:
    """Bytes in the memory of the family, with a writable buffer: `memoryview(block)`.

    A block can be pickled: the receiver gets the same memory. It lives until the last of its views,
    in any process, is gone.

    Args:
        size: how many bytes, all zero at first.

    Raises:
        MemoryError: there is no room for it; the message names the size.
        ValueError: the size is negative.
    """

    def __init__(self, size: int) -> None: ...
    def __len__(self) -> int: ...
    # 3.11 has the buffer but not the method; type checkers know buffers by it.
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def handle(self) -> bytes:
        """Its name in the family, 16 bytes."""

    @property
    def address(self) -> int:
        """Where it lies in this process; another address in another."""

    @property
    def frozen(self) -> bool:
        """Whether it can only be read, in every process: then its buffer is read-only."""

# --- synchronization -----------------------------------------------------------------------------

@disjoint_base
class Lock:
    """A lock between processes. Any process or thread may release it.

    If its owner ends without releasing it, the next one to acquire it gets it and is told.

    Args:
        on_owner_death: "warn" (`OwnerDiedWarning`), "raise" (`OwnerDiedError`) or "ignore".
    """

    def __init__(self, *, on_owner_death: Literal["warn", "raise", "ignore"] = "warn") -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock.

        Args:
            block: whether to wait while it is held.
            timeout: how many seconds to wait at most; None waits for as long as it takes, and a
                negative number not at all.

        Returns:
            Whether it was acquired.

        Raises:
            OwnerDiedError: its owner had died, and `on_owner_death` is "raise". The lock is held.
        """

    def release(self) -> None:
        """Release the lock, whoever acquired it.

        Raises:
            ValueError: it is not held.
        """

    def locked(self) -> bool:
        """Return whether anybody holds it."""

    def owner(self) -> tuple[int, int, str] | None:
        """Return who holds it, if anybody: process id, thread id (`threading.get_native_id()`), process name."""

    def waiters(self) -> int:
        """Return how many sleep waiting for it, about."""

    @property
    def on_owner_death(self) -> Literal["warn", "raise", "ignore"]:
        """What happens when it is acquired after its owner has died."""

    @property
    def handle(self) -> bytes:
        """Its name in the family, 16 bytes."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None: ...
    def _is_owned(self) -> bool: ...
    def _release_save(self) -> int: ...
    def _acquire_restore(self, _saved: int = 1) -> None: ...

@disjoint_base
class RLock:
    """A lock between processes that the thread which holds it may acquire again. Only that thread can release it.

    If its owner ends without releasing it, the next one to acquire it gets it and is told.

    Args:
        on_owner_death: "warn" (`OwnerDiedWarning`), "raise" (`OwnerDiedError`) or "ignore".
    """

    def __init__(self, *, on_owner_death: Literal["warn", "raise", "ignore"] = "warn") -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock, or once more if the calling thread holds it; see `Lock.acquire`."""

    def release(self) -> None:
        """Undo one acquire.

        Raises:
            AssertionError: the calling thread does not hold it.
        """

    def locked(self) -> bool:
        """Return whether anybody holds it."""

    def owner(self) -> tuple[int, int, str] | None:
        """Return who holds it, if anybody: process id, thread id (`threading.get_native_id()`), process name."""

    def waiters(self) -> int:
        """Return how many sleep waiting for it, about."""

    @property
    def on_owner_death(self) -> Literal["warn", "raise", "ignore"]:
        """What happens when it is acquired after its owner has died."""

    @property
    def handle(self) -> bytes:
        """Its name in the family, 16 bytes."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None: ...
    def _is_owned(self) -> bool: ...
    def _count(self) -> int: ...
    def _release_save(self) -> int: ...
    def _acquire_restore(self, saved: int = 1) -> None: ...

@disjoint_base
class Guarded:
    """Holds an object and a lock, which are set once; its value is the object's, under the lock."""

    _obj: Any
    _lock: Any
    value: Any
    def get_lock(self) -> Any:
        """Return the lock."""

@disjoint_base
class Semaphore:
    """A counter of permits between processes. The permits of a process that dies are not given back.

    Args:
        value: how many there are at first.

    Raises:
        ValueError: `value` is negative or too large.
    """

    def __init__(self, value: int = 1) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take a permit; return whether one was to be had in the time given. See `Lock.acquire`."""

    def release(self, n: int = 1) -> None:
        """Give `n` permits.

        Raises:
            ValueError: there would be too many; none is given then.
        """

    def get_value(self) -> int:
        """Return how many permits are free."""

    def locked(self) -> bool:
        """Return whether no permit is free."""

    def waiters(self) -> int:
        """Return how many sleep waiting for one, about."""

    @property
    def handle(self) -> bytes:
        """Its name in the family, 16 bytes."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None: ...

@disjoint_base
class BoundedSemaphore:
    """A counter of permits between processes that never has more than it started with.

    The permits of a process that dies go to whoever waits.

    Args:
        value: how many there are at first, and at most.

    Raises:
        ValueError: `value` is negative or too large.
    """

    def __init__(self, value: int = 1) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take a permit; return whether one was to be had in the time given. See `Lock.acquire`."""

    def release(self, n: int = 1) -> None:
        """Give `n` permits back.

        Raises:
            ValueError: there would be more than at first; none is given then.
        """

    def get_value(self) -> int:
        """Return how many permits are free."""

    def locked(self) -> bool:
        """Return whether no permit is free."""

    def waiters(self) -> int:
        """Return how many sleep waiting for one, about."""

    @property
    def handle(self) -> bytes:
        """Its name in the family, 16 bytes."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None: ...

@disjoint_base
class WaitQueue:
    """Those who wait for a condition, the longest-waiting first. One that is killed costs no wake-up."""

    def __init__(self) -> None: ...
    def enqueue(self) -> int:
        """Join the queue, with the condition's lock held; return a ticket, which must be waited on."""

    def wait(self, ticket: int, timeout: float | None = None) -> bool:
        """Wait to be notified, without the lock; return whether it was."""

    def notify(self, n: int) -> int:
        """Let the `n` longest-waiting go on, with the lock held; return how many there were."""

    def waiters(self) -> int:
        """Return how many wait."""

    def _wait_releasing(self, lock: Lock | RLock, timeout: float | None = None) -> bool: ...

@disjoint_base
class Event:
    """A flag between processes, to wait for."""

    def __init__(self) -> None: ...
    def is_set(self) -> bool:
        """Return whether it is set."""

    def set(self) -> None:
        """Set it, and let everybody through who waits."""

    def clear(self) -> None:
        """Clear it."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return False if that was not in the time given."""

@disjoint_base
class Barrier:
    """A meeting point for a fixed number of threads of any processes.

    Args:
        parties: how many it takes.

    Raises:
        ValueError: `parties` is less than 1, or more than 16 million.
    """

    def __init__(self, parties: int) -> None: ...
    def begin(self, timeout: float | None = None) -> tuple[int, bool]:
        """Arrive, and wait for the others.

        Returns:
            The place (0 for the last to arrive), and whether this is the leader. The leader does not
            wait, and must call `finish` or `abort`.

        Raises:
            threading.BrokenBarrierError: the barrier is or gets broken.
        """

    def finish(self) -> None:
        """Let the others through, as the leader."""

    def abort(self) -> None:
        """Break the barrier: who waits, and who comes, gets `BrokenBarrierError`."""

    def reset(self) -> None:
        """Empty the barrier and make it whole: who waits gets `BrokenBarrierError`, who comes does not."""

    @property
    def parties(self) -> int:
        """How many it takes."""

    @property
    def n_waiting(self) -> int:
        """How many wait in it now."""

    @property
    def broken(self) -> bool:
        """Whether it is broken."""

    def _pass(self, timeout: float | None = None, action: Callable[[], object] | None = None) -> int: ...

# --- channels ------------------------------------------------------------------------------------

@disjoint_base
class Queue(Generic[_T]):
    """A queue between processes: any number of producers and consumers, first in, first out.

    What was put can be got as soon as `put` returns. A process that is killed in the middle of a put
    or a get has done it or has not.

    Args:
        maxsize: how many objects it holds at most; 0 or less is no limit.
    """

    def __init__(self, maxsize: int = 0) -> None: ...
    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...
    def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None:
        """Put an object into the queue; it can be got when this returns.

        Args:
            obj: the object. If it can't be pickled, that is raised here.
            block: whether to wait for room.
            timeout: how many seconds to wait at most; None waits for as long as it takes.

        Raises:
            queue.Full: there is no room.
            ValueError: this process has closed the queue.
            MemoryError: there is no memory for it.
        """

    def put_nowait(self, obj: _T) -> None:
        """Put an object into the queue if there is room; see `put`.

        Another process may be in the middle of putting: that is a matter of microseconds, and waited
        for. If that process is stopped there (SIGSTOP), `queue.Full` is raised after 250 ms, and
        `get_nowait` raises `queue.Empty` likewise.
        """

    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        """Take the object at the front.

        Args:
            block: whether to wait for one.
            timeout: how many seconds to wait at most; None waits for as long as it takes.

        Raises:
            queue.Empty: there is none.
            ValueError: this process has closed the queue.
        """

    def get_nowait(self) -> _T:
        """Take the object at the front if there is one; see `get`."""

    def qsize(self) -> int:
        """Return how many objects are in the queue."""

    def empty(self) -> bool:
        """Return whether the queue is empty.

        Raises:
            OSError: this process has put something and then closed it.
        """

    def full(self) -> bool:
        """Return whether the queue is full."""

    def close(self) -> None:
        """Close it for this process, which will neither put nor get any more. The others may."""

    def task_done(self) -> None:
        """Report one object done that was got.

        Raises:
            ValueError: all that were put have been reported.
        """

    def join(self) -> None:
        """Wait until every object that was put has been reported done."""

    @property
    def handle(self) -> bytes:
        """Its name in the family, 16 bytes."""

    @property
    def _closed(self) -> bool: ...
    def _poll(self, timeout: float | None = 0.0) -> bool: ...
    def _readable_fd(self) -> int: ...
    def _stop_watch(self) -> None: ...

@disjoint_base
class Connection:
    """One end of a connection that carries objects and byte strings, each as one message.

    Args:
        handle: its descriptor, which it takes over.
        readable: whether it can receive.
        writable: whether it can send.
        family: whether the other end belongs to a process of the same family: then large buffers and
            shared objects go through shared memory.

    Raises:
        ValueError: `handle` is negative, or it can neither receive nor send.
    """

    def __new__(
        cls, handle: SupportsIndex, readable: bool = True, writable: bool = True, *, family: bool = False
    ) -> Self: ...
    def send(self, obj: Any) -> None:
        """Send an object.

        Raises:
            BrokenPipeError: nobody is left to receive it.
            OSError: the connection is closed, or only receives.
        """

    def recv(self) -> Any:
        """Receive an object; wait until one is there.

        Raises:
            EOFError: all that was sent has been received, and the other end is closed.
            OSError: the connection is closed, or only sends.
        """

    def send_bytes(self, buf: ReadableBuffer, offset: int = 0, size: int | None = None) -> None:
        """Send bytes, or `size` of them from `offset` on, as one message.

        Raises:
            ValueError: the buffer has no such part.
            BrokenPipeError: nobody is left to receive them.
            OSError: the connection is closed, or only receives.
        """

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive a message of bytes; wait until one is there.

        Raises:
            EOFError: all that was sent has been received, and the other end is closed.
            OSError: the message is longer than `maxlength` (nothing can be received after it), or the
                connection is closed, or only sends.
        """

    def recv_bytes_into(self, buf: WriteableBuffer, offset: int = 0) -> int:
        """Receive a message of bytes into a buffer, from `offset` on; return its length.

        Raises:
            BufferTooShort: it does not fit; it is the exception's argument.
            EOFError: all that was sent has been received, and the other end is closed.
        """

    @staticmethod
    def _make_mailbox() -> tuple[object, bytes]:
        """Make a mailbox in shared memory, for requests and answers between members of the family.

        Return it, and what the other end's `_use_mailbox` is to be given.

        Raises:
            MemoryError: there is no memory.
        """

    def _use_mailbox(self, mailbox: object) -> None:
        """Use a mailbox from now on: one that `_make_mailbox` made here, or at the other end.

        From then on each end may send a second message only once it has had the answer to its first,
        and nothing but this object knows when there is something to receive.

        Raises:
            ProcessError: there is none of that name.
            ValueError: the connection, or the mailbox, is used already.
        """

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is something to receive, or the end; wait for that as long as `timeout`."""

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            OSError: the connection is closed.
        """

    def close(self) -> None:
        """Close the descriptor, once no other thread is in the middle of a call."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    @property
    def readable(self) -> bool:
        """Whether it can receive."""

    @property
    def writable(self) -> bool:
        """Whether it can send."""

    @property
    def family(self) -> bool:
        """Whether large buffers and shared objects go through shared memory."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None: ...

def pipe(duplex: bool, cls: type[_C]) -> tuple[_C, _C]:
    """Return two connected ends. If not `duplex`, the first only receives and the second only sends."""

# --- the pool ------------------------------------------------------------------------------------

@final
class PoolFunction:
    """A function as it is sent to workers."""

@final
class PoolCore:
    """What the processes of a pool share, in the process that made it.

    Args:
        workers: how many places for workers there are.
        max_tasks: after how many tasks a worker ends; 0 is never.
        max_memory: with how many bytes of its own a worker ends; 0 is never.
        retries: how often a task is tried again whose worker has died.
        seconds: for how long a task may run.
    """

    def __new__(cls, workers: int, max_tasks: int, max_memory: int, retries: int, seconds: float | None) -> Self: ...
    @property
    def handle(self) -> bytes:
        """What a worker has to know to find the pool, 16 bytes."""

    def supervise(self, workers: list[tuple[int, int, int]], replace: Callable[[int], tuple[int, int, int]]) -> None:
        """Begin to look after the workers.

        Args:
            workers: pid, descriptor (which is taken over) and seat, for each place.
            replace: called with the number of a place; starts a worker for it.
        """

    @staticmethod
    def function(pickled: bytes, cached: bool, name: str) -> PoolFunction:
        """Return a function as it is sent: its pickle, whether a worker may keep what it unpickles, its name."""

    def apply(
        self,
        pool: Any,
        pickled: PoolFunction | BaseException,
        function: Any,
        args: Any,
        kwds: Any,
        name_argument: Callable[[BaseException, Any, Any, Any], BaseException],
        choice: tuple[int | None, float | None] | None,
    ) -> ApplyResult:
        """Submit the call of a function, as a job of its own.

        Args:
            pool: what the result keeps until it is here.
            pickled: the function; an exception fails the job at once.
            function: what was pickled.
            args: positional arguments.
            kwds: keyword arguments.
            name_argument: makes the exception for arguments that can't be pickled.
            choice: how often it is tried again, and for how many seconds it may run; None for what
                the pool says.
        """

    def job(self, function: PoolFunction | None, choice: tuple[int | None, float | None] | None) -> JobCore:
        """Open a job for a function; `choice` as in `apply()`."""

    def close(self) -> None:
        """Take no more jobs; the workers end when those that are open are done."""

    def terminate(self) -> None:
        """End all workers, and fail what is not done. Returns at once."""

    def join(self, timeout: float | None) -> bool:
        """Wait until all workers are gone; return whether they are."""

    @property
    def state(self) -> Literal["prepared", "running", "closing", "terminated", "broken"]:
        """What the pool is up to."""

    def next_announced(self) -> int | None:
        """Wait for the next job to be announced that has all its replies; return its number, or None at the end."""

    def workers(self) -> list[tuple[int, str, str, int, tuple[str, float] | None]]:
        """Return what each worker does: pid, name, state, results sent, and its task and for how many seconds."""

    def status(self) -> list[int]:
        """Return how many tasks are queued, running, done, failed, lost, timed out, cancelled, and were retried."""

@disjoint_base
class ReadyItems:
    """Results of an imap that have come, in the order in which they are given out: the base of its iterators."""

    def __new__(cls, *_args: Any, **_keywords: Any) -> Self: ...
    def set_up(self, ordered: bool, single: bool) -> None:
        """Say whether results go out in the order of their tasks, and whether each task has one item."""

    def append(self, success: bool, value: Any) -> None:
        """Append an item: a result, or an exception to be raised."""

    def pop(self) -> tuple[bool, Any] | None:
        """Take the next item: whether it is a result, and the value."""

    def sort_in_all(self, replies: list[tuple[int, int, Any]]) -> None:
        """Sort replies in: (index, status, value) each."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...

@final
class JobCore:
    """Tasks submitted together, and their replies."""

    @property
    def number(self) -> int:
        """Its number among the jobs of its pool."""

    @property
    def submitted(self) -> int:
        """How many tasks were submitted."""

    @property
    def outstanding(self) -> int:
        """How many of them have no reply yet."""

    @property
    def cost(self) -> int:
        """Bytes of a task and its reply, on average of those there were."""

    def submit_many(
        self,
        what: int,
        function: PoolFunction,
        items: Iterator[Any],
        count: int,
        ahead: int,
        name_item: Callable[[BaseException, int, Any], BaseException],
    ) -> tuple[bool, BaseException | None]:
        """Submit a task for each of the next `count` items; return whether that was the end, and what went wrong."""

    def seal(self) -> None:
        """That was the last task."""

    def announce(self) -> None:
        """Have `PoolCore.next_announced` tell when all replies are here."""

    def discard(self) -> None:
        """From now on, throw replies away."""

    def cancel(self, running_too: bool) -> tuple[int, int]:
        """Cancel what has not begun, and stop what is running if that is wanted; return how many of each there were."""

    def wait_outstanding(self, count: int, timeout: float | None) -> bool:
        """Wait until at most `count` tasks are without reply; return False if the pool has ended."""

    def take(self, timeout: float | None, limit: int) -> list[tuple[int, int, Any]] | None:
        """Return replies as they come; an empty list if none does in the time given, None at the end."""

    def take_sorted(self, items: ReadyItems, timeout: float | None, limit: int) -> int | None:
        """As `take()`, with each reply put into its place in `items`; return how many there were."""

    def take_into(
        self, results: list[Any], timeout: float | None, limit: int
    ) -> tuple[int, list[tuple[int, int, Any]]] | None:
        """As `take()`, with results put into their places; return how many replies came, and the other replies."""

@disjoint_base
class ApplyResult:
    """The result of one call, to come."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...
    @property
    def _success(self) -> bool: ...
    @property
    def _value(self) -> Any: ...
    def ready(self) -> bool:
        """Return whether the call has completed."""

    def successful(self) -> bool:
        """Return whether the call completed without raising an exception.

        Raises:
            ValueError: if it has not completed yet.
        """

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, for `timeout` seconds at most."""

    def get(self, timeout: float | None = None) -> Any:
        """Return the result when it arrives, or raise what the call has raised.

        Raises:
            TimeoutError: if it doesn't arrive within `timeout` seconds.
            WorkerLost: if the worker died that ran the call.
        """

    def cancel(self, terminate: bool = False) -> bool:
        """Cancel the call, unless it has begun or is done.

        What was cancelled never runs, and `get()` raises `concurrent.futures.CancelledError`.
        Not in the standard library.

        Args:
            terminate: whether a call that is running is stopped too: its worker is killed and
                replaced, and what it has done so far stays done. It may still get done in this
                very moment, and its result is there then.

        Returns:
            Whether there was something to cancel: with `terminate`, anything that was not done.
            Of a map: whether that is so of at least one of its chunks.
        """

    def _withhold(self) -> int:
        """Have nobody see the outcome before `_report()`; return the number that the pool will announce."""

    def _announce(self) -> None:
        """Have the pool announce that the outcome is here."""

    def _report(
        self, callback: Callable[[Any], object] | None, error_callback: Callable[[BaseException], object] | None
    ) -> None:
        """Run the callback that the outcome is for, and have everybody see it."""

@final
class WorkerCore:
    """What a worker has of its pool.

    Args:
        handle: the pool's.
        slot: the worker's place in it.
    """

    def __new__(cls, handle: bytes, slot: int) -> Self: ...
    def ready(self) -> None:
        """Report that the initializer is done."""

    def start_failed(self, message: bytes) -> None:
        """Report that the initializer failed; the worker is to end."""

    def run(
        self,
        failed: Callable[[BaseException, Any], bytes],
        not_rebuilt: Callable[[BaseException], bytes],
        not_sent: Callable[[BaseException, Any], bytes],
    ) -> None:
        """Work until the pool has no more tasks for this worker."""
