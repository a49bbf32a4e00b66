"""Ask the questions of a report, crash's commands, one by one. One that fails never stops the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import CommandTimeout, SessionDied, VmboxError
from sandbox.model import CommandStatus
from sandbox.progress import QUIET, Reporter
from sandbox.report.bounded_answer import PER_ANSWER, PER_REPORT, BoundedAnswer
from sandbox.report.model import CommandRun
from sandbox.report.panic_context import panic_context
from sandbox.report.second_opinion import SecondOpinion, second_opinion
from sandbox.session.fallback import last_mode, mode_file
from sandbox.session.script import run_script
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
)

STACKS: Final = frozenset({"bt -l", "bt -a", "foreach UN bt"})

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
    """Full output of each answered command. Commands in `STACKS` count even with an error, which is of one stack."""
    mode: str
    case: Mapping[str, str]
    """profile, engine, proof; debugger, and why it answered (reason) or may be wrong (doubt)."""
    debugger: str = DEFAULT.name
    """Name of the debugger that answered."""
    cut: frozenset[str] = frozenset()
    """Commands of whose answer only the beginning was kept."""
    second: SecondOpinion | None = None
    """Another debugger's answers, if it was asked."""

    def missing_reason(self, command: str) -> str | None:
        """Why `command` was not answered; None if it was."""
        run = next((run for run in self.runs if run.command == command), None)
        if run is None:
            return "it was not asked"
        return reason(run, self.debugger) or (f"{_CUT} was read" if command in self.cut else None)


def reason(run: CommandRun, debugger: str = DEFAULT.name) -> str | None:
    """Why a command has no answer of `debugger`, in words; None if it has one."""
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
    return status is CommandStatus.OK or (status is CommandStatus.ERROR and command in STACKS)


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
    session, _ = open_session(dump, options, reporter)
    case = session.case
    mode = last_mode(mode_file(case, session.debugger))
    runs: list[CommandRun] = []
    texts: dict[str, str] = {}
    cut: set[str] = set()
    with (
        session,
        panic_context(session, timeout=timeout),
        reporter.step(f"Asking {session.debugger.name}", total=len(commands)) as step,
    ):
        for run, text in _each(session, commands, mode, timeout, cut):
            runs.append(run)
            step.advance(1)
            if _tells(run.command, run.status):
                texts[run.command] = text
        second = second_opinion(session, dump, texts, reporter, timeout=timeout)
    return CommandOutputs(
        runs=truncate_to_fit(runs),
        texts=texts,
        mode=mode,
        case={
            "profile": case.profile,
            "engine": case.engine,
            "proof": case.proof,
            "debugger": session.debugger.name,
            "reason": session.choice.reason,
            "doubt": session.doubt or "",
            "no_debuginfo": case.no_debuginfo,
        },
        debugger=session.debugger.name,
        cut=frozenset(cut),
        second=second,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalOutput:
    """Output of one command that another crash ran."""

    status: CommandStatus
    output: str


def from_external(found: Mapping[str, ExternalOutput], *, case: Mapping[str, str]) -> CommandOutputs:
    """Convert the output of a crash that vmbox did not run. A missing command counts as not asked."""
    missing = ExternalOutput(status=CommandStatus.UNASKED, output="crash had ended before")
    runs = []
    for command in COMMANDS:
        one = found.get(command, missing)
        runs.append(CommandRun(command=command, status=one.status, seconds=0.0, output=one.output))
    texts = {command: one.output for command, one in found.items() if _tells(command, one.status)}
    return CommandOutputs(runs=truncate_to_fit(runs), texts=texts, mode="", case=case)


def _each(
    session: Session, commands: Sequence[str], mode: str, timeout: float, cut: set[str]
) -> Iterator[tuple[CommandRun, str]]:
    lives, name, room = _LIVES, session.debugger.name, PER_REPORT
    for command in commands:
        if lives == 0:
            yield _unasked(command, f"{name} had ended {_LIVES} times before")
        elif not session.works(command):
            yield _unasked(command, f"{name} opened the dump only with {mode}, where this does not work")
        elif room <= 0:
            yield _unasked(command, f"the answers before it had {PER_REPORT >> 20} MiB")
        else:
            answer = BoundedAnswer(min(PER_ANSWER, room))
            run, text = _one(session, command, timeout, answer)
            room -= answer.kept
            if answer.left_out:
                cut.add(command)
            yield run, text
            if run.status is CommandStatus.DIED:
                lives -= 1
                try:
                    session.start()
                except VmboxError:
                    lives = 0


def _unasked(command: str, why: str) -> tuple[CommandRun, str]:
    return CommandRun(command=command, status=CommandStatus.UNASKED, seconds=0.0, output=why), ""


def _one(session: Session, command: str, timeout: float, answer: BoundedAnswer) -> tuple[CommandRun, str]:
    seconds, last = timeout, ""
    try:
        status, seconds, last = _asked(session, command, timeout, answer)
    except CommandTimeout:
        status = CommandStatus.TIMEOUT
    except SessionDied as error:
        status, seconds = CommandStatus.DIED, 0.0
        last = f"\n{error.message}\n"
    text = answer.text()
    said = f"\n[… {answer.left_out} bytes more left out …]\n" if answer.left_out else ""
    shown = text + said + last
    return CommandRun(command=command, status=status, seconds=round(seconds, 3), output=shown), text


def _asked(session: Session, command: str, timeout: float, answer: BoundedAnswer) -> tuple[CommandStatus, float, str]:
    """Asks a question by the debugger's command, or by the script that it has for it: status, seconds, its errors."""
    script = session.debugger.question(command)
    if script is None:
        done = session.run(command, answer, timeout=timeout)
        return done.status, done.seconds, ""
    began = time.monotonic()
    status, errors = run_script(session, command, script, (), answer, timeout=timeout)
    return status, time.monotonic() - began, errors.decode(errors="backslashreplace")


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
