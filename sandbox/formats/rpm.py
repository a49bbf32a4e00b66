"""RPM packages: header, file list, digests, and the cpio payload.

The signature covers the header, and the header has a digest for each file: one file can be read and verified without
the rest. Layout as in "RPM Package format" of rpm's own manual (V4); payloads with files above 4 GiB use the short cpio
headers rpm 4.12 introduced, with a file's number in place of its description. In plain Python although rpmfile is a
library: that has no bounds, and no signatures.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from sandbox.formats import cpio
from sandbox.formats.member import Member
from sandbox.formats.streams import CorruptData, LimitedStream, Stream, exactly

_LEAD: Final = 96
_MAGIC: Final = b"\x8e\xad\xe8\x01"
_MOST_ENTRIES: Final = 1 << 12
_MOST_DATA: Final = 16 << 20
"""The header of a kernel's debug package, with thousands of files, is 1 to 2 MB."""
_MOST_FILES: Final = 1 << 17
_MOST_PATHS: Final = 32 << 20
"""Characters of all paths: a short header can give one long directory to every file."""
_LONGEST_TEXT: Final = 4096
_MOST_SIGNATURES: Final = 16
_LARGEST_SIGNATURE: Final = 64 << 10
_GHOST: Final = 1 << 6
_HASHES: Final = {
    1: "md5",
    2: "sha1",
    8: "sha256",
    9: "sha384",
    10: "sha512",
    11: "sha224",
    12: "sha3_256",
    14: "sha3_512",
}
"""By OpenPGP number, as FILEDIGESTALGO has it."""
_SHORT_MAGIC: Final = b"07070X"
_SHORT_HEADER: Final = 16
_LARGEST_PLAIN: Final = 0xFFFFFFFF

_STRING, _STRING_ARRAY, _I18N, _BINARY = 6, 8, 9, 7
_NUMBERS: Final = {2: "B", 3: "H", 4: "I", 5: "Q"}

_MODE: Final = 0xFFFF
"""Bits of a mode. A header may have wider numbers, which `stat` refuses."""
_OF_SIGNATURES: Final = frozenset({267, 268, 273, 278})
_OF_PACKAGES: Final = frozenset(
    {1000, 1001, 1002, 1022, 1028, 1030, 1035, 1037, 1096, 1116, 1117, 1118, 1125, 5008, 5011}
)
"""Tags that are used here. A header has eighty more, which are not decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmFile:
    path: str
    """Without a leading "/"."""
    size: int
    mode: int
    digest: str
    inode: int
    ghost: bool

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.mode) and not self.ghost


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpm:
    """Everything before the payload."""

    name: str
    version: str
    release: str
    arch: str
    header: bytes
    """The bytes that are signed."""
    signatures: tuple[bytes, ...]
    """OpenPGP signatures over the header."""
    payload_at: int
    compression: str
    hash: str
    files: tuple[RpmFile, ...]

    @property
    def nevra(self) -> str:
        return f"{self.name}-{self.version}-{self.release}.{self.arch}"


def read(stream: Stream) -> Rpm:
    """Reads everything before the payload; the stream is then at the payload. Raises `CorruptData`."""
    lead = exactly(stream, _LEAD)
    if lead[:4] != b"\xed\xab\xee\xdb":
        raise CorruptData("it is not an RPM package")
    _, signature, size = _header(stream, _OF_SIGNATURES)
    stream.skip(-size % 8)
    header, tags, length = _header(stream, _OF_PACKAGES)
    digest = signature.get(273)
    if isinstance(digest, str) and hashlib.sha256(header).hexdigest() != digest:
        raise CorruptData("its header is damaged")
    return Rpm(
        name=_text(tags, 1000),
        version=_text(tags, 1001),
        release=_text(tags, 1002),
        arch=_text(tags, 1022),
        header=header,
        signatures=_signatures(signature),
        payload_at=_LEAD + size + (-size % 8) + length,
        compression=_text(tags, 1125) or "gzip",
        hash=_HASHES.get(next(iter(_numbers(tags, 5011)), 1), ""),
        files=_files(tags),
    )


def find(rpm: Rpm, patterns: Sequence[re.Pattern[str]]) -> RpmFile | None:
    """The first regular file any pattern matches, in the patterns' order."""
    for pattern in patterns:
        for file in rpm.files:
            if file.regular and pattern.match(file.path):
                return file
    return None


def offset_in_payload(rpm: Rpm, wanted: RpmFile) -> int | None:
    """Offset of `wanted`'s cpio header in the unpacked payload; None if it cannot be computed.

    The payload has the files in the header's order. Hard links share their bytes, which follow only one of them.
    """
    large = any(file.size > _LARGEST_PLAIN for file in rpm.files)
    inodes: set[int] = set()
    at = 0
    for file in rpm.files:
        if file is wanted:
            return at
        if file.ghost:
            continue
        if file.regular and file.inode in inodes:
            return None
        inodes.add(file.inode)
        at += _SHORT_HEADER if large else _padded(cpio.HEADER + len(_encoded(f"./{file.path}")) + 1)
        if stat.S_ISREG(file.mode) or stat.S_ISLNK(file.mode):
            at += _padded(file.size)
    return None


