"""Logs that firmware or reserved memory kept over a reboot: the parts that pstore shows below /sys/fs/pstore.

A dump of the log is written from its end: part 1 has the last lines. Each part begins with a line such as
"Panic#2 Part1" (fs/pstore/platform.c:pstore_dump). What the kernel could not decompress is named `.enc.z`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"dmesg-(?P<backend>[a-z][a-z_]{1,30})-(?P<id>\d{1,20})(?P<packed>\.enc\.z)?")
_HEAD: Final = re.compile(rb"(?P<reason>[A-Z][a-z]{3,9})#(?P<count>\d{1,9}) Part(?P<part>\d{1,4})\n")

LARGEST: Final = 1 << 20
"""Bytes of one part, packed or not; records of firmware have some KiB."""
MOST: Final = 1024
"""Parts of one directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One record."""

    path: Path
    backend: str
    number: int
    """The id in its name."""
    reason: str
    count: int
    part: int
    text: bytes

    @property
    def group(self) -> tuple[str, int, str, int]:
        """What the parts of one dump of the log have in common."""
        # An id of EFI variables is (time * 100 + part) * 1000 + count (drivers/firmware/efi/efi-pstore.c).
        stamp = self.number // 100_000 if self.backend.startswith("efi") else 0
        return self.backend, stamp, self.reason, self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The log of one crash."""

    text: bytes
    last: Path
    """The part with its end."""
    problem: str | None
    """What is missing of it, in words."""


def is_part(name: str) -> bool:
    """Whether a file is named as pstore names a part of a log."""
    return _NAME.fullmatch(name) is not None


def read(path: Path, content: bytes) -> Part | None:
    """One part; None for a file that is none, or that is compressed in another way than with zlib."""
    named = _NAME.fullmatch(path.name)
    if named is None:
        return None
    text = content if named["packed"] is None else _inflated(content)
    head = _HEAD.match(text or b"")
    if text is None or head is None:
        return None
    return Part(
        path=path,
        backend=named["backend"],
        number=int(named["id"]),
        reason=head["reason"].decode("ascii"),
        count=int(head["count"]),
        part=int(head["part"]),
        text=text[head.end() :],
    )


def join(parts: Iterable[Part], wanted: Path | None = None) -> Joined | None:
    """The log of the last panic in `parts`, else of the last oops; or the one that `wanted` is a part of."""
    dumps: dict[tuple[str, int, str, int, int], dict[int, Part]] = {}
    for part in sorted(parts, key=lambda part: part.number):
        # A number that is there already is of a later crash: the count begins again with each boot.
        turn = next(turn for turn in range(MOST + 1) if part.part not in dumps.get((*part.group, turn), {}))
        dumps.setdefault((*part.group, turn), {})[part.part] = part
    chosen = max(dumps.items(), key=lambda one: _rank(one[0], one[1], wanted), default=None)
    if chosen is None:
        return None
    found = chosen[1]
    missing = sorted({*range(1, max(found) + 1)} - {*found})
    words = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
    return Joined(
        text=b"".join(_ended(found[number].text) for number in sorted(found, reverse=True)),
        last=found[min(found)].path,
        problem=f"pstore has no part {words} of this log" if missing else None,
    )


def _rank(
    key: tuple[str, int, str, int, int], parts: dict[int, Part], wanted: Path | None
) -> tuple[bool, int, int, int, int]:
    _, stamp, reason, count, _ = key
    named = any(part.path == wanted for part in parts.values())
    severity = {"Panic": 2, "Oops": 1}.get(reason, 0)
    return named, severity, stamp, count, max(part.number for part in parts.values())


def _ended(text: bytes) -> bytes:
    text = text.rstrip(b"\0")
    return text if text.endswith(b"\n") else text + b"\n"


def _inflated(content: bytes) -> bytes | None:
    # With a zlib header up to 4.17, and without since then.
    for bits in (15, -15):
        try:
            return zlib.decompressobj(bits).decompress(content, LARGEST)
        except zlib.error:
            continue
    return None
