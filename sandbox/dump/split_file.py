"""Parts of a file that split(1) made, as customers send a dump in pieces: NAME.aa, NAME.ab …, or NAME.00, NAME.001."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sandbox.dump.source import beside
from sandbox.errors import pasteable

_SUFFIX: Final = re.compile(r"(?:[a-z]{2,4}|[0-9]{2,4})$")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_DIGITS: Final = "0123456789"
_MOST: Final = 1000
_SHOWN: Final = 4
"""Parts that a hint names each."""


def parts(path: Path) -> list[Path]:
    """All parts, the first one first, of which `path` is one; empty where it is none, or has no neighbour.

    A suffix has two characters or more; -d counts from 00, other programs from 001.
    """
    found = _SUFFIX.search(path.name)
    for length in range(2, len(found[0]) + 1) if found is not None else ():
        stem, own = path.name[:-length], path.name[-length:]
        alphabet = _DIGITS if own.isdecimal() else _LETTERS
        if not stem or not set(own) <= set(alphabet):
            continue
        for begin in (0, 1) if alphabet is _DIGITS else (0,):
            names = [stem + _suffix(number, length, alphabet) for number in range(begin, begin + _MOST)]
            there: list[Path] = []
            for name in names:
                if (part := beside(path, name)) is None:
                    break
                there.append(part)
            if len(there) > 1 and path.name in {part.name for part in there}:
                return there
    return []


def remark(path: Path) -> str:
    """What is added to the reason why a file is cut off, where it is the first of several parts; else empty."""
    found = parts(path)
    return f"; it is the first of {len(found)} parts, {join_command(found)}" if found[:1] == [path] else ""


def join_command(found: list[Path]) -> str:
    """The command that joins the parts, as a hint."""
    first = found[0]
    stem = re.sub(r"[._-]?(?:part[._-]?)?(?:[a-z]{2,4}|[0-9]{2,4})$", "", first.name) or "vmcore"
    named = " ".join(pasteable(part) for part in (found if len(found) <= _SHOWN else [first, found[1]]))
    more = "" if len(found) <= _SHOWN else f" … {pasteable(found[-1])}"
    return f"join them: cat {named}{more} > {pasteable(first.with_name(f'{stem}.whole'))}"


def _suffix(number: int, length: int, alphabet: str) -> str:
    text = ""
    for _ in range(length):
        number, digit = divmod(number, len(alphabet))
        text = alphabet[digit] + text
    return text
