"""Operands of an x86 instruction in AT&T syntax, as objdump prints it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_MEMORY: Final = re.compile(
    r"(?:%(?P<segment>[a-z]s):)?(?P<displacement>-?0x[0-9a-f]+)?"
    r"\((?:%(?P<base>r\w+|e\w+))?(?:,%(?P<index>r\w+|e\w+)(?:,(?P<scale>[1248]))?)?\)"
)
_PREFIX: Final = re.compile(r"^(?:(?:lock|rep|repz|repnz|notrack|data16|bnd|cs|ds) )+")
_WRITES: Final = re.compile(r"(?:mov|set|stos|xchg|cmpxchg|xadd)")
_CHANGES: Final = re.compile(r"(?:add|sub|or|and|xor|inc|dec|neg|not|adc|sbb|sh[lr]|sa[lr]|ro[lr]|bt[src])[bwlq]?$")
_READS: Final = re.compile(r"(?:cmp|test|bt)[bwlq]?$")
_LEA: Final = re.compile(r"(?:lea|nop)[wlq]?$")
_KEPT: Final = re.compile(r"(?:cmp|test|bt|push|j[a-z]+|nop|ud)[bwlq]?$")
"""Instructions that change no register that they name."""
_FULL: Final = {
    **{f"{half}{kind}": f"r{kind}" for kind in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp") for half in ("e", "")},
    **{f"{letter}l": f"r{letter}x" for letter in "abcd"},
    **{f"{letter}h": f"r{letter}x" for letter in "abcd"},
    **{f"{kind}l": f"r{kind}" for kind in ("si", "di", "bp", "sp")},
}
_WORD: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOperand:
    """displacement(base, index, scale)."""

    text: str
    base: str | None
    index: str | None
    scale: int
    displacement: int
    segment: str | None

    def address(self, registers: Mapping[str, int]) -> int | None:
        """The address, by the registers' values; None where one is not known, or a segment has a base of its own."""
        if self.segment in {"fs", "gs"} or self.base == "rip":
            return None
        total = self.displacement
        for register, scale in ((self.base, 1), (self.index, self.scale)):
            if register is not None:
                if register not in registers:
                    return None
                total += registers[register] * scale
        return total & _WORD


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedInstruction:
    mnemonic: str
    operands: tuple[str, ...]
    memory: MemoryOperand | None
    """The memory that it reads or writes, if its text names that."""

    @property
    def access(self) -> str | None:
        """What it does to `memory`: read or write; None where it does both, or this is not known of it."""
        if self.memory is None or not self.operands:
            return None
        last = self.operands[-1].lstrip("*") == self.memory.text
        if _READS.match(self.mnemonic) or self.mnemonic.startswith(("call", "jmp", "push")):
            return "read"
        if _CHANGES.match(self.mnemonic):
            return None if last else "read"
        if not last:
            return "read"
        return "write" if _WRITES.match(self.mnemonic) and self.mnemonic[:4] not in {"xchg", "cmpx"} else None


def parse(text: str) -> ParsedInstruction:
    """Parse an instruction; what is behind its operands, e.g. an address in <>, is left out."""
    text = _PREFIX.sub("", text.partition("#")[0].strip())
    mnemonic, _, rest = text.partition(" ")
    operands = tuple(part.strip() for part in re.split(r",(?![^(]*\))", rest.strip()) if part.strip())
    memory = None
    if not _LEA.match(mnemonic):
        memory = next((_memory(found) for one in operands if (found := _MEMORY.search(one))), None)
    return ParsedInstruction(mnemonic=mnemonic, operands=operands, memory=memory)


def _memory(found: re.Match[str]) -> MemoryOperand:
    return MemoryOperand(
        text=found[0],
        base=found["base"],
        index=found["index"],
        scale=int(found["scale"] or 1),
        displacement=int(found["displacement"] or "0", 16),
        segment=found["segment"],
    )


def registers_of(text: str) -> list[str]:
    """The 64-bit registers that an instruction reads, each once, in its order."""
    one = parse(text)
    read = list(one.operands)
    if len(read) > 1 and re.match(r"(?:mov|lea|set|pop)", one.mnemonic) and read[-1].startswith("%"):
        read.pop()
    named = (full(name) for operand in read for name in re.findall(r"%([a-z][a-z0-9]{1,4})\b", operand))
    return list(dict.fromkeys(one for one in named if one not in {"rip", "cs", "ds", "es", "fs", "gs", "ss"}))


def divisor(text: str, registers: Mapping[str, int]) -> int | None:
    """The value that a division divides by, unsigned; None where the instruction is none, or divides by memory."""
    one = parse(text)
    if not re.fullmatch(r"i?div[bwlq]?", one.mnemonic) or len(one.operands) != 1 or one.memory is not None:
        return None
    name = one.operands[0].lstrip("%")
    value = registers.get(full(name))
    if value is None or re.fullmatch(r"[a-d]h", name):
        return None
    return value & ((1 << _width(name)) - 1)


def _width(register: str) -> int:
    """Bits of a register, by its name."""
    if re.fullmatch(r"r(?:\d+|[a-z]{2})", register):
        return 64
    if register.startswith("e") or re.fullmatch(r"r\d+d", register):
        return 32
    return 8 if register.endswith(("l", "b")) else 16


def full(register: str) -> str:
    """The 64-bit register that `register` is a part of: rax for eax, r8 for r8d."""
    if register in _FULL:
        return _FULL[register]
    return re.sub(r"^(r\d+)[dwb]$", r"\1", register)


def loaded_from(before: Sequence[str], register: str) -> MemoryOperand | None:
    """The memory that the last of the instructions `before` that writes `register` loaded it from.

    None where something else wrote it, or where a register of that memory's address was written since. The code may
    have come another way: the caller compares the memory with the register.
    """
    changed: set[str] = set()
    for text in reversed(before):
        one = parse(text)
        if one.mnemonic.startswith(("call", "jmp", "ret", "syscall")):
            return None
        if not one.operands or _KEPT.match(one.mnemonic):
            continue
        last = one.operands[-1]
        if not last.startswith("%"):
            continue
        target = full(last[1:])
        if target != register:
            changed.add(target)
            continue
        found = one.memory
        if found is None or not re.fullmatch(r"mov[q]?", one.mnemonic) or last[1:] != register:
            return None
        used = {full(name) for name in (found.base, found.index) if name is not None}
        return None if used & (changed | {register}) or found.segment is not None else found
    return None
