import base64
import gzip
import lzma
import os
import pwd
import struct
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import dump_writer
import pytest

from sandbox.commands.info import facts
from sandbox.debugger import DEBUGGERS
from sandbox.dump import elf, header_only, identify, is_partly_searched, kdump_file, read_log, search_all
from sandbox.dump.vmcoreinfo import text_of, told_place
from sandbox.errors import DumpDamaged, DumpNotFound, DumpUnreadable, NotADump, UnknownKernel, pasteable
from sandbox.model import KernelPlace
from sandbox.profiles import select

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
INFO = b"OSRELEASE=6.1.0-test\nBUILD-ID=" + b"ab" * 20 + b"\nPAGESIZE=4096\nCRASHTIME=1700000000\n"
PAGES = {pfn: bytes([pfn % 256]) * 4096 for pfn in (0, 3, 4, 70, 999)}

X86 = "QEMU Standard PC (i440FX + PIIX, 1996), BIOS 1.16.2-debian-1.16.2-1 04/01/2014"


@pytest.mark.parametrize("compression", ["zlib", "lzo"])
def test_real_x86_64(compression):
    found = identify(FIXTURES / f"x86_64-6.1-{compression}")
    assert found.format == "kdump-compressed"
    assert found.release == "6.1.0-50-cloud-amd64"
    assert found.utsname_version == "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"
    assert found.arch == "x86_64"
    assert found.build_id == "bb603a9147d3efe4744bf83c83eee397c591cc20"
    assert found.nr_cpus == 2
    assert found.page_size == 4096
    assert found.crash_time == datetime(2026, 11, 23, 8, 48, 9, tzinfo=UTC)
    assert found.dump_level == 31
    assert found.compression == compression
    assert found.complete is True
    assert found.cause == "sysrq"
    assert found.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert found.hardware == X86
    assert found.uptime_seconds == pytest.approx(7.621783)
    assert found.banner is not None
    assert found.banner.startswith("Linux version 6.1.0-50-cloud-amd64 (debian-kernel@lists.debian.org)")
    assert found.taint == ()
    assert {"release": "vmcoreinfo", "nr_cpus": "header", "panic": "log", "complete": "size"}.items() <= (
        found.origins.items()
    )


def test_real_aarch64():
    found = identify(FIXTURES / "aarch64-6.1-zlib")
    assert (found.release, found.arch, found.cause) == ("6.1.0-50-cloud-arm64", "aarch64", "sysrq")
    assert found.hardware == "linux,dummy-virt (DT)"
    assert found.crash_time is None  # QEMU's dump: the kernel did not write its CRASHTIME


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86_64-6.1-zlib", "x86_64-6.1-lzo", "aarch64-6.1-zlib"])
def test_build_id_from_memory(tmp_path, name):
    dump = (FIXTURES / name).read_bytes()
    expected = identify(FIXTURES / name).build_id
    (tmp_path / "vmcore").write_bytes(dump.replace(b"BUILD-ID=", b"BUILD-XX="))
    found = identify(tmp_path / "vmcore")
    assert found.build_id == expected
    assert found.origins["build_id"] == "memory"


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"order": "big"},
        {"bits": 32},
        {"bits": 32, "padded": True},
        {"bits": 32, "order": "big"},
        {"block": 65536},
        {"codec": dump_writer.stored, "status": 0},
        {"shift_utsname": True},
    ],
)
def test_header_shapes(tmp_path, shape):
    pages = {pfn: page * (shape.get("block", 4096) // 4096) for pfn, page in PAGES.items()}
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(pages, INFO, seconds=5, level=17, **shape))
    found = identify(path)
    assert found.release == "6.1.0-test"
    assert found.utsname_version == "#1 SMP Debian 6.1.170-3"
    assert found.arch == "x86_64"
    assert found.nr_cpus == 2
    assert found.dump_level == 17
    assert found.crash_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert found.build_id == "ab" * 20
    assert found.complete is True


def test_header_release_without_vmcoreinfo(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(PAGES, b"", seconds=5))
    found = identify(path)
    assert (found.release, found.origins["release"]) == ("6.1.0-test", "header")
    assert found.crash_time == datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)


