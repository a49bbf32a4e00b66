"""The contract of `Stream`, which every stream keeps; and what the one table of compressions unpacks."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from archives import multi_block_xz
from sandbox.debuginfo import http_ranges
from sandbox.formats import compressions, streams, zstandard
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.streams import (
    ChunkStream,
    CorruptData,
    FileStream,
    GrowingFile,
    LimitedStream,
    PeekSource,
    SourceStream,
    Stream,
    UnsupportedFormat,
    exactly,
)

DATA = random.Random(3).randbytes(3000) + bytes(3000) + b"end"


class Slow:
    """A source whose reads give little at once; and as much of a remote file as streams use."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + min(size, 700)]


class Quick(Slow):
    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def pieces(data: bytes, size: int = 11) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def growing(path: Path) -> Stream:
    path.write_bytes(DATA)
    file = GrowingFile(path)

    def arrive() -> None:
        for at in range(0, len(DATA), 1000):
            file.arrived(at)
        file.arrived(len(DATA))
        file.end()

    threading.Thread(target=arrive).start()
    return file


def written(path: Path) -> Stream:
    path.write_bytes(DATA)
    return FileStream(path)


PACKED = {
    "gz": gzip.compress(DATA),
    "bzip2": bz2.compress(DATA),
    "xz": multi_block_xz(DATA, 900),
    "lzma": lzma.compress(DATA, format=lzma.FORMAT_ALONE),
    "zstd": zstandard.module().compress(DATA),
    "lz4": b"\x04\x22\x4d\x18\x60\x40\x00" + struct.pack("<I", len(DATA) | 1 << 31) + DATA + bytes(4),
    "none": DATA,
}

STREAMS: dict[str, Callable[[Path], Stream]] = {
    "source": lambda _: SourceStream(Slow(DATA)),
    "part of a source": lambda _: SourceStream(Slow(b"xx" + DATA + b"yy"), 2, len(DATA)),
    "file": written,
    "growing file": growing,
    "chunks": lambda _: ChunkStream(pieces(DATA)),
    "limited": lambda _: LimitedStream(ChunkStream(pieces(DATA + b"more")), len(DATA)),
    "remote": lambda _: http_ranges.RemoteStream(cast("Any", Quick(DATA))),
    "blocks": lambda _: http_ranges.BlockStream(
        http_ranges.XzBlocks(cast("Any", Quick(PACKED["xz"])), 0, len(PACKED["xz"]))
    ),
    **{name: lambda _, name=name: decompressed(ChunkStream(pieces(PACKED[name])), name) for name in PACKED},
}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "_WINDOW", 64)
    monkeypatch.setattr(compressions, "_STEP", 256)


@pytest.mark.parametrize("name", STREAMS)
def test_reads_are_as_long_as_they_were_asked_to_be(name: str, tmp_path: Path) -> None:
    stream = STREAMS[name](tmp_path / "x")
    assert stream.read(0) == b""
    assert stream.read(5) == DATA[:5]
    stream.skip(995)
    assert stream.read(4000) == DATA[1000:5000]
    stream.skip(0)
    assert stream.read(1 << 20) == DATA[5000:]
    assert stream.read(1) == b""


@pytest.mark.parametrize("name", STREAMS)
def test_a_skip_beyond_the_end_is_noticed(name: str, tmp_path: Path) -> None:
    stream = STREAMS[name](tmp_path / "x")
    try:
        stream.skip(len(DATA) + 1)
    except CorruptData:
        return
    assert stream.read(1) == b""
    with pytest.raises(CorruptData, match="ends too early"):
        exactly(stream, 1)


@pytest.mark.parametrize("name", [name for name in PACKED if name not in {"none", "lzma"}])
def test_cut_and_damaged(name: str) -> None:
    packed = PACKED[name]
    for broken in (packed[: len(packed) // 2], packed[:-1], packed[: len(packed) // 3] + b"\xff" * 40 + packed[-9:]):
        with pytest.raises(CorruptData):
            decompressed(ChunkStream(pieces(broken)), name).read(1 << 20)


@pytest.mark.parametrize("name", ["gz", "bzip2", "xz", "zstd"])
def test_members_in_a_row(name: str) -> None:
    """With the zeros between them that xz has as padding; what is no member is damage, unless it may be there."""
    two = PACKED[name] + bytes(600) + PACKED[name] + bytes(300)
    assert decompressed(ChunkStream(pieces(two)), name).read(1 << 20) == DATA * 2
    rest = ChunkStream(pieces(two + b"rest"))
    assert decompressed(rest, name, padded=True).read(1 << 20) == DATA * 2
    with pytest.raises(CorruptData):
        decompressed(ChunkStream(pieces(two + b"rest")), name).read(1 << 20)


def test_what_was_read_of_a_stream_is_kept_in_memory_and_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(5).randbytes(10_000)
    monkeypatch.setattr(streams, "_IN_MEMORY", 4000)
    peek = PeekSource(ChunkStream(iter([content[:3999], content[3999:]])), 9_000)
    for offset, size in (
        (0, 10),
        (3990, 20),
        (4000, 1),
        (3999, 2),
        (5000, 3000),
        (8_990, 100),
        (100, 8_000),
        (9_000, 5),
    ):
        assert peek.read_at(offset, size) == content[offset : min(offset + size, 9_000)]
    assert (peek.kept, peek.size) == (9_000, None)
    peek.exhaust(20_000)
    assert (peek.kept, peek.size) == (10_000, 10_000)
    assert peek.read_at(9_990, 100) == content[9_990:]
    assert peek.read_at(10_000, 1) == b""


def test_where_nothing_more_can_be_kept_the_stream_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streams, "_IN_MEMORY", 4000)
    monkeypatch.setattr(streams.tempfile, "TemporaryFile", full)
    content = random.Random(5).randbytes(10_000)
    peek = PeekSource(ChunkStream(iter([content])), 20_000)
    assert peek.read_at(3_000, 5_000) == content[3_000:4_000]
    peek.exhaust(20_000)
    assert (peek.kept, peek.size, peek.damage) == (4_000, None, None)


@pytest.mark.slow
def test_bounds_of_memory() -> None:
    """Headers that ask for a dictionary of gigabytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    packed = lzma.compress(b"x", filters=filters)
    with pytest.raises(CorruptData):
        decompressed(ChunkStream(iter([packed])), "xz").read(1)
    # A frame of zstd with a window of 2 GiB: magic, descriptor, window, an empty last block.
    window = b"\x28\xb5\x2f\xfd" + bytes((0, (31 - 10) << 3)) + b"\x01\0\0"
    with pytest.raises(CorruptData):
        decompressed(ChunkStream(iter([window])), "zstd").read(1)
    with pytest.raises(CorruptData):
        decompressed(ChunkStream(iter([lzma.compress(b"x", preset=9)])), "xz", memory=1 << 20).read(1)


def test_names() -> None:
    assert [by_suffix(suffix) for suffix in ("", ".xz", ".gz", ".bz2", ".lzma", ".zst", ".xml")] == [
        "none",
        "xz",
        "gzip",
        "bzip2",
        "lzma",
        "zstd",
        None,
    ]
    with pytest.raises(UnsupportedFormat):
        decompressed(ChunkStream(iter([])), "brotli")
