"""`run`: what is said of pages that a debugger misses: of the kernel itself, which no level of makedumpfile leaves out,
those that cannot be unpacked, and those that a server, or a file that was cut, does not give.
"""

from __future__ import annotations

import time

from sandbox import render
from sandbox.case import store
from sandbox.debugger import Debugger
from sandbox.model import Case
from sandbox.session.session import DAMAGED, Sink

_WORDS = (b"xcluded", b"left out: ")
"""In the messages of both debuggers. All answers are looked through, so they are looked for first."""

_TAIL = 128
"""Bytes of one piece that may begin a message that the next one ends."""


class LostPages:
    """Looks for such messages in the answers of one `vmbox run`, and says once what they mean."""

    def __init__(self, case: Case, debugger: Debugger) -> None:
        self._release = case.release
        self._case = case.directory
        self._asked = time.time()
        self._damage = debugger.damaged_page
        self._tail = b""
        self._found = self._said = self._damaged = self._said_damaged = False

    def listen(self, sink: Sink) -> Sink:
        """A sink for the next answer, which passes all of it on to `sink`."""
        self._tail = b""

        def give(piece: bytes) -> None:
            if not self._found:
                self._look(self._tail + piece)
            if not self._damaged:
                self._damaged = self._damage.search(self._tail + piece) is not None
            self._tail = piece[-_TAIL:]
            sink(piece)

        return give

    def say(self) -> None:
        """Name makedumpfile's fault, if one is known of this kernel and its pages are missing; name damage, and why the
        view of the dump gave an error, of which a debugger knows no more than that.
        """
        if (why := store.last_failure(self._case, since=self._asked)) is not None:
            render.note(f"vmbox: a part of the dump could not be read: {why}")
        self._asked = time.time()
        if self._damaged and not self._said_damaged:
            self._said_damaged = True
            render.note(f"vmbox: {DAMAGED}")
        if not self._found or self._said:
            return
        self._said = True
        from sandbox.profiles import makedumpfile

        if (why := makedumpfile.explain(self._release)) is not None:
            render.note(f"vmbox: a page of the kernel itself is not in the dump: {why}")

    def _look(self, text: bytes) -> None:
        if any(word in text for word in _WORDS):
            from sandbox.profiles import makedumpfile

            self._found = makedumpfile.misses_kernel_page(text.decode(errors="replace"))
