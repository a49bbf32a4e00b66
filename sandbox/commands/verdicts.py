"""`vmbox run`: what the judge finds of an answer is said on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox import render
from sandbox.errors import pasteable

if TYPE_CHECKING:
    from sandbox.judge.verdict import Verdict
    from sandbox.model import Case
    from sandbox.progress import Reporter
    from sandbox.session.judging import Judge, Judgement
    from sandbox.session.second_stack import Confirmed, SecondStack
    from sandbox.session.session import Session


class Announcer:
    """Says the findings about the answers of one `vmbox run`: why nothing is compared once, the others each time."""

    def __init__(
        self, judge: Judge, case: Case, reporter: Reporter, *, second: SecondStack, timeout: float | None = None
    ) -> None:
        self._judge = judge
        self._case = case
        self._reporter = reporter
        self._second = second
        self._timeout = timeout
        self._said: set[str] = set()

    def judged(self, session: Session) -> tuple[Judgement, Confirmed | None]:
        """What is found of the answer that the judge has heard, and the one to show in its place; both are said.

        Agreement is a notice. A disagreement, and a log that is of another crash, are said also with -q.
        """
        found = self._judge.judge(session)
        shown = None
        try:
            shown = self._second.confirmed(self._judge.command, found, timeout=self._timeout)
        finally:
            # Also at Ctrl-C while the other one is asked: the answer that was held is printed then.
            self._say(found, shown)
        return found, shown

    def _say(self, found: Judgement, shown: Confirmed | None) -> None:
        if found.not_judged is not None and found.not_judged not in self._said:
            self._said.add(found.not_judged)
            if found.refused:
                render.note(f"vmbox: the stack is not compared with the kernel's own: {found.not_judged}")
            else:
                self._reporter.notice(f"the stack is not compared with the kernel's own: {found.not_judged}")
        if found.remark is not None and found.remark not in self._said:
            self._said.add(found.remark)
            self._reporter.notice(found.remark)
        several = len(found.tasks) > 1
        false = [one for one in found.verdicts if not one.agrees]
        for verdict in found.verdicts:
            if verdict in false:
                # After the last one: they are of one answer.
                more = f"\n{self._instead(verdict, shown)}" if verdict is false[-1] else ""
                render.note(_loud(verdict) + more)
            elif verdict.subject == "stack":
                self._reporter.notice(f"{verdict.task}: {verdict.line}" if several else verdict.line)
            else:
                self._reporter.notice(f"{verdict.subject}: {verdict.line}")

    def _instead(self, verdict: Verdict, shown: Confirmed | None) -> str:
        """What to read in place of what is contradicted."""
        if shown is None or verdict.subject != "stack":
            return f"hint: ask the other debugger: {self._ask_other(verdict)}"
        by, asked = shown.choice.debugger, shown.done.command
        confirmed = next(one for one in shown.verdicts if one.subject == "stack" and one.pid == verdict.pid)
        which = f"; that of {confirmed.task}" if shown.stacks > 1 else ", which"
        changed = "" if asked == self._judge.command.strip() else f" ({render.visible(asked)})"
        words = f"the stacks of {by} are printed" if shown.stacks > 1 else f"the stack of {by} is printed"
        return (
            render.visible(f"vmbox: {words}{changed}{which} {confirmed.line}; it is asked by the next vmbox run, too")
            + f"\nhint: that of {verdict.by}: {self._run(verdict.by, self._judge.command)}"
        )

    def _ask_other(self, verdict: Verdict) -> str:
        from sandbox.debugger import DEBUGGERS
        from sandbox.session.choice import instead_of

        other = instead_of(DEBUGGERS[verdict.by])
        command = self._judge.command
        if verdict.subject == "stack":
            command = other.stacks_command(command) or f"bt {verdict.pid}"
        return self._run(other.name, command)

    def _run(self, name: str, command: str) -> str:
        words = " ".join(pasteable(word) if word[0] != "-" else word for word in command.split())
        return f"vmbox run {pasteable(self._case.dump)} --with {name} -- {words}"


def _loud(verdict: Verdict) -> str:
    if verdict.subject != "stack":
        return render.visible(f"vmbox: {verdict.subject}: {verdict.line}")
    lines = [
        f"vmbox: {verdict.task}: {verdict.line}",
        f"    the kernel printed: {' < '.join(verdict.witness)}",
        f"    {verdict.by} prints:{' ' * max(1, 12 - len(verdict.by))}{' < '.join(verdict.stack)}",
    ]
    return "\n".join(render.visible(line) for line in lines)
