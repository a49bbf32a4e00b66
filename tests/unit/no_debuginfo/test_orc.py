"""Where ORC says nothing of the caller, and where there is none."""

import struct

import orc
import pytest

TABLE = 0xFFFFFFFF82000000
CALL, UNDEFINED, END_OLD, END_NEW = 0x205, 0x000, 0x400, 0x100
CODE = [
    (0xFFFFFFFF81000000, CALL),
    (0xFFFFFFFF81000100, UNDEFINED),
    (0xFFFFFFFF81000200, CALL),
    (0xFFFFFFFF81000300, END_OLD),
    (0xFFFFFFFF81000400, END_NEW),
]


def table():
    addresses = b"".join(struct.pack("<i", at - (TABLE + 4 * n)) for n, (at, _) in enumerate(CODE))
    entries = b"".join(struct.pack("<hhH", 8, 0, flags) for _, flags in CODE)
    return orc.Orc(addresses, TABLE, entries)


@pytest.mark.parametrize(
    ("pc", "covers", "ends"),
    [
        (0xFFFFFFFF80FFFFFF, False, False),
        (0xFFFFFFFF81000000, True, False),
        (0xFFFFFFFF810000FF, True, False),
        (0xFFFFFFFF81000100, False, False),
        (0xFFFFFFFF81000234, True, False),
        (0xFFFFFFFF81000300, False, True),
        (0xFFFFFFFF81000499, False, True),
    ],
)
def test_a_hole_and_an_end_are_told_from_code_with_a_caller(pc: int, covers: bool, ends: bool) -> None:
    assert table().covers(pc) is covers
    assert table().ends(pc) is ends


@pytest.mark.parametrize(("sp", "call"), [(5, 0x000), (5, 0x200), (3, 0x200)], ids=["5.10", "6.4", "7.1"])
def test_the_callers_stack_pointer_is_known_in_every_version(sp: int, call: int) -> None:
    """Registers and types have other numbers; most entries are calls by the stack pointer in each."""
    by_rsp, by_rbp, by_exception = sp | call, sp - 1 | call, sp | call + 0x100
    kinds = [by_rsp, by_rsp, by_rbp, by_rsp, by_exception, 0]
    base = 0xFFFFFFFF81000000
    addresses = b"".join(struct.pack("<i", base + 16 * n - (TABLE + 4 * n)) for n in range(len(kinds)))
    entries = b"".join(struct.pack("<hhH", 8 * (n + 1), 0, flags) for n, flags in enumerate(kinds))
    found = orc.Orc(addresses, TABLE, entries)
    callers = [found.caller_sp(base + 16 * n + 4, 0x1000) for n in range(len(kinds))]
    assert callers == [0x1008, 0x1010, None, 0x1020, None, None]
    assert orc.Orc(b"", TABLE, b"").caller_sp(base, 0x1000) is None


def test_tables_of_different_length_are_refused() -> None:
    with pytest.raises(orc.OrcError, match="8 bytes of addresses for 6 bytes of entries"):
        orc.Orc(bytes(8), TABLE, bytes(6))
