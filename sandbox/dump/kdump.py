"""kdump-compressed and diskdump files: makedumpfile's and QEMU's usual output, and RHEL 3's and 4's.

    0                                   struct disk_dump_header, padded to block_size
    block_size                          struct kdump_sub_header, then ELF notes
    (1 + sub_hdr_size) * block_size     bitmap 1: RAM; bitmap 2: pages in this dump (or one bitmap for both)
      + bitmap_blocks * block_size      struct page_desc[n], n = bits set in bitmap 2, in order of page frames
      + 24 * n                          page data, erase information

Neither byte order nor word size is marked: the combination whose fields make sense is the right one.
Sources: makedumpfile's IMPLEMENTATION and diskdump_mod.h, crash's diskdump.h, QEMU's dump.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.dump.header import MACHINES, Header
from sandbox.formats import notes
from sandbox.formats.notes import ByteOrder
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat, PageCompression

SIGNATURES: Final = {b"KDUMP   ": DumpFormat.KDUMP, b"DISKDUMP": DumpFormat.DISKDUMP}
HEADER_SIZE: Final = 464
"""struct disk_dump_header of a 64-bit machine."""

DESCRIPTOR_SIZE: Final = 24

_NOTES_LIMIT: Final = 16 << 20
_MOST_CPUS: Final = 1 << 16

EXCERPT_NAME: Final = b"VMBOX"
EXCERPT_TYPE: Final = 0x564D4258
"""Name and type of the note in a file that `vmbox excerpt` has made. No debugger knows it."""
_LONGEST_EXCERPT_NOTE: Final = 4096

_WORD_64: Final = 64
_VERSION: Final = 8
_SINCE_NOTES: Final = 4
"""Version of the header that first had a place for them."""
_UTSNAME: Final = 12
_FIELD: Final = 65
_UTSNAME_FIELDS: Final = ("sysname", "nodename", "release", "version", "machine", "domainname")

_COMPRESSIONS: Final = {
    0x1: PageCompression.ZLIB,
    0x2: PageCompression.LZO,
    0x4: PageCompression.SNAPPY,
    0x20: PageCompression.ZSTD,
}
_INCOMPLETE: Final = 0x8
_DISKDUMP_COMPRESSED: Final = 0x8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the parts of the file are. Every number comes from the file."""

    kind: DumpFormat
    order: ByteOrder
    bits: int
    status: int
    block_size: int
    sub_header_blocks: int
    bitmap_blocks: int
    max_mapnr: int
    split: bool = False
    start_pfn: int = 0
    end_pfn: int = 0
    eraseinfo_end: int = 0

    @property
    def bitmap_offset(self) -> int:
        return (1 + self.sub_header_blocks) * self.block_size

    @property
    def bitmap_size(self) -> int:
        """Of the bitmap that says which pages are here, in bytes."""
        return self.bitmap_blocks * self.block_size // (2 if self._two_bitmaps else 1)

    @property
    def page_bitmap_offset(self) -> int:
        return self.bitmap_offset + (self.bitmap_size if self._two_bitmaps else 0)

    @property
    def descriptors_offset(self) -> int:
        return self.bitmap_offset + self.bitmap_blocks * self.block_size

    @property
    def _two_bitmaps(self) -> bool:
        return has_two_bitmaps(self.bitmap_blocks, self.block_size, self.max_mapnr)


