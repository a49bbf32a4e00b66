"""Bytes in order: decompressed as far as they are asked for, and no further."""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from sandbox.formats import lzo, zstandard

_STEP: Final = 1 << 18
"""Bytes that one step of decompression gives at most, and reads at most."""

_XZ_MEMORY: Final = 100 << 20
"""xz -9 needs 65 MiB to decompress; files that want more are not customary."""

_LZ4_BLOCK: Final = {4: 64 << 10, 5: 256 << 10, 6: 1 << 20, 7: 4 << 20}
_LZOP_BLOCK: Final = 1 << 20


class WrapperDamagedError(Exception):
    """A compressed file ends too early or contradicts itself. Caught inside this package."""


class WrapperForeignError(WrapperDamagedError):
    """Nothing is wrong with it, but it is encrypted, or of a method that is not read here."""


class Source(Protocol):
    """A range of bytes that starts at 0."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None where only unpacking would tell."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end, none beyond it or before 0."""


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


class Stream(Protocol):
    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""

    def skip(self, size: int) -> None: ...


class SourceStream:
    """A source from one place on; what is skipped is not read."""

    def __init__(self, source: Source, offset: int = 0, size: int | None = None) -> None:
        self.source = source
        self.offset = offset
        self._left = size

    def read(self, size: int) -> bytes:
        if self._left is not None:
            size = min(size, self._left)
        data = self.source.read_at(self.offset, size)
        self.skip(len(data))
        return data

    def skip(self, size: int) -> None:
        self.offset += size
        if self._left is not None:
            self._left -= min(size, self._left)


class ChunkStream:
    """An iterator's chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        pieces, have = [self._rest], len(self._rest)
        while have < size and (chunk := next(self._chunks, b"")):
            pieces.append(chunk)
            have += len(chunk)
        joined = b"".join(pieces)
        self._rest = joined[size:]
        return joined[:size]

    def skip(self, size: int) -> None:
        while size > 0 and (gone := self.read(min(size, _STEP))):
            size -= len(gone)


class LimitedStream:
    """The next `size` bytes of another stream: a member of an archive."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self.left = size

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self.left))
        self.left -= len(data)
        if not data and size and self.left:
            raise WrapperDamagedError("the archive ends inside a file")
        return data

    def slice(self) -> SliceSource | None:
        """What is left of the member, if it lies in a source as it is."""
        if isinstance(self._stream, SourceStream):
            return SliceSource(self._stream.source, self._stream.offset, self.left)
        return None

    def skip(self, size: int) -> None:
        size = min(size, self.left)
        self._stream.skip(size)
        self.left -= size


class PeekSource:
    """The beginning of a stream as a source: kept as it is read, up to a limit."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._content = bytearray()
        self._ended = False
        self.damage: str | None = None

    @property
    def size(self) -> int | None:
        """Known once the stream has ended within the limit."""
        return len(self._content) if self._ended else None

    @property
    def kept(self) -> int:
        """Bytes that were taken from the stream."""
        return len(self._content)

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < 0 or size <= 0:
            return b""
        wanted = min(offset + size, self._limit)
        while len(self._content) < wanted and not self._ended:
            try:
                piece = self._stream.read(
                    min(max(wanted - len(self._content), 4096), _STEP, self._limit - len(self._content))
                )
            except WrapperDamagedError as error:
                self.damage = str(error)
                piece = b""
            self._ended = not piece
            self._content += piece
        return bytes(self._content[offset : min(offset + size, self._limit)])

    def exhaust(self, limit: int = 0, *, seconds: float = math.inf) -> None:
        """Read on to the limit, or to a higher one, or as long as that takes, to see whether the stream ends there."""
        self._limit = max(self._limit, limit)
        deadline = time.monotonic() + seconds
        while not self._ended and len(self._content) < self._limit and time.monotonic() < deadline:
            self.read_at(len(self._content), _STEP)


def decompressed(kind: str, stream: Stream) -> Iterator[bytes]:
    """What a gz, bz2, xz, zst, lz4 or lzop file holds, all its members one after the other.

    Raises `WrapperDamagedError` where it is cut or damaged.
    """
    match kind:
        case "gz":
            return members_of(lambda: Zlib(31), zlib.error, stream)
        case "bz2":
            return members_of(bz2.BZ2Decompressor, OSError, stream)
        case "xz":
            return members_of(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), lzma.LZMAError, stream)
        case "zst":
            zstd = zstandard.module()
            return members_of(zstd.ZstdDecompressor, zstd.ZstdError, stream)
        case "lz4":
            return _lz4(stream)
        case "lzop":
            return _lzop(stream)
        case _:
            raise AssertionError(kind)


class Zlib:
    """zlib's decompressor with the interface of bz2's; `window` as zlib's inflateInit2 has it."""

    def __init__(self, window: int) -> None:
        self._object = zlib.decompressobj(window)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, most)

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def members_of(make: Callable[[], Any], failure: type[Exception], stream: Stream) -> Iterator[bytes]:
    """Streams of one compression, one behind the other; `make` gives a decompressor with the interface of bz2's."""
    one = make()
    begun = False
    data = stream.read(_STEP)
    while True:
        try:
            out = one.decompress(data, _STEP)
        except (failure, EOFError) as error:
            if not begun:
                return  # padding behind the last member
            raise WrapperDamagedError(f"the compressed data is damaged ({error})") from error
        begun = True
        if out:
            yield out
        if one.eof:
            data = one.unused_data or stream.read(_STEP)
            if not data:
                return
            one = make()
            begun = False
            continue
        # Reading nothing asks the clock: a bomb gives output for hours without wanting input.
        data = stream.read(0)
        if one.needs_input:
            data = stream.read(_STEP)
            if not data and not out:
                raise WrapperDamagedError("the compressed data ends too early")


