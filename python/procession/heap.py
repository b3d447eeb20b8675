"""Shared memory for ctypes objects: each piece is a block of the family's arena.

The engine allocates, recycles and gives back. ``Heap`` keeps the books that the standard library's
class of this name keeps, for whoever looks at them.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

from . import _procession

__all__ = ["BufferWrapper"]


class Arena:
    """A stretch of shared memory that holds one allocation."""

    def __init__(self, block: _procession.Block) -> None:
        self.block = block
        self.size = len(block)

    def __reduce__(self) -> tuple[Any, ...]:
        return Arena, (self.block,)


class Heap:
    """Where BufferWrapper gets its memory from; counts what it gave out.

    Memory given back goes to the engine at once: there are never free blocks here.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._n_mallocs = 0
        self._in_use: weakref.WeakSet[Arena] = weakref.WeakSet()
        self._pending_free_blocks: list[Any] = []
        self._len_to_seq: dict[int, list[Any]] = {}

    def malloc(self, size: int) -> Arena:
        """Allocate zeroed shared memory."""
        arena = Arena(_procession.Block(max(size, 1)))
        self._n_mallocs += 1
        self._in_use.add(arena)
        return arena

    @property
    def _n_frees(self) -> int:
        return self._n_mallocs - len(self._in_use)

    @property
    def _arenas(self) -> list[Arena]:
        return list(self._in_use)

    @property
    def _allocated_blocks(self) -> Mapping[Arena, set[tuple[int, int]]]:
        return {arena: {(0, arena.size)} for arena in self._in_use}


class BufferWrapper:
    """Zeroed shared memory of a given size, which can be pickled to any process of the family.

    Raises:
        ValueError: the size is negative.
        OverflowError: the size cannot be addressed.
        MemoryError: there is not that much memory.
    """

    _heap: ClassVar[Heap] = Heap()

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"size {size} is negative")
        if size >= sys.maxsize:
            raise OverflowError(f"size {size} is too large")
        self._arena = BufferWrapper._heap.malloc(size)
        self._size = size

    def create_memoryview(self) -> memoryview:
        """A writable view of the memory, which stays allocated for as long as the view is used."""
        return memoryview(self._arena.block)[: self._size]
