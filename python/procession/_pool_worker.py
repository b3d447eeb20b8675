"""A pool's worker: what its process runs, and how it tells of what went wrong."""

from __future__ import annotations

import _pickle
from types import BuiltinFunctionType, FunctionType, ModuleType

from . import _procession, process, reduction, util
from ._errors import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = [
    "ExceptionWithTraceback",
    "MaybeEncodingError",
    "RemoteTraceback",
    "TaskExit",
    "rebuild_exc",
    "worker",
]


class RemoteTraceback(Exception):
    """The traceback of an exception in a worker, as text: the `__cause__` of what is raised here."""

    def __init__(self, tb: str) -> None:
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class ExceptionWithTraceback:
    """An exception that pickles with its traceback, as text."""

    def __init__(self, exc: BaseException, tb: Any) -> None:
        self.exc = exc
        self.tb = _quoted(_format(exc, tb))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """Return `exc` with the text of its remote traceback as its cause."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


class MaybeEncodingError(Exception):
    """The outcome of a task can't be brought back: it can't be pickled, or not be rebuilt.

    Attributes:
        exc: what pickling it, or rebuilding it, raised (its repr).
        value: the outcome, a result or an exception (its repr).
    """

    def __init__(self, exc: object, value: object) -> None:
        self.exc = exc if isinstance(exc, str) else _repr(exc)
        self.value = value if isinstance(value, str) else _repr(value)
        super().__init__(self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class TaskExit(ProcessError):
    """A task tried to end its worker: it raised SystemExit, KeyboardInterrupt or GeneratorExit.

    The task has failed, and the worker goes on. Raised as it is, such an exception would end
    the program that asks for the result.

    Attributes:
        exc_type: the name of the exception's class.
        code: the exit code, of a SystemExit.
    """

    def __init__(self, message: str = "a task tried to end its worker", exc_type: str = "", code: Any = None) -> None:
        super().__init__(message)
        self.exc_type = exc_type
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskExit, (str(self), self.exc_type, self.code)


def worker(
    handle: bytes,
    slot: int,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> None:
    """Work for the pool named `handle`, at the place `slot`, until it says that it is enough."""
    # Ctrl-C reaches every process of the terminal. The pool's owner decides what becomes of
    # its workers. A handler, and not SIG_IGN, which programs started by tasks would inherit.
    try:
        signal.signal(signal.SIGINT, _leave_to_the_owner)
    except ValueError:
        pass  # not the main thread: somebody runs workers in a way of their own
    current = process.current_process()
    if not current.daemon and current._parent_pid is not None:
        # Made so by a subclass; a worker ends with its pool's process all the same.
        _procession.die_with(current._parent_pid)
    core = _procession.WorkerCore(handle, slot)
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            core.start_failed(failed(error, initializer))
            raise
    core.ready()
    core.run(failed, not_rebuilt, not_sent)
    util.debug("worker exiting")


def _leave_to_the_owner(number: int, frame: object) -> None:
    pass


# What is sent when there is no result. A tuple that always pickles: where the exception came
# from as text, the exception as a pickle inside the pickle.


def failed(error: BaseException, function: object) -> bytes:
    """Return the message that tells what a task has raised."""
    text = _format(error, error.__traceback__)
    if isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit)):
        error = exit_of(error, function)
    return _message(error, text)


def not_rebuilt(error: BaseException) -> bytes:
    """Return the message for a task, or a function, that can't be unpickled."""
    text = _format(error, error.__traceback__)
    _note(error, "The task could not be rebuilt in the worker: what it names must be importable there.")
    return _message(error, text)


def not_sent(error: BaseException, value: object) -> bytes:
    """Return the message for a result that can't be pickled."""
    return _message(MaybeEncodingError(error, value), _format(error, error.__traceback__))


def _message(error: BaseException, text: str) -> bytes:
    pickled: bytes | None = None
    why = ""
    try:
        data = reduction.dumps_result(error)
        pickled = data if isinstance(data, bytes) else reduction.dumps_whole(error)
    except Exception as second:
        why = _repr(second)
    return _pickle.dumps((_repr(error), text, pickled, why), 5)


def rebuilt(message: bytes) -> BaseException:
    """Return the exception that a worker's message tells of, its remote traceback as the cause."""
    try:
        described, text, pickled, why = _pickle.loads(message)
    except Exception:
        return MaybeEncodingError("its message is damaged", "an exception in a worker")
    error: object = None
    if pickled is not None:
        try:
            error = _pickle.loads(pickled)
        except Exception as second:
            why = _repr(second)
        else:
            why = "its pickle is of something else"
    if not isinstance(error, BaseException):
        error = MaybeEncodingError(why, described)
    error.__cause__ = RemoteTraceback(_quoted(text))
    return error


def exit_of(error: BaseException, function: object) -> TaskExit:
    """Return what is raised for an exception that would end the program."""
    code = None
    what = f"raised {type(error).__name__}"
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, (int, str, type(None))) else _repr(error.code)
        what = f"called sys.exit({'' if code is None else repr(code)})"
    return TaskExit(f"{described(function)} {what} in a worker", type(error).__name__, code)


def _format(error: BaseException, tb: Any) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception:
        # An exception whose own methods raise.
        return "".join(traceback.format_tb(tb)) + f"{type(error).__qualname__}\n"


def _quoted(text: str) -> str:
    return f'\n"""\n{text}"""'


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__} object>"


def _note(error: BaseException, note: str) -> None:
    try:
        error.add_note(note)
    except Exception:
        pass  # some exceptions allow no attributes


def described(function: object) -> str:
    """Return the name of a function, for people."""
    while True:
        inner = getattr(function, "func", None)  # a partial
        if not callable(inner):
            break
        function = inner
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        function = type(function)
        name = function.__qualname__
    module = getattr(function, "__module__", None)
    return name if module in (None, "builtins", "__main__", "__mp_main__") else f"{module}.{name}"


def is_plain(function: object) -> bool:
    """Return whether a callable can't carry state of its own that changes from call to call."""
    kind = type(function)
    if kind is FunctionType or kind is type:
        return True
    # Bound methods of built-in objects are of this type too.
    return kind is BuiltinFunctionType and isinstance(getattr(function, "__self__", None), (ModuleType, type(None)))
