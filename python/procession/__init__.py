"""Process-based parallelism, with the interface of the standard library's multiprocessing.

    import procession as multiprocessing

runs a program on this package; `procession.install()` or `python -m procession PROGRAM.py`
do so without a change to it. What is documented for `multiprocessing`, through Python 3.15,
is here; what is better, the docstrings say where it is.

`PROCESSION_START_METHOD` in the environment sets the start method to use where a program
doesn't set one itself.
"""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError("procession runs on Linux: other systems have no futex, memfd and pidfd")

from . import context, process, reduction, util
from ._errors import AuthenticationError, BufferTooShort, ProcessError, TimeoutError
from ._errors import OwnerDiedError as OwnerDiedError
from ._errors import OwnerDiedWarning as OwnerDiedWarning
from ._errors import PoisonTask as PoisonTask
from ._errors import TaskTimeout as TaskTimeout
from ._errors import WorkerLost as WorkerLost
from .context import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._install import install as install

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]

#: Levels of the package's logger.
SUBDEBUG = 5
SUBWARNING = 25

# Not in __all__, as with the errors of our own: multiprocessing has no such names.
get_deadlock_timeout = util.get_deadlock_timeout
set_deadlock_timeout = util.set_deadlock_timeout
freeze = reduction.freeze

active_children = process.active_children
current_process = process.current_process
parent_process = process.parent_process

_default = context._default_context

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
Queue = _default.Queue
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method
reducer = reduction

# Children know the main module by this name too; what they send back must be found here.
if "__main__" in sys.modules:
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])


#: Loaded when first asked for. With the standard library's package, which of them are there
#: depends on what else was imported, and programs have come to rely on it.
_submodules = frozenset(
    {
        "connection",
        "dummy",
        "forkserver",
        "heap",
        "managers",
        "pool",
        "popen_fork",
        "popen_forkserver",
        "popen_spawn_posix",
        "queues",
        "resource_sharer",
        "resource_tracker",
        "shared_memory",
        "sharedctypes",
        "spawn",
        "synchronize",
        "util",
    }
)


def __getattr__(name: str) -> Any:
    if name == "install":  # which few programs need
        from ._install import install

        return install
    if name in _submodules:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


del TYPE_CHECKING
