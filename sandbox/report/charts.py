"""Charts as inline SVG, computed by pygal. What they look like is the page's own business: text stays text, in its ink.

pygal also writes styles and scripts for charts that stand alone; nothing of that is left in what is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element

from sandbox.render import visible

if TYPE_CHECKING:
    from pygal import Config

_WIDTH: Final = 460
"""Units of the drawing, of which the page makes its own width; text is 12 of them high (page.css)."""
_ROW: Final = 26

_KEPT: Final = frozenset({"g", "rect", "text"})
"""All that a drawing is made of. The rest is comments, tooltips, styles, and a script with the settings."""


def preload() -> None:
    """Loads what drawing needs: while crash is at its answers, say."""
    import pygal  # noqa: F401 - for those who come later


def bars(name: str, values: Sequence[tuple[str, float]], *, unit: str) -> str:
    """Horizontal bars, the first on top, each with its label and its amount in words. `name` is the chart's name."""
    from pygal import HorizontalBar

    values = [(_short(label), value) for label, value in values]
    chart = HorizontalBar(
        _config(len(values) * _ROW),
        show_legend=False,
        print_values=True,
        print_values_position="top",
        margin_right=80,
        range=(0, max(value for _, value in values) or 1),
        formatter=lambda value: amount(value, unit),
    )
    # Its axis goes upwards.
    chart.x_labels = [label for label, _ in reversed(values)]
    chart.add("", [value for _, value in reversed(values)])
    return _svg(chart, name, [f"{label} {amount(value, unit)}" for label, value in values])


def stack(name: str, values: Sequence[tuple[str, float]], *, unit: str) -> str:
    """One bar of parts that make a whole, and its legend with amounts."""
    from pygal import HorizontalStackedBar

    values = [(_short(label), value) for label, value in values]
    whole = sum(value for _, value in values) or 1
    chart = HorizontalStackedBar(
        _config(_ROW + 18 * len(values) + 12),
        show_y_labels=False,
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        legend_box_size=12,
        truncate_legend=60,
        range=(0, whole),
    )
    said = [f"{label} {amount(value, unit)} ({value / whole:.0%})" for label, value in values]
    for words, (_, value) in zip(said, values, strict=True):
        chart.add(words, [value])
    return _svg(chart, name, said)


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
    label = visible(label.encode(errors="backslashreplace").decode()).replace("\n", " ").replace("\t", " ")
    return label if len(label) <= 28 else f"{label[:27]}…"


def _config(height: int) -> Config:
    from pygal import Config
    from pygal.style import Style

    return Config(
        width=_WIDTH,
        height=height,
        explicit_size=False,
        disable_xml_declaration=True,
        margin=2,
        spacing=6,
        show_x_labels=False,
        show_x_guides=False,
        show_y_guides=False,
        # For the measuring of texts.
        style=Style(label_font_size=12, major_label_font_size=12, value_font_size=12, legend_font_size=12),
    )


def _svg(chart: Any, name: str, parts: Sequence[str]) -> str:
    """The chart as an element of a page: no ids, no scripts and styles; a name and a description."""
    chart.add_xml_filter(_cleaned(name, "; ".join(parts)))
    return str(chart.render(is_unicode=True))


def _cleaned(name: str, description: str) -> Callable[[Element], Element]:
    def clean(element: Element) -> None:
        element.attrib.pop("id", None)
        for child in list(element):
            if child.tag not in _KEPT or "tooltip-overlay" in child.get("class", ""):
                element.remove(child)
            else:
                clean(child)

    def finish(root: Element) -> Element:
        clean(root)
        root.attrib |= {"role": "img", "aria-label": name, "class": "chart"}
        for at, (tag, text) in enumerate((("title", name), ("desc", description))):
            told = Element(tag)
            told.text = text
            root.insert(at, told)
        return root

    return finish
