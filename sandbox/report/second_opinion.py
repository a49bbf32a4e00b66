"""Ask another debugger where the kernel's own words do not settle whether the first one's stack is true."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.case.dumps import witness
from sandbox.errors import VmboxError
from sandbox.host import paths
from sandbox.judge import backtrace, call_trace, stacks
from sandbox.judge.log import Witness
from sandbox.model import CommandStatus
from sandbox.progress import Reporter
from sandbox.report.bounded_answer import PER_ANSWER, BoundedAnswer
from sandbox.report.panic_context import panic_context
from sandbox.session.choice import instead_of
from sandbox.session.session import Session

COMMANDS: Final = ("bt", "ps")

# PID, PPID, CPU and TASK, in `ps` of both debuggers.
_TASK: Final = re.compile(r"^>?\s*\d+\s+\d+\s+\d+\s+[0-9a-f]{8,16}\s", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """What another debugger answered."""

    by: str
    texts: Mapping[str, str]
    """Its answers to `COMMANDS`, as far as it has any."""


def second_opinion(
    session: Session, dump: Path, texts: Mapping[str, str], reporter: Reporter, *, timeout: float
) -> SecondOpinion | None:
    """Ask the other debugger of the case, if the log has no trace of the panic or contradicts the stack in `texts`.

    One whose answers are in doubt for this kernel is not asked. None if nothing was asked, or it does not start.
    """
    if not _is_needed(dump, texts, session.debugger.name):
        return None
    other = instead_of(session.debugger)
    lacking = session.case.vmlinux is None and other.needs_debuginfo
    if lacking or other.name in session.case.doubts or session.case.remote:
        return None
    answers: dict[str, str] = {}
    try:
        with closing(session.beside(other)) as beside:
            beside.start(other.start_modes[:1])
            with panic_context(beside, timeout=timeout):
                for command in COMMANDS:
                    kept = BoundedAnswer(PER_ANSWER)
                    if beside.run(command, kept, timeout=timeout).status is CommandStatus.OK:
                        answers[command] = kept.text()
    except VmboxError as error:
        reporter.notice(f"{other.name} was asked for its stack, too, and has none: {error.message}")
    return SecondOpinion(by=other.name, texts=answers) if answers else None


def count_tasks(ps: str) -> int:
    """The tasks in an answer to `ps` of either debugger, idle ones among them."""
    return len(_TASK.findall(ps))


def _is_needed(dump: Path, texts: Mapping[str, str], by: str) -> bool:
    found = backtrace.parse(texts.get("bt -l", ""))
    if not found:
        return False
    try:
        read = witness(dump, unpacked=paths.unpacked_dir())
    except VmboxError:
        read = Witness()
    trace = call_trace.panic_trace(read.lines)
    verdict = None if trace is None else stacks.judge_task(found[0], trace, by=by)
    return verdict is None or not verdict.agrees
