"""Values that the kernel writes where nothing may be read from any more, and addresses that no pointer can have."""

from __future__ import annotations

from typing import Final

_BYTES: Final = {
    0x6B: "POISON_FREE, which SLUB writes over freed objects",
    0x5A: "POISON_INUSE, which SLUB writes over objects before they are initialized",
    0xBB: "SLUB_RED_INACTIVE, the red zone of a free object",
    0xCC: "SLUB_RED_ACTIVE, the red zone of an object in use",
    0xAA: "PAGE_POISON, which fills free pages",
}
"""include/linux/poison.h: bytes that are repeated over a word."""

_LIST: Final = {
    0xDEAD000000000100: "LIST_POISON1, which list_del() writes into next of the entry that it removed",
    0xDEAD000000000122: "LIST_POISON2, which list_del() writes into prev of the entry that it removed",
    0xDEAD000000000200: "LIST_POISON2, which list_del() writes into prev of the entry that it removed",
}
"""include/linux/poison.h of newer and older kernels; POISON_POINTER_DELTA is 0xdead000000000000 on x86_64 and arm64."""

_MAX_ERRNO: Final = 4095


def name(value: int) -> str | None:
    """What a register's 64-bit value is, where it is a value that is no use as a pointer; else None."""
    octets = value.to_bytes(8, "little")
    if value in _LIST:
        return _LIST[value]
    counted = max(set(octets), key=octets.count)
    if octets.count(counted) >= 7 and counted in _BYTES:
        return _BYTES[counted]
    if value >= (1 << 64) - _MAX_ERRNO:
        return f"ERR_PTR(-{(1 << 64) - value}): an error number, not a pointer"
    if text := _text(octets):
        return f'the text "{text}"'
    return None


def _text(octets: bytes) -> str:
    """The word as text, where all of it, or all but NULs behind at least six characters, can be printed."""
    text = octets.rstrip(b"\0")
    return text.decode() if len(text) >= 6 and all(0x20 <= one < 0x7F for one in text) else ""
