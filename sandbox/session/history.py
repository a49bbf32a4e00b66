"""Keeps the lines typed at crash's prompt, for each case on the host.

crash has no history file of its own, and its readline runs in the container. It reads one at its start: the gdb inside
it looks at $GDBHISTFILE, and both share one history. What is typed has to be read off the terminal: a line is what
is behind the prompt when Enter ends it, whatever was edited, completed or recalled on the way there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sandbox.host import paths
from sandbox.host.files import write_atomically
from sandbox.model import Case

_PROMPT: Final = b"crash> "
_KEPT: Final = 1000
"""Lines of a case's history."""


class History:
    """The lines typed in a case's shells, oldest first."""

    def __init__(self, case: Case) -> None:
        self._path = paths.state_dir() / "history" / case.id

    def lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines()[-_KEPT:]
        except OSError:
            return []

    def add(self, line: str) -> None:
        """Keeps a line, unless it is the last one again. Raises OSError when it cannot."""
        known = self.lines()
        if not line.strip() or known[-1:] == [line]:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path, "".join(f"{one}\n" for one in [*known, line][-_KEPT:]).encode(), mode=0o600)


class TypedLines:
    """Follows a terminal and calls `found` with each line that was entered at crash's prompt.

    `entering` gets a line before crash does: it is called between the press of Enter and its being passed on.
    """

    def __init__(
        self,
        found: Callable[[str], None],
        columns: Callable[[], int],
        entering: Callable[[str], None] = lambda line: None,  # noqa: ARG005 - for callers that do not want to know
    ) -> None:
        import pyte

        self._found = found
        self._entering = entering
        self._columns = columns
        self._pyte = pyte
        self._screen: pyte.Screen | None = None
        self._entered = False
        self._tail = b""

    def typed(self, keys: bytes) -> None:
        """The user pressed these keys."""
        *lines, _ = re.split(b"[\r\n]", keys)
        if not lines:
            return
        self._entered = True
        edited = self._edited()
        for line in lines:
            # What arrives together with Enter is not on the screen yet.
            added = line.decode(errors="replace")
            self._entering((edited + added if added.isprintable() else edited).strip())
            edited = ""

    def printed(self, output: bytes) -> None:
        """The program printed this."""
        data = self._tail + output
        self._tail = b""
        while data:
            if self._screen is None:
                _, prompt, data = data.rpartition(_PROMPT)
                if not prompt:
                    self._tail = data[-len(_PROMPT) + 1 :]
                    return
                # Only what is edited is looked at as a terminal does: a flood of output is not.
                self._screen = self._pyte.Screen(self._columns(), 24)
                self._stream = self._pyte.ByteStream(self._screen)
                self._stream.feed(_PROMPT)
                continue
            line, newline, data = data.partition(b"\n")
            self._stream.feed(line)
            if newline:
                rows = self._screen.display[: self._screen.cursor.y + 1]
                self._screen = None
                # A list of completions also begins with a new line.
                if self._entered:
                    self._entered = False
                    self._found(_typed_in(rows).strip())

    def _edited(self) -> str:
        """The text behind the prompt."""
        if self._screen is None:
            return ""
        end = self._screen.cursor.y + 1
        typed = _typed_in(self._screen.display[:end])
        # A blank before the cursor was typed.
        return typed.ljust(self._screen.cursor.x - len(_PROMPT)) if end == 1 else typed


def _typed_in(rows: list[str]) -> str:
    return "".join(rows).rstrip().removeprefix(_PROMPT.decode().rstrip()).removeprefix(" ")
