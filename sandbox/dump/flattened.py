"""makedumpfile's flattened format: pieces of a dump, each with its offset in the dump.

    0      "makedumpfile", 4 NUL, type = 1, version = 1; padded to 4096 bytes
    4096   offset, size, then `size` bytes that belong at `offset`; and so on
    end    -1, -1

All numbers are 64-bit big-endian whatever the machine. What no piece fills reads as zeros, and where pieces overlap the
last one counts (makedumpfile.c, write_buffer and rearrange_dumpdata). Debian's and SUSE's kdump always write this, QEMU
does by default, and RHEL does over ssh.
"""

from __future__ import annotations

import math
from typing import Final

from sandbox.dump import piece_index
from sandbox.dump.piece_index import END_MARK, HEADER_SIZE, PieceIndex
from sandbox.dump.source import READ_LIMIT, Asking, Budget, DeadlineExceeded
from sandbox.formats.streams import Source

__all__ = ["END_MARK", "HEADER_SIZE", "MAGIC", "FlattenedSource"]

MAGIC: Final = b"makedumpfile\0\0\0\0"


class FlattenedSource:
    """The rearranged dump. Without an `index` only the first pieces are known until `complete_index`.

    That takes at most `patience` seconds, and more only if a single read does.
    """

    def __init__(self, source: Source, index: PieceIndex | None = None, *, patience: float = math.inf) -> None:
        self._source = source
        self._patience = patience
        self._index = piece_index.beginning(source) if index is None else index

    @property
    def size(self) -> int | None:
        return self._index.end if self._index.whole else None

    @property
    def damage(self) -> str | None:
        return self._index.damage

    def complete_index(self) -> None:
        """Walk the whole file. May raise `DeadlineExceeded`, and then does at each further call."""
        if self._index.whole:
            return
        if self._patience <= 0:
            raise DeadlineExceeded
        try:
            self._index = piece_index.complete(Asking(self._source, Budget(self._patience)))
        except DeadlineExceeded:
            self._patience = 0
            raise

    def missing(self) -> str | None:
        """Why the file is incomplete: no end mark."""
        if self._index.ended:
            return None
        whole = self._source.size
        if whole is None:
            return None
        if self._source.read_at(whole - 16, 16) == END_MARK:
            return None
        # Something may follow the end mark, on a raw device for example; then only walking tells.
        self.complete_index()
        if self._index.ended:
            return None
        return self.damage or f"cut off: the flattened file ends after {whole} bytes without its end mark"

    def read_at(self, offset: int, size: int) -> bytes:
        self._source.read_at(0, 0)
        last = self._index.end
        if offset < 0 or size <= 0 or offset >= last:
            return b""
        end = min(offset + min(size, READ_LIMIT), last)
        out = []
        at = offset
        for start, place, length in self._index.ranges(offset):
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
            if at >= end:
                break
        if at < end:
            out.append(bytes(end - at))
        return out[0] if len(out) == 1 else b"".join(out)
