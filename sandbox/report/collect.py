"""Ask the questions of a report, crash's commands, one by one. One that fails never stops the rest.

What the debugger does not answer, the other one is asked, where that is not in doubt; and for stacks, where the log
contradicts the first one's: drgn has no unwind tables of a module without debuginfo. It is not started for less.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

from sandbox.case.options import OpenOptions
from sandbox.debugger import COUNT_TASKS, DEBUGGERS, DEFAULT
from sandbox.errors import CommandTimeout, SessionDied, VmboxError
from sandbox.explain.fault import Readings
from sandbox.explain.waits import Waits
from sandbox.model import CommandStatus
from sandbox.progress import QUIET, Reporter
from sandbox.report import fault, waits
from sandbox.report.bounded_answer import PER_ANSWER, PER_REPORT, BoundedAnswer
from sandbox.report.model import CommandRun
from sandbox.report.panic_context import panic_context
from sandbox.report.second_opinion import SecondOpinion, agrees_with_log, is_needed, second_opinion
from sandbox.session import choice
from sandbox.session.fallback import last_mode, mode_file
from sandbox.session.script import ask_question
from sandbox.session.session import Session
from sandbox.session.start import open_session

COMMANDS: Final = (
    "sys",
    "sys -i",
    "sys -t",
    "set",
    "bt -l",
    "bt -a",
    "foreach UN bt",
    "ps",
    "ps -m",
    "ps -t",
    "runq",
    "kmem -i",
    "kmem -s",
    "log",
    "mod",
    "mod -t",
    "mount",
    "net",
    "irq -s",
    "dev -d",
    "mach",
    COUNT_TASKS,
)

STACKS: Final = frozenset({"bt -l", "bt -a", "foreach UN bt"})

LISTS: Final = frozenset({"sys", "ps", "ps -m", "ps -t", "runq", "mod", "mod -t", "mount", "net", "irq -s", "dev -d"})
"""Commands of whose rows each stands for itself: with an error, those that are there are shown, and why others are
missing."""

PARTS: Final[Mapping[str, str]] = {
    "backtrace": "bt -l",
    "cpus": "bt -a",
    "blocked": "foreach UN bt",
    "load": "sys",
    "memory": "kmem -i",
    "slab": "kmem -s",
    "tasks": "ps",
    "run_queues": "runq",
    "log": "log",
    "modules": "mod",
    "mounts": "mount",
    "network": "net",
    "interrupts": "irq -s",
    "disks": "dev -d",
}
"""Part of a report: the command that it is made from."""

_KEPT: Final = 800_000
"""Characters of command output that a report shows; on a large machine there are tens of megabytes. Short outputs are
shown whole, and the long ones share the remaining room."""

_CUT: Final = "only the beginning of a very long answer"

_LIVES: Final = 3
"""How often the debugger may die before the remaining commands are skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOutputs:
    """Output of `COMMANDS`."""

    runs: tuple[CommandRun, ...]
    """For display: long output is cut."""
    texts: Mapping[str, str]
    """Full output of each answered command. Those in `STACKS` and `LISTS` count even with an error, which is of one
    stack, or of some rows."""
    mode: str
    case: Mapping[str, str]
    """profile, engine, proof; debugger, and why it answered (reason) or may be wrong (doubt)."""
    cut: frozenset[str] = frozenset()
    """Commands of whose answer only the beginning was kept."""
    second: SecondOpinion | None = None
    """Another debugger's answers, if it was asked."""
    readings: Readings = Readings(why="no debugger was asked for it")  # noqa: RUF009 - it is frozen
    """What was read of the fault."""
    waits: Waits | None = None
    no_waits: str | None = "no debugger was asked for it"
    """Why there are none."""

    def missing_reason(self, command: str) -> str | None:
        """Why `command` was not answered; None if it was."""
        run = next((run for run in self.runs if run.command == command), None)
        if run is None:
            return "it was not asked"
        return reason(run) or (f"{_CUT} was read" if command in self.cut else None)


