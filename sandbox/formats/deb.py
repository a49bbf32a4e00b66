"""The compressed tar archives in a Debian package, deb(5). A package is never unpacked as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.formats import ar, tar
from sandbox.formats.ar import ArMember
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.streams import CorruptData, Member, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """control.tar or data.tar."""

    compression: str
    member: ArMember


def part(stream: Stream, name: str) -> Part:
    """The one of that name ("control.tar", "data.tar") in a package read from its start. Raises `CorruptData`."""
    for member in ar.members(stream):
        if member.name.startswith(name) and (kind := by_suffix(member.name.removeprefix(name))) is not None:
            return Part(compression=kind, member=member)
    raise CorruptData(f"it is not a .deb: no {name} in it")


def files(stream: Stream) -> Iterator[Member]:
    """Entries of the package's data.tar."""
    data = part(stream, "data.tar")
    return tar.members(decompressed(data.member.content, data.compression))
