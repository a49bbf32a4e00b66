"""Writes files in one step, so that no process reads half of one, and every byte, also to pipes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomically(
    path: Path, data: bytes | Iterable[bytes], *, mode: int | None = None, durable: bool = False
) -> None:
    """Puts `data`, in one piece or several, at `path`, or leaves there what was there before.

    The file gets exactly `mode`; without it, what the umask leaves of 0666. `durable` waits until the disk has the
    content. Raises OSError, and what the making of the pieces raises.
    """
    # Not the path's own name, to which nothing could be added where it is as long as a name can be.
    temporary = path.parent / f".vmbox-{os.urandom(8).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            for piece in (data,) if isinstance(data, bytes) else data:
                write_all(descriptor, piece)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: a pipe or a terminal may take less at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
