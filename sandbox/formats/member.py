"""One entry of an archive of any kind."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from sandbox.formats.streams import Stream

UNKNOWN: Final = sys.maxsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    name: str
    """The name in the archive; bytes that are not UTF-8 become surrogates."""
    size: int
    """Bytes of `content`; `UNKNOWN` if the archive has the size only after them."""
    content: Stream
    """Read it before the next member is requested: an unread rest is skipped."""
    regular: bool = True
    """Whether it is a file with content, and not a directory, link or device."""

    @property
    def path(self) -> str:
        """The name without a leading "./" or "/". Only for comparisons: no file is written by this name."""
        return self.name.removeprefix("./").lstrip("/")

    @property
    def text(self) -> str:
        """The name in printable form."""
        return self.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
