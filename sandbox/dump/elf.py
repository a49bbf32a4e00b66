"""ELF vmcores: /proc/vmcore as it is, makedumpfile -E, QEMU's and virsh's dumps; and ELF files that are no dumps.

Sources: elf(5), Linux fs/proc/vmcore.c, QEMU dump/dump.c, makedumpfile elf_info.c.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from sandbox.dump import kdump
from sandbox.dump.completeness import cut_off
from sandbox.dump.header import Header, PageMissingError
from sandbox.dump.kdump_writer import Beginning, RangeBitmaps, vmcoreinfo_note
from sandbox.dump.source import FileSource
from sandbox.dump.vmcoreinfo import number
from sandbox.errors import DumpDamaged, NotADump, pasteable
from sandbox.formats import elf, notes
from sandbox.formats.elf import Segment
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat, PageCompression, Vmcore

if TYPE_CHECKING:
    from sandbox.dump.header_only import ScanResult

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

_AS_KDUMP: Final = {"x86_64", "aarch64"}
"""Machines of which such a kdump file was opened: of x86_64 by crash and drgn, of aarch64 by drgn."""

_PID_AT: Final = {64: 32, 32: 24}
"""Offset of pr_pid in struct elf_prstatus (include/linux/elfcore.h), by the size of a word."""
_X86_64_KERNEL: Final = 0xFFFFFFFF80000000
_PAGE: Final = 4096
_SEARCH_SECONDS: Final = 0.8
"""Of a processor, which sees 2 to 6 GB then if they are in the page cache."""
_HIGHEST: Final = 8 << 40
"""Physical addresses up to which bitmaps are made: those of 8 TiB have 512 MB in an excerpt."""


class ElfFile:
    """Implements `DumpFile`."""

    part = None
    stores_text_as_is = True
    slow_to_measure = False

    def __init__(
        self,
        source: Source,
        header: Header,
        segments: Sequence[Segment],
        need: int,
        note_sections: Sequence[tuple[int, int]],
        *,
        crashed: bool,
    ) -> None:
        self.header = header
        self._segments = segments
        self._note_sections = note_sections
        self._source = source
        self._need = need
        """Size the file must have to hold all segments and notes."""
        self._crashed = crashed
        self._memory = ElfMemory(source, segments)

    def memory(self) -> ElfMemory:
        return self._memory

    def missing(self) -> str | None:
        size = self._source.size or 0
        return cut_off(size, self._need, "in the memory segments") if size < self._need else None

    def search(self, *, thorough: bool = False) -> ScanResult:
        from sandbox.dump import header_only

        given_up = None
        # A server would have to send all of it.
        if isinstance(self._source, FileSource):
            seconds = math.inf if thorough else _SEARCH_SECONDS
            found = header_only.vmcoreinfo_of_page(self._source, self._pages(), seconds, crashed=self._crashed)
            if found.vmcoreinfo:
                return found
            given_up = found.given_up
        scanned = header_only.scan_memory(self._source, only_without_vmcoreinfo=True, thorough=thorough)
        scanned.given_up = given_up or scanned.given_up
        return scanned

    def _pages(self) -> list[tuple[int, int]]:
        """The offsets (first, end) of the whole pages of each segment."""
        size = self._source.size or 0
        aligned = ((one.offset + -one.paddr % _PAGE, one.offset + one.filesz) for one in self._segments)
        return [(first, min(end, size)) for first, end in aligned if first < min(end, size)]

    def additions(self, _vmcore: Vmcore, _end: int, /) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def as_kdump(self, vmcore: Vmcore, /) -> Beginning | None:
        header, page = self.header, vmcore.page_size or _PAGE
        release, version = vmcore.release, vmcore.utsname_version
        if header.arch not in _AS_KDUMP or not release or not version:
            return None
        end = max((one.paddr + max(one.filesz, one.memsz) for one in self._segments), default=0)
        if not 0 < end <= _HIGHEST:
            return None
        frames = -(-end // page)
        blocks = -(-frames // (8 * page))
        text = header.vmcoreinfo or "".join(f"{key}={value}\n" for key, value in vmcore.vmcoreinfo.items()).encode()
        notes_here = b"".join(self._source.read_at(offset, size) for offset, size in self._note_sections)
        base = number(vmcore.vmcoreinfo, "phys_base")
        # A page of which an end belongs to no segment is left out: it is none of the kernel's.
        ram = ((-(-one.paddr // page), (one.paddr + one.memsz) // page) for one in self._segments)
        here = ((-(-one.paddr // page), (one.paddr + one.filesz) // page) for one in self._segments)
        return Beginning(
            order=header.order,
            block_size=page,
            max_mapnr=frames,
            head=kdump.head_of(
                release=release,
                version=version,
                machine=header.arch,
                order=header.order,
                cpus=header.nr_cpus or 1,
                seconds=0 if vmcore.crash_time is None else int(vmcore.crash_time.timestamp()),
            ),
            phys_base=header.phys_base or 0 if base is None else base,
            dump_level=header.dump_level or 0,
            notes=vmcoreinfo_note(notes_here, text, header.order),
            vmcoreinfo=text,
            bitmaps=RangeBitmaps(blocks * page, ram, here),
            bitmap_blocks=2 * blocks,
        )


class ElfMemory:
    """PT_LOAD segments, by physical address."""

    def __init__(self, source: Source, segments: Sequence[Segment]) -> None:
        self._source = source
        self._segments = [one for one in segments if one.filesz]
        self._starts = [one.paddr for one in self._segments]

    def read(self, address: int, size: int) -> bytes:
        at = bisect_right(self._starts, address)
        # The kernel's own segment may overlap one of the machine's memory, so that the nearest is not always the one.
        for segment in reversed(self._segments[max(0, at - 4) : at]):
            within = address - segment.paddr
            if within + size <= segment.filesz:
                data = self._source.read_at(segment.offset + within, size)
                if len(data) == size:
                    return data
        raise PageMissingError


def parse(source: Source, name: str) -> ElfFile:
    """Header and segments of an ELF core. Raises `NotADump` for ELF files that are something else."""
    try:
        head = elf.header(source.read_at)
    except elf.NotElf as error:
        raise DumpDamaged(f"{name}: the ELF header is cut off or damaged") from error
    _refuse_other_kinds(name, head.type)
    bits, order = 64 if head.layout.wide else 32, head.layout.byteorder
    entry = elf.segment_size(head.layout)
    if head.phentsize != entry:
        raise DumpDamaged(f"{name}: the ELF header gives program headers of {head.phentsize} bytes")
    wanted = min(head.phnum, _MOST_SEGMENTS)
    table = source.read_at(head.phoff, wanted * entry)
    if wanted and len(table) < entry:
        raise DumpDamaged(f"{name}: cut off before the ELF program headers")

    header = Header(
        format=DumpFormat.ELF,
        order=order,
        bits=bits,
        arch="mips" if head.machine == _MIPS and bits == 32 else _MACHINES.get((head.machine, order)),
        nr_cpus_origin="notes",
        compression=PageCompression.NONE,
        flag="makedumpfile marked it as incomplete: the target ran out of space" if head.flags & _INCOMPLETE else None,
    )
    loads: list[Segment] = []
    need = end = head.phoff + head.phnum * entry
    sections: list[tuple[int, int]] = []
    for segment in elf.segments(head.layout, table):
        if segment.type not in {elf.PT_LOAD, elf.PT_NOTE} or segment.offset >= _NO_OFFSET:
            continue
        if segment.filesz:
            need = max(need, segment.offset + segment.filesz)
        if segment.type == elf.PT_LOAD:
            loads.append(segment)
        elif len(sections) < _MOST_NOTE_SEGMENTS:
            sections.append((segment.offset, min(segment.filesz, _NOTES_LIMIT // _MOST_NOTE_SEGMENTS)))
    # Behind the program headers is where writers put the notes, should those headers have been lost.
    pids = _read_notes(source, header, sections or [(end, 1 << 16)], name)
    if header.arch == "x86_64":
        header.phys_base = next(
            (one.paddr - (one.vaddr - _X86_64_KERNEL) for one in loads if one.vaddr >= _X86_64_KERNEL), None
        )
    loads.sort(key=lambda one: one.paddr)
    if header.arch in {"armv7l", "armv7b"} and loads:
        header.phys_base = loads[0].paddr
    # A hypervisor, which dumps a kernel that runs, has numbers of CPUs in place of PIDs. No notes may be of either.
    crashed = not pids or pids != list(range(1, len(pids) + 1))
    return ElfFile(source, header, loads, need, sections, crashed=crashed)


def _read_notes(source: Source, header: Header, sections: list[tuple[int, int]], name: str) -> list[int]:
    """Takes over what the notes say of the kernel; returns the PIDs of its CPUs' registers."""
    pids, of_process = list[int](), False
    pid_at = _PID_AT[header.bits]
    for offset, size in sections:
        for note in notes.iterate(source.read_at(offset, size), header.order):
            source.read_at(0, 0)  # asks for time
            if note.name == "CORE" and note.type == notes.NT_PRSTATUS:
                pids.append(int.from_bytes(note.desc[pid_at : pid_at + 4], header.order))
            elif note.name == "CORE" and note.type in {notes.NT_PRPSINFO, notes.NT_AUXV, notes.NT_FILE}:
                of_process = True
            elif note.name == "VMCOREINFO" and not header.vmcoreinfo:
                header.vmcoreinfo = note.desc[: 1 << 16]
    if of_process and not header.vmcoreinfo:
        raise NotADump(
            f"{name} is the core of a user-space process, not a kernel dump",
            hint=f"gdb reads it: gdb -c {pasteable(name)}",
        )
    header.nr_cpus = len(pids) or None
    return pids


def _refuse_other_kinds(name: str, kind: int) -> None:
    match kind:
        case 4:
            return
        case 1:
            what, hint = "a kernel module or object file", "give the vmcore itself"
        case 2 | 3:
            what = "a kernel image or program (vmlinux?)"
            hint = f"give the dump, and this as its debuginfo: vmbox run --debuginfo {pasteable(name)} VMCORE -- bt"
        case _:
            what, hint = f"an ELF file of type {kind}", "give the vmcore itself"
    raise NotADump(f"{name} is {what}, not a crash dump", hint=hint)
