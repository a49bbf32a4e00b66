"""The index of vmlinux; what gdb 13 writes is laid out by hand here, and made by gdb itself in tests/e2e."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from debuginfo_bench import Bench
from sandbox.debuginfo import gdb_index
from sandbox.debuginfo.gdb_index_format import Unexpected, rewritten
from sandbox.formats import elf

VARIABLE, FUNCTION, STRUCT, TYPEDEF = 0x34, 0x2E, 0x13, 0x16
UNITS = [0, 0x100, 0x2345]
# Of each name: (tag, whether it is static, unit), in no order.
NAMES = {
    b"linux_banner": [(VARIABLE, False, 0), (VARIABLE, False, 2), (VARIABLE, False, 1)],
    b"mydev": [(STRUCT, True, 0), (TYPEDEF, True, 1), (STRUCT, True, 2), (FUNCTION, True, 0)],
    b"Schedule": [(FUNCTION, False, 1)],
}
EXPECTED = {
    b"linux_banner": [(2, 2, 0), (1, 2, 0), (0, 2, 0)],
    b"mydev": [(2, 1, 1), (1, 1, 1), (0, 3, 1)],
    b"Schedule": [(1, 3, 0)],
}


def written(
    directory: Path, *, version: int = 5, units: list[int] = UNITS, order: str = "<"
) -> tuple[Path, Path, Path, Path]:
    """(vmlinux.gdb-index, .debug_names, .debug_str, vmlinux) as gdb 13 leaves them.

    .gdb_index is little-endian for every machine, .debug_names has the machine's own `order`.
    """
    own = b"not a name of this file\0linux_banner\0"
    strings, at = b"mydev\0Schedule\0", {}
    abbreviations, codes = b"", {}
    for entry in (entry for entries in NAMES.values() for entry in entries):
        if entry[:2] not in codes:
            codes[entry[:2]] = len(codes) + 1
            how = b"\x80\x40" if entry[1] else b"\x81\x40"
            abbreviations += bytes([codes[entry[:2]], entry[0], 1, 0x0F]) + how + b"\x19\0\0"
    pool, entries_at = b"", []
    for name, entries in NAMES.items():
        at[name] = own.index(name) if name in own else len(own) + strings.index(name)
        entries_at.append(len(pool))
        for tag, static, unit in entries:
            # A number in two bytes where one would do is allowed.
            pool += bytes([codes[tag, static]]) + (bytes([unit | 0x80, 0]) if unit == 2 else bytes([unit]))
        pool += b"\0"
    abbreviations += b"\0"
    body = struct.pack(f"{order}2H7I", version, 0, len(units), 0, 0, 4, len(NAMES), len(abbreviations), 4) + b"GDB\0"
    body += struct.pack(f"{order}{len(units)}I", *units) + bytes(4 * 4 + 4 * len(NAMES))
    body += struct.pack(f"{order}6I", *at.values(), *entries_at) + abbreviations + pool
    files = [directory / f"vmlinux{kind}" for kind in (".gdb-index", ".debug_names", ".debug_str", "")]
    area = b"".join(struct.pack("<2Q", unit, 0x50) for unit in UNITS)
    addresses = struct.pack("<2QI", 0xFFFFFFFF81000000, 0xFFFFFFFF81001000, 1)
    ends = [24, 24 + len(area), 24 + len(area), 24 + len(area) + len(addresses)]
    files[0].write_bytes(struct.pack("<6I", 8, *ends, ends[3] + 64) + area + addresses + bytes(100))
    files[1].write_bytes(struct.pack(f"{order}I", len(body)) + body)
    files[2].write_bytes(strings)
    files[3].write_bytes(vmlinux(own, order))
    return files[0], files[1], files[2], files[3]


def vmlinux(strings: bytes, order: str) -> bytes:
    names = b"\0.debug_info\0.debug_str\0.shstrtab\0"
    sections = [(1, b"dwarf"), (13, strings), (24, names)]
    body, table = bytes(64), bytes(64)
    for name, data in sections:
        table += struct.pack(f"{order}2I4Q2I2Q", name, 1 if name < 24 else 3, 0, 0, len(body), len(data), 0, 0, 1, 0)
        body += data
    head = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    head += struct.pack(f"{order}HHI3QI6H", 2, 62, 1, 0, 0, len(body), 0, 64, 56, 0, 64, 4, 3)
    return head + body[64:] + table


def looked_up(index: bytes, name: bytes) -> list[tuple[int, int, int]] | None:
    """(unit, kind, static) of a name, found as gdb finds it."""
    _, _, _, _, symbols, pool = struct.unpack_from("<6I", index)
    size = (pool - symbols) // 8
    hashed = 0
    for letter in name.lower():
        hashed = (hashed * 67 + letter - 113) % 2**32
    slot, step = hashed % size, (hashed * 17 % size) | 1
    while True:
        name_at, units_at = struct.unpack_from("<2I", index, symbols + 8 * slot)
        if (name_at, units_at) == (0, 0):
            return None
        if index[pool + name_at :].startswith(name + b"\0"):
            (count,) = struct.unpack_from("<I", index, pool + units_at)
            found = struct.unpack_from(f"<{count}I", index, pool + units_at + 4)
            return [(word & 0xFFFFFF, word >> 28 & 7, word >> 31) for word in found]
        slot = (slot + step) % size


@pytest.mark.parametrize("order", ["<", ">"])
def test_units_are_all_there_and_the_last_is_first(tmp_path: Path, order: str) -> None:
    files = written(tmp_path, order=order)
    before = files[0].read_bytes()
    index = rewritten(*files)
    assert {name: looked_up(index, name) for name in NAMES} == EXPECTED
    assert looked_up(index, b"nosuch") is None
    # Units and addresses are what gdb wrote.
    at = struct.unpack_from("<6I", before)
    assert struct.unpack_from("<5I", index) == at[:5]
    assert index[24 : at[4]] == before[24 : at[4]]


@pytest.mark.parametrize(
    "changes", [{"version": 6}, {"units": [0, 0x100, 0x2346]}, {"units": [0, 0x100]}], ids=["DWARF 6", "units", "fewer"]
)
def test_another_gdb_is_not_guessed_at(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(Unexpected):
        rewritten(*written(tmp_path, **changes))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_what_is_cut_or_changed_is_refused_or_harmless(tmp_path: Path, number: int) -> None:
    files = written(tmp_path)
    whole = files[number].read_bytes()
    spoilt = [whole[:size] for size in range(0, len(whole), 11)]
    spoilt += [whole[:at] + b"\xff" + whole[at + 1 :] for at in range(0, len(whole), 5)]
    refused = 0
    for data in spoilt:
        files[number].write_bytes(data)
        try:
            rewritten(*files)
        except Unexpected:
            refused += 1
    assert refused


@pytest.mark.parametrize("order", ["<", ">"])
def test_prepare_leaves_nothing_behind_and_does_without(tmp_path: Path, bench: Bench, order: str) -> None:
    vmlinux = written(tmp_path, order=order)[3]
    assert gdb_index.add_gdb_index(tmp_path, lambda *_: None, bench.heard)
    section = elf.read(vmlinux).section(".gdb_index")
    assert section is not None
    assert list(tmp_path.iterdir()) == [vmlinux]
    data = vmlinux.read_bytes()[section.offset : section.offset + section.size]
    assert looked_up(data, b"linux_banner") == EXPECTED[b"linux_banner"]
    # What cannot be made better is used as it is.
    index = written(tmp_path, version=6, order=order)[0].read_bytes()
    assert gdb_index.add_gdb_index(tmp_path, lambda *_: None, bench.heard)
    assert vmlinux.read_bytes().find(index) > 0
    assert list(tmp_path.iterdir()) == [vmlinux]
