"""The end of the kernel's log, with the important lines marked, and what a timeline names before it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from sandbox.report.log_events import kind_of
from sandbox.report.model import LogLine
from sandbox.report.timeline import Timeline

_MOST: Final = 400
_BEFORE: Final = 40
"""Lines of context before the first marked line."""
_AROUND: Final = 2
"""Lines around an event that is before the end."""


def excerpt(
    lines: Sequence[str], timeline: Timeline | None = None, of_programs: Container[int] = ()
) -> tuple[LogLine, ...]:
    """The last lines of the log, beginning `_BEFORE` lines before the first error in them; at most `_MOST`.

    Before them are the lines of the timeline's earlier events, each with some lines around it. `of_programs` are the
    numbers, from 0, of the lines that programs wrote: they are not marked.
    """
    first = max(0, len(lines) - _MOST)
    kinds = ["" if number in of_programs else _mark(line) for number, line in enumerate(lines[first:], first)]
    error = next((at for at, kind in enumerate(kinds) if kind in {"panic", "oops", "hardware", "warning"}), None)
    begin = first + (max(0, len(kinds) - 2 * _BEFORE) if error is None else max(0, error - _BEFORE))
    wanted = {
        number
        for event in (timeline.events if timeline else ())
        for number in range(event.line - 1 - _AROUND, event.line + _AROUND)
        if 0 <= number < begin
    }
    return tuple(
        LogLine(number=number + 1, text=lines[number], kind="" if number in of_programs else _mark(lines[number]))
        for number in (*sorted(wanted), *range(begin, len(lines)))
    )


def _mark(line: str) -> str:
    kind = kind_of(line)
    return kind.mark if kind else ""
