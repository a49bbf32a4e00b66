"""Keeps the beginning of an answer and lets the rest pass: a hostile dump can make any command print for ever."""

from __future__ import annotations

import codecs
import io
from typing import Final

PER_ANSWER: Final = 16 << 20
"""Bytes of one answer that are kept. Those of the largest machines have some 4 MiB."""

PER_REPORT: Final = 64 << 20
"""Bytes of all answers of a report together that are kept."""


class BoundedAnswer:
    """A sink that decodes and keeps the first `room` bytes, and counts the others."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        # Not the pieces themselves: a case may send it byte by byte.
        self._text = io.StringIO(newline="")
        self.kept = 0
        """Bytes that count; what is no UTF-8 counts as long as its escapes are."""
        self.left_out = 0
        """Bytes that were let pass."""

    def __call__(self, piece: bytes) -> None:
        kept = piece[: max(self._room - self.kept, 0)]
        if kept:
            text = self._decode.decode(kept)
            self._text.write(text)
            self.kept += max(len(kept), len(text))
        self.left_out += len(piece) - len(kept)

    def text(self) -> str:
        """What was kept, in whole lines where something was left out."""
        text = self._text.getvalue() + self._decode.decode(b"", final=True)
        return text[: text.rfind("\n") + 1] or text if self.left_out else text
