"""Operands of an arm64 instruction, as objdump prints it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sandbox.explain.operands import MemoryOperand, ParsedInstruction

_MEMORY: Final = re.compile(
    r"\[(?P<base>x\d{1,2}|sp)(?:, (?:#(?P<displacement>-?(?:0x[0-9a-f]+|\d+))"
    r"|(?P<index>[xw]\d{1,2})(?:, (?P<extend>lsl|[us]xt[wx])(?: #(?P<shift>\d))?)?))?\](?P<before>!)?"
)
_ATOMIC: Final = re.compile(r"(?:ld|st)(?:add|clr|eor|set|[us]max|[us]min)|swp|casp?")
"""Instructions that read memory and write it."""
_EXCLUSIVE: Final = re.compile(r"stl?x(?:r|p)")
"""Their first register takes whether they have written."""
_LOADS: Final = re.compile(r"ld")
_STORES: Final = re.compile(r"st")
_PAIR: Final = re.compile(r"ld(?:n|a?x)?p(?:sw)?$")
_KEPT: Final = re.compile(
    r"(?:b|br|bl|blr|ret|reta[ab]|bra[ab]z?|blra[ab]z?|cbn?z|tbn?z|cmp|cmn|tst|ccmp|ccmn|msr|brk|hlt|udf|nop|hint|bti"
    r"|paciasp|autiasp|pac\w+|aut\w+|dmb|dsb|isb|sb|yield|wfe|wfi|sev|sevl|prfum?|prfm|dc|ic|at|tlbi|svc|hvc|smc|eret)"
    r"(?:\.\w+)?$"
)
"""Instructions that write none of the registers that they name."""
_LEAVES: Final = re.compile(r"(?:b|br|bra[ab]z?|bl|blr|blra[ab]z?|ret|reta[ab]|eret|svc|hvc|smc)$")
_REGISTER: Final = re.compile(r"(?<![\w#])(?:([xw])(\d{1,2})|(w?sp))(?!\w)")


def parse(text: str) -> ParsedInstruction:
    """Parse an instruction; what is behind its operands, e.g. a comment or a name in <>, is left out."""
    text = re.split(r"//|<", " ".join(text.split()), maxsplit=1)[0].strip()
    mnemonic, _, rest = text.partition(" ")
    operands = tuple(part.strip() for part in re.split(r",(?![^\[]*\])", rest) if part.strip())
    found = None if mnemonic.startswith("prf") else _MEMORY.search(rest)
    memory = _memory(found) if found is not None else None
    written, read = _registers(mnemonic, operands)
    if found is not None and memory is not None and (found["before"] or operands[-1] != found[0]):
        # The address is written back: [x0, #8]!, or [x0], #8.
        written = (*written, found["base"])
    whole = re.fullmatch(r"ldu?r|ldtr|ldar|ldapu?r", mnemonic) is not None and operands[0].startswith("x")
    return ParsedInstruction(
        mnemonic=mnemonic,
        operands=operands,
        memory=memory,
        access=_access(mnemonic) if memory is not None else None,
        read=read,
        written=written,
        loaded=written[0] if whole and memory is not None and len(written) == 1 else None,
        leaves=_LEAVES.match(mnemonic) is not None,
    )


def _memory(found: re.Match[str]) -> MemoryOperand:
    # Behind the bracket is what is added afterwards.
    return MemoryOperand(
        text=found[0],
        base=found["base"],
        index=_full(found["index"]) if found["index"] else None,
        scale=1 << int(found["shift"] or 0),
        displacement=int(found["displacement"] or "0", 0),
        extend=found["extend"] if found["extend"] in {"uxtw", "sxtw"} else None,
    )


def _access(mnemonic: str) -> str | None:
    if _ATOMIC.match(mnemonic):
        return None
    if _LOADS.match(mnemonic):
        return "read"
    return "write" if _STORES.match(mnemonic) else None


def _registers(mnemonic: str, operands: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(written, read), without the address that is written back."""
    if _KEPT.match(mnemonic):
        first, last = 0, 0
    elif _ATOMIC.match(mnemonic):
        # cas compares its first with memory, and leaves there what it found; the others leave that in the second.
        first, last = (0, 1) if mnemonic.startswith("cas") else (1, 2) if len(operands) > 2 else (0, 0)
    elif _STORES.match(mnemonic):
        first, last = 0, 1 if _EXCLUSIVE.match(mnemonic) else 0
    else:
        first, last = 0, 2 if _PAIR.match(mnemonic) else 1
    also = mnemonic.startswith(("cas", "movk", "bfi", "bfxil", "ins"))
    read = operands if also else (*operands[:first], *operands[last:])
    return _names(operands[first:last]), _names(read)


def _names(operands: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_full(found[0]) for one in operands for found in _REGISTER.finditer(one)))


def _full(register: str) -> str:
    """The 64-bit register that `register` is the lower half of: x0 for w0."""
    return "x" + register[1:] if re.fullmatch(r"w\d{1,2}", register) else register.removeprefix("w")
