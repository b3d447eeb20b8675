"""An empty standard input, made before a fork: the child only has to put it in its place."""

from __future__ import annotations

import io
import os

from . import util

__all__ = ["prepare"]


class _Nothing(io.RawIOBase):
    """Reads like /dev/null, which it opens when somebody asks for a descriptor."""

    mode = "rb"

    def __init__(self) -> None:
        self._fd: int | None = None

    @property
    def name(self) -> int:
        return self.fileno()

    def fileno(self) -> int:
        if self._fd is None:
            self._fd = os.open(os.devnull, os.O_RDONLY)
        return self._fd

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        return 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return 0


def prepare() -> None:
    """Have one ready for the next child."""
    if util._null_input is None:
        util._null_input = io.TextIOWrapper(io.BufferedReader(_Nothing()), encoding="utf-8")
