"""Protocols with which the library reports progress, independent of its display.

`render` displays it. `QUIET` is the default for library users.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol


class Step(Protocol):
    """One piece of work in progress."""

    def advance(self, amount: int) -> None:
        """Report `amount` more of the step's unit as done."""

    def total(self, amount: int) -> None:
        """Set the total amount when it becomes known."""

    def detail(self, line: str) -> None:
        """Show one line of detail, e.g. of a build's output, until the next one."""


class Reporter(Protocol):
    """Receiver of steps and notices."""

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        """Begin work that may take longer than a second. `unit` is "B" for bytes (shown with rate) or empty."""

    def notice(self, line: str) -> None:
        """Show the user a sentence, e.g. the reason for a fallback."""


class _Quiet:
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:  # noqa: ARG002 - shows nothing
        return nullcontext(self)

    def notice(self, line: str) -> None: ...
    def advance(self, amount: int) -> None: ...
    def total(self, amount: int) -> None: ...
    def detail(self, line: str) -> None: ...


QUIET: Final[Reporter] = _Quiet()
