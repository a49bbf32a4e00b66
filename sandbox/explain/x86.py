"""Operands of an x86_64 instruction in AT&T syntax, as objdump prints it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from sandbox.explain.operands import MemoryOperand, ParsedInstruction

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


def _access(mnemonic: str, operands: Sequence[str], memory: MemoryOperand | None) -> str | None:
    """What an instruction does to `memory`: read or write; None where it does both, or this is not known of it."""
    if memory is None or not operands:
        return None
    last = operands[-1].lstrip("*") == memory.text
    if _READS.match(mnemonic) or mnemonic.startswith(("call", "jmp", "push")):
        return "read"
    if _CHANGES.match(mnemonic):
        return None if last else "read"
    if not last:
        return "read"
    return "write" if _WRITES.match(mnemonic) and mnemonic[:4] not in {"xchg", "cmpx"} else None


def parse(text: str) -> ParsedInstruction:
    """Parse an instruction; what is behind its operands, e.g. an address in <>, is left out."""
    text = _PREFIX.sub("", text.partition("#")[0].strip())
    mnemonic, _, rest = text.partition(" ")
    operands = tuple(part.strip() for part in re.split(r",(?![^(]*\))", rest.strip()) if part.strip())
    memory = None
    if not _LEA.match(mnemonic):
        memory = next((_memory(found) for one in operands if (found := _MEMORY.search(one))), None)
    written = () if not operands or _KEPT.match(mnemonic) or operands[-1][:1] != "%" else (full(operands[-1][1:]),)
    whole = memory is not None and memory.segment is None and re.fullmatch(r"mov[q]?", mnemonic) is not None
    return ParsedInstruction(
        mnemonic=mnemonic,
        operands=operands,
        memory=memory,
        access=_access(mnemonic, operands, memory),
        read=_read(mnemonic, operands),
        written=written,
        loaded=written[0] if whole and written == (operands[-1][1:],) else None,
        leaves=mnemonic.startswith(("call", "jmp", "ret", "syscall")),
    )


def _memory(found: re.Match[str]) -> MemoryOperand:
    return MemoryOperand(
        text=found[0],
        base=found["base"],
        index=found["index"],
        scale=int(found["scale"] or 1),
        displacement=int(found["displacement"] or "0", 16),
        segment=found["segment"],
    )


def _read(mnemonic: str, operands: Sequence[str]) -> tuple[str, ...]:
    """The 64-bit registers that an instruction reads, each once, in its order."""
    read = list(operands)
    if len(read) > 1 and re.match(r"(?:mov|lea|set|pop)", mnemonic) and read[-1].startswith("%"):
        read.pop()
    named = (full(name) for operand in read for name in re.findall(r"%([a-z][a-z0-9]{1,4})\b", operand))
    return tuple(dict.fromkeys(one for one in named if one not in {"rip", "cs", "ds", "es", "fs", "gs", "ss"}))


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
