"""Whether crash complained about a command: it has no exit codes, its errors are text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sandbox.debugger.crash_redirection import before_pipeline
from sandbox.debugger.selection import Selection

_ALIASES: Final = {
    b"dmesg": b"log",
    b"man": b"help",
    b"g": b"gdb",
    b"px": b"p",
    b"pd": b"p",
    b"for": b"foreach",
    b"size": b"struct",
    b"lsmod": b"mod",
    b"h": b"help",
}
"""crash's built-in aliases (alias.c) whose error messages begin with another word than the user typed."""

_UNKNOWN: Final = re.compile(rb"(?m)^crash: command not found: ")


_NO_SUCH: Final = {
    b"help": rb'|No help data for "',
    b"alias": rb"|alias does not exist: ",
    b"dis": rb"|[ \t]*0x[0-9a-f]+(?: <[^>\n]*>)?:[ \t]*(?:Cannot access memory at address 0x[0-9a-f]+)?$",
}
"""What commands print of a word that they do not know, without their name; `dis` an address and no instruction."""

_ANY_COMMAND: Final = rb"[a-z]+: invalid structure (?:member offset|size): "
"""crash does not know a structure of this kernel. Where a command calls another, the line has the other one's name."""


@dataclass(frozen=True, slots=True)
class _Misread:
    """A word that older versions do not check: they answer something else, and do not say so."""

    command: re.Pattern[str]
    fixed: tuple[int, ...]
    """The first version of crash that complains."""
    words: str
    certain: bool
    """Whether the word is wrong in every dump. Of the others, only crash knows."""


_MISREAD: Final = (
    # 538b9ed, 4ced103 and 5a652ed of crash.
    _Misread(
        re.compile(r"fuser\s+(?!(?:/|(?:0x)?[89a-f][0-9a-f]{15}(?:\s|$)))"),
        (8, 0, 3),
        "what it was given is neither a path nor the address of an inode",
        certain=True,
    ),
    _Misread(
        re.compile(r"vm\s(?:.*\s)?-M\s*(?!(?:0x)?[89a-f][0-9a-f]{15}(?:\s|$))\S"),
        (8, 0, 3),
        "what it was given is no address of the kernel",
        certain=True,
    ),
    _Misread(
        re.compile(r"net\s(?:.*\s)?-n\s*(?P<task>[^\s-]\S*)"),
        (8, 0, 3),
        "where it knows no such task, this crash shows the devices of the current one; it checks: set {task}",
        certain=False,
    ),
)


def _misread(command: str, version: str) -> tuple[str, bool] | None:
    """(what is to be said, whether the command is wrong for certain); None of others."""
    numbers = tuple(map(int, re.findall(r"\d+", version)))
    for one in _MISREAD if numbers else ():
        if numbers < one.fixed and (found := one.command.match(command)):
            return f"{command.split(maxsplit=1)[0]}: {one.words.format(**found.groupdict())}", one.certain
    return None


class ErrorDetector:
    """Watches a command's output for crash's own error messages.

    Errors are lines "<command>: …" (`error()` in tools.c, with the command's own name or "crash"), a usage text, or
    the word of a segmentation violation that crash survived. A command that crash does not know goes to gdb, and its
    errors have gdb's name (`gdb_error_hook` in gdb_interface.c).
    """

    def __init__(self, command: str, version: str = "") -> None:
        # Behind a pipe is another program, and crash does not report its errors.
        own = before_pipeline(command)
        words = {word.encode() for word in re.findall(r"[a-z]+", own)}
        if words & {b"set"} and own.split()[0] in {"set", "crash"}:
            # Its answers look like complaints of the words it was given: "gdb: on", "debug: 1".
            words = {b"set"}
        names = words | {_ALIASES[word] for word in words if word in _ALIASES} | {b"crash"}
        first = own.split(maxsplit=1)[0].encode() if own.strip() else b"crash"
        if first.startswith(b"*"):
            names.add(b"*")
            first = b"*"
        self._selection = Selection(command)
        self._misread = _misread(own.strip(), version)
        alternatives = b"|".join(re.escape(name) for name in sorted(names))
        complaint = rb"(?:%s|symbol not found): (?!WARNING|NOTE)\S" % alternatives
        complaint += b"|" + _ANY_COMMAND + _NO_SUCH.get(_ALIASES.get(first, first), b"")
        self._wrong = re.compile(
            rb"(?m)^(?:%s|gdb: gdb request failed: |Usage:[ \t]*\n{1,2}[ \t]+%s(?!\w)| *<segmentation violation)"
            % (complaint, re.escape(first))
        )
        self._tail = b""
        self._found = self._unknown = False

    def feed(self, piece: bytes) -> None:
        self._selection.feed(piece)
        if self._found:
            return
        text = self._tail + piece
        self._unknown = self._unknown or _UNKNOWN.search(text) is not None
        whole = text.rfind(b"\n") + 1
        self._found = self._wrong.search(text, 0, whole) is not None
        # A usage text needs two lines to be seen, so the last whole one stays; what is longer is not crash's error.
        self._tail = text[max(text.rfind(b"\n", 0, max(whole - 1, 0)) + 1, len(text) - 4096) :]

    def found(self) -> bool:
        """Whether crash complained; to be asked when the output has ended."""
        return self._found or self._wrong.search(self._tail) is not None or self.missing() is not None

    def missing(self) -> str | None:
        match self._misread:
            case (words, True):
                return words
            case _:
                return self._selection.missing()

    def note(self) -> str | None:
        match self._misread:
            case (words, False):
                return words
            case _:
                return None

    def unknown(self) -> bool:
        """Whether crash has no such command."""
        return self._unknown
