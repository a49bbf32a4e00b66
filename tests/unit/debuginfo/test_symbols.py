"""Sizes of symbols as the kernel prints them, from symbol tables that are written here."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from sandbox.debuginfo.symbols import SymbolTable
from sandbox.formats.elf import NotElf

FUNC, SECTION = 2, 3
Entry = tuple[str, int, int, int, int]
"""Name, type, section, value, size."""


def write(path: Path, symbols: list[Entry], *, kind: int = 2, order: str = "<") -> Path:
    """An ELF file of 64 bits with .text (1) and .init.text (2), and a table of names in which ends are shared."""
    names = b"\0"
    places = {}
    for name in sorted({one[0] for one in symbols}, key=len, reverse=True):
        text = name.encode() + b"\0"
        if text not in names:
            names += text
        places[name] = names.index(text)
    table = bytes(24) + b"".join(
        struct.pack(order + "IBBHQQ", places[name], type_, 0, section, value, size)
        for name, type_, section, value, size in symbols
    )
    titles = b"\0.text\0.init.text\0.symtab\0.strtab\0.shstrtab\0"
    body = names + titles + table
    at = {"names": 64, "titles": 64 + len(names), "table": 64 + len(names) + len(titles)}

    def header(title: bytes, type_: int, offset: int, size: int, link: int = 0) -> bytes:
        return struct.pack(order + "IIQQQQIIQQ", titles.index(title), type_, 6, 0, offset, size, link, 0, 8, 0)

    sections = bytes(64)
    sections += header(b".text\0", 8, 0, 0x1000) + header(b".init.text\0", 8, 0, 0x1000)
    sections += header(b".symtab\0", 2, at["table"], len(table), 4) + header(b".strtab\0", 3, 64, len(names))
    sections += header(b".shstrtab\0", 3, at["titles"], len(titles))
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    head = ident + struct.pack(order + "HHIQQQIHHHHHH", kind, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 6, 5)
    path.write_bytes(head + body + sections)
    return path


KERNEL: list[Entry] = [
    ("startup", FUNC, 1, 0x1000, 0x30),
    ("__pfx_vfs_write", FUNC, 1, 0x1040, 0x10),
    ("vfs_write", FUNC, 1, 0x1050, 0x22),
    ("alias_of_vfs_write", FUNC, 1, 0x1050, 0x22),
    ("$x", 0, 1, 0x1060, 0),
    (".Lpart", 0, 1, 0x1064, 0),
    ("write", FUNC, 1, 0x1080, 0),
    ("probe", FUNC, 1, 0x10C0, 0x10),
    ("probe", FUNC, 1, 0x1100, 0x80),
    ("a file.c", 4, 0xFFF1, 0, 0),
    ("end", 0, 1, 0x1200, 0),
]


@pytest.mark.parametrize("order", ["<", ">"])
def test_sizes_are_distances_to_the_next_symbol_of_kallsyms(tmp_path: Path, order: str) -> None:
    found = SymbolTable(write(tmp_path / "vmlinux", KERNEL, order=order)).find(
        ["startup", "vfs_write", "write", "probe", "a file.c", "absent", "end"]
    )
    assert set(found) == {"startup", "vfs_write", "write", "probe", "end"}
    (startup,) = found["startup"]
    assert (startup.value, startup.section) == (0x1000, None)
    assert startup.agrees(0x10, 0x40)  # up to the padding of the next function
    assert startup.agrees(0x30, 0x30)  # a call at its end that never returns
    assert not startup.agrees(0x41, 0x40)
    assert not startup.agrees(0x10, 0x50)
    (vfs_write,) = found["vfs_write"]
    assert vfs_write.agrees(1, 0x30)  # neither the alias nor the ignored names in between end it
    assert not vfs_write.agrees(1, 0x34)
    assert found["write"][0].agrees(0, 0x40)
    assert [one.value for one in found["probe"]] == [0x10C0, 0x1100]
    assert [one.agrees(0x12, 0x40) for one in found["probe"]] == [True, False]
    assert not found["end"][0].agrees(0, 0x10)


def test_symbols_of_modules_are_of_their_sections(tmp_path: Path) -> None:
    symbols: list[Entry] = [
        ("first", FUNC, 1, 0, 0x20),
        ("last", FUNC, 1, 0x20, 0x33),
        ("init_module", FUNC, 2, 0, 0x44),
    ]
    found = SymbolTable(write(tmp_path / "ext4.ko.debug", symbols, kind=1)).find(["first", "last", "init_module"])
    (first,), (last,), (init,) = found["first"], found["last"], found["init_module"]
    assert (first.section, last.section, init.section) == (".text", ".text", ".init.text")
    assert first.agrees(1, 0x20)
    assert not first.agrees(1, 0x30)
    # Where the next section begins is known only where the module was loaded.
    assert last.agrees(0, 0x40)
    assert not last.agrees(0, 0x30)
    assert not last.agrees(0, 0x2000)


@pytest.mark.slow
def test_files_without_symbols_or_with_damaged_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "vmlinux", KERNEL)
    whole = path.read_bytes()
    path.write_bytes(b"\x7fELF" + bytes(80))
    with pytest.raises(NotElf):
        SymbolTable(path)
    random.seed(3)
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(random.randrange(1, 6)):
            broken[random.randrange(16, len(broken))] = random.randrange(256)
        path.write_bytes(broken[: random.randrange(64, len(broken) + 1)])
        try:
            SymbolTable(path).find(["vfs_write", "probe"])
        except NotElf:
            continue
