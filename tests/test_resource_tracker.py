"""The tracker of named shared memory: what a program leaves behind is unlinked, and said."""

from __future__ import annotations

import os
import signal
import uuid

import pytest

from conftest import Programs

LEAK = """
import os, signal, sys
from multiprocessing import shared_memory

if __name__ == "__main__":
    shm = shared_memory.SharedMemory(create=True, size=10)
    print(shm.name, flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "unlink":
        shm.unlink()
    shm.close()
"""


@pytest.mark.parametrize("how", ["exit", "kill", "unlink"])
def test_leaks_are_unlinked_and_told(how: str, run_program: Programs) -> None:
    path = run_program.directory / "leak.py"
    path.write_text(LEAK)
    outcome = run_program(path, how, options=["-m", "procession"])
    assert outcome.code == (-signal.SIGKILL if how == "kill" else 0)
    name = outcome.out.strip()
    assert not os.path.exists(f"/dev/shm/{name}")
    told = f"There appear to be 1 leaked shared_memory objects to clean up at shutdown: /{name}"
    assert (told in outcome.err) == (how != "unlink")


ODD_NAMES = """
import sys
from procession.shared_memory import SharedMemory

for name in eval(sys.argv[1]):
    kept, gone = SharedMemory(name, create=True, size=10), SharedMemory(name + "2", create=True, size=10)
    gone.unlink()
    kept.close(), gone.close()
"""


def test_names_of_any_characters(run_program: Programs) -> None:
    names = [f"{uuid.uuid4().hex}{odd}" for odd in (":b:", "\nline\n", " ", "\u20ac")]
    names.append(uuid.uuid4().hex * 7 + "\u20ac" * 10)  # 254 bytes
    outcome = run_program(ODD_NAMES.lstrip(), ascii(names)).check()
    assert "There appear to be 5 leaked shared_memory objects" in outcome.err
    assert "Traceback" not in outcome.err and "Errno" not in outcome.err
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(tuple(n[:32] for n in names))]


FROM_A_CHILD = """
import procession, sys
from procession.shared_memory import SharedMemory

def make(sender):
    shm = SharedMemory(create=True, size=10)
    shm.buf[:5] = b"hello"
    sender.send(shm.name)
    shm.close()

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    receiver, sender = procession.Pipe(duplex=False)
    child = procession.Process(target=make, args=(sender,))
    child.start()
    name = receiver.recv()
    child.join()
    shm = SharedMemory(name)
    print(bytes(shm.buf[:5]))
    shm.close()
    shm.unlink()
"""


def test_what_a_child_made_outlives_it(start_method: str, run_program: Programs) -> None:
    """The child has a tracker of its own, which waits for the parent, and then has nothing to say."""
    outcome = run_program(FROM_A_CHILD.lstrip(), start_method).check()
    assert outcome.out == "b'hello'\n"
    assert outcome.err == ""


SIGNALS = """
import os, signal, time, warnings
from procession.resource_tracker import ResourceTracker, _resource_tracker

tracker = ResourceTracker()
tracker.ensure_running()
pid = tracker._pid
for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(pid, number)
time.sleep(0.5)
assert tracker._check_alive() and tracker._pid == pid
os.kill(pid, signal.SIGKILL)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    tracker.register("/never-made", "shared_memory")
assert "process died unexpectedly" in str(caught[0].message)
assert tracker._pid != pid
tracker.unregister("/never-made", "shared_memory")
tracker._stop()
assert tracker._exitcode == 0
tracker.register("/never-made", "shared_memory")
tracker._stop()
assert tracker._exitcode == 1
try:
    tracker.register("x" * 500, "shared_memory")
except ValueError as error:
    print(error)
_resource_tracker._stop()
assert _resource_tracker._exitcode == 0
"""


def test_life_of_the_tracker(run_program: Programs) -> None:
    outcome = run_program(SIGNALS.lstrip()).check()
    assert outcome.out == "name too long to be tracked: 500 characters\n"
    assert "There appear to be 1 leaked shared_memory objects" in outcome.err
    assert "resource_tracker: '/never-made': [Errno 2]" in outcome.err
