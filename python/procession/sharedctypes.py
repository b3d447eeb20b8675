"""ctypes objects in shared memory, with or without a lock around them."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import _procession, heap

if TYPE_CHECKING:
    from .context import BaseContext

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

_T = TypeVar("_T")

# The codes of the module array, and "c" for a single byte.
typecode_to_type: dict[str, type[Any]] = {
    "c": ctypes.c_char,
    "u": ctypes.c_wchar,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


class _Lock(Protocol):
    """What guards a synchronized object: any lock with these two methods."""

    def acquire(self, block: bool = ..., timeout: float | None = ...) -> bool: ...
    def release(self) -> None: ...


# --- objects without a lock ----------------------------------------------------------------------


def RawValue(typecode_or_type: str | type[Any], *args: Any) -> Any:
    """A ctypes object in shared memory, zeroed, then initialised with ``args``.

    Args:
        typecode_or_type: a ctypes type, or a type code as of the module ``array``.
        args: what the type's constructor is to be given.
    """
    obj = _new_object(_ctype(typecode_or_type))
    if args:
        obj.__init__(*args)
    return obj


def RawArray(typecode_or_type: str | type[Any], size_or_initializer: int | Iterable[Any]) -> Any:
    """A ctypes array in shared memory.

    Args:
        typecode_or_type: the type of the elements.
        size_or_initializer: how many elements, all zero; or their values.
    """
    item_type = _ctype(typecode_or_type)
    if isinstance(size_or_initializer, int):
        if size_or_initializer < 0:
            raise ValueError(f"an array cannot have {size_or_initializer} elements")
        return _new_object(item_type * size_or_initializer)
    values = tuple(size_or_initializer)
    array = _new_object(item_type * len(values))
    array.__init__(*values)
    return array


def _ctype(typecode_or_type: str | type[Any]) -> Any:
    found: Any = typecode_or_type
    if isinstance(typecode_or_type, str):
        found = typecode_to_type.get(typecode_or_type)
    try:
        ctypes.sizeof(found)
    except TypeError:
        raise TypeError(
            f"bad typecode {typecode_or_type!r}: expected a ctypes type, or one of {' '.join(typecode_to_type)}"
        ) from None
    return found


def _new_object(type_: Any) -> Any:
    return rebuild_ctype(type_, heap.BufferWrapper(ctypes.sizeof(type_)), None)


# The types whose shared objects our picklers know.
_registered: set[Any] = set()


def rebuild_ctype(type_: Any, wrapper: heap.BufferWrapper, length: int | None) -> Any:
    """The ctypes object of this type (or an array of so many) that lives in this memory."""
    if length is not None:
        type_ = type_ * length
    if type_ not in _registered:
        from . import reduction

        reduction.register(type_, reduce_ctype)
        _registered.add(type_)
    obj = type_.from_buffer(wrapper.create_memoryview())
    obj._wrapper = wrapper
    return obj


def reduce_ctype(obj: Any) -> tuple[Any, ...]:
    """What a pickle of a ctypes object holds: its memory by handle, if it is shared."""
    wrapper = getattr(obj, "_wrapper", None)
    if wrapper is None:  # an ordinary object of a type that also has shared ones
        reduced: tuple[Any, ...] = obj.__reduce_ex__(2)
        return reduced
    if isinstance(obj, ctypes.Array):
        return rebuild_ctype, (obj._type_, wrapper, obj._length_)
    return rebuild_ctype, (type(obj), wrapper, None)


def copy(obj: Any) -> Any:
    """A new shared object without a lock, with the value that ``obj`` has now."""
    new = _new_object(type(obj))
    ctypes.pointer(new)[0] = obj
    return new


# --- objects with a lock -------------------------------------------------------------------------


def Value(
    typecode_or_type: str | type[Any],
    *args: Any,
    lock: Any = True,
    ctx: BaseContext | None = None,
) -> Any:
    """A ctypes object in shared memory, with a lock around it.

    Args:
        typecode_or_type: a ctypes type, or a type code as of the module ``array``.
        args: what the type's constructor is to be given.
        lock: True makes a new RLock; a lock is used as it is; False returns the object without.
        ctx: the context that makes the lock.

    Unlike the standard library's, the result can go to another process at any time and by any
    way, not only as an argument of a process that is being started.
    """
    return _with_lock(RawValue(typecode_or_type, *args), lock, ctx)


def Array(
    typecode_or_type: str | type[Any],
    size_or_initializer: int | Iterable[Any],
    *,
    lock: Any = True,
    ctx: BaseContext | None = None,
) -> Any:
    """A ctypes array in shared memory, with a lock around it.

    Args:
        typecode_or_type: the type of the elements.
        size_or_initializer: how many elements, all zero; or their values.
        lock: True makes a new RLock; a lock is used as it is; False returns the array without.
        ctx: the context that makes the lock.
    """
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


def _with_lock(obj: Any, lock: Any, ctx: BaseContext | None) -> Any:
    if lock is False:
        return obj
    if lock is True or lock is None:
        return synchronized(obj, ctx=ctx)
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire': it cannot be the lock")
    return synchronized(obj, lock, ctx)


def synchronized(obj: Any, lock: _Lock | None = None, ctx: BaseContext | None = None) -> Any:
    """A wrapper that takes a lock for each access to a ctypes object.

    Args:
        obj: a ctypes object, not wrapped yet.
        lock: by default a new RLock.
        ctx: the context that makes it.
    """
    if isinstance(obj, SynchronizedBase):
        raise TypeError("the object is synchronized already")
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        if obj._type_ is ctypes.c_char:
            return SynchronizedString(obj, lock, ctx)
        return SynchronizedArray(obj, lock, ctx)
    return _structure_wrapper(type(obj))(obj, lock, ctx)


class_cache: weakref.WeakKeyDictionary[type[Any], type[Any]] = weakref.WeakKeyDictionary()
prop_cache: dict[str, property] = {}


def _structure_wrapper(cls: type[Any]) -> type[Any]:
    """The wrapper class of a structure or union: its fields are properties."""
    wrapper = class_cache.get(cls)
    if wrapper is None:
        fields = {
            field[0]: make_property(field[0])
            for base in reversed(cls.__mro__)
            for field in getattr(base, "__dict__", {}).get("_fields_", ())
        }
        wrapper = type(f"Synchronized{cls.__name__}", (SynchronizedBase,), fields)
        class_cache[cls] = wrapper
    return wrapper


def make_property(name: str) -> property:
    """A property of a wrapper that is the wrapped object's attribute, under the lock."""
    made = prop_cache.get(name)
    if made is None:

        def get(self: SynchronizedBase[Any]) -> Any:
            self.acquire()
            try:
                return getattr(self._obj, name)
            finally:
                self.release()

        def set(self: SynchronizedBase[Any], value: Any) -> None:
            self.acquire()
            try:
                setattr(self._obj, name, value)
            finally:
                self.release()

        made = prop_cache[name] = property(get, set)
    return made


