"""Start as a fresh interpreter, which finds its task in the arena."""

from __future__ import annotations

import os

from . import _interrupts, _procession, context, popen_fork, reduction, resource_tracker, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from typing import Any

    from .process import BaseProcess
else:
    # Without the enumerations of `signal`, which take a child longer to load than the rest of this package.
    import _signal as signal

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that the child inherits under the same number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        """Return the number, in the child."""
        os.set_inheritable(self.fd, False)
        return self.fd


class Popen(popen_fork.Popen):
    """A child started as a fresh interpreter."""

    method = "spawn"
    DupFd: type[Any] = _DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        util._flush_std_streams()
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child inherit a descriptor; return its number there."""
        self._fds.append(fd)
        return fd

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; what was packed for the child is then given back."""
        code = super().wait(timeout)
        if code is not None:
            self._parcels: tuple[Any, ...] = ()
        return code

    def _pack(self, process_obj: BaseProcess) -> tuple[Any, Any]:
        """Put the preparation data and the process object into the arena."""
        prep = self._preparation(process_obj)
        with context.spawning(self):
            first = _procession.pack(prep)
            try:
                return first, _procession.pack(process_obj)
            except Exception as error:
                named = reduction.name_culprit(error, parts(process_obj))
                if named is error:
                    raise
                raise named from error

    def _preparation(self, process_obj: BaseProcess) -> dict[str, Any]:
        return spawn.get_preparation_data(process_obj.name)

    def _launch(self, process_obj: BaseProcess) -> None:
        self._parcels = self._pack(process_obj)
        prep, task = self._parcels
        tracker = resource_tracker._resource_tracker.inheritable_fd()
        if tracker is not None:
            self._fds.append(tracker)
        arena = _procession.arena_fd()
        fds = sorted({arena, *self._fds})
        command = spawn.get_command_line(
            arena=arena,
            seat=self._seat,
            prep=prep.handle.hex(),
            task=task.handle.hex(),
            parent=os.getpid(),
            tracker=tracker,
            fds=fds,
        )
        held = _interrupts.hold()
        try:
            pid, pidfd = _procession.spawn(spawn.executable_path(), command[1:], fds, blocked=[signal.SIGINT])
            self._started(pid, pidfd)
        finally:
            _interrupts.allow(held)


def parts(process_obj: BaseProcess) -> Iterator[tuple[str, object]]:
    """Yield what a process object carries to its child, each part with its name."""
    state = dict(vars(process_obj))
    where = f"of {type(process_obj).__name__} {process_obj.name!r}"
    yield f"target {where}", state.pop("_target", None)
    for index, arg in enumerate(state.pop("_args", ())):
        yield f"args[{index}] {where}", arg
    for key, value in state.pop("_kwargs", {}).items():
        yield f"kwargs[{key!r}] {where}", value
    for name, value in state.items():
        yield f"attribute {name!r} {where}", value
