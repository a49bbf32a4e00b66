import base64
import bz2
import dataclasses
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import dump_writer
import pytest
from typer.testing import CliRunner

from sandbox.cli import app
from sandbox.dump import identify, is_plain, read_log, unpack, wrappers
from sandbox.errors import CaseNotFound, DumpDamaged, DumpUnreadable, NoSpace, NotADump
from sandbox.formats import archives, notes, zstandard
from sandbox.formats.streams import ChunkStream, PeekSource

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
DUMP = FIXTURE.read_bytes()
LOG = b"[    0.000000] Linux version 5.14.0-70.el9.x86_64 (mockbuild@x.redhat.com) (gcc) #1 SMP\n" + (
    b"[   42.000000] Kernel panic - not syncing: softlockup: hung tasks\n" * 9
)
CASE = "sosreport-web01/var/crash/127.0.0.1-2026-01-02-03:04:05"


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def cpio(members):
    out = b""
    for name, content in [*members.items(), ("TRAILER!!!", b"")]:
        fields = [0, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
    return out


def lz4_stored(content):
    """A frame of blocks that are not compressed; compressed ones are tried with vectors below."""
    out = b"\x04\x22\x4d\x18" + bytes((0x60, 0x70, 0))
    for at in range(0, len(content), 4 << 20):
        block = content[at : at + (4 << 20)]
        out += struct.pack("<I", len(block) | 1 << 31) + block
    return out + bytes(4)


def lzop_stored(content):
    out = (
        b"\x89LZO\0\r\n\x1a\n" + struct.pack(">HHHBBI", 0x1030, 0x20A0, 0x0940, 1, 5, 0) + bytes(12) + b"\0" + bytes(4)
    )
    for at in range(0, len(content), 262144):
        block = content[at : at + 262144]
        out += struct.pack(">II", len(block), len(block)) + block
    return out + bytes(4)


WRAPPED = {
    "gz": (gzip.compress(DUMP, 1), ("gz",)),
    "gz of two members": (gzip.compress(DUMP[:30000], 1) + gzip.compress(DUMP[30000:], 1), ("gz",)),
    "bz2": (bz2.compress(DUMP), ("bz2",)),
    "xz": (lzma.compress(DUMP, preset=0), ("xz",)),
    "lz4": (lz4_stored(DUMP), ("lz4",)),
    "lzop": (lzop_stored(DUMP), ("lzop",)),
    "tar": (tar({"notes": b"x" * 900, "crash/vmcore": DUMP}), ("tar",)),
    "tar.gz": (gzip.compress(tar({"crash/vmcore": DUMP}), 1), ("gz", "tar")),
    "gz in tar in xz": (lzma.compress(tar({"c/vmcore.gz": gzip.compress(DUMP, 1)}), preset=0), ("xz", "tar", "gz")),
    "zip": (zipped({"notes": b"x" * 900, "vmcore": DUMP}), ("zip",)),
    "zip, stored": (zipped({"vmcore": DUMP}, zipfile.ZIP_STORED), ("zip",)),
    "cpio": (cpio({"notes": b"x" * 901, "vmcore": DUMP}), ("cpio",)),
    "long name": (tar({"d/" * 60 + "vmcore": DUMP}), ("tar",)),
    "flattened in gz": (gzip.compress(dump_writer.flatten(DUMP), 1), ("gz",)),
}


OF_DUMP = ["Linux", "host", "6.1.0-test", "#1 SMP Debian 6.1.170-3", "x86_64"]
FOUND = ["Linux", "", "6.1.0-50-cloud-arm64", "#1 SMP Debian", "aarch64"]


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        # As QEMU 7.2 writes of an arm64 guest and of an x86_64 one, as makedumpfile 1.6.8 of a newer kernel, and whole.
        ({"utsname": ("", "", "", "", "Unknown", "")}, FOUND),
        ({"utsname": ("", "", "", "", "x86_64", "")}, FOUND),
        ({"shift_utsname": True}, OF_DUMP),
        ({}, OF_DUMP),
    ],
)
def test_the_copy_says_which_kernel_it_is_of(tmp_path, shape, named):
    dump = dump_writer.kdump({0: bytes(4096)}, b"", **shape)
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(dump))
    _, _, release, version, machine = FOUND
    found = dataclasses.replace(identify(path), release=release, utsname_version=version, arch=machine)
    copy = unpack(found, tmp_path / "cache").read_bytes()
    assert [copy[at : at + 65].rstrip(b"\0").decode() for at in range(12, 12 + 5 * 65, 65)] == named
    assert (copy == dump) == (not shape)
    assert copy[402:] == dump[402:]


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_copy_has_the_vmcoreinfo_that_was_found_in_memory(tmp_path, order):
    dump = bytearray(dump_writer.kdump({0: bytes(4096)}, b"", order=order))
    code = "<" if order == "little" else ">"
    # QEMU's notes, of which VMCOREINFO is none: the registers.
    registers = dump_writer.prstatus_note(code)
    dump[4096 + 200 : 4096 + 200 + len(registers)] = registers
    struct.pack_into(code + "QQ", dump, 4096 + 48, 4096 + 200, len(registers))
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(dump))
    found = dataclasses.replace(identify(path), vmcoreinfo={"OSRELEASE": "6.1.0-50", "SYMBOL(x)": "ff"})
    copy = unpack(found, tmp_path / "cache").read_bytes()
    text = b"OSRELEASE=6.1.0-50\nSYMBOL(x)=ff\n"
    where, size = struct.unpack_from(code + "QQ", copy, 4096 + 32)
    assert copy[where : where + size] == text
    where, size = struct.unpack_from(code + "QQ", copy, 4096 + 48)
    assert where == len(dump)
    assert where + size == len(copy)
    first, second = notes.iterate(copy[where:], order)
    assert copy[where:].startswith(registers)
    assert (first.name, second.name, second.type, second.desc) == ("CORE", "VMCOREINFO", 0, text)
    # The rest is as it was.
    assert copy[4096 + 64 : len(dump)] == dump[4096 + 64 :]


