"""Text of arm64 instructions that can fault, in objdump's words, of their 32 bits.

The case of a dump has the objdump of this host's machine, and a log alone has none. Encodings are those of the Arm
Architecture Reference Manual (DDI 0487), C4.1 "Loads and Stores"; of floating point and vectors, which the kernel
hardly uses, and of all other instructions, nothing is said.
"""

from __future__ import annotations

from typing import Final

_ATOMICS: Final = ("ldadd", "ldclr", "ldeor", "ldset", "ldsmax", "ldsmin", "ldumax", "ldumin")
_EXTENDS: Final = {2: "uxtw", 3: "lsl", 6: "sxtw", 7: "sxtx"}


def decode(word: int) -> str | None:
    """The text of one instruction; None for one that is not understood."""
    if word & 0xFFE0001F == 0xD4200000:
        return f"brk #0x{word >> 5 & 0xFFFF:x}"
    if word >> 16 == 0:
        return f"udf #{word & 0xFFFF}"
    if (branch := {0xD61F0000: "br", 0xD63F0000: "blr"}.get(word & 0xFFFFFC1F)) is not None:
        return f"{branch} {_register(word >> 5, wide=True)}"
    if word >> 24 & 0x3F == 0x08:
        return _exclusive(word)
    group, vector = word >> 27 & 7, word >> 26 & 1
    if vector:
        return None
    if group == 5:
        return _pair(word)
    return _single(word) if group == 7 else None


def listing(code: bytes, at: int) -> list[tuple[int, str]]:
    """(offset from `at`, text) of each whole instruction in `code`; of one that is not understood its bits."""
    words = [
        (offset, int.from_bytes(code[offset : offset + 4], "little")) for offset in range(at % 4, len(code) - 3, 4)
    ]
    return [(offset - at, decode(word) or f".inst 0x{word:08x}") for offset, word in words]


def _register(number: int, *, wide: bool, address: bool = False) -> str:
    number &= 31
    if number == 31:
        return "sp" if address else "xzr" if wide else "wzr"
    return f"{'x' if wide else 'w'}{number}"


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _at(word: int, inside: str = "") -> str:
    return f"[{_register(word >> 5, wide=True, address=True)}{', ' if inside else ''}{inside}]"


def _offset(word: int, offset: int) -> str:
    return _at(word, f"#{offset}" if offset else "")


def _single(word: int) -> str | None:
    """Of one register: with an offset, with another register, with write-back, and atomic ones."""
    size, operation, mode = word >> 30, word >> 22 & 3, word >> 24 & 3
    if mode > 1:
        return None
    if mode == 0 and word >> 21 & 1 and word >> 10 & 3 == 0:
        return _atomic(word)
    if (operation == 3 and size > 1) or (operation == 2 and size == 3):
        return None  # not allocated, or a prefetch
    wide = size == 3 or operation == 2
    letter = ("b", "h", "w" if operation == 2 else "", "")[size]
    name = "st" if operation == 0 else "ld"
    signed = "s" if operation > 1 else ""
    register = _register(word, wide=wide)
    if mode == 1:
        return f"{name}r{signed}{letter} {register}, {_offset(word, (word >> 10 & 0xFFF) << size)}"
    if word >> 21 & 1:
        return _indexed(word, f"{name}r{signed}{letter} {register}", size) if word >> 10 & 3 == 2 else None
    offset = _signed(word >> 12, 9)
    kind = word >> 10 & 3
    if kind == 0:
        return f"{name}ur{signed}{letter} {register}, {_offset(word, offset)}"
    if kind == 1:
        return f"{name}r{signed}{letter} {register}, {_at(word)}, #{offset}"
    if kind == 2:
        return f"{name}tr{signed}{letter} {register}, {_offset(word, offset)}"
    return f"{name}r{signed}{letter} {register}, {_at(word, f'#{offset}')}!"


def _indexed(word: int, begin: str, size: int) -> str | None:
    extend = _EXTENDS.get(word >> 13 & 7)
    if extend is None:
        return None
    index = _register(word >> 16, wide=extend in {"lsl", "sxtx"})
    shifted = word >> 12 & 1
    if extend == "lsl" and not shifted:
        return f"{begin}, {_at(word, index)}"
    return f"{begin}, {_at(word, f'{index}, {extend}' + (f' #{size}' if shifted else ''))}"


def _atomic(word: int) -> str | None:
    size, acquire, release = word >> 30, word >> 23 & 1, word >> 22 & 1
    operation = word >> 12 & 15
    letter = ("b", "h", "", "")[size]
    order = ("a" if acquire else "") + ("l" if release else "")
    source, target = (_register(word >> at, wide=size == 3) for at in (16, 0))
    if operation == 8:
        return f"swp{order}{letter} {source}, {target}, {_at(word)}"
    if operation == 12 and acquire and not release and word >> 16 & 31 == 31:
        return f"ldapr{letter} {target}, {_at(word)}"
    if operation > 7:
        return None
    if word & 31 == 31 and not acquire:
        return f"st{_ATOMICS[operation][2:]}{order}{letter} {source}, {_at(word)}"
    return f"{_ATOMICS[operation]}{order}{letter} {source}, {target}, {_at(word)}"


def _pair(word: int) -> str | None:
    kind, load, mode = word >> 30, word >> 22 & 1, word >> 23 & 7
    if kind == 3 or mode > 3 or (kind == 1 and not (load and mode)):
        return None
    scale = 8 if kind == 2 else 4
    offset = _signed(word >> 15, 7) * scale
    name = ("ld" if load else "st") + ("np" if mode == 0 else "psw" if kind == 1 else "p")
    registers = ", ".join(_register(word >> at, wide=kind > 0) for at in (0, 10))
    if mode == 1:
        return f"{name} {registers}, {_at(word)}, #{offset}"
    return f"{name} {registers}, " + (f"{_at(word, f'#{offset}')}!" if mode == 3 else _offset(word, offset))


def _exclusive(word: int) -> str | None:
    size, load, ordered = word >> 30, word >> 22 & 1, word >> 15 & 1
    wide, letter = size == 3, ("b", "h", "", "")[size]
    status, target = _register(word >> 16, wide=False), _register(word, wide=wide)
    kind = word >> 23 & 1, word >> 21 & 1
    if kind == (0, 0):
        if load:
            return f"ld{'a' if ordered else ''}xr{letter} {target}, {_at(word)}"
        return f"st{'l' if ordered else ''}xr{letter} {status}, {target}, {_at(word)}"
    if kind == (1, 0):
        name = ("ldar" if load else "stlr") if ordered else ("ldlar" if load else "stllr")
        return f"{name}{letter} {target}, {_at(word)}"
    if kind == (1, 1):
        if word >> 10 & 31 != 31:
            return None
        order = ("a" if load else "") + ("l" if ordered else "")
        return f"cas{order}{letter} {_register(word >> 16, wide=wide)}, {target}, {_at(word)}"
    if size < 2:
        return None
    second = _register(word >> 10, wide=wide)
    if load:
        return f"ld{'a' if ordered else ''}xp {target}, {second}, {_at(word)}"
    return f"st{'l' if ordered else ''}xp {status}, {target}, {second}, {_at(word)}"
