"""The fresh interpreter of a child: its command line, its preparation, its main module."""

from __future__ import annotations

import os
import sys

from . import _beside, _procession, context, process, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType, ModuleType
    from typing import Any, NoReturn

__all__ = [
    "freeze_support",
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "is_forking",
    "set_executable",
    "spawn_main",
]

#: What marks a command line as a child's.
MARK = "--multiprocessing-fork"

_python_exe: str | bytes | None = None


def set_executable(exe: str | bytes | os.PathLike[Any] | None) -> None:
    """Start children with this interpreter."""
    global _python_exe
    _python_exe = None if exe is None else os.fspath(exe)


def get_executable() -> str | bytes | None:
    """Return the interpreter that children are started with."""
    return _python_exe


def executable_path() -> str | bytes:
    """Return the interpreter for children.

    Raises:
        RuntimeError: if there is none, as in an embedded Python.
    """
    if not _python_exe:
        raise RuntimeError(
            "sys.executable is not set: say which Python children start with, by procession.set_executable()"
        )
    return _python_exe


set_executable(sys.executable)


# The command line.


def is_forking(argv: list[str]) -> bool:
    """Return whether this command line is that of a child of a frozen executable."""
    return len(argv) >= 2 and argv[1] == MARK


def freeze_support() -> None:
    """Run as a child if this command line says so, and then exit."""
    if not is_forking(sys.argv):
        return
    import ast

    options: dict[str, Any] = {}
    for arg in sys.argv[2:]:
        name, value = arg.split("=", 1)
        options[name] = value if name in ("prep", "task") else ast.literal_eval(value)
    spawn_main(**options)


def get_command_line(**options: Any) -> list[str | bytes]:
    """Return the command that starts a child with these arguments to `spawn_main`."""
    if getattr(sys, "frozen", False):
        return [sys.executable, MARK, *(f"{k}={v}" for k, v in options.items())]
    arguments = ", ".join(f"{k}={v!r}" for k, v in options.items())
    return interpreter_command(f"from {__name__} import spawn_main; spawn_main({arguments})")


def interpreter_command(program: str) -> list[str | bytes]:
    """Return the command that runs a line of Python with this package at hand."""
    return [
        executable_path(),
        *util._args_from_interpreter_flags(),
        "-c",
        f"{_find_package()}; {program}",
        MARK,
    ]


def _find_package() -> str:
    """Return a line of Python that makes a fresh interpreter find this very package.

    Where it lies may be known to the parent's sys.path alone, and putting that place on the
    child's could hide something else. So a finder for this one name.
    """
    package = __package__ or ""
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return (
        "import sys; from _frozen_importlib_external import PathFinder; "
        f"sys.meta_path.insert(0, type({package!r}, (), {{'find_spec': staticmethod("
        f"lambda name, path=None, target=None: PathFinder.find_spec(name, [{place!r}]) "
        f"if name == {package!r} else None)}}))"
    )


def forget_finder() -> None:
    """Take the finder of `_find_package` away again: it has done its work."""
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != __package__]


def spawn_main(
    arena: int, seat: int, prep: str, task: str, parent: int, tracker: int | None, fds: list[int]
) -> NoReturn:
    """Be the child: join the family, find the task in the arena, run it, exit.

    Args:
        arena: the descriptor of the family's memory.
        seat: our place in the family.
        prep: the handle of the preparation data.
        task: the handle of the process object.
        parent: the pid of our parent.
        tracker: the descriptor of the resource tracker's pipe, if it runs.
        fds: all descriptors that were given to us.
    """
    from . import _interrupts

    _interrupts.ending()
    from . import _bootstrap

    forget_finder()
    close_others(fds)
    _procession.join_family(arena, seat)
    parent_sentinel = _procession.pidfd_of_parent(parent)
    if tracker is not None:
        from . import resource_tracker

        resource_tracker._resource_tracker.inherit(tracker)
    _bootstrap.end(run(prep, task, parent_sentinel), seat)


