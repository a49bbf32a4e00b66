"""Coverage-guided fuzzing of what reads packages and their indexes with atheris (libFuzzer), by hand.

    pip install --group fuzz
    python tests/fuzz/packages.py rpm|openpgp|repodata|elf [CORPUS] [-max_total_time=600 and other options of libFuzzer]

All of it is read before anything is known to be signed. `harness.py` says what a finding is.
"""

from __future__ import annotations

import contextlib
import re
import struct
import sys
import tempfile
from pathlib import Path

import atheris
import harness

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

with atheris.instrument_imports(include=["sandbox"]):
    import archives
    from sandbox.debuginfo import proof, repodata, strip_relocs, unstrip
    from sandbox.debuginfo.gdb_index import add_section
    from sandbox.formats import cpio, elf, openpgp, rpm
    from sandbox.formats.compressions import decompressed
    from sandbox.formats.streams import ChunkStream, CorruptData

KEYS = sorted((TESTS.parent / "images" / "keys").iterdir())
KEY = openpgp.RsaKey(name="x", fingerprint="", modulus=(1 << 2048) + 5, exponent=3)
_directory = tempfile.TemporaryDirectory(prefix="vmbox-fuzz-", dir="/dev/shm")
DIRECTORY = Path(_directory.name)


def _stream(content: bytes) -> ChunkStream:
    return ChunkStream(iter([content] if content else []))


# One reader each: the bytes of a file, an answer or a packet.


def read_rpm(content: bytes) -> None:
    with contextlib.suppress(CorruptData):
        stream = _stream(content)
        read = rpm.read(stream)
        for signature in read.signatures:
            with contextlib.suppress(openpgp.Malformed):
                openpgp.rsa_signer(read.header, signature, [KEY])
        for file in read.files[:20]:
            rpm.offset_in_payload(read, file)
        rpm.find(read, [re.compile(r"(.*/)?vmlinux$")])
        unpacked = decompressed(stream, read.compression)
        for _, member in zip(range(100), rpm.payload_members(unpacked, read), strict=False):
            member.content.read(100)


def read_openpgp(content: bytes) -> None:
    known: tuple[openpgp.RsaKey, ...] = (KEY,)
    with contextlib.suppress(openpgp.Malformed):
        known += openpgp.rsa_keys(content)
    with contextlib.suppress(openpgp.Malformed):
        openpgp.rsa_signer(b"what was signed", content, known[:20])


def read_repodata(content: bytes) -> None:
    with contextlib.suppress(CorruptData):
        listed = repodata._primary(content)
        repodata._of("https://archive.example/repo/", listed.href)
    with contextlib.suppress(CorruptData):
        fits = repodata._Fits(["wanted-1-1"], None)
        for entry in repodata._entries(_stream(content), kind="none", fits=fits):
            with contextlib.suppress(CorruptData):
                repodata._of("https://archive.example/repo/", entry.href)
            assert repodata._sha256(entry.checksum_type, entry.checksum) is None or len(entry.checksum) == 64


def read_elf(content: bytes) -> None:
    bad, out, good = (DIRECTORY / name for name in ("bad", "out", "good"))
    bad.write_bytes(content)
    good.write_bytes(archives.vmlinux())
    with contextlib.suppress(CorruptData, elf.NotElf):
        proof.identity(bad)
        whole = strip_relocs.LocalFile(bad)
        strip_relocs.copy(whole, out, strip_relocs.plan(whole))
        assert out.stat().st_size <= len(content) + 4096
    for kernel, debug in ((good, bad), (bad, good), (bad, bad)):
        with contextlib.suppress(CorruptData):
            unstrip.merge(kernel, debug, out)
    with contextlib.suppress(CorruptData, elf.NotElf):
        add_section(bad, ".gdb_index", good)


# Seeds.


def _header(*tags: tuple[int, int, int, bytes]) -> bytes:
    index, data = b"", b""
    for tag, kind, count, value in tags:
        data += bytes(-len(data) % 8)
        index += struct.pack(">4I", tag, kind, len(data), count)
        data += value
    return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(tags), len(data)) + index + data


def _rpm(compression: bytes) -> bytes:
    names, files = [b"vmlinux", b"x.ko"], 2
    words = struct.Struct(f">{files}I").pack
    main = _header(
        (1000, 6, 1, b"kernel-debuginfo\0"),
        (1001, 6, 1, b"4.18.0\0"),
        (1002, 6, 1, b"80.el8\0"),
        (1022, 6, 1, b"x86_64\0"),
        (1028, 4, files, words(5, 3)),
        (1030, 3, files, struct.pack(">2H", 0o100644, 0o100644)),
        (1035, 8, files, b"aa\0bb\0"),
        (1037, 4, files, words(0, 0)),
        (1096, 4, files, words(1, 2)),
        (1116, 4, files, words(0, 0)),
        (1117, 8, files, b"\0".join(names) + b"\0"),
        (1118, 8, 1, b"/usr/lib/debug/\0"),
        (1125, 6, 1, compression + b"\0"),
        (5011, 4, 1, struct.pack(">I", 8)),
    )
    packet = _signature()
    signature = _header((268, 7, len(packet), packet), (278, 8, 1, b"AAAA\0"))
    payload = b""
    for name, size in ((b"./usr/lib/debug/vmlinux\0", 5), (b"TRAILER!!!\0", 0)):
        fields = [1, 0o100644, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name), 0]
        entry = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        payload += entry + bytes(-len(entry) % cpio.ALIGNMENT) + b"d" * size + bytes(-size % cpio.ALIGNMENT)
    kind = {b"gzip": "gz", b"xz": "xz", b"zstd": "zst"}.get(compression, "")
    payload = archives.compress(payload, kind)
    return b"\xed\xab\xee\xdb" + bytes(92) + signature + bytes(-len(signature) % 8) + main + payload


def _signature() -> bytes:
    body = b"\x04\x00\x01\x08" + bytes(4) + b"ab" + b"\x00\x10\xff\xff"
    return b"\xc2" + bytes([len(body)]) + body + b"\x88" + bytes([23]) + b"\x03\x05" + bytes(17) + b"\x00\x08\xff\x00"


_LIST = b"""<?xml version="1.0"?><metadata xmlns="x" xmlns:rpm="y"><package type="rpm"><name>wanted</name>
<arch>x86_64</arch>
<version epoch="0" ver="1" rel="1"/><checksum type="sha256" pkgid="YES">%s</checksum><size package="5"/>
<location href="a.rpm"/><format><rpm:license>x</rpm:license></format></package></metadata>""" % (b"ab" * 32)
_REPOMD = b"""<repomd><data type="primary"><checksum type="sha256">%s</checksum>
<location href="repodata/primary.xml.gz"/>
<size>10</size></data></repomd>""" % (b"ab" * 32)

TARGETS: dict[str, harness.Target] = {
    "rpm": (read_rpm, lambda: [_rpm(kind) for kind in (b"none", b"gzip", b"xz", b"zstd")]),
    "openpgp": (read_openpgp, lambda: [_signature(), *(path.read_bytes() for path in KEYS)]),
    "repodata": (read_repodata, lambda: [_LIST, _REPOMD]),
    "elf": (read_elf, lambda: [archives.vmlinux(), archives.vmlinux(relocations=bytes(200)), archives.vmlinux(None)]),
}


if __name__ == "__main__":
    harness.fuzz(TARGETS)
