"""Links that drm_panic shows as a QR code: URL?a=MACHINE&v=RELEASE&z=DIGITS, the end of the log compressed with zlib.

The digits are drivers/gpu/drm/drm_panic_qr.rs': `z` has 17 for each 7 bytes, read as a little-endian number. Before
(commit dbed4a797e00 ("drm/panic: Better binary encoding in QR code"), v6.15) `zl` had 4 digits for each 13 bits, the
first bit the highest.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.errors import DumpDamaged

_LINK: Final = re.compile(rb"https?://[^\s<>\"']{1,300}?[?&](?:[\w.~%+=-]{1,200}&){0,8}?(zl?)=([0-9]{8,20000})")
_PARAMETER: Final = re.compile(rb"[?&]([av])=([\w.~%+-]{1,128})")

_MOST: Final = 64 << 10
"""Bytes of text in a link; the kernel puts 8868 (MAX_ZLIB_RATIO * MAX_QR_DATA, drm_panic.c) in at most."""

_BYTES_OF_DIGITS: Final = {0: 0, 3: 1, 5: 2, 8: 3, 10: 4, 13: 5, 15: 6}
"""BYTES_TO_DIGITS of drm_panic_qr.rs, for what is left after the last 7 bytes."""
_BITS_OF_DIGITS: Final = {1: range(1, 5), 2: range(5, 8), 3: range(8, 11), 4: range(11, 14)}
"""The same of `zl`, for what is left after the last 13 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicLink:
    """What a link contains."""

    arch: str | None
    release: str | None
    text: bytes
    """The last lines of the kernel's log."""


def find(text: bytes) -> PanicLink | None:
    """The first link in a text, e.g. a mail; None when it has none. Raises `DumpDamaged` for one that is cut."""
    if b"z=" not in text and b"zl=" not in text:
        return None
    found = _LINK.search(text)
    if found is None:
        return None
    try:
        if found[1] == b"z":
            log = zlib.decompressobj().decompress(bytes(_bytes(found[2])), _MOST)
        else:
            # Its last 4 bits may be more than their one digit can hold: the checksum at the end cannot be compared.
            log = zlib.decompressobj(-15).decompress(bytes(_bits(found[2]))[2:], _MOST)
    except zlib.error as error:
        raise DumpDamaged(f"the link of the panic screen is damaged: {error}", hint="copy or scan all of it") from None
    if not log:
        raise DumpDamaged("the link of the panic screen is cut off", hint="copy or scan all of it")
    values = {name: _unquoted(value) for name, value in _PARAMETER.findall(found[0])}
    return PanicLink(arch=values.get(b"a"), release=values.get(b"v"), text=log)


def _unquoted(value: bytes) -> str:
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(value).decode("utf-8", "replace")


def _bytes(digits: bytes) -> Iterator[int]:
    for at in range(0, len(digits), 17):
        piece = digits[at : at + 17]
        count = 7 if len(piece) == 17 else _BYTES_OF_DIGITS.get(len(piece), 0)
        number = int(piece)
        if number >> 8 * count:
            raise DumpDamaged("the link of the panic screen is damaged: its digits are no bytes", hint="scan it again")
        yield from number.to_bytes(count, "little")


def _bits(digits: bytes) -> Iterator[int]:
    bits = kept = 0
    for at in range(0, len(digits), 4):
        piece = digits[at : at + 4]
        width = 13
        if at + 4 >= len(digits):
            # The last digits are of as many bits as complete the last byte.
            width = next((one for one in _BITS_OF_DIGITS[len(piece)] if (kept + one) % 8 == 0), 13)
        number = int(piece)
        if number >> width:
            raise DumpDamaged("the link of the panic screen is damaged: its digits are no bits", hint="scan it again")
        bits, kept = bits << width | number, kept + width
        while kept >= 8:
            kept -= 8
            yield bits >> kept
            bits &= (1 << kept) - 1
