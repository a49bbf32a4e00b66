"""Snappy block decompression, for pages of `makedumpfile -p` dumps (google/snappy format_description.txt).

In plain Python although cramjam is a library: this code is sent to the host of another engine, where it finds
nothing but Python.
"""

from __future__ import annotations

from sandbox.formats.streams import CorruptData


def decompress(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes. Raises `CorruptData` for a damaged stream or a longer result."""
    try:
        return bytes(_decompress(data, limit))
    except IndexError:
        raise CorruptData("the stream ends inside an element") from None


def _decompress(data: bytes, limit: int) -> bytearray:
    wanted, at = _varint(data)
    if wanted > limit:
        raise CorruptData("the result would be longer than a page")
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        kind = tag & 3
        if kind == 0:
            count = (tag >> 2) + 1
            if count > 60:
                width = count - 60
                count = int.from_bytes(data[at : at + width], "little") + 1
                at += width
            if at + count > len(data) or len(out) + count > wanted:
                raise CorruptData("a literal is longer than the result")
            out += data[at : at + count]
            at += count
            continue
        if kind == 1:
            count = ((tag >> 2) & 7) + 4
            distance = (tag >> 5) << 8 | data[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            count = (tag >> 2) + 1
            distance = int.from_bytes(data[at : at + width], "little")
            at += width
        start = len(out) - distance
        if distance == 0 or start < 0 or len(out) + count > wanted:
            raise CorruptData("a copy reaches outside the result")
        if distance >= count:
            out += out[start : start + count]
        else:
            out += (out[start:] * (count // distance + 1))[:count]
    if len(out) != wanted:
        raise CorruptData("the stream is shorter than it says")
    return out


def _varint(data: bytes) -> tuple[int, int]:
    value = 0
    for at in range(5):
        value |= (data[at] & 0x7F) << (7 * at)
        if data[at] < 0x80:
            return value, at + 1
    raise CorruptData("the length is too long")
