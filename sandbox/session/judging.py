"""Judge answers of a warm debugger: what it prints is compared with what the kernel itself printed and counted.

`bt` is compared with the call trace of the panic in the log; DATE, UPTIME and TASKS of `sys` with CRASHTIME, with the
log's last time stamp, and with the kernel's own number of tasks and its list of processes.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.debugger import COUNT_TASKS
from sandbox.errors import VmboxError
from sandbox.session.session import Session, Sink

if TYPE_CHECKING:
    # A warm run of another command needs none of these.
    from sandbox.judge.log import Witness
    from sandbox.judge.verdict import Verdict
    from sandbox.model import Case

MOST: Final = 4 << 20
"""Bytes of an answer that are kept to be compared: `bt -a` of a large machine has some hundred KiB."""

_LOG: Final = 64 << 20
"""The same of the log that the debugger of a dump on another host prints."""

_PATIENCE: Final = 30.0
"""Seconds for what is asked so that an answer can be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is found of one answer."""

    verdicts: tuple[Verdict, ...] = ()
    not_judged: str | None = None
    """The reason why its stack is compared with nothing."""
    refused: bool = False
    """Whether that is because the log beside the dump is of another crash."""
    remark: str | None = None
    """What to know of the log."""
    tasks: frozenset[tuple[int, str]] = frozenset()
    """PID and task_struct of the tasks whose stacks are in the answer."""


_NOTHING: Final = Judgement()


def is_judged(command: str) -> bool:
    """Whether the answer of `command` has whole stacks, or is that of `sys`: as it is, and not through a pipe."""
    words = command.split()
    if not words or {"|", ">", ">>"} & set(words) or "|" in command or ">" in command:
        return False
    return words == ["sys"] or words[0] == "bt" or (words[0] == "foreach" and "bt" in words)


def before_pipe(command: str) -> str | None:
    """The `bt` of which a pipe or a file gets the answer; None for another command."""
    head = re.split(r"[|>]", command, maxsplit=1)[0]
    return head.strip() if head != command and head.split()[:1] == ["bt"] else None


class Judge:
    """Judges the answers about one dump. Its log is read once, when the first answer needs it."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._read: Witness | None = None
        self._lacking: str | None = None
        self._answer = bytearray()
        self.command = ""
        """The last one to whose answer was listened."""

    def listen(self, command: str, sink: Sink) -> Sink:
        """A sink for the answer of `command`, which passes all of it on to `sink`."""
        self._answer.clear()
        self.command = command
        if not is_judged(command):
            return sink

        def give(piece: bytes) -> None:
            if len(self._answer) < MOST:
                self._answer.extend(piece)
            sink(piece)

        return give

    def judge(self, session: Session) -> Judgement:
        """What is found of the answer that was listened to; `session` is that of the debugger which gave it.

        To be asked when the answer is whole. The debugger may be asked more.
        """
        if (asked := before_pipe(self.command)) is not None:
            # What was left of it may have no stack: it is asked again, without the pipe.
            return self._of_stacks(_ask(session, asked) or "", session)
        if not self._answer:
            return _NOTHING
        if len(self._answer) >= MOST:
            self._answer.clear()
            return Judgement(not_judged=f"the answer has more than {MOST >> 20} MiB, that of bt PID has not")
        answer = self._answer.decode(errors="replace")
        self._answer.clear()
        if self.command.split() == ["sys"]:
            return Judgement(verdicts=self._of_system(answer, session))
        return self._of_stacks(answer, session)

    def _of_stacks(self, answer: str, session: Session) -> Judgement:
        from sandbox.judge import backtrace, stacks, which_trace
        from sandbox.judge.log import remark

        found = [stack for stack in backtrace.parse(answer) if stack.frames]
        if not found:
            return _NOTHING
        log = self._log(session)
        tasks = frozenset((stack.pid, stack.task.lstrip("0")) for stack in found)
        if self._lacking is not None or log.refused is not None:
            refused = log.refused is not None
            return Judgement(not_judged=log.refused or self._lacking, refused=refused, tasks=tasks)
        trace = which_trace.dump_trace(log.kernel)
        traces = [*([] if trace is None else [trace]), *which_trace.still_blocked(log.kernel)]
        if not traces:
            return Judgement(not_judged="the log has no call trace of the panic", tasks=tasks)
        by = session.debugger.name
        judged = (next(filter(None, (stacks.judge(stack, one, by=by) for stack in found)), None) for one in traces)
        verdicts = tuple(filter(None, judged))
        if not verdicts:
            return Judgement(not_judged=stacks.why_not(found, traces[0], by=by), tasks=tasks)
        return Judgement(verdicts=verdicts, remark=remark(log.kernel), tasks=tasks)

    def _of_system(self, answer: str, session: Session) -> tuple[Verdict, ...]:
        from sandbox.judge import system

        said = system.parse(answer)
        log = self._log(session)
        crash_time = None
        if not self._case.remote:
            from sandbox.case.dumps import identify

            with suppress(VmboxError):
                crash_time = identify(Path(self._case.dump)).crash_time
        counted = _ask(session, COUNT_TASKS) if "TASKS" in said else None
        by = session.debugger.name
        return tuple(system.judge(said, crash_time=crash_time, log=log.kernel, counted=counted, by=by))

    def _log(self, session: Session) -> Witness:
        from sandbox.case.dumps import witness
        from sandbox.host import paths
        from sandbox.judge.log import Witness

        if self._read is None:
            self._read = Witness()
            if self._case.remote:
                # Only the debugger sees the dump. A stack that it misreads is not in the log that it reads.
                text = _ask(session, "log", most=_LOG)
                self._lacking = None if text else f"{session.debugger.name} there does not print the log"
                self._read = Witness(lines=(text or "").splitlines())
            else:
                try:
                    self._read = witness(Path(self._case.dump), unpacked=paths.unpacked_dir())
                except VmboxError as error:
                    self._lacking = error.message
        return self._read


def _ask(session: Session, command: str, *, most: int = MOST) -> str | None:
    """The answer to another command; None where there is none."""
    from sandbox.session.script import ask_question

    answer = bytearray()

    def keep(piece: bytes) -> None:
        answer.extend(piece[: most - len(answer)])

    try:
        ask_question(session, command, keep, timeout=_PATIENCE)
    except VmboxError:
        return None
    return answer.decode(errors="backslashreplace")
