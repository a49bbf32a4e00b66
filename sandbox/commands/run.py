"""A debugger's commands as users give them, and running them one after the other."""

from __future__ import annotations

import codecs
import io
import os
import select
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox import render
from sandbox.case.options import OpenOptions
from sandbox.commands.lost_pages import LostPages
from sandbox.commands.run_arguments import RunArguments, from_arguments
from sandbox.commands.verdicts import Announcer
from sandbox.debugger import DEFAULT
from sandbox.errors import CommandTimeout, UsageError, pasteable
from sandbox.model import Case, CommandStatus
from sandbox.progress import Reporter
from sandbox.session import choice
from sandbox.session.judging import Judge, Judgement
from sandbox.session.run_recorded import run_recorded
from sandbox.session.second_stack import Given, HeldAnswer, SecondStack
from sandbox.session.session import Session
from sandbox.session.start import open_session
from sandbox.session.transcript import Recorder

if TYPE_CHECKING:
    from sandbox.session.output_files import OutputDirectory, OutputFiles

_PATIENCE: Final = 0.1
"""Seconds without a line on standard input after which others get their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of running and showing commands."""

    timeout: float | None = None
    """Seconds for each command."""
    json: bool = False
    transcript: bool = True
    output: Path | None = None
    """New or empty directory that gets the files which the commands redirect to."""


def from_lines(lines: Iterable[str]) -> Iterator[str]:
    """One command a line, as in a crash input file: empty lines and comments do nothing."""
    return (line.strip() for line in lines if _is_command(line))


