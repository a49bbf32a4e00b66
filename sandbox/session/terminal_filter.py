"""What a program in a case may say to the user's terminal: text, colours, and the movements that line editing needs.

A terminal does more than show: it sets the clipboard and titles, prints, and types answers to queries as if the user
had. What a dump prints must not reach those. The sequences are those of ECMA-48 and of
https://invisible-island.net/xterm/ctlseqs/ctlseqs.html; what is not known to only show is left out.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

_LONGEST_SEQUENCE: Final = 64
"""Characters after which a sequence without its end is taken for text."""

_LONGEST_STRING: Final = 4096
"""Characters after which a string (OSC, DCS, APC, PM, SOS) without its end counts as ended: it hides no more."""

_UNSURE: Final = re.compile(r"[^\x07-\x0f\x20-\x7e\xa0-\U0010ffff]")
"""All control characters but bell, back space, tab, line ends, form feed and the two that choose a character set."""

_CSI: Final = re.compile(r"(?:\x1b\[|\x9b)([0-?]*[ -/]*[@-~])")
_ESCAPE: Final = re.compile(r"\x1b([ -/]*[0-Z\\-~])")
_UNFINISHED: Final = re.compile(r"(?:\x1b|\x1b[ -/]+|(?:\x1b\[|\x9b)[0-?]*[ -/]*)\Z")

_STRINGS: Final = frozenset("PX]^_")
"""ESC and one of these begins DCS, SOS, OSC, PM or APC."""

_STRING_CONTROLS: Final = frozenset("\x90\x98\x9d\x9e\x9f")
"""The same as single characters."""

_STRING_END: Final = re.compile(r"[\x07\x18\x1a\x9c\r\n]|\x1b\\|\x1b(?=.)|\x1b\Z", re.DOTALL)

_SHOWS: Final = re.compile(
    r"(?:[0-9]{0,3}[;:]){0,24}[0-9]{0,3}m"  # colours
    r"|(?:[0-9]{0,4};){0,2}[0-9]{0,4}[@A-HIKLMPSXZ`abdefgr]"  # movements, deleting, inserting, scrolling
    r"|[0-9]{0,4}T"
    r"|[0-2]?J"
    r"|[su]"
    r"|4[hl]"  # inserting
    # Keys of the cursor, wrapping, cursor, other screen, eighth bit of keys, pasting in brackets.
    r"|\?(?:1|7|12|25|47|1034|1047|1048|1049|2004)(?:;(?:1|7|12|25))*[hl]"
)

_MOVES: Final = re.compile(r"[78=>DEHM]|[()][0AB]")
"""What may follow ESC: cursor and keypad, lines, and the character sets that curses chooses."""


class TerminalFilter:
    """Takes output in pieces and gives back what may be shown. Sequences and characters may be torn between pieces."""

    def __init__(self) -> None:
        # Bytes that are no UTF-8 are shown as escapes, the single-byte controls 0x80 to 0x9f among them.
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._pending = ""
        """The beginning of a sequence whose rest has not come."""
        self._in_string: int | None = None
        """Characters of the string that we are in; None outside of one."""

    def __call__(self, piece: bytes) -> bytes:
        text = self._pending + self._decode.decode(piece)
        self._pending = ""
        shown: list[str] = []
        at = 0
        while at < len(text):
            if self._in_string is not None:
                at = self._skip_string(text, at, self._in_string)
                continue
            found = _UNSURE.search(text, at)
            if found is None:
                shown.append(text[at:])
                break
            shown.append(text[at : found.start()])
            at = self._control(text, found.start(), shown)
        return "".join(shown).encode()

    def _control(self, text: str, at: int, shown: list[str]) -> int:
        """Judges the control character at `at`, with what belongs to it. Returns where to go on."""
        if text[at] in _STRING_CONTROLS:
            self._in_string = 0
            return at + 1
        if csi := _CSI.match(text, at):
            if _SHOWS.fullmatch(csi[1]) and csi.end() - at <= _LONGEST_SEQUENCE:
                shown.append(f"\x1b[{csi[1]}")
            return csi.end()
        if escape := _ESCAPE.match(text, at):
            if escape[1] in _STRINGS:
                self._in_string = 0
            elif _MOVES.fullmatch(escape[1]):
                shown.append(escape[0])
            return escape.end()
        if len(text) - at <= _LONGEST_SEQUENCE and _UNFINISHED.match(text, at):
            self._pending = text[at:]
            return len(text)
        return at + 1

    def _skip_string(self, text: str, at: int, before: int) -> int:
        """Leaves out the string from `at`, of which `before` characters came earlier. Returns where to go on."""
        limit = at + _LONGEST_STRING - before
        found = _STRING_END.search(text, at, limit)
        if found is None:
            end = min(limit, len(text))
            self._in_string = before + end - at if end < limit else None
            return end
        if found[0] == "\x1b" and found.end() == len(text):
            # It may be the first half of the string's end.
            self._pending = "\x1b"
            self._in_string = before + found.start() - at
            return len(text)
        self._in_string = None
        # A line ends a string without its own end, and ESC begins what comes next: the terminal has seen neither.
        return found.start() if found[0] in {"\r", "\n", "\x1b"} else found.end()
