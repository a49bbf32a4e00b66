"""Members of 7z archives. The list of contents is at the end, so the archive must be a source with random access.

    0    signature, version, CRC; offset, size and CRC of the end header, all from byte 32
    32   packed streams
    end  header: where the packed streams are, by which coders each folder of files is unpacked, sizes, names

Source: 7-Zip's doc/7zFormat.txt. Checksums are not compared. In plain Python although py7zr is a library: that has nine
dependencies, which would read untrusted files too.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.formats.compressions import Zlib, chunks
from sandbox.formats.member import Member
from sandbox.formats.streams import (
    ChunkStream,
    CorruptData,
    LimitedStream,
    Source,
    SourceStream,
    Stream,
    UnsupportedFormat,
)

_END, _HEADER, _STREAMS, _FILES = 0x00, 0x01, 0x04, 0x05
_PACK, _UNPACK, _SUBSTREAMS, _SIZES, _DIGESTS, _FOLDERS = 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B
_UNPACK_SIZES, _COUNTS, _EMPTY, _NAMES, _ENCODED = 0x0C, 0x0D, 0x0E, 0x11, 0x17

_SIGNATURE_SIZE: Final = 32
_MOST_HEADER: Final = 16 << 20
_MOST: Final = 200_000
_ASKED: Final = 256
"""Bytes of a header between two looks at the clock: a few of them may stand for a list of `_MOST`."""
_MOST_DICTIONARY: Final = 1 << 30
"""7-Zip's highest level uses 256 MiB. Memory is only used as data arrives."""

