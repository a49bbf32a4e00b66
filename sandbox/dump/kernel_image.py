"""Finds build-id, banner and uname in the kernel image in memory.

The build-id is looked for in kernels before 5.9, and in those whose VMCOREINFO line is garbage. The image holds several
GNU build-id notes: vmlinux's own, those of the vDSO images, and stale ones of modules. vmlinux's stands behind Xen's
notes on x86, or right before the BTF section or the LTO note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sandbox.dump import vmcoreinfo
from sandbox.dump.address_translation import KernelMemory
from sandbox.dump.header import MACHINES, PageMissingError
from sandbox.dump.source import Budget

_NOTE: Final = {
    "little": re.compile(rb"\x04\0\0\0[\x10\x14]\0\0\0\x03\0\0\0GNU\0"),
    "big": re.compile(rb"\0\0\0\x04\0\0\0[\x10\x14]\0\0\0\x03GNU\0"),
}
_BUILD_NUMBER: Final = re.compile(rb"\) #\d")
_ALIGNMENT: Final = 2 << 20
_IMAGE_SIZE: Final = 64 << 20
_TEXT_SIZE: Final = 6 << 20
"""Code that the image begins with, at least, in all but the smallest kernels: notes stand behind it, and are looked for
there first."""
_STEP: Final = 1 << 20
_PAGE: Final = 4096
_UTSNAME_FIELD: Final = 65
_AROUND: Final = 256
_MOST_NOTES: Final = 20_000
"""An image has a few, and one for each module that was loaded; a made one has millions."""
_BTF: Final = (b"\x9f\xeb\x01\x00", b"\xeb\x9f\x01\x00")
_LTO_INFO: Final = (b"\x06\0\0\0\x04\0\0\0\x01\x01\0\0Linux\0", b"\0\0\0\x06\0\0\0\x04\0\0\x01\x01Linux\0")
"""LINUX_ELFNOTE_LTO_INFO, which since 5.12 stands behind the build-id of vmlinux and of modules, not of vDSOs."""


def find_build_id(kernel: KernelMemory, start: int, budget: Budget) -> str | None:
    """Lower-case hexadecimal; None when no note is certain. `start` is the address of _stext."""
    begin = start & ~(_ALIGNMENT - 1)
    candidates: dict[int, tuple[bool, str]] = {}
    before = b""
    notes = 0
    for at in (
        *range(begin + _TEXT_SIZE, begin + _IMAGE_SIZE, _STEP),
        *range(begin, begin + _TEXT_SIZE + _STEP, _STEP),
    ):
        if at == begin:
            before = b""
        piece = _read(kernel, at)
        window = before + piece
        budget.ask()
        for found in _NOTE[kernel.order].finditer(window):
            notes += 1
            if notes > _MOST_NOTES:
                return None
            size = max(window[found.start() + 4 : found.start() + 8])
            value = window[found.end() : found.end() + size]
            if len(value) < size or found.end() + size + _AROUND > len(window):
                continue  # seen again at the beginning of the next window
            where = at - len(before) + found.start()
            # vDSO images start with an ELF header at most two pages before; modules' notes are at page boundaries.
            page = found.start() - where % _PAGE
            starts = (max(0, page - back * _PAGE) for back in range(3))
            heads = (window[at_page : at_page + 4] for at_page in starts)
            if where % _PAGE == 0 or b"\x7fELF" in heads:
                continue
            near = window[max(0, found.start() - _AROUND) : found.start()]
            after = window[found.end() + size : found.end() + size + _AROUND]
            if b"Xen\0" in near or after.startswith(_BTF):
                return value.hex()
            candidates[where] = (after.startswith(_LTO_INFO) and b"GNU\0" not in near, value.hex())
        before = window[-4 * _PAGE :]
    found_at = sorted(candidates.items())
    certain = [value for _, (of_kernel, value) in found_at if of_kernel]
    if certain:
        return certain[0]
    return found_at[0][1][1] if len(found_at) == 1 else None


def find_banner(kernel: KernelMemory, start: int, release: str) -> str | None:
    """linux_banner, for logs whose beginning was overwritten. `start` is the address of _stext."""
    begin = start & ~(_ALIGNMENT - 1)
    wanted = b"Linux version " + release.encode("utf-8", "replace") + b" ("
    before = b""
    for at in range(begin, begin + _IMAGE_SIZE, _STEP):
        window = before + _read(kernel, at)
        found = window.find(wanted)
        while 0 <= found < len(window) - 1024:
            line = window[found : found + 1024].split(b"\n", 1)[0].split(b"\0", 1)[0]
            # linux_proc_banner has formats in place of the rest; a placeholder of the build lacks the number.
            if _BUILD_NUMBER.search(line):
                return line.decode("utf-8", "replace")
            found = window.find(wanted, found + 1)
        before = window[-1024:]
    return None


def utsname_version(kernel: KernelMemory, info: Mapping[str, str]) -> str | None:
    """init_uts_ns.name.version, as `uname -v` printed it."""
    text = _utsname(kernel, info, 3)
    return text if text and text.startswith("#") and text.isprintable() else None


def machine(kernel: KernelMemory, info: Mapping[str, str]) -> str | None:
    """init_uts_ns.name.machine, as `uname -m` printed it."""
    text = _utsname(kernel, info, 4)
    return text if text in MACHINES else None


def _utsname(kernel: KernelMemory, info: Mapping[str, str], field: int) -> str | None:
    space = vmcoreinfo.symbol(info, "init_uts_ns")
    if space is None:
        return None
    # Before 5.11 the name came behind a reference count, and VMCOREINFO did not say where.
    offset = vmcoreinfo.offset(info, "uts_namespace.name")
    raw = kernel.read(space + (4 if offset is None else offset) + field * _UTSNAME_FIELD, _UTSNAME_FIELD)
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _read(kernel: KernelMemory, address: int) -> bytes:
    pieces = []
    for at in range(address, address + _STEP, _PAGE):
        try:
            pieces.append(kernel.memory.read(kernel.physical(at), _PAGE))
        except PageMissingError:
            pieces.append(bytes(_PAGE))
    return b"".join(pieces)
