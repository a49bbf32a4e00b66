"""A report as one HTML file that loads nothing: no script, no font, no picture."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from sandbox.explain.model import TOPICS
from sandbox.judge.backtrace import Backtrace
from sandbox.judge.functions import plain_name
from sandbox.render import visible
from sandbox.report import charts
from sandbox.report.model import Report
from sandbox.report.timeline import NAMES, picture
from sandbox.report.wait_drawing import HEIGHT, draw

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def html(report: Report) -> str:
    """Render the page. Everything from the dump is text: templates escape it, and control characters become visible."""
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            charts=_charts(report),
            stacks=_alike(report.cpus),
            shown=_SHOWN,
            topics=TOPICS,
            drawing=draw(report.waits) if report.waits else None,
            row_height=HEIGHT,
            kinds=NAMES,
            axis=picture(report.timeline),
            eventful={one.line for one in report.timeline.events},
            dark=_dark(report),
        )
    )


def preload() -> None:
    """Load the templates before the first page needs them."""
    environment()


@cache
def environment() -> Environment:
    """The templates. They escape everything, and an undefined name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("sandbox.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Text from a dump may contain escape sequences and incomplete characters.
        finalize=lambda value: value if isinstance(value, Markup) else _clean(value),
    )
    made.filters |= {
        "amount": lambda value: None if value is None else charts.amount(value, "B"),
        "span": span,
        "when": when,
        "minute": minute,
        "plain_name": plain_name,
        "coded": coded,
        "by_topic": lambda sentences: [
            (topic, list(some)) for topic, some in itertools.groupby(sentences, key=lambda one: one.topic)
        ],
    }
    return made


def _clean(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str):
        return visible(value.encode(errors="backslashreplace").decode())
    return value


def coded(text: str) -> Markup:
    """A sentence with what is between its backticks as code."""
    from markupsafe import Markup, escape

    parts = visible(text.encode(errors="backslashreplace").decode()).split("`")
    # A backtick without its partner is one of a dump's own.
    whole = len(parts) - (len(parts) + 1) % 2
    marked = [
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts[:whole])
    ]
    return Markup("").join([*marked, *(escape(f"`{part}") for part in parts[whole:])])


def span(seconds: float | None) -> str:
    """A duration for people: 3 d 04:05:06, 00:01:02, 0.250 s."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02}:{minutes:02}:{rest:02}" if days else f"{hours:02}:{minutes:02}:{rest:02}"


def when(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def minute(time: datetime | None) -> str:
    """A time for a column whose head says UTC."""
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"


_SHOWN: Final = 60
"""Different stacks of CPUs that are shown. A large machine has more, which would make a large page."""


def _alike(stacks: Sequence[Backtrace]) -> list[tuple[str, Backtrace]]:
    """Each different stack once, with its CPUs: most CPUs of a large machine are idle."""
    found: dict[object, list[Backtrace]] = {}
    for stack in stacks:
        key = (stack.complaint, *((frame.function, frame.exception) for frame in stack.frames))
        found.setdefault(key, []).append(stack)
    return [(_whose(some), some[0]) for some in list(found.values())[:_SHOWN]]


def _whose(stacks: Sequence[Backtrace]) -> str:
    if len(stacks) == 1:
        return f"CPU {stacks[0].cpu}: {stacks[0].command} (PID {stacks[0].pid})"
    names = list(dict.fromkeys(re.sub(r"^swapper/\d+$", "swapper", stack.command) for stack in stacks))
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return f"{len(stacks)} CPUs alike ({_ranges(stack.cpu for stack in stacks)}): {', '.join(names[:3])}{more}"


def _ranges(numbers: Iterable[int]) -> str:
    """0-3, 7"""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


_SECTIONS: Final = {
    "backtrace": ("the task that panicked", ("backtrace",)),
    "cpus": ("all CPUs", ("cpus",)),
    "blocked": ("blocked tasks", ("blocked",)),
    "waits": ("who waits for whom", ("waits",)),
    "load": ("load and memory", ("load", "memory", "slab")),
    "tasks": ("tasks", ("tasks",)),
    "modules": ("modules", ("modules",)),
    "devices": ("devices", ("mounts", "network", "disks", "interrupts")),
    "commands": ("commands", ()),
}
"""Sections that are of a debugger's answers: what they are called, and their parts in `Report.missing`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dark:
    """Sections of which nothing is known, for one reason: by themselves they would be half of a page."""

    sections: Mapping[str, str]
    why: str = ""


def _dark(report: Report) -> _Dark:
    reasons = {report.missing.get(part) for _, parts in _SECTIONS.values() for part in parts}
    if report.commands or report.verdicts or len(reasons) != 1 or (why := reasons.pop()) is None:
        return _Dark(sections={})
    return _Dark(sections={ident: name for ident, (name, _) in _SECTIONS.items()}, why=why)


def _charts(report: Report) -> dict[str, charts.Chart]:
    """Charts by their ids in the page, without empty ones."""
    found: dict[str, charts.Chart] = {}
    if len(report.load) == 3:
        averages = list(zip(("1 minute", "5 minutes", "15 minutes"), report.load, strict=True))
        found["load"] = charts.bars("Load averages", averages, unit="")
    if memory := report.memory:
        rest = max(0, memory.used - memory.buffers - memory.cached - memory.slab)
        parts = [
            ("programs and kernel", rest),
            ("cached", memory.cached),
            ("buffers", memory.buffers),
            ("slab", memory.slab),
            ("free", memory.free),
        ]
        parts = [part for part in parts if part[1]]
        found["memory"] = charts.stack("Use of memory", parts, unit="B", neutral="free")
    compared: Sequence[tuple[str, str, list[tuple[str, float]], str]] = (
        ("slab", "Largest slab caches", [(one.name, one.bytes) for one in report.slab if one.bytes], "B"),
        (
            "by_memory",
            "Tasks with most resident memory",
            [(f"{task.command} {task.pid}", task.resident or 0) for task in report.by_memory],
            "B",
        ),
        (
            "by_time",
            "Tasks with most CPU time",
            [(f"{task.command} {task.pid}", task.ran or 0.0) for task in report.by_time],
            "s",
        ),
    )
    for ident, name, values, unit in compared:
        if values:
            found[ident] = charts.bars(name, values, unit=unit)
    return found
