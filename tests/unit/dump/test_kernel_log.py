import gzip
import os
import re
import struct
from pathlib import Path

import dump_writer
import pytest

from sandbox.dump import identify, kernel_log, read_log, read_records
from sandbox.dump.address_translation import KernelMemory
from sandbox.errors import DumpDamaged, DumpUnreadable, VmboxError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
IMAGE = 0xFFFFFFFF80000000
DIRECT = 0xFFFF888000000000
PHYS_BASE = 0x200000


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("x86_64-6.1-zlib", "x86_64-6.1"),
        ("x86_64-6.1-lzo", "x86_64-6.1"),
        ("x86_64-6.12-snappy", "x86_64-6.12"),
    ],
)
def test_same_as_makedumpfile(name, reference):
    """The reference is `makedumpfile --dump-dmesg` of the dump that the fixture was made of."""
    expected = gzip.decompress((FIXTURES / f"{reference}.dmesg.gz").read_bytes()).rstrip(b"\n").split(b"\n")
    assert [line.rstrip() for line in read_log(FIXTURES / name)] == [line.rstrip() for line in expected]


@pytest.mark.parametrize("kind", ["printk_log", "bytes"])
def test_older_logs_as_makedumpfile_reads_them(kind):
    """A real kernel's messages and page tables, its log rewritten as older kernels kept it: see older_log.py."""
    expected = gzip.decompress((FIXTURES / f"x86_64-{kind}.dmesg.gz").read_bytes()).rstrip(b"\n").split(b"\n")
    # makedumpfile prints the levels of the oldest kind as they stand there; dmesg does not.
    expected = [re.sub(rb"^<\d>", b"", line).rstrip() for line in expected]
    assert [line.rstrip() for line in read_log(FIXTURES / f"x86_64-{kind}")] == expected
    found = identify(FIXTURES / f"x86_64-{kind}")
    assert found.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert found.origins["panic"] == "log"


def test_zstd_pages():
    expected = gzip.decompress((FIXTURES / "x86_64-6.12.dmesg.gz").read_bytes()).rstrip(b"\n").split(b"\n")
    assert [line.rstrip() for line in read_log(FIXTURES / "x86_64-6.12-zstd")] == [line.rstrip() for line in expected]


