"""Bytes of a dump, wherever they lie: in a file, behind a compression, scattered by the flattened format.

Everything above asks for ranges and must live with less than it asked for. Files are read with `os.pread`, never
mapped: a file that is cut by another process, or by NFS, would end a mapping process with SIGBUS.
"""

from __future__ import annotations

import os
import shlex
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sandbox.errors import DumpNotFound, DumpUnreadable, NotADump

READ_LIMIT: Final = 32 << 20
"""Most bytes that one read returns. Sizes in a dump are not trusted; nothing here needs more at once."""


class DeadlineExceeded(Exception):
    """The time one question about a dump may take is over. Caught inside this package."""


def open_evidence(path: Path) -> int:
    """A descriptor to read a dump by, and nothing else. Raises `OSError`.

    Its access time is evidence too, and stays as it is where the kernel allows that: for its owner, and for root.
    """
    # O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


class FileSource:
    """An open file. Raises `DumpNotFound`, `DumpUnreadable` or `NotADump` when it cannot be one."""

    def __init__(self, path: Path, *, seconds: float | None = None) -> None:
        self.path = path
        self.deadline = None if seconds is None else time.monotonic() + seconds
        try:
            self._fd = open_evidence(path)
        except OSError as error:
            raise cannot_open(path, error) from error
        try:
            self.size = self._measure()
        except BaseException:
            os.close(self._fd)
            raise

    def _measure(self) -> int:
        status = os.fstat(self._fd)
        if stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
            try:
                return os.lseek(self._fd, 0, os.SEEK_END)
            except OSError as error:
                raise DumpUnreadable(f"{self.path}: {error.strerror}") from error
        if stat.S_ISDIR(status.st_mode):
            raise NotADump(f"{self.path} is a directory", hint=f"name the dump in it: vmbox info {self.path}/vmcore")
        raise NotADump(f"{self.path} is not a regular file", hint="save it to a file first: cat SOURCE > vmcore")

    def read_at(self, offset: int, size: int) -> bytes:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded
        if offset < 0 or size <= 0 or offset >= self.size:
            return b""
        size = min(size, READ_LIMIT, self.size - offset)
        pieces = []
        try:
            while size > 0 and (piece := os.pread(self._fd, size, offset)):
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        except OSError as error:
            raise DumpUnreadable(
                f"{self.path}: {error.strerror} at byte {offset}",
                hint="the disk or the network file system failed; copy the file somewhere else first",
            ) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _permission(path: Path) -> str:
    """What makes a dump readable."""
    if os.geteuid() == 0:
        return "its file system refuses root (NFS with root_squash, FUSE): run vmbox as a user who may read it"
    closed = next((one for one in reversed(path.absolute().parents) if not os.access(one, os.X_OK)), None)
    # kdump writes vmcores with mode 0600 for root, so this is the customary first obstacle; then comes the directory.
    way = f"setfacl -m u:$USER:x {shlex.quote(str(closed))}; " if closed is not None else ""
    return f"as root: {way}setfacl -m u:$USER:r {shlex.quote(str(path))}   (or chgrp and chmod g+r)"


def cannot_open(path: Path, error: OSError) -> DumpNotFound | DumpUnreadable:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return DumpNotFound(f"there is no file {path}")
        case PermissionError():
            return DumpUnreadable(f"no permission to read {path}", hint=_permission(path))
        case _:
            return DumpUnreadable(f"{path}: {error.strerror}", hint="check the path and the file system it is on")
