"""makedumpfile's flattened format: pieces of a dump, each with its offset in the dump.

    0      "makedumpfile", 4 NUL, type = 1, version = 1; padded to 4096 bytes
    4096   offset, size, then `size` bytes that belong at `offset`; and so on
    end    -1, -1

All numbers are 64-bit big-endian whatever the machine. What no piece fills reads as zeros, and where pieces overlap the
last one counts (makedumpfile.c, write_buffer and rearrange_dumpdata). Debian's and SUSE's kdump always write this, QEMU
does by default, and RHEL does over ssh.
"""

from __future__ import annotations

import heapq
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from sandbox.dump.source import READ_LIMIT
from sandbox.formats.streams import Source

MAGIC: Final = b"makedumpfile\0\0\0\0"
HEADER_SIZE: Final = 4096
END_MARK: Final = b"\xff" * 16

_PIECE: Final = struct.Struct(">qq")
_EARLY: Final = 96
_EARLY_BYTES: Final = 1 << 20
"""Bytes of pieces that are read to identify a dump: the first ones have the header, the notes and the vmcoreinfo."""

_MOST_PIECES: Final = 1 << 22
_SMALLEST: Final = 512
"""Bytes that a piece has on average, at least: writers give pages and larger tables. It bounds the work per byte."""
_PIECES_AT_ONCE: Final = 1 << 15
"""Pieces that may be smaller."""


class FlattenedSource:
    """The rearranged dump. Only the first pieces are known until `complete_index` has walked the file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._next = HEADER_SIZE
        self._targets = array("q")
        self._places = array("q")
        self._sizes = array("q")
        self.ended = False
        """The end mark was met."""
        self.exhausted = False
        """There are no more pieces, for whatever reason."""
        self.damage: str | None = None
        self._walk(_EARLY)
        self._arrange()

    @property
    def size(self) -> int | None:
        return self._end if self.exhausted else None

    def complete_index(self) -> None:
        """Walk the rest of the file: one read for each piece. May raise `DeadlineExceeded`."""
        if not self.exhausted:
            self._walk(_MOST_PIECES)
            self._arrange()

    def missing(self) -> str | None:
        """Why the file is incomplete: no end mark."""
        if self.ended:
            return None
        whole = self._source.size
        if whole is None:
            return None
        if self._source.read_at(whole - 16, 16) == END_MARK:
            return None
        # Something may follow the end mark, on a raw device for example; then only walking tells.
        self.complete_index()
        if self.ended:
            return None
        return self.damage or f"cut off: the flattened file ends after {whole} bytes without its end mark"

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """(place in the rearranged dump, place in this file, size) of each piece, in the order they were written."""
        return zip(self._targets, self._places, self._sizes, strict=True)

    def read_at(self, offset: int, size: int) -> bytes:
        self._source.read_at(0, 0)
        if offset < 0 or size <= 0 or offset >= self._end:
            return b""
        end = min(offset + min(size, READ_LIMIT), self._end)
        out = []
        at = offset
        index = max(0, bisect_right(self._starts, offset) - 1)
        while at < end and index < len(self._starts):
            start, place, length = self._starts[index], self._where[index], self._lengths[index]
            index += 1
            if start + length <= at:
                continue
            if start >= end:
                break
            if start > at:
                out.append(bytes(start - at))
                at = start
            want = min(start + length, end) - at
            piece = self._source.read_at(place + at - start, want)
            out.append(piece)
            at += len(piece)
            if len(piece) < want:
                # Cut inside this piece: what follows was never there, or lies further on in the rearranged dump.
                return b"".join(out)
        if at < end:
            out.append(bytes(end - at))
        return b"".join(out)

    def _walk(self, limit: int) -> None:
        source, known = self._source, self._source.size
        while len(self._targets) < limit:
            raw = source.read_at(self._next, 16)
            if len(raw) < 16:
                self.exhausted = True
                return
            if raw == END_MARK:
                self.ended = self.exhausted = True
                return
            target, size = _PIECE.unpack(raw)
            if len(self._targets) > _PIECES_AT_ONCE + self._next // _SMALLEST:
                self.exhausted = True
                self.damage = f"damaged: more than {len(self._targets)} pieces of {_SMALLEST} bytes or less"
                return
            if target < 0 or size <= 0 or target + size > 1 << 62:
                self.exhausted = True
                self.damage = f"damaged: no piece of a flattened dump begins at byte {self._next}"
                return
            place = self._next + 16
            self._targets.append(target)
            self._places.append(place)
            self._sizes.append(size if known is None else max(0, min(size, known - place)))
            self._next = place + size
            if limit == _EARLY and self._next > _EARLY_BYTES:
                return
        if limit >= _MOST_PIECES:
            self.damage = "it has more pieces than can be indexed"

    def _arrange(self) -> None:
        """Pieces in order of their targets, without overlaps."""
        order = sorted(range(len(self._targets)), key=self._targets.__getitem__)
        self._starts, self._where, self._lengths = array("q"), array("q"), array("q")
        self._end = 0
        overlap = False
        for index in order:
            target, size = self._targets[index], self._sizes[index]
            if size == 0:
                continue
            overlap = overlap or target < self._end
            self._end = max(self._end, target + size)
            self._starts.append(target)
            self._where.append(self._places[index])
            self._lengths.append(size)
        if overlap:
            self._resolve(order)

    def _resolve(self, order: list[int]) -> None:
        """Cut overlapping pieces into ranges of which each has one owner: the piece written last."""
        edges = sorted({edge for index in order for edge in (self._targets[index], self._target_end(index))})
        self._starts, self._where, self._lengths = array("q"), array("q"), array("q")
        waiting = iter(order)
        coming = next(waiting, None)
        open_pieces: list[int] = []
        for start, end in pairwise(edges):
            while coming is not None and self._targets[coming] <= start:
                heapq.heappush(open_pieces, -coming)
                coming = next(waiting, None)
            while open_pieces and self._target_end(-open_pieces[0]) <= start:
                heapq.heappop(open_pieces)
            if open_pieces:
                owner = -open_pieces[0]
                self._starts.append(start)
                self._where.append(self._places[owner] + start - self._targets[owner])
                self._lengths.append(end - start)

    def _target_end(self, index: int) -> int:
        return self._targets[index] + self._sizes[index]
