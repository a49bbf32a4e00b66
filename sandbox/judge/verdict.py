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

    @property
    def line(self) -> str:
        """One line for people: "AGREES WITH: the log's call trace (8 frames)"."""
        return f"{'AGREES' if self.agrees else 'DISAGREES'} WITH: {self.against} ({self.words})"
