"""A dump opened for reading: header, layout, memory and log, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandbox.dump import (
    address_translation,
    completeness,
    elf,
    flattened,
    kdump,
    kernel_image,
    magic,
    memory,
    printk,
    vmcoreinfo,
)
from sandbox.dump.header import Header, Memory, PageMissingError
from sandbox.dump.source import DeadlineExceeded, FileSource
from sandbox.errors import DumpDamaged
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat

_MOST_PARTS: Final = 64

_COMPRESSED_TEXT: Final = range(64, 4097)
"""Bytes that a page of VMCOREINFO takes: 2 to 4 KB of text, zeros, and stored as it is 4096."""

_SEARCH_SECONDS: Final = 0.7


@dataclass(slots=True, kw_only=True)
class DumpReader:
    """One file, or the parts of a split dump, with what was read of it so far."""

    source: Source
    """Of the dump itself: rearranged where the file is flattened."""
    header: Header
    layout: kdump.Layout | elf.Layout
    flat: flattened.FlattenedSource | None = None
    index: memory.PageIndex | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()
    _memory: Memory | None = None

    @property
    def arch(self) -> str | None:
        return self.header.arch or vmcoreinfo.architecture(self.info)

    def detect_arch(self) -> None:
        """As the memory has it, where the header is silent or wrong: QEMU's, of ppc64le, arm and loongarch64."""
        if self.arch in {"ppc64", "ppc64le"} and (kernel := self.kernel()) is not None:
            self.header.arch = "ppc64le" if kernel.order == "little" else "ppc64"
            self.header.arch_origin = "memory"
            return
        if self.arch is not None:
            return
        for machine in ("armv7l",) if self.header.bits == 32 else ("loongarch64",):
            as_if = address_translation.kernel_memory(self.memory(), self.header, self.info, machine)
            with suppress(PageMissingError):
                if as_if is not None and (found := kernel_image.machine(as_if, self.info)) is not None:
                    self.header.arch, self.header.arch_origin = found, "memory"
                    return

    def pages(self) -> memory.PageIndex | None:
        if self.index is None and isinstance(self.layout, kdump.Layout):
            self.index = memory.PageIndex(self.source, self.layout)
        return self.index

    def memory(self) -> Memory:
        if self._memory is None:
            if self.flat is not None:
                self.flat.complete_index()
            self._memory = memory.of(self.source, self.layout, self.pages())
        return self._memory

    def use_memory(self, all_parts: Memory) -> None:
        self._memory = all_parts

    def use_vmcoreinfo(self, text: bytes) -> None:
        """VMCOREINFO that was found elsewhere than in its note."""
        self.info = vmcoreinfo.parse(text)

    def find_vmcoreinfo(self) -> None:
        """The kernel's own copy of its VMCOREINFO, in its memory: hypervisors that know of none leave the note out.

        In an uncompressed dump by its text alone; in a compressed one at the beginning of a page, where the kernel
        keeps it, as far as time allows: a guest of some GiB. May raise `DeadlineExceeded`.
        """
        if self.info:
            return
        if isinstance(self.layout, elf.Layout):
            from sandbox.dump import header_only

            self.use_vmcoreinfo(header_only.find_vmcoreinfo(self.source))
            return
        memory_of_dump = self.memory()
        if not isinstance(memory_of_dump, memory.KdumpMemory):
            return
        for page in memory_of_dump.pages_that_begin(b"OSRELEASE=", _COMPRESSED_TEXT, seconds=_SEARCH_SECONDS):
            if b"\nPAGESIZE=" in page:
                self.use_vmcoreinfo(page)
                return

    def kernel(self) -> address_translation.KernelMemory | None:
        return address_translation.kernel_memory(self.memory(), self.header, self.info, self.arch)

    def log(self) -> Iterator[printk.Record]:
        """Raises `printk.LogMissingError` before the first record."""
        kernel = self.kernel()
        if kernel is None:
            raise printk.LogMissingError(f"the log of {self.arch or 'this'} machines is not read here")
        return printk.records(kernel, self.info)

    def incomplete(self) -> str | None:
        """Why the file is incomplete, judged by its size; None when it is whole."""
        if self.flat is not None:
            return self.flat.missing()
        if isinstance(self.layout, elf.Layout):
            return completeness.of_elf(self.source, self.layout)
        index = self.pages()
        return None if index is None else completeness.of_kdump(self.source, self.layout, index)


_READ: Final = frozenset({DumpFormat.KDUMP, DumpFormat.DISKDUMP, DumpFormat.ELF, DumpFormat.FLATTENED})


def reads_memory(kind: DumpFormat | None) -> bool:
    """Whether the memory of dumps of that format is read here; of others the header is."""
    return kind in _READ


def open_dump(source: Source, name: str) -> DumpReader:
    """Header and layout of a kdump-compressed, diskdump, ELF or flattened file.

    Raises `DumpDamaged` when they cannot be read, `NotADump` for ELF files that are something else.
    """
    head = source.read_at(0, magic.PEEK)
    flat = None
    if head.startswith(flattened.MAGIC):
        flat = flattened.FlattenedSource(source)
        source = flat
        head = flat.read_at(0, magic.PEEK)
    layout: kdump.Layout | elf.Layout
    if head.startswith(elf.MAGIC):
        if flat is not None:
            # makedumpfile -E -F writes the program headers last; without them there is still the note section.
            with suppress(DeadlineExceeded):
                flat.complete_index()
        header, layout = elf.parse(source, name)
    else:
        found = kdump.parse(source)
        if found is None:
            raise _damaged_header(name, source, flat)
        header, layout = found
    return DumpReader(source=source, header=header, layout=layout, flat=flat, info=vmcoreinfo.parse(header.vmcoreinfo))


def split_set(path: Path, opened: DumpReader) -> tuple[Path, ...]:
    """The files of a split dump in order, found beside `path` by their common header. Without gaps it is complete.

    makedumpfile writes the same header into every part; only the range of pages differs.
    """
    layout = opened.layout
    if not isinstance(layout, kdump.Layout) or not layout.split:
        return (path,)
    common = opened.source.read_at(0, layout.block_size)
    found = {path: layout.start_pfn}
    try:
        siblings = sorted(one for one in path.parent.iterdir() if one != path and one.is_file())
    except OSError:
        return (path,)
    for sibling in siblings[:_MOST_PARTS]:
        try:
            with FileSource(sibling, seconds=0.5) as source:
                if source.read_at(0, len(common)) != common:
                    continue
                part = kdump.parse(source)
        except Exception:  # noqa: BLE001, S112 - any other file may lie there, readable or not
            continue
        if part is not None and part[1].split:
            found[sibling] = part[1].start_pfn
    return tuple(sorted(found, key=found.__getitem__))


def _damaged_header(name: str, source: Source, flat: flattened.FlattenedSource | None) -> DumpDamaged:
    needed = kdump.HEADER_SIZE
    left = len(source.read_at(0, needed))
    if left < needed:
        where = "in the first pieces of the flattened dump" if flat is not None else "in the header"
        return DumpDamaged(f"{name}: cut off {where}: only {left} bytes of the header are there")
    if flat is not None:
        return DumpDamaged(f"{name}: flattened, but what is inside is no dump")
    return DumpDamaged(f"{name}: the header is damaged: its fields contradict each other")