@pytest.mark.parametrize("name", WRAPPED)
def test_seen_through_and_unpacked(tmp_path, name):
    content, layers = WRAPPED[name]
    path = tmp_path / "upload"
    path.write_bytes(content)
    found = identify(path)
    assert found.wrappers == layers
    assert (found.release, found.cause, found.complete) == ("6.1.0-50-cloud-amd64", "sysrq", True)
    assert not is_plain(found)
    assert next(iter(read_log(path))).startswith(b"[    0.000000] Linux version")
    once = unpack(found, tmp_path / "cache")
    assert once.read_bytes() == DUMP
    assert path.read_bytes() == content
    before = once.stat().st_mtime_ns
    assert unpack(found, tmp_path / "cache") == once
    assert once.stat().st_mtime_ns == before
    assert [file.name for file in once.parent.iterdir()] == ["vmcore"]


def test_plain_dump_is_left_where_it_is(tmp_path):
    assert unpack(identify(FIXTURE), tmp_path) == FIXTURE
    assert list(tmp_path.iterdir()) == []


def test_closing_takes_the_unpacked_copy_away(tmp_path, monkeypatch):
    """Also when no case is open any more: it is a customer's memory."""
    for name in ("cache", "runtime", "state"):
        monkeypatch.setenv(f"VMBOX_{name.upper()}_DIR", str(tmp_path / name))
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP, 1))
    original = path.read_bytes()
    copy = unpack(identify(path), tmp_path / "cache" / "dumps")
    closed = CliRunner().invoke(app, ["close", str(path)])
    assert (closed.exit_code, "removed what was kept of vmcore.gz" in closed.stderr) == (0, True)
    assert not copy.parent.exists()
    assert path.read_bytes() == original
    assert CliRunner().invoke(app, ["close", str(path)]).exit_code == CaseNotFound.exit_code


def test_zstd(tmp_path):
    path = tmp_path / "vmcore.zst"
    path.write_bytes(zstandard.module().compress(DUMP))
    assert identify(path).cause == "sysrq"
    assert unpack(identify(path), tmp_path / "cache").read_bytes() == DUMP


def test_compressed_lz4_block(tmp_path):
    from sandbox.dump.source import FileSource
    from sandbox.formats.compressions import decompressed
    from sandbox.formats.streams import SourceStream

    # Literals "abcd", a match of 20 four bytes back, literals "xy": token, literals, distance, more of the length.
    block = b"\x4fabcd\x04\x00\x01" + b"\x20xy"
    frame = b"\x04\x22\x4d\x18\x60\x40\x00" + struct.pack("<I", len(block)) + block + bytes(4)
    (tmp_path / "frame").write_bytes(frame)
    with FileSource(tmp_path / "frame") as source:
        assert decompressed(SourceStream(source), "lz4").read(100) == b"abcd" * 6 + b"xy"


