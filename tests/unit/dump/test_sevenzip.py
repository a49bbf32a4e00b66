"""7z archives. Those in fixtures/archives were made by 7z 16.02 of the dump below, a README and an empty file."""

import struct
from pathlib import Path

import dump_writer
import pytest

from sandbox.dump import identify, unpack
from sandbox.errors import DumpDamaged, DumpUnreadable, NotADump, VmboxError

ARCHIVES = Path(__file__).resolve().parents[2] / "fixtures" / "archives"
INFO = b"OSRELEASE=6.1.0-test\nBUILD-ID=" + b"ab" * 20 + b"\nPAGESIZE=4096\nCRASHTIME=1700000000\n"
DUMP = dump_writer.kdump({pfn: bytes([pfn % 256]) * 4096 for pfn in (0, 3, 4, 70, 999)}, INFO)


@pytest.mark.parametrize("name", ["lzma2", "lzma", "bzip2", "deflate", "bcj-lzma2", "delta-lzma2", "not-solid"])
def test_read_and_unpacked(tmp_path, name):
    found = identify(ARCHIVES / f"{name}.7z")
    assert (found.wrappers, found.release, found.complete) == (("7z",), "6.1.0-test", True)
    assert str(found.member).endswith("vmcore")
    assert unpack(found, tmp_path).read_bytes() == DUMP


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encrypted", "encrypted"),
        ("encrypted-names", "encrypted"),
        ("ppmd", "030401"),
        ("bcj2", "several streams"),
    ],
)
def test_an_unsupported_archive_is_explained(name, message):
    with pytest.raises(DumpUnreadable, match=message) as error:
        identify(ARCHIVES / f"{name}.7z")
    assert "unpack it by hand" in str(error.value.hint)


def test_no_dump_inside():
    with pytest.raises(NotADump, match="none of the 1 files"):
        identify(ARCHIVES / "nothing.7z")


def test_stored(tmp_path):
    """7z -mx=0 -mhc=off, which would be a large fixture, written by hand."""
    names = b"\0" + "vmcore\0".encode("utf-16-le")
    size = struct.pack("<Q", len(DUMP))
    header = b"\x01\x04\x06\x00\x01\x09\xff" + size + b"\x00\x07\x0b\x01\x00\x01\x01\x00\x0c\xff" + size + b"\x00\x00"
    header += b"\x05\x01\x11" + bytes((len(names),)) + names + b"\x00\x00"
    start = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + struct.pack("<QQI", len(DUMP), len(header), 0)
    path = tmp_path / "dump.7z"
    path.write_bytes(start + DUMP + header)
    assert identify(path).build_id == "ab" * 20
    assert unpack(identify(path), tmp_path).read_bytes() == DUMP


@pytest.mark.slow
def test_every_cut_and_every_flipped_byte(tmp_path):
    whole = (ARCHIVES / "lzma2.7z").read_bytes()
    path = tmp_path / "dump.7z"
    for size in range(6, len(whole), 17):
        path.write_bytes(whole[:size])
        with pytest.raises((DumpDamaged, NotADump)):
            identify(path)
    for at in range(6, len(whole), 7):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :])
        try:
            identify(path)
        except VmboxError as error:
            assert error.hint is not None  # noqa: PT017 - either answer is right
