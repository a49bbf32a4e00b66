"""Reads the parts of ELF that vmbox uses: header, segments, sections, build-id. Structures as in elf(5).

Reads untrusted files: every count and size is bounded before it is used, and nothing is mapped or executed. In plain
Python although pyelftools is a library: that has no bounds, and wants a seekable file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sandbox.formats import notes
from sandbox.formats.notes import ByteOrder
from sandbox.formats.streams import pread

PT_LOAD: Final = 1
PT_NOTE: Final = 4
_PN_XNUM: Final = 0xFFFF
_SHT_NOTE: Final = 7
SHT_NOBITS: Final = 8
_NOTES_LIMIT: Final = 1 << 20
"""Bytes of notes that are read, in all segments and sections together."""
_LONGEST_NAME: Final = 256
_MOST_SEGMENTS: Final = 0xFFFF


class NotElf(ValueError):
    """The file is not an ELF file, or is cut off in its header."""


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
    """One program header: `filesz` bytes at `offset` of the file are the memory at `vaddr`, physically at `paddr`."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    order: str
    """Byte order, as a format character of struct."""
    wide: bool
    """64 bits."""

    @property
    def byteorder(self) -> ByteOrder:
        return "little" if self.order == "<" else "big"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The ELF header, as far as it is used."""

    layout: Layout
    type: int
    """1 a module or object, 2 a linked program, 3 a position-independent one, 4 a core."""
    machine: int
    flags: int
    phoff: int
    phentsize: int
    phnum: int
    shoff: int
    shentsize: int
    shnum: int
    shstrndx: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """Facts about the build of a vmlinux or module."""

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
        """Whether there is debug information for crash; a vmlinux shipped for booting has none."""
        return any(section.name in {".debug_info", ".zdebug_info"} for section in self.sections)


ReadAt = Callable[[int, int], bytes]
"""Up to so many bytes (second) at an offset (first): a file that was cut off gives fewer."""


def header(read_at: ReadAt) -> Header:
    """The header of a file that may be remote. Raises `NotElf`."""
    head = read_at(0, 64)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in {1, 2} or head[5] not in {1, 2}:
        raise NotElf("not an ELF file")
    layout = Layout(order="<" if head[5] == 1 else ">", wide=head[4] == 2)
    if layout.wide and len(head) < 64:
        raise NotElf("cut off in its header")
    order = layout.order
    kind, machine = struct.unpack_from(order + "HH", head, 16)
    phoff, shoff, flags, _, phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from(
        order + ("QQI6H" if layout.wide else "III6H"), head, 32 if layout.wide else 28
    )
    if phnum == _PN_XNUM:
        # The real count is sh_info of the first section header.
        at = 44 if layout.wide else 28
        phnum = int.from_bytes(read_at(shoff, 64)[at : at + 4], layout.byteorder)
    return Header(
        layout=layout,
        type=kind,
        machine=machine,
        flags=flags,
        phoff=phoff,
        phentsize=phentsize,
        phnum=phnum,
        shoff=shoff,
        shentsize=shentsize,
        shnum=shnum,
        shstrndx=shstrndx,
    )


def segment_size(layout: Layout) -> int:
    """Bytes of a program header."""
    return 56 if layout.wide else 32


def segments(layout: Layout, table: bytes) -> Iterator[Segment]:
    """The program headers in `table`, without one that is cut off."""
    entry = segment_size(layout)
    wide = layout.wide
    for fields in struct.iter_unpack(
        layout.order + ("IIQQQQQQ" if wide else "IIIIIIII"), table[: len(table) - len(table) % entry]
    ):
        if wide:
            kind, _, offset, vaddr, paddr, filesz, memsz, _ = fields
        else:
            kind, offset, vaddr, paddr, filesz, memsz, _, _ = fields
        yield Segment(type=kind, offset=offset, vaddr=vaddr, paddr=paddr, filesz=filesz, memsz=memsz)


def read(path: Path) -> Elf:
    """Headers and notes of `path`. Raises `NotElf`, or OSError."""
    with path.open("rb", buffering=0) as file:
        return parse(partial(pread, file.fileno()))


def parse(read_at: ReadAt) -> Elf:
    """The same for a file that may be remote."""
    head = header(read_at)
    layout = head.layout
    table = _table(read_at, head.shoff, head.shentsize, head.shnum, size=64 if layout.wide else 40)
    sections = _sections(read_at, layout, table, head.shstrndx)
    phnum = min(head.phnum, _MOST_SEGMENTS)
    found = tuple(segments(layout, _table(read_at, head.phoff, head.phentsize, phnum, size=segment_size(layout))))
    # Sections first: the program headers of a .debug file still have the offsets of the stripped file.
    places = [(section.offset, section.size) for section in sections if section.type == _SHT_NOTE]
    places += [(segment.offset, segment.filesz) for segment in found if segment.type == PT_NOTE]
    return Elf(
        build_id=_first_build_id(read_at, layout, places),
        type=head.type,
        layout=layout,
        sections=sections,
        section_table=table,
        segments=found,
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
            name=names[name : name + _LONGEST_NAME].partition(b"\0")[0].decode("ascii", "replace"),
            type=kind,
            flags=flags,
            offset=offset,
            size=size,
            align=align,
        )
        for name, kind, flags, offset, size, align in raw
    )


def _first_build_id(read_at: ReadAt, layout: Layout, places: Iterable[tuple[int, int]]) -> str | None:
    left = _NOTES_LIMIT
    for offset, size in places:
        section = read_at(offset, min(size, left))
        if (build_id := _build_id(layout, section)) is not None:
            return build_id
        # One that gives nothing costs a read.
        left -= max(len(section), 64)
        if left <= 0:
            break
    return None


def _build_id(layout: Layout, section: bytes) -> str | None:
    return next(
        (
            note.desc.hex()
            for note in notes.iterate(section, layout.byteorder)
            if note.type == notes.NT_GNU_BUILD_ID and note.name == "GNU" and 0 < len(note.desc) <= 64
        ),
        None,
    )
