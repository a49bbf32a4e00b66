"""Compare two reports: whether they show the same bug, and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from sandbox.report.model import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    what: str
    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    same: bool
    """Equal signatures."""
    likeness: float
    """0 … 1: share of the significant frames that match, in order; 0 if the causes differ."""
    verdict: str
    """In words."""
    differences: tuple[Difference, ...]


def compare(first: Report, second: Report) -> Comparison:
    """Compare two crashes."""
    one, two = first.signature, second.signature
    same = one.id == two.id and one.id is not None
    likeness = 1.0 if same else 0.0
    if not same and one.cause == two.cause and one.id is not None and two.id is not None:
        likeness = round(SequenceMatcher(None, one.frames, two.frames, autojunk=False).ratio(), 2)
    if same:
        verdict = "the same signature: they look like the same bug"
    elif one.id is None or two.id is None:
        verdict = "too little is known of one of them"
    elif one.cause != two.cause:
        verdict = "different causes"
    elif likeness >= 0.5:
        verdict = "the same cause by similar ways: perhaps the same bug"
    else:
        verdict = "the same cause by different ways"
    return Comparison(same=same, likeness=likeness, verdict=verdict, differences=tuple(_differences(first, second)))


def _differences(first: Report, second: Report) -> Iterator[Difference]:
    def told(report: Report) -> Iterator[tuple[str, str]]:
        who = report.identity
        yield "kernel", who.release or "unknown"
        yield "version", who.version or "unknown"
        yield "build-id", who.build_id or "unknown"
        yield "hardware", who.hardware or "unknown"
        yield "cause", report.signature.cause
        yield "panic", report.panic.message or "unknown"
        yield "signature", report.signature.id or "unknown"
        yield "frames", " < ".join(report.signature.frames)
        yield "task", report.backtrace.command if report.backtrace else "unknown"
        yield "taint", "unknown" if report.panic.taint is None else "; ".join(report.panic.taint) or "none"

    for (what, one), (_, two) in zip(told(first), told(second), strict=True):
        if one != two:
            yield Difference(what=what, first=one, second=two)
    ours, theirs = ({module.name for module in report.modules} for report in (first, second))
    if first.modules and second.modules and ours != theirs:
        yield Difference(what="modules", first=" ".join(sorted(ours - theirs)), second=" ".join(sorted(theirs - ours)))
