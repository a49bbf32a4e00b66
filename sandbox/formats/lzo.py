"""LZO1X decompression, for pages of `makedumpfile -l` dumps and for lzop files.

The stream is a chain of instructions: literal runs, and matches that copy from what was already written (Linux
Documentation/staging/lzo.rst). Compressed data is not trusted: output is bounded and every distance checked.

In plain Python although lzallright is a library: this code is sent to the host of another engine, where it finds
nothing but Python.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from sandbox.formats.streams import CorruptData, Stream, exactly

_BLOCK: Final = 1 << 20
_WHAT: Final = "the compressed data"


def decompress(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes. Raises `CorruptData` for a damaged stream or a longer result."""
    try:
        return bytes(_decompress(data, limit))
    except IndexError:
        raise CorruptData("the stream ends inside an instruction") from None


def _decompress(data: bytes, limit: int) -> bytearray:
    out = bytearray()
    at = 0
    # `state` is the number of literals that came with the last instruction: 0 to 3, or 4 for a separate run. It decides
    # what the instructions below 16 mean.
    state = 0
    if data[0] > 17:
        run = data[0] - 17
        at = 1 + run
        out += data[1:at]
        state = min(run, 4)
    while True:
        # One loop without calls: a page is some hundred instructions, and a log some dozen pages.
        code = data[at]
        if code >= 64:
            distance = (code >> 2 & 7) + (data[at + 1] << 3) + 1
            count = (code >> 5) + 1
            state = code & 3
            at += 2
        elif code >= 16:
            wide = code >= 32
            mask = 31 if wide else 7
            count = code & mask
            at += 1
            if count == 0:
                count, at = _length(data, at)
                count += mask
            count += 2
            low = data[at] | data[at + 1] << 8
            at += 2
            state = low & 3
            distance = (low >> 2) + 1
            if not wide:
                distance += 0x3FFF + ((code & 8) << 11)
                if distance == 0x4000:
                    return out
        elif state == 0:
            at += 1
            run = code + 3
            if code == 0:
                run, at = _length(data, at)
                run += 18
            end = at + run
            if end > len(data) or len(out) + run > limit:
                raise CorruptData("a literal run is longer than the page")
            out += data[at:end]
            at = end
            state = 4
            continue
        else:
            distance = (code >> 2) + (data[at + 1] << 2) + 1
            count = 2
            if state == 4:
                distance += 0x800
                count = 3
            state = code & 3
            at += 2
        have = len(out)
        start = have - distance
        if start < 0 or have + count > limit:
            raise CorruptData("a match reaches outside the page")
        if distance >= count:
            out += out[start : start + count]
        else:
            # The match overlaps what it writes: its first `distance` bytes repeat.
            out += (out[start:] * (count // distance + 1))[:count]
        if state:
            end = at + state
            out += data[at:end]
            at = end


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of zero bytes, each worth 255, and a last one that is not zero."""
    extra = 0
    while data[at] == 0:
        extra += 255
        at += 1
    return extra + data[at], at + 1


def unpacked(stream: Stream) -> Iterator[bytes]:
    """Decompresses an lzop file (lzop's lzop.c; all integers big-endian). Raises `CorruptData`."""
    head = exactly(stream, 9 + 2 + 2 + 2 + 1 + 1 + 4, _WHAT)
    (flags,) = struct.unpack_from(">I", head, 17)
    stream.skip((4 if flags & 0x800 else 0) + 12)  # filter; mode and two halves of the time
    stream.skip(int.from_bytes(stream.read(1), "big") + 4)  # name, checksum of the header
    if flags & 0x40:
        stream.skip(int.from_bytes(stream.read(4), "big") + 4)
    of_output = 4 * bool(flags & 0x1) + 4 * bool(flags & 0x100)
    of_input = 4 * bool(flags & 0x2) + 4 * bool(flags & 0x200)
    while True:
        stream.ask()
        size = int.from_bytes(exactly(stream, 4, _WHAT), "big")
        if size == 0:
            return
        packed = int.from_bytes(stream.read(4), "big")
        if size > _BLOCK or packed > size:
            raise CorruptData("an lzop block is damaged")
        stream.skip(of_output + (of_input if packed < size else 0))
        block = exactly(stream, packed, _WHAT)
        try:
            yield decompress(block, size) if packed < size else block
        except CorruptData as error:
            raise CorruptData(f"the compressed data is damaged ({error})") from error
