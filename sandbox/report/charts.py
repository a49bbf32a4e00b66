"""Bar charts as numbers and text. The templates draw them (`chart` in parts.html)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.render import size

_LABEL: Final = 40
"""Characters of a label: in a damaged dump the name of a slab cache may be endless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One value of a chart."""

    label: str
    amount: str
    """The value and its unit; in a stack also its share."""
    start: float
    """Its beginning, in percent of the drawing's width."""
    width: float
    """Percent of the drawing's width."""
    neutral: bool = False
    """Drawn in grey, for an unused part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Values to compare, or the parts of a whole."""

    name: str
    """The accessible name."""
    bars: tuple[Bar, ...]
    stacked: bool = False
    """One row for all, with a legend below; else a row for each."""


def bars(name: str, values: Sequence[tuple[str, float]], *, unit: str) -> Chart:
    """A row for each value, the first on top, in proportion to the largest."""
    most = max((value for _, value in values), default=0) or 1
    drawn = (
        Bar(label=_short(label), amount=amount(value, unit), start=0, width=round(100 * value / most, 2))
        for label, value in values
    )
    return Chart(name=name, bars=tuple(drawn))


def stack(name: str, values: Sequence[tuple[str, float]], *, unit: str, neutral: str = "") -> Chart:
    """Parts of a whole in one row. The part with the label `neutral` is drawn in grey."""
    whole = sum(value for _, value in values) or 1
    drawn = []
    start = 0.0
    for label, value in values:
        drawn.append(
            Bar(
                label=_short(label),
                amount=f"{amount(value, unit)} ({value / whole:.0%})",
                start=round(100 * start / whole, 2),
                width=round(100 * value / whole, 2),
                neutral=label == neutral,
            )
        )
        start += value
    return Chart(name=name, bars=tuple(drawn), stacked=True)


def amount(value: float, unit: str) -> str:
    """1.5 MiB, 12.3 s, 0.42"""
    if unit == "B":
        return size(value)
    return f"{value:.2f} {unit}".strip()


def _short(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
