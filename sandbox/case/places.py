"""Places in a case container."""

from __future__ import annotations

from typing import Final

DUMP: Final = "/case/vmcore"
VMLINUX: Final = "/case/debuginfo/vmlinux"

SESSION: Final = "/usr/libexec/vmbox/session"
RELAY: Final = "/usr/libexec/vmbox/relay"

SESSION_VERSION: Final = 2
"""Of the words that `SESSION` takes on `ctl`. A case with another version is not found, so that its dump is opened
anew: vmbox was updated while it was open."""


def dump_paths(files: int) -> list[str]:
    """Where a case container has the file of a dump, or the files of a split one."""
    return [DUMP, *(f"{DUMP}-{number}" for number in range(2, files + 1))]
