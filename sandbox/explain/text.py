"""A fault, and who waits for whom, as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final

from sandbox.explain.model import TOPICS, Fault, Sentence
from sandbox.explain.waits import Waits
from sandbox.render import one_line

_WIDTH: Final = 110


def lines(fault: Fault, dump: str | None) -> Iterator[str]:
    """A fault: the sentences below their topics, each with the command that shows it.

    `dump` is its path, as a shell takes it; None for a reader who has no shell.
    """
    yield from _doubted(fault.doubt)
    for topic, sentences in groupby(fault.sentences, key=lambda one: one.topic):
        yield TOPICS[topic].upper()
        yield from _sentences(sentences, dump)
        if topic == "where" and fault.source:
            yield "  Source (that it is of this very build is not checked):"
            for line in fault.source:
                yield one_line(f"  {'>' if line.fault else ' '} {line.number:5}  {line.text.expandtabs()}")
    yield from _not_known(fault.unknown)


def wait_lines(waits: Waits, dump: str | None) -> Iterator[str]:
    """Who waits for whom, in the same form."""
    yield from _doubted(waits.doubt)
    tasks = "1 task was" if waits.blocked == 1 else f"{waits.blocked} tasks were"
    yield f"{tasks} in uninterruptible sleep"
    for topic, sentences in groupby(waits.sentences, key=lambda one: one.topic):
        yield TOPICS[topic].upper()
        yield from _sentences(sentences, dump)
    yield from _not_known(waits.unknown)


def _doubted(doubt: str | None) -> Iterator[str]:
    if doubt is not None:
        yield "NOT TO BE RELIED ON"
        yield one_line(f"  {doubt}")


def _sentences(sentences: Iterable[Sentence], dump: str | None) -> Iterator[str]:
    for command, shown in groupby(sentences, key=lambda one: one.command):
        for one in shown:
            yield from textwrap.wrap(
                one_line(one.text),
                _WIDTH,
                initial_indent="  ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        if command is not None:
            yield f"      {command}" if dump is None else f"      $ vmbox run {dump} -- {command}"


def _not_known(unknown: Mapping[str, str]) -> Iterator[str]:
    if unknown:
        yield "NOT KNOWN"
        for part, why in unknown.items():
            yield one_line(f"  {part}: {why}")
