"""Files of zip archives, by their local headers (PKWARE's APPNOTE 4.3).

In plain Python although the standard library has zipfile: that needs the directory at the end, which a cut archive does
not have, and which cannot be reached in an archive inside another one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from sandbox.formats.member import UNKNOWN, Member
from sandbox.formats.streams import ChunkStream, CorruptData, LimitedStream, Stream, UnsupportedFormat, exactly

_WHAT: Final = "the zip archive"
_MOST_MEMBERS: Final = 200_000
_STEP: Final = 1 << 18
_LATER: Final = 0xFFFFFFFF
"""Marks a size that is in the extra field, in 64 bits."""


def members(stream: Stream) -> Iterator[Member]:
    """Files in order. Raises `CorruptData` where the archive is cut or damaged."""
    for _ in range(_MOST_MEMBERS):
        stream.ask()
        head = stream.read(30)
        if head[:4] != b"PK\x03\x04":
            return
        if len(head) < 30:
            raise CorruptData(f"{_WHAT} ends too early")
        flags, method = struct.unpack_from("<HH", head, 6)
        packed, size, name_size, extra_size = struct.unpack_from("<IIHH", head, 18)
        name = exactly(stream, name_size, _WHAT).decode("utf-8", "surrogateescape")
        extra = exactly(stream, extra_size, _WHAT)
        if _LATER in {packed, size}:
            packed, size = _zip64(extra, packed, size)
        if flags & 1:
            raise UnsupportedFormat(f"{_WHAT} is encrypted")
        later = bool(flags & 8)
        if method not in {0, 8} or (method == 0 and later):
            raise UnsupportedFormat(f"zip compression method {method} is not read here")
        if later:
            # Sizes stand behind the data, with or without a mark, in 32 or 64 bits: looking further would be guessing.
            yield Member(name=name, size=UNKNOWN, content=ChunkStream(_inflated(stream), stream))
            return
        stored = LimitedStream(stream, packed)
        # No more of it than the header says.
        content = stored if method == 0 else LimitedStream(ChunkStream(_inflated(stored), stored), size)
        yield Member(name=name, size=packed if method == 0 else size, content=content, regular=not name.endswith("/"))
        stored.skip(stored.left)


def _inflated(stream: Stream) -> Iterator[bytes]:
    one = zlib.decompressobj(-15)
    while not one.eof:
        stream.ask()
        data = one.unconsumed_tail or stream.read(1 << 16)
        if not data:
            raise CorruptData(f"{_WHAT} ends too early")
        try:
            out = one.decompress(data, _STEP)
        except zlib.error as error:
            raise CorruptData(f"{_WHAT} is damaged ({error})") from error
        if out:
            yield out


def _zip64(extra: bytes, packed: int, size: int) -> tuple[int, int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if kind == 1 and len(body) >= 8:
            if size == _LATER:
                size, body = int.from_bytes(body[:8], "little"), body[8:]
            if packed == _LATER and len(body) >= 8:
                packed = int.from_bytes(body[:8], "little")
        at += 4 + length
    return packed, size