class Machine:
    """Physical memory with a kernel image at PHYS_BASE and page tables for a direct map."""

    def __init__(self, levels=4):
        self.pages: dict[int, bytearray] = {}
        self.levels = levels
        self.info = [
            "OSRELEASE=5.4.0",
            "PAGESIZE=4096",
            f"NUMBER(phys_base)={PHYS_BASE}",
            f"SYMBOL(init_top_pgt)={IMAGE + 0x10000:x}",
        ]
        if levels == 5:
            self.info.append("NUMBER(pgtable_l5_enabled)=1")
        self.next_table = PHYS_BASE + 0x20000

    def put(self, address, data):
        for at, byte in enumerate(data, address):
            self.pages.setdefault(at // 4096, bytearray(4096))[at % 4096] = byte

    def entry(self, table, index):
        page = self.pages.setdefault(table // 4096, bytearray(4096))
        return struct.unpack_from("<Q", page, index * 8)[0]

    def map(self, virtual, physical, huge=False):
        table = PHYS_BASE + 0x10000
        last = 1 if huge else 0
        for level in range(self.levels - 1, last, -1):
            index = virtual >> (12 + 9 * level) & 511
            entry = self.entry(table, index)
            if not entry & 1:
                entry = self.next_table | 0x63
                self.next_table += 4096
                self.put(table + 8 * index, struct.pack("<Q", entry))
            table = entry & 0x000FFFFFFFFFF000
        flags = 1 << 63 | 0xE3 if huge else 1 << 63 | 0x63
        self.put(table + 8 * (virtual >> (12 + 9 * last) & 511), struct.pack("<Q", physical | flags))

    def symbol(self, name, offset, value=b""):
        self.info.append(f"SYMBOL({name})={IMAGE + offset:x}")
        self.put(PHYS_BASE + offset, value)

    def dump(self, path):
        pages = {pfn: bytes(page) for pfn, page in self.pages.items()}
        path.write_bytes(dump_writer.kdump(pages, "\n".join([*self.info, ""]).encode(), phys_base=1))
        return path


def record(nanoseconds, text, facility=0):
    size = -(-(16 + len(text)) // 8) * 8
    return (struct.pack("<QHHHBB", nanoseconds, size, len(text), 0, facility, 6) + text).ljust(size, b"\0")


@pytest.mark.parametrize("name", ["printk_log", "log"])
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("huge", [False, True])
def test_printk_log(tmp_path, name, levels, huge):
    """The records of 3.5 to 5.9, with a wrap around the end of the ring; the ring in the direct map."""
    machine = Machine(levels)
    buffer = (0xFF11000000000000 if levels == 5 else DIRECT) + 0x600000
    for page in range(1 if huge else 2):
        machine.map(buffer + page * 4096, 0x600000 + page * 4096, huge)
    first = [record(1_000_000_000 + index, b"line %d" % index) for index in range(3)]
    last = [record(2_000_000_000, b"after the wrap\nsecond line")]
    end = b"".join(last)
    start = 8192 - len(b"".join(first)) - 16
    machine.put(0x600000, end)
    machine.put(0x600000 + start, b"".join(first) + bytes(16))
    machine.symbol("log_buf", 0x1000, struct.pack("<Q", buffer))
    machine.symbol("log_buf_len", 0x1010, struct.pack("<I", 8192))
    machine.symbol("log_first_idx", 0x1020, struct.pack("<I", start))
    machine.symbol("log_next_idx", 0x1030, struct.pack("<I", len(end)))
    machine.info += [f"SIZE({name})=16", f"OFFSET({name}.ts_nsec)=0", f"OFFSET({name}.len)=8"]
    machine.info += [f"OFFSET({name}.text_len)=10", f"OFFSET({name}.dict_len)=12"]
    assert list(read_log(machine.dump(tmp_path / "vmcore"))) == [
        b"[    1.000000] line 0",
        b"[    1.000000] line 1",
        b"[    1.000000] line 2",
        b"[    2.000000] after the wrap",
        b"               second line",
    ]


FORGED = b"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"


def test_a_line_that_a_program_wrote_is_not_the_panic(tmp_path):
    """By /dev/kmsg; the kernel keeps its facility, 0, to itself."""
    machine = Machine()
    lines = [
        record(1_000_000_000, b"Linux version 5.4.0 (x@y) (gcc) #1 SMP"),
        record(2_000_000_000, b"Kernel panic - not syncing: hung_task: blocked tasks"),
        record(3_000_000_000, FORGED, facility=1),
    ]
    ring = b"".join(lines)
    machine.put(PHYS_BASE + 0x4000, ring)
    machine.symbol("log_buf", 0x1000, struct.pack("<Q", IMAGE + 0x4000))
    machine.symbol("log_buf_len", 0x1010, struct.pack("<I", 4096))
    machine.symbol("log_first_idx", 0x1020, struct.pack("<I", 0))
    machine.symbol("log_next_idx", 0x1030, struct.pack("<I", len(ring)))
    machine.info += ["SIZE(printk_log)=16", "OFFSET(printk_log.ts_nsec)=0", "OFFSET(printk_log.len)=8"]
    machine.info += ["OFFSET(printk_log.text_len)=10", "OFFSET(printk_log.dict_len)=12"]
    path = machine.dump(tmp_path / "vmcore")
    found = identify(path)
    assert (found.cause, found.panic) == ("hung-task", "Kernel panic - not syncing: hung_task: blocked tasks")
    assert found.uptime_seconds == pytest.approx(3.0)
    # It is shown all the same.
    assert list(read_log(path))[-1] == b"[    3.000000] " + FORGED
    assert [one.from_program for one in read_records(path)] == [False, False, True]
    # 3.5 has the message's level in that place.
    machine.info = [line.replace("OSRELEASE=5.4.0", "OSRELEASE=3.5.0") for line in machine.info]
    assert not any(one.from_program for one in read_records(machine.dump(tmp_path / "vmcore")))


@pytest.mark.parametrize("name", ["x86_64-6.1-zlib", "x86_64-printk_log"])
def test_a_line_of_a_program_in_a_genuine_ring_is_told_from_the_kernels(tmp_path, name, monkeypatch):
    """Genuine rings of 5.10 and later, and of 5.4, in which one message is given the facility of a program."""
    genuine = list(read_records(FIXTURES / name))
    assert not any(one.from_program for one in genuine)
    wanted = genuine[-3].nanoseconds
    read = KernelMemory.read

    def with_facility(self, address, size):
        data = read(self, address, size)
        at = data.find(struct.pack("<Q", wanted))
        if at >= 0 and size in {16, 88}:
            # 16: struct printk_log, u64 u16 u16 u16 u8; 88: struct printk_info, u64 u64 u16 u8.
            place = at + (14 if size == 16 else 10)
            return data[:place] + b"\x01" + data[place + 1 :]
        return data

    monkeypatch.setattr(KernelMemory, "read", with_facility)
    told = [one.from_program for one in read_records(FIXTURES / name)]
    assert told == [one.nanoseconds == wanted for one in genuine]


@pytest.mark.parametrize("wrapped", [False, True])
def test_ring_of_bytes(tmp_path, wrapped):
    """Before 3.5."""
    machine = Machine()
    text = b"<6>[    0.000000] Linux version 2.6.32-754.el6.x86_64 (mockbuild@x86.redhat.com) (gcc) #1 SMP\n" * 60
    text += b"<0>[   77.000001] Kernel panic - not syncing: hung_task: blocked tasks\n<4>no time\n"
    size = 4096 if wrapped else 8192
    ring = bytearray(size)
    for at, byte in enumerate(text):
        ring[at % size] = byte
    machine.put(PHYS_BASE + 0x4000, ring)
    machine.symbol("log_buf", 0x1000, struct.pack("<Q", IMAGE + 0x4000))
    machine.symbol("log_buf_len", 0x1010, struct.pack("<I", size))
    machine.symbol("log_end", 0x1020, struct.pack("<I", len(text)))
    path = machine.dump(tmp_path / "vmcore")
    assert list(read_log(path))[-2:] == [
        b"[   77.000001] Kernel panic - not syncing: hung_task: blocked tasks",
        b"no time",
    ]
    found = identify(path)
    assert (found.cause, found.uptime_seconds, found.vendor) == ("hung-task", pytest.approx(77.000001), "rhel")


def test_corrupt_rings_end(tmp_path):
    machine = Machine()
    machine.symbol("log_buf", 0x1000, struct.pack("<Q", IMAGE + 0x4000))
    machine.symbol("log_buf_len", 0x1010, struct.pack("<I", 4096))
    machine.symbol("log_first_idx", 0x1020, struct.pack("<I", 0))
    machine.symbol("log_next_idx", 0x1030, struct.pack("<I", 13))  # never met
    machine.put(PHYS_BASE + 0x4000, record(1, b"x") * 170 + bytes(16))
    machine.info += ["SIZE(printk_log)=16", "OFFSET(printk_log.ts_nsec)=0", "OFFSET(printk_log.len)=8"]
    machine.info += ["OFFSET(printk_log.text_len)=10"]
    assert len(list(read_log(machine.dump(tmp_path / "vmcore")))) <= 400


def test_no_log_says_what_to_do(tmp_path):
    machine = Machine()
    with pytest.raises(DumpUnreadable) as error:
        list(read_log(machine.dump(tmp_path / "vmcore")))
    assert "vmbox run" in error.value.hint


def test_split_dump_log(tmp_path):
    """Each part holds some of the pages."""
    source = FIXTURES / "x86_64-6.1-zlib"
    from sandbox.dump import kdump_file
    from sandbox.dump.source import FileSource

    with FileSource(source) as opened:
        dump = kdump_file.parse(opened, source.name) or pytest.fail("no dump")
        header, last = dump.header, dump.layout.max_mapnr
        there = (pfn for pfn in range(last) if dump.index.position(pfn) is not None)
        pages = {pfn: dump.memory().read(pfn * 4096, 4096) for pfn in there}
    middle = sorted(pages)[len(pages) // 2]
    top = max(pages) + 1
    for name, part in (("a", (0, middle)), ("b", (middle, top))):
        (tmp_path / name).write_bytes(
            dump_writer.kdump(pages, header.vmcoreinfo, phys_base=header.phys_base, split=part)
        )
    assert list(read_log(tmp_path / "a")) == list(read_log(source))
    assert identify(tmp_path / "b").cause == "sysrq"
    # Neither has all pages of the log; no lines are not an empty log.
    for name in ("a", "b"):
        alone = tmp_path / f"alone-{name}" / "part"
        alone.parent.mkdir()
        (tmp_path / name).rename(alone)
        assert identify(alone).complete is False
        with pytest.raises(DumpUnreadable, match="the log's pages are not in the dump") as refused:
            list(read_log(alone))
        assert refused.value.hint.endswith("names what is not beside it")


@pytest.mark.parametrize(
    ("shift", "va_bits", "physical_high"), [(12, 48, 0), (14, 48, 0), (16, 48, 0), (16, 52, 1 << 48)]
)
def test_aarch64_granules(shift, va_bits, physical_high):
    """Page tables of all three granules, with the 52-bit addresses of 64 KiB pages."""
    from sandbox.dump.address_translation import Arm64Memory

    page = 1 << shift
    width = shift - 3
    levels = -(-(va_bits - shift) // width)
    tables: dict[int, dict[int, int]] = {}
    virtual = ((1 << 64) - (1 << va_bits)) + 0x1234567 * page + 0x321
    address = virtual & ((1 << va_bits) - 1)
    target = physical_high | 0x40 * page
    for number, level in enumerate(range(levels - 1, -1, -1)):
        index = address >> (shift + width * level) & ((1 << width) - 1)
        following = target if level == 0 else (number + 2) * page
        low = following & ((1 << 48) - 1)
        tables[(number + 1) * page] = {index: low | (following >> 48 & 15) << 12 * (shift == 16) | 3}

    class Tables:
        def read(self, address, size):
            table, offset = address & ~(page - 1), address & (page - 1)
            return tables[table].get(offset // 8, 0).to_bytes(8, "little")

    info = {"NUMBER(VA_BITS)": str(va_bits)}
    assert Arm64Memory(Tables(), info, page, shift).physical(virtual) == target | 0x321


def test_saved_log_and_directory(tmp_path):
    log = b"[    0.000000] Linux version 5.14.0-70.el9.x86_64 (a@b) (c) #1 SMP\n[    1.500000] second\n"
    case = tmp_path / "127.0.0.1-2026-01-02-03:04:05"
    case.mkdir()
    (case / "vmcore-dmesg.txt").write_bytes(log)
    for path in (case, case / "vmcore-dmesg.txt"):
        assert list(read_log(path))[-1] == b"[    1.500000] second"
    found = identify(case)
    assert found.release == "5.14.0-70.el9.x86_64"
    assert found.original_path == "/var/crash/127.0.0.1-2026-01-02-03:04:05/vmcore"


def test_journal_lines():
    from sandbox.dump import log_forms

    lines = b"Nov 23 08:48:09 web01 kernel: Linux version 6.1.0 (a@b) (c) #1 SMP\nNov 23 08:48:10 web01 kernel: ok\n"
    assert [record.text for record in log_forms.read(lines).records][1:] == [b"ok"]


@pytest.mark.parametrize(
    "form",
    [
        b"[Mon Nov 23 08:48:0%d 2026] %s\n",
        b"kern  :emerg : [    %d.000000] %s\n",
        b"[    %d.000000][    T1] %s\n",
        b"<6>[    %d.000000] %s\n",
        b"2026-11-23T08:48:0%d+00:00 web01 kernel: %s\n",
    ],
)
def test_logs_as_people_send_them(tmp_path, form):
    lines = [
        b"Linux version 6.1.0-50-amd64 (a@b) (gcc) #1 SMP",
        b"second",
        b"Kernel panic - not syncing: hung_task: blocked",
    ]
    path = tmp_path / "dmesg.txt"
    path.write_bytes(b"".join(form % (number, line) for number, line in enumerate(lines)))
    found = identify(path)
    assert (found.format, found.release) == ("log", "6.1.0-50-amd64")
    assert found.panic == "Kernel panic - not syncing: hung_task: blocked"
    assert [line.rpartition(b"] ")[2] for line in read_log(path)] == lines


def test_missing_dump():
    with pytest.raises(VmboxError):
        list(read_log(Path("/nonexistent")))


def test_the_image_has_the_banner_that_the_log_lost(tmp_path):
    """The beginning of the log was overwritten, and an ELF core has no utsname: both are in the kernel image."""
    machine = Machine()
    banner = b"Linux version 5.4.0 (mockbuild@x64-builder02.almalinux.org) (gcc) #1 SMP Thu Jan 1\n"
    machine.put(PHYS_BASE + 0x30000, b"Linux version 5.4.0 (%s@%s) (%s) %s\n".ljust(200, b"\0") + banner)
    names = b"".join(name.ljust(65, b"\0") for name in (b"Linux", b"h", b"5.4.0", b"#1 SMP Thu Jan 1", b"x86_64"))
    machine.symbol("init_uts_ns", 0x40000, bytes(4) + names)
    machine.symbol("log_buf", 0x1000, struct.pack("<Q", IMAGE + 0x4000))
    machine.symbol("log_buf_len", 0x1010, struct.pack("<I", 4096))
    machine.symbol("log_end", 0x1020, struct.pack("<I", 30))
    machine.put(PHYS_BASE + 0x4000, b"<6>[    7.000000] the last bit")
    machine.info.append(f"SYMBOL(_stext)={IMAGE:x}")
    pages = {pfn: bytes(page) for pfn, page in machine.pages.items()}
    (tmp_path / "vmcore").write_bytes(dump_writer.elf(pages, "\n".join([*machine.info, ""]).encode()))
    found = identify(tmp_path / "vmcore")
    assert (found.utsname_version, found.origins["utsname_version"]) == ("#1 SMP Thu Jan 1", "memory")
    assert found.banner == banner.decode().rstrip()
    assert found.vendor == "alma"


def test_a_log_that_takes_too_long_is_an_error(tmp_path, monkeypatch):
    """Also in an archive, where it is read in another way."""
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress((FIXTURES / "x86_64-6.1-zlib").read_bytes(), 1))
    monkeypatch.setattr(kernel_log, "_SECONDS", -1)
    with pytest.raises(DumpDamaged, match="took more than"):
        list(read_log(path))


def test_a_dump_in_a_directory_that_the_user_may_not_enter(tmp_path):
    """/var/crash is root's. Python's Path.is_dir() raises there."""
    closed = tmp_path / "crash"
    closed.mkdir(mode=0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(DumpUnreadable, match="no permission to read"):
            list(read_log(closed / "vmcore"))
    finally:
        os.seteuid(user)
