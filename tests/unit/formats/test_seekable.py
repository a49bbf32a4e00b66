"""Compressed files in blocks, read at any place."""

import gzip
import io
import lzma
import random
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from sandbox.formats import seekable, zstandard
from sandbox.formats.streams import CorruptData

WHOLE = b"".join(random.Random(number).randbytes(300) * 50 for number in range(30))
PARTS = [WHOLE[at : at + 60_000] for at in range(0, len(WHOLE), 60_000)]


class Bytes:
    def __init__(self, data):
        self.data, self.size, self.read = data, len(data), 0

    def read_at(self, offset, size):
        out = self.data[offset : offset + size]
        self.read += len(out)
        return out


def zst(parts=PARTS, *, between=b"", checksum=False):
    zstd = zstandard.module()
    options = {zstd.CompressionParameter.checksum_flag: int(checksum)}
    return between.join(zstd.compress(part, options=options) for part in parts)


def xz_blocks():
    done = subprocess.run(["xz", "-c", "--block-size=60000"], input=WHOLE, capture_output=True, check=True)
    return done.stdout


def bgzf(parts=PARTS):
    out = b""
    for part in [*parts, b""]:
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        data = packer.compress(part) + packer.flush()
        out += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\6\0BC\2\0" + struct.pack("<H", len(data) + 25)
        out += data + struct.pack("<II", zlib.crc32(part), len(part))
    return out


SKIPPED = b"\x50\x2a\x4d\x18\4\0\0\0abcd"
FILES = {
    "zst": zst(),
    "zst with checksums": zst(checksum=True),
    "zst with skippable frames": SKIPPED + zst(between=SKIPPED) + SKIPPED,
    "zst of short parts": zst([WHOLE[:100], WHOLE[100:1000], WHOLE[1000:]]),
    "xz": xz_blocks(),
    "bgzf": bgzf(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(WHOLE) + 10), st.integers(0, 200_000))
def test_any_range_is_what_it_is_in_the_whole(name, offset, size):
    source = seekable.open_blocks(Bytes(FILES[name]), io.BytesIO)
    assert source.size == len(WHOLE)
    assert source.read_at(offset, size) == WHOLE[offset : offset + size]
    assert source.read_at(0, len(WHOLE)) == WHOLE


@pytest.mark.parametrize("name", ["zst", "xz", "bgzf"])
def test_only_the_blocks_of_a_range_are_unpacked_and_only_once(name):
    file = Bytes(FILES[name])
    source = seekable.open_blocks(file, io.BytesIO)
    headers = file.read
    source.read_at(70_000, 10)
    once = file.read - headers
    assert 0 < once < 2 * len(FILES[name]) / len(PARTS)
    source.read_at(75_000, 1000)
    assert file.read - headers == once


@pytest.mark.parametrize(
    "data",
    [
        zst([WHOLE]),
        lzma.compress(WHOLE),
        gzip.compress(WHOLE),
        gzip.compress(WHOLE[:1000]) + gzip.compress(WHOLE[1000:]),
        bgzf() + gzip.compress(b"more"),
        bgzf()[:-28],
        b"KDUMP   ",
        b"",
    ],
    ids=["one frame", "one block", "gzip", "members", "bgzf and more", "bgzf cut", "plain", "empty"],
)
def test_what_can_only_be_read_from_its_beginning_is_left_to_others(data):
    assert seekable.open_blocks(Bytes(data), io.BytesIO) is None


@pytest.mark.parametrize("name", FILES)
def test_damage_is_an_error_and_never_other_bytes(name):
    whole = FILES[name]
    for harm in range(60):
        data = bytearray(whole)
        at = len(data) * harm // 60
        data[at] ^= 0x55
        for broken in (bytes(data), whole[:at]):
            try:
                source = seekable.open_blocks(Bytes(broken), io.BytesIO)
                seen = None if source is None else source.read_at(0, len(WHOLE))
            except CorruptData:
                continue
            # zstd without checksums, and fields that say nothing of the content, cannot tell.
            assert name.startswith("zst") or seen in {None, WHOLE}, (at, Path(name))
