"""ELF vmcores: /proc/vmcore as it is, makedumpfile -E, QEMU's and virsh's dumps; and ELF files that are no dumps.

Sources: elf(5), Linux fs/proc/vmcore.c, QEMU dump/dump.c, makedumpfile elf_info.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sandbox.dump.header import Header
from sandbox.errors import DumpDamaged, NotADump
from sandbox.formats import notes
from sandbox.formats.notes import ByteOrder
from sandbox.formats.streams import Source

MAGIC: Final = b"\x7fELF"

_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_PN_XNUM: Final = 0xFFFF
_INCOMPLETE: Final = 0x1
"""DUMP_ELF_INCOMPLETE in e_flags, set by makedumpfile -E."""

_MOST_SEGMENTS: Final = 100_000
_NOTES_LIMIT: Final = 16 << 20
_MOST_NOTE_SEGMENTS: Final = 4
_NO_OFFSET: Final = 1 << 63
"""QEMU writes -1 as the offset of a segment that its filter left out."""

_MIPS: Final = 8
_MACHINES: Final = {
    (3, "little"): "i686",
    (62, "little"): "x86_64",
    (40, "little"): "armv7l",
    (40, "big"): "armv7b",
    (183, "little"): "aarch64",
    (183, "big"): "aarch64_be",
    (20, "big"): "ppc",
    (21, "big"): "ppc64",
    (21, "little"): "ppc64le",
    (22, "big"): "s390x",
    (243, "little"): "riscv64",
    (258, "little"): "loongarch64",
    (_MIPS, "little"): "mips64",
    (_MIPS, "big"): "mips64",
    (50, "little"): "ia64",
    (43, "big"): "sparc64",
}

_X86_64_KERNEL: Final = 0xFFFFFFFF80000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One PT_LOAD: `filesz` bytes at `offset` of the file are physical memory from `paddr` on."""

    paddr: int
    vaddr: int
    offset: int
    filesz: int
    memsz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the memory lies in the file."""

    segments: tuple[Segment, ...]
    need: int
    """Size the file must have to hold all segments and notes."""


def parse(source: Source, name: str) -> tuple[Header, Layout]:
    """Header and segments of an ELF core. Raises `NotADump` for ELF files that are something else."""
    head = source.read_at(0, 64)
    if len(head) < 52 or head[4] not in {1, 2} or head[5] not in {1, 2}:
        raise DumpDamaged(f"{name}: the ELF header is cut off or damaged")
    bits = 64 if head[4] == 2 else 32
    order: ByteOrder = "little" if head[5] == 1 else "big"
    code = "<" if order == "little" else ">"
    kind, machine = struct.unpack_from(code + "HH", head, 16)
    _refuse_other_kinds(name, kind)
    if bits == 64 and len(head) < 64:
        raise DumpDamaged(f"{name}: cut off in the ELF header")
    phoff, shoff, flags, _, phentsize, phnum = struct.unpack_from(
        code + ("QQIHHH" if bits == 64 else "IIIHHH"), head, 32 if bits == 64 else 28
    )
    if phnum == _PN_XNUM:
        # The real count is sh_info of the first section header.
        section = source.read_at(shoff, 64)
        at = 44 if bits == 64 else 28
        phnum = int.from_bytes(section[at : at + 4], order)
    wanted = min(phnum, _MOST_SEGMENTS)
    entry = 56 if bits == 64 else 32
    if phentsize != entry:
        raise DumpDamaged(f"{name}: the ELF header gives program headers of {phentsize} bytes")
    table = source.read_at(phoff, wanted * entry)
    if wanted and len(table) < entry:
        raise DumpDamaged(f"{name}: cut off before the ELF program headers")

    header = Header(
        format="elf",
        order=order,
        bits=bits,
        arch="mips" if machine == _MIPS and bits == 32 else _MACHINES.get((machine, order)),
        compression="none",
        flag="makedumpfile marked it as incomplete: the target ran out of space" if flags & _INCOMPLETE else None,
    )
    loads: list[Segment] = []
    need = phoff + phnum * entry
    sections: list[tuple[int, int]] = []
    for fields in struct.iter_unpack(
        code + ("IIQQQQQQ" if bits == 64 else "IIIIIIII"), table[: len(table) - len(table) % entry]
    ):
        if bits == 64:
            segment, _, offset, vaddr, paddr, filesz, memsz, _ = fields
        else:
            segment, offset, vaddr, paddr, filesz, memsz, _, _ = fields
        if segment not in {_PT_LOAD, _PT_NOTE} or offset >= _NO_OFFSET:
            continue
        if filesz:
            need = max(need, offset + filesz)
        if segment == _PT_LOAD:
            loads.append(Segment(paddr=paddr, vaddr=vaddr, offset=offset, filesz=filesz, memsz=memsz))
        elif len(sections) < _MOST_NOTE_SEGMENTS:
            sections.append((offset, min(filesz, _NOTES_LIMIT // _MOST_NOTE_SEGMENTS)))
    # Behind the program headers is where writers put the notes, should those headers have been lost.
    _read_notes(source, header, sections or [(phoff + phnum * entry, 1 << 16)], name)
    if header.arch == "x86_64":
        header.phys_base = next(
            (one.paddr - (one.vaddr - _X86_64_KERNEL) for one in loads if one.vaddr >= _X86_64_KERNEL), None
        )
    loads.sort(key=lambda one: one.paddr)
    if header.arch in {"armv7l", "armv7b"} and loads:
        header.phys_base = loads[0].paddr
    return header, Layout(segments=tuple(loads), need=need)


def _read_notes(source: Source, header: Header, sections: list[tuple[int, int]], name: str) -> None:
    cpus, of_process = 0, False
    for offset, size in sections:
        for note in notes.iterate(source.read_at(offset, size), header.order):
            if note.name == "CORE" and note.type == notes.NT_PRSTATUS:
                cpus += 1
            elif note.name == "CORE" and note.type in {notes.NT_PRPSINFO, notes.NT_AUXV, notes.NT_FILE}:
                of_process = True
            elif note.name == "VMCOREINFO" and not header.vmcoreinfo:
                header.vmcoreinfo = note.desc[: 1 << 16]
    if of_process and not header.vmcoreinfo:
        raise NotADump(
            f"{name} is the core of a user-space process, not a kernel dump",
            hint=f"gdb reads it: gdb -c {name}",
        )
    header.nr_cpus = cpus or None


def _refuse_other_kinds(name: str, kind: int) -> None:
    match kind:
        case 4:
            return
        case 1:
            what, hint = "a kernel module or object file", "give the vmcore itself"
        case 2 | 3:
            what = "a kernel image or program (vmlinux?)"
            hint = f"give the dump, and this as its debuginfo: vmbox run --debuginfo {name} VMCORE -- bt"
        case _:
            what, hint = f"an ELF file of type {kind}", "give the vmcore itself"
    raise NotADump(f"{name} is {what}, not a crash dump", hint=hint)
