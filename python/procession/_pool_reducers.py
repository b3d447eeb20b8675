"""Pools that pickle what they send in a way of their own.

joblib's are a subclass of `Pool`. They have attributes with a reducer for each type that is to be treated in
another way on the way to the workers, and on the way back: a `numpy.memmap` goes as the name of its file, and not
as a copy, and so does a large array, which is written to one. What a task writes to it has to be in the file.
"""

from __future__ import annotations

import _pickle

from . import reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .reduction import Reducer

__all__ = ["Reducers"]


class Reducers:
    """How a pool's tasks and results are pickled.

    Args:
        there: the reducers for what goes to a worker.
        back: those for what comes from there.
    """

    def __init__(self, there: Mapping[type, Reducer], back: Mapping[type, Reducer]) -> None:
        self._there = there
        self._back = back

    def function(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is to be sent in the place of a function."""
        return _Function(func, self._there, self._back)

    def item(self, obj: object) -> object:
        """Return what is to be sent in the place of an object: it arrives as that object."""
        return _reduced(obj, self._there)

    def call(
        self, func: Callable[..., Any], args: Iterable[Any], kwds: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], Iterable[Any], Mapping[str, Any]]:
        """Return what is to be sent in the place of a call."""
        try:
            args = tuple(map(self.item, args))
            kwds = {name: self.item(value) for name, value in dict(kwds).items()}
        except (TypeError, ValueError):
            pass  # they are no arguments, as the task itself will say
        return self.function(func), args, kwds


def _reduced(obj: Any, reducers: Mapping[type, Reducer]) -> Any:
    return _Reduced(obj, reducers) if reducers else obj


class _Reduced:
    """Pickles as an object does by certain reducers."""

    def __init__(self, obj: object, reducers: Mapping[type, Reducer]) -> None:
        self._obj = obj
        self._reducers = reducers

    def __reduce__(self) -> tuple[Any, ...]:
        data = reduction.dumps_whole(self._obj, self._reducers)
        return _pickle.loads, (_pickle.PickleBuffer(data),)


class _Function:
    """A function of which the results, too, are pickled by certain reducers."""

    def __init__(self, func: Callable[..., Any], there: Mapping[type, Reducer], back: Mapping[type, Reducer]) -> None:
        #: Its name is the task's.
        self.func = func
        self._there = there
        self._back = back

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        return _reduced(self.func(*args, **kwds), self._back)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Function, (_reduced(self.func, self._there), {}, self._back)
