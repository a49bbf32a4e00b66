"""One entry of an archive, of whatever kind that is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from sandbox.formats.streams import Stream

UNKNOWN: Final = sys.maxsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    name: str
    """As it is written there; what is not UTF-8 is escaped by surrogates."""
    size: int
    """Bytes of `content`; `UNKNOWN` where the archive says so only behind them."""
    content: Stream
    """To be read before the next member is asked for. What is left over is skipped."""
    regular: bool = True
    """Whether it is a file with bytes of its own, and no directory, link or device."""

    @property
    def path(self) -> str:
        """The name without a leading "./" or "/". Only ever compared: it decides about no file that is written."""
        return self.name.removeprefix("./").lstrip("/")

    @property
    def text(self) -> str:
        """The name as it can be printed."""
        return self.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
