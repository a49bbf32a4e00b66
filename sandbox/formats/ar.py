"""Members of ar archives, as deb(5) has them.

In plain Python although python-debian is a library: that reads whole files, and a package is read while it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.formats.streams import CorruptData, LimitedStream, Stream, exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class ArMember:
    """One member. The unread rest of its content is skipped before the next member."""

    name: str
    offset: int
    """Offset of its first byte, from the start of the archive."""
    size: int
    content: LimitedStream


def members(stream: Stream) -> Iterator[ArMember]:
    """Members in order. Raises `CorruptData`."""
    if exactly(stream, 8) != b"!<arch>\n":
        raise CorruptData("it is not a .deb: no ar archive")
    at = 8
    while header := stream.read(60):
        if len(header) < 60:
            raise CorruptData("it ends too early")
        digits = header[48:58].strip(b" ")
        if header[58:] != b"`\n" or not digits.isdigit():
            raise CorruptData("it is not a .deb: a member's header is wrong")
        size = int(digits)
        at += 60
        content = LimitedStream(stream, size)
        name = header[:16].decode("ascii", "replace").rstrip(" ").rstrip("/")
        yield ArMember(name=name, offset=at, size=size, content=content)
        stream.skip(content.left + size % 2)
        at += size + size % 2
