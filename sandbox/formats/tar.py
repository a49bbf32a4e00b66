"""Entries of tar archives: ustar, GNU and pax (POSIX.1-2001). Headers are parsed by the standard library."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Final

from sandbox.formats.member import Member
from sandbox.formats.streams import CorruptData, LimitedStream, Stream, exactly

BLOCK: Final = 512

_WHAT: Final = "the tar archive"
_MOST_HEADERS: Final = 200_000
_LONGEST: Final = 64 << 10
"""Bytes of a name, or of the pax records of one entry."""
_LARGEST: Final = 1 << 62
_EXTENDED_AT: Final = 482
"""In the header of a sparse file. In the blocks that follow, the flag is 8 bytes before the end (GNU tar's tar.h)."""


def members(stream: Stream) -> Iterator[Member]:
    """All entries in order. Raises `CorruptData` where the archive is cut inside one, or damaged.

    While an entry is current, `stream` is at its first byte, unless its content was read.
    """
    name: str | None = None
    size: int | None = None
    for _ in range(_MOST_HEADERS):
        stream.ask()
        head = stream.read(BLOCK)
        if not head.strip(b"\0"):
            return
        info = header(head)
        match info.type:
            case tarfile.GNUTYPE_LONGNAME:
                name = _decoded(_described(stream, info.size).rstrip(b"\0"))
            case tarfile.XHDTYPE | tarfile.SOLARIS_XHDTYPE:
                records = pax_records(_described(stream, info.size))
                name = _decoded(records["path"]) if "path" in records else name
                size = _pax_size(records["size"]) if "size" in records else size
            case tarfile.GNUTYPE_LONGLINK | tarfile.XGLTYPE:
                stream.skip(info.size + -info.size % BLOCK)
            case _:
                _pass_sparse_map(stream, head, info.type)
                # Directories and links have no bytes, whatever the header says. Unknown kinds may have some.
                held = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
                length = (info.size if size is None else size) if held else 0
                content = LimitedStream(stream, length)
                yield Member(
                    name=info.name if name is None else name,
                    size=length,
                    content=content,
                    regular=info.isreg() and info.type != tarfile.GNUTYPE_SPARSE,
                )
                stream.skip(content.left + -length % BLOCK)
                name, size = None, None


def header(block: bytes) -> tarfile.TarInfo:
    """Parses a header and compares its checksum. Raises `CorruptData`."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise CorruptData(f"{_WHAT} is damaged: {error}") from None
    if not 0 <= info.size < _LARGEST:
        raise CorruptData(f"{_WHAT} is damaged: an entry of {info.size} bytes")
    return info


def pax_records(data: bytes) -> dict[str, bytes]:
    """Values by keyword. A record begins with its length, since a value may contain newlines. Raises `CorruptData`."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 8)
        digits = data[at : max(blank, at)]
        end = at + int(digits) if digits.isdigit() else 0
        keyword, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not blank < end <= len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise CorruptData(f"{_WHAT} is damaged: its pax records")
        found[_decoded(keyword)] = value
        at = end
    return found


def _described(stream: Stream, size: int) -> bytes:
    """The content of an extended header, which describes the next entry."""
    if size > _LONGEST:
        raise CorruptData(f"{_WHAT} is damaged: a name of {size} bytes")
    data = exactly(stream, size, _WHAT)
    stream.skip(-size % BLOCK)
    return data


def _pax_size(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20 or int(value) >= _LARGEST:
        raise CorruptData(f"{_WHAT} is damaged: a size in its pax records")
    return int(value)


def _pass_sparse_map(stream: Stream, head: bytes, kind: bytes) -> None:
    more = kind == tarfile.GNUTYPE_SPARSE and head[_EXTENDED_AT]
    while more:
        stream.ask()
        more = exactly(stream, BLOCK, _WHAT)[504]


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
