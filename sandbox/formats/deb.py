"""Archives, walked member by member and never unpacked as a whole: ar and tar of a .deb.

Names of members are only compared, never used as paths: nothing a package holds decides where a file is written.
Layouts: deb(5), ar as in Debian's deb(5), tar as in POSIX.1-1988 with GNU's long names.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.formats.stream import Damaged, Skippable, exactly

_BLOCK: Final = 512
_LONGEST_NAME: Final = 64 << 10
_COMPRESSIONS: Final = {"": "none", ".xz": "xz", ".gz": "gzip", ".bz2": "bzip2", ".lzma": "lzma", ".zst": "zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive. The stream stands at its first byte."""

    path: str
    """Without a leading "./" or "/"."""
    size: int
    regular: bool
    link: str = ""
    """Target of a symbolic link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArMember:
    name: str
    offset: int
    """Of its first byte, from the start of the package."""
    size: int


def ar_members(stream: Skippable) -> Iterator[ArMember]:
    """Members of an ar archive. The caller reads or skips exactly `size` bytes before it asks for the next one."""
    if exactly(stream, 8) != b"!<arch>\n":
        raise Damaged("it is not a .deb: no ar archive")
    at = 8
    while header := stream.read(60):
        if len(header) < 60:
            header += exactly(stream, 60 - len(header))
        try:
            size = int(header[48:58])
        except ValueError:
            size = -1
        if header[58:] != b"`\n" or size < 0:
            raise Damaged("it is not a .deb: a member's header is wrong")
        at += 60
        yield ArMember(name=header[:16].decode("ascii", "replace").rstrip(" ").rstrip("/"), offset=at, size=size)
        at += size
        if at % 2:
            stream.skip(1)
            at += 1


def deb_compression(name: str) -> str | None:
    """How data.tar is compressed, from the member's name; None for another member."""
    return _COMPRESSIONS.get(name.removeprefix("data.tar")) if name.startswith("data.tar") else None


def tar_members(stream: Skippable) -> Iterator[Member]:
    """Members of a tar archive. The caller reads or skips exactly `size` bytes before it asks for the next one."""
    long_name: str | None = None
    while True:
        header = stream.read(_BLOCK)
        if len(header) < _BLOCK and header:
            header += exactly(stream, _BLOCK - len(header))
        if not any(header):
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise Damaged(f"it is not a tar archive: {error}") from None
        padding = -info.size % _BLOCK
        if info.size < 0:
            raise Damaged("it is not a tar archive: negative size")
        if info.type in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE}:
            if info.size > _LONGEST_NAME:
                raise Damaged("a name in it is too long")
            data = exactly(stream, info.size)
            stream.skip(padding)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type == tarfile.XHDTYPE:
                long_name = _pax_path(data) or long_name
            continue
        size = info.size if info.isreg() else 0
        name = info.name if long_name is None else long_name
        long_name = None
        yield Member(path=name.removeprefix("./").lstrip("/"), size=size, regular=info.isreg(), link=info.linkname)
        if size:
            stream.skip(padding)


def deb_data(stream: Skippable) -> tuple[str, ArMember]:
    """(compression, place) of the compressed tar in a .deb read from its start; the stream stands there."""
    for member in ar_members(stream):
        if (kind := deb_compression(member.name)) is not None:
            return kind, member
        stream.skip(member.size)
    raise Damaged("it is not a .deb: no data.tar in it")


def _pax_path(data: bytes) -> str | None:
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            return None
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return None
