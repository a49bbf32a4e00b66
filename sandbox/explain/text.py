"""A fault as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from sandbox.explain.model import TOPICS, Fault
from sandbox.render import visible

_WIDTH: Final = 110


def lines(fault: Fault, dump: str | None) -> Iterator[str]:
    """The sentences below their topics, each with the command that shows it.

    `dump` is its path, as a shell takes it; None for a reader who has no shell.
    """
    for topic, sentences in groupby(fault.sentences, key=lambda one: one.topic):
        yield TOPICS[topic].upper()
        for command, shown in groupby(sentences, key=lambda one: one.command):
            for one in shown:
                yield from textwrap.wrap(
                    visible(one.text),
                    _WIDTH,
                    initial_indent="  ",
                    subsequent_indent="    ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            if command is not None:
                yield f"      {command}" if dump is None else f"      $ vmbox run {dump} -- {command}"
        if topic == "where" and fault.source:
            yield "  Source (that it is of this very build is not checked):"
            for line in fault.source:
                yield visible(f"  {'>' if line.fault else ' '} {line.number:5}  {line.text.expandtabs()}")
    if fault.unknown:
        yield "NOT KNOWN"
        for part, why in fault.unknown.items():
            yield visible(f"  {part}: {why}")
