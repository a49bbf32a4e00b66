"""Where each byte of a flattened dump is: an index of its pieces, made by one walk and kept beside unpacked dumps.

A dump of 100 GB has millions of pieces. So they are sorted in parts that are merged, the index is a file, and only one
number of each `_BLOCK` ranges is held in memory. The kept index contains offsets only, no content of the dump.
"""

from __future__ import annotations

import heapq
import io
import os
import stat
import struct
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Final

from sandbox.dump.source import FileSource, OpenFile
from sandbox.formats.streams import Source, pread
from sandbox.progress import QUIET, Reporter

HEADER_SIZE: Final = 4096
END_MARK: Final = b"\xff" * 16

NAME: Final = "pieces"
"""Of a kept index, in the directory of what belongs to one dump."""

GZIP: Final = "gzip"
"""Of a kept index of a gzip file (`sandbox.formats.gzip_index`), in the same directory."""

LARGE: Final = 64 << 20
"""Bytes of a flattened dump from which on its index is kept: below, it is made in some milliseconds."""

Piece = tuple[int, int, int]
"""(place in the rearranged dump, place in the file, bytes)"""

_PIECE: Final = struct.Struct(">qq")
_EARLY: Final = 96
_EARLY_BYTES: Final = 1 << 20
"""Bytes of pieces that are read to identify a dump: the first ones have the header, the notes and the vmcoreinfo."""

_SMALLEST: Final = 512
"""Bytes that a piece has on average, at least: writers give pages and larger tables. It bounds the work per byte."""
_PIECES_AT_ONCE: Final = 1 << 15
"""Pieces that may be smaller."""

_WINDOW: Final = 256 << 10
_SMALL: Final = 8 << 10
"""Mean size of pieces up to which everything is read: for larger ones, a system call costs less than the copy."""
_SEEKING: Final = 128 << 10
"""Mean size of pieces up to which the kernel is asked to read ahead: disks and NFS are slow at many small reads."""
_AHEAD: Final = 16 << 20

_SORTED_AT_ONCE: Final = 1 << 17
_MOST_OPEN: Final = 1 << 16
"""Pieces that may overlap at one place. Writers write some headers twice."""

_MAGIC: Final = b"vmbox pieces 1\n\0"
_HEAD: Final = struct.Struct("<16sqqq")
_HEAD_SIZE: Final = 512
_RANGE: Final = 24
_BLOCK: Final = 512
_MOST_CACHED: Final = 64


