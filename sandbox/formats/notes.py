"""ELF notes, in vmcores and in the note section of kdump-compressed files.

Header of three 32-bit words for 32-bit and 64-bit files alike; name and descriptor are padded to 4 bytes, also where
p_align says otherwise (elf(5), Linux fs/proc/vmcore.c). In plain Python for the reason that elf.py has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

ByteOrder = Literal["little", "big"]

NT_PRSTATUS: Final = 1
NT_PRPSINFO: Final = 3
NT_AUXV: Final = 6
NT_FILE: Final = 0x46494C45
NT_GNU_BUILD_ID: Final = 3

_MOST_NOTES: Final = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note of an ELF file."""

    name: str
    type: int
    desc: bytes
    offset: int
    """Offset of the descriptor in the bytes that were searched."""


def iterate(section: bytes, order: ByteOrder) -> Iterator[Note]:
    """Notes until the section ends, the kernel's empty final note comes, or a size does not fit."""
    unpack = struct.Struct("<III" if order == "little" else ">III").unpack_from
    at = 0
    for _ in range(_MOST_NOTES):
        if at + 12 > len(section):
            return
        namesz, descsz, kind = unpack(section, at)
        if namesz == 0 and descsz == 0:
            return
        start = at + 12 + _padded(namesz)
        if start + descsz > len(section):
            return
        name = section[at + 12 : at + 12 + namesz].rstrip(b"\0").decode("ascii", "replace")
        yield Note(name=name, type=kind, desc=section[start : start + descsz], offset=start)
        at = start + _padded(descsz)


def _padded(size: int) -> int:
    return (size + 3) & ~3
