"""The census that ends every test does see what it is there to see."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import GRACE, Census, Programs


def sees_nothing(census: Callable[[], Census], before: Census) -> bool:
    """Whether nothing new is there; what other test runs do at the same time is gone after a moment."""
    until = time.monotonic() + GRACE
    while complaints := census().complaints(before):
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return complaints == []


def test_sees_a_child(census: Callable[[], Census]) -> None:
    before = census()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        # Only its pipe may be new besides; the count of descriptors is not what is looked at here.
        assert any(f"pid {child.pid} " in complaint for complaint in census().complaints(before))
        child.communicate(b"\n")
    assert sees_nothing(census, before)


def test_sees_a_descriptor(census: Callable[[], Census]) -> None:
    before = census()
    reader, writer = os.pipe()
    assert any("2 more open descriptors" in complaint for complaint in census().complaints(before))
    os.close(reader)
    os.close(writer)
    assert sees_nothing(census, before)


def test_sees_a_name(census: Callable[[], Census]) -> None:
    before = census()
    path = Path("/dev/shm") / f"procession-test-{uuid.uuid4().hex}"
    path.touch()
    try:
        assert any(path.name in complaint for complaint in census().complaints(before))
    finally:
        path.unlink()
    assert sees_nothing(census, before)


def test_sees_what_a_program_leaves(run_program: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conftest.GRACE", 0.2)
    program = """
import subprocess, sys

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
"""
    with pytest.raises(pytest.fail.Exception, match=r"left behind:\n.*time\.sleep\(100\)"):
        run_program(program)


def test_ends_a_program_that_is_late(run_program: Programs) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"still running after 0\.5 s"):
        run_program("import time\ntime.sleep(100)\n", timeout=0.5)
