"""Proxies for lists, dicts and sets.

A result is a copy: to change what is in a shared container, store the changed value in it again, or
store proxies. Where an operation takes another container, that may be a proxy too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence, MutableSet
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from ._managers_proxies import BaseProxy

# To a type checker they are subclasses; isinstance() is told at the end. Really deriving from them
# would make proxies comparable by value, which they are not, and methods where we forgot one.
if TYPE_CHECKING:
    _ListOf = MutableSequence
    _DictOf = MutableMapping
    _SetOf = MutableSet
else:

    class _OfAnything:
        # Unlike typing's Generic it doesn't count the arguments: nor does the standard library.
        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    _ListOf = _DictOf = _SetOf = _OfAnything

__all__ = ["DictProxy", "ListProxy", "SetProxy"]

_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")


def _plain(value: Any) -> Any:
    """A value, or a copy of what a proxy stands for."""
    return value._getvalue() if isinstance(value, BaseProxy) else value


class BaseListProxy(BaseProxy, _ListOf[_T]):
    """A list, without its augmented assignments."""

    _exposed_ = (
        "__add__", "__contains__", "__delitem__", "__getitem__", "__imul__", "__len__", "__mul__",
        "__reversed__", "__rmul__", "__setitem__", "append", "clear", "copy", "count", "extend",
        "index", "insert", "pop", "remove", "reverse", "sort",
    )  # fmt: skip

    def __add__(self, other: Any) -> list[_T]:
        return self._callmethod("__add__", (_plain(other),))  # type: ignore[no-any-return]

    def __contains__(self, item: object) -> bool:
        return bool(self._callmethod("__contains__", (item,)))

    def __delitem__(self, index: Any) -> None:
        self._callmethod("__delitem__", (index,))

    def __getitem__(self, index: Any) -> Any:
        return self._callmethod("__getitem__", (index,))

    def __iter__(self) -> Iterator[_T]:
        index = 0
        while True:
            try:
                item = self[index]
            except IndexError:
                return
            yield item
            index += 1

    def __len__(self) -> int:
        return int(self._callmethod("__len__"))

    def __mul__(self, count: int) -> list[_T]:
        return self._callmethod("__mul__", (count,))  # type: ignore[no-any-return]

    def __reversed__(self) -> Iterator[_T]:
        return self._callmethod("__reversed__")  # type: ignore[no-any-return]

    def __rmul__(self, count: int) -> list[_T]:
        return self._callmethod("__rmul__", (count,))  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._callmethod("__setitem__", (index, value))

    def append(self, item: _T, /) -> None:
        """Add an item at the end."""
        self._callmethod("append", (item,))

    def clear(self) -> None:
        """Remove all items."""
        self._callmethod("clear")

    def copy(self) -> list[_T]:
        """A list with the items."""
        return self._callmethod("copy")  # type: ignore[no-any-return]

    def count(self, value: _T, /) -> int:
        """How many items equal ``value``."""
        return int(self._callmethod("count", (value,)))

    def extend(self, items: Iterable[_T], /) -> None:
        """Add several items at the end."""
        self._callmethod("extend", (_plain(items),))

    def index(self, value: _T, /, *range: int) -> int:
        """The index of the first item that equals ``value``."""
        return int(self._callmethod("index", (value, *range)))

    def insert(self, index: int, item: _T, /) -> None:
        """Insert an item before the one at ``index``."""
        self._callmethod("insert", (index, item))

    def pop(self, index: int = -1, /) -> _T:
        """Remove an item and return it."""
        return self._callmethod("pop", (index,))  # type: ignore[no-any-return]

    def remove(self, value: _T, /) -> None:
        """Remove the first item that equals ``value``."""
        self._callmethod("remove", (value,))

    def reverse(self) -> None:
        """Reverse the order of the items."""
        self._callmethod("reverse")

    def sort(self, /, **options: Any) -> None:
        """Sort the items: in the server, to which ``key`` is sent."""
        self._callmethod("sort", (), options)


class ListProxy(BaseListProxy[_T]):
    """A list."""

    def __iadd__(self, items: Iterable[_T]) -> Self:  # type: ignore[override, misc]
        self.extend(items)
        return self

    def __imul__(self, count: int) -> Self:  # type: ignore[override]
        self._callmethod("__imul__", (count,))
        return self


class DictProxy(BaseProxy, _DictOf[_K, _V]):
    """A dict. Its ``keys()``, ``values()`` and ``items()`` are lists."""

    _exposed_ = (
        "__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__", "__or__",
        "__reversed__", "__ror__", "__setitem__", "clear", "copy", "fromkeys", "get", "items",
        "keys", "pop", "popitem", "setdefault", "update", "values",
    )  # fmt: skip
    _method_to_typeid_: ClassVar[dict[str, str]] = {"__iter__": "Iterator"}

    def __contains__(self, key: object) -> bool:
        return bool(self._callmethod("__contains__", (key,)))

    def __delitem__(self, key: _K) -> None:
        self._callmethod("__delitem__", (key,))

    def __getitem__(self, key: _K) -> _V:
        return self._callmethod("__getitem__", (key,))  # type: ignore[no-any-return]

    def __ior__(self, other: Any) -> Self:
        done = self._callmethod("__ior__", (_plain(other),))
        return done if done is NotImplemented else self

    def __iter__(self) -> Iterator[_K]:
        return self._callmethod("__iter__")  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return int(self._callmethod("__len__"))

    def __or__(self, other: Any) -> dict[_K, _V]:
        return self._callmethod("__or__", (_plain(other),))  # type: ignore[no-any-return]

    def __reversed__(self) -> Iterator[_K]:
        return self._callmethod("__reversed__")  # type: ignore[no-any-return]

    def __ror__(self, other: Any) -> dict[_K, _V]:
        return self._callmethod("__ror__", (_plain(other),))  # type: ignore[no-any-return]

    def __setitem__(self, key: _K, value: _V) -> None:
        self._callmethod("__setitem__", (key, value))

    def clear(self) -> None:
        """Remove everything."""
        self._callmethod("clear")

    def copy(self) -> dict[_K, _V]:
        """A dict with the same keys and values."""
        return self._callmethod("copy")  # type: ignore[no-any-return]

    def fromkeys(self, keys: Iterable[Any], value: Any = None, /) -> dict[Any, Any]:
        """A new dict, not shared, with these keys and one value."""
        return self._callmethod("fromkeys", (_plain(keys), value))  # type: ignore[no-any-return]

    def get(self, key: _K, default: Any = None, /) -> Any:
        """The value of a key, or the default."""
        return self._callmethod("get", (key, default))

    def items(self) -> list[tuple[_K, _V]]:  # type: ignore[override]
        """The pairs of keys and values."""
        return self._callmethod("items")  # type: ignore[no-any-return]

    def keys(self) -> list[_K]:  # type: ignore[override]
        """The keys."""
        return self._callmethod("keys")  # type: ignore[no-any-return]

    def pop(self, key: _K, /, *default: Any) -> Any:
        """Remove a key and return its value, or the default if it is not there."""
        return self._callmethod("pop", (key, *default))

    def popitem(self) -> tuple[_K, _V]:
        """Remove a key and its value and return them."""
        return self._callmethod("popitem")  # type: ignore[no-any-return]

    def setdefault(self, key: _K, default: Any = None, /) -> Any:
        """The value of a key, which is set to the default if it is not there."""
        return self._callmethod("setdefault", (key, default))

    def update(self, *others: Any, **items: Any) -> None:
        """Add keys and values, and replace values."""
        self._callmethod("update", tuple(map(_plain, others)), items)

    def values(self) -> list[_V]:  # type: ignore[override]
        """The values."""
        return self._callmethod("values")  # type: ignore[no-any-return]


class SetProxy(BaseProxy, _SetOf[_T]):
    """A set."""

    _exposed_ = (
        "__and__", "__contains__", "__ge__", "__gt__", "__iand__", "__ior__", "__isub__",
        "__iter__", "__ixor__", "__le__", "__len__", "__lt__", "__or__", "__rand__", "__ror__",
        "__rsub__", "__rxor__", "__sub__", "__xor__", "add", "clear", "copy", "difference",
        "difference_update", "discard", "intersection", "intersection_update", "isdisjoint",
        "issubset", "issuperset", "pop", "remove", "symmetric_difference",
        "symmetric_difference_update", "union", "update",
    )  # fmt: skip
    _method_to_typeid_: ClassVar[dict[str, str]] = {"__iter__": "Iterator"}

    def _with(self, name: str, *others: Any) -> Any:
        return self._callmethod(name, tuple(map(_plain, others)))

    def _in_place(self, name: str, other: Any) -> Self:
        done = self._with(name, other)
        return done if done is NotImplemented else self

    def __and__(self, other: Any) -> set[_T]:
        return self._with("__and__", other)  # type: ignore[no-any-return]

    def __or__(self, other: Any) -> set[_T]:
        return self._with("__or__", other)  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> set[_T]:
        return self._with("__sub__", other)  # type: ignore[no-any-return]

    def __xor__(self, other: Any) -> set[_T]:
        return self._with("__xor__", other)  # type: ignore[no-any-return]

    def __rand__(self, other: Any) -> set[_T]:
        return self._with("__rand__", other)  # type: ignore[no-any-return]

    def __ror__(self, other: Any) -> set[_T]:
        return self._with("__ror__", other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> set[_T]:
        return self._with("__rsub__", other)  # type: ignore[no-any-return]

    def __rxor__(self, other: Any) -> set[_T]:
        return self._with("__rxor__", other)  # type: ignore[no-any-return]

    def __iand__(self, other: Any) -> Self:
        return self._in_place("__iand__", other)

    def __ior__(self, other: Any) -> Self:
        return self._in_place("__ior__", other)

    def __isub__(self, other: Any) -> Self:
        return self._in_place("__isub__", other)

    def __ixor__(self, other: Any) -> Self:
        return self._in_place("__ixor__", other)

    def __ge__(self, other: Any) -> bool:
        return self._with("__ge__", other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> bool:
        return self._with("__gt__", other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> bool:
        return self._with("__le__", other)  # type: ignore[no-any-return]

    def __lt__(self, other: Any) -> bool:
        return self._with("__lt__", other)  # type: ignore[no-any-return]

    def __contains__(self, item: object) -> bool:
        return bool(self._callmethod("__contains__", (item,)))

    def __iter__(self) -> Iterator[_T]:
        return self._callmethod("__iter__")  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return int(self._callmethod("__len__"))

    def add(self, item: _T, /) -> None:
        """Add an item."""
        self._callmethod("add", (item,))

    def clear(self) -> None:
        """Remove all items."""
        self._callmethod("clear")

    def copy(self) -> set[_T]:
        """A set with the same items."""
        return self._callmethod("copy")  # type: ignore[no-any-return]

    def difference(self, *others: Iterable[Any]) -> set[_T]:
        """A set of the items that are in none of the others."""
        return self._with("difference", *others)  # type: ignore[no-any-return]

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove the items that are in any of the others."""
        self._with("difference_update", *others)

    def discard(self, item: _T, /) -> None:
        """Remove an item if it is there."""
        self._callmethod("discard", (item,))

    def intersection(self, *others: Iterable[Any]) -> set[_T]:
        """A set of the items that are in all of the others."""
        return self._with("intersection", *others)  # type: ignore[no-any-return]

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep the items that are in all of the others."""
        self._with("intersection_update", *others)

    def isdisjoint(self, other: Iterable[Any], /) -> bool:
        """Whether no item is in the other."""
        return bool(self._with("isdisjoint", other))

    def issubset(self, other: Iterable[Any], /) -> bool:
        """Whether all items are in the other."""
        return bool(self._with("issubset", other))

    def issuperset(self, other: Iterable[Any], /) -> bool:
        """Whether all of the other's items are here."""
        return bool(self._with("issuperset", other))

    def pop(self) -> _T:
        """Remove some item and return it."""
        return self._callmethod("pop")  # type: ignore[no-any-return]

    def remove(self, item: _T, /) -> None:
        """Remove an item, which must be there."""
        self._callmethod("remove", (item,))

    def symmetric_difference(self, other: Iterable[_T], /) -> set[_T]:
        """A set of the items that are in one of the two."""
        return self._with("symmetric_difference", other)  # type: ignore[no-any-return]

    def symmetric_difference_update(self, other: Iterable[_T], /) -> None:
        """Keep the items that are not in the other, and add those that only the other has."""
        self._with("symmetric_difference_update", other)

    def union(self, *others: Iterable[_T]) -> set[_T]:
        """A set of all items of all of them."""
        return self._with("union", *others)  # type: ignore[no-any-return]

    def update(self, *others: Iterable[_T]) -> None:
        """Add the items of all of the others."""
        self._with("update", *others)


MutableSequence.register(BaseListProxy)
MutableMapping.register(DictProxy)
MutableSet.register(SetProxy)
