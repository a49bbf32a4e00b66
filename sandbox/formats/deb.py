"""The compressed tar archive in a Debian package, deb(5). A package is never unpacked as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.formats import ar, tar
from sandbox.formats.ar import ArMember
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.member import Member
from sandbox.formats.streams import CorruptData, Stream


def data_part(stream: Stream) -> tuple[str, ArMember]:
    """(compression, place) of data.tar in a package read from its start. Raises `CorruptData`."""
    for member in ar.members(stream):
        if member.name.startswith("data.tar") and (kind := by_suffix(member.name.removeprefix("data.tar"))) is not None:
            return kind, member
    raise CorruptData("it is not a .deb: no data.tar in it")


def files(stream: Stream) -> Iterator[Member]:
    """Entries of the package's data.tar."""
    kind, data = data_part(stream)
    return tar.members(decompressed(data.content, kind))
