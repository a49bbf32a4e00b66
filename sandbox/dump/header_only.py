"""Formats of which only the header is read; their memory is searched for text, but addresses are not translated.

Offsets from crash's lkcd_*.h, s390_dump.c, sadump.h, vmware_vmss.h, qemu-load.c and xendump.h. Of these formats, only
QEMU's migration streams and libvirt's saves were tested with real dumps. Each field is checked before it is used.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from sandbox.dump.header import MACHINES, Header
from sandbox.dump.source import DeadlineExceeded
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat

# Microseconds between 1900, where the TOD clock of s390 starts, and 1970, in its units of 1/4096 microsecond.
_TOD_1970: Final = 0x7D91048BCA000000

_SCAN_STEP: Final = 4 << 20
_SCAN_LIMIT: Final = 512 << 20
_TEXT: Final = 8192
_SMALLEST_PAGE: Final = 4096
_CRASHTIME: Final = b"\nCRASHTIME="
_NOTE: Final = b"VMCOREINFO\0"
_NAME_OF_NOTE, _TEXT_OF_NOTE = 12, 24
"""Offsets in an ELF note: behind three numbers of 4 bytes, and behind the name, whose size is a multiple of 4."""
_FIRST_BYTE: Final = re.compile(rb"[O\x0b]")
"""Of `_KEY`, and of the size of a note's name, little-endian: what can begin a page."""
_KEY: Final = b"OSRELEASE="

# struct new_utsname: six strings of 65 bytes: sysname, nodename, release, version, machine, domainname.
_UTS_FIELD: Final = 65
_SYSNAME: Final = b"Linux".ljust(_UTS_FIELD, b"\0")
_BANNER: Final = b"Linux version "
_MOST_BANNERS: Final = 4096
"""Places in memory that may be a banner and are looked at: logs and programs have it, too."""
_LONGEST_TEXT: Final = 1024
"""Bytes by which pieces overlap, so that no text is cut."""

_END: Final = b"---[ end Kernel panic - not syncing: "


_CRASH_ALONE: Final = "perhaps crash, on which it was not tried; not drgn"
_NO_MORE: Final = "perhaps crash, which no longer supports it; not drgn"

OPENED_BY: Final[Mapping[DumpFormat, str]] = {
    DumpFormat.VMWARE: f"{_CRASH_ALONE}. The .vmem has to be beside it. VMware's vmss2core makes a core of both",
    DumpFormat.SADUMP: f"{_CRASH_ALONE}. makedumpfile -c -d 31 -x vmlinux THIS vmcore makes a kdump file of it",
    DumpFormat.S390: f"{_CRASH_ALONE}. zgetdump -f elf THIS > vmcore (s390-tools) makes an ELF file of it",
    DumpFormat.QEMU_MIGRATION: f"{_NO_MORE}. Of a machine that runs: virsh dump --memory-only DOMAIN vmcore",
    DumpFormat.LIBVIRT_SAVE: f"{_NO_MORE}. virsh restore THIS --paused; virsh dump --memory-only DOMAIN vmcore",
    DumpFormat.LKCD: _CRASH_ALONE,
    DumpFormat.XEN: _CRASH_ALONE,
    DumpFormat.MCLX: _CRASH_ALONE,
}
"""What opens the formats of which only the header is read here, and what makes another format of them."""


def parse(kind: DumpFormat, source: Source) -> Header:
    """Facts from the header; unknown stays None."""
    header = Header(format=kind)
    if (apply := _PARSERS.get(kind)) is not None:
        apply(header, source)
    return header


@dataclass(slots=True, kw_only=True)
class ScanResult:
    """Facts found in uncompressed memory without page tables. Unknown is None or empty."""

    vmcoreinfo: bytes = b""
    given_up: str | None = None
    """Where VMCOREINFO was not found before the time was over: how much was searched for it."""
    release: str | None = None
    utsname_version: str | None = None
    banners: list[str] = field(default_factory=list)
    """Lines "Linux version …": of this kernel, and of others whose logs or images were in memory."""
    looked: int = 0
    """Places where a banner might have been."""
    panic: str | None = None
    """From the line `---[ end Kernel panic … ]---`: without the log's records, the end of other lines is unknown."""

    @property
    def whole(self) -> bool:
        return bool(self.vmcoreinfo) and self.release is not None and self.panic is not None

    @property
    def banner(self) -> str | None:
        """The banner that says the same as utsname."""
        start, end = f"Linux version {self.release} (", f" {self.utsname_version}"
        return next((one for one in self.banners if one.startswith(start) and one.endswith(end)), None)


