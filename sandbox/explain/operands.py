"""What is understood of an instruction: the registers and the memory that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_WORD: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOperand:
    """base + index * scale + displacement."""

    text: str
    base: str | None
    index: str | None
    scale: int
    displacement: int
    segment: str | None = None
    """Of x86: fs and gs have a base that no register of the log has."""
    extend: str | None = None
    """Of arm64: uxtw or sxtw, where the lower half of `index` counts, without or with its sign."""

    def address(self, registers: Mapping[str, int]) -> int | None:
        """The address, by the registers' values; None where one is not known, or a segment has a base of its own."""
        if self.segment in {"fs", "gs"} or self.base == "rip":
            return None
        total = self.displacement
        for register, scale, extend in ((self.base, 1, None), (self.index, self.scale, self.extend)):
            if register is not None:
                if register not in registers:
                    return None
                total += _extended(registers[register], extend) * scale
        return total & _WORD


def _extended(value: int, extend: str | None) -> int:
    if extend is None:
        return value
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if extend == "sxtw" and low >> 31 else low


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedInstruction:
    mnemonic: str
    operands: tuple[str, ...]
    memory: MemoryOperand | None
    """The memory that it reads or writes, if its text names that."""
    access: str | None
    """What it does to `memory`: read or write; None where it does both, or this is not known of it."""
    read: tuple[str, ...]
    """The 64-bit registers that it reads, each once, in its order."""
    written: tuple[str, ...]
    """Those that it writes, also in part."""
    loaded: str | None
    """The register that it loads whole from `memory`, and does nothing else to."""
    leaves: bool
    """Whether what is before it in memory need not have run before what is behind it: a call, a jump, a return."""
