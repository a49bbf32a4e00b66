"""Give the other debugger's stack in place of one that the log contradicts, where the log confirms the other."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from sandbox.debugger import DEFAULT
from sandbox.errors import VmboxError
from sandbox.model import CommandStatus, Transcript
from sandbox.progress import Reporter
from sandbox.session import choice
from sandbox.session.choice import Choice
from sandbox.session.judging import MOST, Judge, Judgement, is_judged
from sandbox.session.run_recorded import run_recorded
from sandbox.session.session import Session, Sink
from sandbox.session.transcript import Recorder

if TYPE_CHECKING:
    # Only where a stack is contradicted.
    from sandbox.judge.verdict import Verdict

_REASON: Final = "the kernel's own call trace contradicts {}'s stack"


class HeldAnswer:
    """A sink that holds an answer back until it is known whether it is shown; one too long to be judged passes."""

    def __init__(self, sink: Sink, *, holds: bool) -> None:
        self._sink = sink
        self._kept = bytearray()
        self._holds = holds

    def __call__(self, piece: bytes) -> None:
        if not self._holds:
            self._sink(piece)
            return
        self._kept += piece
        if len(self._kept) >= MOST:
            self.release()

    def release(self) -> None:
        """Pass on what was held, and what comes later."""
        kept, self._kept, self._holds = bytes(self._kept), bytearray(), False
        if kept:
            self._sink(kept)

    def give(self, shown: Confirmed | None) -> None:
        """Pass on what was held, or the answer that is `shown` in its place."""
        if shown is not None:
            self._kept = bytearray(shown.output)
        self.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """The other debugger's answer to the same command, with a stack that the log confirms."""

    output: bytes
    done: Transcript
    stacks: int
    """How many are in it."""
    choice: Choice
    doubt: str | None
    verdicts: tuple[Verdict, ...]
    """Those of this answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is said of the answer that was given to a command: the session's own, or the confirmed one in its place."""

    status: CommandStatus
    seconds: float
    choice: Choice
    doubt: str | None
    verdicts: tuple[Verdict, ...]
    """Those of the answer that was given, then those of the one that it replaces."""
    not_judged: str | None

    @classmethod
    def of(
        cls, session: Session, status: CommandStatus, seconds: float, found: Judgement, shown: Confirmed | None
    ) -> Self:
        """Of the own answer, which ended with `status` after `seconds`, and of the one that is `shown` in its place."""
        own = cls(
            status=status,
            seconds=seconds,
            choice=session.choice,
            doubt=session.doubt,
            verdicts=found.verdicts,
            not_judged=found.not_judged,
        )
        if shown is None:
            return own
        return replace(
            own,
            status=shown.done.status,
            seconds=shown.done.seconds,
            choice=shown.choice,
            doubt=shown.doubt,
            verdicts=(*shown.verdicts, *found.verdicts),
        )


class SecondStack:
    """Asks drgn where crash is a session's debugger, and the user did not ask for it."""

    def __init__(self, session: Session, recorder: Recorder, reporter: Reporter, *, wished: bool) -> None:
        self._session = session
        self._recorder = recorder
        self._reporter = reporter
        self._wished = wished

    def holding(self, command: str, sink: Sink) -> HeldAnswer:
        """A sink for the answer of `command`: stacks are held back until they are judged, other answers are not.

        Those of all tasks are not held either: they are long, and the log has but one of them.
        """
        return HeldAnswer(sink, holds=self._holds(command))

    def _holds(self, command: str) -> bool:
        # Where drgn answers without a wish, crash does not know the kernel or not open the dump, or was contradicted.
        asked = not self._wished and self._session.debugger is DEFAULT
        return asked and is_judged(command) and command.split(maxsplit=1)[0] == "bt"

    def confirmed(self, command: str, found: Judgement, *, timeout: float | None) -> Confirmed | None:
        """The other debugger's answer, where the log contradicts a stack that was `found`, and confirms all of these.

        It has to be of the same tasks. The case is the other debugger's from then on. None where there is none to ask,
        or it is not confirmed.
        """
        if not self._holds(command) or all(one.agrees for one in found.verdicts):
            return None
        session = self._session
        other = choice.second(session.case, session.debugger)
        # The same question: without options that only change how a frame is printed.
        asked = None if other is None else other.stacks_command(command)
        if other is None or asked is None:
            return None
        by = Choice(debugger=other.name, reason=_REASON.format(session.debugger.name))
        output = bytearray()
        judge = Judge(session.case)

        def keep(piece: bytes) -> None:
            # A longer one is not judged, and so not shown.
            if len(output) < MOST:
                output.extend(piece)

        try:
            with closing(session.beside(other)) as beside:
                beside.choice = by
                beside.start(other.start_modes[:1])
                done = run_recorded(
                    asked,
                    beside,
                    judge.listen(asked, keep),
                    recorder=self._recorder,
                    reporter=self._reporter,
                    timeout=timeout,
                )
                theirs = judge.judge(beside)
                doubt = beside.doubt
        except VmboxError as error:
            self._reporter.notice(f"{other.name} is not asked: {error.message}")
            return None
        confirmed = {one.pid for one in theirs.verdicts if one.subject == "stack" and one.agrees}
        judged = {one.pid for one in found.verdicts if one.subject == "stack"}
        whole = done.status is CommandStatus.OK and theirs.tasks == found.tasks
        if not whole or not judged <= confirmed or not all(one.agrees for one in theirs.verdicts):
            return None
        choice.keep(session.case, by)
        return Confirmed(
            output=bytes(output),
            done=done,
            stacks=len(theirs.tasks),
            choice=by,
            doubt=doubt,
            verdicts=theirs.verdicts,
        )
