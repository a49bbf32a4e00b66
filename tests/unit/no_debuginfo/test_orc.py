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


def test_tables_of_different_length_are_refused() -> None:
    with pytest.raises(orc.OrcError, match="8 bytes of addresses for 6 bytes of entries"):
        orc.Orc(bytes(8), TABLE, bytes(6))
