"""Whether a dump is all there: its size against what its own structure needs, to the byte.

None of crash, drgn, makedumpfile and libkdumpfile says so for kdump-compressed files; a copy that broke off leaves the
writer's flag clear, and only the size tells.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from sandbox.dump import elf, kdump
from sandbox.dump.memory import PageIndex
from sandbox.formats.streams import Source

_STEP: Final = 2048 * kdump.DESCRIPTOR_SIZE
_NAMES: Final = ("vmcore-incomplete", "dump-incomplete", "vmcore-dmesg-incomplete")


def of_kdump(source: Source, layout: kdump.Layout, index: PageIndex) -> str | None:
    """Why the file is incomplete; None when it is whole. `source.size` must be known."""
    size = source.size or 0
    block = layout.block_size
    if size < block + 104:
        return _cut(size, layout.descriptors_offset, "in the header")
    if size < layout.bitmap_offset:
        return _cut(size, layout.bitmap_offset, "in the notes")
    start = layout.descriptors_offset
    pages = 0
    if size >= layout.page_bitmap_offset + min(layout.bitmap_size, (layout.max_mapnr + 7) // 8):
        pages = index.total(layout.end_pfn or layout.max_mapnr)
        if not pages and layout.split:
            # What makedumpfile writes of a part that no page fell to; it fills up the bitmap's last block elsewhere.
            return None
    if size < start:
        return _cut(size, start, "in the bitmap of pages")
    data = start + kdump.DESCRIPTOR_SIZE * pages
    if size < data:
        return _cut(size, data, "in the table of pages")
    need, unwritten = _end_of_pages(source, layout, start, data)
    need = max(need, layout.eraseinfo_end if layout.eraseinfo_end < 1 << 62 else 0)
    if unwritten:
        return f"the last pages were never written ({unwritten} or more of {pages}): the writer ran out of space"
    if size < need:
        return _cut(size, need, "in the page data")
    return None


def of_elf(source: Source, layout: elf.Layout) -> str | None:
    size = source.size or 0
    return _cut(size, layout.need, "in the memory segments") if size < layout.need else None


def of_name(path: Path) -> str | None:
    """kdump writes under another name until it is done, so a name that is still that one tells."""
    name = path.name
    if name.startswith(_NAMES) or name.endswith((".incomplete", "-incomplete")):
        return f"its name is {name}, which kdump gives a dump until it is written"
    return None


def of_xz(source: Source) -> str | None:
    """An xz file ends with a mark of its own, so that a cut one is known without unpacking it."""
    size = source.size
    if size is None or source.read_at(size - 512, 512).rstrip(b"\0").endswith(b"YZ"):
        return None
    return f"cut off: the xz file ends after {size} bytes without its end mark"


def _end_of_pages(source: Source, layout: kdump.Layout, start: int, end: int) -> tuple[int, int]:
    """Where the last page's data ends, and how many descriptors at the end were never written.

    Read backwards: pages are written in order, so the last descriptors name the end of the file. Only when all of a
    step share the one zero page, which lies right behind the descriptors, the step before is needed.
    """
    unpack = struct.Struct(("<" if layout.order == "little" else ">") + "qI12x").iter_unpack
    at, step = end, _STEP
    need, unwritten = end, 0
    while at > start:
        size = min(step, at - start)
        step = min(step * 2, 32 * _STEP)
        at -= size
        raw = source.read_at(at, size)
        raw = raw[: len(raw) - len(raw) % kdump.DESCRIPTOR_SIZE]
        for offset, length in unpack(raw):
            if offset == 0 and length == 0:
                unwritten += 1
            elif 0 < offset < 1 << 62 and offset + length > need:
                need = offset + length
        if need > end + layout.block_size or unwritten:
            break
    return need, unwritten


def _cut(size: int, need: int, where: str) -> str:
    return f"cut off {where}: {size} of at least {need} bytes are there, {need - size} are missing"
