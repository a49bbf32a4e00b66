"""Writes kdump-compressed files of memory that another dump has: as a view with every page, or of chosen pages.

Version 6 of the header, 64-bit, as in `sandbox.dump.kdump`. What the dump has in that form already, header, notes and
bitmaps, is taken over; of an ELF file it is made from its segments and notes.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Final

from sandbox.dump import kdump
from sandbox.dump.header import Memory, PageMissingError
from sandbox.dump.kdump_pages import PageIndex
from sandbox.errors import DumpUnreadable
from sandbox.formats.notes import ByteOrder, iterate
from sandbox.formats.streams import CHUNK, Source

_VERSION: Final = 6
_ZLIB: Final = 0x1
_SUB_HEADER: Final = 104
_64_BITS: Final = (1 << 64) - 1
_MOST_READ: Final = 1 << 20
"""Bytes that one read of a view returns at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What such a file has before its pages, taken from another dump."""

    order: ByteOrder
    block_size: int
    """Bytes of a page."""
    max_mapnr: int
    """The last page frame and one."""
    head: bytes
    """struct disk_dump_header; what depends on the parts' sizes is filled in."""
    phys_base: int
    """Of 64 bits, with or without a sign; more is cut off."""
    dump_level: int
    notes: bytes
    vmcoreinfo: bytes
    bitmaps: Source
    """One for RAM and one for the pages in the dump, or one for both."""
    bitmap_blocks: int

    @property
    def size(self) -> int:
        """Of header and bitmaps, in bytes."""
        return len(self.header_blocks()) + self.bitmap_blocks * self.block_size

    def with_note(self, note: bytes) -> Beginning:
        """The same with one more note, before the others."""
        return replace(self, notes=note + self.notes)

    def header_blocks(self, *, compressed: bool = False) -> bytes:
        """Header, sub-header, VMCOREINFO and notes, in whole blocks."""
        code = "<" if self.order == "little" else ">"
        size, start = self.block_size, self.block_size + _SUB_HEADER
        vmcoreinfo = self.vmcoreinfo.ljust(_padded(len(self.vmcoreinfo), 8), b"\0")
        blocks = -(-(_SUB_HEADER + len(vmcoreinfo) + len(self.notes)) // size)
        head = bytearray(self.head.ljust(size, b"\0"))
        struct.pack_into(code + "i", head, 8, _VERSION)
        status = _ZLIB if compressed else 0
        mapnr = min(self.max_mapnr, (1 << 32) - 1)
        struct.pack_into(code + "IiiII", head, 424, status, size, blocks, self.bitmap_blocks, mapnr)
        sub = struct.pack(
            code + "QiiQQQQQQQQQQQ",
            *(self.phys_base & _64_BITS, self.dump_level, 0, 0, 0),
            *(start if self.vmcoreinfo else 0, len(self.vmcoreinfo)),
            *(start + len(vmcoreinfo) if self.notes else 0, len(self.notes), 0, 0),
            *(0, self.max_mapnr, self.max_mapnr),
        )
        return bytes(head) + (sub + vmcoreinfo + self.notes).ljust(blocks * size, b"\0")


def vmcoreinfo_note(notes: bytes, text: bytes, order: ByteOrder) -> bytes:
    """The notes, with one of VMCOREINFO: libkdumpfile looks for it there, crash where the sub-header says."""
    if not text or any(one.name == "VMCOREINFO" for one in iterate(notes, order)):
        return notes
    return kdump.note(b"VMCOREINFO", 0, text, order) + notes


class PageView:
    """A dump as a kdump file whose pages are not compressed and begin at multiples of their size. A `Source`.

    So each read of it is of known pages: `seen` gets the frame of every page of which something is read.
    """

    damage: str | None = None

    def __init__(self, beginning: Beginning, memory: Memory, seen: Callable[[int], None] = lambda _: None) -> None:
        self._before = Joined(beginning)
        _, layout = kdump.parse(self._before) or (None, None)
        if layout is None:
            raise DumpUnreadable("the dump cannot be told as a kdump file: its header would make no sense")
        self._memory = memory
        self._seen = seen
        self._page = beginning.block_size
        self._order = "<" if beginning.order == "little" else ">"
        self._index = PageIndex(self._before, layout)
        self.pages = self._index.total(layout.max_mapnr)
        """Pages of the dump."""
        self._descriptors = layout.descriptors_offset
        self._data = _padded(self._descriptors + self.pages * kdump.DESCRIPTOR_SIZE, self._page)
        self.size = self._data + self.pages * self._page

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises `DumpUnreadable` for a page that the dump lacks though it names it."""
        end = min(offset + min(size, _MOST_READ), self.size)
        pieces = []
        while 0 <= offset < end:
            if offset < self._descriptors:
                piece = self._before.read_at(offset, min(end, self._descriptors) - offset)
                if not piece:
                    raise DumpUnreadable("the dump is cut off in its bitmap of pages")
            elif offset < self._data:
                piece = self._described(offset, min(end, self._data))
            else:
                position, within = divmod(offset - self._data, self._page)
                piece = self._load(position)[within : within + end - offset]
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def _described(self, offset: int, end: int) -> bytes:
        first, within = divmod(offset - self._descriptors, kdump.DESCRIPTOR_SIZE)
        last = -(-(end - self._descriptors) // kdump.DESCRIPTOR_SIZE)
        pack = struct.Struct(self._order + "qIIQ").pack
        one = (pack(self._data + number * self._page, self._page, 0, 0) for number in range(first, last))
        text = b"".join(one).ljust(end - self._descriptors, b"\0")
        return text[within : within + end - offset]

    def _load(self, position: int) -> bytes:
        pfn = self._index.frame(position)
        try:
            page = self._memory.read(pfn * self._page, self._page)
        except PageMissingError as error:
            raise DumpUnreadable(f"the page at {pfn * self._page:#x} is damaged, or was cut off") from error
        self._seen(pfn)
        return page


class Joined:
    """Header and bitmaps of a `Beginning`, one after the other. A `Source`."""

    damage: str | None = None

    def __init__(self, beginning: Beginning) -> None:
        self._header = beginning.header_blocks()
        self._bitmaps = beginning.bitmaps
        self.size = beginning.size

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < len(self._header):
            return self._header[max(offset, 0) : offset + size]
        offset -= len(self._header)
        return self._bitmaps.read_at(offset, min(size, self.size - len(self._header) - offset))


def write_pages(beginning: Beginning, memory: Memory, frames: Iterable[int], place: Path) -> Iterator[bytes]:
    """The pieces of a kdump file with these page frames of the dump alone, each compressed.

    Frames that the dump lacks are left out. What is compressed is kept in a file without a name in `place` meanwhile.
    """
    header = beginning.header_blocks(compressed=True)
    order = "<" if beginning.order == "little" else ">"
    page, size = beginning.block_size, beginning.bitmap_blocks * beginning.block_size
    two = size // 2 if kdump.has_two_bitmaps(beginning.bitmap_blocks, page, beginning.max_mapnr) else 0
    entries: list[tuple[int, int, int]] = []
    kept: list[int] = []
    with tempfile.TemporaryFile(dir=place) as data:
        at = 0
        for pfn in sorted(set(frames)):
            try:
                raw = memory.read(pfn * page, page)
            except PageMissingError:
                continue
            packed = zlib.compress(raw)
            stored, flags = (packed, _ZLIB) if len(packed) < page else (raw, 0)
            data.write(stored)
            entries.append((at, len(stored), flags))
            kept.append(pfn)
            at += len(stored)
        yield header
        for offset in range(0, two, CHUNK):
            yield beginning.bitmaps.read_at(offset, min(CHUNK, two - offset)).ljust(min(CHUNK, two - offset), b"\0")
        yield from _bitmap(kept, size - two)
        start = len(header) + size + len(entries) * kdump.DESCRIPTOR_SIZE
        pack = struct.Struct(order + "qIIQ").pack
        yield b"".join(pack(start + at, length, flags, 0) for at, length, flags in entries)
        data.seek(0)
        while piece := data.read(CHUNK):
            yield piece


def _bitmap(frames: Iterable[int], size: int) -> Iterator[bytes]:
    """`size` bytes with a bit for each frame, which are in order."""
    piece, start = bytearray(min(CHUNK, size)), 0
    for pfn in frames:
        while pfn // 8 >= start + len(piece):
            yield bytes(piece)
            start += len(piece)
            piece = bytearray(min(CHUNK, size - start))
        piece[pfn // 8 - start] |= 1 << pfn % 8
    while piece:
        yield bytes(piece)
        start += len(piece)
        piece = bytearray(min(CHUNK, size - start))


class RangeBitmaps:
    """Bitmaps of `each` bytes, one after the other, with the bits of the frames in ranges (first, end). A `Source`.

    They are made where they are read, and each bit once: segments may overlap, and claim more memory than there is.
    """

    damage: str | None = None

    def __init__(self, each: int, *bitmaps: Iterable[tuple[int, int]]) -> None:
        self._each = each
        self._bitmaps = [_merged(ranges) for ranges in bitmaps]
        self.size = each * len(bitmaps)

    def read_at(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        pieces = []
        while 0 <= offset < end:
            number, start = divmod(offset, self._each)
            length = min(end - offset, self._each - start)
            pieces.append(self._piece(self._bitmaps[number], start, length))
            offset += length
        return b"".join(pieces)

    def _piece(self, ranges: Sequence[tuple[int, int]], start: int, length: int) -> bytes:
        low, high = 8 * start, 8 * (start + length)
        inside = ranges[bisect_right(ranges, low, key=itemgetter(1)) : bisect_left(ranges, high, key=itemgetter(0))]
        return bytes(_bits([(max(first, low) - low, min(last, high) - low) for first, last in inside], length))


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same in order, and without overlaps."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(one for one in ranges if one[0] < one[1]):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((first, end))
    return found


def _bits(ranges: Iterable[tuple[int, int]], size: int) -> bytearray:
    """`size` bytes with the bits of the ranges (first, end)."""
    found = bytearray(size)
    for first, end in ranges:
        left, right = -(-first // 8), end // 8
        if left > right:  # within one byte
            for bit in range(first, end):
                found[bit // 8] |= 1 << bit % 8
            continue
        found[left:right] = b"\xff" * (right - left)
        for bit in (*range(first, left * 8), *range(right * 8, end)):
            found[bit // 8] |= 1 << bit % 8
    return found


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
