"""What goes wrong when processes are misused: the documented exception, and what to do."""

from __future__ import annotations

import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import procession
from conftest import Programs


def nothing(*args: Any, **kwargs: Any) -> None:
    pass


def test_start_twice(ctx: Any) -> None:
    child = ctx.Process(target=nothing)
    child.start()
    with pytest.raises(AssertionError, match="twice: make a new Process"):
        child.start()
    child.join()
    with pytest.raises(AssertionError, match="twice"):
        child.start()


@pytest.mark.parametrize("verb", ["join", "terminate", "kill", "interrupt"])
def test_not_started(verb: str) -> None:
    child = procession.Process(target=nothing)
    with pytest.raises(AssertionError, match=rf"can only {verb} a started process.*start\(\) first"):
        getattr(child, verb)()


@pytest.mark.parametrize("verb", ["join", "terminate", "kill", "interrupt"])
def test_oneself(verb: str) -> None:
    with pytest.raises(AssertionError, match=f"can only {verb} a child process"):
        getattr(procession.current_process(), verb)()


def use_elsewhere(others: Any, unstarted: Any, sender: Any) -> None:
    messages = []
    for use in (others.join, others.is_alive, unstarted.start, unstarted.terminate):
        try:
            use()
        except AssertionError as error:
            messages.append(str(error))
    sender.send(messages)
    others.terminate()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_from_another_process(method: str) -> None:
    ctx = procession.get_context("fork")
    other = procession.get_context(method).Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    receiver, sender = ctx.Pipe(duplex=False)
    child = ctx.Process(target=use_elsewhere, args=(other, ctx.Process(target=nothing), sender))
    child.start()
    messages = receiver.recv()
    child.join()
    assert child.exitcode == 0
    assert len(messages) == 4
    for verb, message in zip(("join", "test", "start", "terminate"), messages, strict=True):
        assert message.startswith(f"can only {verb} a ")
    assert "created by the current process" in messages[2]
    assert f"process {os.getpid()}" in messages[0]
    other.join(20)
    assert other.exitcode == -signal.SIGTERM
    receiver.close()
    sender.close()


def start_a_child(sender: Any) -> None:
    try:
        procession.Process(target=nothing).start()
    except AssertionError as error:
        sender.send(str(error))


def test_daemons_have_no_children(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    child = ctx.Process(target=start_a_child, args=(sender,), daemon=True)
    child.start()
    assert receiver.recv().startswith("daemonic processes are not allowed to have children")
    child.join()
    receiver.close()
    sender.close()


def test_daemon_of_a_running_process(ctx: Any) -> None:
    child = ctx.Process(target=nothing)
    child.start()
    with pytest.raises(AssertionError, match="before start"):
        child.daemon = True
    child.join()


def test_arguments_of_process() -> None:
    with pytest.raises(AssertionError, match="group argument must be None"):
        procession.Process(1)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="name must be a string"):
        procession.Process().name = 3  # type: ignore[assignment]
    with pytest.raises(TypeError):
        procession.Process(args=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        procession.Process(None, nothing, "name", (), {}, True)  # type: ignore[misc]


# --- what can't be pickled ------------------------------------------------------------------------

UNPICKLABLE: list[tuple[dict[str, Any], str, str]] = [
    ({"args": (1, threading.Lock())}, "TypeError", r"args\[1\] of \w+ 'it' can't be pickled: .*lock"),
    ({"kwargs": {"a": 1, "b": threading.Lock()}}, "TypeError", r"kwargs\['b'\] of .* can't be pickled"),
    ({"target": threading.Lock().acquire}, "TypeError", "target of .* can't be pickled"),
]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize(("options", "kind", "message"), UNPICKLABLE, ids=["args", "kwargs", "target"])
def test_unpicklable(method: str, options: dict[str, Any], kind: str, message: str) -> None:
    child = procession.get_context(method).Process(**{"target": nothing, "name": "it", **options})
    with pytest.raises((TypeError, pickle.PicklingError), match=message) as caught:
        child.start()
    assert type(caught.value).__name__ == kind
    # It was not started, and may be mended.
    assert child.pid is None
    child._target, child._args, child._kwargs = nothing, (), {}
    child.start()
    child.join()
    assert child.exitcode == 0


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Strange(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


class Stranger:
    def __reduce__(self) -> Any:
        raise Strange(1, 2)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_unpicklable_by_its_own_reducer(method: str) -> None:
    ctx = procession.get_context(method)
    with pytest.raises(RuntimeError, match=r"args\[0\] of .* can't be pickled: not me"):
        ctx.Process(target=nothing, args=(Stubborn(),)).start()
    with pytest.raises(Strange) as caught:
        ctx.Process(target=nothing, args=(Stranger(),)).start()
    assert caught.value.args == (1, 2)
    assert any("args[0] of" in note for note in caught.value.__notes__)


class Attributed(procession.Process):
    def __init__(self) -> None:
        super().__init__()
        self.mine = threading.Lock()


def test_unpicklable_attribute() -> None:
    procession.set_start_method("spawn", force=True)
    try:
        with pytest.raises(TypeError, match=r"attribute 'mine' of Attributed '.*' can't be pickled"):
            Attributed().start()
    finally:
        procession.set_start_method(None, force=True)


def test_authkey_is_not_for_messages() -> None:
    with pytest.raises(TypeError, match=r"disallowed for security.*bytes\(key\)"):
        pickle.dumps(procession.current_process().authkey)


NOT_THERE = """
import procession, sys

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])

    def late():
        pass

    child = procession.Process(target=late)
    child.start()
    child.join()
    print(child.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_target_that_children_do_not_find(method: str, run_program: Programs) -> None:
    outcome = run_program(NOT_THERE.lstrip(), method).check()
    assert outcome.out == "1\n"
    assert re.search("AttributeError: .* attribute 'late'", outcome.err)


# --- no guard -------------------------------------------------------------------------------------

UNGUARDED = """
import procession, sys

def say():
    print("child")

procession.set_start_method(sys.argv[1], force=True)
child = procession.Process(target=say)
child.start()
child.join()
sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_no_guard(method: str, run_program: Programs) -> None:
    outcome = run_program(UNGUARDED.lstrip(), method)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.count("RuntimeError:") == 1
    assert "bootstrapping phase" in outcome.err
    assert 'if __name__ == "__main__":' in outcome.err


def test_no_guard_needed_by_fork(run_program: Programs) -> None:
    assert run_program(UNGUARDED.lstrip(), "fork").check().out == "child\n"


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from procession import spawn

    monkeypatch.setattr(spawn, "_python_exe", None)
    with pytest.raises(RuntimeError, match="set_executable"):
        procession.get_context("spawn").Process(target=nothing).start()


def test_interpreter_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from procession import spawn

    monkeypatch.setattr(spawn, "_python_exe", str(tmp_path / "python"))
    child = procession.get_context("spawn").Process(target=nothing)
    with pytest.raises(FileNotFoundError):
        child.start()
    assert child.pid is None and not child.is_alive()


def test_no_descriptor_left_for_the_pidfd() -> None:
    import errno
    import resource

    child = procession.get_context("fork").Process(target=time.sleep, args=(60,))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 256), limits[1]))
        with pytest.raises(OSError) as full:
            while True:
                held.append(os.dup(0))
        assert full.value.errno == errno.EMFILE
        with pytest.raises(OSError) as refused:
            child.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)
    assert refused.value.errno == errno.EMFILE
    assert child.pid is None and not child.is_alive()
    other = procession.get_context("fork").Process(target=nothing)
    other.start()
    other.join()
    assert other.exitcode == 0
    other.close()
