"""What it takes to live in one process with the standard library's multiprocessing.

Nothing here imports it: a program that doesn't use it doesn't pay for it. But where a
library has loaded it (`concurrent.futures.process` has, PyTorch has), users catch *its*
exceptions, the executor pickles *its* queues while *our* processes start, and its
book-keeping must be right in our children. Each function looks for the loaded module
first and does nothing without it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__: list[str] = []

#: The standard modules that `install()` moved out of `sys.modules`, by full name.
displaced: dict[str, ModuleType] = {}


def standard(name: str) -> Any:
    """Return the standard library's `multiprocessing.<name>` if it is loaded."""
    full = f"multiprocessing.{name}"
    module = displaced.get(full) or sys.modules.get(full)
    # Under `install()` that name is ours; our modules keep their own __name__.
    return module if module is not None and module.__name__ == full else None


def set_spawning(popen: Any) -> Any:
    """Tell the standard library which process is being started; return what it had before.

    Its queues and connections refuse to be pickled at any other moment.
    """
    context = standard("context")
    if context is None:
        return None
    before = context.get_spawning_popen()
    context.set_spawning_popen(popen)
    return before


def reducers() -> dict[type, Any]:
    """Return the reducers that others registered with the standard `ForkingPickler`."""
    reduction = standard("reduction")
    if reduction is None:
        return {}
    registered: dict[type, Any] = reduction.ForkingPickler._extra_reducers
    return registered


def secret() -> bytes | None:
    """Return the standard library's key of this process, for a child to share."""
    process = standard("process")
    return None if process is None else bytes(process.current_process().authkey)


def adopt(current: Any, parent: Any, key: bytes | None, *, forked: bool) -> None:
    """Make the standard library's book-keeping right in a child that we started.

    Args:
        current: our object for this process.
        parent: our object for its parent.
        key: what `secret()` gave in the parent; loads the standard module if need be.
        forked: whether this process inherited the parent's state.
    """
    if key is not None and standard("process") is None and not installed():
        import multiprocessing.process  # noqa: F401
    process = standard("process")
    if process is None:
        return
    if key is None and forked:
        key = bytes(process.current_process().authkey)
    process._current_process = current if key is None else _WithKey(current, key)
    process._parent_process = parent
    process._children = set()
    util = standard("util")
    if util is not None and forked:
        util._finalizer_registry.clear()
        util._run_after_forkers()


def leave() -> None:
    """Run the standard library's own exit function, as its child processes do."""
    util = standard("util")
    if util is not None:
        util._exit_function()


class _WithKey:
    """Our object for this process, as the standard library sees it: with its own key."""

    def __init__(self, process: Any, key: bytes) -> None:
        self.__dict__.update(_process=process, authkey=type(process.authkey)(key))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "authkey":
            self.__dict__["authkey"] = type(self._process.authkey)(value)
        else:
            setattr(self._process, name, value)


def installed() -> bool:
    """Return whether the name `multiprocessing` is ours in this process."""
    package = sys.modules.get("multiprocessing")
    return package is not None and package.__name__ == __package__