def close_others(given: list[int]) -> None:
    """Close what the parent's parent left open for every program that is started."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and fd not in given and os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            pass  # of the directory that we have just read


def run(prep: str, task: str, parent_sentinel: int) -> int:
    """Prepare this process, take its process object from the arena and run it.

    Returns:
        The exit code: 1 also for what goes wrong before the object can deal with it.
    """
    from . import _bootstrap, reduction  # noqa: F401  (which registers the pickler)

    child = process.current_process()
    try:
        child._inheriting = True  # type: ignore[attr-defined]
        try:
            prepare(_procession.unpack(bytes.fromhex(prep)))
            obj: process.BaseProcess = _procession.unpack(bytes.fromhex(task))
        finally:
            del child._inheriting  # type: ignore[attr-defined]
        return obj._bootstrap(parent_sentinel)
    except SystemExit as exit:
        return _bootstrap._exit_status(exit)
    except BaseException:
        from ._pidfd import wait_readable

        # What a parent has packed goes with it: no wonder then, and nobody to tell.
        if not wait_readable(parent_sentinel, 0):
            import traceback

            traceback.print_exc()
            util._flush_std_streams()
        return 1


def _check_not_importing_main() -> None:
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            """
        A process was to be started before this one has finished its bootstrapping phase.

        With the start methods spawn and forkserver a child imports the main module. What
        that module does at its top level happens again in each child, and it seems to
        start processes there. Start them in the main program only:

            if __name__ == "__main__":
                freeze_support()
                ...

        freeze_support() is needed only by a program that is frozen into an executable.
        """
        )


# What a child is told before it gets its task.


def get_preparation_data(name: str) -> dict[str, Any]:
    """Return what a child must know before it can unpickle its process object.

    Raises:
        RuntimeError: if this process is itself a child still importing its main module.
    """
    _check_not_importing_main()
    current = process.current_process()
    data: dict[str, Any] = {
        "name": name,
        "authkey": bytes(current.authkey),
        "log_to_stderr": util._log_to_stderr,
        "sys_path": [process.ORIGINAL_DIR if p == "" and process.ORIGINAL_DIR else p for p in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,
        "dir": _working_directory(),
        "start_method": context._default_context.get_start_method(allow_none=True),
        "installed": _Installed() if _beside.installed() else None,
        "standard_key": _beside.secret(),
    }
    if util._logger is not None:
        data["log_level"] = util._logger.getEffectiveLevel()
    main = sys.modules.get("__main__")
    main_name = getattr(getattr(main, "__spec__", None), "name", None)
    main_path = getattr(main, "__file__", None)
    if main_name is not None:
        data["init_main_from_name"] = main_name
        if _runs_unguarded(main_name):
            from . import reduction

            reduction.leave_main_behind()
    elif main_path is not None:
        if not os.path.isabs(main_path) and process.ORIGINAL_DIR is not None:
            main_path = os.path.join(process.ORIGINAL_DIR, main_path)
        if os.path.exists(main_path):
            data["init_main_from_path"] = os.path.normpath(main_path)
    return data


class _Installed:
    """Says that the name `multiprocessing` is ours; where it is unpickled, it is so from then on.

    What comes after it in the preparation data may import that name: coverage puts an object there that does, to
    patch it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _installed_here, ()


def _installed_here() -> _Installed:
    from ._install import install

    install()
    return _Installed()


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # removed under our feet


def surroundings() -> dict[str, Any]:
    """Return what a child inherits from its parent, for one whose parent is the fork server."""
    return {
        "environ": dict(_environment()),
        "umask": _umask(),
        "affinity": os.sched_getaffinity(0),
    }


def _umask() -> int | None:
    """Return the umask, which `os.umask` can't tell without a change to it that other threads would see."""
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.read(fd, 1024)
    finally:
        os.close(fd)
    _before, found, rest = status.partition(b"\nUmask:")
    return int(rest.split(None, 1)[0], 8) if found else None


def _environment() -> Mapping[bytes, bytes]:
    """Return the environment: what is behind `os.environb`, if it can be had, which is much faster to copy."""
    behind = getattr(os.environb, "_data", None)
    return behind if type(behind) is dict else os.environb


