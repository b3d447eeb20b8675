"""Where and with what it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from .processes import field


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def said_by(*command: str) -> str:
    """What a command says, or nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def describe() -> dict[str, Any]:
    commit = said_by("git", "rev-parse", "--short", "HEAD")
    changed = bool(said_by("git", "status", "--porcelain", "--untracked-files=no"))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": field(".", "meminfo", "MemTotal"),
        "kernel": platform.release().split("-")[0],
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "rust": said_by("rustc", "--version").removeprefix("rustc ").split(" ")[0],
        "commit": commit + (", changed" if changed else ""),
        "load_before": os.getloadavg()[0],
        "interpreter": platform.python_implementation(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }
