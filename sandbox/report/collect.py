"""Run the crash commands of a report one by one. A command that fails never stops the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

from sandbox.case.options import OpenOptions
from sandbox.errors import CommandTimeout, SessionDied, VmboxError
from sandbox.model import CommandStatus
from sandbox.progress import QUIET, Reporter
from sandbox.report.bounded_answer import PER_ANSWER, PER_REPORT, BoundedAnswer
from sandbox.report.model import CommandRun
from sandbox.report.second_opinion import SecondOpinion, second_opinion
from sandbox.session.fallback import last_mode, mode_file
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
"""How often crash may die before the remaining commands are skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOutputs:
    """Output of `COMMANDS`."""

    runs: tuple[CommandRun, ...]
    """For display: long output is cut."""
    texts: Mapping[str, str]
    """Full output of each answered command. Commands in `STACKS` count even with an error, which is of one stack."""
    mode: str
    case: Mapping[str, str]
    """profile, engine, proof."""
    cut: frozenset[str] = frozenset()
    """Commands of whose answer only the beginning was kept."""
    second: SecondOpinion | None = None
    """Another debugger's answers, if it was asked."""

    def missing_reason(self, command: str) -> str | None:
        """Why `command` was not answered; None if it was."""
        run = next((run for run in self.runs if run.command == command), None)
        if run is None:
            return "it was not asked"
        return reason(run) or (f"{_CUT} was read" if command in self.cut else None)


def reason(run: CommandRun) -> str | None:
    """Why a command has no answer, in words; None if it has one."""
    match run.status:
        case CommandStatus.OK:
            return None
        case CommandStatus.TIMEOUT:
            return f"crash took longer than {run.seconds:.0f} seconds"
        case CommandStatus.DIED:
            return f"crash ended at it: {_last_line(run.output)}"
        case CommandStatus.UNASKED:
            return run.output
        case CommandStatus.ERROR | CommandStatus.INTERRUPTED:
            excluded = "page excluded" in run.output
            return f"{'its pages were left out of the dump' if excluded else 'crash says'}: {_first_complaint(run)}"
        case _:
            assert_never(run.status)


def _first_complaint(run: CommandRun) -> str:
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
    with session, reporter.step("Asking crash", total=len(commands)) as step:
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
            "doubt": session.doubt or "",
            "debugger": session.debugger.name,
        },
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
            yield _unasked(command, f"crash had ended {_LIVES} times before")
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
        done = session.run(command, answer, timeout=timeout)
    except CommandTimeout:
        status = CommandStatus.TIMEOUT
    except SessionDied as error:
        status, seconds = CommandStatus.DIED, 0.0
        last = f"\n{error.message}\n"
    else:
        status, seconds = done.status, done.seconds
    text = answer.text()
    said = f"\n[… {answer.left_out} bytes more left out …]\n" if answer.left_out else ""
    shown = text + said + last
    return CommandRun(command=command, status=status, seconds=round(seconds, 3), output=shown), text


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
