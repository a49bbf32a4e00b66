"""VMCOREINFO: the text in which a kernel describes itself to dump tools.

Lines of `KEY=value`, at most one page in all, so that the last line can be cut (Linux kernel/vmcore_info.c).
SYMBOL values are hexadecimal without 0x; OFFSET, SIZE and LENGTH decimal; NUMBER decimal, 0x-hexadecimal or negative.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sandbox.model import DumpFormat, KernelPlace, Vmcore

_MOST_BYTES: Final = 1 << 16
"""The kernel's limit is a page, of 64 KiB at most."""

_BUILD_ID: Final = re.compile(r"(?:[0-9a-f]{2}){16,32}")
_VERSION: Final = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")

# Stable kernels with commit 905415ff3ffb backported but not its fix: the BUILD-ID line holds whatever lies behind the
# note. Branch -> first and last patch level with it (drgn libdrgn/program.c, drgn_program_parse_vmcoreinfo).
_NO_END: Final = 1 << 30
_GARBAGE_BUILD_ID: Final[Mapping[tuple[int, int], tuple[int, int]]] = {
    (6, 11): (3, 9),
    (6, 10): (14, _NO_END),
    (6, 6): (55, 62),
    (6, 1): (113, 118),
    (5, 15): (168, _NO_END),
}


def parse(text: bytes) -> dict[str, str]:
    """The keys and values. Where a key comes twice the first one counts; crash and makedumpfile do the same."""
    found: dict[str, str] = {}
    for line in text[:_MOST_BYTES].split(b"\0", 1)[0].split(b"\n"):
        key, separator, value = line.partition(b"=")
        if separator and key:
            found.setdefault(key.decode("utf-8", "replace"), value.decode("utf-8", "replace").strip())
    return found


def symbol(info: Mapping[str, str], *names: str) -> int | None:
    """Address of the first of the symbols that is there."""
    for name in names:
        if (value := _integer(info.get(f"SYMBOL({name})"), 16)) is not None:
            return value
    return None


def number(info: Mapping[str, str], name: str) -> int | None:
    """A signed NUMBER. A few arm64 kernels print addresses in hexadecimal without 0x."""
    text = info.get(f"NUMBER({name})")
    value = _integer(text, 0)
    return _integer(text, 16) if value is None else value


def size(info: Mapping[str, str], name: str) -> int | None:
    return _integer(info.get(f"SIZE({name})"), 10)


def offset(info: Mapping[str, str], name: str) -> int | None:
    return _integer(info.get(f"OFFSET({name})"), 10)


def decimal(info: Mapping[str, str], key: str) -> int | None:
    """Of a plain key, e.g. PAGESIZE or CRASHTIME."""
    return _integer(info.get(key), 10)


def hexadecimal(info: Mapping[str, str], key: str) -> int | None:
    """Of a plain key that is an address, e.g. KERNELOFFSET."""
    return _integer(info.get(key), 16)


def is_build_id(text: str) -> bool:
    """Whether `text` can be a build-id: lower-case hexadecimal."""
    return _BUILD_ID.fullmatch(text) is not None


def text_of(info: Mapping[str, str]) -> str:
    """The lines that `parse` reads as `info`."""
    return "".join(f"{key}={value}\n" for key, value in info.items())


def told_place(vmcore: Vmcore) -> KernelPlace | None:
    """What debuggers have to be told of an ELF that has VMCOREINFO in its memory and no note of it.

    They read the note and nothing else: without it they look for the kernel where it was linked.
    """
    in_memory = vmcore.origins.get("release", "").startswith("vmcoreinfo in memory")
    if not in_memory or vmcore.format is not DumpFormat.ELF:
        return None
    moved, base = hexadecimal(vmcore.vmcoreinfo, "KERNELOFFSET"), number(vmcore.vmcoreinfo, "phys_base")
    if vmcore.arch != "x86_64" or moved is None or base is None:
        return KernelPlace()
    return KernelPlace(offset=moved, phys_base=base)


def build_id(info: Mapping[str, str], utsname_version: str | None) -> str | None:
    """BUILD-ID, unless the kernel is known to write garbage there."""
    value = info.get("BUILD-ID", "").lower()
    if not is_build_id(value) or set(value) == {"0"}:
        return None
    # Distribution kernels hide the upstream version; Debian's uname -v has it ("Debian 6.1.115-1").
    for text in (utsname_version or "").rpartition("Debian ")[2], info.get("OSRELEASE", ""):
        if found := _VERSION.match(text):
            major, minor, patch = (int(part) for part in found.groups())
            first, last = _GARBAGE_BUILD_ID.get((major, minor), (_NO_END, 0))
            return None if first <= patch <= last else value
    return value


def architecture(info: Mapping[str, str]) -> str | None:
    """From keys that only one architecture writes (each arch/*/kernel/vmcore_info.c or machine_kexec.c)."""
    for key, machine in _TELLING_KEYS.items():
        if key in info:
            return machine
    return None


_TELLING_KEYS: Final[Mapping[str, str]] = {
    "NUMBER(kimage_voffset)": "aarch64",
    "NUMBER(TCR_EL1_T1SZ)": "aarch64",
    "CONFIG_X86_PAE": "i686",
    "CONFIG_ARM_LPAE": "armv7l",
    "SYMBOL(init_top_pgt)": "x86_64",
    "SYMBOL(init_level4_pgt)": "x86_64",
    "SYMBOL(phys_base)": "x86_64",
    "NUMBER(phys_base)": "x86_64",
    "NUMBER(satp)": "riscv64",
    "NUMBER(va_kernel_pa_offset)": "riscv64",
    "SYMBOL(lowcore_ptr)": "s390x",
    "SYMBOL(vmemmap_list)": "ppc64",
    "SYMBOL(cpu_pgd)": "ppc64",
}


def _integer(text: str | None, base: int) -> int | None:
    # The length check keeps a crafted line of 64 KiB digits from costing quadratic time.
    if text is None or len(text) > 32:
        return None
    try:
        return int(text, base)
    except ValueError:
        return None
