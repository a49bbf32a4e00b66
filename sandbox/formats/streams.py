"""Streams of bytes, with one contract for all readers of formats.

`read(size)` returns exactly `size` bytes, fewer only at the end of the stream, and none after it. Readers limit a size
that comes from a file before they read: so many bytes are then in memory.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Protocol, Self

CHUNK: Final = 1 << 20
"""Bytes per read when a whole stream is read."""

_STEP: Final = 1 << 18
_IN_MEMORY: Final = 16 << 20
"""Bytes of a stream's beginning."""
_FARTHEST: Final = 1 << 62
"""No file has data from this offset on, and `os.pread` refuses higher ones."""


class CorruptData(Exception):
    """The bytes violate their format, or end too early. One line, for the user."""


class UnsupportedFormat(CorruptData):
    """The data is not damaged, but encrypted, or of a method that vmbox does not read."""


class Source(Protocol):
    """A range of bytes that starts at 0."""

    @property
    def size(self) -> int | None:
        """Bytes in total; None if only unpacking would tell."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end, none beyond it or before 0."""


class Stream(ABC):
    """Bytes that are read forwards."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end. Raises `CorruptData`."""

    def ask(self) -> None:
        """Ask the source at the bottom whether there is time left, which raises where there is not.

        For loops that may go on for long without a read that reaches it: of a bomb, of what was read already.
        """
        self.read(0)

    def skip(self, size: int) -> None:
        """Goes forward, without reading if possible.

        Raises `CorruptData` if it has to read and the stream ends too early. Otherwise the next read returns nothing.
        """
        while size > 0:
            gone = len(self.read(min(size, _STEP)))
            if not gone:
                raise CorruptData("it ends too early")
            size -= gone


def exactly(stream: Stream, size: int, what: str = "it") -> bytes:
    """`size` bytes. Raises `CorruptData` when the stream ends before."""
    data = stream.read(size)
    if len(data) < size:
        raise CorruptData(f"{what} ends too early")
    return data


