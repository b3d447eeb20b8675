"""The fork server: a warm process with one thread that forks children on request.

Who asks, and how. The family's members hold one end of a socket pair whose other end the
server reads; they inherit it. A request is one message: what is asked, and with it the far
end of a pair made for this request alone. There is no name in a file system and no key: who
holds the socket is family.

    requester                          server                    child
    FORK seat, far end    --------->   forks             -----> opens its own pidfd
    takes charge of it    <------------------------------------ pid, pidfd
    JOB, descriptors      ------------------------------------> reads it, runs it

Nothing is lost, and nothing runs twice, when the server is killed half-way. Until it has
forked, the far end dies with it: the requester reads the end of the conversation, starts
another server and asks again. From then on the child holds the far end and speaks for itself;
one that nobody gives a job ends. The server sees neither job nor descriptors. What it does to have
a child ready before it is asked for: `_forkserver_service.py`.
"""

from __future__ import annotations

# Without the enumerations of `signal` and `socket`, which take longer to load than the rest of this package.
import _socket
import _thread
import os
import select
import struct

from . import _pidfd, _procession, process, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    Answer = tuple[_socket.socket, bytes, list[int]]
else:
    import _signal as signal

__all__ = ["ensure_running", "get_inherited_fds", "set_forkserver_preload"]

FORK, STATUS, STOP = 1, 2, 3
#: What is asked, and the seat that it's about.
REQUEST = struct.Struct("=BQ")
#: The exit status of a child, and whether it is known.
STATUS_REPLY = struct.Struct("=iB")
#: A child's first word: 1 and its pid. (The server's, if it can't fork: 0 and text; if it ends because it could not
#: preload what it should: 2 and text.)
HELLO = struct.Struct("=BI")


#: Ctrl-C is for the program, not for its server. Held, not ignored: a child that is just being
#: forked is to have it.
_HELD_SIGNALS = (signal.SIGINT,)


class ServerGone(Exception):
    """The server has ended before it could answer."""


class ForkServer:
    """This process's access to the fork server, which it starts if there is none."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._forget()
        self._preload_modules: list[str] = ["__main__"]
        self._preload_on_error = "ignore"

    def _forget(self) -> None:
        self._forkserver_pid: int | None = None
        self._pidfd: int | None = None
        self._seat: int | None = None
        self._socket: _socket.socket | None = None

    def set_forkserver_preload(self, modules_names: list[str], *, on_error: str = "ignore") -> None:
        """Have the server import these modules when it starts.

        Without effect on a server that runs already.

        Args:
            modules_names: `__main__` is the program's main module.
            on_error: what comes of a module that can't be imported. "ignore": it is passed over;
                "warn": that too, with an `ImportWarning` from the server; "fail": the server ends,
                and `Process.start()` raises an `EOFError` that says why.

        Raises:
            TypeError: if it isn't a list of strings.
            ValueError: for any other `on_error`.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in ("ignore", "warn", "fail"):
            raise ValueError(f"on_error must be 'ignore', 'warn', or 'fail', not {on_error!r}")
        self._preload_modules = list(modules_names)
        self._preload_on_error = on_error

    def ensure_running(self) -> None:
        """Start the server, unless it runs."""
        with self._lock:
            if self._socket is not None and not _hung_up(self._socket):
                return
            self._drop()
            self._start()

    def ask(self, what: int, about: int, size: int, max_fds: int = 0) -> Answer:
        """Send a request; return the first message of the answer, and where more will go.

        Raises:
            ServerGone: if there is no server, or it ended without an answer.
        """
        ours, far_end = _pair()
        try:
            try:
                with self._lock:
                    if self._socket is None:
                        raise ServerGone
                    _send(self._socket, REQUEST.pack(what, about), [far_end.fileno()])
                    watched = os.dup(self._socket.fileno())
            finally:
                far_end.close()
            try:
                _await(ours, watched)
            finally:
                os.close(watched)
            message, fds = _receive(ours, size, max_fds)
            if not message:
                raise ServerGone
        except ConnectionError:
            ours.close()
            raise ServerGone from None
        except BaseException:
            ours.close()
            raise
        return ours, message, fds

    def exit_status(self, seat: int) -> int | None:
        """Return the exit code of an ended child of the server, if the server still knows it."""
        try:
            conversation, reply, _fds = self.ask(STATUS, seat, STATUS_REPLY.size)
        except ServerGone:
            return None
        conversation.close()
        code, known = STATUS_REPLY.unpack(reply)
        return int(code) if known else None

    def _start(self) -> None:
        control, servers_end = _pair()
        alive = _pidfd.open_pidfd(os.getpid())
        seat = _procession.prepare_child("forkserver", "forkserver")
        try:
            data = {
                "preload": self._preload_modules,
                "on_error": self._preload_on_error,
                "prep": spawn.get_preparation_data("forkserver"),
            }
            parcel = _procession.pack(data)
            arena = _procession.arena_fd()
            arguments = (
                f"arena={arena}, seat={seat}, listen={servers_end.fileno()}, "
                f"control={control.fileno()}, alive={alive}, data={parcel.handle.hex()!r}"
            )
            command = spawn.interpreter_command(f"from {__name__} import main; main({arguments})")
            given = (arena, servers_end.fileno(), control.fileno(), alive)
            pid = util.start_server(command, given, _HELD_SIGNALS)
            pidfd = _pidfd.open_pidfd(pid)
        except BaseException:
            _procession.cancel_child(seat)
            control.close()
            raise
        finally:
            servers_end.close()
            os.close(alive)
        _procession.child_started(seat, pid)
        self._parcel = parcel
        self._socket, self._seat = control, seat
        self._forkserver_pid, self._pidfd = pid, pidfd
        self._owner = os.getpid()

    def _drop(self) -> None:
        """Let go of a server that has ended."""
        if self._socket is not None:
            self._socket.close()
        if self._pidfd is not None:
            pid, pidfd, seat = self._forkserver_pid, self._pidfd, self._seat
            assert pid is not None and seat is not None
            if self._owner == os.getpid():
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass
                _procession.reap(seat)
            os.close(pidfd)
        self._forget()

    def _stop(self) -> None:
        """End the server, if it is a child of this process, and wait for its end."""
        with self._lock:
            if self._pidfd is None or self._socket is None or self._owner != os.getpid():
                return
            ours, far_end = _pair()
            try:
                _send(self._socket, REQUEST.pack(STOP, 0), [far_end.fileno()])
            except OSError:
                pass
            finally:
                ours.close()
                far_end.close()
            if not select.select([self._pidfd], [], [], 5)[0]:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._drop()

    # In others than the process that started the server.

    def _inherit(self, control: _socket.socket) -> None:
        """Use the server that started this process, or one that its parent uses."""
        self._socket = control

    def _after_fork(self) -> None:
        self._lock = _thread.allocate_lock()
        if self._pidfd is not None:
            # The server is the parent's child, not ours; but it serves us as well.
            os.close(self._pidfd)
        self._forkserver_pid = self._pidfd = self._seat = None


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
set_forkserver_preload = _forkserver.set_forkserver_preload
os.register_at_fork(after_in_child=_forkserver._after_fork)