def vmcoreinfo_of_page(
    source: Source, memory: Sequence[tuple[int, int]], seconds: float, *, crashed: bool
) -> ScanResult:
    """The kernel's own copy of its VMCOREINFO, where it begins a page of uncompressed memory.

    It does since v4.13 ("kexec: move vmcoreinfo out of the kernel's .bss section"). Only the first byte of each page is
    looked at, so that gigabytes are searched in `seconds` of a processor. `memory` are offsets (first, end) of pages
    that follow each other. A kernel that `crashed` into a capture kernel adds the time to another copy alone, in a note
    (`crash_save_vmcoreinfo` in kernel/crash_core.c): that one is preferred, wherever it lies. May raise
    `DeadlineExceeded`.
    """
    deadline = time.thread_time() + seconds
    result = ScanResult()
    pieces = [range(at, min(at + _SCAN_STEP, end)) for first, end in memory for at in range(first, end, _SCAN_STEP)]

    def copies(pieces: Iterable[range]) -> Iterator[tuple[int, bytes]]:
        searched = 0
        for piece in pieces:
            if time.thread_time() > deadline:
                total = sum(end - first for first, end in memory)
                result.given_up = f"{_gib(searched)} of {_gib(total)} of memory"
                return
            searched += len(piece)
            yield from _beginning_pages(source, piece)

    # From both ends, as in `find_vmcoreinfo`.
    both_ends = [piece for pair in zip(pieces, reversed(pieces), strict=True) for piece in pair][: len(pieces)]
    at, text = next(copies(both_ends), (0, b""))
    if text and crashed and _CRASHTIME not in text:
        nearest = sorted(pieces, key=lambda piece: abs(piece.start - at))
        text = next((other for _, other in copies(nearest) if _CRASHTIME in other and other.startswith(text)), text)
    result.vmcoreinfo = text
    return result


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _beginning_pages(source: Source, piece: range) -> Iterator[tuple[int, bytes]]:
    """The texts of VMCOREINFO, or of notes of it, that begin pages: (offset of the page, text)."""
    starts = source.read_at(piece.start, len(piece))[::_SMALLEST_PAGE]
    for found in _FIRST_BYTE.finditer(starts):
        at = piece.start + found.start() * _SMALLEST_PAGE
        is_note = found[0] != _KEY[:1]
        if is_note and source.read_at(at + _NAME_OF_NOTE, len(_NOTE)) != _NOTE:
            continue
        if text := _vmcoreinfo_at(source, at + _TEXT_OF_NOTE if is_note else at):
            yield at, text


def scan_memory(source: Source, *, only_without_vmcoreinfo: bool = False, thorough: bool = False) -> ScanResult:
    """Searches for VMCOREINFO, the kernel's utsname and banner and the end of a panic, up to a time and a size limit.

    `thorough` has no limit of size.

    With `only_without_vmcoreinfo` the search ends at VMCOREINFO, which has more than the rest.
    """
    found, searched = ScanResult(), 0
    with suppress(DeadlineExceeded):
        for at in _from_both_ends(0, source.size, limit=None if thorough else _SCAN_LIMIT):
            piece = source.read_at(at, _SCAN_STEP + _LONGEST_TEXT)
            if found.whole or (only_without_vmcoreinfo and found.vmcoreinfo) or (not piece and source.size is None):
                break
            if not found.vmcoreinfo:
                found.vmcoreinfo = _vmcoreinfo_in(piece, at, source)
            if found.release is None:
                _take_utsname(found, piece)
            _take_banners(found, piece)
            if found.panic is None and (panic := _between(piece, _END, b" ]---")) and "%" not in panic:
                found.panic = f"Kernel panic - not syncing: {panic}"
            searched += _SCAN_STEP
    if not found.vmcoreinfo and source.size is not None and searched < source.size:
        found.given_up = f"{_gib(searched)} of the file's {_gib(source.size)}"
    return found


