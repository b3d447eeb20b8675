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
one that nobody gives a job ends. The server sees neither job nor descriptors.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading

from . import _procession, popen_fork, process, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Answer = tuple[socket.socket, bytes, list[int]]

__all__ = ["ensure_running", "get_inherited_fds", "set_forkserver_preload"]

FORK, STATUS, STOP = 1, 2, 3
#: What is asked, and the seat that it's about.
REQUEST = struct.Struct("=BQ")
#: The exit status of a child, and whether it is known.
STATUS_REPLY = struct.Struct("=iB")
#: A child's first word: 1 and its pid. (The server's, if it can't fork: 0 and text.)
HELLO = struct.Struct("=BI")


#: Ctrl-C is for the program, not for its server.
_IGNORED_SIGNALS = (signal.SIGINT,)


class ServerGone(Exception):
    """The server has ended before it could answer."""


class ForkServer:
    """This process's access to the fork server, which it starts if there is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()
        self._preload_modules: list[str] = ["__main__"]

    def _forget(self) -> None:
        self._forkserver_pid: int | None = None
        self._pidfd: int | None = None
        self._seat: int | None = None
        self._socket: socket.socket | None = None

    def set_forkserver_preload(self, modules_names: list[str]) -> None:
        """Have the server import these modules when it starts.

        `__main__` is the program's main module. A module that can't be imported is passed
        over. Without effect on a server that runs already.

        Raises:
            TypeError: if it isn't a list of strings.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        self._preload_modules = list(modules_names)

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
            with far_end, self._lock:
                if self._socket is None:
                    raise ServerGone
                _send(self._socket, REQUEST.pack(what, about), [far_end.fileno()])
                watched = os.dup(self._socket.fileno())
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
        alive = popen_fork.open_pidfd(os.getpid())
        seat = _procession.prepare_child("forkserver", "forkserver")
        try:
            data = {
                "preload": self._preload_modules,
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
            pid = util.start_server(command, given, _IGNORED_SIGNALS)
            pidfd = popen_fork.open_pidfd(pid)
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
                with ours, far_end:
                    _send(self._socket, REQUEST.pack(STOP, 0), [far_end.fileno()])
            except OSError:
                pass
            if not select.select([self._pidfd], [], [], 5)[0]:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._drop()

    # In others than the process that started the server.

    def _inherit(self, control: socket.socket) -> None:
        """Use the server that started this process, or one that its parent uses."""
        self._socket = control

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._pidfd is not None:
            # The server is the parent's child, not ours; but it serves us as well.
            os.close(self._pidfd)
        self._forkserver_pid = self._pidfd = self._seat = None


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
set_forkserver_preload = _forkserver.set_forkserver_preload
os.register_at_fork(after_in_child=_forkserver._after_fork)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return a pair that keeps messages apart, and tells when the other end is closed."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.settimeout(None)
    right.settimeout(None)
    return left, right


def _send(sock: socket.socket, message: bytes, fds: list[int]) -> None:
    socket.send_fds(sock, [message], fds, socket.MSG_NOSIGNAL)


def _receive(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int]]:
    message, fds, _flags, _address = socket.recv_fds(sock, size, max_fds, socket.MSG_CMSG_CLOEXEC)
    return message, fds


def _hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def _await(ours: socket.socket, control: int) -> None:
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


def main(arena: int, seat: int, listen: int, control: int, alive: int, data: str) -> NoReturn:
    """Be the server: import what is to be preloaded, then fork on request until the end."""
    util.ignore_signals(_IGNORED_SIGNALS)
    spawn.forget_finder()
    spawn.close_others([arena, listen, control, alive])
    _procession.join_family(arena, seat)
    try:
        _serve(socket.socket(fileno=listen), socket.socket(fileno=control), alive, bytes.fromhex(data))
    except BaseException:
        import traceback

        traceback.print_exc()
        util._flush_std_streams()
        os._exit(1)