def payload_member(stream: Stream, rpm: Rpm) -> Member | None:
    """The next cpio entry; `stream` is then at its first byte. None at the end. Raises `CorruptData`."""
    magic = exactly(stream, len(_SHORT_MAGIC))
    if magic == _SHORT_MAGIC:
        number = cpio.number(exactly(stream, 8))
        stream.skip(_SHORT_HEADER - 14)
        if number >= len(rpm.files):
            raise CorruptData("its payload names a file the header does not have")
        file = rpm.files[number]
        name, size = file.path, file.size if stat.S_ISREG(file.mode) or stat.S_ISLNK(file.mode) else 0
    elif magic in cpio.MAGICS:
        if (entry := cpio.entry(stream)) is None:
            return None
        name, size = entry.name, entry.size
    else:
        raise CorruptData("its payload is not a cpio archive")
    return Member(name=name, size=size, content=LimitedStream(stream, size))


def payload_members(stream: Stream, rpm: Rpm) -> Iterator[Member]:
    """All entries. The unread rest of an entry is skipped before the next one."""
    while (member := payload_member(stream, rpm)) is not None:
        yield member
        member.content.skip(sys.maxsize)
        stream.skip(-member.size % cpio.ALIGNMENT)


_Value = str | bytes | tuple[int, ...] | tuple[str, ...]


def _header(stream: Stream, wanted: AbstractSet[int]) -> tuple[bytes, Mapping[int, _Value], int]:
    """(its bytes, those of its tags that are `wanted`, length) of a header structure."""
    intro = exactly(stream, 16)
    count, size = struct.unpack(">II", intro[8:])
    if intro[:4] != _MAGIC or count > _MOST_ENTRIES or size > _MOST_DATA:
        raise CorruptData("it is not an RPM package: a header is wrong")
    index = exactly(stream, 16 * count)
    data = exactly(stream, size)
    tags: dict[int, _Value] = {}
    for at in range(0, len(index), 16):
        tag, kind, offset, items = struct.unpack_from(">4I", index, at)
        if tag not in wanted:
            continue
        if tag in tags:
            raise CorruptData("it is not an RPM package: a header has one tag twice")
        value = _value(data, kind, offset, items)
        if value is not None:
            tags[tag] = value
    return intro + index + data, tags, 16 + len(index) + size


def _value(data: bytes, kind: int, offset: int, count: int) -> _Value | None:
    if offset > len(data) or (kind != _BINARY and count > _MOST_FILES):
        raise CorruptData("it is not an RPM package: a header is wrong")
    if (code := _NUMBERS.get(kind)) is not None:
        if offset + count * struct.calcsize(">" + code) > len(data):
            raise CorruptData("it is not an RPM package: a header is wrong")
        return struct.unpack_from(f">{count}{code}", data, offset)
    if kind == _BINARY:
        return data[offset : offset + count]
    if kind in {_STRING, _I18N}:
        text = data[offset : offset + _LONGEST_TEXT].partition(b"\0")
        if not text[1]:
            raise CorruptData("it is not an RPM package: a name in its header is too long")
        return _decoded(text[0])
    if kind == _STRING_ARRAY:
        # With a limit, split keeps everything after the array as one last part.
        return tuple(map(_decoded, data[offset:].split(b"\0", count)[:count]))
    return None


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(tags: Mapping[int, _Value], tag: int) -> str:
    value = tags.get(tag, "")
    return value if isinstance(value, str) else ""


def _numbers(tags: Mapping[int, _Value], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, tuple) else ()


def _texts(tags: Mapping[int, _Value], tag: int) -> tuple[str, ...]:
    value = tags.get(tag, ())
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, tuple) else ()


def _signatures(tags: Mapping[int, _Value]) -> tuple[bytes, ...]:
    """RSA, DSA and (rpm 6) any OpenPGP signatures over the header; those over header and payload need all of it."""
    import base64
    import binascii

    found = [value for tag in (268, 267) if isinstance(value := tags.get(tag), bytes)]
    for text in _texts(tags, 278)[:_MOST_SIGNATURES]:
        # Not ASCII is a ValueError of its own kind.
        with contextlib.suppress(binascii.Error, ValueError):
            found.append(base64.b64decode(text))
    return tuple(one for one in found if len(one) <= _LARGEST_SIGNATURE)


def _files(tags: Mapping[int, _Value]) -> tuple[RpmFile, ...]:
    names, directories, numbers = _texts(tags, 1117), _texts(tags, 1118), _numbers(tags, 1116)
    sizes = _numbers(tags, 5008) or _numbers(tags, 1028)
    modes, digests, inodes, flags = _numbers(tags, 1030), _texts(tags, 1035), _numbers(tags, 1096), _numbers(tags, 1037)
    count = len(names)
    if any(len(column) != count for column in (numbers, sizes, modes, digests, inodes, flags)) or any(
        number >= len(directories) for number in numbers
    ):
        raise CorruptData("its file list is damaged")
    if sum(len(directories[number]) for number in numbers) + sum(map(len, names)) > _MOST_PATHS:
        raise CorruptData("its file list is too long")
    return tuple(
        RpmFile(
            path=(directories[numbers[at]] + names[at]).lstrip("/"),
            size=sizes[at],
            mode=modes[at] & _MODE,
            digest=digests[at],
            inode=inodes[at],
            ghost=bool(flags[at] & _GHOST),
        )
        for at in range(count)
    )


def _padded(size: int) -> int:
    return size + -size % cpio.ALIGNMENT
