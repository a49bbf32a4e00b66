"""What the judge finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a debugger and another witness agree on one fact."""

    subject: str
    """stack, date, uptime or tasks."""
    agrees: bool
    by: str
    """The debugger that is judged."""
    against: str
    """The other witness, e.g. "the log's call trace"."""
    words: str
    """The reason, in one sentence: how far they agree, or where they part."""
    stack: tuple[str, ...] = ()
    """Functions of the debugger below the panic, innermost first, as they were compared."""
    witness: tuple[str, ...] = ()
    """The same of the other witness."""
    shorter: bool = False
    """Whether it does not agree only because the debugger leaves functions out: none of its own is contradicted."""
    pid: int | None = None
    """Of the task whose stack it is."""
    command: str | None = None
    """The name of that task."""

    @property
    def title(self) -> str:
        """What is said of the other witness: AGREES WITH, DISAGREES WITH or IS SHORTER THAN."""
        if self.agrees:
            return "AGREES WITH"
        return "IS SHORTER THAN" if self.shorter else "DISAGREES WITH"

    @property
    def task(self) -> str | None:
        """The task whose stack it is, for people: "PID 71 (khungtaskd)"."""
        return None if self.pid is None else f"PID {self.pid} ({self.command})"

    @property
    def line(self) -> str:
        """One line for people: "AGREES WITH: the log's call trace (8 frames)"."""
        return f"{self.title}: {self.against} ({self.words})"
