"""Named shared memory that any process of this machine can attach to, and a list that lives in it.

The names, and what is stored under them, are those of the standard library's module, so either may
be at the other end. Between processes of one family nothing needs a name: arrays sent through a
queue or a pipe travel in shared memory anyway.
"""

from __future__ import annotations

import errno
import importlib
import mmap
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

__all__ = ["ShareableList", "SharedMemory"]

# shm_open() and shm_unlink(); no stub knows of it.
_posix: Any = importlib.import_module("_posixshmem")

_T = TypeVar("_T", bound=int | float | bool | str | bytes | None)

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"
# With these, what every POSIX system accepts: 14 characters, the slash included.
_SHM_SAFE_NAME_LENGTH = 14
_RANDOM_BYTES = (_SHM_SAFE_NAME_LENGTH - len(_SHM_NAME_PREFIX)) // 2


def _make_filename() -> str:
    """A name that is probably free."""
    return _SHM_NAME_PREFIX + secrets.token_hex(_RANDOM_BYTES)


def _shm_open(name: str, flags: int, mode: int) -> int:
    _check_name(name)
    return int(_posix.shm_open(name, flags, mode=mode))


def _shm_unlink(name: str) -> None:
    _check_name(name)
    _posix.shm_unlink(name)


def _check_name(name: str) -> None:
    if "\0" in name:  # Python before 3.13 would use what comes before it
        raise ValueError(f"name {name!r} has an embedded null character")
    if "/" in name.lstrip("/"):  # the C library overlooks those at the beginning
        raise OSError(errno.EINVAL, "the name has a slash in it", name)


def _untrack(name: str, known: bool) -> None:
    """Tell the tracker, if this family has one, that a block has been removed."""
    from . import resource_tracker

    if not known:  # to us; another process of the family may have told the tracker of it
        if resource_tracker._resource_tracker.inheritable_fd() is None:
            return
        resource_tracker.register(name, "shared_memory")
    resource_tracker.unregister(name, "shared_memory")


class SharedMemory:
    """A block of shared memory with a name.

    Args:
        name: the name to create or to attach to; a free one is chosen when creating without.
        create: make a new block; otherwise attach to an existing one.
        size: how many bytes to create; ignored when attaching.
        track: whether the block is removed in the end by the family of processes that this one
            belongs to, should nobody have done so. By default that is so for a block created here,
            and not for one attached to: it is its creator's to remove. True and False decide it
            for both.

    Unlike the standard library's, where ``track`` is True by default: there, a program that merely
    attached to the memory of another removes it when it exits.

    Raises:
        FileExistsError: there is a block of this name already.
        FileNotFoundError: there is none.
        ValueError: a size that is not positive, or no name to attach to.
    """

    _name: str
    _fd: int = -1
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _flags: int = os.O_RDWR
    _mode: int = 0o600
    _prepend_leading_slash: ClassVar[bool] = True
    _track: bool = True
    _untrack: bool = True
    #: Also for one that is collected when the interpreter has cleared this module.
    _close_descriptor = staticmethod(os.close)

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool | None = None,
    ) -> None:
        if size < 0:
            raise ValueError(f"size must be a positive number of bytes, not {size}")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ValueError("size must be a positive number of bytes when creating")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("name can only be None when creating")
        self._track = create if track is None else track
        # The family may have been told to remove it by another of its processes.
        self._untrack = track is not False
        self._open(name)
        try:
            if create:
                os.ftruncate(self._fd, size)
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
        except BaseException:
            self.close()
            if create:
                _shm_unlink(self._name)
            raise
        self._buf = memoryview(self._mmap)
        if self._track:
            from . import resource_tracker

            resource_tracker.register(self._name, "shared_memory")

    def _open(self, name: str | None) -> None:
        if name is not None:
            self._name = "/" + name if self._prepend_leading_slash else name
            self._fd = _shm_open(self._name, self._flags, self._mode)
            return
        while True:
            self._name = _make_filename()
            try:
                self._fd = _shm_open(self._name, self._flags, self._mode)
            except FileExistsError:
                continue
            return

    @property
    def buf(self) -> memoryview:
        """A view of the memory; not to be used any more after ``close()``."""
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name by which others can attach."""
        return self._name.removeprefix("/") if self._prepend_leading_slash else self._name

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._size

    def close(self) -> None:
        """Detach from the memory, which stays there for others.

        Raises:
            BufferError: something still uses the memory, such as an array over ``buf``.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mmap is not None:
            self._mmap.close()
            self._mmap = None
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._close_descriptor(fd)

    def unlink(self) -> None:
        """Remove the name. The memory is freed once all who are attached have detached.

        Raises:
            FileNotFoundError: the name has been removed already.
        """
        _shm_unlink(self._name)
        if self._untrack:
            _untrack(self._name, known=self._track)

    def __del__(self) -> None:
        try:
            self.close()
        except (BufferError, OSError):
            pass  # the memory is unmapped once its last user is gone

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"


# --- a list --------------------------------------------------------------------------------------
#
# The layout, in 8-byte words and without padding:
#
#     count | starts[count + 1] | items | formats[count], 8 bytes each | kinds[count], 1 byte each
#
# starts are relative to the items; the last is where the items end. An item's format is that of the
# module struct, and its kind says how to make a Python object of what struct unpacks.

_WORD = 8
_NUMBERS: dict[type, str] = {int: "q", float: "d", bool: "xxxxxxx?"}
_NONE = "xxxxxx?x"
_AS_IT_IS, _TEXT, _BYTES, _NOTHING = range(4)


