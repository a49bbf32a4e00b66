"""Asks a dump the questions of a report and some commands, and tells which pages were read for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sandbox.case import page_record
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import CommandTimeout, SessionFailed
from sandbox.excerpt.model import Question
from sandbox.host.tempdirs import scratch_directory
from sandbox.model import CommandStatus, Vmcore
from sandbox.profiles import doubt_crash, select
from sandbox.progress import Reporter
from sandbox.report.bounded_answer import PER_ANSWER, BoundedAnswer
from sandbox.report.collect import collect
from sandbox.report.model import CommandRun
from sandbox.session.session import Session
from sandbox.session.start import open_session


def debuggers(vmcore: Vmcore, options: OpenOptions, reporter: Reporter) -> list[str]:
    """Who makes a report: each debugger that knows the kernel, or the one that the user names."""
    if options.debugger is not None:
        return [options.debugger]
    lacking = {name for name, one in DEBUGGERS.items() if options.no_debuginfo and one.needs_debuginfo}
    used = select(vmcore, override=options.image).crash_from
    doubt = doubt_crash(used, vmcore.release, vmcore.utsname_version)
    if doubt is not None and DEFAULT.name not in lacking:
        reporter.notice(f"{DEFAULT.name} is not asked: {doubt.partition(': ')[0]}")
        lacking.add(DEFAULT.name)
    return [name for name in DEBUGGERS if name not in lacking]


def report(dump: Path, debugger: str, options: OpenOptions, reporter: Reporter, *, timeout: float) -> Question | None:
    """Ask all questions of a report. None where the debugger does not open the dump, which is said."""
    with _record() as record:
        alone = replace(options, once=True, debugger=debugger, record=record)
        try:
            answers = collect(dump, alone, reporter, timeout=timeout)
        except SessionFailed as error:
            reporter.notice(f"{debugger} opens no part of the dump: {error.message}")
            return None
        frames = tuple(page_record.read(record))
    return Question(name=f"report by {debugger}", debugger=debugger, frames=frames, runs=answers.runs)


def commands(
    dump: Path, asked: Sequence[str], options: OpenOptions, reporter: Reporter, *, timeout: float
) -> Iterator[Question]:
    """Ask some commands, one after the other, of the debugger that would answer `vmbox run`."""
    with _record() as record:
        session, _ = open_session(dump, replace(options, once=True, record=record), reporter)
        with session:
            start = 0
            for command in asked:
                run = _asked(session, command, timeout)
                frames = tuple(page_record.read(record, start))
                start += len(frames)
                yield Question(
                    name=command,
                    debugger=session.debugger.name,
                    frames=frames,
                    runs=(run,),
                    failed=run.status is not CommandStatus.OK,
                )


def _asked(session: Session, command: str, timeout: float) -> CommandRun:
    answer = BoundedAnswer(PER_ANSWER)
    try:
        done = session.run(command, answer, timeout=timeout)
    except CommandTimeout:
        return CommandRun(command=command, status=CommandStatus.TIMEOUT, seconds=timeout, output=answer.text())
    return CommandRun(command=command, status=done.status, seconds=done.seconds, output=answer.text())


@contextmanager
def _record() -> Iterator[Path]:
    with scratch_directory() as place:
        yield page_record.create(place)
