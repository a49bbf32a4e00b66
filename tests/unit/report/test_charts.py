"""Charts are drawings and nothing else, whatever their labels are."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from sandbox.report import charts

EVIL = "\x1b[31m\ud800</text><script>alert(1)</script>"


@pytest.mark.parametrize("draw", [charts.bars, charts.stack])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_drawing_with_a_name(draw, count: int) -> None:
    values = [(f"{EVIL} {number}", float(number)) for number in range(count)]
    text = draw("Use of <memory>", values, unit="B")
    root = ET.fromstring(text)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {"svg", "title", "desc", "g", "rect", "text"}
    assert root.get("aria-label") == "Use of <memory>"
    assert not re.search(r'\b(id|on\w+|href|style)="', text)
    # A bar for each, and its amount beside it.
    assert len(root.findall(".//{*}g[@class='bar']")) == count
    said = [element.text for element in root.findall(".//{*}text")]
    assert sum(charts.amount(count - 1, "B") in (words or "") for words in said) >= 1
    # Nothing is drawn outside, where it would be cut off.
    height = float(root.get("viewBox").split()[3])
    legend = root.find(".//{*}g[@class='legends']")
    if legend is not None:
        top = float(re.search(r", (\d+)\)", legend.get("transform"))[1])
        assert all(top + float(one.get("y")) <= height for one in legend.iter("{http://www.w3.org/2000/svg}text"))


def test_nothing_to_compare() -> None:
    assert "0.00" in charts.bars("Load averages", [("1 minute", 0.0), ("5 minutes", 0.0)], unit="")
