"""Drops the relocations of debug sections from vmlinux: half the size, nothing lost.

x86 kernels are linked with --emit-relocs, for KASLR; ld puts all relocations after everything else. The debug sections
of an executable have been relocated already, so no program reads their relocations. They are not kept, and not even
fetched if the package can be read by ranges. Like objcopy --remove-relocations='.debug_*', but section numbers stay.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from sandbox.formats import elf
from sandbox.formats.streams import CHUNK, CorruptData
from sandbox.host.disk import need_space, no_space

_ET_EXEC: Final = 2
_ET_DYN: Final = 3
_SHT_NOBITS: Final = 8
_SHT_RELOCATIONS: Final = frozenset({4, 9})
_SHF_ALLOC: Final = 2
LARGEST_ALIGNMENT: Final = 1 << 21
"""Largest alignment of a section; more is damage."""


class RandomAccess(Protocol):
    """A file that may be on another host."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int) -> bytes: ...

    def copy(self, offset: int, size: int, put: Callable[[bytes, int], None]) -> None:
        """Gives all of those bytes to `put`, each piece with its offset; in any order, from any thread."""


class LocalFile:
    """A file of this host."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read_at(self, offset: int, size: int) -> bytes:
        if offset >= self.size:
            return b""
        with self._path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(min(size, self.size - offset)) or b""

    def copy(self, offset: int, size: int, put: Callable[[bytes, int], None]) -> None:
        at = 0
        size = min(size, max(self.size - offset, 0))
        if not size:
            return
        with self._path.open("rb", buffering=0) as file:
            file.seek(offset)
            while at < size and (data := file.read(min(size - at, CHUNK))):
                put(data, at)
                at += len(data)


class Part:
    """`size` bytes of another one, from `offset`."""

    def __init__(self, whole: RandomAccess, offset: int, size: int) -> None:
        self._whole = whole
        self._offset = offset
        self.size = size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._whole.read_at(self._offset + offset, max(min(size, self.size - offset), 0))

    def copy(self, offset: int, size: int, put: Callable[[bytes, int], None]) -> None:
        self._whole.copy(self._offset + offset, max(min(size, self.size - offset), 0), put)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of a vmlinux that are kept, and their new places."""

    header: bytes
    cut: int
    """Everything before it stays where it is."""
    moved: tuple[tuple[int, int, int], ...]
    """(offset, size, new offset) of the kept parts after it."""
    table: bytes
    table_at: int

    @property
    def size(self) -> int:
        return self.table_at + len(self.table)


def plan(file: RandomAccess) -> Plan | None:
    """The parts to keep; None if nothing can be dropped or the layout is not the one described above."""
    try:
        read = elf.parse(file.read_at)
    except elf.NotElf:
        return None
    dropped = {
        number
        for number, section in enumerate(read.sections)
        if section.type in _SHT_RELOCATIONS
        and not section.flags & _SHF_ALLOC
        and section.name.startswith((".rela.debug_", ".rel.debug_"))
    }
    if not dropped or read.type not in {_ET_EXEC, _ET_DYN}:
        return None
    cut = min(read.sections[number].offset for number in dropped)
    behind = sorted(
        (section.offset, number)
        for number, section in enumerate(read.sections)
        if number not in dropped and section.type not in {0, _SHT_NOBITS} and section.offset + section.size > cut
    )
    if (
        any(segment.filesz and segment.offset + segment.filesz > cut for segment in read.segments)
        or any(offset < cut or read.sections[number].flags & _SHF_ALLOC for offset, number in behind)
        or any(offset + read.sections[number].size > file.size for offset, number in behind)
        or any(read.sections[number].align > LARGEST_ALIGNMENT for _, number in behind)
        or not 64 <= cut <= file.size
    ):
        return None
    wide, order = read.layout.wide, read.layout.order
    word = order + ("Q" if wide else "I")
    entry = len(read.section_table) // len(read.sections)
    table = bytearray(read.section_table)
    for number in dropped:
        # An entry without a type is no section, so the other sections keep their numbers.
        table[number * entry : (number + 1) * entry] = bytes(entry)
    moved: list[tuple[int, int, int]] = []
    end = cut
    for offset, number in behind:
        section = read.sections[number]
        end += -end % max(section.align, 1)
        struct.pack_into(word, table, number * entry + (24 if wide else 16), end)
        moved.append((offset, section.size, end))
        end += section.size
    if end > file.size:
        # Sections that overlap would be written several times.
        return None
    end += -end % 8
    header = bytearray(file.read_at(0, 64))
    struct.pack_into(word, header, 40 if wide else 32, end)
    return Plan(header=bytes(header), cut=cut, moved=tuple(moved), table=bytes(table), table_at=end)


def copy(file: RandomAccess, target: Path, what: Plan | None) -> None:
    """Writes to `target` what the plan keeps of `file`, or all of it. Raises `NoSpace`, `CorruptData`."""
    need_space(target.parent, file.size if what is None else what.size, "vmlinux")
    try:
        with target.open("wb", buffering=0) as out:
            if what is None:
                put_part(file, 0, file.size, out, 0)
                return
            # The end first: its block was just read for the plan.
            for offset, length, to in what.moved:
                put_part(file, offset, length, out, to)
            put_part(file, 0, what.cut, out, 0)
            _put(out, what.table, what.table_at)
            _put(out, what.header, 0)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(target.parent, "vmlinux") from None
        raise


def put_part(file: RandomAccess, offset: int, size: int, out: FileIO, to: int) -> None:
    done: list[int] = []

    def put(data: bytes, at: int) -> None:
        _put(out, data, to + at)
        done.append(len(data))

    file.copy(offset, size, put)
    if sum(done) != size:
        raise CorruptData("it ends too early")


def _put(out: FileIO, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(out.fileno(), view, at)
        view = view[written:]
        at += written
