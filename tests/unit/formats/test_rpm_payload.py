"""RPM packages written by hand, with either kind of payload. (Those of rpmbuild: tests/integration/debuginfo.)"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
from pathlib import Path

import pytest

import archives
from sandbox.debuginfo.extract import ExtractSpec, extract
from sandbox.errors import VerificationFailed
from sandbox.formats import rpm
from sandbox.formats.compressions import decompressed
from sandbox.formats.streams import ChunkStream, CorruptData, FileStream

VMLINUX = archives.vmlinux()
FILES = {"usr/lib/debug/a": b"first", "usr/lib/debug/vmlinux": VMLINUX, "usr/lib/debug/z": b"last!"}
WHAT = ExtractSpec(kind="rpm", patterns=(re.compile(r".*/vmlinux$"),))

Tag = tuple[int, int, int, bytes]


def header(tags: list[Tag]) -> bytes:
    index, data = b"", b""
    for tag, kind, count, value in tags:
        data += bytes(-len(data) % 8)
        index += struct.pack(">4I", tag, kind, len(data), count)
        data += value
    return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(tags), len(data)) + index + data


def strings(tag: int, values: list[str], kind: int = 8) -> Tag:
    return tag, kind, len(values), b"".join(value.encode() + b"\0" for value in values)


def numbers(tag: int, values: list[int]) -> Tag:
    return tag, 4, len(values), struct.pack(f">{len(values)}I", *values)


def package(*, short: bool = False, payload: bytes | None = None) -> bytes:
    names = [path.rpartition("/")[2] for path in FILES]
    tags = [
        *(strings(tag, [value], 6) for tag, value in ((1000, "k"), (1001, "1"), (1002, "2"), (1022, "x86_64"))),
        numbers(1028, [len(data) for data in FILES.values()]),
        (1030, 3, 3, struct.pack(">3H", *[0o100644] * 3)),
        strings(1035, [hashlib.sha256(data).hexdigest() for data in FILES.values()]),
        numbers(1037, [0] * 3),
        numbers(1096, [1, 2, 3]),
        numbers(1116, [0] * 3),
        strings(1117, names),
        strings(1118, ["/usr/lib/debug/"]),
        strings(1125, ["gzip"], 6),
        numbers(5011, [8]),
    ]
    main = header(tags)
    signature = header([strings(273, [hashlib.sha256(main).hexdigest()], 6)])
    packed = gzip.compress(cpio(short=short) if payload is None else payload)
    return b"\xed\xab\xee\xdb" + bytes(92) + signature + bytes(-len(signature) % 8) + main + packed


def cpio(*, short: bool) -> bytes:
    out = b""
    for number, (path, data) in enumerate([*FILES.items(), ("TRAILER!!!", b"")]):
        if short and data:
            out += b"07070X%08x" % number + bytes(2)
        else:
            name = path.encode() if path == "TRAILER!!!" else f"./{path}".encode()
            fields = [0, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
            head = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
            out += head + bytes(-len(head) % 4)
        out += data + bytes(-len(data) % 4)
    return out


def unpacked(content: bytes, tmp_path: Path) -> str:
    (tmp_path / "x.rpm").write_bytes(content)
    with FileStream(tmp_path / "x.rpm") as file:
        return extract(WHAT, file, tmp_path)


@pytest.mark.parametrize("short", [False, True])
def test_one_file_of_a_package(tmp_path: Path, *, short: bool) -> None:
    assert "SHA-256 of vmlinux" in unpacked(package(short=short), tmp_path)
    assert (tmp_path / "vmlinux").read_bytes() == VMLINUX


@pytest.mark.parametrize("short", [False, True])
def test_all_members_and_where_they_are(*, short: bool) -> None:
    stream = ChunkStream(iter([package(short=short)]))
    head = rpm.read(stream)
    assert (head.nevra, head.compression, head.hash) == ("k-1-2.x86_64", "gzip", "sha256")
    found = [(one.path, one.content.read(one.size)) for one in rpm.payload_members(decompressed(stream, "gzip"), head)]
    assert found == list(FILES.items())
    if not short:
        whole = cpio(short=False)
        places = [rpm.offset_in_payload(head, file) for file in head.files]
        assert [whole[place or 0 :][:6] for place in places] == [b"070701"] * 3


def test_payloads_that_are_damaged(tmp_path: Path) -> None:
    whole = cpio(short=False)
    for payload in (
        b"",
        whole[:3],
        whole[:90],
        whole[:300],
        b"070701" + b"-" * 104,
        b"07070Xffffffff",
        b"070701" + b"f" * 104,
    ):
        with pytest.raises(CorruptData):
            unpacked(package(payload=payload), tmp_path)
    with pytest.raises(VerificationFailed, match="its header says"):
        unpacked(package(payload=whole.replace(VMLINUX, VMLINUX[:-1] + b"\xff")), tmp_path)
    payload_at = rpm.read(ChunkStream(iter([package()]))).payload_at
    for cut in range(0, payload_at + 50, 13):
        with pytest.raises(CorruptData):
            unpacked(package()[:cut], tmp_path)
