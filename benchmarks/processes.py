"""What the kernel says of processes: /proc."""

from __future__ import annotations

import os
from pathlib import Path


def descendants(of: int | None = None) -> list[int]:
    """All processes below one, which itself is not among them. By default: below this one."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            children.setdefault(int(fields[1]), []).append(int(directory.name))
    found: list[int] = []
    left = [os.getpid() if of is None else of]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def time_on_processor(pids: list[int]) -> float:
    """Seconds that these have been on a processor so far, to the nanosecond."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def field(pid: int | str, file: str, name: str) -> int:
    """Bytes of a line such as `Pss:    1234 kB`."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{pid}/{file} has no {name}")


def proportional_set(pid: int) -> int:
    """Memory, with what is shared divided by who shares it."""
    return field(pid, "smaps_rollup", "Pss")


def resident(pid: int | str = "self") -> int:
    return field(pid, "status", "VmRSS")


def resident_of_its_own(pid: int | str = "self") -> int:
    """Resident memory without what is shared with others as a file or by name."""
    return field(pid, "status", "RssAnon")


def open_descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def available_memory() -> int:
    return field(".", "meminfo", "MemAvailable")
