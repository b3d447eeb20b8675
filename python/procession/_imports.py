"""Forking while another thread imports a module.

The interpreter locks each module while it is being loaded. Only the thread that forks goes on in the
child, so a lock that another thread held would never be released there, and an import of that module
would wait for ever.
"""

from __future__ import annotations

import sys
import time
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _locks: dict[str, Any]
else:
    import _frozen_importlib

    # Not documented: a dictionary of weak references. Without it all is as it always was.
    _locks = getattr(_frozen_importlib, "_module_locks", {})

__all__ = ["abandon_others", "wait_for_others"]

#: For how many seconds a fork waits. Some modules take longer, and some wait for the thread that forks.
PATIENCE = 2.0
PAUSE = 0.002


def _others() -> list[str]:
    """Return the names of the modules that other threads are loading."""
    me = get_ident()
    held = []
    for name, reference in list(_locks.items()):
        owner = getattr(reference(), "owner", None)
        if owner is not None and owner != me:
            held.append(name)
    return held


def wait_for_others() -> None:
    """Wait until no other thread loads a module, for a moment at most."""
    if not _locks or not _others():
        return
    until = time.monotonic() + PATIENCE
    while _others() and time.monotonic() < until:
        time.sleep(PAUSE)


def abandon_others() -> None:
    """In a forked child: forget what threads were loading that don't exist here, to be loaded anew."""
    if not _locks:
        return
    for name in _others():
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if getattr(spec, "_initializing", False):
            del sys.modules[name]
    # A lock without an owner too: its last one may be in the middle of letting go of it.
    me = get_ident()
    for name, reference in list(_locks.items()):
        if getattr(reference(), "owner", None) != me:
            _locks.pop(name, None)
