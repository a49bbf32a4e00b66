"""Finds a file in a remote .deb by reading a few blocks of its tar, which has no index.

Every .deb lists its files in `md5sums`, and dpkg-deb writes them sorted, each directory's names in the order of their
bytes (dpkg's treewalk.c). So the name that is found at a guessed place tells in which direction to guess next. The
order is checked at every step: a package in another order is read from its start.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.debuginfo.http_ranges import BlockStream, HttpFile, RemoteStream, XzBlocks
from sandbox.formats import ar, deb, tar
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.streams import ChunkStream, CorruptData, Stream, exactly
from sandbox.formats.xz import NotSeekable

_LARGEST_LIST: Final = 8 << 20
"""Debian's kernel packages list their files in half a megabyte."""
_MOST_FILES: Final = 1 << 17
_MAGIC_AT: Final = 257


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One file in the unpacked tar."""

    at: int
    size: int

    @property
    def end(self) -> int:
        """Where the next member's header begins."""
        return self.at + self.size + -self.size % tar.BLOCK


def md5sums(file: HttpFile) -> Mapping[str, str]:
    """MD5 of every regular file in the package, by path. Raises `NotSeekable` if it has no list."""
    stream = RemoteStream(file)
    for member in ar.members(stream):
        if member.name.startswith("control.tar"):
            kind = by_suffix(member.name.removeprefix("control.tar"))
            if kind is None or member.size > _LARGEST_LIST:
                break
            # One request brings all of it.
            return _listed(decompressed(ChunkStream(iter([exactly(stream, member.size)])), kind))
        if member.name.startswith("data.tar"):
            break
    raise NotSeekable("it does not list its files")


def _listed(control: Stream) -> Mapping[str, str]:
    for member in tar.members(control):
        if member.path == "md5sums" and member.size <= _LARGEST_LIST:
            lines = exactly(member.content, member.size).decode("utf-8", "surrogateescape").splitlines()
            if len(lines) > _MOST_FILES:
                raise NotSeekable("it lists too many files")
            return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    raise NotSeekable("it does not list its files")


class DebFileLocator:
    """Finds the places of files in the data.tar that `blocks` unpacks to."""

    def __init__(self, blocks: XzBlocks, paths: Mapping[str, str]) -> None:
        self._blocks = blocks
        self._order = sorted(paths, key=lambda path: path.split("/"))
        self._numbers = {path: number for number, path in enumerate(self._order)}
        self._seen: dict[int, Place] = {}
        self._known: list[int] = []
        """Keys of `_seen`, sorted."""
        self._looked_at: set[int] = set()
        # vmlinux, which is a third of the package and more, begins in the first block of Debian's.
        self._look(0, 0)

    def find(self, path: str) -> Place:
        """Raises `NotSeekable` when the package is not in the order described above, `CorruptData`, `KeyError`."""
        number = self._numbers[path]
        while number not in self._seen:
            before, after = self._neighbours(number)
            start = self._seen[before].end if before >= 0 else 0
            end = self._seen[after].at if after < len(self._order) else self._blocks.size
            guess = start + (end - start) * (number - before) // (after - before + 1)
            first, stop = self._blocks.bounds(guess)
            header = None
            while first >= start and first not in self._looked_at and (header := self._header_in(first)) is None:
                # The middle of a large file: the next block tells as much.
                self._looked_at.add(first)
                first, stop = self._blocks.bounds(stop)
            if header is None:
                self._walk(start, number)
            else:
                self._look(header, first)
        return self._seen[number]

    def _neighbours(self, number: int) -> tuple[int, int]:
        at = bisect.bisect(self._known, number)
        before = self._known[at - 1] if at else -1
        return before, self._known[at] if at < len(self._known) else len(self._order)

    def _look(self, header: int, block: int) -> None:
        """Records every member that begins in the block, from `header` on."""
        self._looked_at.add(block)
        _, end = self._blocks.bounds(block)
        stream = BlockStream(self._blocks)
        stream.at = header
        for member in tar.members(stream):
            self._note(member.path, stream.at, member.size)
            if stream.at + member.size + -member.size % tar.BLOCK >= end:
                break

    def _walk(self, start: int, number: int) -> None:
        """Goes member by member from a known header to the wanted one."""
        stream = BlockStream(self._blocks)
        stream.at = start
        for member in tar.members(stream):
            self._note(member.path, stream.at, member.size)
            if number in self._seen:
                return
            if self._numbers.get(member.path, -1) > number:
                break
        raise NotSeekable("its files are in another order than their names")

    def _note(self, path: str, at: int, size: int) -> None:
        number = self._numbers.get(path)
        if number is None or number in self._seen:
            return
        before, after = self._neighbours(number)
        if (before >= 0 and self._seen[before].end > at) or (after < len(self._order) and self._seen[after].at < at):
            raise NotSeekable("its files are in another order than their names")
        self._seen[number] = Place(at=at, size=size)
        bisect.insort(self._known, number)

    def _header_in(self, block: int) -> int | None:
        """The first header that begins in the block, found by the bytes that all headers have."""
        first, end = self._blocks.bounds(block)
        data = self._blocks.read_at(first, end - first)
        at = -1
        while (at := data.find(b"ustar", at + 1)) >= 0:
            header = at - _MAGIC_AT
            if header >= 0 and (first + header) % tar.BLOCK == 0 and header + tar.BLOCK <= len(data):
                try:
                    tar.header(data[header : header + tar.BLOCK])
                except CorruptData:
                    continue
                return first + header
        return None


def data_blocks(file: HttpFile) -> XzBlocks:
    """The blocks of a package's data.tar. Raises `NotSeekable`, `CorruptData`."""
    kind, data = deb.data_part(RemoteStream(file))
    if kind != "xz":
        raise NotSeekable(f"it is compressed with {kind}")
    return XzBlocks(file, data.offset, data.size)
