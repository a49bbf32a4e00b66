"""A dump opened for reading: header, memory and log, whatever its format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.dump import (
    address_translation,
    elf,
    flattened,
    kdump,
    kdump_file,
    kernel_image,
    magic,
    printk,
    vmcoreinfo,
)
from sandbox.dump.dump_file import DumpFile
from sandbox.dump.header import Header, Memory, PageMissingError
from sandbox.dump.piece_index import PieceIndex
from sandbox.dump.source import DeadlineExceeded
from sandbox.errors import DumpDamaged
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat

if TYPE_CHECKING:
    from sandbox.dump.header_only import ScanResult


@dataclass(slots=True, kw_only=True)
class DumpReader:
    """One file, or the parts of a split dump, with what was read of it so far."""

    source: Source
    """Of the dump itself: rearranged where the file is flattened."""
    file: DumpFile
    flat: flattened.FlattenedSource | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    given_up: str | None = None
    """How much was searched for VMCOREINFO, where it was not found before the time was over."""
    _memory: Memory | None = None

    @property
    def header(self) -> Header:
        return self.file.header

    @property
    def arch(self) -> str | None:
        return self.header.arch or vmcoreinfo.architecture(self.info)

    def detect_arch(self) -> None:
        """Takes the architecture from memory if the header lacks it or is wrong: QEMU's ppc64le, arm, loongarch64."""
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

    def memory(self) -> Memory:
        if self._memory is None:
            if self.flat is not None:
                self.flat.complete_index()
            self._memory = self.file.memory()
        return self._memory

    def use_memory(self, all_parts: Memory) -> None:
        self._memory = all_parts

    def search(self, *, thorough: bool = False) -> ScanResult | None:
        """Searches memory for the kernel's own copy of its VMCOREINFO: some hypervisors do not write the note.

        Returns what else memory says, where there was something to search for. `thorough` searches all of it. May raise
        `DeadlineExceeded`.
        """
        # makedumpfile, which alone splits dumps, writes the note.
        if self.info or self.memory() is not self.file.memory():
            return None
        found = self.file.search(thorough=thorough)
        self.info = vmcoreinfo.parse(found.vmcoreinfo)
        self.given_up = found.given_up
        return found

    @property
    def why_without_info(self) -> str:
        """Why the log cannot be found: VMCOREINFO says where it is."""
        lacking = "there is no VMCOREINFO, which says where the log is"
        if self.given_up is None:
            return lacking
        return f"{lacking}, and the search for the kernel's own copy was given up after {self.given_up}"

    def kernel(self) -> address_translation.KernelMemory | None:
        return address_translation.kernel_memory(self.memory(), self.header, self.info, self.arch)

    def log(self) -> Iterator[printk.Record]:
        """Raises `printk.LogMissingError` before the first record."""
        if not self.info:
            raise printk.LogMissingError(self.why_without_info)
        kernel = self.kernel()
        if kernel is None:
            raise printk.LogMissingError(f"the log of {self.arch or 'this'} machines is not read here")
        return printk.records(kernel, self.info, lambda: self.source.read_at(0, 0))

    def incomplete(self) -> str | None:
        """Why the file is incomplete, judged by its size; None when it is whole."""
        if self.flat is not None:
            return self.flat.missing()
        return self.file.missing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a format is read."""

    parse: Callable[[Source, str], DumpFile | None]
    """(source, name of the file for errors) -> its file. None where the header makes no sense; raises `DumpDamaged` or
    `NotADump` where more can be said."""
    header_size: int
    """Bytes without which there is no telling."""
    header_written_last: bool = False
    """makedumpfile -F writes parts of the header behind everything else."""


_KDUMP: Final = Format(parse=kdump_file.parse, header_size=kdump.HEADER_SIZE)

FORMATS: Final = {
    DumpFormat.KDUMP: _KDUMP,
    DumpFormat.DISKDUMP: _KDUMP,
    # Without the program headers, which come last, there is still the note section.
    DumpFormat.ELF: Format(parse=elf.parse, header_size=64, header_written_last=True),
}
"""The formats whose memory is read. Of all others that `sandbox.dump.magic` knows the header is, by `header_only`."""


def reads_memory(kind: DumpFormat | None) -> bool:
    """Whether the memory of dumps of that format is read here."""
    return kind in FORMATS or kind is DumpFormat.FLATTENED


def parse(source: Source, name: str) -> DumpFile | None:
    """The file of a format whose memory is read; None when it is none, or when its header makes no sense.

    Raises `DumpDamaged` when the header cannot be read, `NotADump` for ELF files that are something else.
    """
    found = _format(source)
    return None if found is None else found.parse(source, name)


def open_dump(source: Source, name: str, index: PieceIndex | None = None, *, patience: float = math.inf) -> DumpReader:
    """A file of one of `FORMATS`, or a flattened one, whose `index` may be known; else making it takes so many seconds.

    Raises `DumpDamaged` when its header cannot be read, `NotADump` for ELF files that are something else.
    """
    flat = None
    if source.read_at(0, len(flattened.MAGIC)) == flattened.MAGIC:
        source = flat = flattened.FlattenedSource(source, index, patience=patience)
    found = _format(source)
    if flat is not None and (found is None or found.header_written_last):
        # Pieces may be in any order. It is judged by the first ones where walking through all takes too long.
        with suppress(DeadlineExceeded):
            flat.complete_index()
            found = _format(source)
    file = None if found is None else found.parse(source, name)
    if file is None:
        raise _damaged_header(name, source, flat, found or _KDUMP)
    return DumpReader(source=source, file=file, flat=flat, info=vmcoreinfo.parse(file.header.vmcoreinfo))


def _format(source: Source) -> Format | None:
    kind = magic.dump_format_of(source)
    return None if kind is None else FORMATS.get(kind)


def _damaged_header(name: str, source: Source, flat: flattened.FlattenedSource | None, expected: Format) -> DumpDamaged:
    needed = expected.header_size
    left = len(source.read_at(0, needed))
    if left < needed:
        where = "in the first pieces of the flattened dump" if flat is not None else "in the header"
        return DumpDamaged(f"{name}: cut off {where}: only {left} bytes of the header are there")
    if flat is not None:
        return DumpDamaged(f"{name}: flattened, but what is inside is no dump")
    return DumpDamaged(f"{name}: the header is damaged: its fields contradict each other")
