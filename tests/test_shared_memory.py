"""Named shared memory, and the list in it."""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Programs
from procession import resource_tracker
from procession.shared_memory import ShareableList, SharedMemory

BOUND = 20.0


@pytest.fixture(autouse=True)
def no_tracker_is_left() -> Iterator[None]:
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=100)
    yield memory
    memory.close()
    memory.unlink()


def exists(name: str) -> bool:
    return os.path.exists(f"/dev/shm/{name}")


def fresh_name() -> str:
    return f"procession-test-{secrets.token_hex(4)}"


# --- blocks --------------------------------------------------------------------------------------


def test_create_attach_remove() -> None:
    name = fresh_name()
    mine = SharedMemory(name, create=True, size=512)
    assert (mine.name, mine.size >= 512, len(mine.buf) >= 512) == (name, True, True)
    assert name in repr(mine)
    assert bytes(mine.buf) == bytes(mine.size)
    mine.buf[0] = 42
    other = SharedMemory(name, size=10_000)
    assert (other.buf[0], other.size) == (42, mine.size)
    other.buf[1] = 43
    assert mine.buf[1] == 43
    with pytest.raises(FileExistsError):
        SharedMemory(name, create=True, size=1)
    other.close()
    other.close()
    mine.unlink()
    assert not exists(name)
    assert mine.buf[1] == 43
    mine.close()
    with pytest.raises(FileNotFoundError):
        mine.unlink()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


def test_names_are_made_up(memory: SharedMemory) -> None:
    second = SharedMemory(create=True, size=1)
    assert memory.name != second.name
    assert memory.name.startswith("psm_")
    assert exists(second.name)
    second.close()
    second.unlink()


