"""Kernel virtual addresses to physical ones, with nothing but VMCOREINFO and the page tables in the dump."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sandbox.dump import vmcoreinfo
from sandbox.dump.header import Header, Memory, PageMissingError

_64_BITS: Final = (1 << 64) - 1

_X86_IMAGE: Final = 0xFFFFFFFF80000000
_X86_IMAGE_SIZE: Final = 1 << 30
_X86_ADDRESS: Final = 0x000FFFFFFFFFF000

_CACHED_PAGES: Final = 4096
_PAGE: Final = 4096


class KernelMemory:
    """Reads kernel virtual memory. Subclasses translate one address."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
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
        return int.from_bytes(self.read(address, size), "little")

    def pointer(self, address: int) -> int:
        return self.integer(address, 8)

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
        # The encryption bit of SME stands inside the address field of every entry.
        self._mask = _X86_ADDRESS & ~(vmcoreinfo.number(info, "sme_mask") or 0)
        # swapper_pg_dir is what the name was before init_level4_pgt and is again in generic code.
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


def kernel_memory(memory: Memory, header: Header, info: Mapping[str, str], arch: str | None) -> KernelMemory | None:
    """A way to read kernel addresses; None for architectures without a walker here, or when VMCOREINFO lacks a key."""
    if header.order != "little":
        return None
    match arch:
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
