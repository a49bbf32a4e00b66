"""Operands of arm64's instructions as objdump prints them."""

from __future__ import annotations

import pytest

from sandbox.explain.arm64 import parse
from sandbox.explain.instruction import loaded_from

REGISTERS = {"x0": 0x1000, "x1": 3, "x2": (1 << 64) - 1, "sp": 0x8000}


@pytest.mark.parametrize(
    ("text", "address", "access"),
    [
        ("ldr\tx0, [x0, #56]", 0x1038, "read"),
        ("ldrb\tw3, [x0]", 0x1000, "read"),
        ("ldur\tx1, [x0, #-8]", 0xFF8, "read"),
        ("str\txzr, [x0, x1, lsl #3]", 0x1018, "write"),
        ("str w4, [x0, w2, sxtw #2]", 0xFFC, "write"),
        ("ldr w4, [x0, w2, uxtw]", 0x100000FFF, "read"),
        ("ldp\tx29, x30, [sp], #48", 0x8000, "read"),
        ("stp\tx29, x30, [sp, #-48]!", 0x7FD0, "write"),
        ("stlr\tw1, [x0]", 0x1000, "write"),
        ("ldaxr\tw1, [x0]", 0x1000, "read"),
        ("stxr\tw2, w1, [x0]", 0x1000, "write"),
        # They read and write.
        ("ldadd\tw1, w2, [x0]", 0x1000, None),
        ("stadd\tw1, [x0]", 0x1000, None),
        ("cas\tw1, w2, [x0]", 0x1000, None),
        ("swpal x1, x2, [x0]", 0x1000, None),
        ("ldr x0, [x19]", None, "read"),
    ],
)
def test_memory_is_found_with_its_address_and_what_is_done_to_it(
    text: str, address: int | None, access: str | None
) -> None:
    one = parse(text)
    assert one.memory is not None
    assert one.memory.address(REGISTERS) == address
    assert one.access == access


@pytest.mark.parametrize(
    "text",
    [
        "brk\t#0x800",
        "add x0, x0, #0x38",
        "prfm pldl1keep, [x0, #64]",
        "blr x1",
        "nop",
        ".inst 0x00000000 ; undefined",
        "",
    ],
)
def test_what_touches_no_memory_has_none(text: str) -> None:
    assert parse(text).memory is None


@pytest.mark.parametrize(
    ("text", "read", "written"),
    [
        ("ldr x0, [x0, x1, lsl #3]", ("x0", "x1"), ("x0",)),
        ("ldp x29, x30, [sp], #16", ("sp",), ("x29", "x30", "sp")),
        ("str w2, [x19, #4]!", ("x2", "x19"), ("x19",)),
        ("stlxr w3, x2, [x1]", ("x2", "x1"), ("x3",)),
        ("ldaddal w1, w2, [x0]", ("x1", "x0"), ("x2",)),
        ("cas x1, x2, [x0]", ("x1", "x2", "x0"), ("x1",)),
        ("add x0, x1, #0x38", ("x1",), ("x0",)),
        ("movk x0, #0xdead, lsl #48", ("x0",), ("x0",)),
        ("cbz x4, ffff800080012340 <x5_fn+0x10>", ("x4",), ()),
        ("cmp w1, #0x3  // comment", ("x1",), ()),
        ("brk #0x800", (), ()),
        ("str xzr, [x0]", ("x0",), ()),
    ],
)
def test_registers_that_are_read_and_written_are_told_apart(
    text: str, read: tuple[str, ...], written: tuple[str, ...]
) -> None:
    one = parse(text)
    assert (one.read, one.written) == (read, written)


def test_the_load_of_a_register_is_found_if_nothing_came_between() -> None:
    code = ["ldr x0, [x19, #16]", "cmp x0, x1", "str x0, [x2]", "cbz x0, ffff800080012340"]
    found = loaded_from(code, "x0", "aarch64")
    assert found is not None
    assert (found.base, found.displacement, found.text) == ("x19", 16, "[x19, #16]")
    for between in ("mov w0, w3", "bl ffff800080012340", "ret", "ldr x1, [x19], #8", "add x19, x19, #8", "mov x0, x3"):
        assert loaded_from([*code, between], "x0", "aarch64") is None
    # Half of it, two of them, its own address.
    for text in ("ldr w0, [x19, #16]", "ldp x0, x1, [x19]", "ldr x0, [x0]", "ldrb w0, [x19]", "ldr x0, [x19], #8"):
        assert loaded_from([text], "x0", "aarch64") is None
    # Nothing is known of another machine's.
    assert loaded_from(code, "x0", "riscv64") is None
