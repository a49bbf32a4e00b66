"""Charts contain only shapes and text, whatever their labels are."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from sandbox.report import charts
from sandbox.report.html import environment

EVIL = "\x1b[31m\ud800\"'</span><script>alert(1)</script>"


def drawn(chart: charts.Chart) -> ET.Element:
    module = environment().get_template("parts.html").module
    return ET.fromstring(str(module.chart("it", chart)))


@pytest.mark.parametrize("make", [charts.bars, charts.stack])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_chart_has_an_accessible_name(make, count: int) -> None:
    values = [(f"{number} {EVIL}", float(number)) for number in range(count)]
    chart = make("Use of <memory>", values, unit="B")
    figure = drawn(chart)
    assert {element.tag for element in figure.iter()} == {"figure", "svg", "rect", "div", "span"}
    assert (figure.get("role"), figure.get("aria-label")) == ("img", "Use of <memory>")
    # The text beside the drawing describes it.
    (words,) = (element for element in figure.iter() if element.get("id") == figure.get("aria-describedby"))
    said = [span.text for span in words.iter("span")]
    assert [amount for label, amount in zip(said[::2], said[1::2], strict=True)] == [bar.amount for bar in chart.bars]
    assert all(label.startswith(f"{number} ") for number, label in enumerate(said[::2]))
    assert not any("\x1b" in text for text in figure.itertext())
    assert all(not re.fullmatch(r"on\w+|href|style", name) for element in figure.iter() for name in element.attrib)


def test_rows_are_in_proportion_to_the_largest() -> None:
    chart = charts.bars("Largest", [("a", 4096.0), ("b", 1024.0)], unit="B")
    assert [(bar.label, bar.amount, bar.width) for bar in chart.bars] == [("a", "4.0 KiB", 100), ("b", "1.0 KiB", 25)]
    assert [rect.get("width") for rect in drawn(chart).iter("rect") if rect.get("class") == "part-1"] == [
        "100.0%",
        "25.0%",
    ]


def test_parts_fill_the_whole() -> None:
    chart = charts.stack("Use", [("used", 1.0), ("cached", 1.0), ("free", 2.0)], unit="B", neutral="free")
    assert [(bar.start, bar.width, bar.neutral) for bar in chart.bars] == [
        (0, 25, False),
        (25, 25, False),
        (50, 50, True),
    ]
    assert [bar.amount for bar in chart.bars] == ["1 B (25%)", "1 B (25%)", "2 B (50%)"]


def test_a_long_label_is_cut() -> None:
    (bar,) = charts.bars("Largest", [("x" * 1000 + "\n", 1.0)], unit="B").bars
    assert len(bar.label) == 40


def test_a_chart_without_values() -> None:
    chart = charts.bars("Load averages", [("1 minute", 0.0), ("5 minutes", 0.0)], unit="")
    assert [(bar.amount, bar.width) for bar in chart.bars] == [("0.00", 0), ("0.00", 0)]