def test_cut_archives(tmp_path):
    path = tmp_path / "vmcore.gz"
    whole = gzip.compress(DUMP, 1)
    path.write_bytes(whole[:20000])
    found = identify(path)
    assert (found.release, found.complete) == ("6.1.0-50-cloud-amd64", False)
    assert "archive is cut off" in str(found.incomplete_reason)
    assert unpack(found, tmp_path / "cache").read_bytes() == DUMP[: unpack(found, tmp_path / "cache").stat().st_size]
    path.write_bytes(whole[:30])
    with pytest.raises(DumpDamaged, match="ends too early"):
        identify(path)
    big = tmp_path / "big.xz"
    big.write_bytes(lzma.compress(DUMP + b"".join(bytes([n]) * 3 for n in range(251)) * 2400, preset=0)[:-1])
    assert "end mark" in str(identify(big).incomplete_reason) or identify(big).complete is False


def test_sosreport_without_the_dump(tmp_path):
    path = tmp_path / "sosreport-web01.tar.xz"
    members = {
        "sosreport-web01/sos_commands/kernel/uname_-a": b"Linux web01 5.14.0-70.el9.x86_64 #1 SMP x86_64 GNU/Linux\n",
        f"{CASE}/vmcore-dmesg.txt": LOG,
        "sosreport-web01/sos_commands/kernel/dmesg": b"[    0.000000] Linux version 9.9.9\n" * 50,
    }
    path.write_bytes(lzma.compress(tar(members), preset=0))
    found = identify(path)
    assert (found.format, found.release, found.cause) == ("log", "5.14.0-70.el9.x86_64", "soft-lockup")
    assert (found.arch, found.vendor) == ("x86_64", "rhel")
    assert found.original_path == "/var/crash/127.0.0.1-2026-01-02-03:04:05/vmcore"
    with pytest.raises(NotADump, match="not the dump itself") as error:
        unpack(found, tmp_path / "cache")
    assert "/var/crash/127.0.0.1-2026-01-02-03:04:05/vmcore" in error.value.hint


def test_sosreport_with_the_dump(tmp_path):
    path = tmp_path / "sosreport.tar"
    path.write_bytes(
        tar({f"{CASE}/vmcore-dmesg.txt": LOG, f"{CASE}/vmcore": DUMP, "sosreport-web01/sos_commands/a": LOG})
    )
    found = identify(path)
    assert (found.member, found.release) == (f"{CASE}/vmcore", "6.1.0-50-cloud-amd64")


def test_sosreport_with_neither(tmp_path):
    path = tmp_path / "sosreport.tar"
    path.write_bytes(tar({"s/sos_commands/kernel/uname_-a": b"Linux h 6.1.0-50-amd64 #1 SMP x86_64 GNU/Linux"}))
    found = identify(path)
    assert (found.format, found.release, found.origins["release"]) == ("sosreport", "6.1.0-50-amd64", "sosreport")


def test_unpacked_sosreport(tmp_path):
    case = tmp_path / CASE
    case.mkdir(parents=True)
    (case / "vmcore-dmesg.txt").write_bytes(LOG)
    assert identify(tmp_path).cause == "soft-lockup"
    (case / "vmcore").write_bytes(DUMP)
    assert identify(tmp_path).path == case / "vmcore"
    (tmp_path / "vmcore2").write_bytes(DUMP[:5000] + b"x" + DUMP[5001:])
    with pytest.raises(NotADump, match="holds 2 dumps"):
        identify(tmp_path)


def test_debian_and_suse_directories(tmp_path):
    (tmp_path / "dump.202601020304").write_bytes(
        dump_writer.kdump({1: bytes(4096)}, b"OSRELEASE=5.14.0-70.el9.x86_64\n")
    )
    (tmp_path / "dmesg.202601020304").write_bytes(LOG)
    (tmp_path / "README.txt").write_text("If you see this text the crash dump is likely incomplete\n")
    found = identify(tmp_path)
    assert (found.cause, found.origins["cause"]) == ("soft-lockup", "dmesg.202601020304")
    assert (found.complete, found.origins["complete"]) == (False, "README.txt")


