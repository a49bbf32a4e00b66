"""Bytes in order: of a local file, of one that is still arriving, of what a compressed one unpacks to.

Nothing here holds more than a piece: a package unpacks to gigabytes.
"""

from __future__ import annotations

import bz2
import lzma
import os
import threading
import zlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, cast

from sandbox.formats import zstandard

PIECE: Final = 1 << 20


class Damaged(Exception):
    """The bytes are not what a package consists of. One line, for the user."""


class Stream(Protocol):
    """Bytes read forwards."""

    def read(self, amount: int) -> bytes:
        """Between 1 and `amount` bytes; none at the end."""


class Skippable(Stream, Protocol):
    def skip(self, amount: int) -> None:
        """Goes forward without reading, where that is possible."""


def exactly(stream: Stream, amount: int) -> bytes:
    """`amount` bytes. Raises `Damaged` when the stream ends before. Only for amounts that are known to be small."""
    data = b""
    while len(data) < amount:
        piece = stream.read(amount - len(data))
        if not piece:
            raise Damaged("it ends too early")
        data += piece
    return data


def discard(stream: Stream, amount: int) -> None:
    while amount > 0:
        piece = stream.read(min(amount, PIECE))
        if not piece:
            raise Damaged("it ends too early")
        amount -= len(piece)


def write_all(out: FileIO, data: bytes) -> None:
    """A plain write may take less than it is given, just before a disk is full."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


class FileStream:
    """A file that is all there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def read(self, amount: int) -> bytes:
        return self._file.read(amount) or b""

    def skip(self, amount: int) -> None:
        self._file.seek(amount, os.SEEK_CUR)


class ArrivingFile:
    """A file another thread appends to: reading waits for what is not there yet."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._changed = threading.Condition()
        self._arrived = 0
        self._ended = False
        self._failed = False
        self._at = 0

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

    def read(self, amount: int) -> bytes:
        with self._changed:
            while self._arrived <= self._at and not self._ended:
                self._changed.wait()
            if self._failed:
                raise Damaged("it did not arrive")
            available = self._arrived - self._at
        data = self._file.read(min(amount, available)) if available > 0 else b""
        self._at += len(data or b"")
        return data or b""

    def skip(self, amount: int) -> None:
        self._at += amount
        self._file.seek(self._at)

    def close(self) -> None:
        self._file.close()


class Limited:
    """The next `size` bytes of a stream."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, amount: int) -> bytes:
        data = self._stream.read(min(amount, self._left)) if self._left else b""
        self._left -= len(data)
        return data


class _Decompressor(Protocol):
    """What lzma, bz2 and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib with the interface the other two have."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max(max_length, 0))


_DAMAGE: Final[tuple[type[Exception], ...]] = (lzma.LZMAError, OSError, zlib.error, EOFError)


class Decompressed:
    """What a compressed stream unpacks to; several compressed streams in a row are one."""

    def __init__(self, stream: Stream, make: Callable[[], _Decompressor]) -> None:
        self._stream = stream
        self._make = make
        self._current: _Decompressor | None = None
        self._left_over = b""

    def read(self, amount: int) -> bytes:
        while True:
            current = self._current
            if current is None:
                # Padding between streams is zeros (xz) or absent.
                start = (self._left_over or self._stream.read(PIECE)).lstrip(b"\0")
                if not start:
                    return b""
                current = self._current = self._make()
            else:
                start = b"" if not current.needs_input else self._stream.read(PIECE)
                if not start and current.needs_input:
                    raise Damaged("it ends too early")
            self._left_over = b""
            try:
                data = current.decompress(start, amount)
            except _DAMAGE + zstandard.errors() as error:
                raise Damaged(f"it cannot be unpacked: {error}") from None
            if current.eof:
                self._left_over = current.unused_data
                self._current = None
            if data:
                return data

    def skip(self, amount: int) -> None:
        discard(self, amount)


def _zstd() -> _Decompressor:
    # The window a package may ask for is bounded: a few bytes can ask for gigabytes.
    zstd = zstandard.module()
    return cast("_Decompressor", zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 28}))


class _Plain:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, amount: int) -> bytes:
        return self._stream.read(amount)

    def skip(self, amount: int) -> None:
        discard(self._stream, amount)


def decompressed(stream: Stream, kind: str) -> Skippable:
    """`stream` unpacked; `kind` is xz, lzma, gzip, bzip2, zstd or none. Raises `Damaged` for another one."""
    match kind:
        case "xz" | "lzma":
            # A limit, so that a crafted header cannot ask for a dictionary of gigabytes; xz -9 needs 65 MiB.
            return Decompressed(stream, lambda: lzma.LZMADecompressor(memlimit=256 << 20))
        case "gzip":
            return Decompressed(stream, _Gzip)
        case "bzip2":
            return Decompressed(stream, bz2.BZ2Decompressor)
        case "zstd":
            return Decompressed(stream, _zstd)
        case "none":
            return _Plain(stream)
        case _:
            raise Damaged(f"it is compressed with {kind}, which is not known here")