class PieceIndex:
    """Ranges of the rearranged dump in order, each in one place of the file, without overlaps."""

    def __init__(self, read_at: Callable[[int, int], bytes], size: int) -> None:
        """The index of `size` bytes that `read_at(offset, size)` reads. Raises `ValueError` when it is none."""
        head = read_at(0, _HEAD_SIZE)
        if len(head) < _HEAD_SIZE or not head.startswith(_MAGIC):
            raise ValueError("no index of pieces")
        _, count, self.end, flags = _HEAD.unpack_from(head)
        blocks = -(-count // _BLOCK)
        if count < 0 or size != _HEAD_SIZE + _RANGE * count + 8 * blocks:
            raise ValueError("no whole index of pieces")
        self.ended = bool(flags & 1)
        """The end mark was met."""
        self.whole = bool(flags & 2)
        """All pieces are in the index."""
        said = head[_HEAD.size :].rstrip(b"\0").decode()
        self.damage: str | None = said or None
        self._count = count
        self._read_at = read_at
        self._starts = array("q", read_at(_HEAD_SIZE + _RANGE * count, 8 * blocks))
        self._blocks: dict[int, array[int]] = {}

    def ranges(self, offset: int) -> Iterator[Piece]:
        """The ranges from the one that `offset` is in, or before, on."""
        number = max(0, bisect_right(self._starts, offset) - 1)
        block = self._block(number)
        index = max(0, bisect_right(block[0::3], offset) - 1)
        while block:
            for at in range(3 * index, len(block), 3):
                yield block[at], block[at + 1], block[at + 2]
            number, index = number + 1, 0
            block = self._block(number)

    def _block(self, number: int) -> array[int]:
        found = self._blocks.get(number)
        if found is None:
            size = max(0, min(_BLOCK, self._count - number * _BLOCK))
            found = array("q", self._read_at(_HEAD_SIZE + _RANGE * _BLOCK * number, _RANGE * size))
            if len(self._blocks) >= _MOST_CACHED:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[number] = found
        return found


def beginning(source: Source) -> PieceIndex:
    """The index of the first pieces of a flattened dump."""
    walk = _Walk(source)
    return _of(walk, islice(walk.pieces(_EARLY_BYTES), _EARLY))


def complete(source: Source) -> PieceIndex:
    """The index of all pieces, in memory. Raises what reading raises, for example `DeadlineExceeded`."""
    walk = _Walk(source)
    return _of(walk, walk.pieces())


def kept_path(source: OpenFile, directory: Path) -> Path:
    """Where the index of a dump is kept: with its unpacked copy, under the identity of the file."""
    return directory / source.identity / NAME


def find(source: OpenFile, directory: Path) -> PieceIndex | None:
    """The kept index of a dump; None if there is none, or none of this user's own, or an older one."""
    opened = open_own(kept_path(source, directory))
    if opened is None:
        return None
    with suppress(ValueError, OSError):
        index = PieceIndex(partial(pread, opened), os.fstat(opened).st_size)
        weakref.finalize(index, os.close, opened)
        return index
    os.close(opened)
    return None


def open_own(path: Path) -> int | None:
    """Opens a kept file; None if there is none, or if another user may have written it."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(opened)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        # What is not used for long is removed.
        with suppress(OSError):
            os.utime(opened)
        return opened
    os.close(opened)
    return None


def keep(source: OpenFile, directory: Path, reporter: Reporter = QUIET) -> PieceIndex:
    """The kept index, which is made first if there is none: one walk through the whole file, with progress in bytes.

    Where there is no space to keep it, it is in memory. `directory` must be the user's own, else `ConfigurationError`.
    """
    from sandbox.host import paths

    found = find(source, directory)
    if found is not None:
        return found
    with reporter.step(f"indexing {source.path.name}", total=source.size, unit="B") as step:
        walk = _Walk(source, step.advance)
        target = kept_path(source, directory)
        part = target.with_name(f"{NAME}.part{os.getpid()}")
        paths.make_private(directory)
        paths.make_private(target.parent)
        try:
            with open(part, "xb", opener=_open_private) as out:
                _write(walk, walk.pieces(), out, target.parent)
            part.rename(target)
        except OSError:
            part.unlink(missing_ok=True)
            return complete(source)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return find(source, directory) or complete(source)


def _open_private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


class _Walk:
    """A walk through the pieces, in the order they were written."""

    def __init__(self, source: Source, advance: Callable[[int], None] | None = None) -> None:
        self._source = source
        self._advance = advance
        self._next = HEADER_SIZE
        self._advised = 0
        self._told = 0
        self._count = 0
        self.ended = False
        self.exhausted = False
        self.damage: str | None = None

    def pieces(self, limit: int | None = None) -> Iterator[Piece]:
        """Yields pieces up to the first one behind `limit` bytes."""
        known = self._source.size
        window, at, base = b"", 0, 0
        while True:
            at = self._next - base
            if not 0 <= at <= len(window) - 16:
                window, base, at = self._read_window(), self._next, 0
            raw = window[at : at + 16]
            if len(raw) < 16:
                self.exhausted = True
                return
            target, size = _PIECE.unpack(raw)
            if target < 0 or size <= 0 or target + size > 1 << 62:
                self.exhausted = True
                self.ended = raw == END_MARK
                if not self.ended:
                    self.damage = f"damaged: no piece of a flattened dump begins at byte {self._next}"
                return
            if self._count > _PIECES_AT_ONCE + self._next // _SMALLEST:
                self.exhausted = True
                self.damage = f"damaged: more than {self._count} pieces of {_SMALLEST} bytes or less"
                return
            place = self._next + 16
            self._count += 1
            self._next = place + size
            # A piece that is cut has what is there of it.
            length = size if known is None else min(size, known - place)
            if length > 0:
                yield target, place, length
            if limit is not None and self._next > limit:
                return

    def _read_window(self) -> bytes:
        """At least the head of the next piece. Reads all if pieces are small, else only the heads."""
        at = self._next
        if self._advance is not None:
            self._advance(max(0, min(at, self._source.size or at) - self._told))
            self._told = at
        mean = at // max(self._count, 1)
        if mean <= _SMALL:
            return self._source.read_at(at, _WINDOW)
        if mean <= _SEEKING and at > self._advised - _AHEAD // 2 and isinstance(self._source, FileSource):
            self._advised = max(at, self._advised)
            self._source.will_need(self._advised, _AHEAD)
            self._advised += _AHEAD
        return self._source.read_at(at, 16)


def _of(walk: _Walk, pieces: Iterable[Piece]) -> PieceIndex:
    out = io.BytesIO()
    _write(walk, pieces, out, None)
    made = out.getvalue()
    return PieceIndex(lambda offset, size: made[offset : offset + size], len(made))


def _write(walk: _Walk, pieces: Iterable[Piece], out: IO[bytes], scratch: Path | None) -> None:
    """Writes the index of `pieces`. With `scratch`, what is sorted in parts goes to a file in that directory."""
    import tempfile

    pieces = iter(pieces)
    out.write(bytes(_HEAD_SIZE))
    starts = array("q")
    count = end = 0
    with io.BytesIO() if scratch is None else tempfile.TemporaryFile(dir=scratch) as spool:
        parts: list[Iterable[Piece]] = []
        while part := list(islice(pieces, _SORTED_AT_ONCE)):
            # Of pieces for the same place the one written later comes last.
            part.sort()
            if len(part) < _SORTED_AT_ONCE:
                parts.append(part)
                break
            parts.append(_Spooled(spool, part))
        ordered = parts[0] if len(parts) == 1 else heapq.merge(*parts)
        arranged = _without_overlaps(ordered, walk)
        while block := list(islice(arranged, _BLOCK)):
            starts.append(block[0][0])
            count += len(block)
            end = max(end, block[-1][0] + block[-1][2])
            out.write(array("q", chain.from_iterable(block)).tobytes())
    out.write(starts.tobytes())
    out.seek(0)
    head = _HEAD.pack(_MAGIC, count, end, walk.ended | walk.exhausted << 1)
    out.write(head + (walk.damage or "").encode()[: _HEAD_SIZE - len(head)])


class _Spooled:
    """A sorted part of the pieces, in a file."""

    def __init__(self, spool: IO[bytes], part: list[Piece]) -> None:
        self._spool = spool
        self._at = spool.seek(0, os.SEEK_END)
        self._count = len(part)
        spool.write(array("q", chain.from_iterable(part)).tobytes())

    def __iter__(self) -> Iterator[Piece]:
        for first in range(0, self._count, _BLOCK):
            self._spool.seek(self._at + _RANGE * first)
            values = array("q", self._spool.read(_RANGE * min(_BLOCK, self._count - first)))
            yield from zip(values[0::3], values[1::3], values[2::3], strict=True)


def _without_overlaps(pieces: Iterable[Piece], walk: _Walk) -> Iterator[Piece]:
    """Cuts pieces, which are in order, into ranges of which each has one owner: the piece written last."""
    # Of the pieces that reach to the current place: (-place in the file, start, end); the first one owns it.
    opened: list[tuple[int, int, int]] = []
    at = 0
    for start, place, length in chain(pieces, ((1 << 63, 0, 0),)):
        if len(opened) == 1 and opened[0][2] <= start:
            # Nearly all pieces begin where the last one ended, or behind it.
            owner, begin, end = opened[0]
            yield at, at - begin - owner, end - at
            opened[0], at = (-place, start, start + length), start
            continue
        if opened and -opened[0][0] > place and opened[0][2] >= start + length:
            continue
        while opened and at < start:
            owner, begin, end = opened[0]
            if end <= at:
                heapq.heappop(opened)
                continue
            stop = min(end, start)
            yield at, at - begin - owner, stop - at
            at = stop
        at = max(at, start)
        if len(opened) >= _MOST_OPEN:
            opened = [one for one in opened if one[2] > at]
            heapq.heapify(opened)
            if len(opened) >= _MOST_OPEN:
                walk.damage = f"damaged: {_MOST_OPEN} pieces overlap at byte {at}"
                return
        heapq.heappush(opened, (-place, start, start + length))
