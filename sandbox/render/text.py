"""Text for people and JSON for programs: what is shown, as strings. Nothing is printed here."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sandbox.model import key_of

_UNSURE: Final = re.compile(r"[^\n\t -~]")
"""Characters that may not be printable. Checking every character of a long log would be slow."""


def visible(text: str) -> str:
    """Replace control characters by escapes, because a dump can contain escape sequences."""
    return _UNSURE.sub(lambda one: one[0] if one[0].isprintable() else one[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """`visible`, with line ends as well: a file name with one would add a line that looks like one of vmbox's own."""
    return visible(text).replace("\n", r"\n")


def folded(text: str) -> str:
    """A line that is repeated, once with its count: crash warns for each note of a file in the same words."""
    return "\n".join(
        line if (times := len(list(same))) == 1 else f"{line}   ({times} times)"
        for line, same in itertools.groupby(text.splitlines())
    )


def hanging(text: str, *, indent: int) -> str:
    """Wrap a line at words to the terminal's width, further lines indented. Without a terminal, return it unchanged."""
    if not sys.stdout.isatty():
        return text
    import textwrap

    width = max(shutil.get_terminal_size().columns, indent + 20)
    broken = textwrap.wrap(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(broken)


def size(amount: float) -> str:
    """Bytes for people: 512 B, 1.5 MiB. Units are of 1,024 wherever vmbox prints some, as the kernel's own are."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def plain(value: object) -> Any:
    """Convert values to JSON types: dataclasses to objects, times to ISO 8601, paths to text."""
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case Path():
            return str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case str() | int() | float() | bool() | None:
            return value
        case Iterable():
            return [plain(item) for item in value]
        case _ if is_dataclass(value):
            return {key_of(item): plain(getattr(value, item.name)) for item in fields(value)}
        case _:
            return str(value)
