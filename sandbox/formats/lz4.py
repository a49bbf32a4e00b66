"""LZ4 frames (lz4 doc/lz4_Frame_format.md and lz4_Block_format.md). Checksums are not compared.

In plain Python although cramjam and lz4 are libraries: this code is sent to the host of another engine, where it finds
nothing but Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandbox.formats.streams import CorruptData, Stream, exactly

_WINDOW: Final = 64 << 10
_ASKED: Final = 16 << 10
"""Bytes of a block between two looks at the clock."""

_BLOCK: Final = {4: 64 << 10, 5: 256 << 10, 6: 1 << 20, 7: 4 << 20}


def unpacked(stream: Stream) -> Iterator[bytes]:
    """Decompresses the frames of a file. Raises `CorruptData`."""
    while head := stream.read(7):
        stream.ask()
        if head[:4] != b"\x04\x22\x4d\x18" or len(head) < 7:
            return
        flags, size_code = head[4], head[5] >> 4 & 7
        if flags >> 6 != 1 or size_code not in _BLOCK:
            raise CorruptData("an LZ4 frame header is damaged")
        # After the two flag bytes: content size and dictionary id when flagged, then one byte of checksum (read already
        # when there is neither).
        stream.skip((8 if flags & 8 else 0) + (4 if flags & 1 else 0))
        linked = not flags & 0x20
        window = b""
        while True:
            size = int.from_bytes(exactly(stream, 4, "the compressed data"), "little")
            if size == 0:
                stream.skip(4 if flags & 4 else 0)
                break
            stream.ask()
            stored, size = size >> 31, size & 0x7FFFFFFF
            if size > _BLOCK[size_code]:
                raise CorruptData("an LZ4 block is larger than its frame allows")
            block = exactly(stream, size, "the compressed data")
            stream.skip(4 if flags & 0x10 else 0)
            out = block if stored else _unpack(block, window, _BLOCK[size_code], stream)
            if linked:
                window = (window + out)[-_WINDOW:] if len(out) < _WINDOW else out[-_WINDOW:]
            if out:
                yield out


def _unpack(block: bytes, window: bytes, limit: int, stream: Stream) -> bytes:
    out = bytearray(window)
    limit += len(window)
    at = 0
    asked = 0
    try:
        while True:
            if at - asked > _ASKED:
                stream.ask()
                asked = at
            token = block[at]
            at += 1
            run = token >> 4
            if run == 15:
                run, at = _length(block, at, run)
            out += block[at : at + run]
            at += run
            if at >= len(block):
                break
            distance = block[at] | block[at + 1] << 8
            at += 2
            count = token & 15
            if count == 15:
                count, at = _length(block, at, count)
            count += 4
            start = len(out) - distance
            if distance == 0 or start < 0 or len(out) + count > limit:
                raise CorruptData("the LZ4 data is damaged")
            if distance >= count:
                out += out[start : start + count]
            else:
                out += (out[start:] * (count // distance + 1))[:count]
    except IndexError:
        raise CorruptData("the LZ4 data is damaged") from None
    return bytes(out[len(window) :])


def _length(block: bytes, at: int, length: int) -> tuple[int, int]:
    while True:
        byte = block[at]
        at += 1
        length += byte
        if byte != 255:
            return length, at
