"""The little of ELF that tells builds of vmlinux apart: build-id, banner, sections.

Reads untrusted files: every count and size is bounded before it is used, and nothing is mapped or executed.
Structures as in elf(5).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

_NT_GNU_BUILD_ID: Final = 3
_PT_NOTE: Final = 4
_SHT_NOTE: Final = 7
_SHT_NOBITS: Final = 8
_NOTES_LIMIT: Final = 1 << 20
_BANNER: Final = re.compile(rb"Linux version [\x20-\x7e]{8,1000}")


class NotElf(ValueError):
    """The file is not an ELF file, or not one that could be a vmlinux."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    align: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    type: int
    offset: int
    size: int
    """Bytes in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    order: str
    """Of bytes, as struct writes it."""
    wide: bool
    """64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What a vmlinux or module says about its build."""

    build_id: str | None
    """Lower-case hexadecimal."""
    type: int
    """2 a linked program, 3 a position-independent one, 1 a module."""
    layout: Layout
    sections: tuple[Section, ...]
    """In the order of the section header table."""
    section_table: bytes
    segments: tuple[Segment, ...]

    def section(self, name: str) -> Section | None:
        return next((section for section in self.sections if section.name == name), None)

    @property
    def has_dwarf(self) -> bool:
        """Whether there is anything in it for crash; a vmlinux as shipped for booting has none."""
        return any(section.name in {".debug_info", ".zdebug_info"} for section in self.sections)


ReadAt = Callable[[int, int], bytes]
"""Up to so many bytes (second) at an offset (first): a file that was cut off gives fewer."""


def read(path: Path) -> Elf:
    """Headers and notes of `path`. Raises `NotElf`, or OSError."""
    with path.open("rb", buffering=0) as file:
        return parse(partial(_pread, file.fileno()))


def banners(path: Path, elf: Elf) -> tuple[str, ...]:
    """The "Linux version …" lines inside, each once. A kernel may hold two: one is finished only by the last link."""
    found: dict[str, None] = {}
    with path.open("rb", buffering=0) as file:
        for section in elf.sections:
            if section.type == _SHT_NOBITS or not section.name.startswith((".rodata", ".init.rodata", ".init.data")):
                continue
            for piece in _pieces(partial(_pread, file.fileno()), section):
                for match in _BANNER.finditer(piece):
                    found.setdefault(match[0].decode("ascii").rstrip(), None)
    # The format string of /proc/version looks alike, and names no release.
    return tuple(banner for banner in found if "%s" not in banner)


def parse(read_at: ReadAt) -> Elf:
    """The same of a file that may lie elsewhere."""
    head = read_at(0, 64)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in {1, 2} or head[5] not in {1, 2}:
        raise NotElf("not an ELF file")
    wide = head[4] == 2
    order = "<" if head[5] == 1 else ">"
    if wide and len(head) < 64:
        raise NotElf("cut off in its header")
    if wide:
        phoff, shoff = struct.unpack_from(order + "QQ", head, 32)
        phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from(order + "5H", head, 54)
    else:
        phoff, shoff = struct.unpack_from(order + "II", head, 28)
        phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from(order + "5H", head, 42)
    layout = Layout(order=order, wide=wide)
    table = _table(read_at, shoff, shentsize, shnum, size=64 if wide else 40)
    sections = _sections(read_at, layout, table, shstrndx)
    segments = _segments(layout, _table(read_at, phoff, phentsize, phnum, size=56 if wide else 32))
    # Sections first: in a .debug file the program headers still describe the stripped twin's offsets.
    notes = [(section.offset, section.size) for section in sections if section.type == _SHT_NOTE]
    notes += [(segment.offset, segment.size) for segment in segments if segment.type == _PT_NOTE]
    build_ids = (_build_id(order, read_at(offset, min(size, _NOTES_LIMIT))) for offset, size in notes)
    return Elf(
        build_id=next((build_id for build_id in build_ids if build_id is not None), None),
        type=struct.unpack_from(order + "H", head, 16)[0],
        layout=layout,
        sections=sections,
        section_table=table,
        segments=segments,
    )


def _table(read_at: ReadAt, offset: int, entry: int, count: int, *, size: int) -> bytes:
    # Entries have been of one size since 1995; anything else is damage.
    return read_at(offset, entry * count) if offset and entry == size else b""


def _sections(read_at: ReadAt, layout: Layout, table: bytes, names_index: int) -> tuple[Section, ...]:
    raw: list[tuple[int, int, int, int, int, int]] = []
    entry = 64 if layout.wide else 40
    for at in range(0, len(table) - entry + 1, entry):
        name, kind = struct.unpack_from(layout.order + "II", table, at)
        flags, _, offset, size, _, _, align = struct.unpack_from(
            layout.order + ("4Q2IQ" if layout.wide else "7I"), table, at + 8
        )
        raw.append((name, kind, flags, offset, size, align))
    names = b""
    if names_index < len(raw):
        names = read_at(raw[names_index][3], min(raw[names_index][4], _NOTES_LIMIT))
    return tuple(
        Section(
            name=names[name : names.find(b"\0", name)].decode("ascii", "replace") if name < len(names) else "",
            type=kind,
            flags=flags,
            offset=offset,
            size=size,
            align=align,
        )
        for name, kind, flags, offset, size, align in raw
    )


def _segments(layout: Layout, table: bytes) -> tuple[Segment, ...]:
    found: list[Segment] = []
    entry = 56 if layout.wide else 32
    for at in range(0, len(table) - entry + 1, entry):
        (kind,) = struct.unpack_from(layout.order + "I", table, at)
        fields = ("4Q", at + 8) if layout.wide else ("4I", at + 4)
        offset, _, _, size = struct.unpack_from(layout.order + fields[0], table, fields[1])
        found.append(Segment(type=kind, offset=offset, size=size))
    return tuple(found)


def _pieces(read_at: ReadAt, section: Section, step: int = 4 << 20, overlap: int = 1024) -> Iterator[bytes]:
    at = section.offset
    end = section.offset + section.size
    while at < end:
        yield (piece := read_at(at, min(step + overlap, end - at)))
        if not piece:
            break
        at += step


def _build_id(order: str, notes: bytes) -> str | None:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(order + "3I", notes, at)
        name_at = at + 12
        at = name_at + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0" and 0 < size <= 64:
            build_id = notes[at : at + size]
            return build_id.hex() if len(build_id) == size else None
        at += size + 3 & ~3
    return None


def _pread(fd: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes: a file that was cut off gives fewer."""
    if offset >= 1 << 62:
        return b""
    data = b""
    while len(data) < size and (piece := os.pread(fd, size - len(data), offset + len(data))):
        data += piece
    return data
