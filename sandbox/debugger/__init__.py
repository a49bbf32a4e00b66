"""Debuggers: crash and drgn behind one protocol. Nothing outside this package knows either by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sandbox.debugger.crash import Crash
from sandbox.debugger.drgn import Drgn
from sandbox.debugger.protocol import COUNT_TASKS, Complaints, Debugger, StartMode

__all__ = ["COUNT_TASKS", "DEBUGGERS", "DEFAULT", "Complaints", "Debugger", "StartMode", "having_command"]

DEFAULT: Final[Debugger] = Crash()
"""The debugger whose commands `vmbox run` takes."""

DEBUGGERS: Final[Mapping[str, Debugger]] = {one.name: one for one in (DEFAULT, Drgn())}
"""All there are, by name."""


def having_command(command: str, other_than: Debugger) -> Debugger | None:
    """Another debugger that has the command, by its first word; None where none has it."""
    words = command.split(maxsplit=1)
    others = (one for one in DEBUGGERS.values() if one.name != other_than.name)
    return next((one for one in others if words and words[0] in one.commands), None)
