"""Coverage-guided fuzzing of what lies around a dump with atheris (libFuzzer), by hand.

    pip install --group fuzz
    python tests/fuzz/layers.py streams|archives|unpack|logs [CORPUS] [-max_total_time=600 and options of libFuzzer]

`identify.py` fuzzes the same readers from the outside, where a budget ends most of what is slow. `harness.py` says what
a finding is.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import atheris
import harness

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "unit" / "dump")]

with atheris.instrument_imports(include=["sandbox"]):
    import dump_writer

    import archives
    from sandbox.dump import identify, panic, release, saved_log
    from sandbox.dump.builder import VmcoreBuilder
    from sandbox.dump.source import READ_LIMIT, SECONDS, Budget, DeadlineExceeded
    from sandbox.dump.unpacking import unpack
    from sandbox.errors import VmboxError
    from sandbox.formats import ar
    from sandbox.formats.archives import files
    from sandbox.formats.compressions import decompressed
    from sandbox.formats.streams import CorruptData, PeekSource, SourceStream

FIXTURES = TESTS / "fixtures"
COMPRESSIONS = ("gz", "bz2", "xz", "zst", "lz4", "lzo")
ARCHIVES = ("tar", "cpio", "zip", "7z", "ar")
UNPACKED = 4 << 20
"""Bytes that are unpacked, as of a dump that is identified."""
MEMORY = 100 << 20

_directory = tempfile.TemporaryDirectory(prefix="vmbox-fuzz-", dir="/dev/shm")
DIRECTORY = Path(_directory.name)


class Bytes:
    """A source of bytes in memory with the budget of a file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._budget = Budget(SECONDS)
        self.size = len(content)

    def read_at(self, offset: int, size: int) -> bytes:
        self._budget.ask()
        return self._content[offset : offset + min(size, READ_LIMIT)] if offset >= 0 and size > 0 else b""


# One reader each: in the first two the first byte says which.


def read_stream(content: bytes) -> None:
    if not content:
        return
    kind, padded = COMPRESSIONS[content[0] % len(COMPRESSIONS)], bool(content[0] & 128)
    with contextlib.suppress(CorruptData, DeadlineExceeded):
        stream = decompressed(SourceStream(Bytes(content[1:])), kind, memory=MEMORY, padded=padded)
        peek = PeekSource(stream, UNPACKED)
        peek.exhaust()
        assert peek.kept <= UNPACKED
        assert len(peek.read_at(0, UNPACKED + 1)) == peek.kept


def read_archive(content: bytes) -> None:
    if not content:
        return
    kind = ARCHIVES[content[0] % len(ARCHIVES)]
    stream = SourceStream(Bytes(content[1:]))
    with contextlib.suppress(CorruptData, DeadlineExceeded):
        for member in ar.members(stream) if kind == "ar" else files(kind, stream):
            assert member.size >= 0
            got = len(member.content.read(5000)) + len(member.content.read(1 << 20))
            assert got <= member.size


def read_unpack(content: bytes) -> None:
    """What is written, and only below the directory it is told."""
    dump, into = DIRECTORY / "vmcore", DIRECTORY / "unpacked"
    dump.write_bytes(content)
    try:
        copy = unpack(identify(dump), into)
    except VmboxError as error:
        harness.check_line(error.message)
    else:
        assert copy == dump or copy.is_relative_to(into)
    assert {one.name for one in DIRECTORY.iterdir()} <= {"vmcore", "unpacked"}
    shutil.rmtree(into, ignore_errors=True)


def read_log(content: bytes) -> None:
    builder = VmcoreBuilder(Path("vmcore"), 0)
    with contextlib.suppress(DeadlineExceeded, VmboxError):
        saved_log.apply_text(builder, Bytes(content), Budget(SECONDS), "log")
        found = panic.examine(saved_log.of_text(content, Budget(SECONDS)).records, Budget(SECONDS))
        for text in (found.banner, found.panic, found.hardware, found.release):
            assert text is None or "\n" not in text
        if found.release is not None:
            release.classify(found.release, found.utsname_version)
    line = content[:512].decode("utf-8", "replace")
    saved_log.apply_uname(builder, line)
    saved_log.apply_original_path(builder, line)
    release.classify(line, line)
    release.vendor(line)
    builder.set(format="log")
    builder.build()


# Seeds.


