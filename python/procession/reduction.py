"""Pickling: what goes to other processes, and how.

The C pickler with protocol 5; large buffers stay outside the pickle, for the arena. What
plain pickle can't do (lambdas, closures, functions typed at a prompt) cloudpickle does,
which is imported only then.
"""

from __future__ import annotations

import _pickle
import copyreg
import os
import sys
from _pickle import PickleError, PicklingError

from . import _beside, _procession, context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType
    from typing import Any, ClassVar, TypeVar

    _T = TypeVar("_T")
    Reducer = Callable[[Any], str | tuple[Any, ...]]
    Pickled = bytes | tuple[bytes, list[memoryview]]

__all__ = [
    "DupFd",
    "ForkingPickler",
    "dump",
    "dumps",
    "dumps_result",
    "freeze",
    "loads",
    "name_culprit",
    "recv_handle",
    "recvfds",
    "register",
    "send_handle",
    "sendfds",
]

#: Strangers may be another version of Python: all that are supported read it.
PROTOCOL = 5
#: Buffers of at least this size stay outside the pickle.
OUT_OF_BAND = 64 * 1024

_NONE: Mapping[type, Reducer] = {}

#: What `ForkingPickler.register` was told. Programs put other picklers in that class's place: nothing here asks for it.
_registered: dict[type, Reducer] = {}


class ForkingPickler(_pickle.Pickler):
    """A pickler that knows the reducers registered for traffic between processes."""

    _extra_reducers: ClassVar[dict[type, Reducer]] = _registered

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dispatch_table = dict(_table())

    @classmethod
    def register(cls, type: type, reduce: Reducer) -> None:
        """Use `reduce` for objects of exactly this type, between processes only."""
        global _snapshot
        cls._extra_reducers[type] = reduce
        _snapshot = None
        _procession.forget_pickler_maker()

    @classmethod
    def dumps(cls, obj: object, protocol: int | None = None) -> memoryview:
        """Return the pickle of `obj`, buffers and all in one piece."""
        return memoryview(_dump_whole(obj, PROTOCOL if protocol is None else protocol))

    @staticmethod
    def loads(data: Any, /, **options: Any) -> Any:
        """Return the object that was pickled."""
        return _pickle.loads(data, **options)


register = ForkingPickler.register


def dump(obj: object, file: Any, protocol: int | None = None) -> None:
    """Write the pickle of `obj` to a file."""
    ForkingPickler(file, protocol).dump(obj)


# The table of reducers: a plain dict, which the C pickler reads fastest, made anew when one
# of its sources has changed. Comparing dicts compares identities: 30 ns an entry.

_merged: dict[type, Any] = {}
_snapshot: tuple[dict[type, Any], dict[type, Any]] | None = None


def _table() -> dict[type, Any]:
    global _merged, _snapshot
    others = _beside.reducers()
    if _snapshot is not None and _snapshot == (copyreg.dispatch_table, others):
        return _merged
    _snapshot = (dict(copyreg.dispatch_table), dict(others))
    # Methods and partials, which the standard module registers, pickle by themselves today.
    foreign = {
        cls: reduce
        for cls, reduce in others.items()
        if getattr(reduce, "__module__", None) != "multiprocessing.reduction"
    }
    _merged = {**_snapshot[0], **foreign, **_lazy_reducers(), **_registered}
    return _merged


def _offer_picklers() -> None:
    """Have the extension use a pickler again and again, for as long as the table stays as it is."""
    _table()
    _procession.set_pickler_maker(
        _Pickler,
        _main_is_importable,
        [_beside.displaced, sys.modules],
        "multiprocessing.reduction",
        [copyreg.dispatch_table, _beside.reducers()],
    )


def _lazy_reducers() -> dict[type, Any]:
    """Return our reducers for classes of modules that only some programs load."""
    sockets: Any = sys.modules.get("socket")
    if sockets is None or not hasattr(sockets, "socket"):
        return {}
    return {sockets.socket: _reduce_socket}


def _sockets_came() -> bool:
    """Return whether sockets were loaded since the table was made, and see that it's renewed."""
    global _snapshot
    came = any(cls not in _merged for cls in _lazy_reducers())
    if came:
        _snapshot = None
        _procession.forget_pickler_maker()
    return came


