"""Charts as inline SVG, drawn by matplotlib; without it (`pip install matplotlib`) a page has its tables.

Text stays text, so that a reader can be told of it and a page prints sharply; its colour is the page's own.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from sandbox.render import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK: Final = "#010203"
"""Stands for the colour of the page's text: replaced in the finished SVG."""
_FAINT: Final = "#040506"
_BARS: Final = ("#3b6ea5", "#c8812f", "#5b8c5a", "#a4506c", "#7a6aa8", "#8a8a8a")
"""Told apart also by readers who see few colours, on light and on dark."""

_WIDTH: Final = 6.4
"""Inches, of which the page makes its own width."""
_CHARACTER: Final = 0.083
"""Inches that a character of `font.size` takes, on average and generously."""

_DRAWING: Final = threading.Lock()
"""matplotlib's settings are the process's, and a cluster's worker may have several threads."""

_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vmbox",
    # A task may be called "$\alpha$".
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _FAINT,
}


def available() -> bool:
    return find_spec("matplotlib") is not None


def ready() -> None:
    """Loads what drawing needs, which takes longer than the drawing: while crash is at its answers, say."""
    if available():
        import matplotlib.backends.backend_svg
        import matplotlib.figure  # noqa: F401 - for those who come later


def bars(name: str, values: Sequence[tuple[str, float]], *, unit: str, ident: str) -> str:
    """Horizontal bars, the first on top, each with its label and its amount in words. `name` is the chart's name."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with _DRAWING, mpl.rc_context(_SETTINGS):
        labels = [_short(label) for label, _ in values]
        figure = Figure(figsize=(_WIDTH, 0.2 + 0.27 * len(values)))
        # Placed by hand, and without an axis: matplotlib's own layout draws everything twice to measure it.
        left = min(0.45, (max(map(len, labels)) + 2) * _CHARACTER / _WIDTH)
        axes = figure.add_axes((left, 0.02, 0.99 - left - 12 * _CHARACTER / _WIDTH, 0.96))
        places = list(range(len(values)))
        drawn = axes.barh(places, [value for _, value in values], color=_BARS[0], height=0.66)
        axes.bar_label(drawn, [amount(value, unit) for _, value in values], padding=4)
        for place, label in zip(places, labels, strict=True):
            axes.text(-0.015, place, label, ha="right", va="center", transform=axes.get_yaxis_transform())
        axes.set_xlim(0, max(value for _, value in values) or 1)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_axis_off()
        return _svg(figure, name, [f"{label} {amount(value, unit)}" for label, value in values], ident)


def stack(name: str, values: Sequence[tuple[str, float]], *, unit: str, ident: str) -> str:
    """One bar of parts that make a whole, and its legend with amounts."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with _DRAWING, mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, 1.3))
        axes = figure.add_axes((0.01, 0.62, 0.98, 0.36))
        left = 0.0
        whole = sum(value for _, value in values) or 1
        for number, (label, value) in enumerate(values):
            words = f"{label} {amount(value, unit)} ({value / whole:.0%})"
            axes.barh(0, value, left=left, color=_BARS[number % len(_BARS)], height=0.8, label=words)
            left += value
        axes.set_xlim(0, whole)
        axes.set_axis_off()
        figure.legend(loc="lower left", ncols=2, frameon=False, handlelength=1, handleheight=1)
        return _svg(figure, name, [f"{label} {amount(value, unit)}" for label, value in values], ident)


def amount(value: float, unit: str) -> str:
    """1.5 MiB, 12.3 s, 0.42"""
    if unit == "B":
        for prefix in ("B", "KiB", "MiB", "GiB"):
            if value < 1024:
                return f"{value:.0f} B" if prefix == "B" else f"{value:.1f} {prefix}"
            value /= 1024
        return f"{value:.1f} TiB"
    return f"{value:.2f} {unit}".strip()


def _short(label: str) -> str:
    label = visible(label).replace("\n", " ").replace("\t", " ")
    return label if len(label) <= 28 else f"{label[:27]}…"


def _svg(figure: Figure, name: str, parts: Sequence[str], ident: str) -> str:
    """The figure as an element of a page: no prologue, no metadata, ids of its own, a name and a description."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{ident}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{ident}-", text)
    text = text.replace(_INK, "currentColor").replace(_FAINT, "currentColor")
    # The page sets the width; the view box keeps the shape.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    title = f"<title>{escape(name)}</title><desc>{escape(visible('; '.join(parts)))}</desc>"
    head = f'<svg role="img" aria-label="{escape(name, {chr(34): "&quot;"})}" '
    text = head + text.removeprefix("<svg").lstrip()
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + title, text, count=1)
