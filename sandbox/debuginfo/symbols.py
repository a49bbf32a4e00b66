"""Symbols of a vmlinux or a module's debug file, with the sizes that the kernel prints after them.

The kernel prints `symbol+0xoffset/0xsize`. Its size is the distance to the next symbol of kallsyms, and not that of
the symbol table (kernel/kallsyms.c:get_symbol_pos, kernel/module/kallsyms.c:find_kallsyms_symbol). That it agrees shows
that a file is of the build that printed it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.formats import elf
from sandbox.formats.streams import pread

_SHT_SYMTAB: Final = 2
_LARGEST: Final = 256 << 20
"""Bytes of a table; vmlinux has some 10 MB of symbols."""
_ET_REL: Final = 1
_SHN_LORESERVE: Final = 0xFF00
_TYPES: Final = frozenset({0, 1, 2, 10})
"""STT_NOTYPE, OBJECT, FUNC, GNU_IFUNC."""

_NEAR: Final = 64
"""Symbols behind one, of which some may not be in kallsyms."""

_IGNORED: Final = (
    "$", ".L", "L0", "__AArch64ADRPThunk_", "__ARMV5PILongThunk_", "__ARMV7PILongThunk_", "__ThumbV7PILongThunk_",
    "__LA25Thunk_", "__microLA25Thunk_", "__crc_", "__kstrtab_", "__kstrtabns_", "__kcfi_typeid_", "__efistub_",
    "__kvm_nvhe_", "__pi_",
)  # fmt: skip
"""Beginnings of names that are not in kallsyms (scripts/mksysmap)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """One place of a symbol; static functions of several files may share a name."""

    section: str | None
    """Of a module, whose addresses are relative to it; None in vmlinux."""
    value: int
    """Address, or offset in the section."""
    sizes: frozenset[int]
    """Sizes that the kernel may print after it."""
    last: bool
    """Whether it is the last of its section: the distance to the next one depends on where a module is loaded."""

    def agrees(self, offset: int, size: int) -> bool:
        """Whether the kernel may have printed this symbol with that offset and size."""
        # What a call that never returns would return to may be behind the function's end.
        if offset > size:
            return False
        # What is behind the last symbol of a section is filled up to the alignment of the next section.
        return size in self.sizes or (self.last and any(0 <= size - one < 4096 for one in self.sizes))


class SymbolTable:
    """The symbol table of one file. Raises `elf.NotElf` for a file without one, or OSError."""

    def __init__(self, path: Path) -> None:
        read = elf.read(path)
        layout = read.layout
        self._relocatable = read.type == _ET_REL
        self._sections = read.sections
        self._entry = struct.Struct(layout.order + ("IBBHQQ" if layout.wide else "IIIBBH"))
        self._wide = layout.wide
        at = next((at for at, section in enumerate(read.sections) if section.type == _SHT_SYMTAB), None)
        if at is None:
            raise elf.NotElf(f"{path} has no symbol table")
        table = read.sections[at]
        link = int.from_bytes(self._link(read, at), layout.byteorder)
        if not 0 < link < len(read.sections):
            raise elf.NotElf(f"{path}: its symbol table is damaged")
        names = read.sections[link]
        with path.open("rb", buffering=0) as file:
            self._symbols = pread(file.fileno(), table.offset, min(table.size, _LARGEST))
            self._names = b"\0" + pread(file.fileno(), names.offset, min(names.size, _LARGEST))

    @staticmethod
    def _link(read: elf.Elf, at: int) -> bytes:
        entry, link = (64, 40) if read.layout.wide else (40, 24)
        return read.section_table[at * entry + link : at * entry + link + 4]

    @property
    def sections(self) -> tuple[elf.Section, ...]:
        return self._sections

    def find(self, wanted: Collection[str]) -> Mapping[str, tuple[Symbol, ...]]:
        """The places of each of the names; one that is missing is not in the result."""
        offsets = {offset: name for name in wanted for offset in self._offsets(name)}
        rows = self._rows()
        # By section, and of vmlinux together: addresses, also those of names that are not in kallsyms.
        ordered: dict[int, list[int]] = {}
        if self._relocatable:
            for _, index, value, _ in rows:
                ordered.setdefault(index, []).append(value)
        else:
            ordered[0] = [row[2] for row in rows]
        for addresses in ordered.values():
            addresses.sort()
        places = [row for row in rows if row[0] in offsets]
        following: dict[tuple[int, int], list[int]] = {}
        for _, index, value, _ in places:
            group = index if self._relocatable else 0
            at = bisect_right(ordered[group], value)
            following[group, value] = list(dict.fromkeys(ordered[group][at : at + _NEAR]))
        near = {address for addresses in following.values() for address in addresses}
        ends = {
            (index if self._relocatable else 0, value)
            for name, index, value, _ in rows
            if value in near and not self._name(name).startswith(_IGNORED)
        }
        found: dict[str, list[Symbol]] = {}
        for name, index, value, own in places:
            group = index if self._relocatable else 0
            sizes = {own} if own else set()
            # What is not in kallsyms differs by version and configuration: all distances up to a sure one are possible.
            for address in following[group, value]:
                sizes.add(address - value)
                if (group, address) in ends:
                    break
            found.setdefault(offsets[name], []).append(
                Symbol(
                    section=self._sections[index].name if self._relocatable and index < len(self._sections) else None,
                    value=value,
                    sizes=frozenset(sizes),
                    last=self._relocatable and not following[group, value],
                )
            )
        return {name: tuple(dict.fromkeys(symbols)) for name, symbols in found.items()}

    def _rows(self) -> list[tuple[int, int, int, int]]:
        """(offset of the name, section, value, size) of each symbol that has a place."""
        usable = len(self._symbols) - len(self._symbols) % self._entry.size
        fields = self._entry.iter_unpack(self._symbols[:usable])
        if self._wide:
            return [
                (name, index, value, size)
                for name, info, _, index, value, size in fields
                if 0 < index < _SHN_LORESERVE and info & 15 in _TYPES
            ]
        return [
            (name, index, value, size)
            for name, value, size, info, _, index in fields
            if 0 < index < _SHN_LORESERVE and info & 15 in _TYPES
        ]

    def _offsets(self, name: str) -> set[int]:
        """Where the name is in the table of names; linkers let one name be the end of another."""
        text = name.encode("utf-8", "replace") + b"\0"
        found: set[int] = set()
        at = self._names.find(text)
        while at >= 0 and len(found) < 1024:
            found.add(at - 1)
            at = self._names.find(text, at + 1)
        return found

    def _name(self, offset: int) -> str:
        return self._names[offset + 1 : offset + 128].partition(b"\0")[0].decode("utf-8", "replace")
