"""Reads physical memory of the crashed machine, page by page, from a kdump-compressed or diskdump file."""

from __future__ import annotations

import struct
import time
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, assert_never

from sandbox.dump import kdump
from sandbox.dump.header import PageMissingError, SearchGivenUpError
from sandbox.formats import zstandard
from sandbox.formats.streams import CorruptData, Source
from sandbox.model import PageCompression

_BLOCK: Final = 4096
"""Bytes of the bitmap that one counter covers."""

_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)
_CACHE_BYTES: Final = 8 << 20
MOST_BITMAP: Final = 1 << 30
"""Bytes of a bitmap that are looked at: of 32 TiB with pages of 4 KiB."""
_AHEAD: Final = 128 << 10
_DESCRIPTORS: Final = 128
"""Page descriptors read at once."""


class PageIndex:
    """Tells which page frames a kdump-compressed file has, and the index of each.

    Bits are counted in blocks, only as far as necessary: the bitmap of a 2 TiB machine has 64 MiB and is not loaded.
    """

    def __init__(self, source: Source, layout: kdump.Layout) -> None:
        self._source = source
        self._offset = layout.page_bitmap_offset
        self._size = min(layout.bitmap_size, (layout.max_mapnr + 7) // 8, MOST_BITMAP)
        self._before = array("Q", [0])
        self._blocks: dict[int, int] = {}
        self._last = (-1, -1)
        # The bitmap of a part of a split dump covers everything, its descriptors only the part.
        self._first = self.rank(layout.start_pfn) if layout.split else 0

    def total(self, end_pfn: int) -> int:
        """Pages with a descriptor in this file."""
        return self.rank(min(end_pfn, self._size * 8)) - self._first

    def position(self, pfn: int) -> int | None:
        """Index of the page's descriptor; None when the page is not in the dump."""
        block, bit = divmod(pfn, _BLOCK * 8)
        if pfn < 0 or pfn // 8 >= self._size or not self._bits(block) >> bit & 1:
            return None
        before, at = self._last
        # The kernel image is read page after page; counting takes longer than all else but unpacking.
        found = at + 1 if at >= 0 and pfn == before + 1 else self.rank(pfn) - self._first
        self._last = (pfn, found)
        return found

    def frame(self, position: int) -> int:
        """The page frame that the descriptor at `position` is of. `position` is below `total`."""
        wanted = position + self._first
        while self._before[-1] <= wanted and (len(self._before) - 1) * _BLOCK < self._size:
            self._count_to(len(self._before))
        block = bisect_right(self._before, wanted) - 1
        bits, rest = self._bits(block), wanted - self._before[block]
        low, high = 0, _BLOCK * 8
        while high - low > 1:
            middle = (low + high) // 2
            if (bits & ((1 << middle) - 1)).bit_count() <= rest:
                low = middle
            else:
                high = middle
        return block * _BLOCK * 8 + low

    def rank(self, pfn: int) -> int:
        """Pages below `pfn` that the dump holds."""
        block, bit = divmod(min(pfn, self._size * 8), _BLOCK * 8)
        self._count_to(block)
        block = min(block, len(self._before) - 1)
        if bit == 0:
            return self._before[block]
        return self._before[block] + (self._bits(block) & ((1 << bit) - 1)).bit_count()

    def _count_to(self, block: int) -> None:
        before = self._before
        while len(before) <= block:
            done = (len(before) - 1) * _BLOCK
            piece = self._source.read_at(self._offset + done, min(_CHUNK, self._size - done))
            if not piece:
                # Cut here: what is missing counts as no pages.
                piece = bytes(min(_CHUNK, max(self._size - done, _BLOCK)))
            total = before[-1]
            # Compared in one go: a sparse 100 GB dump has megabytes of nothing here.
            if piece == _ZEROS[: len(piece)]:
                before.extend([total] * -(-len(piece) // _BLOCK))
                continue
            for at in range(0, len(piece), _BLOCK):
                total += int.from_bytes(piece[at : at + _BLOCK], "little").bit_count()
                before.append(total)

    def _bits(self, block: int) -> int:
        found = self._blocks.get(block)
        if found is None:
            if len(self._blocks) >= 64:
                self._blocks.clear()
            at = block * _BLOCK
            piece = self._source.read_at(self._offset + at, min(_BLOCK, self._size - at))
            found = self._blocks[block] = int.from_bytes(piece, "little")
        return found


class KdumpMemory:
    """Pages of a kdump-compressed or diskdump file."""

    def __init__(self, source: Source, layout: kdump.Layout, index: PageIndex) -> None:
        self._source = source
        self._layout = layout
        self._index = index
        self._descriptor = struct.Struct(("<" if layout.order == "little" else ">") + "qIIQ")
        self._descriptors: dict[int, bytes] = {}
        self._pages: dict[int, bytes] = {}
        self._window, self._window_at = b"", 0
        self._previous = -2

    def read(self, address: int, size: int) -> bytes:
        block_size = self._layout.block_size
        pfn, start = divmod(address, block_size)
        if start + size <= block_size:
            return self._page(pfn)[start : start + size]
        pieces = []
        while size > 0:
            piece = self._page(pfn)[start : start + size]
            pieces.append(piece)
            size -= len(piece)
            pfn += 1
            start = 0
        return b"".join(pieces)

    def pages_that_begin(self, start: bytes, sizes: range, *, seconds: float) -> Iterator[bytes]:
        """Pages with certain first bytes, among those whose compressed size is in `sizes`, in order, for a while.

        Only the beginning of each page is unpacked, which takes some microseconds. Pages that are stored once for many,
        as QEMU does with that of zeros, are looked at once. Raises `SearchGivenUpError` after `seconds` of a processor.
        """
        deadline = time.thread_time() + seconds
        at, seen = self._layout.descriptors_offset, 0
        total = self._index.total(self._layout.end_pfn or self._layout.max_mapnr)
        window, window_at = b"", 0
        previous = shared = 0
        while seen < total:
            if time.thread_time() > deadline:
                raise SearchGivenUpError(f"{seen} of {total} pages")
            raw = self._source.read_at(at, min(total - seen, 4096) * kdump.DESCRIPTOR_SIZE)
            raw = raw[: len(raw) - len(raw) % kdump.DESCRIPTOR_SIZE]
            if not raw:
                return
            at, seen = at + len(raw), seen + len(raw) // kdump.DESCRIPTOR_SIZE
            for offset, size, flags, _ in self._descriptor.iter_unpack(raw):
                if size not in sizes or offset <= 0 or offset == shared:
                    continue
                if offset == previous:
                    shared = offset
                    continue
                previous = offset
                self._source.read_at(0, 0)  # asks for time
                if not window_at <= offset <= window_at + len(window) - size:
                    window, window_at = self._source.read_at(offset, _CHUNK), offset
                data = window[offset - window_at : offset - window_at + size]
                with suppress(PageMissingError):
                    if _begins(data, flags, start, self._layout.block_size):
                        yield _unpack(data, flags, self._layout.block_size)

    def _page(self, pfn: int) -> bytes:
        page = self._pages.get(pfn)
        if page is None:
            page = self._load(pfn)
            if len(self._pages) * self._layout.block_size >= _CACHE_BYTES:
                self._pages.clear()
            self._pages[pfn] = page
        return page

    def _load(self, pfn: int) -> bytes:
        position = self._index.position(pfn)
        if position is None:
            raise PageMissingError
        block_size = self._layout.block_size
        offset, size, flags = self._describe(position)
        # A descriptor of zeros was never written: the writer ran out of space, or was killed.
        if offset <= 0 or not 0 < size <= 2 * block_size:
            raise PageMissingError
        data = self._data(position, offset, size)
        if len(data) < size:
            raise PageMissingError
        page = _unpack(data, flags, block_size)
        if len(page) != block_size:
            raise PageMissingError
        return page

    def _data(self, position: int, offset: int, size: int) -> bytes:
        """A page's bytes. After its predecessor, the next ones are read ahead, because writers keep pages in order."""
        within = offset - self._window_at
        if 0 <= within <= len(self._window) - size:
            return self._window[within : within + size]
        ahead = _AHEAD if position == self._previous + 1 else size
        self._previous = position
        self._window, self._window_at = self._source.read_at(offset, max(size, ahead)), offset
        return self._window[:size]

    def _describe(self, position: int) -> tuple[int, int, int]:
        group, rest = divmod(position, _DESCRIPTORS)
        raw = self._descriptors.get(group)
        if raw is None:
            if len(self._descriptors) >= 256:
                self._descriptors.clear()
            size = _DESCRIPTORS * kdump.DESCRIPTOR_SIZE
            raw = self._source.read_at(self._layout.descriptors_offset + group * size, size)
            self._descriptors[group] = raw
        at = rest * kdump.DESCRIPTOR_SIZE
        if at + kdump.DESCRIPTOR_SIZE > len(raw):
            raise PageMissingError
        offset, size, flags, _ = self._descriptor.unpack_from(raw, at)
        return offset, size, flags


def _begins(data: bytes, flags: int, start: bytes, page_size: int) -> bool:
    if kdump.compression(flags) is PageCompression.ZLIB:
        try:
            return zlib.decompressobj().decompress(data, len(start)) == start
        except zlib.error:
            return False
    # The others are no streams, but text begins with literals, which stand in the compressed data as they are.
    return start in data[:64] and _unpack(data, flags, page_size).startswith(start)


def _unpack(data: bytes, flags: int, size: int) -> bytes:
    kind = kdump.compression(flags)
    try:
        match kind:
            case PageCompression.ZLIB:
                return zlib.decompressobj().decompress(data, size)
            case PageCompression.LZO:
                from sandbox.formats import lzo

                return lzo.decompress(data, size)
            case PageCompression.SNAPPY:
                from sandbox.formats import snappy

                return snappy.decompress(data, size)
            case PageCompression.ZSTD:
                return zstandard.decompress(data, size)
            case PageCompression.NONE:
                return data
            case _:
                assert_never(kind)
    except (zlib.error, CorruptData) as error:
        raise PageMissingError from error
