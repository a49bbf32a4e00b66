"""Rewrites the .gdb_index (version 8) of a vmlinux so that a lookup gives the same result as gdb without an index.

Without an index, gdb searches the compilation units for a name from the last to the first. The .gdb_index that gdb 13
writes lists the units of a name in rising order and omits most of them, so crash takes the first. Many units declare a
variable, and two drivers may have different types of one name: crash would print linux_banner without its length, and
show the struct of the wrong driver. The .debug_names that gdb 13 writes has all units, so the symbol table is made from
that. The units of a name are in falling order: all of them for variables and functions, the last one of each tag for
types. (All units of a type would be correct too, but slow: an index does not distinguish struct from typedef. To look
for a variable "page", gdb would read every unit with a struct page.)

Formats: "Index Section Format" in gdb's manual; DWARF 5, 6.1.1.4, with gdb's own attributes in its augmentation "GDB"
(dwarf2/index-write.c).
"""

from __future__ import annotations

import itertools
import re
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.formats import elf

_COMPILE_UNIT: Final = 1
_INTERNAL: Final = 0x2000
"""DW_IDX_GNU_internal: the name is not seen outside its unit."""
_EXTERNAL: Final = 0x2001
_UDATA: Final = 0x0F
_FLAG_PRESENT: Final = 0x19
_VARIABLE: Final = 0x34
_SUBPROGRAM: Final = 0x2E

_SHF_COMPRESSED: Final = 0x800
_TYPES: Final = 1
_KINDS: Final = {_VARIABLE: 2, _SUBPROGRAM: 3}
"""Symbol kinds of .gdb_index by DWARF tag; all others are types."""

_ENTRY: Final = re.compile(rb"[\x01-\x7f][\x80-\xff]{0,3}[\x00-\x7f]")
"""An entry of the pool: abbreviation code, unit."""


class Unexpected(ValueError):
    """gdb wrote something that this module cannot read."""


def rewritten(gdb_index: Path, names: Path, strings: Path, vmlinux: Path) -> bytes:
    """The contents of .gdb_index, made from gdb's files `vmlinux.gdb-index`, `.debug_names` and `.debug_str`.

    Raises `Unexpected`.
    """
    try:
        return _rewritten(gdb_index, names, strings, vmlinux)
    except Unexpected:
        raise
    except (struct.error, LookupError, OverflowError, ValueError, OSError) as error:
        raise Unexpected(f"it is not what gdb writes: {error!r}") from None


def _rewritten(gdb_index: Path, names: Path, strings: Path, vmlinux: Path) -> bytes:
    with gdb_index.open("rb") as file:
        header = struct.unpack("<6I", file.read(24))
        areas = file.read(max(header[4] - 24, 0))
    if len(areas) != header[4] - 24:
        raise Unexpected("it ends too early")
    found = _Names(names.read_bytes(), elf.read(vmlinux).layout.order, _strings(vmlinux) + strings.read_bytes())
    # Units, type units and addresses stay; only the symbols after them are made again.
    if [offset for offset, _ in struct.iter_unpack("<2Q", areas[: header[2] - header[1]])] != found.units:
        raise Unexpected("its units are in another order")
    if header[2] != header[3]:
        raise Unexpected("it has type units")
    table, pool = _symbols(found)
    symbols_at = 24 + len(areas)
    head = struct.pack("<6I", 8, *header[1:4], symbols_at, symbols_at + len(table))
    return head + areas + table + pool


def _strings(vmlinux: Path) -> bytes:
    section = elf.read(vmlinux).section(".debug_str")
    if section is None or section.flags & _SHF_COMPRESSED:
        raise Unexpected("its strings are compressed")
    with vmlinux.open("rb") as file:
        file.seek(section.offset)
        return file.read(min(section.size, vmlinux.stat().st_size))


