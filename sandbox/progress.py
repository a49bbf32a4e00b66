"""Protocols with which the library reports progress, independent of its display.

`render` displays it. `QUIET` is the default for library users.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event
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


class Stopped(Exception):
    """The work that reports this is to end: its caller does not wait any more."""


class Stoppable:
    """A reporter of work in a thread, which ends with `Stopped` at its next line of detail once `stop` was called."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._stopped = Event()

    def stop(self) -> None:
        self._stopped.set()

    @contextmanager
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Step]:
        if self._stopped.is_set():
            raise Stopped
        with self._reporter.step(title, total=total, unit=unit) as step:
            yield _StoppableStep(step, self._stopped)

    def notice(self, line: str) -> None:
        self._reporter.notice(line)


class _StoppableStep:
    def __init__(self, step: Step, stopped: Event) -> None:
        self._step = step
        self._stopped = stopped

    def advance(self, amount: int) -> None:
        self._step.advance(amount)

    def total(self, amount: int) -> None:
        self._step.total(amount)

    def detail(self, line: str) -> None:
        if self._stopped.is_set():
            raise Stopped
        self._step.detail(line)
