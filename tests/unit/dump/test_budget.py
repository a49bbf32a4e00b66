"""No input of 1 MB or less costs `identify` more than 2 s or 100 MiB, whatever is in it."""

import base64
import bz2
import gzip
import io
import lzma
import os
import random
import struct
import tarfile
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import budget
import dump_writer
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sandbox.dump import crash_directory, identify, read_log
from sandbox.errors import NotADump
from sandbox.formats import zstandard
from sandbox.triage.discovery import find

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
DUMP = (FIXTURES / "x86_64-6.1-zlib").read_bytes()
IMAGE = 0xFFFFFFFF81000000
PHYSICAL = 0x1000000


def cost(path):
    """(seconds of the processor, MiB above what was there before) of one identification."""
    return budget.cost(lambda: identify(path))


def check(path):
    identify(FIXTURES / "x86_64-6.1-zlib")  # what is imported once is not the input's
    budget.check(lambda: identify(path))


def elf(info, page, pages, at=PHYSICAL):
    """A core whose memory from `at` on is the same few pages again and again."""
    note = dump_writer.vmcoreinfo_note(info.encode())
    count = 1 + pages
    notes_at = 64 + 56 * count
    data_at = notes_at + len(note)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head = struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    table = struct.pack("<IIQQQQQQ", 4, 0, notes_at, 0, 0, len(note), len(note), 0)
    for number in range(pages):
        offset = data_at + number * 4096 % len(page)
        table += struct.pack("<IIQQQQQQ", 1, 0, offset, 0, at + number * 4096, 4096, 4096, 0)
    return ident + head + table + note + page


INFO = f"OSRELEASE=5.4.0\nPAGESIZE=4096\nNUMBER(phys_base)=0\nSYMBOL(_stext)={IMAGE:x}\n"


def build_ids():
    note = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0" + bytes(range(20))
    return elf(INFO, (b"\0" * 16 + note * 200)[:4096].ljust(4096, b"\0"), 16000)


def newlines():
    """256 records that share one text of 65,535 empty lines."""
    offsets = {
        "printk_ringbuffer.desc_ring": 0,
        "printk_ringbuffer.text_data_ring": 64,
        "atomic_long_t.counter": 0,
        "prb_desc_ring.count_bits": 0,
        "prb_desc_ring.descs": 8,
        "prb_desc_ring.infos": 16,
        "prb_desc_ring.head_id": 24,
        "prb_desc_ring.tail_id": 32,
        "prb_data_ring.size_bits": 0,
        "prb_data_ring.data": 8,
        "prb_desc.state_var": 0,
        "prb_desc.text_blk_lpos": 8,
        "prb_data_blk_lpos.begin": 0,
        "prb_data_blk_lpos.next": 8,
        "printk_info.ts_nsec": 0,
        "printk_info.text_len": 8,
    }
    info = INFO + "".join(f"OFFSET({name})={at}\n" for name, at in offsets.items())
    info += f"SIZE(prb_desc)=24\nSIZE(printk_info)=16\nSYMBOL(prb)={IMAGE:x}\n"
    ring = struct.pack("<QQQQQ", 8, IMAGE + 0x1000, IMAGE + 0x3000, 255, 0).ljust(64, b"\0")
    ring += struct.pack("<QQ", 17, IMAGE + 0x5000)
    pages = struct.pack("<Q", IMAGE + 64).ljust(64, b"\0") + ring
    pages = pages.ljust(4096, b"\0")
    pages += b"".join(struct.pack("<QQQ", 1 << 62 | number, 0, 0x1FF00) for number in range(256)).ljust(8192, b"\0")
    pages += struct.pack("<QHHI", 10**9, 65535, 0, 0) * 256
    core = bytearray(elf(info, pages + b"\n" * 4096, 40))
    for number in range(5, 40):
        struct.pack_into("<Q", core, 64 + 56 * (1 + number) + 8, len(core) - 4096)
    return bytes(core)


def lines_of_2_kib():
    return (b"[    1.000000] Linux version 1 (" + b"#1" * 990 + b"\n") * 480


