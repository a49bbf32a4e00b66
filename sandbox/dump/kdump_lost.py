"""A kdump file that is cut off, with its lost pages marked in the table of pages.

libkdumpfile, by which drgn reads, gives zeros for what is behind the end of a file (`fcache_get_read` in fcache.c): a
page that was stored without compression would be taken for one of zeros, and no word would be said.
"""

from __future__ import annotations

import struct
from typing import Final

from sandbox.dump import kdump, reader
from sandbox.dump.completeness import is_cut
from sandbox.dump.kdump_file import KdumpFile
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat, Vmcore

_COMPRESSED: Final = 1
"""DUMP_DH_COMPRESSED_ZLIB of diskdump_mod.h: zeros are no zlib, so that each reader refuses the page."""

_FLAGS: Final = 12
"""Offset in struct page_desc."""


def reads_as_zeros(vmcore: Vmcore) -> bool:
    """Whether a dump may have pages that are lost, and would be read as zeros."""
    return (
        vmcore.format in {DumpFormat.KDUMP, DumpFormat.DISKDUMP}
        and vmcore.complete is False
        and is_cut(vmcore.incomplete_reason)
    )


def marked(source: Source, name: str) -> Source:
    """A dump's bytes, those of a kdump file with its lost pages marked. Raises as `reader.parse`."""
    file = reader.parse(source, name)
    return LostPages(source, file) if isinstance(file, KdumpFile) else source


class LostPages:
    """Implements `Source`."""

    def __init__(self, source: Source, file: KdumpFile) -> None:
        self._source = source
        self.size = source.size or 0
        self._first = file.layout.descriptors_offset
        pages = file.index.total(file.layout.end_pfn or file.layout.max_mapnr)
        self._end = min(self._first + kdump.DESCRIPTOR_SIZE * pages, self.size)
        order = "<" if file.layout.order == "little" else ">"
        self._place = struct.Struct(order + "qI")
        self._flags = struct.Struct(order + "I")

    def read_at(self, offset: int, size: int) -> bytes:
        data = self._source.read_at(offset, size)
        first, last = max(offset, self._first), min(offset + len(data), self._end)
        if first >= last:
            return data
        one = kdump.DESCRIPTOR_SIZE
        start = self._first + (first - self._first) // one * one
        end = self._first + -(-(last - self._first) // one) * one
        table = bytearray(self._source.read_at(start, end - start))
        for at in range(0, len(table) - one + 1, one):
            place, length = self._place.unpack_from(table, at)
            if place + length > self.size:
                self._flags.pack_into(table, at + _FLAGS, _COMPRESSED)
        return data[: first - offset] + bytes(table[first - start : last - start]) + data[last - offset :]