def _is_command(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def commands_from(words: Sequence[str], file: Path | None = None) -> Iterable[str]:
    """The commands of `file`, or of the command line's `words`, or of standard input when there are none, or just -."""
    if file is not None:
        return from_lines(from_file(file))
    return from_arguments(words) if words and list(words) != ["-"] else StdinCommands()


def from_file(file: Path) -> Iterator[str]:
    """The lines of a crash input file. Raises `UsageError` at once if it cannot be read, as opening takes minutes."""
    # A FIFO, as `-i <(...)` is one, is read once, and as it comes.
    if not file.is_fifo():
        with _reading(file):
            pass
    return _lines(file)


def _lines(file: Path) -> Iterator[str]:
    # Windows' editors begin UTF-8 with a mark.
    with _reading(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape") as lines:
        yield from lines


@contextmanager
def _reading(file: Path) -> Iterator[io.BufferedReader]:
    try:
        with file.open("rb") as raw:
            if raw.peek(2)[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
                converted = f"iconv -f UTF-16 -t UTF-8 {pasteable(file)} > commands"
                raise UsageError(f"{file} is UTF-16", hint=f"convert it first: {converted}")
            yield raw
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="-i takes a file of commands, one a line") from error


class StdinCommands:
    """Commands from standard input. A client that waits for the next one gives the session to others meanwhile."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._ended = False

    def ready(self) -> bool:
        """Whether a command, or the end, comes within a moment."""
        while not self._ended:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline and _is_command(line.decode(errors="surrogateescape")):
                return True
            if newline:
                self._buffer = rest
            elif select.select([self._descriptor], [], [], _PATIENCE)[0]:
                self._fill()
            else:
                return False
        return True

    def __iter__(self) -> Iterator[str]:
        return from_lines(self._lines())

    def _lines(self) -> Iterator[str]:
        while True:
            while b"\n" not in self._buffer and not self._ended:
                self._fill()
            line, _, self._buffer = self._buffer.partition(b"\n")
            if not line and not self._buffer and self._ended:
                return
            yield line.decode(errors="surrogateescape")

    def _fill(self) -> None:
        data = os.read(self._descriptor, 65536)
        self._buffer += data
        self._ended = not data


def run_arguments(arguments: RunArguments, *, reporter: Reporter, case: Case | None = None) -> int:
    """`vmbox run`: commands, or a script, as `arguments` say. `case` is the open one, where the caller has found it."""
    if arguments.tool != DEFAULT.name:
        from sandbox.commands.script import run_tool

        return run_tool(arguments, reporter=reporter, case=case)
    return run_all(
        arguments.vmcore,
        commands_from(arguments.commands, arguments.input_file),
        options=arguments.open_options(),
        run_options=RunOptions(
            timeout=arguments.timeout,
            json=arguments.json,
            transcript=not arguments.no_transcript,
            output=arguments.output,
        ),
        reporter=reporter,
        case=case,
    )


def run_all(
    dump: Path,
    commands: Iterable[str],
    *,
    options: OpenOptions,
    reporter: Reporter,
    run_options: RunOptions | None = None,
    case: Case | None = None,
) -> int:
    """Runs `commands` on the dump's case, opening it if need be; `quit` ends them and leaves the session warm.

    `case` is the open one, where the caller has found it. Returns 0, 1 if the debugger reported an error for one of
    them, or 62 if one took too long.
    """
    run_options = run_options or RunOptions()
    with _output_directory(run_options.output) as directory:
        session, said = open_session(dump, options, reporter, case=case)
        if options.debugger is not None:
            choice.remind(session.case, options, reporter)
        if said:
            # The warnings of its start.
            render.note(render.folded(render.visible(said.decode(errors="replace")).strip("\n")))
        with session, _collecting_output(session, directory, reporter) as files:
            return _run(session, commands, run_options, reporter, files, wished=options.debugger is not None)


def _output_directory(path: Path | None) -> AbstractContextManager[OutputDirectory | None]:
    if path is None:
        return nullcontext()
    from sandbox.session.output_files import OutputDirectory

    return OutputDirectory(path)


def _collecting_output(
    session: Session, directory: OutputDirectory | None, reporter: Reporter
) -> AbstractContextManager[OutputFiles | None]:
    if directory is None:
        return nullcontext()
    from sandbox.case.container_spec import scratch_size
    from sandbox.session.output_files import OutputFiles

    return OutputFiles(session, directory, limit=scratch_size(session.case), reporter=reporter)


def _run(
    session: Session,
    commands: Iterable[str],
    run_options: RunOptions,
    reporter: Reporter,
    files: OutputFiles | None,
    *,
    wished: bool,
) -> int:
    output = render.Output()
    judge = Judge(session.case)
    record = Recorder(session.case, reporter, wanted=run_options.transcript)
    second = SecondStack(session, record, reporter, wished=wished)
    announcer = Announcer(judge, session.case, reporter, second=second, timeout=run_options.timeout)
    lost = LostPages(session.case, session.debugger)
    exit_status = 0
    lines = iter(commands)
    while True:
        paused = isinstance(commands, StdinCommands) and not commands.ready()
        if paused:
            session.release()
        command = next(lines, None)
        ended = command is None or command.partition(" ")[0] in session.debugger.quit_words
        if paused and (not ended or files is not None):
            session.acquire()
            session.start()
        if command is None or ended:
            return exit_status
        if files is not None:
            files.expect(command)
        answer = render.JsonAnswer(command) if run_options.json else None
        held = second.holding(command, answer or output)
        try:
            done = run_recorded(
                command,
                session,
                lost.listen(judge.listen(command, held)),
                recorder=record,
                reporter=reporter,
                timeout=run_options.timeout,
                ended=partial(_end, answer, announcer, session, held=held),
            )
        except CommandTimeout as late:
            # The others still have their answers to give.
            exit_status = late.exit_code
            render.error(late)
        else:
            exit_status = exit_status or (1 if done.status is not CommandStatus.OK else 0)
        lost.say()


def _end(
    answer: render.JsonAnswer | None,
    announcer: Announcer,
    session: Session,
    status: CommandStatus,
    seconds: float,
    *,
    held: HeldAnswer,
) -> None:
    found, shown = Judgement(), None
    try:
        # An answer that was stopped has half a stack.
        if status in {CommandStatus.OK, CommandStatus.ERROR}:
            found, shown = announcer.judged(session)
    finally:
        held.give(shown)
    given = Given.of(session, status, seconds, found, shown)
    if answer is not None:
        more: dict[str, object] = {"debugger": given.choice.debugger, "reason": given.choice.reason}
        known = {name: getattr(given, name) for name in ("doubt", "verdicts", "not_judged")}
        more |= {name: value for name, value in known.items() if value}
        # The reader of the pipe may have ended.
        with suppress(BrokenPipeError):
            answer.end(given.status, given.seconds, more)
    if given.doubt is not None:
        # Also with -q: an answer that may be false is never given without a word.
        render.note(f"vmbox: {given.doubt}")