def _small() -> bytes:
    info = b"OSRELEASE=6.1.0-test\nBUILD-ID=" + b"ab" * 20 + b"\nPAGESIZE=4096\nCRASHTIME=1700000000\n"
    return dump_writer.kdump({pfn: bytes([pfn]) * 4096 for pfn in (0, 3, 4, 70)}, info)


def _lz4(content: bytes) -> bytes:
    blocks = b"".join(struct.pack("<I", 1 << 31 | len(one)) + one for one in _cut(content))
    return b"\x04\x22\x4d\x18\x60\x70\0" + blocks + bytes(4) + b"\x02\x21\x4c\x18" + struct.pack("<I", 5) + b"\x50abcd"


def _lzo(content: bytes) -> bytes:
    """An lzop file whose blocks are stored, as lzop does with what does not shrink."""
    head = struct.pack(">3H2B4IB", 0x1030, 0x20A0, 0x0940, 1, 5, 0, 0o100644, 0, 0, 0)
    blocks = b"".join(struct.pack(">2I", len(one), len(one)) + one for one in _cut(content))
    return b"\x89LZO\0\r\n\x1a\n" + head + bytes(4) + blocks + bytes(4)


def _cut(content: bytes) -> list[bytes]:
    return [content[at : at + 4096] for at in range(0, len(content), 4096)]


def _streams() -> list[bytes]:
    small = _small()[:30_000]
    packed = {kind: archives.compress(small, kind) for kind in ("gz", "xz", "zst")}
    packed["xz"] += lzma.compress(small, preset=0)
    packed |= {"bz2": bz2.compress(small), "lz4": _lz4(small), "lzo": _lzo(small)}
    return [bytes([COMPRESSIONS.index(kind)]) + one for kind, one in packed.items()]


def _cpio(*members: tuple[bytes, bytes]) -> bytes:
    out = b""
    for name, content in (*members, (b"TRAILER!!!", b"")):
        fields = [1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        entry = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
        out += entry + bytes(-len(entry) % 4) + content + bytes(-len(content) % 4)
    return out


def _tar(content: bytes, form: int) -> bytes:
    out, long = io.BytesIO(), 90 if form == tarfile.USTAR_FORMAT else 150
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name in ("var/crash/127.0.0.1-2026-01-02-03:04:05/" + "x" * long, "vmcore"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {"comment": "x"}
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _zip(content: bytes, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("x", b"y" * 500)
        archive.writestr("vmcore", content)
    return out.getvalue()


def _archives() -> list[tuple[str, bytes]]:
    small = _small()[:9000]
    made = [("tar", _tar(small, form)) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    made += [("cpio", _cpio((b"./a", b"b" * 500), (b"vmcore", small)))]
    made += [("zip", _zip(small, method)) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)]
    made += [("7z", path.read_bytes()) for path in sorted((FIXTURES / "archives").iterdir())]
    return [*made, ("ar", b"!<arch>\n" + b"a/".ljust(48) + b"500       `\n" + b"x" * 500)]


def _dumps() -> list[bytes]:
    small = _small()
    flat = dump_writer.flatten(small, piece=500)
    tar = _tar(small, tarfile.GNU_FORMAT)
    packed = [archives.compress(one, kind) for kind in ("gz", "xz", "zst") for one in (small, flat, tar)]
    return [flat, *packed, *(content for kind, content in _archives() if kind != "ar")]


_LOG = b"""<5>[    0.000000] Linux version 4.18.0-80.el8.x86_64 (mockbuild@x86-vm-08.build.eng.bos.redhat.com) #1 SMP
<6>[    0.000000] DMI: QEMU Standard PC, BIOS 1.0 01/01/2020
[   12.345678] sysrq: Trigger a crash
[   12.345679] BUG: unable to handle kernel NULL pointer dereference at 0000000000000010
[   12.345680] CPU: 1 PID: 77 Comm: bash Kdump: loaded Tainted: G        W  OE   --------- -  - 4.18.0-80.el8.x86_64 #1
[   12.345681] Hardware name: QEMU Standard PC
[   12.345690] Kernel panic - not syncing: Fatal exception
"""

TARGETS: dict[str, harness.Target] = {
    "streams": (read_stream, _streams),
    "archives": (read_archive, lambda: [bytes([ARCHIVES.index(kind)]) + one for kind, one in _archives()]),
    "unpack": (read_unpack, _dumps),
    "logs": (read_log, lambda: [_LOG, b"Linux h 6.1.0-50-cloud-amd64 #1 SMP Debian 6.1.176-1 x86_64 GNU/Linux\n"]),
}


if __name__ == "__main__":
    harness.fuzz(TARGETS)
