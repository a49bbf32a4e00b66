from __future__ import annotations

import struct
from pathlib import Path

import pytest

import archives
from debuginfo_bench import Bench
from sandbox.debuginfo import gdb_index, strip_relocs
from sandbox.debuginfo.proof import banners
from sandbox.errors import EngineFailed
from sandbox.formats import elf


def index(version: int = 8) -> bytes:
    return struct.pack("<6I", version, 24, 24, 24, 24, 24) + bytes(1000)


def gdb_index_builder(vmlinux: Path, directory: Path) -> None:
    assert elf.read(vmlinux).has_dwarf
    (directory / "vmlinux.gdb-index").write_bytes(index())


@pytest.mark.parametrize("way", ["fetched", "given", "given package"])
def test_an_index_is_added_once(bench: Bench, tmp_path: Path, way: str) -> None:
    given = None
    if way == "given":
        given = tmp_path / "vmlinux"
        given.write_bytes(archives.vmlinux())
    elif way == "given package":
        given = tmp_path / "x.deb"
        given.write_bytes(bench.package)
    found = bench.locate(gdb_index_builder=gdb_index_builder, given=given)
    data = found.vmlinux.read_bytes()
    read = elf.read(found.vmlinux)
    section = read.section(".gdb_index")
    assert section is not None
    assert data[section.offset : section.offset + section.size] == index()
    assert read.build_id == archives.BUILD_ID
    assert [it.name for it in read.sections][:-1] == [it.name for it in elf.parse(archives_reader()).sections]
    assert sorted(path.name for path in found.directory.iterdir()) == ["about.json", "vmlinux"]
    assert bench.locate(gdb_index_builder=None).vmlinux == found.vmlinux


def archives_reader() -> elf.ReadAt:
    data = archives.vmlinux()
    return lambda offset, size: data[offset : offset + size]


def test_it_works_without_an_index(bench: Bench) -> None:
    def fails(vmlinux: Path, directory: Path) -> None:
        raise EngineFailed("no gdb")

    assert bench.locate(gdb_index_builder=fails).vmlinux.read_bytes() == archives.vmlinux()
    assert bench.heard.notices[-1] == "vmlinux could not be indexed, so crash starts slower: no gdb"


def test_an_index_of_another_version_is_not_used(bench: Bench) -> None:
    def newer(vmlinux: Path, directory: Path) -> None:
        (directory / "vmlinux.gdb-index").write_bytes(index(9))

    assert bench.locate(gdb_index_builder=newer).vmlinux.read_bytes() == archives.vmlinux()


def test_an_index_is_not_made_twice(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "vmlinux").write_bytes(archives.vmlinux())
    assert gdb_index.add_gdb_index(tmp_path, gdb_index_builder, bench.heard)
    assert gdb_index.add_gdb_index(tmp_path, lambda *_: pytest.fail("again"), bench.heard)


@pytest.mark.parametrize("relocations", [b"", b"r" * 4800])
def test_slim(tmp_path: Path, relocations: bytes) -> None:
    whole, small = tmp_path / "whole", tmp_path / "small"
    whole.write_bytes(archives.vmlinux(relocations=relocations))
    file = strip_relocs.LocalFile(whole)
    strip_relocs.copy(file, small, strip_relocs.plan(file))
    assert len(small.read_bytes()) < len(archives.vmlinux()) + 100
    before, after = elf.read(whole), elf.read(small)
    assert before.build_id == after.build_id
    for section in before.sections:
        kept = after.section(section.name)
        if section.name.startswith(".rela"):
            assert kept is None
        elif section.name:
            assert kept is not None
            assert (
                small.read_bytes()[kept.offset :][: kept.size] == whole.read_bytes()[section.offset :][: section.size]
            )


def test_modules_keep_their_relocations(tmp_path: Path) -> None:
    module = bytearray(archives.vmlinux(relocations=b"r" * 480))
    module[16] = 1  # ET_REL
    (tmp_path / "x.ko").write_bytes(module)
    assert strip_relocs.plan(strip_relocs.LocalFile(tmp_path / "x.ko")) is None


@pytest.mark.slow
def test_damaged_elf(tmp_path: Path) -> None:
    """Any cut, and any byte of the header and the section table overwritten: an answer or NotElf, no other error."""
    data = archives.vmlinux(relocations=b"r" * 480)
    path = tmp_path / "x"
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        try_to_read(path)
    table = len(data) - 64 * 7
    for at in (*range(64), *range(table, len(data), 5)):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            try_to_read(path)


def try_to_read(path: Path) -> None:
    try:
        read = elf.read(path)
        banners(path, read)
        strip_relocs.plan(strip_relocs.LocalFile(path))
    except elf.NotElf:
        pass
