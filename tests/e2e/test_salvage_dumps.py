"""The salvage modes, each mode with a dump that needs it: genuine ones, damaged."""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.host import paths


class Kdump:
    """A kdump-compressed file in memory. Layout: makedumpfile's diskdump_mod.h."""

    _INCOMPLETE = 8

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        self._block, sub_header, bitmaps = struct.unpack_from("<iiI", self.data, 428)
        second = self._block * (1 + sub_header) + self._block * bitmaps // 2
        self._descriptors = self._block * (1 + sub_header + bitmaps)
        dumped = self.data[second : self._descriptors]
        self._pages = [byte * 8 + bit for byte, bits in enumerate(dumped) for bit in range(8) if bits >> bit & 1]

    def lose(self, part: float) -> None:
        """Leaves it as makedumpfile does when the disk is full: the last pages have descriptors of zeros."""
        for number in range(int(len(self._pages) * (1 - part)), len(self._pages)):
            struct.pack_into("<qIIQ", self.data, self._descriptors + 24 * number, 0, 0, 0, 0)
        self.data[424] |= self._INCOMPLETE

    def write(self, address: int, content: bytes) -> None:
        """Puts `content`, inside one page, at a physical address: the page goes to the end, as it is."""
        at = self._descriptors + 24 * self._pages.index(address // self._block)
        offset, size, compressed, flags = struct.unpack_from("<qIIQ", self.data, at)
        stored = self.data[offset : offset + size]
        page = bytearray(zlib.decompress(stored)) if compressed else stored
        begin = address % self._block
        page[begin : begin + len(content)] = content
        assert len(page) == self._block
        struct.pack_into("<qIIQ", self.data, at, len(self.data), self._block, 0, flags)
        self.data += page


@pytest.fixture
def dump(podman_rootful: EngineUnderTest, dumps) -> Iterator[Path]:
    copy = dumps.copy_for(podman_rootful, dumps())
    yield copy
    podman_rootful.run("close", str(copy))


def _asked(engine: EngineUnderTest, dump: Path, *commands: str) -> subprocess.CompletedProcess[bytes]:
    return engine.run("run", str(dump), "--", *" -- ".join(commands).split(" "))


def _physical(engine: EngineUnderTest, dump: Path, address: str) -> int:
    """Where crash says that a kernel address lies, of the dump while it is whole."""
    said = _asked(engine, dump, f"vtop {address}").stdout.decode()
    found = re.search(r"^VIRTUAL\s+PHYSICAL\s*\n\S+\s+([0-9a-f]+)", said, re.MULTILINE)
    assert found is not None, said
    return int(found[1], 16)


def test_a_dump_without_its_last_pages(podman_rootful: EngineUnderTest, dump: Path) -> None:
    kdump = Kdump(dump)
    kdump.lose(0.03)
    dump.write_bytes(kdump.data)
    done = podman_rootful.run("run", str(dump), "--", "bt")
    assert b"sysrq_handle_crash" in done.stdout
    assert b"page incomplete" in done.stderr
    assert b"trying --zero_excluded" in done.stderr
    assert b"opened with --zero_excluded: pages that are missing read as zeros" in done.stderr
    # It is not tried again, and not said again.
    podman_rootful.run("run", str(dump), "--", "!kill -KILL $PPID; sleep 5")
    again = podman_rootful.run("run", str(dump), "--", "sys")
    assert b"[INCOMPLETE]" in again.stdout
    assert b"trying" not in again.stderr


def test_a_dump_whose_list_of_modules_is_nonsense(podman_rootful: EngineUnderTest, dump: Path) -> None:
    """A module that claims two billion symbols, for which crash has no memory."""
    (first, *_) = _asked(podman_rootful, dump, "list modules -H").stdout.decode().split()
    said = _asked(podman_rootful, dump, "struct module.list -o", "struct module.num_syms -o").stdout.decode()
    offsets = {name: int(at) for at, name in re.findall(r"\[(\d+)\] .*?(\w+);", said)}
    module = int(first, 16) - offsets["list"]
    place = _physical(podman_rootful, dump, f"{module + offsets['num_syms']:x}")
    podman_rootful.run("close", str(dump))
    kdump = Kdump(dump)
    kdump.write(place, struct.pack("<I", 0x7FFFFFFF))
    dump.write_bytes(kdump.data)
    # drgn reads no symbols of modules before they are needed.
    done = _asked(podman_rootful, dump, "bt", "mod")
    assert b"sysrq_handle_crash" in done.stdout
    assert b"virtio_ring" in done.stdout
    assert re.search(rb"module syment space malloc.*; trying drgn", done.stderr)
    assert b"drgn answers: crash cannot open the dump: " in done.stderr
    done = podman_rootful.run("run", str(dump), "--with", "crash", "--", "bt", "--", "mod")
    assert b"sysrq_handle_crash" in done.stdout
    assert b"cannot access vmalloc'd module memory" in done.stdout
    assert re.search(rb"module syment space malloc.*; trying --no_modules", done.stderr)
    assert b"opened with --no_modules: modules are not known" in done.stderr


def test_a_dump_that_is_only_good_for_its_memory(podman_rootful: EngineUnderTest, dump: Path) -> None:
    """The offsets of the CPUs' own data are overwritten: nothing of tasks can be read."""
    said = _asked(podman_rootful, dump, "sym __per_cpu_offset").stdout.decode()
    place = _physical(podman_rootful, dump, said.split()[0])
    podman_rootful.run("close", str(dump))
    kdump = Kdump(dump)
    kdump.write(place, b"A" * 64)
    dump.write_bytes(kdump.data)
    done = _asked(podman_rootful, dump, "log | tail -1", "rd -a linux_banner", "bt")
    assert done.returncode == 1
    assert b"</TASK>" in done.stdout
    assert b"Linux version 6.1" in done.stdout
    assert b"bt: command not available in minimal mode" in done.stdout
    assert re.search(rb"invalid kernel virtual address: .*; trying --minimal", done.stderr)
    assert b"opened with --minimal: only log, dis, rd, sym, eval, set and exit work" in done.stderr


def test_an_elf_without_the_note_opens_at_the_first_start(podman_rootful: EngineUnderTest, dumps) -> None:
    """As VMware's vmss2core writes it: crash looks for the kernel where it was linked, unless it is told."""
    dump = dumps.copy_for(podman_rootful, dumps(form="elf"))
    with dump.open("r+b") as file:
        at = file.read(1 << 16).index(b"VMCOREINFO\0")
        file.seek(at)
        file.write(b"NOTHING")
    try:
        done = _asked(podman_rootful, dump, "bt", "mod")
        assert done.returncode == 0
        assert b"sysrq_handle_crash" in done.stdout
        assert b"virtio" in done.stdout
        assert b"trying" not in done.stderr
        assert (told := done.stdout.decode().splitlines())
        code = "print(prog.crashed_thread().object.comm.string_().decode(), prog['init_uts_ns'].name.release.string_())"
        done = podman_rootful.run("run", str(dump), "--tool", "drgn", "-e", code)
        assert done.returncode == 0, done.stderr
        assert f'COMMAND: "{done.stdout.split()[0].decode()}"' in told[0]
        assert b"6.1." in done.stdout
        podman_rootful.run("close", str(dump))
        done = podman_rootful.run("run", str(dump), "--no-debuginfo", "--", "bt", "--", "mod")
        assert done.returncode == 0, done.stderr
        assert b"sysrq_handle_crash" in done.stdout
        assert b"virtio" in done.stdout
    finally:
        podman_rootful.run("close", str(dump))


def test_a_dump_that_only_a_newer_crash_knows(podman_rootful: EngineUnderTest, dumps, tmp_path: Path) -> None:
    """A site's own profile that thinks too much of its crash: 7.2.9, whose gdb does not know what 6.12 is made of."""
    dump = dumps.copy_for(podman_rootful, dumps("6.12"))
    old = image.ensure(profiles.by_name("debian-11"), podman_rootful.engine)
    profile = (paths.data_dir() / "images" / "debian-13.toml").read_text()
    for ours, theirs in (
        (r"(?m)^images = .*$", f'images = ["{old}"]'),
        (r"(?m)^suite = .*$", 'suite = "of-ones-own"'),
        (r"(?m)^fragments = .*$", 'fragments = ["base", "session"]'),
        (r"(?m)^version = \"8.*$", 'version = "7.2.9"'),
    ):
        profile, found = re.subn(ours, theirs, profile)
        assert found == 1
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "debian-13.toml").write_text(profile)
    env = {**podman_rootful.env, "VMBOX_CONFIG_DIR": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*podman_rootful.vmbox, *words], env=env, capture_output=True, check=False)

    try:
        done = run("run", str(dump), "--", "bt")
        assert b"sysrq_handle_crash" in done.stdout, done.stderr
        assert b"trying drgn" in done.stderr
        run("close", str(dump))
        done = run("run", str(dump), "--with", "crash", "--", "bt")
        assert b"sysrq_handle_crash" in done.stdout, done.stderr
        assert done.returncode == 0
        assert re.search(rb"crash of debian-13 cannot open the dump: .*; trying crash 9\S+ of latest", done.stderr)
        assert b"--minimal" not in done.stderr
        # It stays with the crash that opens it.
        again = run("run", str(dump), "--with", "crash", "--", "sys")
        assert b"trying" not in again.stderr
        for subject in (b"date", b"tasks"):
            assert b"vmbox: %b: AGREES WITH: " % subject in again.stderr, again.stderr
        # crash 9.0.2 says minutes of this kernel, which ran for some seconds by its log.
        assert b"vmbox: uptime: DISAGREES WITH: the log's last time stamp" in again.stderr
        assert b"RELEASE: 6.12" in again.stdout
    finally:
        run("close", str(dump))
