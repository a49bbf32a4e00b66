"""`run -- bt`: the stack that the debugger prints is compared with the call trace that the kernel printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox import render
from sandbox.errors import VmboxError, pasteable
from sandbox.session.session import Sink

if TYPE_CHECKING:
    from sandbox.judge.call_trace import CallTrace
    from sandbox.judge.verdict import Verdict
    from sandbox.model import Case
    from sandbox.progress import Reporter

_MOST: Final = 4 << 20
"""Bytes of an answer that are kept to be compared: `bt -a` of a large machine has some hundred KiB."""


def is_judged(command: str) -> bool:
    """Whether the answer of `command` has whole stacks: `bt` as it is, and not through a pipe or as raw words."""
    words = command.split()
    if not words or {"|", ">", ">>"} & set(words) or "|" in command or ">" in command:
        return False
    return words[0] == "bt" or (words[0] == "foreach" and "bt" in words)


class StackJudge:
    """Judges the answers of one `vmbox run`. The log is read once, when the first stack is there."""

    def __init__(self, case: Case, reporter: Reporter) -> None:
        self._case = case
        self._reporter = reporter
        self._trace: CallTrace | None = None
        self._read = False
        self._answer = bytearray()

    def listen(self, command: str, sink: Sink) -> Sink:
        """A sink for the answer of `command`, which passes all of it on to `sink`."""
        self._answer.clear()
        if not is_judged(command):
            return sink

        def give(piece: bytes) -> None:
            if len(self._answer) < _MOST:
                self._answer.extend(piece)
            sink(piece)

        return give

    def verdict(self, by: str) -> Verdict | None:
        """What is found of the answer that was listened to, and said on standard error; None if it has no such stack.

        `by` is the debugger that gave it. A disagreement is said also with -q.
        """
        if not self._answer or len(self._answer) >= _MOST:
            return None
        from sandbox.judge import backtrace, stacks

        found = [stack for stack in backtrace.parse(self._answer.decode(errors="replace")) if stack.frames]
        trace = self._panic_trace() if found else None
        if trace is None:
            return None
        verdict = next(filter(None, (stacks.judge(stack, trace, by=by) for stack in found)), None)
        if verdict is None:
            return None
        if verdict.agrees:
            self._reporter.notice(verdict.line)
        else:
            render.note(f"{_loud(verdict)}\nhint: ask the other debugger: {self._ask_other(by)}")
        return verdict

    def _ask_other(self, by: str) -> str:
        from sandbox.debugger import DEBUGGERS
        from sandbox.session.choice import instead_of

        return f"vmbox run {pasteable(self._case.dump)} --with {instead_of(DEBUGGERS[by]).name} -- bt"

    def _panic_trace(self) -> CallTrace | None:
        if not self._read:
            self._read = True
            self._trace = self._read_trace()
        return self._trace

    def _read_trace(self) -> CallTrace | None:
        from sandbox.case.dumps import witness
        from sandbox.host import paths
        from sandbox.judge import call_trace

        if self._case.remote:
            self._reporter.notice("the stack is not compared: the log is read where the dump is, on another host")
            return None
        try:
            read = witness(Path(self._case.dump), unpacked=paths.unpacked_dir())
        except VmboxError as error:
            self._reporter.notice(f"the stack is not compared with the kernel's own: {error.message}")
            return None
        if read.refused is not None:
            render.note(f"vmbox: the stack is not compared with the kernel's own: {read.refused}")
            return None
        trace = call_trace.panic_trace(read.lines)
        if trace is None:
            self._reporter.notice("the stack is not compared: the log has no call trace of the panic")
        elif (count := call_trace.panics(read.lines)) > 1:
            self._reporter.notice(f"the log has {count} panics; the stack is compared with that of the last")
        return trace


def _loud(verdict: Verdict) -> str:
    lines = [
        f"vmbox: {verdict.line}",
        f"    the kernel printed: {' < '.join(verdict.witness)}",
        f"    {verdict.by} prints:{' ' * max(1, 12 - len(verdict.by))}{' < '.join(verdict.stack)}",
    ]
    return "\n".join(render.visible(line) for line in lines)