def test_a_qemu_header_without_names_gets_its_arch_from_vmcoreinfo(tmp_path):
    path = tmp_path / "vmcore"
    names = ("", "", "", "", "Unknown", "")
    path.write_bytes(dump_writer.kdump(PAGES, INFO + b"NUMBER(kimage_voffset)=0xffffa90b7ce00000\n", utsname=names))
    found = identify(path)
    assert (found.arch, found.origins["arch"]) == ("aarch64", "vmcoreinfo")


def test_time_zero_is_unknown(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(PAGES, b"OSRELEASE=6.1.0\n"))
    assert identify(path).crash_time is None


def test_diskdump(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(PAGES, b"", signature=b"DISKDUMP", status=8))
    found = identify(path)
    assert (found.format, found.compression, found.release) == ("diskdump", "zlib", "6.1.0-test")


@pytest.mark.slow
def test_every_cut_is_noticed_to_the_byte(tmp_path):
    dump = dump_writer.kdump(PAGES, INFO)
    path = tmp_path / "vmcore"
    for size in {*range(500, len(dump), 997), 4095, 4096, 4200, 5000, 8192, 12288, len(dump) - 25, len(dump) - 1}:
        path.write_bytes(dump[:size])
        found = identify(path)
        assert found.complete is False, size
        assert found.incomplete_reason is not None
    path.write_bytes(dump + b"x")
    assert identify(path).complete is True
    for size in (8, 100, 463):
        path.write_bytes(dump[:size])
        with pytest.raises(DumpDamaged, match=f"only {size} bytes"):
            identify(path)


def test_cut_says_how_much_is_missing(tmp_path):
    dump = dump_writer.kdump(PAGES, INFO)
    path = tmp_path / "vmcore"
    path.write_bytes(dump[:-7])
    assert identify(path).incomplete_reason == (
        f"cut off in the page data: {len(dump) - 7} of at least {len(dump)} bytes are there, 7 are missing"
    )


def test_the_writer_s_flag_makes_a_dump_incomplete(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(PAGES, INFO, status=9))
    found = identify(path)
    assert (found.complete, found.compression) == (False, "zlib")
    assert "marked it as incomplete" in str(found.incomplete_reason)


def test_a_dump_without_its_last_pages_is_incomplete(tmp_path):
    raw = {pfn: (page[:50], 0) for pfn, page in PAGES.items()}
    dump = bytearray(dump_writer.kdump({}, INFO, raw=raw))
    last = dump.rfind(PAGES[999][:50]) - 50 * 4 - 24
    dump[last : last + 24] = bytes(24)
    (tmp_path / "vmcore").write_bytes(dump)
    assert "never written" in str(identify(tmp_path / "vmcore").incomplete_reason)


def test_an_unfinished_name_makes_a_dump_incomplete(tmp_path):
    path = tmp_path / "vmcore-incomplete"
    path.write_bytes(dump_writer.kdump(PAGES, INFO))
    found = identify(path)
    assert (found.complete, found.origins["complete"]) == (False, "file name")


@pytest.mark.parametrize("shape", [{}, {"order": "big", "machine": 22}, {"bits": 32, "machine": 3}, {"many": True}])
def test_elf_shapes(tmp_path, shape):
    path = tmp_path / "vmcore"
    dump = dump_writer.elf(PAGES, INFO, **shape)
    path.write_bytes(dump)
    found = identify(path)
    assert (found.format, found.release, found.nr_cpus, found.complete) == ("elf", "6.1.0-test", 2, True)
    assert found.arch == {62: "x86_64", 22: "s390x", 3: "i686"}[shape.get("machine", 62)]
    path.write_bytes(dump[:-1])
    assert "1 are missing" in str(identify(path).incomplete_reason)


def test_elf_flag(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.elf(PAGES, INFO, flags=1))
    assert identify(path).complete is False


def test_elf_vmcoreinfo_without_note(tmp_path):
    pages = dict(PAGES) | {5: (b"\0" * 24 + INFO).ljust(4096, b"\0")}
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.elf(pages, b""))
    found = identify(path)
    assert (found.release, found.origins["release"]) == ("6.1.0-test", "vmcoreinfo in memory")


