"""Tell where ORC, the kernel's unwind tables on x86_64, says nothing. Pure Python.

drgn unwinds by ORC. Of a function that has none (STACK_FRAME_NON_STANDARD, assembly) it takes rbp for a frame pointer,
which these kernels do not have: the frames below would be any. So it does with all functions of a table whose version
it does not know, or takes for another: without a header it goes by the release. So a stack is only believed as far as
ORC goes, and where drgn's frames are those of this table. Entries: arch/x86/include/asm/orc_types.h.
"""

import collections
import struct

ENTRY = 6
"""Bytes of an entry; its address is a number of 4 bytes in another table, relative to itself."""

MOST = 16 << 20
"""Entries of one table that are read. A kernel has half a million."""

_KIND = 0x70F
"""The register that the stack is counted from, and the type (before v6.4 with the mark of an outermost function)."""

_SAMPLES = 4096


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
        # Most entries are CALL by rsp. Registers have other numbers (commit 1735858caa4b ("objtool/x86: Reorder ORC
        # register numbering"), v7.1), and CALL is type 2 (commit fb799447ae29 ("x86,objtool: Split UNWIND_HINT_EMPTY in
        # two"), v6.4), 0 before.
        step = ENTRY * max(1, len(entries) // ENTRY // _SAMPLES)
        known = (struct.unpack_from("<H", entries, at + 4)[0] & _KIND for at in range(0, len(entries), step))
        common = collections.Counter(flags for flags in known if flags & 15).most_common(1)
        self._by_stack = common[0][0] if common else None

    def _address(self, index):
        return self._base + 4 * index + struct.unpack_from("<i", self._addresses, 4 * index)[0]

    def _entry(self, pc):
        """(offset from the register, flags) of the entry for an address; (0, None) before the first."""
        low, high = 0, len(self._addresses) // 4
        while low < high:
            middle = (low + high) // 2
            if self._address(middle) <= pc:
                low = middle + 1
            else:
                high = middle
        if not low:
            return 0, None
        offset, _bp_offset, flags = struct.unpack_from("<hhH", self._entries, ENTRY * (low - 1))
        return offset, flags

    def caller_sp(self, pc, sp):
        """The stack pointer of the caller, for code at `pc` with the stack pointer `sp`; None where it goes by another
        register, or the code is entered by an exception.
        """
        offset, flags = self._entry(pc)
        return sp + offset if flags is not None and flags & _KIND == self._by_stack else None

    def covers(self, pc):
        """Whether it says where the caller of the code at `pc` is."""
        flags = self._entry(pc)[1]
        # The lowest four bits are the register that the stack is counted from: 0 is none, in every version.
        return flags is not None and flags & 15 != 0

    def ends(self, pc):
        """Whether the code at `pc` has no caller: the outermost function of a stack."""
        flags = self._entry(pc)[1]
        # Bit 10, then type 1 of 0x700 (commit fb799447ae29 ("x86,objtool: Split UNWIND_HINT_EMPTY in two"), v6.4).
        return flags is not None and flags & 15 == 0 and bool(flags & 0x500)
