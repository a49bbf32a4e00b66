"""What follows from an oops and the facts of it: the address that its instruction made, and where that came from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sandbox.explain import arm64_decode, instruction
from sandbox.explain.facts import Facts, Values
from sandbox.explain.oops_lines import Oops
from sandbox.explain.operands import MemoryOperand, ParsedInstruction

_KERNEL: Final = 1 << 63
_MOST_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A register that an address was made of."""

    register: str
    value: int
    offset: int
    """That was added to it."""
    variables: tuple[int, ...]
    """Indexes in `Facts.variables` of pointers with this value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Values that the second question to the dump is made of, and the sentences."""

    text: str | None = None
    """The instruction."""
    parsed: ParsedInstruction | None = None
    registers: Mapping[str, int] = field(default_factory=dict)
    differing: tuple[str, ...] = ()
    """Registers of the instruction that the debugger and the log have different values of."""
    address: int | None = None
    """That the instruction makes of its registers."""
    base: Base | None = None
    load: MemoryOperand | None = None
    """The memory that the base's register was loaded from, if the word there still has its value."""
    load_address: int | None = None
    load_base: Base | None = None
    addresses: tuple[int, ...] = ()
    """What lies there is to be asked."""

    @property
    def members(self) -> tuple[tuple[int, int], ...]:
        """(index of a variable, offset) for each pair that a member is to be asked for."""
        bases = [one for one in (self.base, self.load_base) if one is not None]
        return tuple((index, one.offset) for one in bases for index in one.variables)

    @property
    def words(self) -> tuple[int, ...]:
        return () if self.load_address is None else (self.load_address,)

    def member(self, values: Values | None, index: int, offset: int) -> tuple[str, str] | None:
        """(type, member) at the offset in what a variable points to; None where there is none of that kind."""
        if values is None or (index, offset) not in self.members:
            return None
        found = values.members[self.members.index((index, offset))]
        return None if found.error or not found.member or "<" in found.member else (found.type, found.member)


def inspect(oops: Oops, facts: Facts | None, arch: str | None) -> Inspection:
    """Read the instruction of an oops, if its code was disassembled, and the machine's instructions are understood."""
    registers = dict(oops.registers)
    debugger = facts.registers if facts else {}
    for name, there in debugger.items():
        registers.setdefault(name, there)
    text, before = _instructions(oops, facts, arch)
    parsed = instruction.parse(text, arch) if text is not None else None
    if parsed is None:
        return Inspection(text=text, registers=registers, addresses=_kernel_addresses(oops, ()))
    named = parsed.read
    differing = tuple(
        one for one in named if one in debugger and one in oops.registers and debugger[one] != oops.registers[one]
    )
    memory = parsed.memory
    address = memory.address(registers) if memory is not None else None
    base = load_base = None
    load, load_address = None, None
    if memory is not None and memory.base is not None and (value := registers.get(memory.base)) is not None:
        base = _base(memory.base, value, memory.displacement, facts)
        load = instruction.loaded_from(before, memory.base, arch)
        load_address = load.address(registers) if load is not None else None
        if load is not None and load_address is not None and load.base is not None:
            load_base = _base(load.base, registers[load.base], load.displacement, facts)
    wanted = [load_address, *(registers.get(one) for one in named)]
    return Inspection(
        text=text,
        parsed=parsed,
        registers=registers,
        differing=differing,
        address=address,
        base=base,
        load=load,
        load_address=load_address,
        load_base=load_base,
        addresses=_kernel_addresses(oops, wanted),
    )


def _instructions(oops: Oops, facts: Facts | None, arch: str | None) -> tuple[str | None, list[str]]:
    """The instruction, and those before it: of the dump's disassembler, else of the code that the log has."""
    listed = {one.offset: one.text for one in facts.instructions} if facts else {}
    if 0 in listed or arch != "aarch64":
        return listed.get(0), [text for offset, text in listed.items() if offset < 0]
    words = [oops.code[at : at + 4] for at in range(oops.code_at % 4, oops.code_at + 4, 4)]
    if not words or len(words[-1]) < 4:
        return None, []
    *before, text = (arm64_decode.decode(int.from_bytes(word, "little")) for word in words)
    # What is not understood may have written any register.
    known = list(itertools.takewhile(lambda one: one is not None, reversed(before)))
    return text, [one for one in reversed(known) if one is not None]


def _base(register: str, value: int, offset: int, facts: Facts | None) -> Base:
    variables = facts.variables if facts else ()
    pointers = [number for number, one in enumerate(variables) if one.pointer and one.value == value]
    return Base(register=register, value=value, offset=offset, variables=tuple(pointers[:_MOST_ADDRESSES]))


def _kernel_addresses(oops: Oops, more: Sequence[int | None]) -> tuple[int, ...]:
    found = [one for one in (oops.address, oops.bad_place, *more) if one is not None and one >= _KERNEL]
    return tuple(dict.fromkeys(found))[:_MOST_ADDRESSES]
