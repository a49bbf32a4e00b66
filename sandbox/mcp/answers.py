"""What is held of an answer, and what a page of it is."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final

from sandbox.errors import UsageError

PAGE: Final = 16_000
"""Characters of a page: as much as an assistant can follow at once."""

MOST: Final = 8 << 20
"""Bytes of one answer; a command with more output is stopped."""

_KEPT: Final = 16
"""Answers that are kept, so that page 2 is of the same answer as page 1."""

_ALL: Final = 4 * MOST
"""Characters of all answers that are held."""

_LONGEST: Final = 2 * MOST
"""Characters of one answer, with what is said of it."""

_LONGEST_LINE: Final = 1 << 16
"""Bytes of a line; a longer one is several."""

_LINE_COST: Final = 64
"""Bytes of memory that a line needs beside its own, where lines are held one by one."""


class Held:
    """The last answers, by what was asked: the tool, the dump's path, and the tool's other arguments."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, ...], str] = OrderedDict()
        # Tools run in threads.
        self._lock = Lock()

    def page(self, key: tuple[str, ...], page: int, make: Callable[[], str]) -> str:
        """Page `page` of an answer. `make` makes it when page 1 is asked for, or it is not held any more."""
        if page < 1:
            raise UsageError(f"there is no page {page}", hint="pages are counted from 1")
        with self._lock:
            text = None if page == 1 else self._texts.get(key)
        if text is None:
            text = make()
            if len(text) > _LONGEST:
                text = text[:_LONGEST] + f"\n[what follows is left out: an answer has at most {_LONGEST >> 20} MiB]"
        with self._lock:
            self._texts[key] = text
            self._texts.move_to_end(key)
            while len(self._texts) > 1 and (len(self._texts) > _KEPT or sum(map(len, self._texts.values())) > _ALL):
                self._texts.popitem(last=False)
        return paged(text, page)

    def of(self, path: str) -> Sequence[tuple[tuple[str, ...], str]]:
        """The answers about a dump, the oldest first."""
        with self._lock:
            return [(key, text) for key, text in self._texts.items() if key[1] == path]


class Lines:
    """A sink that keeps the lines that were asked for, and ends the command when it has them all or too much of them.

    What a pipe into grep, head and tail would do, on the host: the case runs nothing for it.
    """

    def __init__(self, grep: str = "", head: int = 0, tail: int = 0, *, ignore_case: bool = False) -> None:
        self._fold = ignore_case
        self._wanted = [self._folded(text.encode(errors="surrogateescape")) for text in grep.split("|") if text]
        self._head = head
        self._tail = tail
        self._rest = b""
        self._kept = bytearray()
        self._count = 0
        self._last: deque[bytes] = deque()
        self._size = 0
        self.full = False
        """Whether there was more than is held."""

    def __call__(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._take(line + b"\n")

    def _take(self, line: bytes) -> None:
        if self._wanted and not any(text in self._folded(line) for text in self._wanted):
            return
        if self._tail:
            self._last.append(line)
            self._size += len(line) + _LINE_COST
            while len(self._last) > self._tail or self._size > MOST:
                self._size -= len(self._last.popleft()) + _LINE_COST
            return
        self._kept += line
        self._count += 1
        self.full = len(self._kept) > MOST
        if self.full or self._count == self._head:
            self._rest = b""
            raise BrokenPipeError

    def _folded(self, text: bytes) -> bytes:
        return text.lower() if self._fold else text

    def text(self) -> str:
        """What was kept; to be asked once, when the command has ended."""
        rest, self._rest = self._rest, b""
        if rest:
            with suppress(BrokenPipeError):
                self._take(rest)
        lines = itertools.islice(self._last, self._head or None)
        return (bytes(self._kept) + b"".join(lines)).decode(errors="backslashreplace")


def newest(texts: Iterable[str]) -> str:
    """The end of a long text, in one piece: at most as much as is held of an answer."""
    kept: deque[str] = deque()
    size, cut = 0, False
    for text in texts:
        kept.append(text[-MOST + _LINE_COST :])
        size += len(kept[-1]) + _LINE_COST
        while size > MOST:
            size -= len(kept.popleft()) + _LINE_COST
            cut = True
    return "\n".join([*(["[what was before is left out]"] if cut else []), *kept])


def paged(text: str, page: int) -> str:
    """Page `page` of a text, cut at ends of lines, followed by the number of pages."""
    pages: list[str] = [""]
    for line in text.splitlines(keepends=True):
        for piece in (line[at : at + PAGE] for at in range(0, len(line), PAGE)):
            if len(pages[-1]) + len(piece) > PAGE:
                pages.append("")
            pages[-1] += piece
    if not 1 <= page <= len(pages):
        raise UsageError(f"there is no page {page}", hint=f"pages 1 to {len(pages)}")
    more = f"\n[page {page} of {len(pages)}]" if len(pages) > 1 else ""
    return pages[page - 1].rstrip("\n") + more