@pytest.mark.slow
def test_log_of_a_deep_dump_is_read_where_it_is_unpacked(tmp_path):
    """More zeros lie before the pages than are looked at through a wrapper."""
    pages = {pfn: bytes([pfn % 251]) * 4096 for pfn in range(1200)}
    deep = dump_writer.kdump(pages, b"OSRELEASE=6.1.0\n", codec=dump_writer.stored, status=0)
    (tmp_path / "vmcore.gz").write_bytes(gzip.compress(deep, 1))
    with pytest.raises(DumpUnreadable, match="too deep"):
        list(read_log(tmp_path / "vmcore.gz"))
    # Unpacked it is, and then says what is the matter with the dump itself.
    damaged = r"VMCOREINFO does not say|not read here|not in the dump"
    with pytest.raises(DumpUnreadable, match=damaged):
        list(read_log(tmp_path / "vmcore.gz", unpack_into=tmp_path / "cache"))
    # A gzip file has an index instead of a copy.
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["gzip"]
    (tmp_path / "vmcore.bz2").write_bytes(bz2.compress(deep))
    with pytest.raises(DumpUnreadable, match=damaged):
        list(read_log(tmp_path / "vmcore.bz2", unpack_into=tmp_path / "cache"))
    assert [path.read_bytes() for path in (tmp_path / "cache").rglob("vmcore")] == [deep]


def test_log_of_a_large_dump_is_not_read_through_a_wrapper_and_that_is_said(tmp_path, monkeypatch):
    """As if the fixture were larger than what is held in memory."""
    path = tmp_path / "vmcore.xz"
    path.write_bytes(lzma.compress(DUMP, preset=0))
    assert identify(path).skipped is None
    monkeypatch.setattr(wrappers, "WHOLE_LIMIT", 1 << 13)
    monkeypatch.setattr(wrappers, "PEEK_LIMIT", 1 << 14)
    found = identify(path)
    assert (found.release, found.build_id is None) == ("6.1.0-50-cloud-amd64", False)
    assert (found.cause, found.panic, found.complete) == (None, None, None)
    assert str(found.skipped).startswith("the log, with cause and panic: it lies too deep in xz")
    assert identify(path, log=False).skipped is None
    with pytest.raises(DumpUnreadable, match="too deep"):
        list(read_log(path))
    # What kdump saved beside it is of the same crash.
    lines = list(read_log(FIXTURE))
    log = b"\n".join(lines[:20] + lines[-70:])
    (tmp_path / "vmcore-dmesg.txt").write_bytes(log)
    beside = identify(path)
    assert (beside.cause, beside.skipped, beside.origins["panic"]) == ("sysrq", None, "vmcore-dmesg.txt")
    (tmp_path / "vmcore-dmesg.txt").write_bytes(LOG)
    assert identify(path).skipped is not None
    archive = tmp_path / "case.tar.gz"
    archive.write_bytes(gzip.compress(tar({"a/vmcore-dmesg.txt": log, "a/vmcore": DUMP}), 1))
    together = identify(archive)
    assert (together.member, together.cause, together.skipped) == ("a/vmcore", "sysrq", None)
    assert together.origins["panic"] == "log in the archive"


def test_a_log_skipped_for_time_is_reported(tmp_path, monkeypatch):
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP, 1))
    monkeypatch.setattr(wrappers, "PEEK_LIMIT", 1 << 14)
    exhaust = PeekSource.exhaust
    monkeypatch.setattr(PeekSource, "exhaust", lambda self, limit=0, **_: exhaust(self, limit, seconds=0))
    assert identify(path).skipped is not None


def test_info_of_a_large_dump_unpacks_it_when_asked(tmp_path, monkeypatch, vmbox):
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP, 1))
    monkeypatch.setattr(wrappers, "WHOLE_LIMIT", 1 << 13)
    monkeypatch.setattr(wrappers, "PEEK_LIMIT", 1 << 14)
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    before = vmbox("info", path)
    assert "NOT READ: the log, with cause and panic" in before.stdout
    assert "PANIC" not in before.stdout
    assert not (tmp_path / "cache").exists()
    # Once it lies there unpacked, for whatever reason, it is read without being asked.
    for options in (["--unpack"], []):
        after = vmbox("info", path, *options)
        assert (after.returncode, "NOT READ" in after.stdout) == (0, False)
        assert "PANIC: Kernel panic - not syncing: sysrq triggered crash" in after.stdout
        assert f"DUMPFILE: {path}\n" in after.stdout
    told = json.loads(vmbox("info", path, "--json").stdout)
    assert (told["wrappers"], told["size"], told["cause"]) == (["gz"], path.stat().st_size, "sysrq")