def _serve(listen: socket.socket, control: socket.socket, alive: int, data: bytes) -> NoReturn:
    from . import popen_forkserver, reduction  # noqa: F401  (warm, for the children)

    util._close_stdin()
    for fd in (listen.fileno(), control.fileno(), alive):
        os.set_inheritable(fd, False)
    _forkserver._inherit(control)
    _preload(_procession.unpack(data))
    wakeup, wakeup_far = socket.socketpair()
    for sock in (wakeup, wakeup_far):
        sock.setblocking(False)
    children: dict[int, int] = {}
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup_far.fileno(), warn_on_full_buffer=False)
    _freeze()
    poll = select.poll()
    for fd in (listen.fileno(), wakeup.fileno(), alive):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _event in poll.poll()}
        if alive in ready:
            _leave()
        if wakeup.fileno() in ready:
            try:
                while wakeup.recv(4096):
                    pass
            except BlockingIOError:
                pass
            _reap(children)
        if listen.fileno() in ready:
            message, fds = _receive(listen, REQUEST.size, 1)
            if not message:
                _leave()
            with socket.socket(fileno=fds[0]) as far_end:
                what, about = REQUEST.unpack(message)
                if what == STOP:
                    _leave()
                elif what == STATUS:
                    _reap(children)
                    code = _ended.pop(about, None)
                    reply = STATUS_REPLY.pack(0 if code is None else code, code is not None)
                    _try_send(far_end, reply)
                else:
                    pid = _fork_child(about, far_end, (listen, wakeup, wakeup_far), alive)
                    if pid:
                        children[pid] = about


#: The exit codes of children that ended, by seat, for those who ask: the last few thousand.
_ended: dict[int, int] = {}


def _reap(children: dict[int, int]) -> None:
    """Collect the children that have ended, and note how."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        seat = children.pop(pid, None)
        if seat is None:
            continue  # of a module that was preloaded
        code = os.waitstatus_to_exitcode(status)
        _ended[seat] = code
        if len(_ended) > 4096:
            del _ended[next(iter(_ended))]
        _procession.note_exit(seat, code)


def _try_send(sock: socket.socket, message: bytes) -> None:
    try:
        sock.send(message, socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the requester has ended


def _fork_child(seat: int, far_end: socket.socket, ours: tuple[socket.socket, ...], alive: int) -> int:
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
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for sock in ours:
                sock.close()
            os.close(alive)
            from . import popen_forkserver

            popen_forkserver.be_the_child(seat, far_end)
        finally:
            os._exit(1)
    _procession.fork_done()
    return pid


def _leave() -> NoReturn:
    _procession.leave()
    util._flush_std_streams()
    os._exit(0)


def _preload(data: dict[str, Any]) -> None:
    """Import what the program asked for, as far as it can be imported."""
    prep: dict[str, Any] = data["prep"]
    main = {key: prep.pop(key, None) for key in ("init_main_from_name", "init_main_from_path")}
    prep.pop("log_to_stderr", None)  # each child adds a handler of its own
    spawn.prepare(prep)
    process.current_process()._inheriting = True  # type: ignore[attr-defined]
    try:
        for name in data["preload"]:
            try:
                if name != "__main__":
                    __import__(name)
                elif main["init_main_from_name"] is not None:
                    spawn._fixup_main_from_name(main["init_main_from_name"])
                elif main["init_main_from_path"] is not None:
                    spawn._fixup_main_from_path(main["init_main_from_path"])
            except ImportError:
                pass
            except (Exception, SystemExit):
                # A child that needs it will fail in its own name, where someone looks.
                import traceback

                util.debug("preloading %s failed: %s", name, traceback.format_exc())
    finally:
        del process.current_process()._inheriting  # type: ignore[attr-defined]
    util._flush_std_streams()


def _freeze() -> None:
    """Keep the collector's hands off what is here now: children share those pages with us."""
    import gc

    gc.collect()
    gc.freeze()