_COPY, _DELTA, _LZMA, _LZMA2 = b"\x00", b"\x03", b"\x03\x01\x01", b"\x21"
_BZIP2, _DEFLATE, _AES = b"\x04\x02\x02", b"\x04\x01\x08", b"\x06\xf1\x07\x01"
_BRANCH: Final = {
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """Files that are packed as one stream."""

    coders: tuple[tuple[bytes, bytes], ...]
    """(method, properties), in the order in which they unpack."""
    offset: int
    packed: int
    size: int


def members(source: Source) -> Iterator[Member]:
    """Each file that is not empty. Raises `CorruptData`."""
    head = source.read_at(0, _SIGNATURE_SIZE)
    if len(head) < _SIGNATURE_SIZE:
        raise CorruptData("the 7z archive ends too early")
    offset, size = int.from_bytes(head[12:20], "little"), int.from_bytes(head[20:28], "little")
    if not 0 < size <= _MOST_HEADER:
        raise CorruptData("the 7z archive has no list of its contents: it was not finished")
    raw = source.read_at(_SIGNATURE_SIZE + offset, size)
    if len(raw) < size:
        raise CorruptData("the 7z archive is cut off: the list of its contents stood at its end")
    try:
        folders, sizes, names = _header(source, raw)
    except IndexError as error:
        raise CorruptData("the header of the 7z archive is damaged") from error
    waiting = iter(names)
    for folder, files in zip(folders, sizes, strict=True):
        stream = _unpacked(source, folder)
        for length in files:
            content = LimitedStream(stream, length)
            yield Member(name=next(waiting, ""), size=length, content=content)
            content.skip(content.left)


class _Reader:
    """Bytes and numbers of a header; `source` is asked for time while they are read."""

    def __init__(self, raw: bytes, source: Source) -> None:
        self._raw = raw
        self._at = 0
        self.source = source

    def byte(self) -> int:
        self._at += 1
        if not self._at % _ASKED:
            self.source.read_at(0, 0)
        return self._raw[self._at - 1]

    def take(self, size: int) -> bytes:
        if size > len(self._raw) - self._at:
            raise IndexError
        self._at += size
        return self._raw[self._at - size : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._raw) - self._at)

    def number(self) -> int:
        """Reads a number: the first byte's leading ones count the bytes after it; its other bits are the highest."""
        first = self.byte()
        more = next((count for count in range(8) if not first & 0x80 >> count), 8)
        high = first & (0x7F >> more) if more < 8 else 0
        return high << 8 * more | int.from_bytes(self.take(more), "little")

    def count(self) -> int:
        value = self.number()
        if value > _MOST:
            raise IndexError
        return value

    def bits(self, count: int) -> list[bool]:
        raw = self.take(-(-count // 8))
        return [bool(raw[at // 8] & 0x80 >> at % 8) for at in range(count)]

    def digests(self, count: int) -> list[bool]:
        """Which of the items have a CRC; the values are skipped."""
        known = [True] * count if self.byte() else self.bits(count)
        self.take(4 * sum(known))
        return known


def _header(source: Source, raw: bytes) -> tuple[list[_Folder], list[list[int]], list[str]]:
    for _ in range(4):
        reader = _Reader(raw, source)
        kind = reader.byte()
        if kind == _HEADER:
            break
        if kind != _ENCODED:
            raise IndexError
        # The header itself is packed, by default.
        folders, _ = _streams(reader)
        if not folders or folders[0].size > _MOST_HEADER:
            raise IndexError
        raw = LimitedStream(_unpacked(source, folders[0]), folders[0].size).read(folders[0].size)
    else:
        raise IndexError
    sizes: list[list[int]] = []
    names: list[str] = []
    folders = []
    while (kind := reader.byte()) != _END:
        if kind == _STREAMS:
            folders, sizes = _streams(reader)
        elif kind == _FILES:
            names = _files(reader)
        elif kind == 0x02:  # archive properties
            while reader.byte() != _END:
                reader.take(reader.count())
        else:
            raise IndexError
    return folders, sizes, names


def _streams(reader: _Reader) -> tuple[list[_Folder], list[list[int]]]:
    offset, packed = 0, list[int]()
    shapes: list[tuple[tuple[tuple[bytes, bytes], ...], int]] = []
    sizes: list[list[int]] = []
    digests: list[bool] = []
    while (kind := reader.byte()) != _END:
        if kind == _PACK:
            offset, packed = _SIGNATURE_SIZE + reader.number(), [0] * reader.count()
            while (kind := reader.byte()) != _END:
                if kind == _SIZES:
                    packed = [reader.number() for _ in packed]
                elif kind == _DIGESTS:
                    reader.digests(len(packed))
                else:
                    raise IndexError
        elif kind == _UNPACK:
            shapes, digests = _folders(reader)
            sizes = [[size] for _, size in shapes]
        elif kind == _SUBSTREAMS:
            sizes = _substreams(reader, [size for _, size in shapes], digests)
        else:
            raise IndexError
    folders = []
    # Each folder has one packed stream, since coders of several are refused.
    for (coders, size), length in zip(shapes, packed, strict=False):
        folders.append(_Folder(coders=coders, offset=offset, packed=length, size=size))
        offset += length
    if len(folders) != len(sizes):
        raise IndexError
    return folders, sizes


def _folders(reader: _Reader) -> tuple[list[tuple[tuple[tuple[bytes, bytes], ...], int]], list[bool]]:
    """(coders, size) for each folder, and which folders have a CRC."""
    if reader.byte() != _FOLDERS:
        raise IndexError
    count = reader.count()
    if reader.byte():
        raise IndexError  # definitions elsewhere; never seen
    shapes = [_folder(reader) for _ in range(count)]
    if reader.byte() != _UNPACK_SIZES:
        raise IndexError
    found = []
    for coders, order in shapes:
        sizes = [reader.number() for _ in coders]
        # The last coder in the order of unpacking gives the files.
        found.append((tuple(coders[index] for index in order), sizes[order[-1]]))
    digests = [False] * count
    while (kind := reader.byte()) != _END:
        if kind != _DIGESTS:
            raise IndexError
        digests = reader.digests(count)
    return found, digests


def _folder(reader: _Reader) -> tuple[list[tuple[bytes, bytes]], list[int]]:
    """Coders as they are listed, and their order of unpacking."""
    coders = []
    count = reader.count()
    if not 0 < count <= 4:
        raise IndexError
    for _ in range(count):
        flags = reader.byte()
        method = reader.take(flags & 15)
        if flags & 0x10 and (reader.count(), reader.count()) != (1, 1):
            raise UnsupportedFormat("the 7z archive was packed by a coder of several streams (BCJ2), not read here")
        coders.append((method, reader.take(reader.count()) if flags & 0x20 else b""))
    # Pairs of an input and the coder whose output it takes.
    takes = {reader.count(): reader.count() for _ in range(count - 1)}
    gives = {giver: taker for taker, giver in takes.items()}
    first = next((index for index in range(count) if index not in takes), None)
    order: list[int] = []
    while first is not None and first not in order and first < count:
        order.append(first)
        first = gives.get(first)
    if len(order) != count:
        raise IndexError
    return coders, order


def _substreams(reader: _Reader, wholes: list[int], digests: list[bool]) -> list[list[int]]:
    counts = [1] * len(wholes)
    kind = reader.byte()
    if kind == _COUNTS:
        counts = [reader.count() for _ in wholes]
        kind = reader.byte()
    if sum(counts) > _MOST:
        raise IndexError
    sizes = []
    for whole, count in zip(wholes, counts, strict=True):
        # The last one's size is what is left.
        own = [reader.number() for _ in range(count - 1)] if kind == _SIZES else [0] * max(0, count - 1)
        left = whole - sum(own)
        if left < 0:
            raise IndexError
        sizes.append([*own, left] if count else [])
    if kind == _SIZES:
        kind = reader.byte()
    while kind != _END:
        if kind != _DIGESTS:
            raise IndexError
        # Of single files whose folder has a CRC there is no other.
        unknown = sum(0 if count == 1 and known else count for count, known in zip(counts, digests, strict=True))
        reader.digests(unknown)
        kind = reader.byte()
    return sizes


def _files(reader: _Reader) -> list[str]:
    """Names of the files with content, in order."""
    count = reader.count()
    names, empty = [""] * count, [False] * count
    while (kind := reader.byte()) != _END:
        body = _Reader(reader.take(reader.number()), reader.source)
        reader.source.read_at(0, 0)
        if kind == _EMPTY:
            empty = body.bits(count)
        elif kind == _NAMES and body.byte() == 0:
            text = body.rest().decode("utf-16-le", "replace").split("\0", count)
            names = [*text[:count], *[""] * (count - len(text))]
    return [name for name, nothing in zip(names, empty, strict=True) if not nothing]


def _unpacked(source: Source, folder: _Folder) -> Stream:
    stream: Stream = SourceStream(source, folder.offset, folder.packed)
    methods = [method for method, _ in folder.coders]
    if _AES in methods:
        raise UnsupportedFormat("the 7z archive is encrypted")
    if methods == [_COPY]:
        return stream
    if methods == [_BZIP2]:
        return ChunkStream(chunks(stream, bz2.BZ2Decompressor, OSError, padded=True), stream)
    if methods == [_DEFLATE]:
        return ChunkStream(chunks(stream, lambda: Zlib(-15), zlib.error, padded=True), stream)
    # liblzma names the filters in the order of packing.
    try:
        filters = [_filter(method, properties) for method, properties in reversed(folder.coders)]
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    except (lzma.LZMAError, ValueError, IndexError) as error:
        raise CorruptData(f"7z methods {'+'.join(one.hex() for one in methods)}: {error}") from error
    return ChunkStream(chunks(stream, lambda: decompressor, lzma.LZMAError, padded=True), stream)


def _filter(method: bytes, properties: bytes) -> dict[str, int]:
    if method == _LZMA:
        # One byte for lc, lp and pb, then the size of the dictionary.
        rest, lc = divmod(properties[0], 9)
        pb, lp = divmod(rest, 5)
        size = int.from_bytes(properties[1:5], "little")
        found = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": max(size, 4096)}
    elif method == _LZMA2:
        bits = properties[0]
        found = {"id": lzma.FILTER_LZMA2, "dict_size": (2 | bits & 1) << min(bits // 2 + 11, 40)}
    elif method == _DELTA:
        return {"id": lzma.FILTER_DELTA, "dist": properties[0] + 1}
    elif method in _BRANCH:
        return {"id": _BRANCH[method]}
    else:
        raise UnsupportedFormat(f"7z method {method.hex()} is not read here")
    if found["dict_size"] > _MOST_DICTIONARY:
        raise UnsupportedFormat("the 7z archive wants a dictionary of more than 1 GiB")
    return found