def _pair() -> tuple[_socket.socket, _socket.socket]:
    """Return a pair that keeps messages apart, and tells when the other end is closed."""
    left, right = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return _patient(left), _patient(right)


def _from_fd(fd: int) -> _socket.socket:
    """Return what was one end of a pair in another process."""
    return _patient(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd))


def _patient(sock: _socket.socket) -> _socket.socket:
    """Take away the time limit that the program may have given to all sockets."""
    if sock.gettimeout() is not None:
        sock.settimeout(None)
    return sock


def _send(sock: _socket.socket, message: bytes, fds: list[int]) -> None:
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
    sock.sendmsg([message], [rights], _socket.MSG_NOSIGNAL)


def _receive(sock: _socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int]]:
    # Not socket.recv_fds, which leaves out the flags: other programs would inherit what is received.
    room = _socket.CMSG_SPACE(max_fds * _INT)
    message, ancillary, _flags, _address = sock.recvmsg(size, room, _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += struct.unpack_from(f"{len(data) // _INT}i", data)
    return message, fds


_INT = struct.calcsize("i")


def _hung_up(sock: _socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def _await(ours: _socket.socket, control: int) -> None:
    """Wait until there is an answer, or the end of the conversation.

    A thread of ours may have forked while we held the far end. Its child then holds it for
    ever, and only the control socket tells that the server has ended.
    """
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    poll.register(control, 0)
    if any(fd == ours.fileno() for fd, _event in poll.poll()):
        return
    # A child forked just before has the time to say so. If it is later than that, it gets
    # no job, and ends.
    poll.unregister(control)
    if not poll.poll(1000):
        raise ServerGone


# In the server.

_inherited_fds: list[int] | None = None


def get_inherited_fds() -> list[int]:
    """Return the descriptors that the requester sent to this child."""
    return _inherited_fds or []


def _handle_preload(
    preload: list[str], main_path: str | None = None, main_name: str | None = None, on_error: str = "ignore"
) -> None:
    """Import what children are to find imported; `on_error` as for `set_forkserver_preload`."""
    current = process.current_process()
    current._inheriting = True  # type: ignore[attr-defined]
    try:
        for name in preload:
            try:
                if name != "__main__":
                    __import__(name)
                elif main_name is not None:
                    spawn._fixup_main_from_name(main_name)
                elif main_path is not None:
                    spawn._fixup_main_from_path(main_path)
            except (Exception, SystemExit) as error:
                if on_error == "fail":
                    raise
                # A child that needs it will fail in its own name, where someone looks.
                if util._logger is not None:
                    import traceback

                    util.debug("preloading %s failed: %s", name, traceback.format_exc())
                if on_error == "warn":
                    import warnings

                    what = f"module {name!r}" if name != "__main__" else f"__main__ from {main_name or main_path!r}"
                    warnings.warn(f"Failed to preload {what}: {error}", ImportWarning, stacklevel=2)
    finally:
        del current._inheriting  # type: ignore[attr-defined]
    util._flush_std_streams()


def main(arena: int, seat: int, listen: int, control: int, alive: int, data: str) -> NoReturn:
    """Be the server: import what is to be preloaded, then fork on request until the end."""
    spawn.forget_finder()
    spawn.close_others([arena, listen, control, alive])
    _procession.join_family(arena, seat)
    try:
        from . import _forkserver_service

        _forkserver_service.serve(_from_fd(listen), _from_fd(control), alive, bytes.fromhex(data))
    except BaseException:
        import traceback

        traceback.print_exc()
        util._flush_std_streams()
        os._exit(1)
