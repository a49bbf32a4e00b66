"""Answers without a row: a command asks for something by its name, and the debugger finds none and does not say so."""

from __future__ import annotations

import re
from typing import Final

from sandbox.debugger.crash_redirection import before_pipeline

_OPTIONS_WITH_VALUE: Final = {
    "ps": frozenset({"-C", "-y"}),
    "kmem": frozenset({"-I", "-m", "-l", "-g"}),
    "mount": frozenset({"-n"}),
}
"""The word behind one of these selects nothing."""

_HEADER: Final = re.compile(rb"\s*(?:(?:PID +PPID|CACHE +OBJSIZE|PAGE +PHYSICAL|MOUNT +SUPERBLK|MODULE +NAME)\b.*)?")

_SUBCOMMANDS: Final = frozenset({"bt", "task", "files", "vm", "net", "ps", "set", "sig", "vtop"})
"""The commands that `foreach` runs."""

_KEYWORDS: Final = re.compile(r"-.*|kernel|user|gleader|active|RU|IN|UN|ST|ZO|TR|SW|DE|WA|PA|ID|NE|[A-Zt]")
"""Words of `foreach` that name no task: of a state there may be none."""

_LONGEST_HEADER: Final = 4096


def _names(command: str) -> list[str]:
    """What a command asks for by name, where its answer has a row of each that is found."""
    words = command.split()
    if not words or before_pipeline(command) != command:
        return []
    first, rest = words[0], words[1:]
    match first:
        case "ps" | "kmem" | "mount":
            valued = _OPTIONS_WITH_VALUE[first]
            return [
                word
                for before, word in zip(["", *rest], rest, strict=False)
                if not word.startswith("-") and before not in valued
            ]
        case "sys" if rest and not rest[0].startswith("-") and rest[0] != "config":
            return rest
        case "sym" if rest[:1] == ["-m"]:
            return rest[1:]
        case "mod" if rest[:1] == ["-s"]:
            return rest[1:2]
        case "foreach" if "-R" not in rest:
            at = next((number for number, word in enumerate(rest) if word in _SUBCOMMANDS), 0)
            return [word for word in rest[:at] if not _KEYWORDS.fullmatch(word)]
        case _:
            return []


class Selection:
    """Watches the output of one command for a row."""

    def __init__(self, command: str) -> None:
        self._command = command.split(maxsplit=1)[0] if command.strip() else ""
        self._names = _names(command.strip())
        self._rows = not self._names
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        if self._rows:
            return
        *lines, self._tail = (self._tail + piece).split(b"\n")
        self._rows = len(self._tail) > _LONGEST_HEADER or not all(_HEADER.fullmatch(line) for line in lines)

    def missing(self) -> str | None:
        """Says that nothing was found; None where something was, or no name was given. To be asked at the end."""
        if self._rows or not _HEADER.fullmatch(self._tail):
            return None
        return f"{self._command}: nothing matches {' '.join(self._names)}"
