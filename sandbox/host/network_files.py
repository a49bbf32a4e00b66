"""Files of network file systems: an error when the server does not answer, in the place of a wait inside the kernel.

A read of a hard NFS mount waits for its server without an end, and no signal but SIGKILL ends it (nfs(5), "hard").
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from sandbox.errors import DumpUnreadable, pasteable

PATIENCE: Final = 30.0
"""Seconds for one read."""

_TYPES: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs"}
    | {"smb3", "smbfs", "virtiofs"}
)
"""Of mounts; fuse has a subtype behind it, as in fuse.sshfs."""

_MOUNTS: Final = Path("/proc/self/mountinfo")

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")

_silent: Final = set[Path]()
"""What did not answer. This process does not ask again: each question would be waited for as long."""

T = TypeVar("T")


def kind(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of the network file system that a path is on, by its name alone; None for any other file system.

    The file system itself is not asked. Links in the path are not followed.
    """
    try:
        name = os.fsencode(os.path.abspath(path))  # noqa: PTH100 - a link would be followed by asking
        lines = mounts.read_bytes().splitlines()
    except (OSError, ValueError):
        return None
    best, found = -1, ""
    for line in lines:
        # proc_pid_mountinfo(5): the fifth field is the mount point; behind " - " is the type.
        before, _, after = line.partition(b" - ")
        place = _ESCAPED.sub(lambda one: bytes([int(one[1], 8)]), before.split(b" ")[4])
        if (name + b"/").startswith(place.rstrip(b"/") + b"/") and len(place) >= best:
            best, found = len(place), after.split(b" ")[0].decode()
    return found if found.partition(".")[0] in _TYPES else None


def answer(work: Callable[[], T], path: Path, of: str | None) -> T:
    """What `work` returns or raises. Of a network file system, `of`, it is waited for `PATIENCE` seconds at most.

    Raises `DumpUnreadable` then. The thread that waits inside the kernel ends with the process.
    """
    if of is None:
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            errors.append(error)

    if path not in _silent:
        thread = threading.Thread(target=run, name="network file", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive():
            _silent.add(path)
    if path in _silent:
        raise DumpUnreadable(
            f"{path}: its file system ({of}) has not answered for {PATIENCE:.0f} s",
            hint=f"is its server up? stat {pasteable(path)} answers again when it is",
        )
    if errors:
        raise errors[0]
    return results[0]


def ask(path: Path) -> None:
    """Whether the file system of a path answers, if it is one of a network. Raises `DumpUnreadable` if it does not."""
    of = kind(path)
    if of is not None:
        with suppress(OSError):  # whatever is wrong with the path is said by who opens it
            answer(path.stat, path, of)
