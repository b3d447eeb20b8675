"""The libraries that are compared."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Library:
    name: str
    role: Literal["ours", "standard", "rival"]
    module: str = ""
    distribution: str | None = None  # as pip calls it; None comes with Python

    def installed(self) -> bool:
        return importlib.util.find_spec(self.module.split(".")[0]) is not None

    def version(self) -> str:
        return importlib.metadata.version(self.distribution) if self.distribution else platform.python_version()


#: What `make bench-rust` compares.
CRATES = {
    library.name: library
    for library in (
        Library("procession", "ours"),
        Library("procspawn", "rival"),
        Library("crossmist", "rival"),
        Library("ipc-channel", "rival"),
        Library("iceoryx2", "rival"),
        Library("rayon", "rival"),
        Library("std::thread", "rival"),
        Library("futex", "standard"),  # a bare word
    )
}


LIBRARIES = {
    library.name: library
    for library in (
        Library("procession", "ours", "procession", "procession"),
        Library("multiprocessing", "standard", "multiprocessing"),
        Library("concurrent.futures", "standard", "concurrent.futures"),
        Library("loky", "rival", "loky", "loky"),
        Library("mpire", "rival", "mpire", "mpire"),
        Library("pebble", "rival", "pebble", "pebble"),
        Library("billiard", "rival", "billiard", "billiard"),
        Library("faster-fifo", "rival", "faster_fifo", "faster-fifo"),
    )
}


@dataclass(frozen=True)
class Contestant:
    """A library, or one way of a library: `multiprocessing`, `multiprocessing SimpleQueue`."""

    label: str

    @property
    def library(self) -> Library:
        name = self.label.split(" ")[0]
        return LIBRARIES.get(name) or CRATES[name]

    @property
    def way(self) -> str:
        return self.label.partition(" ")[2]

    @property
    def module(self) -> object:
        return importlib.import_module(self.library.module)
