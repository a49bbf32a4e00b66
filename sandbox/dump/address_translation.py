"""Kernel virtual addresses to physical ones, with nothing but VMCOREINFO and the page tables in the dump."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sandbox.dump import vmcoreinfo
from sandbox.dump.header import Header, Memory, PageMissingError
from sandbox.formats.notes import ByteOrder

_64_BITS: Final = (1 << 64) - 1

_X86_IMAGE: Final = 0xFFFFFFFF80000000
_X86_IMAGE_SIZE: Final = 1 << 30
_X86_ADDRESS: Final = 0x000FFFFFFFFFF000

_PPC64_LINEAR: Final = 0xC000000000000000
"""PAGE_OFFSET; kernel image, static data and boot-time allocations all lie in the linear map (asm/page.h)."""

_I386_LINEAR: Final = 0xC0000000
"""PAGE_OFFSET of the 3G/1G split, which all distributions' 32-bit kernels use."""

_ARM_SPLIT: Final = 0xF0000000
"""PAGE_OFFSET is 0xC0000000, or with other splits of the addresses 0xB0000000, 0x80000000 or 0x40000000; the kernel's
first page table is at most a few MiB above it (arch/arm/Kconfig, kernel/head.S)."""

_DIRECT_LOONGARCH64: Final = (0x9000000000000000, 0x8000000000000000)
"""Windows onto physical memory, cached and uncached; the image is linked into the first (asm/addrspace.h)."""

_DIRECT_MIPS64: Final = (0x9800000000000000, 0xA800000000000000, 0x9000000000000000)
"""XKPHYS: cached, in the two ways there are, and uncached (asm/addrspace.h)."""

_MIPS_IMAGE: Final = 0x80000000
"""KSEG0, on 64-bit machines sign-extended: the first 512 MiB."""

_CACHED_PAGES: Final = 4096
_PAGE: Final = 4096


