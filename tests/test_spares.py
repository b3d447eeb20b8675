"""The child that a fork server keeps ready: who gets it, and what becomes of it when somebody dies."""

from __future__ import annotations

import signal
import time

import pytest

from conftest import Programs, read

START = """
import json, os, random, signal, sys, time
import procession
from procession import _procession
from procession.forkserver import _forkserver

lock = procession.get_context("forkserver").Lock()

def tell(sender):
    umask = os.umask(0)
    limit = os.environ.get("ASKED")
    sender.send((os.getpid(), os.getcwd(), umask, limit, sorted(os.sched_getaffinity(0)), random.random(),
                 signal.getsignal(signal.SIGINT) is signal.default_int_handler,
                 signal.pthread_sigmask(signal.SIG_BLOCK, ()), open("/proc/self/comm").read(),
                 sorted(int(fd) for fd in os.listdir("/proc/self/fd"))))

def child():
    receiver, sender = procession.Pipe(duplex=False)
    started = procession.Process(target=tell, args=(sender,))
    started.start()
    answer = receiver.recv()
    started.join()
    assert started.exitcode == 0 and answer[0] == started.pid, (started.exitcode, answer)
    return answer

def spares():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            comm, stat = open(f"/proc/{pid}/comm").read(), open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        if comm == "spare child\\n" and int(fields[1]) == _forkserver._forkserver_pid and fields[0] not in "ZX":
            found.append(int(pid))
    return found

def the_spare(until=20):
    until += time.monotonic()
    while time.monotonic() < until:
        if found := spares():
            return found[0]
        time.sleep(0.005)
    raise AssertionError("there is no spare")

def wait_until_gone(pid):
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.005)
    assert not os.path.exists(f"/proc/{pid}"), pid

if __name__ == "__main__":
    procession.set_start_method("forkserver")
    procession.set_forkserver_preload(["__main__", "random"])
"""


def program(body: str) -> str:
    return START.lstrip() + "".join(f"    {line}\n" for line in body.strip("\n").splitlines()) + "    print('done')\n"


def check(run_program: Programs, body: str) -> None:
    outcome = run_program(program(body)).check()
    assert outcome.out == "done\n"
    assert outcome.err == ""


def test_the_next_start_gets_it_and_nobody_counts_it(run_program: Programs) -> None:
    check(
        run_program,
        """
first = child()
assert not spares()  # a single start doesn't pay for one
time.sleep(0.1)
second = child()
kept = the_spare()
assert spares() == [kept]
assert procession.active_children() == []
assert kept not in [member["pid"] for member in _procession.members()]
third = child()
assert third[0] == kept
assert third[6:9] == first[6:9], (first, third)  # handler and mask of signals, its name
assert third[9] == first[9], (first, third)  # no descriptor more or less
assert len({first[5], second[5], third[5], child()[5]}) == 4  # each seeds its random numbers
""",
    )


def test_what_is_changed_meanwhile_counts(run_program: Programs) -> None:
    check(
        run_program,
        """
child(); time.sleep(0.1); child()
kept = the_spare()
os.environ["ASKED"] = "yes"
os.chdir("/")
os.umask(0o27)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
sys.path.insert(0, "/nowhere")
answer = child()
assert answer[0] == kept
assert answer[1:5] == ("/", 0o27, "yes", sorted(os.sched_getaffinity(0))), answer
del os.environ["ASKED"]
assert child()[3] is None
""",
    )


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_one_that_is_killed_is_not_missed(run_program: Programs, number: str) -> None:
    check(
        run_program,
        f"""
child(); time.sleep(0.1); child()
for _ in range(5):
    kept = the_spare()
    os.kill(kept, signal.{number})
    assert child()[0] != kept
    child()
""",
    )


def test_one_that_is_killed_while_it_is_given(run_program: Programs) -> None:
    """The request may have been on its way to it: it is made again."""
    check(
        run_program,
        """
import threading
child(); time.sleep(0.1); child()
stop = threading.Event()

def attack():
    while not stop.wait(0.004):
        for pid in spares():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

attacker = threading.Thread(target=attack)
attacker.start()
for _ in range(25):
    receiver, sender = procession.Pipe(duplex=False)
    started = procession.Process(target=tell, args=(sender,))
    started.start()
    sender.close()
    try:
        receiver.recv()
    except EOFError:
        pass
    started.join()
    # Killed as a spare it is replaced; a moment later it is a child like any other.
    assert started.exitcode in (0, -signal.SIGKILL), started.exitcode
stop.set()
attacker.join()
child()
""",
    )


def test_an_interrupt_before_is_not_for_it(run_program: Programs) -> None:
    check(
        run_program,
        """
child(); time.sleep(0.1); child()
kept = the_spare()
os.kill(kept, signal.SIGINT)
assert child()[0] == kept
""",
    )


def test_it_ends_with_its_server_and_the_next_server_works(run_program: Programs) -> None:
    check(
        run_program,
        """
child(); time.sleep(0.1); child()
kept = the_spare()
os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
wait_until_gone(kept)
child()
""",
    )


def test_what_it_has_from_its_server_stays_when_the_server_dies(run_program: Programs) -> None:
    source = program(
        """
child(); time.sleep(0.1); child()
kept = the_spare()
receiver, sender = procession.Pipe(duplex=False)
order_receiver, order_sender = procession.Pipe(duplex=False)
started = procession.Process(target=use_lock, args=(order_receiver, sender))
started.start()
assert started.pid == kept
os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
_forkserver.ensure_running()
order_sender.send(None)
assert receiver.recv() == "locked"
started.join()
"""
    ).replace(
        "def child():",
        "def use_lock(orders, sender):\n    orders.recv()\n    with lock:\n        sender.send('locked')\n\n"
        "def child():",
    )
    assert run_program(source).check().out == "done\n"


def test_it_ends_when_there_was_no_start_for_a_while(run_program: Programs) -> None:
    check(
        run_program,
        """
child(); time.sleep(0.1); child()
kept = the_spare()
wait_until_gone(kept)
assert child()[0] != kept
""",
    )


def test_a_forked_program_uses_the_same_one(run_program: Programs) -> None:
    check(
        run_program,
        """
child(); time.sleep(0.1); child()
kept = the_spare()
pid = os.fork()
if pid == 0:
    try:
        assert child()[0] == kept
        os._exit(0)
    finally:
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
child()
""",
    )


def test_it_ends_when_the_program_is_killed(run_program: Programs) -> None:
    """And the server; `run_program` finds whoever else is left."""
    outcome = run_program(
        program(
            """
child(); time.sleep(0.1); child()
print(the_spare(), _forkserver._forkserver_pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        )
    )
    assert outcome.code == -signal.SIGKILL
    until = time.monotonic() + 20
    for pid in outcome.out.split():
        while read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"]):
            assert time.monotonic() < until, f"{pid} is still there"
            time.sleep(0.01)


@pytest.mark.parametrize("what", ["service._pair", "os.fork"])
def test_there_may_be_none(run_program: Programs, what: str) -> None:
    """No descriptor more, or no process: the server works on without."""
    source = program(
        """
child(); time.sleep(0.1)
for _ in range(3):
    child()
    assert not spares()
"""
    ).replace("def tell(", f"{REFUSED.replace('WHAT', what)}\ndef tell(")
    assert run_program(source).check().out == "done\n"


REFUSED = """
if __name__ != "__main__":
    import errno
    from procession import _forkserver_service as service
    original = WHAT

    def refused(*args):
        if sys._getframe(1).f_code.co_name == "_fork_spare":
            raise OSError(errno.EAGAIN, "no more of them")
        return original(*args)

    WHAT = refused
"""
