"""Start as a copy of the fork server."""

from __future__ import annotations

import os
import struct

from . import (
    _bootstrap,
    _pidfd,
    _procession,
    forkserver,
    popen_spawn_posix,
    resource_tracker,
    spawn,
)
from .reduction import MAX_FDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, NoReturn

    from .process import BaseProcess

__all__ = ["Popen"]

#: The handles of preparation data and process object, which of the standard streams and
#: whether the resource tracker's pipe are among the descriptors, and how many these are.
JOB = struct.Struct("=16s16sBBI")
#: How many fork servers may die on one request before it is given up.
TRIES = 4


class _DupFd:
    """A descriptor that travels to the child with its job."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        """Return its number in the child."""
        return forkserver.get_inherited_fds()[self.ind]


class Popen(popen_spawn_posix.Popen):
    """A child forked by the fork server."""

    method = "forkserver"
    DupFd: type[Any] = _DupFd

    def duplicate_for_child(self, fd: int) -> int:
        """Send a descriptor along; return its place among those that the child receives."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _preparation(self, process_obj: BaseProcess) -> dict[str, Any]:
        return super()._preparation(process_obj) | spawn.surroundings()

    def _launch(self, process_obj: BaseProcess) -> None:
        self._parcels = self._pack(process_obj)
        conversation, pid, pidfd = self._request(process_obj)
        try:
            self._started(pid, pidfd)
            self._send_job(conversation)
        finally:
            conversation.close()

    def _request(self, process_obj: BaseProcess) -> tuple[socket, int, int]:
        """Have a child forked; return the line to it, its pid and its pidfd."""
        server = forkserver._forkserver
        size = forkserver.HELLO.size
        for _try in range(TRIES):
            server.ensure_running()
            try:
                conversation, hello, fds = server.ask(forkserver.FORK, self._seat, 4096, 1)
            except forkserver.ServerGone:
                # The server may have begun to use the seat. Take a fresh one.
                _procession.cancel_child(self._seat)
                self._seat = _procession.prepare_child(process_obj.name, process_obj._role)
                continue
            if hello[0] == 1 and len(hello) == size and fds:
                return conversation, forkserver.HELLO.unpack(hello)[1], fds[0]
            conversation.close()
            text = hello[1:].decode(errors="replace")
            if hello[0] == 2:
                server._stop()
                error = EOFError(f"the fork server has ended, since it could not preload what it should: {text}")
                error.add_note("Forkserver process may have crashed: it wrote the traceback to its standard error")
                raise error
            raise OSError(f"the fork server cannot fork: {text}")
        raise OSError(f"the fork server has ended {TRIES} times before it had started a process")

    def _send_job(self, conversation: socket) -> None:
        streams, tracker = 0, resource_tracker._resource_tracker.inheritable_fd()
        fds = [os.pidfd_open(os.getpid())]
        try:
            for fd in range(3):
                if _is_open(fd):
                    streams |= 1 << fd
                    fds.append(fd)
            if tracker is not None:
                fds.append(tracker)
            fds += self._fds
            prep, task = self._parcels
            job = JOB.pack(prep.handle, task.handle, streams, tracker is not None, len(fds))
            for start in range(0, len(fds), MAX_FDS):
                forkserver._send(conversation, job, fds[start : start + MAX_FDS])
        except ConnectionError:
            pass  # the child has ended already: its exit code tells
        except BaseException:
            self.kill()
            self.wait()
            raise
        finally:
            os.close(fds[0])

    def _collect(self) -> int | None:
        noted = _procession.exit_status(self._seat)
        return forkserver._forkserver.exit_status(self._seat) if noted is None else noted


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def be_the_child(seat: int, far_end: socket, pidfd: int | None = None) -> NoReturn:
    """Be the child that the fork server has forked: take the job and run it.

    Args:
        seat: its place in the family.
        far_end: where it is to speak up, and where the job comes from.
        pidfd: of itself, if there is one already.
    """
    code = 1
    try:
        _bootstrap.forget_parent()
        try:
            if pidfd is None:
                pidfd = _pidfd.open_pidfd(os.getpid())
            forkserver._send(far_end, forkserver.HELLO.pack(1, os.getpid()), [pidfd])
            os.close(pidfd)
            message, fds = forkserver._receive(far_end, JOB.size, MAX_FDS)
            if not message:
                os._exit(1)  # the requester has ended, or doesn't want us any more
            prep, task, streams, tracked, count = JOB.unpack(message)
            while len(fds) < count:
                message, more = forkserver._receive(far_end, JOB.size, MAX_FDS)
                if not message:
                    os._exit(1)
                fds += more
        finally:
            far_end.close()
        rest = iter(fds)
        sentinel = next(rest)
        for stream in range(3):
            if streams & 1 << stream:
                fd = next(rest)
                os.dup2(fd, stream)
                os.close(fd)
        if tracked:
            resource_tracker._resource_tracker.inherit(next(rest))
        forkserver._inherited_fds = list(rest)
        code = spawn.run(prep.hex(), task.hex(), sentinel)
    except ConnectionError:
        pass  # the requester has ended
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        _bootstrap.end(code, seat)