class KernelMemory:
    """Reads kernel virtual memory. Subclasses translate one address."""

    def __init__(self, memory: Memory, order: ByteOrder = "little", word: int = 8) -> None:
        self.memory = memory
        self.order: ByteOrder = order
        self.word = word
        """Bytes of a pointer, and of C's long."""
        self._pages: dict[int, bytes] = {}

    def physical(self, address: int) -> int:
        """Raises `PageMissingError` where nothing is mapped or a page table is not in the dump."""
        raise NotImplementedError

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises `PageMissingError`."""
        page, start = divmod(address & _64_BITS, _PAGE)
        if start + size <= _PAGE:
            return self._page(page)[start : start + size]
        pieces = []
        while size > 0:
            piece = self._page(page)[start : start + size]
            pieces.append(piece)
            size -= len(piece)
            page += 1
            start = 0
        return b"".join(pieces)

    def integer(self, address: int, size: int) -> int:
        return int.from_bytes(self.read(address, size), self.order)

    def pointer(self, address: int) -> int:
        return self.integer(address, self.word)

    def _page(self, page: int) -> bytes:
        content = self._pages.get(page)
        if content is None:
            content = self.memory.read(self.physical(page * _PAGE), _PAGE)
            if len(self._pages) >= _CACHED_PAGES:
                self._pages.clear()
            self._pages[page] = content
        return content

    def _entry(self, table: int, index: int) -> int:
        return int.from_bytes(self.memory.read(table + 8 * index, 8), "little")


class X86Memory(KernelMemory):
    """x86_64: the kernel image by its offset, everything else through 4 or 5 levels of page tables."""

    def __init__(self, memory: Memory, info: Mapping[str, str], phys_base: int) -> None:
        super().__init__(memory)
        self._phys_base = phys_base
        self._levels = 5 if vmcoreinfo.number(info, "pgtable_l5_enabled") == 1 else 4
        # The encryption bit of SME is inside the address field of every entry.
        self._mask = _X86_ADDRESS & ~(vmcoreinfo.number(info, "sme_mask") or 0)
        # swapper_pg_dir was the name before init_level4_pgt, and is again the name in generic code.
        self._root = vmcoreinfo.symbol(info, "init_top_pgt", "swapper_pg_dir", "init_level4_pgt")

    def physical(self, address: int) -> int:
        if 0 <= address - _X86_IMAGE < _X86_IMAGE_SIZE:
            return address - _X86_IMAGE + self._phys_base
        if self._root is None:
            raise PageMissingError
        table = self._root - _X86_IMAGE + self._phys_base
        for level in range(self._levels - 1, -1, -1):
            shift = 12 + 9 * level
            entry = self._entry(table, address >> shift & 511)
            if not entry & 1:
                raise PageMissingError
            table = entry & self._mask
            # Bit 7 is PS, a huge page, in the middle levels; in the last one it is PAT.
            if level and entry & 0x80:
                within = (1 << shift) - 1
                return (table & ~within) | (address & within)
        return table | (address & 4095)


class Arm64Memory(KernelMemory):
    """aarch64: everything through swapper_pg_dir; 4, 16 and 64 KiB granules, up to 52 bits."""

    def __init__(self, memory: Memory, info: Mapping[str, str], root: int, page_shift: int) -> None:
        super().__init__(memory)
        self._root = root
        self._shift = page_shift
        configured = vmcoreinfo.number(info, "VA_BITS") or 48
        t1sz = vmcoreinfo.number(info, "TCR_EL1_T1SZ")
        actual = 64 - t1sz if t1sz else configured
        # With 64 KiB pages the kernel indexes a table laid out for the configured width, and shifts TTBR1 instead.
        self._va_bits = configured if page_shift == 16 else actual
        # LPA2: bits 9:8 of an entry, otherwise shareability, are address bits 51:50.
        self._lpa2 = page_shift < 16 and actual > 48

    def physical(self, address: int) -> int:
        shift, width = self._shift, self._shift - 3
        levels = -(-(self._va_bits - shift) // width)
        address &= (1 << self._va_bits) - 1
        table = self._root
        for level in range(levels - 1, -1, -1):
            at = shift + width * level
            entry = self._entry(table, address >> at & ((1 << width) - 1))
            kind = entry & 3
            if kind == 3:
                table = self._address(entry)
            elif kind == 1 and level:
                within = (1 << at) - 1
                return (self._address(entry) & ~within) | (address & within)
            else:
                raise PageMissingError
        return table | (address & ((1 << shift) - 1))

    def _address(self, entry: int) -> int:
        low = (1 << self._shift) - 1
        if self._lpa2:
            return (entry & ((1 << 50) - 1) & ~low) | (entry >> 8 & 3) << 50
        address = entry & ((1 << 48) - 1) & ~low
        if self._shift == 16:
            address |= (entry >> 12 & 15) << 48
        return address


class LinearMemory(KernelMemory):
    """Machines whose kernel image and boot-time allocations are mapped at fixed offsets, which is enough for the log.

    vmalloc and module addresses would need page tables, but are not read here.
    """

    def __init__(
        self, memory: Memory, ranges: Sequence[tuple[int, int, int]], order: ByteOrder = "little", word: int = 8
    ) -> None:
        """`ranges`: virtual start, virtual end, physical start; the first that holds an address counts."""
        super().__init__(memory, order, word)
        self._ranges = ranges

    def physical(self, address: int) -> int:
        for start, end, physical in self._ranges:
            if start <= address < end:
                return physical + address - start
        raise PageMissingError


def ppc64_memory(memory: Memory, info: Mapping[str, str]) -> LinearMemory | None:
    """Memory in the byte order in which the log's own pointer is valid.

    The header need not have the kernel's: QEMU's pseries machine gives big endian for a panicked ppc64le guest.
    """
    pointer = vmcoreinfo.symbol(info, "prb", "log_buf")
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for order in orders if pointer is not None else ():
        found = LinearMemory(memory, [(_PPC64_LINEAR, _PPC64_LINEAR | 1 << 60, 0)], order)
        try:
            if found.pointer(pointer or 0) >> 60 == _PPC64_LINEAR >> 60:
                return found
        except PageMissingError:
            return None
    return None


def _s390x_ranges(info: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """Virtual was physical until 6.10; since then VMCOREINFO says where both maps begin (arch/s390 vmcore_info.c)."""
    identity = vmcoreinfo.hexadecimal(info, "IDENTITYBASE") or 0
    image = vmcoreinfo.hexadecimal(info, "KERNELOFFSET")
    image_physical = vmcoreinfo.hexadecimal(info, "KERNELOFFPHYS")
    linear = (identity, 1 << 64, 0)
    if image is None or image_physical is None:
        return [linear]
    return [(image, 1 << 64, image_physical), linear]


def _riscv64_ranges(info: Mapping[str, str]) -> list[tuple[int, int, int]] | None:
    """arch/riscv vmcore_info.c; the image is mapped above the linear map."""
    names = ("KERNEL_LINK_ADDR", "va_kernel_pa_offset", "PAGE_OFFSET", "phys_ram_base")
    image, distance, linear, ram = (vmcoreinfo.number(info, name) for name in names)
    if image is None or distance is None or linear is None or ram is None:
        return None
    image, linear = image & _64_BITS, linear & _64_BITS
    return [(image, 1 << 64, (image - distance) & _64_BITS), (linear, 1 << 64, ram)]


def _arm_memory(memory: Memory, header: Header, info: Mapping[str, str]) -> LinearMemory | None:
    """The start of physical memory differs between boards; the header has it."""
    table = vmcoreinfo.symbol(info, "swapper_pg_dir")
    if table is None or header.phys_base is None:
        return None
    return LinearMemory(memory, [(table & _ARM_SPLIT, 1 << 32, header.phys_base & 0xFFFFFFFF)], header.order, 4)


def _mips_memory(memory: Memory, header: Header) -> LinearMemory:
    if header.bits == 32:
        return LinearMemory(memory, [(_MIPS_IMAGE, _MIPS_IMAGE + (1 << 29), 0)], header.order, 4)
    image = _MIPS_IMAGE | 0xFFFFFFFF << 32
    direct = [(start, start + (1 << 59), 0) for start in _DIRECT_MIPS64]
    return LinearMemory(memory, [(image, image + (1 << 29), 0), *direct], header.order)


def kernel_memory(memory: Memory, header: Header, info: Mapping[str, str], arch: str | None) -> KernelMemory | None:
    """A way to read kernel addresses; None for architectures without a walker here, or when VMCOREINFO lacks a key."""
    match arch:
        case "ppc64" | "ppc64le":
            return ppc64_memory(memory, info)
        case "s390x":
            return LinearMemory(memory, _s390x_ranges(info), "big")
        case "riscv64":
            ranges = _riscv64_ranges(info)
            return LinearMemory(memory, ranges) if ranges else None
        case "i386" | "i486" | "i586" | "i686":
            return LinearMemory(memory, [(_I386_LINEAR, 1 << 32, 0)], word=4)
        case "armv5tel" | "armv6l" | "armv7l" | "armv7b" | "armv8l":
            return _arm_memory(memory, header, info)
        case "loongarch64":
            return LinearMemory(memory, [(start, start + (1 << 48), 0) for start in _DIRECT_LOONGARCH64])
        case "mips" | "mips64":
            return _mips_memory(memory, header)
        case "x86_64":
            phys_base = vmcoreinfo.number(info, "phys_base")
            if phys_base is None:
                phys_base = header.phys_base
            return None if phys_base is None else X86Memory(memory, info, phys_base)
        case "aarch64":
            swapper = vmcoreinfo.symbol(info, "swapper_pg_dir")
            offset = vmcoreinfo.number(info, "kimage_voffset")
            page_size = vmcoreinfo.decimal(info, "PAGESIZE")
            if swapper is None or offset is None or page_size not in {4096, 16384, 65536}:
                return None
            return Arm64Memory(memory, info, (swapper - offset) & _64_BITS, page_size.bit_length() - 1)
        case _:
            return None
