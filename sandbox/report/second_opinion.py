"""Ask another debugger where the kernel's own words do not settle whether the first one's stack is true."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.case.dumps import witness
from sandbox.errors import VmboxError
from sandbox.host import paths
from sandbox.judge import backtrace, stacks, which_trace
from sandbox.judge.log import Witness
from sandbox.model import CommandStatus
from sandbox.report.bounded_answer import PER_ANSWER, BoundedAnswer
from sandbox.session.session import Session

COMMANDS: Final = ("bt", "ps")

# PID, PPID, CPU and TASK, in `ps` of both debuggers.
_TASK: Final = re.compile(r"^>?[ \t]*\d+[ \t]+\d+[ \t]+\d+[ \t]+[0-9a-f]{8,16}\s", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """What another debugger answered."""

    by: str
    texts: Mapping[str, str]
    """Its answers to `COMMANDS`, as far as it has any."""


def second_opinion(beside: Session, *, timeout: float) -> SecondOpinion | None:
    """Ask another debugger, which is at its prompt, what it says of the stack. None if it says nothing."""
    answers: dict[str, str] = {}
    for command in COMMANDS:
        kept = BoundedAnswer(PER_ANSWER)
        if beside.run(command, kept, timeout=timeout).status is CommandStatus.OK:
            answers[command] = kept.text()
    return SecondOpinion(by=beside.debugger.name, texts=answers) if answers else None


def count_tasks(ps: str) -> int:
    """The tasks in an answer to `ps` of either debugger, idle ones among them."""
    return len(_TASK.findall(ps))


def is_needed(dump: Path, texts: Mapping[str, str], by: str) -> bool:
    """Whether there is a stack in `texts`, and the log has no trace of the panic, or contradicts it."""
    return bool(backtrace.parse(texts.get("bt -l", ""))) and agrees_with_log(dump, texts, by) is not True


def agrees_with_log(dump: Path, texts: Mapping[str, str], by: str) -> bool | None:
    """Whether the stack in `texts` is the one that the log has; None where one of them has none."""
    found = backtrace.parse(texts.get("bt -l", ""))
    if not found:
        return None
    try:
        read = witness(dump, unpacked=paths.unpacked_dir())
    except VmboxError:
        read = Witness()
    trace = which_trace.dump_trace(read.kernel)
    verdict = None if trace is None else stacks.judge_task(found[0], trace, by=by)
    return None if verdict is None else verdict.agrees
