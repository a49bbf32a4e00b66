"""Faults of arm64. Logs and answers of drgn are genuine: Debian's 6.12.118, the module of `vmbox demo`, under QEMU."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_fault import ALONE, explained, log_of, said

from sandbox.dump import identify
from sandbox.explain import oops
from sandbox.explain.arm64 import parse
from sandbox.explain.arm64_decode import decode, listing
from sandbox.explain.fault import explain

FILES = Path(__file__).resolve().parents[2]
SOURCE = FILES.parent / "Containerfile.d" / "files" / "demo-trigger.c"

# Of objdump, for words of a module of Debian's: one of each kind that it has.
DISASSEMBLED = [
    (0xD63F0040, "blr x2"),
    (0xD61F0000, "br x0"),
    (0xD4210000, "brk #0x800"),
    (0x88E0FC62, "casal w0, w2, [x3]"),
    (0x88A17C02, "cas w1, w2, [x0]"),
    (0xB8E00020, "ldaddal w0, w0, [x1]"),
    (0xC8DFFC21, "ldar x1, [x1]"),
    (0x885FFCA1, "ldaxr w1, [x5]"),
    (0xF8E01020, "ldclral x0, x0, [x1]"),
    (0xA97DAFAA, "ldp x10, x11, [x29, #-40]"),
    (0x29400BE1, "ldp w1, w2, [sp]"),
    (0xA8C27BFD, "ldp x29, x30, [sp], #32"),
    (0x69470FE4, "ldpsw x4, x3, [sp, #56]"),
    (0xF9402413, "ldr x19, [x0, #72]"),
    (0xF8418E60, "ldr x0, [x19, #24]!"),
    (0xF8617841, "ldr x1, [x2, x1, lsl #3]"),
    (0xF862D821, "ldr x1, [x1, w2, sxtw #3]"),
    (0xF8604820, "ldr x0, [x1, w0, uxtw]"),
    (0xF8606840, "ldr x0, [x2, x0]"),
    (0xF85E0447, "ldr x7, [x2], #-32"),
    (0x3873CA81, "ldrb w1, [x20, w19, sxtw]"),
    (0x386169B0, "ldrb w16, [x13, x1]"),
    (0x79401FE2, "ldrh w2, [sp, #14]"),
    (0x39C1AA61, "ldrsb w1, [x19, #106]"),
    (0x79C0D261, "ldrsh w1, [x19, #104]"),
    (0xB9804682, "ldrsw x2, [x20, #68]"),
    (0xF8B63001, "ldseta x22, x1, [x0]"),
    (0xB8400AC1, "ldtr w1, [x22]"),
    (0xF8588013, "ldur x19, [x0, #-120]"),
    (0x885F7C40, "ldxr w0, [x2]"),
    (0xB820003F, "stadd w0, [x1]"),
    (0xC89FFC41, "stlr x1, [x2]"),
    (0x8804FCA2, "stlxr w4, w2, [x5]"),
    (0xA9BE7BFD, "stp x29, x30, [sp, #-32]!"),
    (0x2900041F, "stp wzr, w1, [x0]"),
    (0xF821781F, "str xzr, [x0, x1, lsl #3]"),
    (0xF802869F, "str xzr, [x20], #40"),
    (0x78000801, "sttrh w1, [x0]"),
    (0x381FE340, "sturb w0, [x26, #-2]"),
    (0x88017C40, "stxr w1, w0, [x2]"),
    (0xF8E18054, "swpal x1, x20, [x2]"),
    (0x00000007, "udf #7"),
]


@pytest.mark.parametrize(("word", "text"), DISASSEMBLED)
def test_instructions_that_can_fault_have_the_text_of_objdump(word: int, text: str) -> None:
    assert decode(word) == text


def test_nothing_is_said_of_other_instructions() -> None:
    """nop, paciasp, ret, add, adrp, b.eq, a vector's load, a prefetch; and no word ends the decoder."""
    others = (0xD503201F, 0xD503233F, 0xD65F03C0, 0x91000040, 0x90000002, 0x54000040, 0x3DC00000, 0xF9800020)
    assert [decode(word) for word in others] == [None] * len(others)
    numbers = random.Random(64)
    texts = [text for text in (decode(numbers.getrandbits(32)) for _ in range(20_000)) if text is not None]
    assert all(parse(text).memory is not None for text in texts if "[" in text)


