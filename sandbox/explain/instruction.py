"""Instructions as objdump prints them, of the machines whose operands are understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sandbox.explain import arm64, x86
from sandbox.explain.operands import MemoryOperand, ParsedInstruction

_PARSERS: Final[Mapping[str, Callable[[str], ParsedInstruction]]] = {"x86_64": x86.parse, "aarch64": arm64.parse}


def parse(text: str, arch: str | None) -> ParsedInstruction | None:
    """Parse an instruction; None where the machine's are not understood."""
    parser = _PARSERS.get(arch or "")
    return None if parser is None else parser(text)


def loaded_from(before: Sequence[str], register: str, arch: str | None) -> MemoryOperand | None:
    """The memory that the last of the instructions `before` that writes `register` loaded it from.

    None where something else wrote it, or where a register of that memory's address was written since. The code may
    have come another way: the caller compares the memory with the register.
    """
    changed: set[str] = set()
    for text in reversed(before):
        one = parse(text, arch)
        if one is None or one.leaves:
            return None
        if register in one.written:
            found = one.memory
            if found is None or one.loaded != register:
                return None
            used = {name for name in (found.base, found.index) if name is not None}
            return None if used & (changed | {register}) else found
        changed.update(one.written)
    return None
