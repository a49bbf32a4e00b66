"""vmlinux's build-id, found in the kernel image in memory.

For kernels before 5.9 and those whose VMCOREINFO line is garbage. The image holds several GNU build-id notes: vmlinux's
own, those of the vDSO images, and stale ones of modules. vmlinux's stands behind Xen's notes on x86, or right before
the BTF section or the LTO note.
"""

from __future__ import annotations

import re
from typing import Final

from sandbox.dump.header import PageMissingError
from sandbox.dump.translation import KernelMemory

_NOTE: Final = re.compile(rb"\x04\0\0\0[\x10\x14]\0\0\0\x03\0\0\0GNU\0")
_ALIGNMENT: Final = 2 << 20
_IMAGE_SIZE: Final = 64 << 20
_STEP: Final = 1 << 20
_PAGE: Final = 4096
_AROUND: Final = 256
_BTF: Final = b"\x9f\xeb\x01\x00"
_LTO_INFO: Final = b"\x06\0\0\0\x04\0\0\0\x01\x01\0\0Linux\0"
"""LINUX_ELFNOTE_LTO_INFO, which since 5.12 stands behind the build-id of vmlinux and of modules, not of vDSOs."""


def find(kernel: KernelMemory, start: int) -> str | None:
    """Lower-case hexadecimal; None when no note is certain. `start` is the address of _stext."""
    begin = start & ~(_ALIGNMENT - 1)
    candidates: list[tuple[bool, str]] = []
    before = b""
    for at in range(begin, begin + _IMAGE_SIZE, _STEP):
        piece = _read(kernel, at)
        window = before + piece
        for found in _NOTE.finditer(window):
            size = window[found.start() + 4]
            value = window[found.end() : found.end() + size]
            if len(value) < size or found.end() + size + _AROUND > len(window):
                continue  # seen again at the beginning of the next window
            where = at - len(before) + found.start()
            # vDSO images start with an ELF header at most two pages before; modules' notes are at page boundaries.
            page = found.start() - where % _PAGE
            heads = (window[max(0, page - back * _PAGE) :][:4] for back in range(3))
            if where % _PAGE == 0 or b"\x7fELF" in heads:
                continue
            near = window[max(0, found.start() - _AROUND) : found.start()]
            after = window[found.end() + size : found.end() + size + _AROUND]
            if b"Xen\0" in near or after.startswith(_BTF):
                return value.hex()
            candidates.append((after.startswith(_LTO_INFO) and b"GNU\0" not in near, value.hex()))
        before = window[-4 * _PAGE :]
    certain = [value for of_kernel, value in candidates if of_kernel]
    if certain:
        return certain[0]
    return candidates[0][1] if len(candidates) == 1 else None


def _read(kernel: KernelMemory, address: int) -> bytes:
    pieces = []
    for at in range(address, address + _STEP, _PAGE):
        try:
            pieces.append(kernel.memory.read(kernel.physical(at), _PAGE))
        except PageMissingError:
            pieces.append(bytes(_PAGE))
    return b"".join(pieces)