def test_the_code_of_a_log_is_listed_around_the_marked_instruction() -> None:
    one = oops.find(log_of("arm64-null-pointer")).last
    assert one is not None
    assert listing(one.code, one.code_at) == [
        (-16, ".inst 0xd503201f"),
        (-12, ".inst 0xd503233f"),
        (-8, "stp x29, x30, [sp, #-16]!"),
        (-4, ".inst 0x910003fd"),
        (0, "ldr x0, [x0, #56]"),
    ]
    # Cut within an instruction.
    assert listing(one.code[2:-1], one.code_at - 2) == listing(one.code, one.code_at)[1:-1]


def _line(mark: str) -> int:
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if f"/* CAUSE: {mark} */" in line)


def test_a_null_pointer_is_explained_down_to_the_member() -> None:
    fault = explained("arm64-null-pointer", arch="aarch64", debugger="drgn")
    assert (fault.function, fault.offset, fault.module, fault.access) == ("vmbox_gateway", 0x14, "vmbox_demo", "read")
    assert fault.address == "0x38"
    assert (fault.frames[0].function, fault.frames[0].line) == ("vmbox_gateway", _line("null-pointer"))
    how = said(fault, "how")
    assert "The instruction was `ldr x0, [x0, #56]`, with x0 = 0x0." in how
    assert "That makes 0x38, the address of the fault." in how
    assert "x0 has the value of `route`, struct vmbox_route *: 0x0 + 0x38 is struct vmbox_route.gateway." in how
    assert "called by vmbox_forward (/foreign/module/vmbox_demo.c:" in said(fault, "where")
    # That the image's objdump does not know the machine keeps nothing back.
    assert fault.unknown == {}


def test_code_that_is_data_was_called_by_the_function_of_the_link_register() -> None:
    """It has made no frame, so that the kernel's own trace lacks the function that called it."""
    fault = explained("arm64-execute-data", arch="aarch64", debugger="drgn")
    assert fault.access == "execute"
    assert "which is mapped, but not as code." in said(fault, "what")
    assert "It was called by vmbox_jump < vmbox_demo_init (" in said(fault, "where")
    assert "is in an object of slab cache kmalloc-64" in said(fault, "there")


@pytest.mark.parametrize(
    ("name", "place", "texts"),
    [
        (
            "null-pointer",
            ("vmbox_gateway", "read", "0x38"),
            ("`ldr x0, [x0, #56]`, with x0 = 0x0.", "That makes 0x38, the address of the fault."),
        ),
        ("bug", ("vmbox_check", None, None), ("BUG() at /foreign/module/vmbox_demo.c:LINE.", "was `brk #0x800`.")),
        (
            "use-after-free",
            ("vmbox_measure", "write", "0x6b6b6b6b6b6b6b"),
            (
                "`str x1, [x0]`, with x1 = 0x1, x0 = 0x6b6b6b6b6b6b6b6b.",
                "That makes 0x6b6b6b6b6b6b6b6b, the address of the fault: its highest byte does not count.",
                "x0 holds POISON_FREE",
            ),
        ),
        ("execute-data", (None, "execute", None), ("called by vmbox_jump < vmbox_demo_init <",)),
        # A function without a frame, which the kernel's own trace does not lead over.
        (
            "user-copy",
            ("__arch_copy_from_user", "write", "0xffff800080041000"),
            ("which is not mapped.", "called by vmbox_receive < vmbox_demo_init <"),
        ),
        (
            "stack-overflow",
            ("__memset", "write", "0xffff80008048ff88"),
            ("A kernel stack overflowed", "called by vmbox_descend, 25 times < vmbox_demo_init <"),
        ),
    ],
)
def test_a_log_alone_has_registers_and_code_as_well(
    name: str, place: tuple[str | None, ...], texts: tuple[str, ...]
) -> None:
    vmcore = identify(FILES / "fixtures" / "oops" / f"arm64-{name}.txt")
    assert (vmcore.arch, vmcore.release) == ("aarch64", "6.12.118+deb13-cloud-arm64")
    fault = explain(log_of(f"arm64-{name}"), arch=vmcore.arch, readings=ALONE, panic=vmcore.panic, debugger=None)
    assert fault is not None
    assert (fault.function, fault.access) == place[:2]
    assert place[2] in {None, fault.address}
    for text in texts:
        assert text.replace("LINE", str(_line("bug"))) in said(fault)
    assert "operand" not in fault.unknown


@pytest.mark.parametrize("name", ["null-pointer", "use-after-free", "stack-overflow"])
def test_a_log_that_is_cut_anywhere_is_read_without_an_error(name: str) -> None:
    log = log_of(f"arm64-{name}")
    for end in range(len(log)):
        found = oops.find(log[:end])
        assert (
            found.last is None or found.last.place is None or found.last.place.function.startswith(("vmbox", "__mem"))
        )
