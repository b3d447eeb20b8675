"""What a forked child has of a main module that nobody can import: at a prompt, in a notebook, with `-c`.

Such functions and classes travel by value. But a child that was forked has them already, with globals that its
initializer may have set, and with instances made before. So each gets a token before a fork, and who knows the token
takes its own instead of what came along.

A child that was spawned makes them from what came along. They have one namespace there, as those of a module have: what
one of them has set, the others see. What nobody there has set follows the sender.
"""

from __future__ import annotations

import os
import sys
import weakref
from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["note", "reduce", "share_globals", "token_of"]

_objects: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()
_tokens: dict[int, bytes] = {}

#: In a child that doesn't run the main module: what its functions have for globals, and what last came for each.
_namespace: dict[str, Any] | None = None
_received: dict[str, Any] = {}


def note() -> None:
    """Give a token to all that the main module defines now: a child is about to be forked."""
    found = list(vars(sys.modules["__main__"]).values())
    while found:
        obj = found.pop()
        if isinstance(obj, (classmethod, staticmethod)):
            obj = obj.__func__
        if not isinstance(obj, (type, FunctionType)) or obj.__module__ not in ("__main__", "__mp_main__"):
            continue
        if token_of(obj) is None:
            token = os.urandom(16)
            _objects[token] = obj
            _tokens[id(obj)] = token
            if isinstance(obj, type):
                found += vars(obj).values()  # a bound method travels as its function and its object


def token_of(obj: object) -> bytes | None:
    """Return the object's token, if it was there at a fork."""
    token = _tokens.get(id(obj))
    # The address may have been another's.
    return token if token is not None and _objects.get(token) is obj else None


def share_globals() -> None:
    """Give all functions of the main module that arrive here the same globals."""
    global _namespace
    _namespace = vars(sys.modules["__main__"])
    _received.update(_namespace)  # the interpreter's own: anybody's may take their places


def reduce(obj: object, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return cloudpickle's reduction of a function or class of the main module, for `note` and `share_globals`."""
    make, args, state, items, pairs, set_state = reduced
    is_function = isinstance(obj, FunctionType)
    return _find_or_make, (token_of(obj), is_function, make, *args), (set_state, state), items, pairs, _set_state


def _find_or_make(token: bytes | None, is_function: bool, make: Callable[..., Any], *args: Any) -> Any:
    own = None if token is None else _objects.get(token)
    if own is not None:
        return own
    if is_function and _namespace is not None:
        code, _globals, *rest = args
        return make(code, _namespace, *rest)
    return make(*args)


def _set_state(obj: Any, state: tuple[Callable[[Any, Any], object], Any]) -> None:
    if token_of(obj) is not None:
        return
    set_state, theirs = state
    own: Any = getattr(obj, "__globals__", None)
    if own is not None and id(own) == id(_namespace):
        _, slots = theirs
        for name, value in slots["__globals__"].items():
            if name not in own or own[name] is _received.get(name, own):
                own[name] = value
            _received[name] = value
        slots["__globals__"] = {}
    set_state(obj, theirs)