def _encoded(value: Any) -> tuple[str, Any, int]:
    """How a value is stored: its format (without room to grow), what to pack, its kind."""
    if isinstance(value, str):
        data = value.encode("utf-8")
        return f"{len(data)}s", data, _TEXT
    if isinstance(value, bytes):
        return f"{len(value)}s", value, _BYTES
    if value is None:
        return _NONE, True, _NOTHING
    form = _NUMBERS.get(type(value))
    if form is None:
        raise TypeError(f"a ShareableList holds int, float, bool, str, bytes and None, not {type(value).__name__}")
    if form == "q" and not -(1 << 63) <= value < 1 << 63:
        raise struct.error(f"a ShareableList holds integers of 64 bits, not {value}")
    return form, value, _AS_IT_IS


def _with_room(form: str) -> str:
    """The format of a new item: text and bytes get the next larger multiple of 8."""
    if not form.endswith("s"):
        return form
    form = f"{(int(form[:-1]) // _WORD + 1) * _WORD}s"
    if len(form) > _WORD:
        raise ValueError("text or bytes of more than 9,999,991 bytes cannot be stored")
    return form


class ShareableList(Generic[_T]):
    """A list of fixed length in shared memory, whose items are plain values.

    An item can be replaced by a value of any of the types int, float, bool, str, bytes and None;
    text and bytes only as long as they fit in the place of the first value. Note that NUL
    characters at the end of text and bytes are lost.

    Args:
        sequence: the items of a new list.
        name: the name of the block: to attach to, or to create if a sequence is given.

    Unlike the standard library's, it stores text whole that has characters beyond ASCII.
    """

    def __init__(self, sequence: Iterable[_T] | None = None, *, name: str | None = None) -> None:
        self.shm: SharedMemory
        if name is not None and sequence is None:
            self.shm = SharedMemory(name)
            self._length: int = struct.unpack_from("=q", self.shm.buf)[0]
            self._starts: tuple[int, ...] = struct.unpack_from(f"={self._length + 1}q", self.shm.buf, _WORD)
            return
        values = list(sequence or ())
        encoded = [_encoded(value) for value in values]
        if isinstance(sequence, ShareableList):  # its items keep their room
            forms = [sequence._get_packing_format(i) for i in range(len(sequence))]
        else:
            forms = [_with_room(form) for form, _, _ in encoded]
        starts = [0]
        for form in forms:
            starts.append(starts[-1] + struct.calcsize(f"={form}"))
        items = b"".join(struct.pack(f"={form}", data) for form, (_, data, _) in zip(forms, encoded, strict=True))
        self._length = len(values)
        self._starts = tuple(starts)
        image = (
            struct.pack(f"={len(starts) + 1}q", self._length, *starts)
            + items
            + b"".join(form.encode().ljust(_WORD, b"\0") for form in forms)
            + bytes(kind for _, _, kind in encoded)
        )
        self.shm = SharedMemory(name, create=True, size=len(image))
        self.shm.buf[: len(image)] = image

    # Where things are.

    @property
    def _items_at(self) -> int:
        return (self._length + 2) * _WORD

    @property
    def _formats_at(self) -> int:
        return self._items_at + self._starts[-1]

    @property
    def _kinds_at(self) -> int:
        return self._formats_at + self._length * _WORD

    def _position(self, position: int, what: str) -> int:
        index = position + self._length if position < 0 else position
        if not 0 <= index < self._length:
            raise IndexError(f"{what} {position} out of range: the list has {self._length} items")
        return index

    def _get_packing_format(self, position: int) -> str:
        """The format in which the item is stored."""
        index = self._position(position, "position")
        (form,) = struct.unpack_from("8s", self.shm.buf, self._formats_at + index * _WORD)
        return str(form.rstrip(b"\0").decode("ascii"))

    # What a list does.

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> _T:
        index = self._position(position, "index")
        form = self._get_packing_format(index)
        at = self._items_at + self._starts[index]
        (value,) = struct.unpack_from(f"={form}", self.shm.buf, at)
        kind = self.shm.buf[self._kinds_at + index]
        if kind == _NOTHING:
            return None  # type: ignore[return-value]
        if kind == _AS_IT_IS:
            return value  # type: ignore[no-any-return]
        value = value.rstrip(b"\0")
        return value.decode("utf-8") if kind == _TEXT else value  # type: ignore[no-any-return]

    def __setitem__(self, position: int, value: _T) -> None:
        index = self._position(position, "assignment index")
        form, data, kind = _encoded(value)
        at, end = self._starts[index], self._starts[index + 1]
        if kind in (_TEXT, _BYTES):
            if len(data) > end - at:
                raise ValueError(f"item {position} of {len(data)} bytes exceeds available storage of {end - at} bytes")
            form = f"{end - at}s"
        packed = struct.pack(f"={form}", data)
        buf = self.shm.buf
        buf[self._items_at + at : self._items_at + at + len(packed)] = packed
        struct.pack_into("8s", buf, self._formats_at + index * _WORD, form.encode("ascii"))
        buf[self._kinds_at + index] = kind

    def __iter__(self) -> Iterator[_T]:
        return (self[index] for index in range(self._length))

    def count(self, value: _T) -> int:
        """How many items equal ``value``."""
        return sum(value == item for item in self)

    def index(self, value: _T) -> int:
        """The position of the first item that equals ``value``.

        Raises:
            ValueError: there is none.
        """
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} is not in the list")

    @property
    def format(self) -> str:
        """The formats of all items, as for the module struct."""
        return "".join(self._get_packing_format(index) for index in range(self._length))

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (type(self), self.shm.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, name={self.shm.name!r})"


def _attach(cls: type[ShareableList[Any]], name: str) -> ShareableList[Any]:
    return cls(name=name)
