"""Entries of cpio archives of the "new" portable format, which initramfs images and RPM packages have.

Layout: cpio(5). The standard library does not read it, and libarchive, which does, is a C library.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.formats.member import Member
from sandbox.formats.streams import CorruptData, LimitedStream, Stream, exactly

MAGICS: Final = frozenset({b"070701", b"070702"})
ALIGNMENT: Final = 4
HEADER: Final = 110

_WHAT: Final = "the cpio archive"
_MOST_MEMBERS: Final = 200_000
_LONGEST_NAME: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A header, with the name that follows it."""

    name: str
    size: int
    mode: int


def members(stream: Stream) -> Iterator[Member]:
    """Entries in order. Raises `CorruptData` where the archive is cut or damaged."""
    for _ in range(_MOST_MEMBERS):
        stream.ask()
        if exactly(stream, 6, _WHAT) not in MAGICS:
            raise CorruptData(f"{_WHAT} is damaged")
        if (one := entry(stream)) is None:
            return
        content = LimitedStream(stream, one.size)
        yield Member(name=one.name, size=one.size, content=content, regular=stat.S_ISREG(one.mode))
        stream.skip(content.left + -one.size % ALIGNMENT)


def entry(stream: Stream) -> Entry | None:
    """Reads an entry after its magic; None at the end of the archive. Raises `CorruptData`."""
    fields = exactly(stream, HEADER - 6, _WHAT)
    mode, size, name_size = (number(fields[at : at + 8]) for at in (8, 48, 88))
    if name_size > _LONGEST_NAME:
        raise CorruptData(f"{_WHAT} is damaged: a name of {name_size} bytes")
    name = exactly(stream, name_size, _WHAT).rstrip(b"\0").decode("utf-8", "surrogateescape")
    stream.skip(-(HEADER + name_size) % ALIGNMENT)
    return None if name == "TRAILER!!!" else Entry(name=name, size=size, mode=mode)


def number(digits: bytes) -> int:
    """A field of a header. Raises `CorruptData`."""
    try:
        return int.from_bytes(bytes.fromhex(digits.decode("ascii")), "big")
    except ValueError:
        raise CorruptData(f"{_WHAT} is damaged: a number in a header") from None
