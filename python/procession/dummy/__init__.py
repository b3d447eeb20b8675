"""The interface of the package on top of threads: its "processes" share one address space."""

from __future__ import annotations

import array
import threading
import weakref
from builtins import dict as dict  # what a manager has, this module has
from builtins import list as list
from builtins import set as set
from collections.abc import Callable, Iterable, Mapping
from queue import Queue
from threading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .connection import Pipe

if TYPE_CHECKING:
    from ..pool import ThreadPool

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "Queue",
    "RLock",
    "Semaphore",
    "Value",
    "active_children",
    "current_process",
    "freeze_support",
    "parent_process",
]

JoinableQueue = Queue
current_process = threading.current_thread


class DummyProcess(threading.Thread):
    """A thread that can be used as a Process is."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(group, target, name, args, kwargs or {})
        self._pid: None = None
        self._parent = current_process()
        self._children: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def start(self) -> None:
        """Start the thread. Only the thread that made the object may do so."""
        if self._parent is not current_process():
            raise RuntimeError(f"only the thread that made {self.name!r} ({self._parent.name}) can start it")
        _children_of(self._parent)[self] = None
        super().start()

    @property
    def exitcode(self) -> int | None:
        """0 once the thread has ended, None before."""
        return 0 if self.ident is not None and not self.is_alive() else None


Process = DummyProcess


def _children_of(thread: threading.Thread) -> weakref.WeakKeyDictionary[Any, None]:
    """The threads that a thread has started through this module."""
    children: weakref.WeakKeyDictionary[Any, None] | None = getattr(thread, "_children", None)
    if children is None:
        children = thread._children = weakref.WeakKeyDictionary()  # type: ignore[attr-defined]
    return children


def active_children() -> list[DummyProcess]:
    """The threads started by this one that are still running."""
    children = _children_of(current_process())
    for child in list(children):
        if not child.is_alive():
            children.pop(child, None)
    return list(children)


def parent_process() -> None:
    """None: a thread is in the process of the one that started it."""
    return None


def freeze_support() -> None:
    """Do nothing: threads need no preparation."""


def shutdown() -> None:
    """Do nothing: the "manager" that is this module has no server."""


class Namespace:
    """An object to set attributes on."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __repr__(self) -> str:
        shown = [f"{k}={v!r}" for k, v in sorted(self.__dict__.items()) if not k.startswith("_")]
        return f"{type(self).__name__}({', '.join(shown)})"


class Value:
    """An object with an attribute ``value``."""

    def __init__(self, typecode: Any, value: Any, lock: Any = True) -> None:
        self._typecode = typecode
        self.value = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._typecode!r}, {self.value!r})>"


def Array(typecode: str, sequence: Iterable[Any], lock: Any = True) -> array.array[Any]:
    """An array of the module ``array``."""
    return array.array(typecode, sequence)


def Manager() -> ModuleType:
    """This module, whose functions are those of a manager."""
    import sys

    return sys.modules[__name__]


def Pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> ThreadPool:
    """A pool of threads."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)