def lz4_block(head, repeated, size):
    """A block of `head`, then `repeated` again and again, `size` bytes in all."""
    literals = head + repeated
    left = size - len(literals) - 4 - 15 - 5
    match = b"\xff" * (left // 255) + bytes([left % 255])
    token = min(len(literals), 15) << 4 | 15
    more = bytes([len(literals) - 15]) if len(literals) >= 15 else b""
    return bytes([token]) + more + literals + struct.pack("<H", len(repeated)) + match + b"\x50" + bytes(5)


def lz4_frame(blocks):
    out = b"\x04\x22\x4d\x18" + bytes((0x60, 0x70, 0))
    return out + b"".join(struct.pack("<I", len(block)) + block for block in blocks) + bytes(4)


def lz4_in_lz4():
    # 200 MiB of frames with nothing in them.
    block = lz4_block(b"", b"\x04\x22\x4d\x18" + bytes((0x60, 0x70, 0)) + bytes(4), 11 * (4 << 20) // 11 // 11 * 11)
    return lz4_frame([block] * 50)


def lz4_of_sequences():
    # Each sequence is three bytes, and gives four.
    return lz4_frame([b"\x10\0\1\0" + b"\0\1\0" * 300_000 + b"\x50" + bytes(5)])


def zst(content):
    return zstandard.module().compress(content)


def nest():
    inner = zst(gzip.compress(b"", mtime=0) + bytes(32 << 20)) + zst(bytes(64 << 20)) * 20
    for _ in range(2):
        inner = zst(gzip.compress(inner, mtime=0))
    return inner


def empty_members(make=gzip.compress):
    return make(b"") * (900_000 // len(make(b"")))


def flattened(size):
    pieces = (struct.pack(">qq", len(DUMP) + 5, 1) + b"x") * (size // 17)
    head = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    return head.ljust(4096, b"\0") + struct.pack(">qq", 0, len(DUMP)) + DUMP + pieces + b"\xff" * 16


def small_members():
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    return gzip.compress(bytes(block) * 200_000, compresslevel=9)


def tar_in_zstd():
    """A window of 128 MiB, all of which is filled on the way to the second member."""
    options = zstandard.module()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, size in (("x", 300 << 20), ("vmcore", 4096)):
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(bytes(size)))
    parameters = {options.CompressionParameter.window_log: 27, options.CompressionParameter.checksum_flag: 0}
    return options.compress(out.getvalue(), options=parameters)


def names_in_tar():
    name = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    long = tarfile.TarInfo("n" * 60_000).tobuf(tarfile.GNU_FORMAT)
    return gzip.compress((long + bytes(name)) * 3000)


def sevenzip_header(properties):
    header = b"\1\5" + properties + b"\0\0"
    head = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + struct.pack("<QQI", 0, len(header), 0)
    return head + header


def many_names():
    count = b"\xe0" + (200_000).to_bytes(3, "little")
    return sevenzip_header(count + b"\x11\x01\x00" * 300_000)


def kdump_notes():
    info = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"
    return dump_writer.elf({1: bytes(4096)}, info, extra_notes=(struct.pack("<III", 4, 0, 9) + b"CORE") * 60_000)


MADE = {
    "build-ids": build_ids,
    "build-ids, packed": lambda: gzip.compress(build_ids()),
    "newlines": newlines,
    "newlines, packed": lambda: gzip.compress(newlines()),
    "banners": lines_of_2_kib,
    "lz4 in lz4": lz4_in_lz4,
    "lz4 of short sequences": lz4_of_sequences,
    "zstd and gzip": nest,
    "empty gzip members": empty_members,
    "empty xz streams": lambda: empty_members(lzma.compress),
    "empty bzip2 streams": lambda: empty_members(bz2.compress),
    "empty zstd frames": lambda: empty_members(zst),
    "flattened": lambda: flattened(900_000),
    "flattened, packed": lambda: gzip.compress(flattened(31 << 20)),
    "tar of nothing": small_members,
    "tar of long names": names_in_tar,
    "tar in zstd with a large window": tar_in_zstd,
    "7z of names": many_names,
    "notes": kdump_notes,
}


@pytest.mark.parametrize("name", MADE)
def test_a_crafted_dump_is_answered_within_the_budget(name, tmp_path):
    content = MADE[name]()
    assert len(content) <= 1_100_000
    (tmp_path / "vmcore").write_bytes(content)
    check(tmp_path / "vmcore")


def tarred(content):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("x", "vmcore"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zipped(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vmcore", content)
    return out.getvalue()


WRAPS = {
    "gz": lambda content: gzip.compress(content, 1, mtime=0),
    "bz2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "zst": zst,
    "lz4": lambda content: lz4_frame([lz4_block(content[:200], b"\0", 4 << 20)]),
    "tar": tarred,
    "zip": zipped,
    "flattened": lambda content: dump_writer.flatten(content[:60_000], piece=3),
    "padded": lambda content: content + bytes(4 << 20),
    "often": lambda content: content * max(1, (1 << 20) // max(1, len(content))),
}
INSIDE = {
    "dump": DUMP,
    "zeros": bytes(8 << 20),
    "log": b"[    0.000000] Linux version 6.1.0\n" * 20_000,
    "newlines": b"[    0.000000] Linux version 6.1.0\n" * 2 + b"\n" * (8 << 20),
    "journal": b'{"MESSAGE":"Linux version 6.1.0","_TRANSPORT":"kernel","__MONOTONIC_TIMESTAMP":"1"}\n' * 12_000,
    "netconsole": b"6,1,2,c,caller=T1;Linux version 6.1.0\n SUBSYSTEM=pci\n" * 16_000,
    "fragments": b"".join(b"6,%d,2,-,ncfrag=%d/900000;x\n" % (number, number) for number in range(25_000)),
    "mail": b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(b"[ 1.000000] BUG: x\n" * 30_000),
    "quoted": b"> " * 20 + b"[    0.000000] Linux version 6.1.0=\n" * 20_000,
    "UTF-16": ("[    0.000000] Linux version 6.1.0\n" * 14_000).encode("utf-16"),
    "noise": random.Random(1).randbytes(100_000),
    "nothing": b"",
}


@given(inside=st.sampled_from(sorted(INSIDE)), wraps=st.lists(st.sampled_from(sorted(WRAPS)), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_random_nestings(tmp_path_factory, inside, wraps):
    content = INSIDE[inside]
    for wrap in wraps:
        content = WRAPS[wrap](content[: 16 << 20])
    path = tmp_path_factory.mktemp("nest") / "vmcore"
    path.write_bytes(content[: 1 << 20])
    check(path)


PLACES = ["sos_commands", "kernel", "var", "crash", "127.0.0.1-2026-01-02-03:04:05", "x"]
PARTS = [dump_writer.kdump({1: bytes(4096), 9: b"x" * 4096}, INFO.encode(), split=part) for part in ((0, 5), (5, 10))]
KEPT = b"Panic#1 Part%d\n" + b"<4>[    1.000000] Linux version 6.1.0\n" * 400
FILES = {"vmcore": DUMP, "vmcore-dmesg.txt": INSIDE["log"], "dmesg": b"\n" * 600, "uname_-a": b"Linux h 6.1.0 x86_64"}
FILES |= {f"dmesg-efi-16000000000{part}001": KEPT % part for part in range(1, 9)}
FILES |= {"dmesg-ramoops-0.enc.z": zlib.compress(KEPT % 1)[2:-4], "part1": PARTS[0], "part2": PARTS[1]}
FILES |= {"vmcore.1": PARTS[0][: len(PARTS[0]) - 300], "vmcoreaa": DUMP[:3000], "vmcoreab": DUMP[3000:]}


@given(
    files=st.lists(
        st.tuples(st.lists(st.sampled_from(PLACES), max_size=12), st.sampled_from([*FILES, "link", "fifo"])),
        max_size=30,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_random_trees(tmp_path_factory, files):
    top = tmp_path_factory.mktemp("tree")
    for places, name in files:
        place = top.joinpath(*places)
        place.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            if name == "link":
                (place / "vmcore.1").symlink_to("/dev/zero")
            elif name == "fifo":
                os.mkfifo(place / "dump.1")
            else:
                (place / name).write_bytes(FILES[name])
    check(top)


@given(
    notes=st.lists(
        st.tuples(
            st.sampled_from([b"CORE\0\0\0\0", b"VMCOREINFO\0\0", b"GNU\0", b""]),
            st.sampled_from([0, 4, 11, 12, 1 << 31, (1 << 32) - 1]),
            st.sampled_from([0, 1, 336, 4096, 1 << 20, (1 << 32) - 1]),
            st.integers(1, 3000),
        ),
        max_size=8,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_random_notes(tmp_path_factory, notes):
    extra = b"".join(
        (struct.pack("<III", name_size, size, 1) + name + b"OSRELEASE=6.1.0\n"[: min(size, 16)]) * often
        for name, name_size, size, often in notes
    )
    path = tmp_path_factory.mktemp("notes") / "vmcore"
    info = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"
    path.write_bytes(dump_writer.elf({1: bytes(4096)}, info, extra_notes=extra[: 1 << 20]))
    check(path)


def test_a_tree_of_sosreports_is_walked_once(tmp_path, monkeypatch):
    place = tmp_path
    for _ in range(20):
        (place / "sos_commands").mkdir()
        place /= "var"
        place.mkdir()
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda where: (listed.append(where), scandir(where))[1])
    seconds, _ = cost(tmp_path)
    assert len(listed) < 2 * 20
    assert seconds < budget.SECONDS


def test_a_directory_of_many_directories(tmp_path, monkeypatch):
    monkeypatch.setattr(crash_directory, "_MOST_ENTRIES", 200)
    for number in range(300):
        (tmp_path / f"{number:03}").mkdir()
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda where: (listed.append(where), scandir(where))[1])
    with pytest.raises(NotADump, match="too many files"):
        identify(tmp_path)
    assert len(listed) == 1


def test_a_chain_of_links(tmp_path):
    """Each leads to the next: Python's realpath goes along all of it, for each again."""
    place = tmp_path / "crash"
    place.mkdir()
    (tmp_path / "target").write_bytes(b"x")
    for number in range(3000):
        (place / f"vmcore.{number}").symlink_to(f"vmcore.{number + 1}")
    (place / "vmcore.3000").symlink_to("../target")
    check(place)
    seconds = time.process_time()
    links = []
    assert find([place], links) == []
    assert time.process_time() - seconds < budget.SECONDS
    assert 0 < len(links) <= 40


def test_a_large_honest_file_is_no_reason(tmp_path):
    """What is bounded is work per byte."""
    pages = {number: bytes([number % 250 + 1]) * 4096 for number in range(4000)}
    whole = dump_writer.flatten(dump_writer.kdump(pages, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"), piece=4096)
    (tmp_path / "vmcore").write_bytes(whole)
    found = identify(tmp_path / "vmcore")
    assert found.complete is True
    assert found.release == "6.1.0"
    (tmp_path / "vmcore").write_bytes(bz2.compress(DUMP[:20_000]) + bz2.compress(DUMP[20_000:]) + bytes(3 << 20))
    assert identify(tmp_path / "vmcore").panic == identify(FIXTURES / "x86_64-6.1-zlib").panic


@pytest.mark.parametrize(
    "text", [b"1234567890" * 99_000, b"6.1," * 250_000, b"1,2,3,-," * 120_000], ids=["digits", "releases", "heads"]
)
def test_a_log_that_is_nearly_one_of_dev_kmsg(tmp_path, text):
    """Digits without end were looked through from each of them on."""
    (tmp_path / "log").write_bytes(b"[    0.000000] Linux version 6.1.0 (x@y) #1 SMP\n" + text)
    check(tmp_path / "log")


def mail(parts, rest):
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (at, at) for at in range(parts))
    return b"Content-Transfer-Encoding: base64\n" + head + b"Content-Type: text/plain\n\n" + LOG + rest


LOG = b"[    0.000000] Linux version 6.1.0 (x@y) #1 SMP\n[    1.000000] Kernel panic - not syncing: x\n"
FORMS = {
    "carriage returns": lambda: LOG + b"\r" * 1_000_000 + b"x\n",
    "mail in parts that are in each other": lambda: mail(150, b"-\n" * 450_000),
    "mail whose parts have no end": lambda: mail(6000, b""),
    "mail of messages in each other": lambda: (
        b"Content-Transfer-Encoding: base64\n" + b"Content-Type: message/rfc822\n\n" * 20_000 + LOG
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_log_that_is_made_to_cost(name, tmp_path):
    """Rows of carriage returns were looked through from each of them on; mail ended in an internal error."""
    (tmp_path / "log").write_bytes(FORMS[name]())
    check(tmp_path / "log")
    budget.check(lambda: list(read_log(tmp_path / "log")))


@pytest.mark.parametrize("release", ["9" * 5000 + ".1.1", "6.1." + "9" * 5000], ids=["major", "patch"])
def test_a_release_of_many_digits(tmp_path, release):
    info = f"OSRELEASE={release}\nPAGESIZE=4096\nBUILD-ID={'ab' * 20}\n".encode()
    (tmp_path / "vmcore").write_bytes(dump_writer.elf({1: bytes(4096)}, info))
    assert identify(tmp_path / "vmcore").release is None
