"""Operands of x86_64's instructions as objdump prints them."""

from __future__ import annotations

import pytest

from sandbox.explain.instruction import loaded_from
from sandbox.explain.x86 import parse


@pytest.mark.parametrize(
    ("text", "address", "access"),
    [
        ("mov    0x38(%rdi),%rax", 0x1038, "read"),
        ("movq   $0x1,(%rdi)", 0x1000, "write"),
        ("mov    %rax,-0x8(%rdi,%rcx,8)", 0x1008, "write"),
        ("mov    0x0(,%rcx,8),%rax", 0x10, "read"),
        ("cmpl   $0x0,0x10(%rdi)", 0x1010, "read"),
        ("addl   $0x1,0x10(%rdi)", 0x1010, None),
        ("add    0x10(%rdi),%rax", 0x1010, "read"),
        ("lock cmpxchg %rdx,(%rdi)", 0x1000, None),
        ("call   *0x18(%rdi)", 0x1018, "read"),
        ("rep stos %rax,%es:(%rdi)", 0x1000, "write"),
        ("movzbl 0x4(%rdi),%eax", 0x1004, "read"),
        # gs has a base of its own, and rip is that of the next instruction.
        ("mov    %gs:0x28(%rdi),%rax", None, "read"),
        ("mov    0x1234(%rip),%rax        # 0xffffffff81001234", None, "read"),
    ],
)
def test_memory_is_found_with_its_address_and_what_is_done_to_it(
    text: str, address: int | None, access: str | None
) -> None:
    one = parse(text)
    assert one.memory is not None
    assert one.memory.address({"rdi": 0x1000, "rcx": 2}) == address
    assert one.access == access


@pytest.mark.parametrize(
    "text", ["ud2", "lea    0x38(%rdi),%rax", "nopl   0x0(%rax,%rax,1)", "mov %rax,%rbx", "(bad)", ""]
)
def test_what_touches_no_memory_has_none(text: str) -> None:
    assert parse(text).memory is None


def test_an_address_wraps_as_the_processors_does() -> None:
    one = parse("mov    -0x10(%rax),%rdx")
    assert one.memory is not None
    assert one.memory.address({"rax": 8}) == (1 << 64) - 8
    assert one.memory.address({}) is None


def test_registers_that_are_only_written_are_not_shown() -> None:
    assert parse("mov    0x38(%rdi,%rcx,2),%rax").read == ("rdi", "rcx")
    assert parse("mov    %eax,0x38(%rdi)").read == ("rax", "rdi")
    assert parse("add    %r8d,%ecx").read == ("r8", "rcx")
    assert parse("ud2").read == ()


def test_the_load_of_a_register_is_found_if_nothing_came_between() -> None:
    code = ["mov    0x10(%rdi),%rax", "cmp    %rax,%rdx", "nop"]
    found = loaded_from(code, "rax", "x86_64")
    assert found is not None
    assert (found.base, found.displacement) == ("rdi", 0x10)
    # Written since by something else, in part, or by a call; or its own address has changed.
    for between in ("xor    %eax,%eax", "mov    %edx,%eax", "call   0xffffffff81000000", "add    $0x8,%rdi"):
        assert loaded_from([*code, between], "rax", "x86_64") is None
    assert loaded_from(["mov    (%rax),%rax"], "rax", "x86_64") is None
    assert loaded_from(["mov    0x10(%rdi),%eax"], "rax", "x86_64") is None
    assert loaded_from(["mov    %gs:0x10(%rdi),%rax"], "rax", "x86_64") is None
    assert loaded_from([], "rax", "x86_64") is None
