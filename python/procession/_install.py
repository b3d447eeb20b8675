"""Make the name `multiprocessing` mean this package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec

from . import _originals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any

__all__ = ["install"]

_STANDARD = "multiprocessing"
_OURS = __package__ or "procession"


def install() -> None:
    """Make `import multiprocessing` give this package, here and in all our children.

    Its submodules too. May be called at any time and any number of times, best as the
    first thing in a program: a module that has imported the standard library's package
    before keeps what it has.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path[:0] = [_Finder(), _originals.Finder()]
    package = sys.modules[_OURS]
    if sys.modules.get(_STANDARD) is package:
        return
    loaded = [name for name in sys.modules if name.partition(".")[0] == _STANDARD]
    for name in loaded:
        if sys.modules[name].__name__ == name:
            _originals.set_aside(name, sys.modules.pop(name))
    sys.modules[_STANDARD] = package
    for name in loaded:
        if name != _STANDARD and name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                pass  # one that we haven't got


def _our_name(name: str) -> str:
    return _OURS + name[len(_STANDARD) :]


class _Finder:
    """Finds `multiprocessing` and what is under it: in this package or nowhere."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that loads our module under the standard name."""
        if fullname != _STANDARD and not fullname.startswith(f"{_STANDARD}."):
            return None
        ours = _our_name(fullname)
        if ours not in sys.modules and importlib.util.find_spec(ours) is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: procession is installed in its place, and has no {ours!r}",
                name=fullname,
            )
        return ModuleSpec(fullname, _Loader(ours), is_package=fullname == _STANDARD)


class _Loader(Loader):
    """Loads a module of ours, and leaves it as it is."""

    def __init__(self, ours: str) -> None:
        self._ours = ours
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return our module."""
        module = importlib.import_module(self._ours)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has noted in the module: it has run already."""
        module.__spec__ = self._spec

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of our module, for `python -m multiprocessing.x`."""
        spec = importlib.util.find_spec(self._ours)
        loader: Any = None if spec is None else spec.loader
        code: CodeType | None = None if loader is None else loader.get_code(self._ours)
        return code