@pytest.mark.parametrize(
    "arguments",
    [{"create": True, "size": 0}, {"create": True, "size": -1}, {"create": True}, {}, {"size": 5}],
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SharedMemory(**arguments)


def test_bad_names(memory: SharedMemory) -> None:
    with pytest.raises(ValueError):
        SharedMemory(memory.name + "\0a")
    with pytest.raises(OSError):
        SharedMemory("a/b", create=True, size=1)
    assert not exists("a")


def test_a_name_may_begin_with_a_slash() -> None:
    name = fresh_name()
    mine = SharedMemory(f"/{name}", create=True, size=1)
    assert mine.name == f"/{name}"
    assert exists(name)
    mine.buf[0] = 42
    for spelling in (name, f"/{name}"):
        other = SharedMemory(spelling)
        assert other.buf[0] == 42
        other.close()
    mine.close()
    mine.unlink()
    assert not exists(name)
    with pytest.raises(OSError):
        SharedMemory("/", create=True, size=1)


def test_a_block_that_is_too_large_leaves_nothing() -> None:
    name = fresh_name()
    with pytest.raises((OSError, OverflowError, MemoryError)):
        SharedMemory(name, create=True, size=1 << 62)
    assert not exists(name)


def test_views_pin_the_memory(memory: SharedMemory) -> None:
    view = memory.buf[10:20]
    with pytest.raises(BufferError):
        memory.close()
    view[0] = 7
    view.release()


def test_forgotten_blocks_are_detached() -> None:
    memory = SharedMemory(create=True, size=10)
    name, fd = memory.name, memory._fd
    del memory
    with pytest.raises(OSError):
        os.fstat(fd)
    again = SharedMemory(name)
    again.close()
    again.unlink()


def test_a_block_that_outlives_the_module_is_detached_without_a_word(run_program: Programs) -> None:
    outcome = run_program(
        "import procession.shared_memory as module\n"
        "block = module.SharedMemory(create=True, size=10)\n"
        "block.unlink()\n"
        "module.os = None  # as the interpreter does in the end\n"
        "del block\n"
    ).check()
    assert outcome.err == ""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_attach(memory: SharedMemory, protocol: int) -> None:
    memory.buf[:2] = b"hi"
    twin = pickle.loads(pickle.dumps(memory, protocol))
    assert bytes(twin.buf[:2]) == b"hi"
    twin.close()
    gone = SharedMemory(create=True, size=1)
    pickled = pickle.dumps(gone, protocol)
    gone.close()
    gone.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def write_by_name(name: str) -> None:
    memory = SharedMemory(name)
    memory.buf[:5] = b"howdy"
    memory.close()


def write_to(memory: SharedMemory) -> None:
    memory.buf[:5] = b"HELLO"
    memory.close()


def make_one(conn: Any) -> None:
    memory = SharedMemory(create=True, size=20)
    memory.buf[:4] = b"mine"
    conn.send(memory.name)
    memory.close()


def test_other_processes(ctx: Any, memory: SharedMemory) -> None:
    for target, argument, text in (
        (write_by_name, memory.name, b"howdy"),
        (write_to, memory, b"HELLO"),
    ):
        child = ctx.Process(target=target, args=(argument,))
        child.start()
        child.join(BOUND)
        assert child.exitcode == 0
        assert bytes(memory.buf[:5]) == text


def test_a_block_outlives_the_child_that_made_it(ctx: Any) -> None:
    reader, writer = ctx.Pipe(duplex=False)
    with reader, writer:
        child = ctx.Process(target=make_one, args=(writer,))
        child.start()
        name = reader.recv()
        child.join(BOUND)
    memory = SharedMemory(name)
    assert bytes(memory.buf[:4]) == b"mine"
    memory.close()
    memory.unlink()


# --- who removes what ----------------------------------------------------------------------------

CREATE = """
import os, signal, sys
from procession.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=10, **eval(sys.argv[2]))
print(memory.name, flush=True)
memory.close()
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "unlinks":
    memory.unlink()
"""

ATTACH = """
import sys
from procession.shared_memory import SharedMemory
memory = SharedMemory(sys.argv[1], **eval(sys.argv[2]))
memory.close()
if "unlink" in sys.argv:
    memory.unlink()
"""


@pytest.mark.parametrize("end", ["exits", "killed", "unlinks"])
def test_the_creators_family_removes_it(run_program: Programs, end: str) -> None:
    outcome = run_program(CREATE, end, "{}")
    assert outcome.code == (-signal.SIGKILL if end == "killed" else 0)
    assert not exists(outcome.out.strip())
    assert ("1 leaked shared_memory objects" in outcome.err) == (end != "unlinks")


def test_untracked_memory_stays(run_program: Programs) -> None:
    outcome = run_program(CREATE, "exits", "dict(track=False)").check()
    memory = SharedMemory(outcome.out.strip())
    memory.close()
    memory.unlink()
    assert outcome.err == ""


@pytest.mark.parametrize("options", ["{}", "dict(track=False)"])
def test_who_attaches_removes_nothing(run_program: Programs, memory: SharedMemory, options: str) -> None:
    outcome = run_program(ATTACH, memory.name, options).check()
    assert exists(memory.name)
    assert outcome.err == ""


UNREGISTER = """
import sys
from procession import resource_tracker
from procession.shared_memory import SharedMemory
memory = SharedMemory(sys.argv[1])
resource_tracker.unregister(memory._name, "shared_memory")
memory.close()
"""


def test_who_attaches_may_unregister_it(run_program: Programs, memory: SharedMemory) -> None:
    """As programs do whose authors know that the standard library registers it."""
    outcome = run_program(UNREGISTER, memory.name).check()
    assert exists(memory.name)
    assert outcome.err == ""


def test_who_attaches_can_ask_for_removal(run_program: Programs) -> None:
    memory = SharedMemory(create=True, size=10, track=False)
    outcome = run_program(ATTACH, memory.name, "dict(track=True)").check()
    assert not exists(memory.name)
    assert "1 leaked shared_memory objects" in outcome.err
    memory.close()


def test_who_attaches_can_unlink(run_program: Programs) -> None:
    memory = SharedMemory(create=True, size=10, track=False)
    outcome = run_program(ATTACH, memory.name, "{}", "unlink").check()
    assert not exists(memory.name)
    assert outcome.err == ""
    memory.close()


def unlink_it(name: str) -> None:
    memory = SharedMemory(name)
    memory.close()
    memory.unlink()


CHILD_UNLINKS = f"""
import sys
import procession
from procession.shared_memory import SharedMemory
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_shared_memory import unlink_it

if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[1])
    memory = SharedMemory(create=True, size=10)
    child = ctx.Process(target=unlink_it, args=(memory.name,))
    child.start()
    child.join()
    assert child.exitcode == 0
    memory.close()
"""


def test_a_child_can_unlink_what_its_parent_made(run_program: Programs, start_method: str) -> None:
    outcome = run_program(CHILD_UNLINKS, start_method).check()
    assert outcome.err == ""


# --- lists ---------------------------------------------------------------------------------------

VALUES = ["howdy", b"HoWdY", -273.154, 100, None, True, 42]


@pytest.fixture
def shared() -> Iterator[ShareableList[Any]]:
    shared: ShareableList[Any] = ShareableList(VALUES)
    yield shared
    shared.shm.close()
    shared.shm.unlink()


def test_a_list(shared: ShareableList[Any]) -> None:
    assert (list(shared), len(shared), shared[-2]) == (VALUES, 7, True)
    assert shared.format == "8s8sdqxxxxxx?xxxxxxxx?q"
    assert (shared.count(42), shared.count("x"), shared.index(100)) == (1, 0, 3)
    assert repr(VALUES) in repr(shared)
    assert shared.shm.name in repr(shared)
    for outside in (7, -8):
        with pytest.raises(IndexError):
            shared[outside]
        with pytest.raises(IndexError):
            shared[outside] = 1
    with pytest.raises(ValueError):
        shared.index("100")


def test_items_change(shared: ShareableList[Any]) -> None:
    shared[3] = "text"
    shared[4] = "some"
    shared[0] = "encod\xe9s"
    shared[6] = None
    assert list(shared) == ["encod\xe9s", b"HoWdY", -273.154, "text", "some", True, None]
    assert shared.format == "8s8sd8s8sxxxxxxx?xxxxxx?x"
    for index, value in ((4, "far too many"), (0, "encod\xe9es"), (1, b"123456789")):
        with pytest.raises(ValueError, match="exceeds available storage"):
            shared[index] = value
    with pytest.raises(TypeError, match="complex"):
        shared[0] = 1j
    with pytest.raises(struct.error, match="64 bits"):
        shared[3] = 1 << 64
    assert list(shared) == ["encod\xe9s", b"HoWdY", -273.154, "text", "some", True, None]


def test_text_beyond_ascii_is_stored_whole() -> None:
    values = ["\u00e9" * 7, "\U0001f600" * 9, "", b"", "x" * 8, b"y" * 16]
    shared: ShareableList[Any] = ShareableList(values)
    assert list(shared) == values
    shared.shm.close()
    shared.shm.unlink()


def test_lists_by_name_and_pickle(shared: ShareableList[Any]) -> None:
    name = fresh_name()
    shared[4] = "changed"
    twin, copied = pickle.loads(pickle.dumps(shared)), ShareableList(shared, name=name)
    assert (copied.shm.name, list(copied), copied.format) == (name, list(shared), shared.format)
    attached: ShareableList[Any] = ShareableList(name=shared.shm.name)
    twin[6] = 77
    copied[6] = 1
    assert (attached[6], shared[6]) == (77, 77)
    for other in (twin, copied, attached):
        other.shm.close()
    copied.shm.unlink()
    empty: ShareableList[Any] = ShareableList()
    assert (len(empty), empty.format, list(empty)) == (0, "", [])
    empty.shm.close()
    empty.shm.unlink()


@pytest.mark.parametrize("values", [[object()], [1 << 64], [[1]]])
def test_what_cannot_be_stored_leaves_nothing(values: list[Any]) -> None:
    name = fresh_name()
    with pytest.raises((TypeError, struct.error), match="ShareableList"):
        ShareableList(values, name=name)
    assert not exists(name)


STANDARD = """
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList
if sys.argv[1] == "make":
    shared = ShareableList(["howdy", b"HoWdY", -273.154, 100, None, True, 42], name=sys.argv[2])
else:
    shared = ShareableList(name=sys.argv[2])
    assert list(shared) == ["howdy", b"HoWdY", -273.154, 100, None, True, 42], list(shared)
    shared[0] = "changed"
    shared[4] = 9
resource_tracker.unregister(shared.shm._name, "shared_memory")
shared.shm.close()
"""


def test_the_standard_library_reads_and_writes_the_same(shared: ShareableList[Any]) -> None:
    def standard(*args: str) -> None:
        subprocess.run([sys.executable, "-c", STANDARD, *args], check=True, timeout=BOUND)

    standard("use", shared.shm.name)
    assert (shared[0], shared[4]) == ("changed", 9)
    name = fresh_name()
    standard("make", name)
    theirs: ShareableList[Any] = ShareableList(name=name)
    assert list(theirs) == VALUES
    theirs.shm.close()
    theirs.shm.unlink()