class _Pickler:
    """A C pickler with what it writes. The extension uses it again and again: making one is dear."""

    __slots__ = ("buffers", "clear_memo", "dump", "parts", "write")

    def __init__(self, whole: bool = False) -> None:
        self.parts: list[bytes] = []
        self.buffers: list[memoryview] = []
        self.write = self.parts.append
        keeper = None if whole else _Keeper(self.buffers)
        pickler = _pickle.Pickler(_Sink(self.write), PROTOCOL, buffer_callback=keeper)
        pickler.dispatch_table = _merged
        self.dump = pickler.dump
        self.clear_memo = pickler.clear_memo


class _Keeper:
    """Takes large buffers out of a pickle."""

    __slots__ = ("buffers",)

    def __init__(self, buffers: list[memoryview]) -> None:
        self.buffers = buffers

    def __call__(self, buffer: _pickle.PickleBuffer) -> bool:
        return not _outside(buffer, self.buffers)


def _outside(buffer: _pickle.PickleBuffer, outside: list[memoryview]) -> bool:
    """Take a large buffer out of the pickle; say whether it was taken."""
    try:
        raw = buffer.raw()
    except BufferError:
        return False  # in several pieces: the pickler says what it thinks of that
    if raw.nbytes < OUT_OF_BAND:
        return False
    outside.append(raw)
    return True


def dumps(obj: object, *, by_value: bool = True) -> Pickled:
    """Return the pickle of `obj`; with large buffers in it, the pickle and the buffers.

    Args:
        obj: what to pickle.
        by_value: whether cloudpickle may help with what has no importable name.

    Raises:
        PicklingError, TypeError, AttributeError: or whatever else the object's own reducer
            raises, if it can't be pickled.
    """
    # The extension comes here with what it can't do by itself; it may be able to again.
    _offer_picklers()
    pickler = _Pickler()
    try:
        pickler.dump(obj)
    except (PickleError, AttributeError, TypeError) as error:
        if _sockets_came():
            return dumps(obj, by_value=by_value)
        if by_value:
            return _second_try(obj, error)
        raise
    data = b"".join(pickler.parts)
    if by_value and b"__main__" in data and not _main_is_importable():
        instead = _by_value(obj)
        if instead is not None:
            return instead
    return (data, pickler.buffers) if pickler.buffers else data


def freeze(obj: _T) -> _T:
    """Return a copy of `obj` whose large buffers (64 KiB and more) lie in shared memory and are read-only.

    For what many processes are to read: an array, a data frame, a dict of arrays. It is copied once,
    here; then it is sent, and sent on by its receivers, in microseconds, whatever its size: in
    arguments, through queues and pipes, to pools and back. No process can write to it, so each has
    what it would have of a copy. The memory is given back when the last process has let go of it.

    Raises:
        MemoryError: there is no room for the copy.
        PicklingError, TypeError, AttributeError: or whatever else the object's own reducer raises, if
            it can't be pickled.
    """
    return _procession.freeze(obj)


def dumps_result(obj: object) -> Pickled:
    """Return the pickle of a result of a task.

    By value only if the main module can't be imported: a program in a file that returns a
    lambda is told so, as with the standard library.
    """
    return dumps(obj, by_value=not _main_has_a_name())


def loads(data: Any, buffers: Iterable[Any] | None = None) -> Any:
    """Return the object of a pickle and its buffers."""
    return _pickle.loads(data, buffers=buffers)


def dumps_whole(obj: object, reducers: Mapping[type, Reducer] = _NONE) -> bytes:
    """Return the pickle of `obj` in one piece, for a stranger, where the extension can't make it.

    Args:
        obj: what to pickle.
        reducers: what counts more than all that is registered.
    """
    _offer_picklers()
    return _dump_whole(obj, PROTOCOL, reducers)


def _dump_whole(obj: object, protocol: int, reducers: Mapping[type, Reducer] = _NONE) -> bytes:
    parts: list[bytes] = []
    pickler = _pickle.Pickler(_Sink(parts.append), protocol)
    pickler.dispatch_table = {**_table(), **reducers} if reducers else _table()
    try:
        pickler.dump(obj)
    except (PickleError, AttributeError, TypeError) as error:
        if _sockets_came():
            return _dump_whole(obj, protocol, reducers)
        return _whole(_second_try(obj, error, in_one_piece=True, reducers=reducers))
    data = b"".join(parts)
    if b"__main__" in data and not _main_is_importable():
        instead = _by_value(obj, in_one_piece=True, reducers=reducers)
        return data if instead is None else _whole(instead)
    return data


