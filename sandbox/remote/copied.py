"""A dump on a server that was downloaded as a whole, because it cannot be read in parts, or has to be unpacked."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from sandbox.errors import NoSpace
from sandbox.host import paths
from sandbox.host.disk import need_space, no_space
from sandbox.progress import Reporter, Step
from sandbox.remote import schemes
from sandbox.remote.file import NotInParts
from sandbox.remote.http import HttpDump

_STRIDE: Final = 256 << 20
"""Free space is checked after so many bytes, where the server does not say how many there are."""


def download(url: str, target: Path, reporter: Reporter) -> None:
    """Downloads the file at `url` to `target`, unless it is there. Raises `NoSpace` before the disk is full."""
    if target.exists():
        return
    paths.make_private(target.parent.parent)
    paths.make_private(target.parent)
    part = target.with_name(f"{target.name}.part{os.getpid()}")
    file = schemes.open_file(url, reporter=reporter)
    try:
        with open(part, "xb", opener=_private) as out, reporter.step(f"downloading {target.name}", unit="B") as step:
            try:
                size = file.size
            except NotInParts:
                if not isinstance(file, HttpDump):
                    raise
                file.feed_whole(lambda size: _begin(out, size, step))
            else:
                file.feed(0, size, _begin(out, size, step))
        part.rename(target)
    finally:
        file.close()
        part.unlink(missing_ok=True)
        with suppress(OSError):
            target.parent.rmdir()


def _begin(out: IO[bytes], size: int | None, step: Step) -> Callable[[bytes], None]:
    """What takes the bytes of the file from its beginning."""
    where = Path(out.name).parent
    need_space(where, size or _STRIDE, "the download")
    if size is not None:
        step.total(size)
    step.advance(-out.tell())
    out.seek(0)
    out.truncate()

    def take(data: bytes) -> None:
        before = out.tell()
        if before // _STRIDE != (before + len(data)) // _STRIDE:
            need_space(where, _STRIDE, "the download")
        try:
            out.write(data)
        except OSError as error:
            raise _full(where, error) from error
        step.advance(len(data))

    return take


def _full(where: Path, error: OSError) -> NoSpace:
    return no_space(where, f"the download ({error.strerror})")


def _private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)
