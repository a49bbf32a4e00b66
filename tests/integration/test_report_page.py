"""The pages of report and triage, made from genuine output, in a real Chromium."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from browser import Browser, chromium
from sandbox.explain.wait_facts import WaitAnswer, WaitFacts
from sandbox.explain.waits import explain as waits_of
from sandbox.judge import system
from sandbox.model import CommandStatus, Vmcore
from sandbox.report.build import read
from sandbox.report.collect import CommandOutputs
from sandbox.report.html import html
from sandbox.report.model import CommandRun, Report
from sandbox.triage import table as triage_table
from sandbox.triage.model import Row, RowStatus

ANSWERS = Path(__file__).parents[1] / "fixtures" / "crash"
SIZES = {"phone": (390, 844), "laptop": (1366, 768), "large": (2560, 1440)}

EARLIER = (
    "[    0.000000] Linux version 6.12.0 (of the beginning that the fixture lacks)",
    *(f"[  {at}.000000] usb 1-1: something ordinary" for at in range(100, 200)),
    "[  200.500000] nvidia: loading out-of-tree module taints kernel.",
    *(f"[  {at}.000000] usb 1-1: something ordinary" for at in range(300, 600)),
    "[  700.000000] WARNING: CPU: 0 PID: 7 at kernel/somewhere.c:12 a_function+0x1/0x2",
    *(f"[  {at}.000000] I/O error, dev sda, sector {at} op 0x0:(READ)" for at in range(800, 950)),
)
"""Lines before those of the fixture."""

# Contrast of each text and its background, as WCAG 2.1 defines it (1.4.3).
CONTRAST = r"""(() => {
  const rgb = (text) => { const p = text.match(/[\d.]+/g).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; };
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c[3] > 0.99) return c;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const bad = [];
  for (const e of document.body.querySelectorAll("*")) {
    if (["SCRIPT", "STYLE"].includes(e.tagName) || !e.getClientRects().length) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const svg = e instanceof SVGElement, style = getComputedStyle(e);
    const front = rgb(svg && style.fill !== "none" ? style.fill : style.color);
    const [a, b] = [light(front), light(behind(svg ? e.closest("figure") : e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName} ${e.textContent.trim().slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return bad;
})()"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def made() -> Report:
    lines = (ANSWERS / "6.12.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    texts = {answer["command"]: answer["output"] for answer in found}
    runs = tuple(
        CommandRun(
            command=one["command"], status=CommandStatus(one["status"]), seconds=one["seconds"], output=one["output"]
        )
        for one in found
    )
    release = system.parse(texts["sys"])["RELEASE"]
    vmcore = Vmcore(path=Path("/var/crash/vmcore"), format="kdump-compressed", size=1 << 26, release=release)
    texts["log"] = "\n".join([*EARLIER, *texts["log"].splitlines()])
    return read(vmcore, CommandOutputs(texts=texts, runs=runs, mode="", case={"proof": "build-id"}))


@pytest.fixture(scope="module")
def report(made: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("report") / "report.html"
    page.write_text(html(made), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        Row(
            dump=f"/var/crash/host{number}/vmcore",
            key=f"{number:012}",
            stamp="",
            status=RowStatus.PARTIAL if number % 5 == 0 else RowStatus.OK,
            problem="crash does not open this dump" if number % 5 == 0 else None,
            exit_code=0,
            seconds=1.0,
            host="here",
            release=f"6.{number % 3}.0",
            signature=f"{number % 2:012}",
            title=f"bug in some_function_{number % 2}",
            report=f"reports/{number}.html",
        )
        for number in (3, 10, 2, 1, 7)
    ]
    page = tmp_path_factory.mktemp("table") / "index.html"
    page.write_text(triage_table.html(triage_table.of(rows)), encoding="utf-8")
    return page


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", ["report", "table"])
def test_the_page_fits_and_loads_nothing_and_logs_no_error(
    browser: Browser, page: str, size: str, request: pytest.FixtureRequest
) -> None:
    where: Path = request.getfixturevalue(page)
    for dark in (False, True):
        browser.open(where, *SIZES[size], dark=dark)
        assert browser.complaints() == []
        assert {url for url in browser.requests() if not url.startswith("data:")} == {where.as_uri()}
        assert browser.evaluate(WIDER) <= 0, "the page scrolls sideways"
        assert browser.evaluate(CONTRAST) == []
        assert len(browser.picture()) > 20_000


@pytest.mark.parametrize("page", ["report", "table"])
def test_every_element_has_an_accessible_name(browser: Browser, page: str, request: pytest.FixtureRequest) -> None:
    browser.open(request.getfixturevalue(page), *SIZES["laptop"])
    told = browser.accessible()
    named = {"link", "button", "img", "image", "region", "navigation", "heading", "columnheader"}
    assert [role for role, name in told if role in named and not name.strip()] == []
    roles = {role for role, _ in told}
    assert {"main", "navigation", "heading", "link", "table"} <= roles
    if page == "report":
        assert {"Use of memory", "Load averages"} <= {name for role, name in told if role in {"img", "image"}}


def test_the_page_works_with_the_keyboard(browser: Browser, report: Path, table: Path) -> None:
    browser.open(report, *SIZES["laptop"])
    seen = set()
    for _ in range(200):
        browser.key("Tab")
        seen.add(browser.evaluate("document.activeElement.tagName"))
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert browser.evaluate(ring) != "none", "what has the focus is not seen to have it"
        if seen >= {"A", "SUMMARY", "PRE"}:
            break
    else:
        pytest.fail(f"only {seen} can be reached with Tab")
    # A heading of the table sorts by itself, with the numbers in names as numbers.
    browser.open(table, *SIZES["laptop"])
    browser.evaluate("document.querySelector('#dumps th button').focus()")
    for order in ([1, 2, 3, 7, 10], [10, 7, 3, 2, 1]):
        browser.key("Enter")
        cells = browser.evaluate(
            "[...document.querySelectorAll('#dumps tbody td:first-child')].map(e => e.textContent)"
        )
        assert [int(re.search(r"host(\d+)", cell)[1]) for cell in cells] == order
    assert browser.complaints() == []


def test_the_page_can_be_printed(browser: Browser, report: Path) -> None:
    browser.open(report, 794, 1123, medium="print")
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.evaluate(WIDER) <= 0
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) < 60


def test_a_deep_drawing_of_waits_scrolls_on_a_screen_and_fits_on_paper(
    browser: Browser, made: Report, tmp_path: Path
) -> None:
    waits = [
        WaitFacts(
            pid=pid,
            command=f"task-{pid}",
            seconds=9.0,
            kind="mutex",
            function="__mutex_lock",
            functions=("__mutex_lock",),
            lock=0xFFFF888000000000 + pid,
            name=None,
            owner=pid + 1,
            no_owner="",
            listed=True,
        )
        for pid in range(100, 120)
    ]
    found = waits_of(WaitAnswer(errors={}, blocked=len(waits), waits=waits, owners=(), pools=()))
    page = tmp_path / "report.html"
    page.write_text(html(replace(made, waits=found)), encoding="utf-8")
    drawing = "document.querySelector('svg.waits').getBoundingClientRect()"
    room = "document.querySelector('svg.waits').parentElement.clientWidth"
    browser.open(page, *SIZES["phone"])
    assert browser.evaluate(WIDER) <= 0
    assert browser.evaluate(f"{drawing}.width > {room}"), "its words keep their size"
    browser.open(page, 794, 1123, medium="print")
    assert browser.evaluate(f"{drawing}.width <= {room}"), "paper does not scroll"


def test_nothing_in_a_dump_runs(browser: Browser, tmp_path: Path) -> None:
    evil = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\"> \x1b[31m </style>"
    vmcore = Vmcore(path=Path(f"/{evil}"), format="kdump-compressed", size=1, release=evil, panic=evil, hardware=evil)
    made = read(vmcore, CommandOutputs(texts={"log": evil}, runs=(), mode="", case={"proof": evil}))
    page = tmp_path / "evil.html"
    page.write_text(html(made), encoding="utf-8")
    browser.open(page, *SIZES["laptop"])
    assert browser.evaluate("document.title") != "hit"
    assert browser.evaluate("document.images.length + document.scripts.length") == 0
    assert {url for url in browser.requests() if not url.startswith("data:")} == {page.as_uri()}


def test_each_event_of_the_timeline_is_a_link_into_the_log(browser: Browser, report: Path) -> None:
    browser.open(report, *SIZES["laptop"])
    listed = browser.evaluate("[...document.querySelectorAll('ol.events a')].map(e => e.textContent)")
    assert listed[:4] == ["Boot", "Taint", "Warning", "I/O error \u00d7 150"]
    assert listed[-3:] == ["SysRq", "Panic", "The log ends"]
    words = browser.evaluate(
        "[...document.querySelectorAll('ol.events li')].map(e => "
        "[e.textContent, document.querySelector(e.querySelector('a').hash).textContent])"
    )
    for event, line in words:
        assert line.partition("] ")[2][:60].strip() in event
    # The picture's marks lead to the same lines, and stay within its rows.
    marks = browser.evaluate(
        "[...document.querySelectorAll('figure.timeline svg a')].map(e => { const box = e.getBoundingClientRect();"
        "const lane = e.closest('svg.lane').getBoundingClientRect();"
        "const found = document.querySelector(e.getAttribute('href')) !== null;"
        "return [found, box.left - lane.left, lane.right - box.right];})"
    )
    assert len(marks) == len(listed) - 1, "all but the end"
    assert all(found and left >= -1 and right >= -1 for found, left, right in marks), marks


@pytest.mark.parametrize("size", SIZES)
def test_words_below_the_axis_do_not_touch(browser: Browser, report: Path, size: str) -> None:
    browser.open(report, *SIZES[size])
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.ticks span')].map(e => e.getBoundingClientRect()).map(b => [b.left, b.right])"
    )
    boxes.sort()
    assert len(boxes) > 2
    assert all(here[1] <= there[0] for here, there in itertools.pairwise(boxes)), boxes
