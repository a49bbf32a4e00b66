"""Adds an index of the debug information to vmlinux, with which crash starts faster.

Without one, the gdb in crash reads all debug information at every start: 8.7 s instead of 3.5 s for a 6.1 cloud kernel
with crash 8.0.2. The index is made once per build, by a gdb in a container. This module completes it (see
gdb_index_format.py) and puts it into vmlinux.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sandbox.debuginfo.gdb_index_format import Unexpected, rewritten
from sandbox.errors import VmboxError
from sandbox.formats import elf
from sandbox.formats.streams import CHUNK, CorruptData
from sandbox.host.disk import need_space
from sandbox.progress import Reporter

GdbIndexBuilder = Callable[[Path, Path], None]
"""Writes for a vmlinux (first) the files `vmlinux.gdb-index`, `vmlinux.debug_names` and `vmlinux.debug_str` into a
directory (second), as Containerfile.d/files/prepare does. A better index is made from the last two.

Raises `VmboxError` when it cannot; then vmlinux is used as it is.
"""

_MOST_SECTIONS: Final = 0xFF00
"""Section numbers from here on are reserved."""
_LARGEST_NAMES: Final = 1 << 20
INDEX_VERSIONS: Final = (7, 8)
"""Versions of .gdb_index that every crash since 7.2 reads. gdb refuses older versions and ignores newer ones."""


def add_gdb_index(directory: Path, gdb_index_builder: GdbIndexBuilder, reporter: Reporter) -> bool:
    """Adds an index to `directory`/vmlinux unless it has a usable one; returns whether it has one now."""
    vmlinux = directory / "vmlinux"
    index, names, strings = (directory / f"vmlinux.{kind}" for kind in ("gdb-index", "debug_names", "debug_str"))
    read = elf.read(vmlinux)
    if read.section(".gdb_index") is not None:
        return True
    if not read.sections or read.section(".debug_names") is not None:
        return False
    try:
        with reporter.step("Indexing vmlinux"):
            gdb_index_builder(vmlinux, directory)
            _complete(index, names, strings, vmlinux)
        if index_version(index) not in INDEX_VERSIONS:
            reporter.notice("the index of vmlinux is of a version crash does not read; going on without")
            return False
        add_section(vmlinux, ".gdb_index", index)
    except (VmboxError, CorruptData) as error:
        reporter.notice(f"vmlinux could not be indexed, so crash starts slower: {error}")
        return False
    finally:
        for file in (index, names, strings):
            file.unlink(missing_ok=True)
    return True


def _complete(index: Path, names: Path, strings: Path, vmlinux: Path) -> None:
    """Adds to `index` all units that gdb would find without an index, if gdb wrote .debug_names."""
    if not (names.exists() and strings.exists() and index_version(index) in INDEX_VERSIONS):
        return
    # The index as gdb wrote it is usable, except for some names.
    with contextlib.suppress(Unexpected):
        index.write_bytes(rewritten(index, names, strings, vmlinux))


def index_version(index: Path) -> int:
    """The version in the file; 0 if there is none."""
    try:
        with index.open("rb") as file:
            return int.from_bytes(file.read(4), "little")
    except FileNotFoundError:
        return 0


def add_section(path: Path, name: str, content: Path) -> None:
    """Appends a section: its bytes, then new section names, then a new section header table.

    Nothing else moves; the ELF header is written last. Raises `NoSpace`, `CorruptData` before anything is written.
    """
    read = elf.read(path)
    if not 0 < len(read.sections) < _MOST_SECTIONS:
        raise CorruptData("it has no sections, or no room for one more")
    order, wide = read.layout.order, read.layout.wide
    word = "Q" if wide else "I"
    entry = len(read.section_table) // len(read.sections)
    need_space(path.parent, content.stat().st_size + len(read.section_table) + (1 << 20), "the index of vmlinux")
    with path.open("r+b") as file, content.open("rb") as added:
        names_at = 62 if wide else 50
        file.seek(names_at)
        (names_index,) = struct.unpack(order + "H", file.read(2))
        if names_index >= len(read.sections):
            raise CorruptData("its section names are nowhere")
        names = read.sections[names_index]
        if names.size > _LARGEST_NAMES or names.offset + names.size > path.stat().st_size:
            raise CorruptData("its section names are nowhere")
        if not wide and path.stat().st_size + content.stat().st_size + names.size + (4 << 20) > 0xFFFFFFFF:
            raise CorruptData("it is too large for one section more")
        file.seek(names.offset)
        strings = file.read(names.size) + name.encode() + b"\0"
        offset = _align(file.seek(0, 2))
        file.seek(offset)
        size = 0
        while data := added.read(CHUNK):
            size += file.write(data)
        strings_at = offset + size
        file.write(strings)
        table = bytearray(read.section_table)
        # sh_offset and sh_size of the names' own section.
        struct.pack_into(order + 2 * word, table, names_index * entry + (24 if wide else 16), strings_at, len(strings))
        table += struct.pack(order + "2I4" + word + "2I2" + word, names.size, 1, 0, 0, offset, size, 0, 0, 1, 0)
        table_at = _align(strings_at + len(strings))
        file.seek(table_at)
        file.write(table)
        file.flush()
        file.seek(40 if wide else 32)
        file.write(struct.pack(order + word, table_at))
        file.seek(60 if wide else 48)
        file.write(struct.pack(order + "H", len(read.sections) + 1))


def _align(offset: int) -> int:
    return offset + -offset % 8