def _adopt_environment(wanted: dict[bytes, bytes]) -> None:
    if _environment() == wanted:
        return
    for name in [name for name in os.environb if name not in wanted]:
        del os.environb[name]
    for name, value in wanted.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


def prepare(data: dict[str, Any]) -> None:
    """Get this process ready to unpickle its process object."""
    current = process.current_process()
    if "name" in data:
        current.name = data["name"]
    if "authkey" in data:
        current.authkey = data["authkey"]
    if data.get("installed"):
        _installed_here()
    if data.get("log_to_stderr"):
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if data.get("dir") is not None:
        try:
            os.chdir(data["dir"])
        except OSError as error:
            util.debug("cannot enter the parent's directory: %s", error)
    if data.get("environ") is not None:
        _adopt_environment(data["environ"])
    if data.get("umask") is not None:
        os.umask(data["umask"])
    if data.get("affinity") is not None and data["affinity"] != os.sched_getaffinity(0):
        os.sched_setaffinity(0, data["affinity"])
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]
    if "start_method" in data:
        context._default_context.set_start_method(data["start_method"], force=True)
    if data.get("standard_key") is not None:
        from . import _bootstrap

        _bootstrap._standard_key = data["standard_key"]
    if "init_main_from_name" in data:
        _fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _fixup_main_from_path(data["init_main_from_path"])
    else:
        _share_globals()


def _share_globals() -> None:
    """Have what the main module defines arrive by value, as it can't be imported."""
    from . import _inherited

    _inherited.share_globals()


# The main module, which a child imports under the name __mp_main__.

#: Keeps the modules that were __main__ before alive: their functions are still in use.
old_main_modules: list[ModuleType] = []


def _runs_unguarded(mod_name: str) -> bool:
    # The __main__ of a package or a zip file has the guard by its name already.
    return mod_name == "__main__" or mod_name.endswith(".__main__")


def _fixup_main_from_name(mod_name: str) -> None:
    """Import what the parent ran as `python -m mod_name`."""
    if _runs_unguarded(mod_name):
        _share_globals()
        return
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", None) == mod_name:
        return  # preloaded by the fork server, or forked
    import importlib.util

    spec = importlib.util.find_spec(mod_name)
    loader: Any = spec.loader if spec is not None else None
    if spec is None or not hasattr(loader, "get_code"):
        raise ImportError(f"can't find the main module {mod_name!r} again", name=mod_name)
    module = type(sys)("__mp_main__")
    module.__dict__.update(
        __file__=spec.origin,
        __loader__=loader,
        __package__=spec.parent,
        __spec__=spec,
    )
    _run_as_main(module, loader.get_code(mod_name), spec.cached)


def _fixup_main_from_path(main_path: str) -> None:
    """Import what the parent ran as `python main_path`."""
    # Launchers of IPython come without the guard.
    if os.path.splitext(os.path.basename(main_path))[0] == "ipython":
        return
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) == main_path:
        return  # preloaded by the fork server, or forked
    module = type(sys)("__mp_main__")
    module.__dict__.update(__file__=main_path, __package__="", __spec__=None)
    _run_as_main(module, read_code(main_path))


def import_main_path(main_path: str) -> None:
    """Import the script at this path as a child's main module."""
    _fixup_main_from_path(main_path)


def read_code(path: str) -> CodeType:
    """Return the code of a script, in source or compiled form."""
    with open(path, "rb") as file:
        source = file.read()
    if source[2:4] == b"\r\n":  # as all of Python's magic numbers end
        from importlib.util import MAGIC_NUMBER

        if source.startswith(MAGIC_NUMBER):
            import marshal

            compiled: CodeType = marshal.loads(source[16:])
            return compiled
    return compile(source, path, "exec", dont_inherit=True)


def _run_as_main(module: ModuleType, code: CodeType, cached: str | None = None) -> None:
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    if sys.version_info < (3, 15):
        module.__dict__["__cached__"] = cached
    before = sys.modules["__main__"]
    # In place while it runs: it may look for itself, and its classes be pickled.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        sys.modules["__main__"] = before
        del sys.modules["__mp_main__"]
        raise
    old_main_modules.append(before)
