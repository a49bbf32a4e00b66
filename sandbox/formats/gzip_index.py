"""Any part of a gzip file, by an index of places where unpacking can begin: made by one pass, and kept.

By indexed_gzip, whose only importer this is, of the extra vmbox-crash[gzip]: zlib's zran with an index that is saved.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from itertools import pairwise
from typing import IO, Any, Final

from sandbox.formats.streams import CorruptData, Source

_NEAREST: Final = 2 << 20
"""Bytes of the unpacked file between two places, at least: each has 32 KiB of it."""
_MOST: Final = 1024
_EXPECTED: Final = 2
"""Times that a dump is smaller when it is compressed, as far as the number of places is concerned."""

_TOO_MANY: Final = 16 * _MOST
_FEWER: Final = 8
"""Times, when an index is begun again. It could have half a million places else: zeros become 1/1000."""
_FARTHEST: Final = 64 << 20
"""Between two places, when it is begun again: the library has some times as much in memory."""

_SECONDS: Final = 60.0
_BYTES_A_SECOND: Final = 4e6
"""Of the compressed file: both together are the processor time that making an index may take, at each point of it. A
file a thousand times smaller than what is in it, the most that deflate can, was read at 3 MB a second; one 230 times
smaller at 13 MB, one ten times smaller at 300 MB. What takes longer is copied, where the disk has room for it.
"""

_READ: Final = 128 << 10
"""Bytes that are read at once. The library takes time by the square of the members that end within them."""
_MEMBERS: Final = "the gzip file is cut off, or has more than one member"
_BLOCK: Final = 1 << 20
"""Bytes that are unpacked, and kept, at once."""


def is_there() -> bool:
    """Whether the library is installed."""
    try:
        import indexed_gzip  # noqa: F401
    except ImportError:
        return False
    return True


class GzipSource:
    """The unpacked file. What was unpacked once is kept in the file `kept`."""

    damage: str | None = None

    def __init__(
        self,
        source: Source,
        kept: IO[bytes],
        *,
        index: IO[bytes] | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Without a saved `index`, all is unpacked once to make one; `advance` is told the bytes that are read for it.

        Raises `CorruptData`.
        """
        import indexed_gzip

        spacing = max(_NEAREST, _EXPECTED * (source.size or 0) // _MOST)
        self._raw = _File(source)
        try:
            if index is not None:
                self._file = _opened(self._raw, spacing, index)
            else:
                self._file = _indexed(self._raw, spacing, advance)
            self.size = self._file.seek(0, io.SEEK_END)
            end = source.read_at((source.size or 0) - 4, 4)
        except (OSError, EOFError, ValueError, indexed_gzip.ZranError) as error:
            _raise_own(self._raw, error)
            raise CorruptData(f"the gzip file is damaged ({error})") from error
        if int.from_bytes(end, "little") != self.size & 0xFFFFFFFF:
            # The library takes a cut file for a whole one. One of several members is another reader's to judge.
            raise CorruptData(_MEMBERS)
        self._kept = kept
        self._there = bytearray(-(-self.size // _BLOCK))

    def save(self, out: IO[bytes]) -> None:
        """Writes the index."""
        self._file.export_index(fileobj=out)

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises `CorruptData`, and OSError when there is no room for what is unpacked."""
        end = min(offset + size, self.size)
        if offset < 0 or offset >= end:
            return b""
        for number in range(offset // _BLOCK, (end - 1) // _BLOCK + 1):
            if not self._there[number]:
                self._unpack(number)
        self._kept.seek(offset)
        return self._kept.read(end - offset)

    def _unpack(self, number: int) -> None:
        import indexed_gzip

        wanted = min(_BLOCK, self.size - number * _BLOCK)
        try:
            self._file.seek(number * _BLOCK)
            data = self._file.read(wanted)
        except (OSError, EOFError, ValueError, indexed_gzip.ZranError) as error:
            _raise_own(self._raw, error)
            raise CorruptData(f"the gzip file is damaged ({error})") from error
        if len(data) < wanted:
            raise CorruptData("the gzip file ends too early")
        self._kept.seek(number * _BLOCK)
        self._kept.write(data)
        self._there[number] = 1


def _raise_own(raw: _File, error: Exception) -> None:
    """Raises what ended a read of the file, if something did, and not what the library says of it."""
    if raw.failure is not None and raw.failure is not error:
        raise raw.failure from error


def _opened(raw: _File, spacing: int, index: IO[bytes]) -> Any:
    import indexed_gzip

    file = indexed_gzip.IndexedGzipFile(fileobj=raw, spacing=spacing, auto_build=False, readbuf_size=_READ)
    file.import_index(fileobj=index)
    return file


def _indexed(raw: _File, spacing: int, advance: Callable[[int], None]) -> Any:
    """The library's file with a full index. Where it has too many places, because the dump is smaller by far when it is
    compressed, or is made to be, it is begun again with fewer. Raises `CorruptData`.
    """
    import indexed_gzip

    began, read = time.thread_time(), 0
    while True:
        raw.begin_again()
        file = indexed_gzip.IndexedGzipFile(fileobj=raw, spacing=spacing, auto_build=False, readbuf_size=_READ)
        done = 0

        def look(size: int, file: Any = file, spacing: int = spacing) -> None:
            nonlocal done, read
            read += size
            if time.thread_time() - began > _SECONDS + read / _BYTES_A_SECOND:
                raise CorruptData("the gzip file unpacks to so much that it takes too long to make an index of it")
            places = [unpacked for unpacked, _ in file.seek_points()]
            if any(after - before < spacing for before, after in pairwise(places)):
                raise CorruptData(_MEMBERS)  # it makes one where a member begins, too
            if len(places) > _TOO_MANY:
                raise _TooManyPlaces
            done += size
            advance(size)

        raw.look = look
        try:
            file.build_full_index()
        except _TooManyPlaces:
            file.close()
            advance(-done)
            spacing *= _FEWER
            if spacing > _FARTHEST:
                raise CorruptData("the gzip file unpacks to more than an index can be made of") from None
        else:
            return file
        finally:
            raw.look = _nothing  # which has the file, whose memory would stay until Python looks for cycles


class _TooManyPlaces(OSError):
    """Of an index, which is in memory."""


def _nothing(_size: int) -> None:
    pass


class _File(io.RawIOBase):
    """A source as a file that is read and sought in."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.look: Callable[[int], None] = _nothing
        """Called with the size of what was read, and may raise."""
        self.failure: BaseException | None = None
        """What ended the last read: the library says of each that the file cannot be read, of Ctrl-C too."""
        self._at = 0

    def begin_again(self) -> None:
        self._at, self.failure = 0, None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            left = (self._source.size or 0) - self._at
            data = self._source.read_at(self._at, left if size < 0 else size)
            self._at += len(data)
            self.look(len(data))
        except BaseException as error:
            self.failure = error
            raise
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size or 0}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at