def reason(run: CommandRun) -> str | None:
    """Why a command has no answer, in words; None if it has one."""
    debugger = run.debugger
    match run.status:
        case CommandStatus.OK:
            return None
        case CommandStatus.TIMEOUT:
            return f"{debugger} took longer than {run.seconds:.0f} seconds"
        case CommandStatus.DIED:
            return f"{debugger} ended at it: {_last_line(run.output)}"
        case CommandStatus.UNASKED:
            return run.output
        case CommandStatus.ERROR | CommandStatus.INTERRUPTED:
            excluded = re.search("page excluded|excluded page", run.output, re.IGNORECASE)
            said = "its pages were left out of the dump" if excluded else f"{debugger} says"
            return f"{said}: {_first_complaint(run, debugger)}"
        case _:
            assert_never(run.status)


def _first_complaint(run: CommandRun, debugger: str) -> str:
    if debugger != DEFAULT.name:
        return DEBUGGERS[debugger].error_line(run.output) or "nothing"
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    word = run.command.split()[0]
    return next((line for line in lines if line.startswith(f"{word}: ")), lines[-1] if lines else "nothing")


def _tells(command: str, status: CommandStatus) -> bool:
    # "bt: cannot transition from exception stack to current process stack" is of one CPU; the other stacks follow.
    return status is CommandStatus.OK or (status is CommandStatus.ERROR and command in STACKS | LISTS)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a word")


