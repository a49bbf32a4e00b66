"""Places in a case container, and on the host those of views."""

from __future__ import annotations

from typing import Final

from sandbox.model import Case

DUMP: Final = "/case/vmcore"
VMLINUX: Final = "/case/debuginfo/vmlinux"

SESSION: Final = "/usr/libexec/vmbox/session"
RELAY: Final = "/usr/libexec/vmbox/relay"

VIEW_LOCK: Final = "lock"
"""On the host, in the directory of a view: held by the process that serves it."""

VIEW_LOG: Final = "log"
"""Beside it: what libfuse said at the start, then the last part of the dump that could not be read, and why."""

SESSION_VERSION: Final = 6
"""Version of the words that `SESSION` takes on `ctl`. A case of another version is not found, so that its dump is
opened again: vmbox was updated while the case was open."""


SLOTS: Final = (1, 2)
"""Of the debuggers that are warm in a case at once, each has FIFOs of its own: those of a slot."""


def vmlinux(case: Case) -> str | None:
    """The path of vmlinux in a case container; None in one without debuginfo."""
    return None if case.vmlinux is None else VMLINUX


def fifo(name: str, slot: int) -> str:
    """The name of a slot's FIFO; `name` is in or out."""
    return name if slot == SLOTS[0] else f"{name}-{slot}"


def dump_paths(files: int) -> list[str]:
    """The paths of a dump in a case container: several for a split one."""
    return [DUMP, *(f"{DUMP}-{number}" for number in range(2, files + 1))]
