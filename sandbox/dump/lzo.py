"""LZO1X decompression, for pages of `makedumpfile -l` dumps and for lzop files.

The stream is a chain of instructions: literal runs, and matches that copy from what was already written (Linux
Documentation/staging/lzo.rst). Compressed data is not trusted: output is bounded and every distance checked.
"""

from __future__ import annotations


class LzoError(ValueError):
    """The stream is damaged."""


def decompress(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes. Raises `LzoError` for a damaged stream or a longer result."""
    try:
        return bytes(_decompress(data, limit))
    except IndexError:
        raise LzoError("the stream ends inside an instruction") from None


def _decompress(data: bytes, limit: int) -> bytearray:
    out = bytearray()
    at = 0
    first = data[0]
    # `state` is how many literals the last instruction brought along: 0 to 3, or 4 for a run of its own. It decides
    # what the instructions below 16 mean.
    state = 0
    if first > 17:
        at = 1
        run = first - 17
        out += data[at : at + run]
        at += run
        state = min(run, 4)
    while True:
        code = data[at]
        at += 1
        if code < 16:
            if state == 0:
                run = code + 3
                if code == 0:
                    extra, at = _length(data, at)
                    run = 18 + extra
                if at + run > len(data) or len(out) + run > limit:
                    raise LzoError("a literal run is longer than the page")
                out += data[at : at + run]
                at += run
                state = 4
                continue
            trailing = code & 3
            distance = (code >> 2) + (data[at] << 2) + 1
            at += 1
            count = 2
            if state == 4:
                distance += 0x800
                count = 3
        elif code >= 64:
            trailing = code & 3
            distance = ((code >> 2) & 7) + (data[at] << 3) + 1
            at += 1
            count = (code >> 5) + 1
        else:
            wide = code >= 32
            mask = 31 if wide else 7
            count = (code & mask) + 2
            if code & mask == 0:
                extra, at = _length(data, at)
                count = mask + 2 + extra
            low = data[at] | data[at + 1] << 8
            at += 2
            trailing = low & 3
            distance = (low >> 2) + 1
            if not wide:
                distance += 0x3FFF + ((code & 8) << 11)
                if distance == 0x4000:
                    return out
        _copy(out, distance, count, limit)
        state = trailing
        if trailing:
            out += data[at : at + trailing]
            at += trailing


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of zero bytes, each worth 255, and a last one that is not zero."""
    extra = 0
    while data[at] == 0:
        extra += 255
        at += 1
    return extra + data[at], at + 1


def _copy(out: bytearray, distance: int, count: int, limit: int) -> None:
    start = len(out) - distance
    if start < 0 or len(out) + count > limit:
        raise LzoError("a match reaches outside the page")
    if distance >= count:
        out += out[start : start + count]
    else:
        # The match overlaps what it writes: its first `distance` bytes repeat.
        out += (out[start:] * (count // distance + 1))[:count]