def collect(
    dump: Path,
    options: OpenOptions,
    reporter: Reporter = QUIET,
    *,
    timeout: float = 60,
    commands: Sequence[str] = COMMANDS,
) -> CommandOutputs:
    """Open `dump` if necessary, and run its commands. Raises as opening does; failed commands are in the result."""
    session, _ = open_session(dump, options, reporter, quick=True)
    case = session.case
    mode = last_mode(mode_file(case, session.debugger))
    questions = _Questions(timeout)
    second, reason = None, session.choice.reason
    with (
        session,
        panic_context(session, timeout=timeout),
        reporter.step(f"Asking {session.debugger.name}", total=len(commands)) as step,
    ):
        for _ in questions.ask(session, commands, mode):
            step.advance(1)
        # Of the debugger that a user asked for, all answers are wanted.
        lacking = [] if options.debugger is not None else questions.lacking()
        doubtful = is_needed(dump, questions.texts, session.debugger.name)
        other = choice.second(session.case, session.debugger) if lacking or doubtful else None
        if other is not None:
            try:
                with closing(session.beside(other)) as beside:
                    beside.start(other.start_modes[:1])
                    with panic_context(beside, timeout=timeout):
                        for _ in questions.ask(beside, lacking, ""):
                            pass
                        second = second_opinion(beside, timeout=timeout) if doubtful else None
                        if doubtful and agrees_with_log(dump, questions.texts, session.debugger.name) is False:
                            theirs = _Questions(timeout)
                            for _ in theirs.ask(beside, sorted(STACKS), ""):
                                pass
                            if agrees_with_log(dump, theirs.texts, other.name):
                                questions.replace(theirs)
                                second = None
                                mine = session.debugger.name
                                reason += f"; the stacks are {other.name}'s, for the log does not agree with {mine}'s"
            except VmboxError as error:
                reporter.notice(f"{other.name} was asked, too, and does not answer: {error.message}")
        readings = fault.read_dump(session, dump, reporter, timeout=timeout)
        blocked, no_waits = waits.read_or_why(session, timeout=timeout)
    return CommandOutputs(
        runs=truncate_to_fit([questions.runs[command] for command in commands]),
        texts=questions.texts,
        mode=mode,
        case={
            "profile": case.profile,
            "engine": case.engine,
            "proof": case.proof,
            "debugger": session.debugger.name,
            "reason": reason,
            "doubt": session.doubt or "",
            "no_debuginfo": case.no_debuginfo,
        },
        cut=frozenset(questions.cut),
        second=second,
        readings=readings,
        waits=blocked,
        no_waits=no_waits,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalOutput:
    """Output of one command that a debugger ran elsewhere."""

    status: CommandStatus
    output: str


def from_external(found: Mapping[str, ExternalOutput], *, case: Mapping[str, str]) -> CommandOutputs:
    """Convert the output of the debugger of `case` that vmbox did not run. A missing command counts as not asked."""
    name = case.get("debugger") or DEFAULT.name
    missing = ExternalOutput(status=CommandStatus.UNASKED, output=f"{name} had ended before")
    runs = []
    for command in COMMANDS:
        one = found.get(command, missing)
        runs.append(CommandRun(command=command, status=one.status, seconds=0.0, output=one.output, debugger=name))
    texts = {command: one.output for command, one in found.items() if _tells(command, one.status)}
    return CommandOutputs(runs=truncate_to_fit(runs), texts=texts, mode="", case=case)


class _Questions:
    """Asks commands, and keeps their answers within the limits of a report."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._room = PER_REPORT
        self.runs: dict[str, CommandRun] = {}
        self.texts: dict[str, str] = {}
        self.cut: set[str] = set()

    def ask(self, session: Session, commands: Sequence[str], mode: str) -> Iterator[CommandRun]:
        """Asks `commands`, and yields each when it has ended. An earlier answer stays where this one is no better."""
        for run, text in self._each(session, commands, mode):
            told = _tells(run.command, run.status)
            if run.status is CommandStatus.OK or run.command not in self.texts:
                if told or run.command not in self.runs:
                    self.runs[run.command] = run
                if told:
                    self.texts[run.command] = text
            yield run

    def replace(self, others: _Questions) -> None:
        """Takes the answers of others in the place of these."""
        for command, run in others.runs.items():
            self.runs[command] = run
            self.texts.pop(command, None)
        self.texts |= others.texts
        self.cut = (self.cut - set(others.runs)) | others.cut

    def lacking(self) -> list[str]:
        """The commands that have no answer, if a part of the report is missing for that."""
        found = [command for command, run in self.runs.items() if run.status is not CommandStatus.OK]
        return found if set(found) & set(PARTS.values()) else []

    def _each(self, session: Session, commands: Sequence[str], mode: str) -> Iterator[tuple[CommandRun, str]]:
        lives, name = _LIVES, session.debugger.name
        for command in commands:
            if lives == 0:
                yield _unasked(command, f"{name} had ended {_LIVES} times before", name)
            elif not session.works(command):
                yield _unasked(command, f"{name} opened the dump only with {mode}, where this does not work", name)
            elif self._room <= 0:
                yield _unasked(command, f"the answers before it had {PER_REPORT >> 20} MiB", name)
            else:
                answer = BoundedAnswer(min(PER_ANSWER, self._room))
                run, text = _one(session, command, self._timeout, answer)
                self._room -= answer.kept
                if answer.left_out:
                    self.cut.add(command)
                yield run, text
                if run.status is CommandStatus.DIED:
                    lives -= 1
                    try:
                        session.start()
                    except VmboxError:
                        lives = 0


def _unasked(command: str, why: str, debugger: str) -> tuple[CommandRun, str]:
    return CommandRun(command=command, status=CommandStatus.UNASKED, seconds=0.0, output=why, debugger=debugger), ""


def _one(session: Session, command: str, timeout: float, answer: BoundedAnswer) -> tuple[CommandRun, str]:
    seconds, last = timeout, ""
    try:
        began = time.monotonic()
        status, last = ask_question(session, command, answer, timeout=timeout)
        seconds = time.monotonic() - began
    except CommandTimeout:
        status = CommandStatus.TIMEOUT
    except SessionDied as error:
        status, seconds = CommandStatus.DIED, 0.0
        last = f"\n{error.message}\n"
    text = answer.text()
    said = f"\n[… {answer.left_out} bytes more left out …]\n" if answer.left_out else ""
    shown = text + said + last
    run = CommandRun(
        command=command, status=status, seconds=round(seconds, 3), output=shown, debugger=session.debugger.name
    )
    return run, text


def truncate_to_fit(runs: Sequence[CommandRun]) -> tuple[CommandRun, ...]:
    """Cut the middle out of long outputs, so that all of them fit on a page."""
    left, share = _KEPT, _KEPT
    for number, size in enumerate(sorted(len(run.output) for run in runs)):
        share = left // (len(runs) - number)
        if size > share:
            break
        left -= size
    else:
        return tuple(runs)
    return tuple(replace(run, output=_cut(run.output, share)) for run in runs)


def _cut(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    half = size // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
