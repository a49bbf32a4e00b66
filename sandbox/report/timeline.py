"""What the log tells from boot to the end, on one axis: warnings, taint, hung tasks, I/O errors, OOM kills, the panic.

Messages of one kind in a row are one event with their number: a broken disk writes thousands of lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.dump.panic import TAINT
from sandbox.report.log_events import kind_of

NAMES: Final = {
    "boot": "Boot",
    "begin": "The log begins",
    "warning": "Warning",
    "taint": "Taint",
    "hung-task": "Hung task",
    "lockup": "Lockup or stall",
    "io-error": "I/O error",
    "oom": "OOM kill",
    "hardware": "Hardware",
    "sysrq": "SysRq",
    "fault": "Fault",
    "panic": "Panic",
    "end": "The log ends",
}
"""Kinds of events, in the order of the picture's rows."""

_HEAD, _TAIL = 40, 40
"""Events that are kept at the beginning and at the end."""
_SAME_FAULT: Final = 2.0
"""Seconds within which messages of a fault are those of one."""
_LONGEST: Final = 300
"""Characters of an event's text."""
_TIME: Final = re.compile(r"^(?:<\d{1,3}>)?\[ *(\d{1,9}\.\d{1,9})\](?:\[ *[TC]\d+\])? ?")
_LETTERS: Final = re.compile(r"Tainted: ([A-Z ]{1,48})")
_MODULE: Final = {"out-of-tree": "O", "verification failed": "E", "license": "P", "proprietary": "P"}
_BANNER: Final = re.compile(r"Linux version \d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message of the log, or several of one kind in a row."""

    kind: str
    """boot, begin, warning, taint, hung-task, lockup, io-error, oom, hardware, sysrq, fault, panic or end."""
    seconds: float | None
    """Since boot; None for a line without a time stamp."""
    until: float | None
    """Time of the last message."""
    count: int
    """Messages."""
    text: str
    """The first one."""
    line: int
    """Its number in the whole log, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    events: tuple[Event, ...] = ()
    left_out: int = 0
    """Events between the first and the last ones that are too many to list."""


def timeline(log: Sequence[str], of_programs: Container[int] = ()) -> Timeline:
    """The events of a log, in its order. Empty where it has no line.

    `of_programs` are the numbers, from 0, of the lines that programs wrote: they are no events.
    """
    events = _merged(_events(log, of_programs))
    if not events:
        return Timeline()
    left_out = max(0, len(events) - _HEAD - _TAIL)
    return Timeline(events=(*events[:_HEAD], *events[_HEAD + left_out :]), left_out=left_out)


def _events(log: Sequence[str], of_programs: Container[int]) -> Iterator[Event]:
    seen: set[str] = set()
    now: float | None = None
    for number, line in enumerate(log, 1):
        stamp = _TIME.match(line)
        text = line[stamp.end() :] if stamp else line
        now = float(stamp[1]) if stamp else now
        if number == 1:
            yield _event("boot" if _BANNER.search(text) else "begin", now, text, number)
        if number - 1 in of_programs:
            continue
        kind = kind_of(text)
        if kind is not None and kind.event:
            if kind.event == "taint":
                seen |= {letter for word, letter in _MODULE.items() if word in text}
            yield _event(kind.event, now, text, number)
        if (letters := _LETTERS.search(text)) is not None:
            added = [one for one in letters[1] if one in TAINT and one not in seen]
            seen.update(added)
            if added:
                said = "; ".join(TAINT[one] for one in added)
                yield _event("taint", now, f"Tainted: {' '.join(added)}: {said}", number)
    if log:
        yield _event("end", now, log[-1][_end_of_stamp(log[-1]) :], len(log))


def _end_of_stamp(line: str) -> int:
    stamp = _TIME.match(line)
    return stamp.end() if stamp else 0


def _event(kind: str, seconds: float | None, text: str, line: int) -> Event:
    return Event(kind=kind, seconds=seconds, until=seconds, count=1, text=text.strip()[:_LONGEST], line=line)


def _merged(events: Iterator[Event]) -> list[Event]:
    found: list[Event] = []
    for one in events:
        last = found[-1] if found else None
        # What is said of one fault is in several lines, and with the taint that it left.
        fault = next((earlier for earlier in reversed(found[-3:]) if earlier.kind == "fault"), None)
        if one.kind == "fault" and fault is not None and _near(fault, one):
            found[found.index(fault)] = replace(fault, until=one.until)
        elif last is not None and last.kind == one.kind and one.kind != "fault":
            found[-1] = replace(last, until=one.until, count=last.count + 1)
        else:
            found.append(one)
    return found


def _near(earlier: Event, later: Event) -> bool:
    if earlier.until is None or later.seconds is None:
        return earlier.until is later.seconds
    return abs(later.seconds - earlier.until) <= _SAME_FAULT


# The axis is of the time before the end, and logarithmic: a machine is up for months, and what is to be seen happened
# in its last seconds.
_UNIT: Final = 0.1
_TICKS: Final = (
    (0.0, "the end"),
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3600.0, "1 h"),
    (86400.0, "1 d"),
    (864000.0, "10 d"),
    (8640000.0, "100 d"),
)
_APART: Final = 18.0
"""Percent between two ticks, at least: their words stand below the axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    event: Event
    x: float
    """Percent of the width."""
    width: float
    """Percent of the width; 0 for a single moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The events as rows of marks, one row for each kind, and the words below the axis."""

    rows: tuple[tuple[str, tuple[Mark, ...]], ...]
    ticks: tuple[tuple[float, str], ...]


def picture(of: Timeline) -> Picture | None:
    """None where fewer than two events have a time."""
    timed = [(one, one.seconds, one.until) for one in of.events if one.seconds is not None and one.until is not None]
    if len(timed) < 2:
        return None
    end = max(until for _, _, until in timed)
    if end <= 0:
        return None

    def x(seconds: float) -> float:
        return round(100 * (1 - math.log1p((end - seconds) / _UNIT) / math.log1p(end / _UNIT)), 2)

    rows: dict[str, list[Mark]] = {}
    for one, first, until in timed:
        if one.kind not in {"begin", "end"}:
            left = max(0.0, min(100.0, x(first)))
            rows.setdefault(one.kind, []).append(Mark(event=one, x=left, width=round(max(0.0, x(until) - left), 2)))
    ticks: list[tuple[float, str]] = []
    for before, words in _TICKS:
        at = x(end - before)
        if before < end and at > _APART and (not ticks or ticks[-1][0] - at >= _APART):
            ticks.append((at, words))
    ticks.append((0.0, "boot"))
    return Picture(rows=tuple((kind, tuple(rows[kind])) for kind in NAMES if kind in rows), ticks=tuple(ticks))
