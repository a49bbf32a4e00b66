"""Reads the index of an xz stream, so that a block can be unpacked without the others.

Format: "The .xz File Format" 1.2.1 of the XZ Utils. xz -T, dpkg-deb and rpm's threaded payloads write streams of many
blocks; a block is unpacked by liblzma as a stream of its own, with header, index and footer made around it, so that
its check (CRC32, CRC64 or SHA-256) is compared as well. In plain Python although python-xz is a library: that has no
bound on blocks, and does not unpack several while they arrive.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sandbox.formats.streams import CorruptData

_HEADER: Final = 12
_FOOTER: Final = 12
_LARGEST_INDEX: Final = 1 << 20
"""The index of a package of 6 GB in blocks of 1 MB has 36 KB."""
_LARGEST_BLOCK: Final = 96 << 20
"""A block is unpacked in memory, several at a time. xz -6 makes 24 MiB, -9 192 MiB."""


class NotSeekable(Exception):
    """One block, several streams, or blocks too large: it has to be read from its start. One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    offset: int
    """From the start of the xz stream."""
    unpadded: int
    """Bytes, as the index counts them; padded to four in the stream."""
    at: int
    """Offset of its first byte in the unpacked stream."""
    length: int
    """Bytes it unpacks to."""

    @property
    def size(self) -> int:
        return self.unpadded + (-self.unpadded % 4)


def blocks(read_at: Callable[[int, int], bytes], size: int) -> tuple[bytes, tuple[Block, ...]]:
    """(stream header, blocks) of an xz stream of `size` bytes. Raises `NotSeekable`, `CorruptData`."""
    if size < _HEADER + _FOOTER:
        raise CorruptData("it is not an xz stream")
    header = read_at(0, _HEADER)
    # The index of a package of gigabytes has a few hundred bytes: one request fetches it with the footer.
    tail = read_at(max(size - (16 << 10), 0), min(size, 16 << 10))
    footer = tail[-_FOOTER:]
    if header[:6] != b"\xfd7zXZ\0" or footer[10:] != b"YZ" or footer[8:10] != header[6:8]:
        raise NotSeekable("it is not one xz stream")
    if zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
        raise CorruptData("the end of its xz stream is damaged")
    index_size = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if index_size > min(_LARGEST_INDEX, size - _HEADER - _FOOTER):
        raise CorruptData("the index of its xz stream is damaged")
    if index_size + _FOOTER > len(tail):
        tail = read_at(size - _FOOTER - index_size, index_size + _FOOTER)
    found = _index(tail[-_FOOTER - index_size : -_FOOTER])
    if sum(block.size for block in found) + _HEADER + _FOOTER + index_size != size:
        raise NotSeekable("it is several xz streams")
    if len(found) < 2:
        raise NotSeekable("it is one xz block")
    if max(block.length for block in found) > _LARGEST_BLOCK:
        raise NotSeekable("its xz blocks are too large")
    # What cannot be compressed gets a header for each 64 KiB; nothing else makes a block longer than its content.
    if any(block.unpadded > block.length + (block.length >> 10) + 4096 for block in found):
        raise CorruptData("the index of its xz stream is damaged")
    return header, found


class Unpacking:
    """One block, unpacked while it arrives."""

    def __init__(self, header: bytes, block: Block) -> None:
        index = b"\0\x01" + _number(block.unpadded) + _number(block.length)
        index += bytes(-len(index) % 4)
        index += zlib.crc32(index).to_bytes(4, "little")
        fields = struct.pack("<I", len(index) // 4 - 1) + header[6:8]
        self._end = index + zlib.crc32(fields).to_bytes(4, "little") + fields + b"YZ"
        self._block = block
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
        self._decompress(header)
        self._missing = block.size
        self.length = 0
        """Bytes unpacked so far."""

    def feed(self, data: bytes) -> bytes:
        """Unpacks the next bytes of the block. The last ones also check the whole block. Raises `CorruptData`."""
        self._missing -= len(data)
        unpacked = self._decompress(data)
        if not self._missing:
            unpacked += self._decompress(self._end)
        self.length += len(unpacked)
        if self.length > self._block.length or (
            not self._missing and (self.length != self._block.length or not self._decompressor.eof)
        ):
            raise CorruptData("it cannot be unpacked: a block is not as long as the index says")
        return unpacked

    def _decompress(self, data: bytes) -> bytes:
        try:
            # One byte too many at most: a crafted block must not fill the memory.
            unpacked = self._decompressor.decompress(data, self._block.length + 1)
            if not self._decompressor.needs_input and not self._decompressor.eof:
                # With all bytes out, the check and what follows it may not have been looked at yet.
                unpacked += self._decompressor.decompress(b"", 1)
        except (lzma.LZMAError, EOFError) as error:
            raise CorruptData(f"it cannot be unpacked: {error}") from None
        return unpacked


def unpack(header: bytes, data: bytes, block: Block) -> bytes:
    """Unpacks one block and compares its check. Raises `CorruptData`."""
    if len(data) != block.size:
        raise CorruptData("it ends too early")
    return Unpacking(header, block).feed(data)


def _index(data: bytes) -> tuple[Block, ...]:
    if len(data) < 8 or data[0] != 0 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise CorruptData("the index of its xz stream is damaged")
    count, at = _varint(data, 1)
    found: list[Block] = []
    offset, unpacked = _HEADER, 0
    for _ in range(count):
        unpadded, at = _varint(data, at)
        length, at = _varint(data, at)
        block = Block(offset=offset, unpadded=unpadded, at=unpacked, length=length)
        found.append(block)
        offset += block.size
        unpacked += length
    return tuple(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(data) - 4:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise CorruptData("the index of its xz stream is damaged")


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
