"""What is read of an input of 1 MB or less after it is identified costs no more than 2 s either.

The view of a dump, its pages for an excerpt, and a log for `decode`, `explain` and the judge. A view may have a block
of a compressed file in memory, of 96 MiB, packed and unpacked; all else costs no more than 100 MiB.
"""

import gzip
import io
import lzma
import random
import struct
import tarfile

import budget
import dump_writer
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from test_budget import DUMP, INFO, INSIDE, MADE, WRAPS, zst

from sandbox.case import page_record
from sandbox.case.source_lines import Code  # noqa: F401 - what is imported once is not the input's
from sandbox.commands.decode_symbols import code_lines, find_symbols
from sandbox.dump import identify, read_log, same_boot
from sandbox.dump.kdump_writer import PageView, write_pages
from sandbox.dump.source import FileSource
from sandbox.dump.view import additions, open_view
from sandbox.explain import oops
from sandbox.judge import call_trace, log, which_trace

pytestmark = pytest.mark.slow

VIEW = 250
"""MiB."""
LIMITED = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def look(path, kept):
    """Reads the view of a dump as a debugger and an excerpt do, where it has one."""
    vmcore = identify(path)
    with FileSource(path) as file:
        view = open_view(file, kept, additions=additions(file, vmcore, kept) or ())
        if view is None:
            return
        for at in (0, 4096, view.size // 3, view.size // 2, max(0, view.size - 5000)):
            view.read_at(at, 5000)
        beginning, memory = page_record.pages_of([view], vmcore)
        pages = PageView(beginning, memory)
        for at in (0, pages.size // 3, pages.size // 2, max(0, pages.size - 5000)):
            pages.read_at(at, 5000)
        for _ in write_pages(beginning, memory, range(0, 4000, 7), kept):
            pass


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "kept").mkdir(mode=0o700)
    look_once(tmp_path)
    return tmp_path / "kept"


def look_once(place):
    (place / "first").write_bytes(DUMP)
    look(place / "first", place / "kept")


def blocks(pack, content, piece=4096):
    return b"".join(pack(content[at : at + piece]) for at in range(0, len(content), piece))


def bgzf(content):
    """Blocks of the gzip files of bgzip, each with its own size in its header."""
    packed = gzip.compress(content, 1, mtime=0)
    head = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H2sHH", 6, b"BC", 2, len(packed) + 8 - 1)
    return head + packed[10:]


def tar_of(content, times=1):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(times):
            member = tarfile.TarInfo("vmcore" if number == times - 1 else f"x{number}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


SEEKABLE = {
    "zeros in two gzip members": lambda: gzip.compress(bytes(1 << 20)) + gzip.compress(bytes(200 << 20)),
    "a gzip file of zeros": lambda: gzip.compress(DUMP + bytes(300 << 20)),
    "empty frames": lambda: zst(b"") * 60_000,
    "skippable frames": lambda: zst(DUMP) + struct.pack("<II", 0x184D2A50, 0) * 100_000 + zst(DUMP),
    "frames of zeros": lambda: zst(DUMP) + zst(bytes(64 << 20)) * 100,
    "small frames": lambda: blocks(zst, DUMP, 8),
    "small gzip blocks": lambda: blocks(bgzf, DUMP * 10, 60),
    "empty gzip blocks": lambda: bgzf(DUMP[:5000]) + bgzf(b"") * 30_000,
    "blocks of xz": lambda: blocks(lambda one: lzma.compress(one, preset=0), DUMP, 60),
    "a tar of a tar": lambda: tar_of(tar_of(tar_of(DUMP, 2), 2), 2),
    "pieces in a tar": lambda: tar_of(dump_writer.flatten(DUMP[:40_000], piece=3)),
    "segments": lambda: dump_writer.elf({number: bytes([number % 251]) * 16 for number in range(8000)}, INFO.encode()),
}


@pytest.mark.parametrize(
    "name", [*SEEKABLE, "build-ids", "flattened", "empty gzip members", "tar in zstd with a large window"]
)
def test_the_view_of_a_crafted_dump(name, tmp_path, kept):
    (tmp_path / "vmcore").write_bytes({**MADE, **SEEKABLE}[name]()[: 1 << 20])
    budget.check(lambda: look(tmp_path / "vmcore", kept), VIEW)


@given(inside=st.sampled_from(["dump", "zeros", "noise"]), wraps=st.lists(st.sampled_from(sorted(WRAPS)), max_size=5))
@settings(max_examples=6, **LIMITED)
def test_views_of_random_nestings(tmp_path_factory, inside, wraps):
    content = INSIDE[inside]
    for wrap in wraps:
        content = WRAPS[wrap](content[: 16 << 20])
    place = tmp_path_factory.mktemp("nest")
    (place / "kept").mkdir(mode=0o700)
    (place / "vmcore").write_bytes(content[: 1 << 20])
    look_once(place)
    budget.check(lambda: look(place / "vmcore", place / "kept"), VIEW)


@given(
    places=st.lists(
        st.tuples(
            st.integers(0, len(DUMP) - 8),
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f" + bytes(4)]),
        ),
        min_size=1,
        max_size=6,
    ),
    header=st.booleans(),
)
@settings(max_examples=25, **LIMITED)
def test_pages_of_a_dump_whose_numbers_are_changed(tmp_path_factory, places, header):
    content = bytearray(DUMP)
    for offset, width, word in places:
        at = offset % 8192 if header else offset
        content[at : at + width] = word[:width]
    place = tmp_path_factory.mktemp("pages")
    (place / "kept").mkdir(mode=0o700)
    (place / "vmcore").write_bytes(content)
    look_once(place)
    budget.check(lambda: look(place / "vmcore", place / "kept"), VIEW)


def read(path):
    """What `decode`, `explain` and the judge do with a log, without debuginfo."""
    vmcore = identify(path)
    lines = [line.decode("utf-8", "backslashreplace") for line in read_log(path)]
    find_symbols(lines)
    code_lines(lines)
    found = oops.find(lines)
    for one in (found.first, found.last):
        if one is not None:
            oops.frames(found.lines, one)
    which_trace.panic_trace(lines)
    which_trace.dump_trace(lines)
    which_trace.blocked_trace(lines)
    call_trace.call_traces(lines)
    log.another_boot(vmcore, lines)
    same_boot.ended(lines)


PIECES = {
    "start": b"[    0.000000] Linux version 6.1.0-1-amd64 (x@y) (gcc) #1 SMP Debian 6.1.1-1 (2026-01-01)\n",
    "bug": b"[    1.000000] BUG: unable to handle page fault for address: ffffffffdeadbeef\n",
    "oops": b"[    1.000001] Oops: 0002 [#1] PREEMPT SMP PTI\n",
    "cpu": b"[    1.000002] CPU: 1 PID: 77 Comm: bash Tainted: G           OE      6.1.0-1-amd64 #1\n",
    "rip": b"[    1.000003] RIP: 0010:sysrq_handle_crash+0x16/0x20 [x]\n",
    "code": b"[    1.000004] Code: " + b"90 " * 42 + b"<c6> 04 25\n",
    "long code": b"[    1.000004] Code: " + b"90 " * 9000 + b"\n",
    "registers": b"[    1.000005] RAX: 0000000000000000 RBX: 0000000000000063 RCX: 0000000000000000\n",
    "call trace": b"[    1.000006] Call Trace:\n[    1.000006]  <TASK>\n",
    "frame": b"[    1.000007]  ? __handle_sysrq.cold+0x45/0xf4 [mod]\n",
    "frames in one line": b"[    1.000008]" + b" f+0x1/0x2 [m]" * 5000 + b"\n",
    "symbols": b"+0x1/0x2" * 5000 + b" a+0x1/0x2\n",
    "modules": b"[    1.000009] Modules linked in:" + b" aaaa(OE)" * 5000 + b"\n",
    "end": b"[    1.000010] ---[ end trace 0000000000000000 ]---\n",
    "panic": b"[    1.000011] Kernel panic - not syncing: Fatal exception\n",
    "hung": b"[    1.000012] INFO: task kworker/0:1:17 blocked for more than 120 seconds.\n",
    "cut": b"[ cut here ]" * 800 + b"\n",
    "brackets": b"[" * 9000 + b"\n",
    "digits": b"1234567890" * 900 + b"\n",
    "spaces": b" " * 9000 + b"x\n",
    "warning": b"WARNING: CPU: 0 PID: 1 at " * 400 + b"f+0x1/0x2\n",
}


@pytest.mark.parametrize("name", [*PIECES, *sorted({*INSIDE} - {"dump", "zeros"})])
def test_a_log_of_one_kind_of_line(name, tmp_path):
    (tmp_path / "log").write_bytes(PIECES["start"] + PIECES["oops"])
    read(tmp_path / "log")
    piece = PIECES.get(name) or INSIDE[name] or b"\n"
    (tmp_path / "log").write_bytes((PIECES["start"] + piece * (1 + (1 << 20) // len(piece)))[: 1 << 20])
    budget.check(lambda: read(tmp_path / "log"))


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from(sorted(PIECES)), st.sampled_from([1, 2, 30, 2000])), min_size=1, max_size=8
    ),
    seed=st.integers(0, 9),
)
@settings(max_examples=10, **LIMITED)
def test_logs_of_random_lines(tmp_path_factory, pieces, seed):
    block = [PIECES[name] for name, times in pieces for _ in range(times)]
    random.Random(seed).shuffle(block)
    content = b"".join(block)
    content *= 1 + (1 << 20) // len(content)
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(PIECES["start"])
    read(path)
    path.write_bytes((PIECES["start"] + content)[: 1 << 20])
    budget.check(lambda: read(path))