def _take_utsname(found: ScanResult, piece: bytes) -> None:
    at = piece.find(_SYSNAME)
    while at >= 0:
        fields = [_text(piece[at + n * _UTS_FIELD : at + (n + 1) * _UTS_FIELD]) for n in (2, 3)]
        match fields:
            # A placeholder of the build has everything but the number.
            case [str(release), str(version)] if release[:1].isdigit() and re.match(r"#\d", version):
                found.release, found.utsname_version = release, version
                return
        at = piece.find(_SYSNAME, at + 1)


def _take_banners(found: ScanResult, piece: bytes) -> None:
    at = piece.find(_BANNER)
    while at >= 0 and found.looked < _MOST_BANNERS:
        found.looked += 1
        line = piece[at : at + _LONGEST_TEXT].split(b"\n", 1)[0].split(b"\0", 1)[0]
        # The format of /proc/version and a placeholder of the build lack the number.
        if b") #" in line and line.isascii() and (banner := line.decode().rstrip()).isprintable():
            found.banners.append(banner)
        at = piece.find(_BANNER, at + 1)


def _between(piece: bytes, before: bytes, after: bytes) -> str | None:
    at = piece.find(before)
    while at >= 0:
        raw, end, _ = piece[at + len(before) : at + len(before) + 1024].partition(after)
        if end and b"%" not in raw:
            return _text(raw)
        at = piece.find(before, at + 1)
    return None


def find_vmcoreinfo(source: Source, start: int = 0) -> bytes:
    """Searches uncompressed memory for the kernel's own copy of its VMCOREINFO. Empty if it is not found.

    For dumps without the note: hypervisors write those when the guest did not tell where its note is. The kernel
    allocates the text early in boot, near one end of its memory, so both ends are searched first. May raise
    `DeadlineExceeded`.
    """
    for at in _from_both_ends(start, source.size, limit=_SCAN_LIMIT):
        piece = source.read_at(at, _SCAN_STEP + len(_KEY))
        if not piece and source.size is None:
            break
        if text := _vmcoreinfo_in(piece, at, source):
            return text
    return b""


def _vmcoreinfo_in(piece: bytes, at: int, source: Source) -> bytes:
    """The VMCOREINFO that begins in `piece`, which is at offset `at`; empty if none does."""
    return next((text for where in _occurrences(piece) if (text := _vmcoreinfo_at(source, at + where))), b"")


def _vmcoreinfo_at(source: Source, at: int) -> bytes:
    """The VMCOREINFO that begins at an offset; empty if it is none."""
    text = source.read_at(at, _TEXT).split(b"\0", 1)[0]
    line = text.split(b"\n", 1)[0]
    # Programs that search for the key contain it too, with a format in place of a value and no other keys near it.
    right = line.startswith(_KEY) and b"%" not in line and line[len(_KEY) :].strip() and b"\nPAGESIZE=" in text
    return text if right else b""


