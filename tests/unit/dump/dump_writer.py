"""Writes small dumps of every shape: what a test needs a dump to be, and nothing else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping

Pages = Mapping[int, bytes]
Codec = Callable[[bytes], tuple[bytes, int]]

PAGE = 4096


def stored(page: bytes) -> tuple[bytes, int]:
    return page, 0


def zlibbed(page: bytes) -> tuple[bytes, int]:
    return zlib.compress(page), 1


def kdump(
    pages: Pages,
    vmcoreinfo: bytes,
    *,
    order: str = "little",
    bits: int = 64,
    padded: bool = False,
    block: int = PAGE,
    status: int = 1,
    codec: Codec = zlibbed,
    raw: Mapping[int, tuple[bytes, int]] | None = None,
    utsname: tuple[str, ...] = ("Linux", "host", "6.1.0-test", "#1 SMP Debian 6.1.170-3", "x86_64", "(none)"),
    shift_utsname: bool = False,
    cpus: int = 2,
    seconds: int = 0,
    level: int = 31,
    phys_base: int = 0,
    max_mapnr: int | None = None,
    split: tuple[int, int] | None = None,
    signature: bytes = b"KDUMP   ",
) -> bytes:
    """A kdump-compressed file as makedumpfile lays it out. `raw` gives pages already compressed, with their flags."""
    code = "<" if order == "little" else ">"
    packed = dict(raw) if raw is not None else {pfn: codec(page) for pfn, page in pages.items()}
    top = max_mapnr or (max(packed, default=0) + 1)
    names = b"".join(name.encode().ljust(65, b"\0")[:65] for name in utsname)
    if shift_utsname:
        names = names[4:].ljust(390, b"\0")
    note = vmcoreinfo_note(vmcoreinfo, code)
    sub = 104 if bits == 64 else 96 if padded else 80
    sub_blocks = -(-(sub + len(note)) // block)
    half = (top + 8 * block - 1) // (8 * block)
    head = bytearray(block)
    head[:8] = signature
    struct.pack_into(code + "i", head, 8, 6)
    head[12:402] = names
    if bits == 64:
        struct.pack_into(code + "qq", head, 408, seconds, 0)
        struct.pack_into(code + "IiiII", head, 424, status, block, sub_blocks, 2 * half, min(top, 0xFFFFFFFF))
        struct.pack_into(code + "i", head, 460, cpus)
    else:
        struct.pack_into(code + "ii", head, 404, seconds, 0)
        struct.pack_into(code + "IiiII", head, 412, status, block, sub_blocks, 2 * half, min(top, 0xFFFFFFFF))
        struct.pack_into(code + "i", head, 448, cpus)
    info_at = block + sub + 24
    start, end = split or (0, top)
    body = bytearray(sub)
    if bits == 64:
        fields = (phys_base, level, int(split is not None), 0, 0, info_at, len(vmcoreinfo), block + sub, len(note))
        struct.pack_into(code + "qiiQQqQqQ", body, 0, *fields)
        struct.pack_into(code + "QQQ", body, 80, start, end, top)
    else:
        struct.pack_into(code + "iiiII", body, 0, phys_base, level, int(split is not None), 0, 0)
        at = 24 if padded else 20
        struct.pack_into(code + "qI", body, at, info_at, len(vmcoreinfo))
        struct.pack_into(code + "qI", body, 40 if padded else 32, block + sub, len(note))
        struct.pack_into(code + "QQQ", body, 72 if padded else 56, start, end, top)
    bitmap = bytearray(half * block)
    for pfn in pages if raw is None else packed:
        bitmap[pfn // 8] |= 1 << pfn % 8
    here = [pfn for pfn in sorted(packed) if start <= pfn < end]
    offset = (1 + sub_blocks) * block + 2 * half * block + 24 * len(here)
    descriptors, data = bytearray(), bytearray()
    for pfn in here:
        content, flags = packed[pfn]
        descriptors += struct.pack(code + "qIIQ", offset + len(data), len(content), flags, 0)
        data += content
    notes = bytes(body + note).ljust(sub_blocks * block, b"\0")
    return bytes(head) + notes + bytes(bitmap) * 2 + bytes(descriptors) + bytes(data)


def vmcoreinfo_note(text: bytes, code: str = "<") -> bytes:
    name = b"VMCOREINFO\0\0"
    return struct.pack(code + "III", 11, len(text), 0) + name + text + bytes(-len(text) % 4)


def prstatus_note(code: str = "<") -> bytes:
    return struct.pack(code + "III", 5, 336, 1) + b"CORE\0\0\0\0" + bytes(336)


def elf(
    pages: Pages,
    vmcoreinfo: bytes,
    *,
    machine: int = 62,
    order: str = "little",
    bits: int = 64,
    cpus: int = 2,
    kind: int = 4,
    flags: int = 0,
    extra_notes: bytes = b"",
    many: bool = False,
    page: int = PAGE,
) -> bytes:
    """An ELF core with one PT_LOAD for each page. `many` uses PN_XNUM, as files with 65535 segments and more do."""
    code = "<" if order == "little" else ">"
    note = prstatus_note(code) * cpus + (vmcoreinfo_note(vmcoreinfo, code) if vmcoreinfo else b"") + extra_notes
    ehsize, phsize, shsize = (64, 56, 64) if bits == 64 else (52, 32, 40)
    count = 1 + len(pages)
    notes_at = ehsize + count * phsize + (shsize if many else 0)
    ident = b"\x7fELF" + bytes((2 if bits == 64 else 1, 1 if order == "little" else 2, 1)).ljust(12, b"\0")
    shoff = ehsize + count * phsize if many else 0
    head = struct.pack(
        code + ("HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"),
        *(kind, machine, 1, 0, ehsize, shoff, flags, ehsize, phsize, 0xFFFF if many else count, shsize, int(many), 0),
    )

    def segment(kind: int, offset: int, paddr: int, size: int) -> bytes:
        if bits == 64:
            return struct.pack(code + "IIQQQQQQ", kind, 0, offset, paddr, paddr, size, size, 0)
        return struct.pack(code + "IIIIIIII", kind, offset, paddr, paddr, size, size, 0, 0)

    table = segment(4, notes_at, 0, len(note))
    data_at = notes_at + len(note)
    data = b""
    for pfn in sorted(pages):
        table += segment(1, data_at + len(data), pfn * page, len(pages[pfn]))
        data += pages[pfn]
    section = b""
    if many:
        section = bytes(44 if bits == 64 else 28) + struct.pack(code + "I", count)
        section = section.ljust(shsize, b"\0")
    return ident + head + table + section + note + data


def flatten(dump: bytes, *, piece: int = 16384, rewrite_header: bool = False, end: bool = True) -> bytes:
    """makedumpfile -F. `rewrite_header` writes the header twice, first wrong: the last piece counts."""
    out = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(4096, b"\0")
    if rewrite_header:
        out += struct.pack(">qq", 0, 464) + dump[:142].ljust(464, b"x")
    for at in range(0, len(dump), piece):
        part = dump[at : at + piece]
        out += struct.pack(">qq", at, len(part)) + part
    return out + (b"\xff" * 16 if end else b"")
