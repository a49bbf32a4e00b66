"""Files of network file systems: an error when the server does not answer, in the place of a wait inside the kernel.

A read of a hard NFS mount waits for its server without an end, and no signal but SIGKILL ends it (nfs(5), "hard").
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable
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

_LINKS: Final = 40
"""Links that are followed in one path, as by the kernel (path_resolution(7))."""

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")

_silent: Final = set[Path]()
"""What did not answer. This process does not ask again: each question would be waited for as long."""

T = TypeVar("T")


def kind(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of the network file system that a path is on; None for any other file system.

    No network file system is asked. Links are followed as long as they are on other ones.
    """
    return _Mounts(mounts).network(path)


def first(words: Iterable[str], mounts: Path = _MOUNTS) -> tuple[Path, str] | None:
    """The first of the words of a command that names something on a network file system, and the type of that."""
    table = _Mounts(mounts)
    for word in words if table else ():
        if not word.startswith("-") and (of := table.network(Path(word))) is not None:
            return Path(word), of
    return None


class _Mounts:
    """The mounts of this process."""

    def __init__(self, mounts: Path) -> None:
        self._types: dict[bytes, str] = {}
        with suppress(OSError):
            for line in mounts.read_bytes().splitlines():
                # proc_pid_mountinfo(5): the fifth field is the mount point; behind " - " is the type.
                before, _, after = line.partition(b" - ")
                place = _ESCAPED.sub(lambda one: bytes([int(one[1], 8)]), before.split(b" ")[4])
                # A later one covers an earlier one of the same place.
                self._types[place.rstrip(b"/")] = after.split(b" ")[0].decode(errors="replace")

    def __bool__(self) -> bool:
        """Whether any of them is of a network."""
        return any(map(_is_of_a_network, self._types.values()))

    def network(self, path: Path) -> str | None:
        if not self:
            return None
        try:
            name = os.fsencode(os.path.abspath(path))  # noqa: PTH100 - a link would be followed by asking
        except (OSError, ValueError):
            return None
        for _ in range(_LINKS):
            of = self._type(name)
            if _is_of_a_network(of):
                return of
            target = self._first_link(name)
            if target is None:
                return None
            name = target
        return None

    def _type(self, name: bytes) -> str:
        while name and name not in self._types:
            name = name.rpartition(b"/")[0]
        return self._types.get(name, "")

    def _first_link(self, name: bytes) -> bytes | None:
        """The path with the first link in it followed. None where there is none, or a network would be asked."""
        parts = name.split(b"/")
        for count in range(2, len(parts) + 1):
            prefix = b"/".join(parts[:count])
            if _is_of_a_network(self._type(prefix)):
                return None
            try:
                target = os.readlink(prefix)  # noqa: PTH115 - of bytes
            except (OSError, ValueError):
                continue
            return os.path.normpath(os.path.join(b"/".join(parts[: count - 1]) or b"/", target, *parts[count:]))  # noqa: PTH118 - of bytes
        return None


def _is_of_a_network(of: str) -> bool:
    return of.partition(".")[0] in _TYPES


def answer(work: Callable[[], T], path: Path, of: str | None) -> T:
    """What `work` returns or raises. Of a network file system, `of`, it is waited for `PATIENCE` seconds at most.

    Raises `DumpUnreadable` then. The thread that waits inside the kernel ends with the process; see
    `sandbox.host.abandoned`.
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
        raise does_not_answer(path, of, PATIENCE)
    if errors:
        raise errors[0]
    return results[0]


def does_not_answer(path: Path, of: str, seconds: float) -> DumpUnreadable:
    """The error for what did not answer for so many seconds."""
    return DumpUnreadable(
        f"{path}: its file system ({of}) has not answered for {seconds:.0f} s",
        hint=f"is its server up? stat {pasteable(path)} answers again when it is",
    )


def ask(path: Path) -> None:
    """Whether the file system of a path answers, if it is one of a network. Raises `DumpUnreadable` if it does not."""
    of = kind(path)
    if of is not None:
        with suppress(OSError):  # whatever is wrong with the path is said by who opens it
            answer(path.stat, path, of)
