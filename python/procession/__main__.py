"""`python -m procession [--start-method M] PROGRAM.py|-m MODULE [args]`.

Runs a program that knows nothing of this package with `multiprocessing` meaning this package,
in all its processes. Everything else is as `python PROGRAM.py` has it.
"""

from __future__ import annotations

import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = ["main"]

USAGE = """\
usage: python -m procession [--start-method {fork,spawn,forkserver}] PROGRAM.py [args]
       python -m procession [--start-method {fork,spawn,forkserver}] -m MODULE [args]

Run a program with `multiprocessing` meaning procession, in it and in its children.

  --start-method M  start processes this way where the program doesn't say how
  -m MODULE         run a module, as python -m does
  -h, --help        show this and exit
"""


def main(argv: list[str]) -> None:
    """Run the program of a command line (without the interpreter and its options)."""
    args = argv[1:]
    while args and args[0].startswith("-"):
        option = args.pop(0)
        name, equals, value = option.partition("=")
        if option in ("-h", "--help"):
            print(USAGE, end="")
            return
        if name == "--start-method":
            if not equals:
                value = args.pop(0) if args else ""
            _set_default_start_method(value)
        elif option == "-m":
            if not args:
                _fail("-m needs the name of a module", usage=True)
            _install()
            _run_module(args)
            return
        else:
            _fail(f"unknown option {option}", usage=True)
    if not args:
        _fail("which program?", usage=True)
    _install()
    _run_file(args)


def _install() -> None:
    from ._install import install

    install()


def _set_default_start_method(method: str) -> None:
    from . import context

    try:
        context._default_context._default_context = context._concrete(method)
    except ValueError as error:
        _fail(str(error))


def _fail(message: str, *, usage: bool = False) -> NoReturn:
    print(f"procession: {message}", file=sys.stderr)
    if usage:
        print(USAGE, end="", file=sys.stderr)
    sys.exit(2)


def _run_module(args: list[str]) -> None:
    import runpy

    sys.argv = args
    _fresh_main()
    name = args[0]
    # The part of runpy that python -m itself calls.
    _run(lambda: runpy._run_module_as_main(name))  # type: ignore[attr-defined]


def _run_file(args: list[str]) -> None:
    from . import spawn

    path = args[0]
    sys.argv = args
    if os.path.isdir(path) or _is_zip(path):
        import runpy

        _set_first_path(path)
        _fresh_main()
        _run(lambda: runpy._run_module_as_main("__main__", False))  # type: ignore[attr-defined]
        return
    full = os.path.abspath(path)
    try:
        open(path, "rb").close()
    except OSError as error:
        _fail(f"can't open file {full!r}: [Errno {error.errno}] {error.strerror}")
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    module = _fresh_main()
    from importlib.machinery import SourceFileLoader

    module.__dict__.update(__file__=full, __loader__=SourceFileLoader("__main__", full))
    _run(lambda: exec(spawn.read_code(full), module.__dict__))


def _is_zip(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            if file.read(2) not in (b"PK", b"#!"):
                return False
    except OSError:
        return False
    import zipfile

    return zipfile.is_zipfile(path)


def _set_first_path(directory: str) -> None:
    """Put the program's directory where `python -m` has put the current one."""
    if getattr(sys.flags, "safe_path", False):
        return
    if sys.path and sys.path[0] in ("", os.getcwd()):
        sys.path[0] = directory
    else:
        sys.path.insert(0, directory)


def _fresh_main() -> types.ModuleType:
    """Replace the main module, which is this one, by an empty one for the program."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=sys.modules["builtins"], __spec__=None)
    if sys.version_info < (3, 14):
        module.__dict__.update(__annotations__={})  # every main module had it
    if sys.version_info < (3, 15):
        module.__dict__.update(__cached__=None)
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module


#: Our own module: the last frames of a program run in it.
_kept: list[types.ModuleType] = []


def _run(program: Callable[[], Any]) -> None:
    """Run the program, and show what it raises without the frames of its launcher."""
    try:
        program()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        traceback = error.__traceback__
        while traceback is not None and _is_launcher(traceback.tb_frame.f_code.co_filename):
            traceback = traceback.tb_next
        error.__traceback__ = traceback
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
        sys.excepthook(type(error), error, traceback)
        sys.exit(1)


def _is_launcher(filename: str) -> bool:
    return (
        os.path.dirname(filename) == os.path.dirname(__file__)
        or filename == "<frozen runpy>"
        or filename.endswith("/runpy.py")
    )


if __name__ == "__main__":
    main(sys.argv)