def _from_both_ends(start: int, size: int | None, *, limit: int | None) -> Iterator[int]:
    steps = (size or 0) if limit is None else limit // _SCAN_STEP
    if size is None:
        yield from range(start, start + _SCAN_LIMIT, _SCAN_STEP)
        return
    low, high = 0, max(0, -(-(size - start) // _SCAN_STEP) - 1)
    while low <= high and steps > 0:
        yield start + low * _SCAN_STEP
        if high > low:
            yield start + high * _SCAN_STEP
        low, high, steps = low + 1, high - 1, steps - 2


def find_sibling_memory(name: str) -> str | None:
    """VMware keeps the memory of NAME.vmss or NAME.vmsn in NAME.vmem."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.vmem" if dot and suffix in {"vmss", "vmsn"} else None


def _occurrences(window: bytes) -> Iterator[int]:
    at = window.find(_KEY)
    while at >= 0:
        # Lines start behind a newline, or the text itself behind a note header or at the start of a page.
        if at == 0 or window[at - 1] in b"\n\0":
            yield at
        at = window.find(_KEY, at + 1)


def _lkcd(header: Header, source: Source) -> None:
    head = source.read_at(0, 1024)
    header.order = "big" if head[:1] == b"\xa8" else "little"
    code = "<" if header.order == "little" else ">"
    if len(head) < 1024:
        return
    (version,) = struct.unpack_from(code + "I", head, 8)
    (page_size,) = struct.unpack_from(code + "I", head, 20)
    header.page_size = page_size if page_size in {4096, 8192, 16384, 65536} else None
    header.panic = _text(head[52:308])
    # The time moved with the alignment of struct timeval: 64-bit before version 8, 64-bit since, 32-bit.
    for seconds_at, seconds, utsname in ((312, "q", 328), (308, "q", 324), (308, "i", 316)):
        if _text(head[utsname : utsname + 65]) == "Linux":
            header.release = _text(head[utsname + 130 : utsname + 195])
            header.utsname_version = _text(head[utsname + 195 : utsname + 260])
            machine = _text(head[utsname + 260 : utsname + 325])
            header.arch = machine if machine in MACHINES else None
            (header.timestamp,) = struct.unpack_from(code + seconds, head, seconds_at)
            break
    header.dump_level = None if version & 0xFFFF == 0 else header.dump_level


def _s390(header: Header, source: Source) -> None:
    head = source.read_at(0, 128)
    header.order = "big"
    if len(head) < 128:
        return
    (header_size,) = struct.unpack_from(">I", head, 12)
    page_size, memory_size = struct.unpack_from(">IQ", head, 20)
    header.page_size = page_size if page_size == 4096 else None
    tod, arch = struct.unpack_from(">QI", head, 56)[0], struct.unpack_from(">I", head, 72)[0]
    header.timestamp = max(0, (tod - _TOD_1970) >> 12) // 1_000_000 or None
    header.arch = {1: "s390", 2: "s390x"}.get(arch)
    cpus = int.from_bytes(head[95:97], "big")
    header.nr_cpus = cpus if 0 < cpus <= 4096 else None
    end = header_size + memory_size
    if memory_size < 1 << 52 and source.size is not None and source.read_at(end, 8) != b"DUMP_END":
        header.flag = "the end mark of the dump is missing: it was cut, or never finished"


def _sadump(header: Header, source: Source) -> None:
    header.arch = "x86_64"
    for start in (4096, 8192):
        block = source.read_at(start, 128)
        if len(block) < 128 or block[:8] != b"sadump\0\0":
            continue
        year, month, day, hour, minute, second = struct.unpack_from("<HBBBBB", block, 16)
        try:
            header.timestamp = int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
        except ValueError:
            header.timestamp = None
        cpus = int.from_bytes(block[80:84], "little")
        header.nr_cpus = cpus if 0 < cpus <= 1 << 16 else None
        return


def _vmware(header: Header, source: Source) -> None:
    """Reads groups of tags; only the CPU count is used."""
    (groups,) = struct.unpack_from("<I", source.read_at(0, 12).ljust(12, b"\0"), 8)
    table = source.read_at(12, min(groups, 512) * 80)
    for at in range(0, len(table) - 79, 80):
        if table[at : at + 64].split(b"\0", 1)[0] != b"cpu":
            continue
        position, size = struct.unpack_from("<QQ", table, at + 64)
        body = source.read_at(position, min(size, 1 << 16))
        found = body.find(b"cpu:numVCPUs")
        if found >= 0:
            value = int.from_bytes(body[found + 12 : found + 16], "little")
            header.nr_cpus = value if 0 < value <= 1 << 12 else None
        return


_PARSERS: Final[Mapping[DumpFormat, Callable[[Header, Source], None]]] = {
    DumpFormat.LKCD: _lkcd,
    DumpFormat.S390: _s390,
    DumpFormat.SADUMP: _sadump,
    DumpFormat.VMWARE: _vmware,
}
"""A format that is neither here nor in `sandbox.dump.reader` is recognized, but not read."""


def _text(raw: bytes) -> str | None:
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
    return text if text and text.isprintable() else None
