"""What the fork server does: it forks children on request, and one before it is asked.

Most of what a start takes is the fork, and the copying of the pages that the child then writes to. A
program that starts one child after another finds both done already: the server keeps a **spare**, a
child without a job. It has no place in the family, for nobody has asked for it, and takes that of the
request it is given for; until then it runs no code of the program's but what `os.register_at_fork` has.
The requester's surroundings (environment, folder, umask, streams) come with the job, as ever.

    requester                  server                 spare
                               forks        -----> waits on its line
    FORK seat, far end  -----> seat, far end -----> takes the seat, goes on as any child

The line is closed with the server, however it ends, and a spare that reads its end ends as well. One
that was killed is found out by sending to it, or, if it took the far end with it, by the requester.
There is a spare only while starts follow one another: from the first that comes after another child's
end until there was none for a while. A single start or a pool's does not pay for one.
"""

from __future__ import annotations

import _socket
import gc
import os
import select
import struct
import sys

from . import (
    _interrupts,
    _pidfd,
    _pool_worker,  # noqa: F401  (warm, for the children)
    _procession,
    popen_forkserver,
    reduction,  # noqa: F401  (warm, for the children)
    spawn,
    util,
)
from .forkserver import (
    REQUEST,
    STATUS,
    STATUS_REPLY,
    STOP,
    _forkserver,
    _from_fd,
    _handle_preload,
    _pair,
    _receive,
    _send,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal

__all__ = ["serve"]

#: The seat that a spare is to take.
SEAT = struct.Struct("=Q")
#: What a spare is called by `ps` and `top`, while it is one.
NAME = b"spare child"
#: Milliseconds without a request after which there is time to load what many children use,
LULL = 20
#: and after how many more children it is loaded without such a pause.
ENOUGH = 4
#: Milliseconds without a start after which the spare is ended.
PAUSE = 5000


def serve(listen: _socket.socket, control: _socket.socket, alive: int, data: bytes) -> NoReturn:
    """Be the server: import what is to be preloaded, then fork on request until the end.

    Args:
        listen: where the requests come from.
        control: the other end of it, for the children.
        alive: a pidfd of the process that has started the server, which ends with it.
        data: the handle of what it is to know before its first child.
    """
    util._close_stdin()
    for fd in (listen.fileno(), control.fileno(), alive):
        os.set_inheritable(fd, False)
    _forkserver._inherit(control)
    _preload(_procession.unpack(data), listen, alive)
    service = _Service(listen, alive)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(service.wakeup_fd, warn_on_full_buffer=False)
    _freeze()
    service.run()


class _Service:
    """The requests, the children, and the spare."""

    def __init__(self, listen: _socket.socket, alive: int) -> None:
        self._listen = listen
        self._alive = alive
        self._wakeup, self._wakeup_far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        for sock in (self._wakeup, self._wakeup_far):
            sock.setblocking(False)
        self.wakeup_fd = self._wakeup_far.fileno()
        #: The seat of each child, by its pid.
        self._children: dict[int, int] = {}
        #: The exit codes of children that ended, by seat, for those who ask: the last few thousand.
        self._ended: dict[int, int] = {}
        self._spare = 0
        self._line: _socket.socket | None = None
        self._one_has_ended = False
        self._spare_is_worth_it = False
        #: After how many more children to load what many of them use, if no pause comes first.
        self._to_load: int | None = None

    def run(self) -> NoReturn:
        """Serve until nobody is left who could ask."""
        poll = select.poll()
        for fd in (self._listen.fileno(), self._wakeup.fileno(), self._alive):
            poll.register(fd, select.POLLIN)
        while True:
            wanted = self._spare_is_worth_it and self._line is None
            if wanted or self._to_load == 0:
                patience: int | None = 0
            elif self._to_load is not None:
                patience = LULL
            else:
                patience = None if self._line is None else PAUSE
            ready = [fd for fd, _event in poll.poll(patience)]
            if not ready:
                if self._to_load is not None and (self._to_load == 0 or not wanted):
                    self._to_load = None
                    _load_what_many_children_use()
                elif wanted:
                    self._fork_spare()
                else:
                    self._end_spare()
                continue
            if self._alive in ready:
                self._leave()
            if self._wakeup.fileno() in ready:
                try:
                    while self._wakeup.recv(4096):
                        pass
                except BlockingIOError:
                    pass
                self._reap()
            if self._listen.fileno() in ready:
                message, fds = _receive(self._listen, REQUEST.size, 1)
                if not message:
                    self._leave()
                far_end = _from_fd(fds[0])
                what, about = REQUEST.unpack(message)
                try:
                    self._answer(what, about, far_end)
                finally:
                    far_end.close()

    def _answer(self, what: int, about: int, far_end: _socket.socket) -> None:
        if what == STOP:
            self._leave()
        # A request that follows a child's end may be read before the signal that tells of it.
        self._reap()
        if what == STATUS:
            code = self._ended.pop(about, None)
            _try_send(far_end, STATUS_REPLY.pack(0 if code is None else code, code is not None))
            return
        self._spare_is_worth_it = self._spare_is_worth_it or self._one_has_ended
        if f"{__package__}.synchronize" not in sys.modules:
            self._to_load = ENOUGH if self._to_load is None else max(self._to_load - 1, 0)
        pid = self._give_spare(about, far_end) or self._fork_child(about, far_end)
        if pid:
            self._children[pid] = about

    def _reap(self) -> None:
        """Collect the children that have ended, and note how."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._spare:
                # Killed. There will be another when another child is asked for.
                self._spare = 0
                self._end_spare()
                continue
            seat = self._children.pop(pid, None)
            if seat is None:
                continue  # of a module that was preloaded
            self._one_has_ended = True
            code = os.waitstatus_to_exitcode(status)
            self._ended[seat] = code
            if len(self._ended) > 4096:
                del self._ended[next(iter(self._ended))]
            _procession.note_exit(seat, code)

    def _fork_child(self, seat: int, far_end: _socket.socket) -> int:
        """Fork; the child never returns. Return its pid, or 0 if there is none."""
        _procession.fork_with(seat)
        try:
            pid = os.fork()
        except OSError as error:
            _procession.fork_done()
            _try_send(far_end, b"\0" + str(error).encode())
            return 0
        if pid == 0:
            try:
                self._become_child()
                _interrupts.ending()
                popen_forkserver.be_the_child(seat, far_end)
            finally:
                os._exit(1)
        _procession.fork_done()
        return pid

    def _become_child(self) -> None:
        """In a child: let go of what is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in (self._listen, self._wakeup, self._wakeup_far):
            sock.close()
        if self._line is not None:
            self._line.close()
        os.close(self._alive)

    # The spare.

    def _fork_spare(self) -> None:
        """Fork a child that waits for a request. There may be none: then there is no process to spare."""
        try:
            self._line, far = _pair()
        except OSError:
            self._end_spare()
            return
        _procession.fork_spare()
        try:
            pid = os.fork()
        except OSError:
            self._end_spare()
        else:
            if pid == 0:
                try:
                    self._become_child()
                    _wait_for_job(far)
                finally:
                    os._exit(1)
            self._spare = pid
        finally:
            _procession.fork_done()
            far.close()

    def _give_spare(self, seat: int, far_end: _socket.socket) -> int:
        """Have the spare be the child that is asked for; return its pid, or 0 if there is none."""
        line, pid = self._line, self._spare
        if line is None or pid == 0:
            return 0
        self._line, self._spare = None, 0
        try:
            _procession.lend_to(seat)
            _send(line, SEAT.pack(seat), [far_end.fileno()])
        except OSError:
            return 0  # it has ended
        finally:
            line.close()
        return pid

    def _end_spare(self) -> None:
        """Let the spare end, and have no other before two more children were asked for."""
        self._spare_is_worth_it = self._one_has_ended = False
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._spare:
            # Stopped, it would not see that.
            os.kill(self._spare, signal.SIGKILL)
            os.waitpid(self._spare, 0)
            self._spare = 0

    def _leave(self) -> NoReturn:
        self._end_spare()
        _procession.leave()
        util._flush_std_streams()
        os._exit(0)


def _load_what_many_children_use() -> None:
    """Load what arguments of processes are made of. Not before the first child: it may use none of it."""
    try:
        from . import connection, queues, synchronize  # noqa: F401
    except (ImportError, OSError):
        pass  # out of descriptors, say: a child that needs them will fail in its own name
    gc.freeze()


def _wait_for_job(line: _socket.socket) -> NoReturn:
    """Be the spare, and then the child that somebody has asked for. Nothing shared is used before that."""
    before = _rename(NAME)
    pidfd = _pidfd.open_pidfd(os.getpid())
    message, fds = _receive(line, SEAT.size, 1)
    if not fds:
        os._exit(0)  # the server has ended, or needs no spare any more
    line.close()
    _rename(before)
    # Interrupts are held. One that came before anybody had asked for this child is not for it.
    while signal.sigtimedwait(_interrupts.INTERRUPT, 0) is not None:
        pass
    (seat,) = SEAT.unpack(message)
    _procession.take_seat(seat)
    _interrupts.ending()
    popen_forkserver.be_the_child(seat, _from_fd(fds[0]), pidfd)


def _rename(name: bytes) -> bytes:
    """Change what `ps` and `top` call this process; return what they called it before."""
    fd = os.open("/proc/self/comm", os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.read(fd, 64).rstrip(b"\n")
        os.write(fd, name)
    finally:
        os.close(fd)
    return before


def _try_send(sock: _socket.socket, message: bytes) -> None:
    try:
        sock.send(message, _socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the requester has ended


def _preload(data: dict[str, Any], listen: _socket.socket, alive: int) -> None:
    """Import what the program asked for, as far as it can be imported."""
    prep: dict[str, Any] = data["prep"]
    main = {key: prep.pop(key, None) for key in ("init_main_from_name", "init_main_from_path")}
    prep.pop("log_to_stderr", None)  # each child adds a handler of its own
    spawn.prepare(prep)
    try:
        _handle_preload(
            data["preload"],
            main_path=main["init_main_from_path"],
            main_name=main["init_main_from_name"],
            on_error=data["on_error"],
        )
    except BaseException as error:
        _refuse(listen, alive, error)


def _refuse(listen: _socket.socket, alive: int, error: BaseException) -> NoReturn:
    """Tell why nothing can be preloaded, here and to the first who asks for a child, and end."""
    import traceback

    traceback.print_exception(error)
    util._flush_std_streams()
    poll = select.poll()
    poll.register(listen, select.POLLIN)
    poll.register(alive, select.POLLIN)
    if any(fd == listen.fileno() for fd, _event in poll.poll()):
        _message, fds = _receive(listen, REQUEST.size, 1)
        text = "".join(traceback.format_exception_only(error)).strip()
        for fd in fds:
            far_end = _from_fd(fd)
            _try_send(far_end, b"\2" + text.encode(errors="replace")[:4000])
            far_end.close()
    _procession.leave()
    os._exit(1)


def _freeze() -> None:
    """Keep the collector's hands off what is here now: children share those pages with us."""
    gc.collect()
    gc.freeze()