def _guest(path: Path, pages: Mapping[int, bytes], size: int = 40 << 20) -> int:
    """Writes memory as QEMU does of a guest without a vmcoreinfo device: one segment. Returns its offset."""
    written = bytearray(dump_writer.elf({0x100: bytes(4096)}, b""))
    begin = len(written) - 4096
    # p_filesz and p_memsz of the second program header.
    struct.pack_into("<QQ", written, 64 + 56 + 32, size, size)
    with path.open("wb") as file:
        file.write(written)
        file.truncate(begin + size)
        for at, content in pages.items():
            file.seek(begin + at)
            file.write(content)
    return begin


@pytest.mark.parametrize("at", [0x1000, 0x13FF000, 0x27FF000])
def test_vmcoreinfo_without_note_is_found_wherever_its_page_is(tmp_path, monkeypatch, at):
    """The segment begins at no boundary of pages."""
    monkeypatch.setattr(header_only, "_SCAN_LIMIT", 16 << 20)
    path = tmp_path / "vmcore"
    begin = _guest(path, {at: INFO})
    found = identify(path)
    assert begin % 4096
    assert (found.release, found.origins["release"]) == ("6.1.0-test", "vmcoreinfo in memory")


def test_a_search_for_vmcoreinfo_that_is_given_up_says_what_was_searched(tmp_path, monkeypatch):
    """It is a matter of size; here of a limit that is over at once."""
    monkeypatch.setattr(elf, "_SEARCH_SECONDS", -1)
    monkeypatch.setattr(header_only, "_SCAN_LIMIT", 8 << 20)
    path = tmp_path / "vmcore"
    _guest(path, {0x13FF000: INFO}, size=1 << 30)
    found = identify(path)
    why = "the search for the kernel's own copy was given up after 0.0 GiB of 1.0 GiB of memory"
    assert found.skipped == f"there is no VMCOREINFO, which says where the log is, and {why}"
    with pytest.raises(DumpUnreadable, match=why):
        list(read_log(path))
    with pytest.raises(UnknownKernel, match=why) as caught:
        select(found)
    assert str(caught.value.hint).startswith(f"name it: vmbox run --image PROFILE --debuginfo VMLINUX {path} -- bt   (")
    assert any(value.endswith("of memory; vmbox info --unpack searches all of it") for _, value in facts(found))


def test_what_a_search_that_was_given_up_lacks_is_found_by_a_search_of_all_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(elf, "_SEARCH_SECONDS", -1)
    monkeypatch.setattr(kdump_file, "_SEARCH_SECONDS", -1)
    monkeypatch.setattr(header_only, "_SCAN_LIMIT", 8 << 20)
    path, kdump = tmp_path / "vmcore", tmp_path / "kdump"
    _guest(path, {0x13FF000: INFO}, size=64 << 20)
    kdump.write_bytes(dump_writer.kdump({**PAGES, 3: INFO.ljust(4096, b"\0")}, b""))
    for dump in (path, kdump):
        found = identify(dump)
        assert is_partly_searched(found)
        assert search_all(found).release == "6.1.0-test"
        with pytest.raises(DumpUnreadable) as caught:
            list(read_log(dump, unpack_into=tmp_path))
        assert "given up" not in str(caught.value)


def test_a_search_of_pages_that_is_given_up_says_how_many_were_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(kdump_file, "_SEARCH_SECONDS", -1)
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(PAGES, b""))
    assert str(identify(path).skipped).endswith("was given up after 0 of 5 pages")


@pytest.mark.parametrize(
    ("text", "note"), [(0x2000, 0x1000), (0x1000, 0x1801000), (0x1801000, 0x1000), (36 << 20, 86 << 20)]
)
def test_the_copy_with_the_time_of_the_crash_is_taken(tmp_path, text, note):
    """A kernel that loaded a capture kernel adds it to a note, and not to what the note was made of."""
    path = tmp_path / "vmcore"
    head = struct.pack("<III", 11, len(INFO), 0) + b"VMCOREINFO\0\0"
    _guest(path, {text: INFO.partition(b"CRASHTIME")[0], note: head + INFO}, size=96 << 20)
    found = identify(path)
    assert found.release == "6.1.0-test"
    assert found.crash_time == datetime.fromtimestamp(1700000000, UTC)


