"""A kdump-compressed or diskdump file: header, pages, and whether any are missing."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Final

from sandbox.dump import kdump
from sandbox.dump.completeness import cut_off
from sandbox.dump.dump_file import Part
from sandbox.dump.header import Header, PageMissingError, SearchGivenUpError
from sandbox.dump.kdump_pages import MOST_BITMAP, KdumpMemory, PageIndex
from sandbox.dump.kdump_writer import Beginning, vmcoreinfo_note
from sandbox.dump.source import DeadlineExceeded
from sandbox.errors import DumpUnreadable
from sandbox.formats.streams import SliceSource, Source
from sandbox.model import DumpFormat, Vmcore

if TYPE_CHECKING:
    from sandbox.dump.header_only import ScanResult

_LARGE_BITMAP: Final = 1 << 20
"""Bytes of the bitmap of a machine with 32 GiB."""

_COMPRESSED_TEXT: Final = range(64, 4097)
"""Bytes that a page of VMCOREINFO takes: 2 to 4 KB of text, zeros, and stored as it is 4096."""

_SEARCH_SECONDS: Final = 0.7
_SCAN_SECONDS: Final = 1.0
_STEP: Final = 2048 * kdump.DESCRIPTOR_SIZE


def parse(source: Source, _name: str) -> KdumpFile | None:
    """None when the header makes no sense."""
    found = kdump.parse(source)
    return None if found is None else KdumpFile(source, *found)


class KdumpFile:
    """Implements `DumpFile`."""

    stores_text_as_is = False

    def __init__(self, source: Source, header: Header, layout: kdump.Layout) -> None:
        self.source = source
        self.header = header
        self.layout = layout

    @cached_property
    def index(self) -> PageIndex:
        return PageIndex(self.source, self.layout)

    @cached_property
    def _memory(self) -> KdumpMemory:
        return KdumpMemory(self.source, self.layout, self.index)

    @property
    def part(self) -> Part | None:
        layout = self.layout
        if not layout.split:
            return None
        return Part(
            start_pfn=layout.start_pfn,
            end_pfn=layout.end_pfn,
            max_pfn=layout.max_mapnr,
            page_size=layout.block_size,
            # makedumpfile writes the same header into every part; only the range of pages, in the block behind it,
            # differs.
            header_size=layout.block_size,
        )

    @property
    def slow_to_measure(self) -> bool:
        return self.layout.bitmap_size > _LARGE_BITMAP

    def memory(self) -> KdumpMemory:
        return self._memory

    def search(self, *, thorough: bool = False) -> ScanResult:
        """Searches the beginnings of pages, where the kernel keeps VMCOREINFO; the time is enough for a guest of some
        GiB. Where the kernel had none yet, and the header has no utsname (QEMU's), all pages for utsname and banner.
        """
        from sandbox.dump.header_only import ScanResult, scan_memory

        given_up = None
        try:
            seconds = math.inf if thorough else _SEARCH_SECONDS
            for page in self.memory().pages_that_begin(b"OSRELEASE=", _COMPRESSED_TEXT, seconds=seconds):
                if b"\nPAGESIZE=" in page:
                    return ScanResult(vmcoreinfo=page)
        except SearchGivenUpError as error:
            given_up = str(error)
        if self.header.release is not None:
            return ScanResult(given_up=given_up)
        seconds = math.inf if thorough else _SCAN_SECONDS
        found = scan_memory(_Unpacked(self.memory(), self.layout, time.thread_time() + seconds), thorough=thorough)
        found.given_up = given_up
        return found

    def additions(self, vmcore: Vmcore, end: int, /) -> Iterator[tuple[int, bytes]]:
        """QEMU's kdump of a guest without a vmcoreinfo device has no VMCOREINFO: libkdumpfile and drgn refuse it, and
        crash has to search.
        """
        release, version, machine = vmcore.release, vmcore.utsname_version, vmcore.arch
        if release and version and machine:
            head = self.source.read_at(0, kdump.HEADER_SIZE)
            named = kdump.with_utsname(head, release=release, version=version, machine=machine)
            if named != head:
                yield 0, named
        text = "".join(f"{key}={value}\n" for key, value in vmcore.vmcoreinfo.items()).encode()
        if text and not self.header.vmcoreinfo:
            yield from kdump.adding_vmcoreinfo(text, self.source, self.layout, end)

    def as_kdump(self, _vmcore: Vmcore, /) -> Beginning | None:
        layout, header = self.layout, self.header
        if layout.bits != 64 or layout.kind is not DumpFormat.KDUMP:
            return None
        if layout.bitmap_size > MOST_BITMAP or layout.descriptors_offset > (self.source.size or 0):
            raise DumpUnreadable("the bitmap of pages is larger than the dump, or was cut off")
        head = self.source.read_at(0, kdump.HEADER_SIZE)
        text = header.vmcoreinfo
        return Beginning(
            order=layout.order,
            block_size=layout.block_size,
            max_mapnr=layout.max_mapnr,
            head=head,
            phys_base=header.phys_base or 0,
            dump_level=header.dump_level or 0,
            notes=vmcoreinfo_note(kdump.notes_of(self.source, layout), text, layout.order),
            vmcoreinfo=text,
            bitmaps=SliceSource(self.source, layout.bitmap_offset, layout.bitmap_blocks * layout.block_size),
            bitmap_blocks=layout.bitmap_blocks,
        )

    def missing(self) -> str | None:
        layout = self.layout
        size = self.source.size or 0
        if size < layout.block_size + 104:
            return cut_off(size, layout.descriptors_offset, "in the header")
        if size < layout.bitmap_offset:
            return cut_off(size, layout.bitmap_offset, "in the notes")
        start = layout.descriptors_offset
        pages = 0
        if size >= layout.page_bitmap_offset + min(layout.bitmap_size, (layout.max_mapnr + 7) // 8):
            pages = self.index.total(layout.end_pfn or layout.max_mapnr)
            if not pages and layout.split:
                # What makedumpfile writes of a part that no page fell to; else it fills up the bitmap's last block.
                return None
        if size < start:
            return cut_off(size, start, "in the bitmap of pages")
        data = start + kdump.DESCRIPTOR_SIZE * pages
        if size < data:
            return cut_off(size, data, "in the table of pages")
        need, unwritten = self._end_of_pages(start, data)
        need = max(need, layout.eraseinfo_end if layout.eraseinfo_end < 1 << 62 else 0)
        if unwritten:
            return f"the last pages were never written ({unwritten} or more of {pages}): the writer ran out of space"
        if size < need:
            return cut_off(size, need, "in the page data")
        return None

    def _end_of_pages(self, start: int, end: int) -> tuple[int, int]:
        """(end of the last page's data, number of descriptors at the end that were never written).

        Reads backwards: pages are written in order, so the last descriptors give the end of the file. The step before
        is needed only if a whole step shares the one zero page, which is right after the descriptors.
        """
        unpack = struct.Struct(("<" if self.layout.order == "little" else ">") + "qI12x").iter_unpack
        at, step = end, _STEP
        need, unwritten = end, 0
        while at > start:
            size = min(step, at - start)
            step = min(step * 2, 32 * _STEP)
            at -= size
            raw = self.source.read_at(at, size)
            raw = raw[: len(raw) - len(raw) % kdump.DESCRIPTOR_SIZE]
            for offset, length in unpack(raw):
                if offset == 0 and length == 0:
                    unwritten += 1
                elif 0 < offset < 1 << 62 and offset + length > need:
                    need = offset + length
            if need > end + self.layout.block_size or unwritten:
                break
        return need, unwritten


class _Unpacked:
    """Implements `Source` of physical memory, with zeros for missing pages. Reading ends at a time of this thread."""

    def __init__(self, memory: KdumpMemory, layout: kdump.Layout, deadline: float) -> None:
        self.size = layout.max_mapnr * layout.block_size
        self._memory = memory
        self._page = layout.block_size
        self._deadline = deadline

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises `DeadlineExceeded`."""
        first = offset // self._page
        pages = []
        for pfn in range(first, min(-(-(offset + size) // self._page), self.size // self._page)):
            if time.thread_time() > self._deadline:
                raise DeadlineExceeded
            try:
                pages.append(self._memory.read(pfn * self._page, self._page))
            except PageMissingError:
                pages.append(bytes(self._page))
        return b"".join(pages)[offset - first * self._page :][:size]