def test_info_says_whether_a_dump_in_blocks_is_complete_also_with_its_log_beside_it(tmp_path, monkeypatch, vmbox):
    compress = zstandard.module().compress
    blocks = [compress(DUMP[at : at + (1 << 14)]) for at in range(0, len(DUMP), 1 << 14)]
    log = list(read_log(FIXTURE))
    files = {"whole": b"".join(blocks), "cut": b"".join(blocks[:-2]), "alone": compress(DUMP)}
    for name, data in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vmcore.zst").write_bytes(data)
        (tmp_path / name / "vmcore-dmesg.txt").write_bytes(b"\n".join(log[:20] + log[-70:]))
    monkeypatch.setattr(wrappers, "WHOLE_LIMIT", 1 << 13)
    monkeypatch.setattr(wrappers, "PEEK_LIMIT", 1 << 14)
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))

    def told(name, *options):
        one = json.loads(vmbox("info", tmp_path / name / "vmcore.zst", "--json", *options).stdout)
        return one["complete"], one["cause"]

    assert told("whole") == (True, "sysrq")
    assert told("cut") == (False, "sysrq")
    assert told("alone") == (None, "sysrq")
    assert told("alone", "--unpack") == (True, "sysrq")


def test_unsupported_wrappers_are_explained(tmp_path):
    for name, content in {"b.rar": b"Rar!\x1a\x07\0"}.items():
        (tmp_path / name).write_bytes(content + bytes(600))
        with pytest.raises(DumpUnreadable, match="archive") as error:
            identify(tmp_path / name)
        assert name in error.value.hint


def test_archive_without_dump(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar({"x": b"hello" * 300, "y": b"world" * 300}))
    with pytest.raises(NotADump, match="none of the 2 files"):
        identify(tmp_path / "a.tar")


@pytest.mark.slow
def test_bombs_end(tmp_path):
    content = bytes(50 << 20)
    for level in (1, 9, 9):
        content = gzip.compress(content, level)
    path = tmp_path / "bomb.gz"
    path.write_bytes(content)
    with pytest.raises(NotADump):
        identify(path)


def test_no_space(tmp_path, monkeypatch):
    import shutil

    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP, 1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(NoSpace) as error:
        unpack(identify(path), tmp_path / "cache")
    assert "VMBOX_CACHE_DIR" in error.value.hint
    assert list((tmp_path / "cache").rglob("vmcore*")) == []


def test_rearranged_file_is_sparse(tmp_path):
    pages = {pfn: bytes(4096) for pfn in range(2000)}
    dump = dump_writer.kdump(pages, b"OSRELEASE=6.1.0\n", codec=dump_writer.stored, status=0)
    path = tmp_path / "vmcore.flat"
    path.write_bytes(dump_writer.flatten(dump, piece=1 << 20))
    out = unpack(identify(path), tmp_path / "cache")
    assert out.read_bytes() == dump
    assert out.stat().st_blocks * 512 < len(dump) / 4


def test_no_more_of_a_zips_file_than_its_header_says():
    content = bytearray(zipped({"vmcore": b"x" * 9000}))
    struct.pack_into("<I", content, 22, 100)
    member = next(archives.files("zip", ChunkStream(iter([bytes(content)]))))
    assert member.content.read(9000) == b"x" * 100


@pytest.mark.slow
def test_on_a_busy_machine_the_same_is_said_of_an_archive(tmp_path, monkeypatch):
    """The clock is a fake: a machine whose processor has eight other tasks."""
    path = tmp_path / "vmcore.xz"
    path.write_bytes(lzma.compress(DUMP + base64.b64encode(random.Random(1).randbytes(9 << 20)), preset=0))
    monkeypatch.setattr(time, "monotonic", lambda: 9 * time.thread_time())
    found = identify(path)
    assert (found.panic, found.skipped) == (identify(FIXTURE).panic, None)
