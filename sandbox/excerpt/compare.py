"""Compares what an excerpt answers with what its dump has answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final

from sandbox.case.options import OpenOptions
from sandbox.excerpt import questions
from sandbox.excerpt.model import Difference, Question
from sandbox.progress import Reporter
from sandbox.report.model import CommandRun

_OF_THE_FILE: Final = ("DUMPFILE: ", "KERNEL: ", "DEBUGINFO: ")
"""Beginnings of lines that name files."""


def differences(
    excerpt: Path, asked: Sequence[Question], options: OpenOptions, reporter: Reporter, *, timeout: float
) -> Iterator[Difference]:
    """Ask the excerpt what the dump was asked, and yield each command whose answer is another."""
    named = [one.name for one in asked if len(one.runs) == 1]
    again = list(questions.commands(excerpt, named, options, reporter, timeout=timeout)) if named else []
    for before in asked:
        now = next((one for one in again if one.name == before.name), None)
        if len(before.runs) > 1:
            now = questions.report(excerpt, before.debugger, options, reporter, timeout=timeout)
        answers = {} if now is None else {run.command: run for run in now.runs}
        for run in before.runs:
            line = _first_difference(run, answers.get(run.command))
            if line is not None:
                yield Difference(question=before.name, command=run.command, line=line)


def _first_difference(before: CommandRun, now: CommandRun | None) -> str | None:
    if now is None:
        return "the excerpt was not opened"
    if before.status is not now.status:
        return f"{now.status} instead of {before.status}: {(_lines(now) or ['nothing'])[-1]}"
    for one, other in zip_longest(_lines(before), _lines(now)):
        if one != other:
            return other or one
    return None


def _lines(run: CommandRun) -> list[str]:
    return [line.strip() for line in run.output.splitlines() if not line.strip().startswith(_OF_THE_FILE)]