class SynchronizedBase(Generic[_T]):
    """What the wrappers have in common: the object, its lock, and pickling by handle."""

    def __init__(self, obj: Any, lock: _Lock | None = None, ctx: BaseContext | None = None) -> None:
        self._obj: Any = obj
        if lock is None:
            if ctx is None:
                from .context import _default_context

                ctx = _default_context.get_context()
            lock = ctx.RLock()
        self._lock: Any = lock
        self.acquire = lock.acquire
        self.release = lock.release

    def __reduce__(self) -> tuple[Any, ...]:
        return synchronized, (_Carried(self._obj), self._lock)

    def get_obj(self) -> Any:
        """The wrapped object, whose use takes no lock."""
        return self._obj

    def get_lock(self) -> Any:
        """The lock."""
        return self._lock

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Any:
        return self._lock.__exit__(exc_type, exc_value, exc_tb)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class _Carried:
    """Pickles as the ctypes object in it, by handle, also with picklers that know nothing of us."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_ctype(self._obj)


class Synchronized(_procession.Guarded, SynchronizedBase[_T]):
    """A number, a byte or a pointer, with a lock.

    Note that ``v.value += 1`` is two accesses: hold the lock round it.
    """


class SynchronizedArray(SynchronizedBase[_T]):
    """An array, with a lock that each access takes."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, index: Any) -> Any:
        with self:
            return self._obj[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        with self:
            self._obj[index] = value

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]


class SynchronizedString(SynchronizedArray[bytes]):
    """An array of bytes, with a lock that each access takes."""

    value: Any = make_property("value")
    raw: Any = make_property("raw")
