"""Joins two files into one vmlinux: the kernel without debug information, and the debug information without the kernel.

SUSE ships the two; crash needs one file. `eu-unstrip` does this for any ELF file; for a linked kernel it is simple. The
.debug file's section table names all sections. Those that it lacks are in the other file and keep their places.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from sandbox.debuginfo import strip_relocs
from sandbox.formats import elf
from sandbox.formats.streams import CorruptData
from sandbox.host.disk import need_space

_SHT_NOBITS: Final = 8
_SHF_ALLOC: Final = 2
_LARGEST_NARROW: Final = 0xFFFFFFFF


def merge(kernel: Path, debug: Path, target: Path) -> None:
    """Writes `target`: all of `kernel`, and the sections of `debug`.

    Raises `CorruptData` if they are of different builds, or not written by a linker.
    """
    try:
        of_kernel, of_debug = elf.read(kernel), elf.read(debug)
    except elf.NotElf as error:
        raise CorruptData(f"kernel or debug information: {error}") from None
    if of_kernel.layout != of_debug.layout or not of_debug.sections:
        raise CorruptData("kernel and debug information are not of one kind")
    if of_kernel.build_id != of_debug.build_id:
        raise CorruptData(f"the kernel's build-id is {of_kernel.build_id}, its debug information's {of_debug.build_id}")
    wide, order = of_debug.layout.wide, of_debug.layout.order
    word = order + ("Q" if wide else "I")
    entry = len(of_debug.section_table) // len(of_debug.sections)
    offset_at = 24 if wide else 16
    table = bytearray(of_debug.section_table)
    whole, added = strip_relocs.LocalFile(kernel), strip_relocs.LocalFile(debug)
    need_space(target.parent, whole.size + added.size, "vmlinux")
    moved: list[tuple[int, int, int]] = []
    end = whole.size
    for number, section in enumerate(of_debug.sections):
        if section.type == 0:
            continue
        theirs = of_kernel.section(section.name) if section.flags & _SHF_ALLOC else None
        if section.flags & _SHF_ALLOC and theirs is not None:
            if theirs.size != section.size:
                raise CorruptData(f"section {section.name} has another size in the kernel")
            struct.pack_into(order + "I", table, number * entry + 4, theirs.type)
            struct.pack_into(word, table, number * entry + offset_at, theirs.offset)
        elif section.type != _SHT_NOBITS:
            if section.offset + section.size > added.size or section.align > strip_relocs.LARGEST_ALIGNMENT:
                raise CorruptData(f"section {section.name} lies outside of its file")
            end += -end % max(section.align, 1)
            struct.pack_into(word, table, number * entry + offset_at, end)
            moved.append((section.offset, section.size, end))
            end += section.size
    if sum(size for _, size, _ in moved) > added.size or (not wide and end + len(table) > _LARGEST_NARROW):
        raise CorruptData("its sections lie over each other")
    end += -end % 8
    strip_relocs.copy(whole, target, None)
    with target.open("r+b", buffering=0) as out:
        for offset, size, to in moved:
            strip_relocs.put_part(added, offset, size, out, to)
        out.seek(end)
        out.write(table)
        out.seek(40 if wide else 32)
        out.write(struct.pack(word, end))
        # e_shnum and e_shstrndx are the .debug file's.
        with debug.open("rb") as source:
            source.seek(60 if wide else 48)
            numbers = source.read(4)
        out.seek(60 if wide else 48)
        out.write(numbers)
