"""The values of an excerpt, and its manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sandbox.report.model import CommandRun

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a debugger was asked, and which pages it read for that and for nothing before."""

    name: str
    """e.g. "report by crash", or a command."""
    debugger: str
    frames: tuple[int, ...]
    runs: tuple[CommandRun, ...] = ()
    """The answers of a report, for a comparison."""
    failed: bool = False
    """Whether a command was not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRange:
    """Neighbouring pages that were read for the same question."""

    first: int
    """Page frame number."""
    count: int
    question: str
    kind: str | None
    """What the kernel uses them for; None where that was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in an excerpt and why. It is written beside it as JSON."""

    schema_version: int = SCHEMA_VERSION
    excerpt_of: str
    """Name of the dump's file."""
    size: int
    """Of the dump's file, in bytes."""
    made: str
    """UTC, ISO 8601."""
    vmbox_version: str
    release: str | None
    build_id: str | None
    page_size: int
    pages_in_dump: int
    pages: int
    questions: tuple[str, ...]
    user_pages_left_out: int | None
    """Pages of user memory that were read and left out; None without --exclude-user."""
    unknown_pages_left_out: int | None
    """Pages of which nothing says what they are, and which are left out for that; None without --exclude-user."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Number of pages by what the kernel uses them for."""
    ranges: tuple[PageRange, ...]


def ranges(
    questions: Sequence[Question], kinds: Mapping[int, str] | None, left_out: frozenset[int]
) -> Iterator[PageRange]:
    """The pages of an excerpt in order, neighbours in one."""
    why: dict[int, str] = {}
    for question in questions:
        for frame in question.frames:
            why.setdefault(frame, question.name)
    last: PageRange | None = None
    for frame in sorted(set(why) - left_out):
        kind = None if kinds is None else kinds.get(frame)
        if last is not None and (frame, why[frame], kind) == (last.first + last.count, last.question, last.kind):
            last = replace(last, count=last.count + 1)
            continue
        if last is not None:
            yield last
        last = PageRange(first=frame, count=1, question=why[frame], kind=kind)
    if last is not None:
        yield last


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A command that the excerpt answers otherwise than the dump."""

    question: str
    command: str
    line: str
    """The first line that is not the same, of either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """An excerpt that was written."""

    path: str
    bytes: int
    manifest: Manifest
    unanswered: tuple[str, ...]
    """Commands that had no answer of the dump."""
    differences: tuple[Difference, ...] | None
    """What its report says otherwise; None where that was not asked."""