class _Names:
    """A .debug_names: (name, units) for each name, the units as .gdb_index has them, from the last to the first."""

    def __init__(self, data: bytes, order: str, strings: bytes) -> None:
        (length,) = struct.unpack_from(order + "I", data)
        wide = length == 0xFFFFFFFF
        offset = "Q" if wide else "I"
        at = 12 if wide else 4
        version, _, units, types, foreign, buckets, names, abbreviations, augmentation = struct.unpack_from(
            order + "2H7I", data, at
        )
        at += 32
        if version != 5 or types or foreign or not data.startswith(b"GDB", at):
            raise Unexpected("its names are in another format")
        at += augmentation + -augmentation % 4
        width = struct.calcsize(order + offset)

        def offsets(count: int) -> list[int]:
            nonlocal at
            found = struct.unpack_from(f"{order}{count}{offset}", data, at)
            at += count * width
            return list(found)

        self.units = offsets(units)
        # There are hashes only if there are buckets.
        at += 4 * buckets + (4 * names if buckets else 0)
        self._names = offsets(names)
        self._entries = offsets(names)
        self._attributes, self._tags = _abbreviations(data[at : at + abbreviations])
        self._pool = data[at + abbreviations :]
        self._strings = strings
        self._known: dict[bytes, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        ends = sorted({*self._entries, len(self._pool)})
        following = dict(itertools.pairwise(ends))
        # Many names are declared in one header, and so in the same units.
        lists: dict[bytes, tuple[int, ...]] = {}
        for name, entry in zip(self._names, self._entries, strict=True):
            # A series ends with a zero; the next one begins after it.
            series = self._pool[entry : following[entry] - 1]
            units = lists.get(series)
            if units is None:
                units = lists[series] = self._units(series)
            yield self._strings[name : self._strings.index(b"\0", name)], units

    def _units(self, series: bytes) -> tuple[int, ...]:
        known = self._known
        raw = _ENTRY.findall(series)
        if sum(map(len, raw)) != len(series):
            raise Unexpected("its entries are of another form")
        found = {known.get(one) or self._decoded(one) for one in raw}
        units: list[int] = []
        seen: set[int] = set()
        for _, code, word in sorted(found, reverse=True):
            if self._tags[code] not in _KINDS:
                if code in seen:
                    continue
                seen.add(code)
            units.append(word)
        # A typedef and a struct of one name in one unit give the same word.
        return tuple(dict.fromkeys(units))

    def _decoded(self, raw: bytes) -> tuple[int, int, int]:
        """(unit, abbreviation code, word of .gdb_index) of an entry."""
        code, unit = raw[0], _leb128(raw, 1)[0]
        if unit >= len(self.units):
            raise Unexpected("its entries are of another form")
        word = unit | _KINDS.get(self._tags[code], _TYPES) << 28 | (self._attributes[code] == _INTERNAL) << 31
        return self._known.setdefault(raw, (unit, code, word))


def _abbreviations(data: bytes) -> tuple[dict[int, int], dict[int, int]]:
    """(attribute for internal or external, tag), each by code. Raises `Unexpected` for other attributes."""
    attributes: dict[int, int] = {}
    tags: dict[int, int] = {}
    at = 0
    while True:
        code, at = _leb128(data, at)
        if not code:
            return attributes, tags
        tags[code], at = _leb128(data, at)
        found: list[tuple[int, int]] = []
        while not found or found[-1] != (0, 0):
            attribute, at = _leb128(data, at)
            form, at = _leb128(data, at)
            found.append((attribute, form))
        if code > 0x7F or found[0] != (_COMPILE_UNIT, _UDATA) or len(found) != 3 or found[1][1] != _FLAG_PRESENT:
            raise Unexpected("its entries are of another form")
        attributes[code] = found[1][0]
        if attributes[code] not in {_INTERNAL, _EXTERNAL}:
            raise Unexpected("its entries are of another form")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """(value, where the next one begins)"""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _symbols(names: _Names) -> tuple[bytes, bytes]:
    """(hash table, constant pool): the pool has first the lists of units, which are aligned, then the names."""
    units_at: dict[tuple[int, ...], int] = {}
    lists = bytearray()
    symbols: list[tuple[bytes, int]] = []
    for name, units in names:
        at = units_at.get(units)
        if at is None:
            at = units_at[units] = len(lists)
            lists += struct.pack(f"<{len(units) + 1}I", len(units), *units)
        symbols.append((name, at))
    size = 1024
    while 4 * len(symbols) >= 3 * size:
        size *= 2
    mask = size - 1
    table = array("I", bytes(8 * size))
    strings = bytearray()
    for name, at in symbols:
        hashed = _hash(name)
        slot = hashed & mask
        step = ((hashed * 17) & mask) | 1
        # 0 means a free slot: no name is at place 0 of the pool, because the lists are before the names.
        while table[2 * slot]:
            slot = (slot + step) & mask
        table[2 * slot] = len(lists) + len(strings)
        table[2 * slot + 1] = at
        strings += name + b"\0"
    if struct.pack("=I", 1) != struct.pack("<I", 1):
        table.byteswap()
    return table.tobytes(), bytes(lists + strings)


def _hash(name: bytes) -> int:
    found = 0
    for byte in name.lower():
        found = (found * 67 + byte - 113) & 0xFFFFFFFF
    return found
