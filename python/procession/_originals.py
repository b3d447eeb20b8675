"""The standard library's multiprocessing, where `install()` has made its name mean this package.

Two kinds of modules go on seeing it. Its own modules do, those that were loaded before: they import each other as late
as in the body of a function. And those of libraries that are built on its insides do: loky, and so joblib and
scikit-learn, has start methods, queues and semaphores of its own, made from private parts of the standard library's,
and starts interpreters that know nothing of this package.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
from importlib.abc import Loader
from importlib.machinery import ModuleSpec

from . import _beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType
    from typing import Any

__all__ = ["LIBRARIES", "Finder", "find_by_this_name", "set_aside"]

#: The packages that are given the standard library's multiprocessing.
LIBRARIES = ("loky", "joblib.externals.loky")

_STANDARD = "multiprocessing"
#: What the standard package is called when its name is ours.
_ASIDE = f"{__package__}._standard"
_import = builtins.__import__
_loading = threading.RLock()
_busy = False


class Finder:
    """Finds the modules of `LIBRARIES` where they are, and has their imports looked after.

    And the standard modules that those which were set aside ask for.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that any other finder has for one of their modules."""
        if fullname.startswith(f"{_ASIDE}."):
            return ModuleSpec(fullname, _AsideLoader(_STANDARD + fullname[len(_ASIDE) :]))
        if not any(fullname == package or fullname.startswith(f"{package}.") for package in LIBRARIES):
            return None
        for finder in sys.meta_path:
            if _is_ours(finder):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Runs a module with an `import` statement of its own, which its functions keep."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> Any:
        """Return what the real loader makes."""
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        # Python keeps what `__builtins__` it finds here, instead of adding the usual one.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import_original}
        self._real.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        if name == "_real":  # not there yet, in a copy
            raise AttributeError(name)
        return getattr(self._real, name)  # get_code, get_data, is_package, ...


def _import_original(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Do what an `import` statement does, with the standard library's multiprocessing."""
    if level or name.partition(".")[0] != _STANDARD or not _beside.installed():
        return _import(name, globals, locals, fromlist or (), level)
    module = _original(name)
    if not fromlist:
        return _original(_STANDARD)
    for item in fromlist:
        if not hasattr(module, item) and hasattr(module, "__path__"):
            try:
                _original(f"{name}.{item}")
            except ModuleNotFoundError:
                pass  # the statement says so itself
    return module


def _original(name: str) -> ModuleType:
    """Return one of the standard library's modules, if need be loaded now."""
    global _busy
    module = _beside.displaced.get(name)
    if module is not None:
        return module
    if not _beside.installed():
        return importlib.import_module(name)
    with _loading:
        if name in _beside.displaced:
            return _beside.displaced[name]
        if _busy:  # asked for by one that is being loaded
            return importlib.import_module(name)
        ours = _take_out()
        kept = sys.meta_path[:]
        sys.meta_path[:] = [finder for finder in kept if isinstance(finder, Finder) or not _is_ours(finder)]
        _busy = True
        try:
            sys.modules.update(_beside.displaced)
            return importlib.import_module(name)
        finally:
            for loaded, original in _take_out().items():
                set_aside(loaded, original)
            sys.modules.update(ours)
            sys.meta_path[:] = kept
            _busy = False


def set_aside(name: str, module: ModuleType) -> None:
    """Keep a standard module that gives up its name, and let it find the others of its package."""
    if _beside.displaced.get(name) is module:
        return
    _beside.displaced[name] = module
    # Relative imports go by the package's name, and pickles by the modules' names.
    aside = _ASIDE + name[len(_STANDARD) :]
    sys.modules[aside] = module
    module.__spec__ = ModuleSpec(aside, None, is_package=name == _STANDARD)
    module.__package__ = _ASIDE
    for value in vars(module).values():
        if getattr(value, "__module__", None) == name:
            try:
                value.__module__ = aside
            except (AttributeError, TypeError):
                pass
    if name == f"{_STANDARD}.process":
        _share_key(module)


class _AsideLoader(Loader):
    """Loads a standard module for those that were set aside."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, loaded."""
        module = _original(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has noted in the module: it has run already."""
        module.__spec__ = self._spec


def find_by_this_name() -> None:
    """Have the modules under `procession._standard` found, in a process that may not have called `install()`."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def _take_out() -> dict[str, ModuleType]:
    """Take whatever goes by the name of multiprocessing out of `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == _STANDARD}


def _is_ours(finder: object) -> bool:
    return type(finder).__module__.partition(".")[0] == __package__


def _share_key(standard: Any) -> None:
    """Give the standard library's processes our key: proxies of our managers, sent to them, can reach their server."""
    from . import process

    if standard.parent_process() is None and not standard._children:
        standard.current_process().authkey = bytes(process.current_process().authkey)