def _whole(pickled: Pickled) -> bytes:
    assert isinstance(pickled, bytes)
    return pickled


class _Sink:
    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


# What plain pickle can't do.


def _second_try(
    obj: object, error: Exception, *, in_one_piece: bool = False, reducers: Mapping[type, Reducer] = _NONE
) -> Pickled:
    """Pickle by value what can't be pickled by name; raise `error` if that fails too."""
    try:
        pickled = _by_value(obj, in_one_piece=in_one_piece, reducers=reducers)
    except Exception as second:
        if str(second) == str(error):
            raise error from None
        raise _like(error, f"{error} (and not by value either: {second})") from second
    if pickled is None:
        if type(error) is not TypeError:
            error.add_note("Functions without an importable name need the package cloudpickle.")
        raise error
    return pickled


_cloud: Any = None


def _by_value(obj: object, *, in_one_piece: bool = False, reducers: Mapping[type, Reducer] = _NONE) -> Pickled | None:
    """Pickle with cloudpickle; return None if it isn't installed."""
    global _cloud
    if _cloud is None:
        try:
            import cloudpickle
        except ImportError:
            return None
        _cloud = _make_cloud_pickler(cloudpickle)
    parts: list[bytes] = []
    outside: list[memoryview] = []
    keep = None if in_one_piece else (lambda buffer: not _outside(buffer, outside))
    _cloud(_Sink(parts.append), PROTOCOL, keep, reducers).dump(obj)
    data = b"".join(parts)
    return (data, outside) if outside else data


def _make_cloud_pickler(cloudpickle: ModuleType) -> Any:
    import types
    from collections import ChainMap
    from types import FunctionType

    from . import _inherited

    if hasattr(types, "LazyImportType"):
        register(types.LazyImportType, _reduce_lazy_import)

    class CloudPickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined]
        """cloudpickle, with our reducers, which leaves to name what the child can import."""

        def __init__(self, file: Any, protocol: int, buffer_callback: Any, reducers: Mapping[type, Reducer]) -> None:
            # Before what reads it once and for all.
            self.dispatch_table = ChainMap({**_table(), **reducers}, cloudpickle.Pickler.dispatch_table)
            super().__init__(file, protocol=protocol, buffer_callback=buffer_callback)
            self._importable = _main_is_importable()

        def reducer_override(self, obj: Any) -> Any:
            if (
                self._importable
                and isinstance(obj, (type, FunctionType))
                and obj.__module__ in ("__main__", "__mp_main__")
                and _found_by_name(obj)
            ):
                return NotImplemented
            reduced = super().reducer_override(obj)
            if (
                not self._importable
                and isinstance(reduced, tuple)
                and len(reduced) == 6
                and isinstance(obj, (type, FunctionType))
                and obj.__module__ in ("__main__", "__mp_main__")
            ):
                return _inherited.reduce(obj, reduced)
            return reduced

    return CloudPickler


def _reduce_lazy_import(lazy: Any) -> tuple[Any, ...]:
    """Send what a `lazy import` of Python 3.15 stands for: a global that a function uses may not have been used yet."""
    return _itself, (lazy.resolve(),)


def _itself(obj: Any) -> Any:
    return obj


def _found_by_name(obj: Any) -> bool:
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


_judged: tuple[Any, bool] | None = None
_main_stays_behind = False


def leave_main_behind() -> None:
    """Note that there are children that don't run the main module: it is the `__main__` of a package, folder or zip."""
    global _main_stays_behind
    _main_stays_behind = True


def before_fork() -> None:
    """Note what a child that is about to be forked has already."""
    judged = _judged
    known = judged is not None and judged[1] and judged[0] is sys.modules.get("__main__")
    if known and not _main_stays_behind and not hasattr(sys, "ps1"):
        return  # as `_main_is_importable` would say, in fewer calls: each costs a fork copied pages
    if not _main_is_importable():
        from . import _inherited

        _inherited.note()


def _main_is_importable() -> bool:
    """Return whether a child can import the main module: not so at a prompt or in a notebook."""
    return not _main_stays_behind and _main_has_a_name()