def pread(fd: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes of an open file: one that was cut off gives fewer. Raises OSError."""
    if offset >= _FARTHEST:
        return b""
    pieces = []
    while size > 0 and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class BytesSource:
    """Bytes in memory."""

    damage: str | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size] if offset >= 0 and size > 0 else b""


class SliceSource:
    """A part of another source: a member of an archive that is stored as it is."""

    damage: str | None = None

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self._source = source
        self._offset = offset
        self.size = size

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < 0 or offset >= self.size:
            return b""
        return self._source.read_at(self._offset + offset, min(size, self.size - offset))


class SourceStream(Stream):
    """A source from one place on; what is skipped is not read."""

    def __init__(self, source: Source, offset: int = 0, size: int | None = None) -> None:
        self.source = source
        self.offset = offset
        self._left = size

    def read(self, size: int) -> bytes:
        if self._left is not None:
            size = min(size, self._left)
        data = self.source.read_at(self.offset, size)
        # One read of a source has a limit of its own.
        while 0 < len(data) < size and (piece := self.source.read_at(self.offset + len(data), size - len(data))):
            data += piece
        self.skip(len(data))
        return data

    def ask(self) -> None:
        self.source.read_at(self.offset, 0)

    def skip(self, size: int) -> None:
        self.offset += size
        if self._left is not None:
            self._left -= min(size, self._left)


class FileStream(Stream):
    """A complete file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        data = pread(self._file.fileno(), self._at, size)
        self._at += len(data)
        return data

    def skip(self, size: int) -> None:
        self._at += size


class GrowingFile(FileStream):
    """A file another thread appends to: reading waits for what is not there yet."""

    def __init__(self, path: Path) -> None:
        # Identifying a dump does not need it.
        import threading

        super().__init__(path)
        self._changed = threading.Condition()
        self._arrived = 0
        self._ended = False
        self._failed = False

    def arrived(self, size: int) -> None:
        """The first `size` bytes are in the file now."""
        with self._changed:
            self._arrived = size
            self._changed.notify_all()

    def end(self, *, failed: bool = False) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._failed = failed
            self._changed.notify_all()

    def read(self, size: int) -> bytes:
        with self._changed:
            while size and self._arrived < self._at + size and not self._ended:
                self._changed.wait()
            if self._failed:
                raise CorruptData("it did not arrive")
            available = self._arrived - self._at
        return super().read(min(size, available)) if available > 0 else b""


class ChunkStream(Stream):
    """An iterator's chunks, none of which is empty. `below` is the stream that they are made of."""

    def __init__(self, chunks: Iterator[bytes], below: Stream | None = None) -> None:
        self._chunks = chunks
        self._below = below
        self._chunk = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        data = self._chunk[self._at : self._at + size]
        self._at += len(data)
        if len(data) == size:
            return data
        # Without an empty piece there is one copy less: join returns a single piece as it is.
        pieces, have = [data] if data else [], len(data)
        while have < size and (chunk := next(self._chunks, b"")):
            self._chunk, self._at = chunk, min(len(chunk), size - have)
            pieces.append(chunk[: self._at])
            have += self._at
        return b"".join(pieces)

    def ask(self) -> None:
        if self._below is not None:
            self._below.ask()


class LimitedStream(Stream):
    """The next `size` bytes of another stream: a member of an archive."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self.left = size

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self.left))
        self.left -= len(data)
        if not data and size and self.left:
            raise CorruptData("the archive ends inside a file")
        return data

    def ask(self) -> None:
        self._stream.ask()

    def slice(self) -> SliceSource | None:
        """The rest of the member as a source, if it is stored uncompressed in one."""
        if isinstance(self._stream, SourceStream):
            return SliceSource(self._stream.source, self._stream.offset, self.left)
        return None

    def skip(self, size: int) -> None:
        size = min(size, self.left)
        self._stream.skip(size)
        self.left -= size


class PeekSource:
    """The beginning of a stream as a source: bytes that were read are kept, up to a limit.

    The first of them in memory, others in a file without a name, in the directory of temporary files. Where that is
    full, it is as if the limit were reached.
    """

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._content = bytearray()
        self._rest: IO[bytes] | None = None
        self._kept = 0
        self._ended = False
        self.damage: str | None = None

    @property
    def size(self) -> int | None:
        """Known once the stream has ended within the limit."""
        return self._kept if self._ended else None

    @property
    def kept(self) -> int:
        """Number of bytes taken from the stream."""
        return self._kept

    def read_at(self, offset: int, size: int) -> bytes:
        self._stream.ask()
        if offset < 0 or size <= 0:
            return b""
        wanted = min(offset + size, self._limit)
        while self._kept < min(wanted, self._limit) and not self._ended:
            try:
                piece = self._stream.read(min(max(wanted - self._kept, 4096), _STEP, self._limit - self._kept))
            except CorruptData as error:
                self.damage = str(error)
                piece = b""
            self._ended = not piece
            self._keep(piece)
        return self._from_kept(offset, min(offset + size, self._limit))

    def _keep(self, piece: bytes) -> None:
        space = max(0, _IN_MEMORY - self._kept)
        self._content += piece[:space]
        try:
            rest = memoryview(piece)[space:]
            while rest:
                if self._rest is None:
                    self._rest = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as the source
                    weakref.finalize(self, self._rest.close)
                rest = rest[self._rest.write(rest) :]
        except OSError:
            self._kept = self._limit = self._kept + min(space, len(piece))
        else:
            self._kept += len(piece)

    def _from_kept(self, offset: int, end: int) -> bytes:
        with memoryview(self._content) as kept:
            head = bytes(kept[offset:end])
        if self._rest is None or end <= _IN_MEMORY:
            return head
        start = max(0, offset - _IN_MEMORY)
        return head + pread(self._rest.fileno(), start, min(end, self._kept) - _IN_MEMORY - start)

    def exhaust(self, limit: int = 0, *, seconds: float = math.inf) -> None:
        """Reads on to the limit, or a higher one, to see whether the stream ends there.

        It takes at most so many seconds of this thread's processor time.
        """
        self._limit = max(self._limit, limit)
        deadline = time.thread_time() + seconds
        while not self._ended and self._kept < self._limit and time.thread_time() < deadline:
            self.read_at(self._kept, _STEP)
