"""Selects the reader for an archive with a dump. Unpacks only the members that are read."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.formats import cpio, sevenzip, tar, zip as zip_format
from sandbox.formats.member import Member
from sandbox.formats.streams import SourceStream, Stream, UnsupportedFormat


def files(kind: str, stream: Stream) -> Iterator[Member]:
    """Regular files in order. Raises `CorruptData` where the archive is cut or damaged."""
    return (member for member in _members(kind, stream) if member.regular)


def _members(kind: str, stream: Stream) -> Iterator[Member]:
    match kind:
        case "tar":
            return tar.members(stream)
        case "cpio":
            return cpio.members(stream)
        case "zip":
            return zip_format.members(stream)
        case "7z":
            # The list of contents is at the end, so the archive must be a source with random access.
            if not isinstance(stream, SourceStream):
                raise UnsupportedFormat("a 7z archive inside another archive has to be unpacked by hand")
            return sevenzip.members(stream.source)
        case _:
            raise AssertionError(kind)