def _main_has_a_name() -> bool:
    """Return whether the main module comes from somewhere, be it what children don't run."""
    global _judged
    main = sys.modules.get("__main__")
    if hasattr(sys, "ps1"):
        return False
    if _judged is None or _judged[0] is not main:
        path = getattr(main, "__file__", None)
        spec = getattr(main, "__spec__", None)
        known = spec is not None or (path is not None and os.path.exists(path))
        _judged = (main, known)
    return _judged[1]


def name_culprit(error: Exception, parts: Iterable[tuple[str, object]]) -> Exception:
    """Return `error` with the name of the part that can't be pickled in its message.

    Args:
        error: why the whole couldn't be pickled.
        parts: its parts, each with its name: ("args[1] of Process 'p'", the argument).
    """
    for name, part in parts:
        try:
            dumps(part)
        except Exception as cause:
            return _like(cause, f"{name} can't be pickled: {cause}")
    return error


def _like(error: Exception, message: str) -> Exception:
    """Return an exception of the same type with another message, as far as that is possible."""
    if type(error) in (PicklingError, AttributeError, TypeError, RuntimeError, ValueError):
        return type(error)(message)
    error.add_note(message)
    return error


# Descriptors and sockets.

HAVE_SEND_HANDLE = True
#: Whether the receiver of descriptors has to confirm them: elsewhere, not on Linux.
ACKNOWLEDGE = False
#: How many descriptors the kernel takes in one message.
MAX_FDS = 253


def sendfds(sock: socket.socket, fds: Iterable[int]) -> None:
    """Send descriptors over an AF_UNIX socket."""
    import array
    import socket

    numbers = array.array("i", fds)
    message = bytes([len(numbers) % 256])
    sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])


def recvfds(sock: socket.socket, size: int) -> list[int]:
    """Receive `size` descriptors.

    Raises:
        EOFError: if the other end is closed.
        RuntimeError: if something else was sent.
    """
    import array
    import socket

    numbers = array.array("i")
    space = socket.CMSG_SPACE(size * numbers.itemsize)
    message, ancillary, _flags, _address = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    if not message and not ancillary:
        raise EOFError("the sender of the descriptors has closed the connection")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if len(numbers) != size or len(numbers) % 256 != message[0]:
        for fd in numbers:
            os.close(fd)
        raise RuntimeError(
            f"expected a message with {size} descriptors, received {len(numbers)}: "
            "the other end must send them with send_handle() or sendfds()"
        )
    return list(numbers)


def send_handle(conn: Any, handle: int, destination_pid: int | None = None) -> None:
    """Send a descriptor over a connection whose other end calls `recv_handle`."""
    with _socket_of(conn) as sock:
        sendfds(sock, [handle])


def recv_handle(conn: Any) -> int:
    """Receive a descriptor over a connection."""
    with _socket_of(conn) as sock:
        return recvfds(sock, 1)[0]


def _socket_of(conn: Any) -> socket.socket:
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(conn.fileno()))
    sock.settimeout(None)  # whatever the program's default is
    return sock


def DupFd(fd: int) -> Any:
    """Return something that pickles, and whose `detach()` in the receiver is a copy of `fd`."""
    popen = context.get_spawning_popen()
    if popen is not None:
        return popen.DupFd(popen.duplicate_for_child(fd))
    from . import resource_sharer

    return resource_sharer.DupFd(fd)


def _reduce_socket(sock: socket.socket) -> tuple[Any, ...]:
    return _rebuild_socket, (DupFd(sock.fileno()), sock.family, sock.type, sock.proto)


def _rebuild_socket(dup: Any, family: int, type: int, proto: int) -> socket.socket:
    import socket

    return socket.socket(family, type, proto, fileno=dup.detach())


class AbstractReducer:
    """What a replacement for this module (`context.reducer = ...`) derives from."""

    ForkingPickler = ForkingPickler
    register = register
    dump = staticmethod(dump)
    send_handle = staticmethod(send_handle)
    recv_handle = staticmethod(recv_handle)
    sendfds = staticmethod(sendfds)
    recvfds = staticmethod(recvfds)
    DupFd = staticmethod(DupFd)


_procession.set_pickler(dumps, _pickle.loads)
_offer_picklers()
