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
    if process is None:
        return None if _expected is None else _expected.key
    return bytes(process.current_process().authkey)


def adopt(current: Any, parent: Any, key: bytes | None, *, forked: bool) -> None:
    """Make the standard library's book-keeping right in a child that we started.

    Args:
        current: our object for this process.
        parent: our object for its parent.
        key: what `secret()` gave in the parent; if the module is not loaded, it is given to it when it is.
        forked: whether this process inherited the parent's state.
    """
    global _expected
    if _expected is not None:
        _expected.forget()  # that was for the process which has forked this one
        _expected = None
    process = standard("process")
    if process is None:
        if key is not None and not installed():
            _expected = _Expected(current, parent, key)
            sys.meta_path.insert(0, _expected)
        return
    if key is None and forked:
        key = bytes(process.current_process().authkey)
    _enter(process, current, parent, key)
    util = standard("util")
    if util is not None and forked:
        util._finalizer_registry.clear()
        util._run_after_forkers()


def _enter(process: Any, current: Any, parent: Any, key: bytes | None) -> None:
    """Have the standard `multiprocessing.process` know who we are."""
    process._current_process = current if key is None else _WithKey(current, key)
    process._parent_process = parent
    process._children = set()


class _Expected:
    """Finds the standard `multiprocessing.process` where it is, and tells it who we are once it is loaded.

    It takes a child longer to load than all else that it does, and few of them ever do.
    """

    def __init__(self, current: Any, parent: Any, key: bytes) -> None:
        self._current = current
        self._parent = parent
        self.key = key

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that any other finder has for it."""
        if fullname != "multiprocessing.process":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    loader: Any = _Loader(spec.loader, self)
                    spec.loader = loader
                return spec
        return None

    def loaded(self, module: ModuleType) -> None:
        """Tell the module, unless it is one of ours under that name."""
        if module.__name__ == "multiprocessing.process":
            self.forget()
            _enter(module, self._current, self._parent, self.key)

    def forget(self) -> None:
        """Wait for it no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _Loader:
    """Loads as another loader does, and says when that is done."""

    def __init__(self, real: Any, expected: _Expected) -> None:
        self._real = real
        self._expected = expected

    def create_module(self, spec: Any) -> Any:
        """Return what the real loader makes."""
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Run the module."""
        module.__loader__ = module.__spec__.loader = self._real
        self._real.exec_module(module)
        self._expected.loaded(module)


#: The module that is to be told who we are, and our key for it.
_expected: _Expected | None = None


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