def _lz4(stream: Stream) -> Iterator[bytes]:
    """LZ4 frames (lz4 doc/lz4_Frame_format.md). The checksums are left to those who unpack for good."""
    while head := stream.read(7):
        if head[:4] != b"\x04\x22\x4d\x18" or len(head) < 7:
            return
        flags, size_code = head[4], head[5] >> 4 & 7
        if flags >> 6 != 1 or size_code not in _LZ4_BLOCK:
            raise WrapperDamagedError("an LZ4 frame header is damaged")
        # After the two flag bytes: content size and dictionary id when flagged, then one byte of checksum (read already
        # when there is neither).
        stream.skip((8 if flags & 8 else 0) + (4 if flags & 1 else 0))
        linked = not flags & 0x20
        window = b""
        while True:
            raw = stream.read(4)
            if len(raw) < 4:
                raise WrapperDamagedError("the compressed data ends too early")
            size = int.from_bytes(raw, "little")
            if size == 0:
                stream.skip(4 if flags & 4 else 0)
                break
            stored, size = size >> 31, size & 0x7FFFFFFF
            if size > _LZ4_BLOCK[size_code]:
                raise WrapperDamagedError("an LZ4 block is larger than its frame allows")
            block = stream.read(size)
            if len(block) < size:
                raise WrapperDamagedError("the compressed data ends too early")
            stream.skip(4 if flags & 0x10 else 0)
            out = block if stored else _lz4_block(block, window if linked else b"", _LZ4_BLOCK[size_code])
            window = (window + out)[-65536:]
            yield out


def _lz4_block(block: bytes, window: bytes, limit: int) -> bytes:
    out = bytearray(window)
    limit += len(window)
    at = 0
    try:
        while True:
            token = block[at]
            at += 1
            run = token >> 4
            if run == 15:
                run, at = _lz4_length(block, at, run)
            out += block[at : at + run]
            at += run
            if at >= len(block):
                break
            distance = block[at] | block[at + 1] << 8
            at += 2
            count = token & 15
            if count == 15:
                count, at = _lz4_length(block, at, count)
            count += 4
            start = len(out) - distance
            if distance == 0 or start < 0 or len(out) + count > limit:
                raise WrapperDamagedError("the LZ4 data is damaged")
            if distance >= count:
                out += out[start : start + count]
            else:
                out += (out[start:] * (count // distance + 1))[:count]
    except IndexError:
        raise WrapperDamagedError("the LZ4 data is damaged") from None
    return bytes(out[len(window) :])


def _lz4_length(block: bytes, at: int, length: int) -> tuple[int, int]:
    while True:
        byte = block[at]
        at += 1
        length += byte
        if byte != 255:
            return length, at


def _lzop(stream: Stream) -> Iterator[bytes]:
    """lzop files (lzop's lzop.c; all integers big-endian)."""
    head = stream.read(9 + 2 + 2 + 2 + 1 + 1 + 4)
    if len(head) < 21:
        raise WrapperDamagedError("the compressed data ends too early")
    (flags,) = struct.unpack_from(">I", head, 17)
    stream.skip((4 if flags & 0x800 else 0) + 12)  # filter; mode and two halves of the time
    stream.skip(int.from_bytes(stream.read(1), "big") + 4)  # name, checksum of the header
    if flags & 0x40:
        stream.skip(int.from_bytes(stream.read(4), "big") + 4)
    of_output = 4 * bool(flags & 0x1) + 4 * bool(flags & 0x100)
    of_input = 4 * bool(flags & 0x2) + 4 * bool(flags & 0x200)
    while True:
        raw = stream.read(4)
        if len(raw) < 4:
            raise WrapperDamagedError("the compressed data ends too early")
        size = int.from_bytes(raw, "big")
        if size == 0:
            return
        packed = int.from_bytes(stream.read(4), "big")
        if size > _LZOP_BLOCK or packed > size:
            raise WrapperDamagedError("an lzop block is damaged")
        stream.skip(of_output + (of_input if packed < size else 0))
        block = stream.read(packed)
        if len(block) < packed:
            raise WrapperDamagedError("the compressed data ends too early")
        try:
            yield lzo.decompress(block, size) if packed < size else block
        except lzo.LzoError as error:
            raise WrapperDamagedError(f"the compressed data is damaged ({error})") from error
