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
        for verdict in found.verdicts:
            if not verdict.agrees:
                render.note(f"{_loud(verdict)}\n{self._instead(verdict, shown)}")
            elif verdict.subject == "stack":
                self._reporter.notice(verdict.line)
            else:
                self._reporter.notice(f"{verdict.subject}: {verdict.line}")

    def _instead(self, verdict: Verdict, shown: Confirmed | None) -> str:
        """What to read in place of what is contradicted."""
        if shown is None or verdict.subject != "stack":
            return f"hint: ask the other debugger: {self._ask_other(verdict)}"
        (confirmed,) = (one for one in shown.verdicts if one.subject == "stack")
        return (
            f"vmbox: the stack of {shown.choice.debugger} is printed, which {confirmed.line}; "
            "it is asked by the next vmbox run, too\n"
            f"hint: that of {verdict.by}: vmbox run {pasteable(self._case.dump)} --with {verdict.by} -- bt"
        )

    def _ask_other(self, verdict: Verdict) -> str:
        from sandbox.debugger import DEBUGGERS
        from sandbox.session.choice import instead_of

        command = "bt" if verdict.subject == "stack" else "sys"
        other = instead_of(DEBUGGERS[verdict.by]).name
        return f"vmbox run {pasteable(self._case.dump)} --with {other} -- {command}"


def _loud(verdict: Verdict) -> str:
    if verdict.subject != "stack":
        return render.visible(f"vmbox: {verdict.subject}: {verdict.line}")
    lines = [
        f"vmbox: {verdict.line}",
        f"    the kernel printed: {' < '.join(verdict.witness)}",
        f"    {verdict.by} prints:{' ' * max(1, 12 - len(verdict.by))}{' < '.join(verdict.stack)}",
    ]
    return "\n".join(render.visible(line) for line in lines)