def has_two_bitmaps(blocks: int, block_size: int, max_mapnr: int) -> bool:
    """Whether the bitmaps are two halves: crash's dump_is_partial() says so when there is room for two."""
    per_block = 8 * block_size
    return blocks >= 2 * ((max_mapnr + per_block - 1) // per_block)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SubHeader:
    """Offsets of struct kdump_sub_header's fields; they depend on word size and padding."""

    word: str
    dump_level: int
    split: int
    start_pfn: int
    vmcoreinfo: int
    note: int
    eraseinfo: int
    start_pfn_64: int
    size: int


_SUB_64: Final = _SubHeader(
    word="Q",
    dump_level=8,
    split=12,
    start_pfn=16,
    vmcoreinfo=32,
    note=48,
    eraseinfo=64,
    start_pfn_64=80,
    size=104,
)
_SUB_32_PACKED: Final = _SubHeader(  # i386: 64-bit members are aligned to 4 bytes
    word="I",
    dump_level=4,
    split=8,
    start_pfn=12,
    vmcoreinfo=20,
    note=32,
    eraseinfo=44,
    start_pfn_64=56,
    size=80,
)
_SUB_32_PADDED: Final = _SubHeader(  # arm: aligned to 8
    word="I",
    dump_level=4,
    split=8,
    start_pfn=12,
    vmcoreinfo=24,
    note=40,
    eraseinfo=56,
    start_pfn_64=72,
    size=96,
)


def parse(source: Source) -> tuple[Header, Layout] | None:
    """Header and layout; None when no byte order and word size makes sense of the file."""
    head = source.read_at(0, HEADER_SIZE)
    kind = SIGNATURES.get(head[:8])
    if kind is None or len(head) < HEADER_SIZE:
        return None
    for bits, order in ((64, "little"), (64, "big"), (32, "little"), (32, "big")):
        layout = _layout(head, kind, bits, "big" if order == "big" else "little")
        if layout is not None:
            return _read(source, head, layout)
    return None


def _layout(head: bytes, kind: DumpFormat, bits: int, order: ByteOrder) -> Layout | None:
    at = 424 if bits == 64 else 412
    status, block_size, sub_blocks, bitmap_blocks, max_mapnr = struct.unpack_from(_code(order) + "IiiII", head, at)
    if not 4096 <= block_size <= 65536 or block_size & (block_size - 1):
        return None
    # libkdumpfile's test: the bitmaps must have room for all pages.
    if not 0 < sub_blocks < 1 << 20 or bitmap_blocks == 0 or 8 * bitmap_blocks * block_size < max_mapnr:
        return None
    return Layout(
        kind=kind,
        order=order,
        bits=bits,
        status=status,
        block_size=block_size,
        sub_header_blocks=sub_blocks,
        bitmap_blocks=bitmap_blocks,
        max_mapnr=max_mapnr,
    )


def _read(source: Source, head: bytes, layout: Layout) -> tuple[Header, Layout]:
    names = _utsname(head)
    machine = names["machine"]
    code = _code(layout.order)
    (version,) = struct.unpack_from(code + "i", head, 8)
    seconds, cpus = (
        struct.unpack_from(code + ("q" if layout.bits == 64 else "i"), head, 408 if layout.bits == 64 else 404)[0],
        int.from_bytes(head[460:464] if layout.bits == 64 else head[448:452], layout.order),
    )
    header = Header(
        format=layout.kind,
        order=layout.order,
        bits=layout.bits,
        arch=machine if machine in MACHINES else None,
        release=names["release"] or None,
        utsname_version=names["version"] or None,
        nr_cpus=cpus if 0 < cpus <= _MOST_CPUS else None,
        timestamp=seconds if seconds > 0 else None,
        compression=_compression(layout),
    )
    if layout.kind is DumpFormat.DISKDUMP:
        # Status of a diskdump: 1 is "incompleted", 0 "completed" (diskdump.h of RHEL 4).
        header.flag = "the writer marked it as incomplete" if layout.status & 1 else None
        return header, layout
    if layout.status & _INCOMPLETE:
        header.flag = "makedumpfile marked it as incomplete: the target ran out of space, or writing failed"
    return header, _read_sub_header(source, header, layout, version)


def _read_sub_header(source: Source, header: Header, layout: Layout, version: int) -> Layout:
    start = layout.block_size
    raw = source.read_at(start, _SUB_64.size)
    if len(raw) < _SUB_64.size:
        return layout
    end = layout.bitmap_offset
    code = _code(layout.order)
    if layout.bits == 64:
        form = _SUB_64
    else:
        where, size = struct.unpack_from(code + "QI", raw, _SUB_32_PACKED.vmcoreinfo)
        # Packed if what it then says is inside the header blocks, else padded (libkdumpfile's rule).
        form = _SUB_32_PACKED if start < where and where + size <= end else _SUB_32_PADDED

    def extent(at: int) -> tuple[int, int]:
        where, size = struct.unpack_from(code + "Q" + form.word, raw, at)
        return where, size

    (header.phys_base,) = struct.unpack_from(code + ("q" if layout.bits == 64 else "i"), raw, 0)
    if version >= 1:
        (level,) = struct.unpack_from(code + "i", raw, form.dump_level)
        header.dump_level = level if 0 <= level <= 31 else None
    if version >= 3:
        where, size = extent(form.vmcoreinfo)
        if start < where and where + size <= end:
            header.vmcoreinfo = source.read_at(where, min(size, 1 << 16))
    if version >= _SINCE_NOTES:
        _read_notes(source, header, layout, extent(form.note))
    eraseinfo_end = sum(extent(form.eraseinfo)) if version >= 5 else 0
    split, start_pfn, end_pfn, max_mapnr = 0, 0, 0, layout.max_mapnr
    if version >= 2:
        (split,) = struct.unpack_from(code + "i", raw, form.split)
        start_pfn, end_pfn = struct.unpack_from(code + form.word * 2, raw, form.start_pfn)
    if version >= 6:
        start_pfn, end_pfn, wide = struct.unpack_from(code + "QQQ", raw, form.start_pfn_64)
        if layout.max_mapnr <= wide <= 8 * layout.bitmap_blocks * layout.block_size:
            max_mapnr = wide
    return Layout(
        kind=layout.kind,
        order=layout.order,
        bits=layout.bits,
        status=layout.status,
        block_size=layout.block_size,
        sub_header_blocks=layout.sub_header_blocks,
        bitmap_blocks=layout.bitmap_blocks,
        max_mapnr=max_mapnr,
        split=split == 1,
        start_pfn=start_pfn if split == 1 else 0,
        end_pfn=end_pfn if split == 1 else max_mapnr,
        eraseinfo_end=eraseinfo_end,
    )


def _read_notes(source: Source, header: Header, layout: Layout, extent: tuple[int, int]) -> None:
    """Fill in from the notes what the header left open."""
    header.excerpt = _excerpt(source, layout, extent[0])
    if header.vmcoreinfo and header.nr_cpus is not None:
        return
    where, size = extent
    if not layout.block_size < where < layout.bitmap_offset:
        return
    section = source.read_at(where, min(size, layout.bitmap_offset - where, _NOTES_LIMIT))
    cpus = 0
    for note in notes.iterate(section, layout.order):
        source.read_at(0, 0)  # asks for time
        cpus += note.name == "CORE" and note.type == notes.NT_PRSTATUS
        if note.name == "VMCOREINFO" and not header.vmcoreinfo:
            header.vmcoreinfo = note.desc[: 1 << 16]
    if header.nr_cpus is None and cpus:
        header.nr_cpus = cpus


def _excerpt(source: Source, layout: Layout, where: int) -> str | None:
    """What is said in the note of an excerpt, which is the first one."""
    if not layout.block_size < where < layout.bitmap_offset:
        return None
    first = next(notes.iterate(source.read_at(where, _LONGEST_EXCERPT_NOTE), layout.order), None)
    if first is None or (first.name, first.type) != (EXCERPT_NAME.decode(), EXCERPT_TYPE):
        return None
    return " ".join(first.desc.decode("utf-8", "replace").split()) or None


def excerpt_note(text: str, order: ByteOrder) -> bytes:
    """The note that says what an excerpt is of; cut where it is too long to be read again."""
    return note(EXCERPT_NAME, EXCERPT_TYPE, text.encode(errors="backslashreplace")[: _LONGEST_EXCERPT_NOTE - 64], order)


def with_utsname(head: bytes, *, release: str, version: str, machine: str) -> bytes:
    """The header with these values in its utsname, if the fields there are empty or shifted.

    QEMU leaves all but the machine empty, and of an arm64 guest that, too. libkdumpfile, and so drgn, goes by the
    utsname and refuses such dumps.
    """
    if head[:8] not in SIGNATURES or len(head) < HEADER_SIZE:
        return head
    raw = _raw_utsname(head)
    if not raw.startswith(b"Linux\0") or _field(raw, _UTSNAME_FIELDS.index("machine")) not in MACHINES:
        known = {"sysname": "Linux", "release": release, "version": version, "machine": machine}
        raw = b"".join(known.get(name, "").encode()[: _FIELD - 1].ljust(_FIELD, b"\0") for name in _UTSNAME_FIELDS)
    return head[:_UTSNAME] + raw + head[_UTSNAME + len(raw) :]


def adding_vmcoreinfo(text: bytes, source: Source, layout: Layout, end: int) -> Iterator[tuple[int, bytes]]:
    """(place, bytes) that add VMCOREINFO to a file without it, which ends at `end`.

    All notes are written again at the end: libkdumpfile looks for it among them, crash where the sub-header
    says.
    """
    if layout.bits != _WORD_64:
        return
    code = _code(layout.order)
    (version,) = struct.unpack_from(code + "i", source.read_at(_VERSION, 4))
    if version < _SINCE_NOTES:
        return
    at = layout.block_size + _SUB_64.note
    extent = source.read_at(at, 16)
    if len(extent) < 16:  # the dump is cut
        return
    where, size = struct.unpack(code + "QQ", extent)
    if size > _NOTES_LIMIT:
        return
    kept = source.read_at(where, size)
    name = b"VMCOREINFO\0\0"
    padded = text.ljust(-(-len(text) // 4) * 4, b"\0")
    before = kept + struct.pack(code + "III", len(name) - 1, len(text), 0) + name
    yield end, before + padded
    yield at, struct.pack(code + "QQ", end, len(before) + len(padded))
    yield layout.block_size + _SUB_64.vmcoreinfo, struct.pack(code + "QQ", end + len(before), len(text))


def head_of(*, release: str, version: str, machine: str, order: ByteOrder, cpus: int, seconds: int) -> bytes:
    """A struct disk_dump_header with these values."""
    head = bytearray(
        with_utsname(b"KDUMP   ".ljust(HEADER_SIZE, b"\0"), release=release, version=version, machine=machine)
    )
    struct.pack_into(_code(order) + "q", head, 408, seconds)
    struct.pack_into(_code(order) + "i", head, 460, cpus)
    return bytes(head)


def note(name: bytes, kind: int, desc: bytes, order: ByteOrder) -> bytes:
    """An ELF note."""
    padded = [part.ljust(-(-len(part) // 4) * 4, b"\0") for part in (name + b"\0", desc)]
    return struct.pack(_code(order) + "III", len(name) + 1, len(desc), kind) + b"".join(padded)


def notes_of(source: Source, layout: Layout) -> bytes:
    """All notes of a file of 64 bits; none where it has no place for them."""
    code = _code(layout.order)
    (version,) = struct.unpack(code + "i", source.read_at(_VERSION, 4).ljust(4, b"\0"))
    where, size = struct.unpack(code + "QQ", source.read_at(layout.block_size + _SUB_64.note, 16).ljust(16, b"\0"))
    if version < _SINCE_NOTES or not layout.block_size < where < layout.bitmap_offset:
        return b""
    return source.read_at(where, min(size, layout.bitmap_offset - where, _NOTES_LIMIT))


def _utsname(head: bytes) -> dict[str, str]:
    raw = _raw_utsname(head)
    return {name: _field(raw, index) for index, name in enumerate(_UTSNAME_FIELDS)}


def _raw_utsname(head: bytes) -> bytes:
    raw = head[_UTSNAME : _UTSNAME + _FIELD * len(_UTSNAME_FIELDS)]
    if not raw.startswith(b"Linux\0"):
        # makedumpfile before 1.6.9 read utsname 4 bytes too far on kernels from 5.11 on (uts_namespace had lost its
        # leading kref): "Linux" became "x". Shifted back, every field is whole again (makedumpfile 1.6.9 changelog,
        # libkdumpfile issue 36).
        repaired = (b"Linu" + raw)[: len(raw)]
        if repaired.startswith(b"Linux\0") and _field(repaired, 4) in MACHINES:
            return repaired
    return raw


def _field(raw: bytes, index: int) -> str:
    return raw[index * _FIELD : (index + 1) * _FIELD].split(b"\0", 1)[0].decode("utf-8", "replace")


def _compression(layout: Layout) -> PageCompression:
    if layout.kind is DumpFormat.DISKDUMP:
        return PageCompression.ZLIB if layout.status & _DISKDUMP_COMPRESSED else PageCompression.NONE
    return compression(layout.status)


def compression(bits: int) -> PageCompression:
    """What the status of a header, or the flags of a page, say."""
    for bit, name in _COMPRESSIONS.items():
        if bits & bit:
            return name
    return PageCompression.NONE


def _code(order: ByteOrder) -> str:
    return "<" if order == "little" else ">"
