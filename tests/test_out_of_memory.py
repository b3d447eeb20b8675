"""A worker that the kernel kills for want of memory: in a control group of its own, so that nothing else can be hit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Programs

LIMIT_BYTES = 160 << 20


class Group:
    """A control group with little memory."""

    def __init__(self, folder: Path, limits: dict[str, int]) -> None:
        self.folder = folder
        folder.mkdir()
        try:
            for name, value in limits.items():
                # What is missing (no accounting of swap, say) limits nothing, and the first must be there.
                if (folder / name).exists() or name == next(iter(limits)):
                    (folder / name).write_text(str(value))
        except OSError:
            folder.rmdir()
            raise

    def why_useless(self) -> str | None:
        """Try it: a process may be let in, and is killed when it takes more than the limit."""
        program = f"open({str(self.folder / 'cgroup.procs')!r}, 'w').write('0'); b'x' * {3 * LIMIT_BYTES}"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        if ended.returncode == -signal.SIGKILL:
            return None
        return ended.stderr.strip().rpartition("\n")[2] or "its limit does not hold"

    def remove(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self.folder.rmdir()
                return
            except OSError:
                # Who was in it has not been cleared away yet.
                assert time.monotonic() < deadline, (self.folder / "cgroup.procs").read_text()
                time.sleep(0.01)


def make_group() -> Group:
    """Make one beside or below this process's own."""
    name = f"procession-test-{os.getpid()}"
    root = Path("/sys/fs/cgroup")
    problems = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, limits = (
                root / "memory",
                {"memory.limit_in_bytes": LIMIT_BYTES, "memory.memsw.limit_in_bytes": LIMIT_BYTES},
            )
        elif not controllers:
            base, limits = root, {"memory.max": LIMIT_BYTES, "memory.swap.max": 0}
        else:
            continue
        own = base / path.lstrip("/")
        for parent in (own.parent, own) if own != base else (own,):
            try:
                group = Group(parent / name, limits)
            except OSError as error:
                problems.append(f"{parent}: {error}")
                continue
            if (problem := group.why_useless()) is None:
                return group
            group.remove()
            problems.append(f"{parent}: {problem}")
    pytest.skip(f"no control group for memory can be made here: {'; '.join(problems) or 'there are none'}")


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group whose processes have little memory: the path of the file that takes them in."""
    group = make_group()
    try:
        yield group.folder / "cgroup.procs"
    finally:
        group.remove()


PROGRAM = """
import os, sys

# First of all: the group, and with it the limit, is every child's too.
if __name__ == "__main__":
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))

import procession


def hog(most):
    # The first that the kernel takes. It must not be the parent, nor the other worker.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    held = []
    while len(held) < most:
        held.append(b"x" * (4 << 20))
    return len(held)


def square(x):
    return x * x


if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[2])
    with ctx.Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
        for _ in range(2):
            try:
                # Ends in any case: at four times the limit.
                pool.apply(hog, (160,))
            except procession.WorkerLost as error:
                assert error.out_of_memory, error
                assert "was killed by SIGKILL, probably out of memory" in str(error), error
                assert "hog" in error.task, error
            else:
                raise AssertionError("nobody was killed")
            assert pool.map(square, range(20)) == [x * x for x in range(20)]
        # A kill of another kind is not taken for one.
        try:
            pool.apply(os.abort)
        except procession.WorkerLost as error:
            assert not error.out_of_memory, error
    pool.join()
    print("lives on")
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may make control groups here")
def test_a_worker_killed_for_want_of_memory_is_told_apart(
    run_program: Programs, memory_group: Path, start_method: str
) -> None:
    outcome = run_program(PROGRAM, str(memory_group), start_method).check()
    assert outcome.out == "lives on\n"
