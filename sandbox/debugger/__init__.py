"""Debuggers: crash and drgn behind one protocol. Nothing outside this package knows either by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sandbox.debugger.crash import Crash
from sandbox.debugger.drgn import Drgn
from sandbox.debugger.protocol import Complaints, Debugger, StartMode

__all__ = ["DEBUGGERS", "DEFAULT", "Complaints", "Debugger", "StartMode"]

DEFAULT: Final[Debugger] = Crash()
"""The debugger whose commands `vmbox run` takes."""

DEBUGGERS: Final[Mapping[str, Debugger]] = {one.name: one for one in (DEFAULT, Drgn())}
"""All there are, by name."""
