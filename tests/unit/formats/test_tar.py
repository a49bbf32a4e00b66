"""Entries of tar archives: what a damaged or crafted header may say, and that nothing but `CorruptData` comes of it."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from sandbox.dump import identify
from sandbox.formats import tar
from sandbox.formats.member import Member
from sandbox.formats.streams import ChunkStream, CorruptData

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


def members(data: bytes) -> list[tuple[str, int, bytes]]:
    return [(one.name, one.size, content(one)) for one in tar.members(ChunkStream(iter([data])))]


def content(member: Member) -> bytes:
    return member.content.read(1 << 20)


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def with_pax(records: bytes, name: str = "in the header", data: bytes = b"data") -> bytes:
    return entry("pax", records, tarfile.XHDTYPE) + entry(name, data) + bytes(1024)


def record(keyword: str, value: bytes) -> bytes:
    body = b" " + keyword.encode() + b"=" + value + b"\n"
    size = next(size for size in range(len(body), len(body) + 9) if size == len(body) + len(str(size)))
    return str(size).encode() + body


FORGED = record("path", b"real/name") + record("comment", b"a\n99 path=other/vmcore")


def test_pax_records_are_split_by_their_length() -> None:
    assert tar.pax_records(FORGED) == {"path": b"real/name", "comment": b"a\n99 path=other/vmcore"}
    assert members(with_pax(FORGED)) == [("real/name", 4, b"data")]
    # As the standard library reads it.
    with tarfile.open(fileobj=io.BytesIO(with_pax(FORGED))) as archive:
        assert archive.getnames() == ["real/name"]


def test_a_comment_does_not_rename_a_dump(tmp_path: Path) -> None:
    (tmp_path / "case.tar").write_bytes(with_pax(FORGED, data=FIXTURE.read_bytes()))
    assert identify(tmp_path / "case.tar").member == "real/name"


@pytest.mark.parametrize(
    "records",
    [
        record("size", "²".encode()),
        record("size", b"9" * 5000),
        record("size", b"-1"),
        record("size", b""),
        record("size", str(1 << 62).encode()),
        b"9" * 5000 + b" path=x\n",
        "² path=x\n".encode(),
        b"11 path=xx",
        b"9 path=x\n99 path=other\n",
        b"0 path=x\n",
        b"3 path=x\n",
        b"8 pathx\n",
        b"path=x\n",
    ],
)
def test_pax_records_that_are_damaged(records: bytes) -> None:
    with pytest.raises(CorruptData):
        members(with_pax(records))


def test_pax_size_is_the_size() -> None:
    """The header's own is too small for what is larger than 8 GiB."""
    large = entry("x", b"data")[:512] + b"longer data".ljust(512, b"\0")
    assert members(entry("pax", record("size", b"11"), tarfile.XHDTYPE) + large) == [("x", 11, b"longer data")]


@pytest.mark.parametrize("size", [b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12, b"-0000000001\0", b"99999999999\0"])
def test_invalid_sizes_are_refused(size: bytes) -> None:
    head = bytearray(entry("x")[:512])
    head[124:136] = size
    with pytest.raises(CorruptData):
        members(summed(head))


def summed(head: bytearray) -> bytes:
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length(form: int) -> None:
    names = ["a", "b" * 99, "d/" * 49 + "c", "ä" * 20, *(["e/" * 200 + "f"] if form != tarfile.USTAR_FORMAT else [])]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    assert members(out.getvalue()) == [(name, 3, b"abc") for name in names]


@pytest.mark.slow
def test_cut_anywhere() -> None:
    whole = with_pax(FORGED) + entry("second", b"x" * 700)
    for cut in range(1, len(whole) - 1024):
        try:
            found = members(whole[:cut])
        except CorruptData:
            continue
        assert [name for name, _, _ in found] in ([], ["real/name"])


def test_the_map_of_a_sparse_file_is_no_entry() -> None:
    head = bytearray(entry("sparse", b"x" * 600, tarfile.GNUTYPE_SPARSE))
    head[482] = 1
    sparse = summed(head[:512]) + b"1" * 504 + b"\1" + bytes(7) + b"1" * 504 + bytes(8) + bytes(head[512:])
    found = [
        (one.name, one.regular) for one in tar.members(ChunkStream(iter([sparse + entry("next", b"y") + bytes(1024)])))
    ]
    assert found == [("sparse", False), ("next", True)]


@pytest.mark.slow
@given(data=st.binary(min_size=512, max_size=512), at=st.integers(0, 511), size=st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_any_header_ends_in_an_answer(data: bytes, at: int, size: int) -> None:
    """Of a sum that is right, so that the rest is looked at."""
    head = bytearray(entry("x", b"", tarfile.REGTYPE)[:512])
    head[at : at + size] = data[at : at + size]
    for one in (summed(head[:512].ljust(512)), summed(bytearray(data))):
        with contextlib.suppress(CorruptData):
            members(one + bytes(1024))


@pytest.mark.slow
@given(records=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_pax_records_end_in_an_answer(records: bytes) -> None:
    with contextlib.suppress(CorruptData):
        tar.pax_records(records)
