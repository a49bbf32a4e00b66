"""Compressed files of which any part can be unpacked alone: blocks of xz, frames of zstd, members of BGZF.

`xz -T`, `pzstd`, the seekable format of zstd, `bgzip` and others write such files. What is in a block is known by its
index, or by a walk over the headers; nothing is unpacked for that.

xz: sandbox.formats.xz. zstd: RFC 8878, 3.1.1 (frames, blocks) and 3.1.2 (skippable frames). BGZF: the SAM
specification, 4.1, a gzip member of at most 64 KiB with its size in the extra field "BC".
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

from sandbox.formats import xz, zstandard
from sandbox.formats.compressions import Zlib
from sandbox.formats.streams import CorruptData, Source, SourceStream

_LARGEST: Final = 96 << 20
"""Bytes that a block unpacks to: it is unpacked in memory."""
_MOST: Final = 1 << 22
_WINDOW: Final = 64 << 10

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BGZF: Final = b"\x1f\x8b\x08\x04"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    offset: int
    size: int
    """Bytes in the file."""
    length: int
    """Bytes that it unpacks to."""
    unpack: Callable[[bytes], bytes]


class BlockSource:
    """The unpacked file. A block is unpacked when a byte of it is read first, and kept in the file `kept`."""

    damage: str | None = None

    def __init__(self, source: Source, blocks: list[_Block], kept: IO[bytes]) -> None:
        self._source = source
        self._blocks = blocks
        self._kept = kept
        self._starts: list[int] = []
        self._there = bytearray(len(blocks))
        at = 0
        for block in blocks:
            self._starts.append(at)
            at += block.length
        self.size = at

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises `CorruptData` when a block is damaged, and OSError when there is no room for it."""
        end = min(offset + size, self.size)
        if offset < 0 or offset >= end:
            return b""
        number = bisect_right(self._starts, offset) - 1
        while number < len(self._starts) and self._starts[number] < end:
            if not self._there[number]:
                self._unpack(number)
            number += 1
        self._kept.seek(offset)
        return self._kept.read(end - offset)

    def _unpack(self, number: int) -> None:
        block = self._blocks[number]
        data = SourceStream(self._source, block.offset).read(block.size)
        if len(data) < block.size:
            raise CorruptData("the compressed file ends too early")
        unpacked = block.unpack(data)
        if len(unpacked) != block.length:
            raise CorruptData("a compressed block is not as long as it says")
        self._kept.seek(self._starts[number])
        self._kept.write(unpacked)
        self._there[number] = 1


def open_blocks(source: Source, kept: Callable[[], IO[bytes]], *, walk: bool = True) -> BlockSource | None:
    """The unpacked bytes of `source`; None where it can only be read from its beginning, or is none of these formats.

    Without `walk`, only an index at its end is read, which xz has. `kept` makes the file in which unpacked blocks are
    kept. Raises `CorruptData`.
    """
    head = source.read_at(0, 6)
    if source.size is None:
        return None
    if head == b"\xfd7zXZ\0":
        found = _of_xz(source, source.size)
    elif walk and (head[:4] == _ZSTD or _is_skippable(head)):
        found = _of_zstd(source, source.size)
    elif walk and head[:4] == _BGZF:
        found = _of_bgzf(source, source.size)
    else:
        found = None
    return BlockSource(source, found, kept()) if found is not None and len(found) > 1 else None


def _of_xz(source: Source, size: int) -> list[_Block] | None:
    try:
        header, blocks = xz.blocks(source.read_at, size)
    except xz.NotSeekable:
        return None

    def unpacker(block: xz.Block) -> Callable[[bytes], bytes]:
        return lambda data: xz.unpack(header, data, block)

    return [_Block(offset=one.offset, size=one.size, length=one.length, unpack=unpacker(one)) for one in blocks]


class _Window:
    """Small reads of a file that go forward."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._data = b""
        self._at = 0

    def read(self, offset: int, size: int) -> bytes:
        within = offset - self._at
        if not 0 <= within <= len(self._data) - size:
            self._data, self._at, within = self._source.read_at(offset, _WINDOW), offset, 0
        data = self._data[within : within + size]
        if len(data) < size:
            raise CorruptData("the compressed file ends too early")
        return data


def _is_skippable(head: bytes) -> bool:
    return head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5


def _of_zstd(source: Source, size: int) -> list[_Block] | None:
    window = _Window(source)
    found: list[_Block] = []
    at = 0
    while at < size:
        source.read_at(0, 0)  # asks for time
        head = window.read(at, min(18, size - at))
        if _is_skippable(head):
            at += 8 + int.from_bytes(window.read(at + 4, 4), "little")
            continue
        length = _zstd_length(head)
        if head[:4] != _ZSTD or length is None or length > _LARGEST or len(found) > _MOST:
            return None
        end = _zstd_end(window, at, head)
        found.append(_Block(offset=at, size=end - at, length=length, unpack=_unzstd(length)))
        at = end
    return found


def _zstd_fields(head: bytes) -> tuple[int, int, int]:
    """(offset of the content size in a frame's header, its bytes, size of the header)"""
    descriptor = head[4]
    single = descriptor >> 5 & 1
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    field = (single, 2, 4, 8)[descriptor >> 6]
    return at, field, at + field


def _zstd_length(head: bytes) -> int | None:
    """Bytes that the frame unpacks to; None where its header does not say."""
    if len(head) < 18:
        return None
    at, field, _ = _zstd_fields(head)
    value = int.from_bytes(head[at : at + field], "little")
    return None if field == 0 else value + 256 if field == 2 else value


def _zstd_end(window: _Window, at: int, head: bytes) -> int:
    checksum = 4 if head[4] >> 2 & 1 else 0
    at += _zstd_fields(head)[2]
    while True:
        block = int.from_bytes(window.read(at, 3), "little")
        # A block of type 1 is one byte that is repeated.
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        if block & 1:
            return at + checksum


def _unzstd(length: int) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        return zstandard.decompress(data, length + 1)

    return unpack


def _of_bgzf(source: Source, size: int) -> list[_Block] | None:
    window = _Window(source)
    found: list[_Block] = []
    length = 0
    for at, whole in _bgzf_members(window, size):
        source.read_at(0, 0)  # asks for time
        if whole is None or len(found) > _MOST:
            return None
        length = int.from_bytes(window.read(at + whole - 4, 4), "little")
        if length > 1 << 16:
            return None
        if length:
            found.append(_Block(offset=at, size=whole, length=length, unpack=_gunzip))
    # The last member is empty; without it the file was cut, which is another reader's to say.
    return found if length == 0 else None


def _bgzf_members(window: _Window, size: int) -> Iterator[tuple[int, int | None]]:
    """(offset, bytes) of each member; None for one that is not of BGZF."""
    at = 0
    while at < size:
        head = window.read(at, 18) if size - at >= 18 else b""
        if head[:4] != _BGZF or head[12:16] != b"BC\2\0" or struct.unpack_from("<H", head, 10)[0] != 6:
            yield at, None
            return
        whole = struct.unpack_from("<H", head, 16)[0] + 1
        yield at, whole
        at += max(whole, 26)


def _gunzip(data: bytes) -> bytes:
    try:
        return Zlib(31).decompress(data, (1 << 16) + 1)
    except zlib.error as error:
        raise CorruptData(f"the compressed data is damaged ({error})") from error
