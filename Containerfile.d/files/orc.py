"""Tell where ORC, the kernel's unwind tables on x86_64, says nothing. Pure Python.

drgn unwinds by ORC. Of a function that has none (STACK_FRAME_NON_STANDARD, assembly) it takes rbp for a frame pointer,
which these kernels do not have: the frames below would be any. So a stack is only believed as far as ORC goes.
Entries: arch/x86/include/asm/orc_types.h.
"""

import struct

ENTRY = 6
"""Bytes of an entry; its address is a number of 4 bytes in another table, relative to itself."""

MOST = 16 << 20
"""Entries of one table that are read. A kernel has half a million."""


class OrcError(Exception):
    """The tables contradict themselves."""


class Orc:
    """The table of the kernel or of a module: `addresses` begins at `base`, and has 4 bytes for each of `entries`."""

    def __init__(self, addresses, base, entries):
        if len(addresses) // 4 != len(entries) // ENTRY or len(addresses) % 4 or len(entries) % ENTRY:
            raise OrcError(f"{len(addresses)} bytes of addresses for {len(entries)} bytes of entries")
        self._addresses = memoryview(addresses)
        self._base = base
        self._entries = entries

    def _address(self, index):
        return self._base + 4 * index + struct.unpack_from("<i", self._addresses, 4 * index)[0]

    def _flags(self, pc):
        """The flags of the entry for an address; None before the first."""
        low, high = 0, len(self._addresses) // 4
        while low < high:
            middle = (low + high) // 2
            if self._address(middle) <= pc:
                low = middle + 1
            else:
                high = middle
        return struct.unpack_from("<H", self._entries, ENTRY * (low - 1) + 4)[0] if low else None

    def covers(self, pc):
        """Whether it says where the caller of the code at `pc` is."""
        flags = self._flags(pc)
        # The lowest four bits are the register that the stack is counted from: 0 is none, in every version.
        return flags is not None and flags & 15 != 0

    def ends(self, pc):
        """Whether the code at `pc` has no caller: the outermost function of a stack."""
        flags = self._flags(pc)
        # Bit 10, then type 1 of 0x700 (commit fb799447ae29 ("x86,objtool: Split UNWIND_HINT_EMPTY in two"), v6.4).
        return flags is not None and flags & 15 == 0 and bool(flags & 0x500)
