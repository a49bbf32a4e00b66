"""Members of tar, cpio, zip and 7z archives, one after the other, without unpacking what is not asked for."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.formats.streams import (
    ChunkStream,
    LimitedStream,
    SourceStream,
    Stream,
    WrapperDamagedError,
    WrapperForeignError,
)

ARCHIVES: Final = frozenset({"tar", "cpio", "zip", "7z"})

_MOST_MEMBERS: Final = 200_000
_LONGEST_NAME: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    name: str
    size: int | None
    """None where the archive says so only behind the data."""
    content: Stream
    """To be read before the next member is asked for; what is left over is skipped."""


def members(kind: str, stream: Stream) -> Iterator[Member]:
    """Regular files in order. Raises `WrapperDamagedError` where the archive is cut or damaged."""
    match kind:
        case "tar":
            return _tar(stream)
        case "cpio":
            return _cpio(stream)
        case "zip":
            return _zip(stream)
        case "7z":
            return _sevenzip(stream)
        case _:
            raise AssertionError(kind)


def _tar(stream: Stream) -> Iterator[Member]:
    """ustar, GNU and pax (POSIX.1-2001)."""
    name: str | None = None
    pax_size: int | None = None
    for _ in range(_MOST_MEMBERS):
        head = stream.read(512)
        if len(head) < 512:
            if head:
                raise WrapperDamagedError("the tar archive ends too early")
            return
        if not head.strip(b"\0"):
            return
        size = _tar_number(head[124:136])
        kind = head[156:157]
        if kind in b"LxgK" and kind:
            # What follows describes the next member: a long name, or pax keywords.
            text = stream.read(min(size, _LONGEST_NAME))
            stream.skip(size - len(text) + -size % 512)
            if kind == b"L":
                name = text.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == b"x":
                keys = _pax(text)
                name = keys.get("path", name)
                if keys.get("size", "").isdigit():
                    pax_size = int(keys["size"][:20])
            continue
        if pax_size is not None:
            size = pax_size
        content = LimitedStream(stream, size)
        if kind in b"0\0" or kind == b"7":
            yield Member(name=name or _tar_name(head), size=size, content=content)
        name, pax_size = None, None
        stream.skip(content.left + -size % 512)


def _tar_number(field: bytes) -> int:
    if field[0] & 0x80:
        # GNU's binary form for sizes from 8 GiB on.
        value = int.from_bytes(field[1:], "big")
    else:
        try:
            value = int(field.strip(b" \0") or b"0", 8)
        except ValueError as error:
            raise WrapperDamagedError("a tar header is damaged") from error
    if value > 1 << 62:
        raise WrapperDamagedError("a tar header is damaged")
    return value


def _tar_name(head: bytes) -> str:
    prefix = head[345:500].split(b"\0", 1)[0] if head[257:263] == b"ustar\0" else b""
    name = head[:100].split(b"\0", 1)[0]
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax(text: bytes) -> dict[str, str]:
    found = {}
    for line in text.split(b"\n"):
        key, _, value = line.partition(b" ")[2].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found


def _cpio(stream: Stream) -> Iterator[Member]:
    """The "new" portable format, which is what initramfs images and rpm2cpio use."""
    for _ in range(_MOST_MEMBERS):
        head = stream.read(110)
        if len(head) < 110 or head[:6] not in {b"070701", b"070702"}:
            raise WrapperDamagedError("the cpio archive ends too early or is damaged")
        try:
            mode, size, name_size = (int(head[at : at + 8], 16) for at in (14, 54, 94))
        except ValueError as error:
            raise WrapperDamagedError("a cpio header is damaged") from error
        name = stream.read(min(name_size, _LONGEST_NAME)).rstrip(b"\0").decode("utf-8", "replace")
        stream.skip(-(110 + name_size) % 4)
        if name == "TRAILER!!!":
            return
        content = LimitedStream(stream, size)
        if mode & 0o170000 == 0o100000:
            yield Member(name=name, size=size, content=content)
        stream.skip(content.left + -size % 4)


def _zip(stream: Stream) -> Iterator[Member]:
    """Local headers in order (PKWARE's APPNOTE 4.3); the central directory at the end is not needed for this."""
    for _ in range(_MOST_MEMBERS):
        head = stream.read(30)
        if head[:4] != b"PK\x03\x04":
            return
        if len(head) < 30:
            raise WrapperDamagedError("the zip archive ends too early")
        flags, method = struct.unpack_from("<HH", head, 6)
        packed, size, name_size, extra_size = struct.unpack_from("<IIHH", head, 18)
        name = stream.read(name_size).decode("utf-8", "replace")
        extra = stream.read(extra_size)
        if 0xFFFFFFFF in {packed, size}:
            packed, size = _zip64(extra, packed, size)
        if flags & 1:
            raise WrapperForeignError("the zip archive is encrypted")
        later = bool(flags & 8)
        if method not in {0, 8} or (method == 0 and later):
            raise WrapperForeignError(f"zip compression method {method} is not read here")
        if method == 0:
            stored = LimitedStream(stream, packed)
            if not name.endswith("/"):
                yield Member(name=name, size=size, content=stored)
            stream.skip(stored.left)
            continue
        inflating = _Deflated(stream, None if later else packed)
        content = ChunkStream(inflating.chunks())
        yield Member(name=name, size=None if later else size, content=content)
        if later:
            # Sizes stand behind the data, with or without a mark, in 32 or 64 bits: looking further would be guessing.
            return
        inflating.skip_rest()


class _Deflated:
    """One deflated member."""

    def __init__(self, stream: Stream, packed: int | None) -> None:
        self._stream = stream
        self._left = packed

    def chunks(self) -> Iterator[bytes]:
        one = zlib.decompressobj(-15)
        while not one.eof:
            data = one.unconsumed_tail or self._take()
            if not data:
                raise WrapperDamagedError("the zip archive ends too early")
            try:
                out = one.decompress(data, 1 << 18)
            except zlib.error as error:
                raise WrapperDamagedError(f"the zip archive is damaged ({error})") from error
            if out:
                yield out

    def skip_rest(self) -> None:
        self._stream.skip(self._left or 0)

    def _take(self) -> bytes:
        if self._left is None:
            return self._stream.read(1 << 16)
        data = self._stream.read(min(1 << 16, self._left))
        self._left -= len(data)
        return data


def _sevenzip(stream: Stream) -> Iterator[Member]:
    from sandbox.formats import sevenzip

    if not isinstance(stream, SourceStream):
        raise WrapperForeignError("a 7z archive inside another archive has to be unpacked by hand")
    for name, size, content in sevenzip.members(stream.source):
        yield Member(name=name, size=size, content=content)


def _zip64(extra: bytes, packed: int, size: int) -> tuple[int, int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if kind == 1 and len(body) >= 8:
            if size == 0xFFFFFFFF:
                size, body = int.from_bytes(body[:8], "little"), body[8:]
            if packed == 0xFFFFFFFF and len(body) >= 8:
                packed = int.from_bytes(body[:8], "little")
        at += 4 + length
    return packed, size
