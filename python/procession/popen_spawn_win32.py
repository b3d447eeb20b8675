"""Starting processes on Windows: not possible with this package."""

from __future__ import annotations

__all__: list[str] = []

raise ImportError("procession runs on Linux: there is nothing here for Windows")
