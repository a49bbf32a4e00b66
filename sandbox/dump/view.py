"""The view of a dump: its bytes in their right order, read where they are. No copy is made.

It is what crash would be given as a plain file. There is one of a flattened dump, of one that an archive stores as it
is, of one that is compressed in blocks, and of a gzip file that was indexed. Where the bytes of an archive cannot be
reached without unpacking what is before them, there is none.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from sandbox.dump import kdump_lost, magic, piece_index, reader, wrappers
from sandbox.dump.flattened import FlattenedSource
from sandbox.dump.source import FileSource, OpenFile
from sandbox.errors import DumpError, DumpUnreadable
from sandbox.formats import gzip_index, seekable
from sandbox.formats.streams import CorruptData, SliceSource, Source
from sandbox.host import paths
from sandbox.host.files import write_atomically
from sandbox.model import DumpFormat, Vmcore, Wrapper
from sandbox.progress import QUIET, Reporter

Additions = Sequence[tuple[int, bytes]]
"""(place, bytes) that the view has instead of the dump's own, or behind its end."""

_COMPRESSIONS: Final = frozenset({Wrapper.XZ, Wrapper.ZST, Wrapper.GZ})
_STRIDE: Final = 64 << 20
"""Free space is checked after so many bytes."""
_RESERVE: Final = 512 << 20
"""Free space that is never used: a full cache disk breaks other programs too."""

_ARCHIVES: Final = frozenset({Wrapper.TAR, Wrapper.CPIO, Wrapper.ZIP, Wrapper.SEVENZIP})


class View:
    """An open view. Its `size` is known, and `read_at` gives fewer bytes only at its end."""

    def __init__(self, source: Source, additions: Additions = ()) -> None:
        self._source = source
        self._additions = additions
        self._own = source.size or 0
        self.size = max((self._own, *(at + len(data) for at, data in additions)))

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes. Raises `DumpUnreadable`, also when the file was cut after it was opened."""
        end = min(offset + size, self.size)
        if offset < 0 or offset >= end:
            return b""
        wanted = max(0, min(end, self._own) - offset)
        try:
            data = self._source.read_at(offset, wanted)
        except (CorruptData, OSError) as error:
            raise DumpUnreadable(f"the dump cannot be read at byte {offset}: {error}") from error
        if len(data) < wanted:
            # A process that reads the view through the kernel would get zeros for what is missing.
            raise DumpUnreadable(f"the dump ends before byte {offset + wanted}: it was cut while it was open")
        touched = [(at, more) for at, more in self._additions if at < end and at + len(more) > offset]
        if not touched:
            return data
        whole = bytearray(data.ljust(end - offset, b"\0"))
        for at, more in touched:
            first, last = max(at, offset), min(at + len(more), end)
            whole[first - offset : last - offset] = more[first - at : last - at]
        return bytes(whole)


def open_view(
    file: OpenFile,
    kept: Path,
    reporter: Reporter = QUIET,
    *,
    additions: Additions = (),
    indexing: bool = True,
    marking: bool = False,
) -> View | None:
    """The view of the dump in a file, which stays open as long as it is used. None where only unpacking gives one.

    The index of a large flattened dump, and of a gzip file, is kept under `kept`. Without `indexing` a gzip file has a
    view only if its index is there: making it unpacks all once. With `marking` the lost pages of a kdump file that is
    cut off are marked. Raises `DumpUnreadable`.
    """
    source = _inside(file, file, kept, reporter, indexing=indexing)
    if source is not None and marking:
        source = kdump_lost.marked(source, file.path.name)
    return None if source is None else View(source, additions)


def additions(file: OpenFile, vmcore: Vmcore, kept: Path, reporter: Reporter = QUIET) -> Additions | None:
    """What is known of a dump and missing in it, for its view. None if it has no view."""
    source = _inside(file, file, kept, reporter, indexing=True)
    if source is None:
        return None
    try:
        inner = reader.parse(source, str(vmcore.path))
    except (DumpError, CorruptData):
        return None
    return () if inner is None else tuple(inner.additions(vmcore, source.size or 0))


def _inside(file: OpenFile, source: Source, kept: Path, reporter: Reporter, *, indexing: bool) -> Source | None:
    """What is in `source`, which is `file` itself or lies in it."""
    head = source.read_at(0, magic.PEEK)
    if magic.dump_format(head) is DumpFormat.FLATTENED:
        if source is file:
            # A remote one is walked through whatever it takes, because nothing else tells where a byte is.
            large = (file.size or 0) >= piece_index.LARGE or not isinstance(file, FileSource)
            return FlattenedSource(
                file, piece_index.keep(file, kept, reporter) if large else piece_index.complete(file)
            )
        if isinstance(source, SliceSource) and file.cheap_to_walk:
            return FlattenedSource(source, piece_index.complete(source))
        return None
    if magic.dump_format(head) is not None:
        return source
    if magic.wrapper(head) in _ARCHIVES:
        try:
            stored = wrappers.unwrap(source, "the archive").source
        except DumpError:
            return None
        if isinstance(stored, SliceSource):
            return _inside(file, stored, kept, reporter, indexing=indexing)
    if magic.wrapper(head) in _COMPRESSIONS and not isinstance(source, seekable.BlockSource | gzip_index.GzipSource):
        unpacked: Source | None
        try:
            unpacked = seekable.open_blocks(source, partial(_spill, kept), walk=file.cheap_to_walk)
            if unpacked is None and source is file and magic.wrapper(head) is Wrapper.GZ:
                unpacked = _of_gzip(file, kept, reporter, indexing=indexing)
        except CorruptData:
            return None
        return None if unpacked is None else _inside(file, unpacked, kept, reporter, indexing=indexing)
    return None


def _of_gzip(file: OpenFile, kept: Path, reporter: Reporter, *, indexing: bool) -> Source | None:
    """What a gzip file unpacks to, by an index that is kept. Raises `CorruptData`."""
    if not gzip_index.is_there() or not file.cheap_to_walk:
        return None
    target = kept / file.identity / piece_index.GZIP
    opened = piece_index.open_own(target)
    if opened is not None:
        with os.fdopen(opened, "rb") as index:
            return gzip_index.GzipSource(file, _spill(kept), index=index)
    if not indexing:
        return None
    paths.make_private(kept)
    paths.make_private(target.parent)
    with reporter.step(f"indexing {file.path.name}", total=file.size, unit="B") as step:
        made = gzip_index.GzipSource(file, _spill(kept), advance=step.advance)
    with suppress(OSError):
        out = io.BytesIO()
        made.save(out)
        write_atomically(target, out.getvalue(), mode=0o600)
    return made


def _spill(kept: Path) -> IO[bytes]:
    """A file without a name, for blocks that were unpacked: it goes with the process."""
    paths.make_private(kept)
    with tempfile.TemporaryFile(dir=kept) as made:
        return _Spill(_Guarded(os.dup(made.fileno()), "r+b"))


class _Spill(io.BufferedRandom):
    """A file that closes with the source that keeps it: there is no end of reading to close it at."""

    def __del__(self) -> None:
        self.close()


class _Guarded(io.FileIO):
    """A file that refuses to fill the disk. Raises OSError (ENOSPC) before."""

    _unchecked = _STRIDE

    def __del__(self) -> None:
        # Garbage with a cycle is ended in no order: this may be before the file that writes here.
        self.close()

    def write(self, data: Any, /) -> int:
        self._unchecked += len(data)
        if self._unchecked >= _STRIDE:
            self._unchecked = 0
            free = os.fstatvfs(self.fileno())
            if free.f_bavail * free.f_frsize < _RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data) or 0