def test_it_is_taken_where_there_are_no_notes_at_all(tmp_path):
    """Else drgn takes the registers for a hypervisor's, and finds none."""
    path = tmp_path / "vmcore"
    head = struct.pack("<III", 11, len(INFO), 0) + b"VMCOREINFO\0\0"
    begin = _guest(path, {0x1000: INFO.partition(b"CRASHTIME")[0], 0x13FF000: head + INFO})
    with path.open("r+b") as file:
        file.seek(64)  # the program header of the notes: PT_NULL
        file.write(bytes(56))
        file.seek(64 + 2 * 56)
        file.write(bytes(begin - 64 - 2 * 56))
    assert identify(path).crash_time == datetime.fromtimestamp(1700000000, UTC)


def test_a_file_that_is_no_dump_is_named(tmp_path):
    cases = {
        "vmlinux": (dump_writer.elf({}, INFO, kind=2), "kernel image"),
        "module.ko": (dump_writer.elf({}, INFO, kind=1), "kernel module"),
        "core": (
            dump_writer.elf({}, b"", extra_notes=b"\5\0\0\0\4\0\0\0\6\0\0\0CORE\0\0\0\0abcd"),
            "user-space process",
        ),
        "photo": (b"\xff\xd8\xff\xe0" + bytes(900), "JPEG"),
        "MEMORY.DMP": (b"PAGEDU64" + bytes(900), "Windows crash dump"),
        "ram.lime": (b"EMiL" + bytes(900), "LiME"),
        "zeros": (bytes(9000), "zeros"),
        "notes.txt": (b"nothing of interest\n" * 50, "no kernel log"),
        "noise": (bytes(range(256)) * 8, "first bytes"),
        "vmcore.b64": (base64.encodebytes(dump_writer.kdump(PAGES, INFO)), "text in base64"),
        "vmcore.lzma": (lzma.compress(bytes(9000), lzma.FORMAT_ALONE), "lzma packed"),
        "disk.vhdx": (b"vhdxfile" + bytes(900), "a Hyper-V disk image"),
        "disk.img": (b"\0" * 510 + b"\x55\xaaEFI PART" + bytes(900), "a disk's image"),
        "bzImage": (b"MZ" + bytes(512) + b"HdrS" + bytes(900), "bzImage"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(NotADump, match=message) as error:
            identify(path)
        assert "\n" not in error.value.message
        assert error.value.hint


def test_a_file_that_cannot_be_opened_is_explained(tmp_path):
    with pytest.raises(DumpNotFound):
        identify(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    with pytest.raises(NotADump, match="is empty"):
        identify(tmp_path / "empty")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotADump, match="memory of the running kernel") as live:
        identify(Path("/proc/kcore"))
    assert "makedumpfile -d 31 /proc/kcore vmcore" in live.value.hint
    with pytest.raises(NotADump, match="not a regular file"):
        identify(tmp_path / "fifo")
    (tmp_path / "holds nothing").mkdir()
    with pytest.raises(NotADump, match="holds no kernel crash dump"):
        identify(tmp_path / "holds nothing")


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "vmcore"
    path.write_bytes(b"KDUMP   ")

    def refuse(*_, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root, who runs CI, may read everything
    with pytest.raises(DumpUnreadable, match="no permission"):
        identify(path)
    # Root pastes the hint, and has another $USER.
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    with pytest.raises(DumpUnreadable) as other:
        identify(path)
    assert f"setfacl -m u:nobody:r {pasteable(path)} " in other.value.hint


@pytest.mark.parametrize("piece", [100, 4096, 1 << 20])
@pytest.mark.parametrize("rewrite", [False, True])
def test_flattened(tmp_path, piece, rewrite):
    path = tmp_path / "vmcore"
    dump = (FIXTURES / "x86_64-6.1-zlib").read_bytes()
    path.write_bytes(dump_writer.flatten(dump, piece=piece, rewrite_header=rewrite))
    found = identify(path)
    assert found.flattened
    assert (found.release, found.complete, found.cause) == ("6.1.0-50-cloud-amd64", True, "sysrq")


def test_flattened_cut(tmp_path):
    path = tmp_path / "vmcore.flat"
    flat = dump_writer.flatten((FIXTURES / "x86_64-6.1-zlib").read_bytes())
    path.write_bytes(flat[:-1])
    assert "end mark" in str(identify(path).incomplete_reason)
    path.write_bytes(flat + bytes(512))
    assert identify(path).complete is True  # something behind the end mark, as on a raw device
    path.write_bytes(flat[:-20000])
    assert identify(path).complete is False


def test_flattened_elf(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.flatten(dump_writer.elf(PAGES, INFO)))
    found = identify(path)
    assert (found.format, found.flattened, found.release, found.complete) == ("elf", True, "6.1.0-test", True)


def test_split_set(tmp_path):
    parts = [(0, 50), (50, 1000)]
    for index, part in enumerate(parts):
        (tmp_path / f"part{index}").write_bytes(dump_writer.kdump(PAGES, INFO, split=part))
    (tmp_path / "other").write_bytes(b"something else")
    found = identify(tmp_path / "part1")
    assert [file.name for file in found.files] == ["part0", "part1"]
    assert found.complete is True
    (tmp_path / "part0").unlink()
    found = identify(tmp_path / "part1")
    assert (found.complete, found.files) == (False, (tmp_path / "part1",))
    assert found.incomplete_reason == (
        "it is the part of a split dump with pages 50 to 1000, and what has pages 0 to 50 is not beside it:"
        f" cp PART {tmp_path}/"
    )
    assert found.missing_parts == ("0 to 50",)


def test_a_compressed_part_of_a_split_set_is_read_alone_and_says_what_to_do(tmp_path):
    pages = {pfn: page for pfn, page in PAGES.items() if pfn < 50}
    for name, part in (("first.gz", (0, 50)), ("second.gz", (50, 1000))):
        content = dump_writer.kdump(pages, INFO, split=part, max_mapnr=1000)
        (tmp_path / name).write_bytes(gzip.compress(content))
    found = identify(tmp_path / "first.gz")
    assert (found.release, found.complete) == ("6.1.0-test", False)
    assert "pages 50 to 1000 are in other parts of it: unpacked into one directory" in str(found.incomplete_reason)
    assert "pages 0 to 50 are in other parts" in str(identify(tmp_path / "second.gz").incomplete_reason)


def test_split_set_with_an_empty_part(tmp_path):
    """As makedumpfile 1.7.6 writes it of a machine of 785900 KiB: the bitmap's last block ends where its bits do."""
    pages = {pfn: page for pfn, page in PAGES.items() if pfn < 50}
    for index, part in enumerate([(0, 50), (50, 80), (80, 1000)]):
        content = dump_writer.kdump(pages, INFO, split=part, max_mapnr=1000)
        (tmp_path / f"part{index}").write_bytes(content if index == 0 else content[: -4096 + 125])
    for index in range(3):
        assert identify(tmp_path / f"part{index}").complete is True
    whole = (tmp_path / "part0").read_bytes()
    (tmp_path / "part0").write_bytes(whole[:-1])
    reason = str(identify(tmp_path / "part1").incomplete_reason)
    assert reason.startswith("part0: cut off in the page data")
    assert reason.count("cut off") == 1


def test_a_core_without_segments_is_of_xen(tmp_path):
    """`xl dump-core` has the pages in sections; read as another ELF it would be a complete dump of no memory."""
    path = tmp_path / "core"
    core = bytearray(dump_writer.elf({}, b""))
    struct.pack_into("<HHH", core, 56, 0, 64, 7)
    path.write_bytes(core)
    found = identify(path)
    assert (found.format, found.complete) == ("xen", None)


def test_named_formats(tmp_path):
    lkcd = bytearray(4096)
    lkcd[:8] = bytes.fromhex("ed238f61730119a8")
    lkcd[20:22] = (4096).to_bytes(2, "little")
    lkcd[52:70] = b"Oops in interrupt\0"
    lkcd[324:330] = b"Linux\0"
    lkcd[454:465] = b"2.6.16.60-x"
    lkcd[584:590] = b"x86_64"
    vmss = (0xBED2BED2).to_bytes(4, "little") + bytes(4) + (1).to_bytes(4, "little")
    vmss += b"cpu".ljust(64, b"\0") + (92).to_bytes(8, "little") + (64).to_bytes(8, "little")
    vmss += b"\x44\x0ccpu:numVCPUs"[2:] + (4).to_bytes(4, "little") + bytes(64)
    cases = {
        "lkcd": bytes(lkcd),
        "vmware": vmss,
        "qemu-migration": b"QEVM" + bytes(5000) + b"\n" + INFO + bytes(600),
        "libvirt-save": b"LibvirtQemudSave" + bytes(5000),
        "xen": b"\xed\xeb\x0f\xf0" + bytes(600),
        "s390": bytes.fromhex("a8190173618f23fd") + bytes(600),
        "sadump": bytes(4096) + b"sadump\0\0" + bytes(4096),
    }
    for kind, content in cases.items():
        (tmp_path / "named").write_bytes(content)
        with pytest.raises(DumpUnreadable, match=f"the log of a {kind} file is not read here"):
            list(read_log(tmp_path / "named"))
        path = tmp_path / kind
        path.write_bytes(content)
        assert identify(path).format == kind
    assert identify(tmp_path / "lkcd").release == "2.6.16.60-x"
    assert identify(tmp_path / "lkcd").panic == "Oops in interrupt"
    assert identify(tmp_path / "vmware").nr_cpus == 4
    (tmp_path / "vm.vmem").write_bytes(bytes(4096) + INFO.ljust(4096, b"\0"))
    with pytest.raises(NotADump):
        identify(tmp_path / "vm.vmem")
    (tmp_path / "vm.vmss").write_bytes(vmss)
    found = identify(tmp_path / "vm.vmem")
    assert (found.format, found.nr_cpus, found.release) == ("vmware", 4, "6.1.0-test")
    assert [file.name for file in found.files] == ["vm.vmss", "vm.vmem"]
    assert identify(tmp_path / "qemu-migration").release == "6.1.0-test"


def test_facts_are_found_in_memory_without_page_tables(tmp_path):
    """As in a real `virsh save`: the log's text has remains of older messages behind it, the utsname has not."""
    utsname = b"".join(
        text.ljust(65, b"\0") for text in (b"Linux", b"host", b"6.1.0-56-cloud-amd64", b"#1 SMP Debian 6.1.192-2")
    )
    formats = b"Linux".ljust(65, b"\0") + b"(none)".ljust(65, b"\0") + b"%s".ljust(65, b"\0") + bytes(65)
    formats += utsname.replace(b"#1 ", b"# ")  # as the build has it before its number is known
    formats += b"---[ end Kernel panic - not syncing: %s ]---\n\0"
    log = b"Kernel panic - not syncing: hung_task: blocked tasksed 4)\n" + bytes(16)
    log += b"---[ end Kernel panic - not syncing: hung_task: blocked tasks ]---ed\0"
    memory = bytes(5000) + formats + bytes(5 << 20) + utsname + bytes(9000) + log
    for kind, magic in {"libvirt-save": b"LibvirtQemudSave", "qemu-migration": b"QEVM"}.items():
        (tmp_path / kind).write_bytes(magic + memory)
        found = identify(tmp_path / kind)
        assert (found.release, found.utsname_version) == ("6.1.0-56-cloud-amd64", "#1 SMP Debian 6.1.192-2")
        assert (found.panic, found.cause) == ("Kernel panic - not syncing: hung_task: blocked tasks", "hung-task")
        assert (found.origins["utsname_version"], found.origins["panic"]) == ("utsname in memory", "text in memory")


def test_an_elf_without_vmcoreinfo_names_its_kernel_by_its_memory(tmp_path):
    """As of a kernel that died before it made its VMCOREINFO. Other kernels' banners are in memory, too: in logs."""
    release, version = b"6.1.0-56-cloud-amd64", b"#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"
    utsname = b"".join(text.ljust(65, b"\0") for text in (b"Linux", b"host", release, version, b"x86_64", b"(none)"))
    banners = (
        b"Linux version %s (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0) 12.2.0, ld 2.40) " % one
        for one in (b"5.10.0-32-amd64", release)
    )
    older, own = banners
    text = older + b"#1 SMP Debian 5.10.1-1\n\0" + own + b"# SMP\n\0" + own + version + b"\n\0"
    text += b"---[ end Kernel panic - not syncing: System is deadlocked on memory ]---"
    pages = {0x1000: text.ljust(4096, b"\0"), 0x1001: utsname.ljust(4096, b"\0")}
    (tmp_path / "early").write_bytes(dump_writer.elf(pages, b""))
    found = identify(tmp_path / "early")
    assert (found.release, found.utsname_version) == (release.decode(), version.decode())
    assert found.banner == (own + version).decode()
    assert (found.panic, found.cause) == ("Kernel panic - not syncing: System is deadlocked on memory", "oom")
    assert found.origins["release"] == "utsname in memory"
    assert select(found).distribution.name == "debian-12"


def test_an_elf_whose_vmcoreinfo_is_in_memory_alone_is_told_to_the_debugger(tmp_path):
    info = INFO + b"KERNELOFFSET=da00000\nNUMBER(phys_base)=-2097152\n"
    pages = {0x1000: info.ljust(4096, b"\0")}
    (tmp_path / "vmss2core").write_bytes(dump_writer.elf(pages, b""))
    place = told_place(identify(tmp_path / "vmss2core"))
    assert place == KernelPlace(offset=0xDA00000, phys_base=-0x200000)
    assert text_of(identify(tmp_path / "vmss2core").vmcoreinfo) == info.decode()
    crash, drgn = DEBUGGERS["crash"], DEBUGGERS["drgn"]
    for mode in crash.start_modes:
        argv = crash.session_argv("vmlinux", ["vmcore"], mode)
        assert crash.told(argv, place) == [*argv, "--kaslr", "0xda00000", "-m", "phys_base=0xffffffffffe00000"]
        assert crash.told(argv, None) == argv
    for vmlinux in ("vmlinux", None):
        for argv in (
            drgn.session_argv(vmlinux, ["vmcore"], drgn.start_modes[0]),
            drgn.prompt_argv(vmlinux, ["vmcore"]),
            drgn.python_argv(vmlinux, ["vmcore"]),
        ):
            assert drgn.told(argv, place) == ["drgn", "--vmcoreinfo", "/run/vmbox/vmcoreinfo", *argv[1:]]
            assert drgn.told(argv, None) == argv
    (tmp_path / "vmcore").write_bytes(dump_writer.elf(pages, info))
    assert told_place(identify(tmp_path / "vmcore")) is None
    (tmp_path / "old").write_bytes(dump_writer.elf({0x1000: INFO.ljust(4096, b"\0")}, b""))
    # crash's options need both numbers; drgn takes the text.
    assert told_place(identify(tmp_path / "old")) == KernelPlace()
    assert crash.told(["crash"], KernelPlace()) == ["crash"]


def test_log_beside_the_dump(tmp_path):
    (tmp_path / "vmcore").write_bytes(dump_writer.kdump(PAGES, INFO))
    (tmp_path / "vmcore-dmesg.txt").write_text(
        "[    0.000000] Linux version 6.1.0-test (a@b) #1\n[  9.5] x\n"
        "[    9.500000] Kernel panic - not syncing: hung_task: blocked tasks\n"
    )
    found = identify(tmp_path / "vmcore")
    assert (found.cause, found.origins["cause"]) == ("hung-task", "vmcore-dmesg.txt")


def test_garbage_build_id_is_not_believed(tmp_path):
    path = tmp_path / "vmcore"
    names = ("Linux", "h", "6.1.115", "#1 SMP", "x86_64", "")
    path.write_bytes(dump_writer.kdump(PAGES, INFO.replace(b"6.1.0-test", b"6.1.115"), utsname=names))
    assert identify(path).build_id is None
    names = ("Linux", "h", "6.1.0-27-amd64", "#1 SMP Debian 6.1.115-1 (2024-11-01)", "x86_64", "")
    path.write_bytes(dump_writer.kdump(PAGES, INFO.replace(b"6.1.0-test", b"6.1.0-27-amd64"), utsname=names))
    assert identify(path).build_id is None


def test_log_of_another_boot_beside_the_dump_is_not_taken(tmp_path):
    """Of the same kernel: the time of the crash tells them apart."""
    (tmp_path / "vmcore").write_bytes(dump_writer.kdump(PAGES, INFO.replace(b"1700000000", b"1795812347")))
    log = (
        "[    0.000000] Linux version 6.1.0-test (a@b) (gcc) #1 SMP\n"
        "[    1.500000] rtc_cmos 00:05: setting system clock to 2026-11-27T20:45:45 UTC (1795812{})\n"
        "[    3.500000] Kernel panic - not syncing: hung_task: blocked tasks\n"
    )
    (tmp_path / "vmcore-dmesg.txt").write_text(log.format("345"))
    assert identify(tmp_path / "vmcore").cause == "hung-task"
    (tmp_path / "vmcore-dmesg.txt").write_text(log.format("045"))
    found = identify(tmp_path / "vmcore")
    assert (found.cause, found.panic) == (None, None)
    assert "vmcore-dmesg.txt is of another boot: it ends at 2026-11-27 20:40:47" in (found.skipped or "")


def test_log_of_another_kernel_beside_the_dump_is_not_taken(tmp_path):
    (tmp_path / "vmcore").write_bytes(dump_writer.kdump(PAGES, INFO))
    (tmp_path / "vmcore-dmesg.txt").write_text(
        "[    0.000000] Linux version 9.9.9 (a@b) #1\n[    9.500000] Kernel panic - not syncing: RCU Stall\n"
    )
    assert identify(tmp_path / "vmcore").cause is None


@pytest.mark.parametrize("codec", [dump_writer.zlibbed, dump_writer.stored])
def test_compressed_dump_without_vmcoreinfo(tmp_path, codec):
    """What QEMU writes of a guest without a vmcoreinfo device; the kernel keeps its copy at the start of a page."""
    pages = dict(PAGES) | {
        5: (INFO + b"NUMBER(phys_base)=0\n").ljust(4096, b"\0"),
        6: b"OSRELEASE=%s\n".ljust(4096, b"x"),
    }
    path = tmp_path / "vmcore"
    names = ("", "", "", "", "x86_64", "")
    path.write_bytes(dump_writer.kdump(pages, b"", utsname=names, codec=codec))
    found = identify(path)
    assert (found.release, found.origins["release"]) == ("6.1.0-test", "vmcoreinfo in memory")
    assert found.build_id == "ab" * 20
    assert identify(path, log=False).release is None


@pytest.mark.parametrize("codec", [dump_writer.zlibbed, dump_writer.stored])
def test_compressed_dump_of_a_kernel_that_had_no_vmcoreinfo_yet(tmp_path, codec):
    """What QEMU writes early in boot: no note, no text in memory, and only the machine in the header's utsname."""
    release, version = b"6.1.0-50-cloud-amd64", b"#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"
    utsname = b"".join(one.ljust(65, b"\0") for one in (b"Linux", b"(none)", release, version, b"x86_64", b"(none)"))
    banner = b"Linux version " + release + b" (a@b) (gcc) " + version
    pages = {5: bytes(4096), 600: (b"x" * 4000 + banner)[:4096], 601: (banner[96:] + b"\n\0").ljust(4096, b"\0")}
    pages[4000] = (bytes(256) + utsname).ljust(4096, b"\0")
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump(pages, b"", utsname=("", "", "", "", "x86_64", ""), codec=codec))
    found = identify(path)
    assert (found.release, found.utsname_version, found.banner) == (release.decode(), version.decode(), banner.decode())
    assert found.origins["release"] == "utsname in memory"
    assert select(found).distribution.name == "debian-12"


@pytest.mark.parametrize("release", [b"../../x", b"6.1/../x", b"-oDir=/", b"6.1 -x", b"6.1\x1b[2J", b"6.1'$(id)", b"."])
def test_a_release_that_leads_elsewhere_is_none(tmp_path, release):
    """It becomes a part of file names, URLs and arguments."""
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.elf(PAGES, b"OSRELEASE=" + release + b"\nPAGESIZE=4096\n"))
    assert identify(path).release is None
    path.write_bytes(b"[    0.000000] Linux version " + release.replace(b" ", b"/") + b" (a@b) (c) #1 SMP\n" * 2)
    with suppress(NotADump):  # no log at all
        # A text from a terminal is read without its escape sequences.
        assert identify(path).release == ("6.1" if b"\x1b" in release else None)
    head = bytearray(dump_writer.kdump(PAGES, b""))
    head[142:207] = release.ljust(65, b"\0")
    path.write_bytes(head)
    assert identify(path).release is None
    head[142:207] = b"6.1.0-good".ljust(65, b"\0")
    path.write_bytes(head)
    assert identify(path).release == "6.1.0-good"
