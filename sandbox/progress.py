"""How the library says what it is doing, without knowing how that is shown.

`render` draws it; `QUIET` is what a library user gets by default.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol


class Step(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int) -> None:
        """`amount` more of the step's unit (bytes, unless the step said otherwise) are done."""

    def total(self, amount: int) -> None:
        """The whole is `amount`, now that it is known."""

    def detail(self, line: str) -> None:
        """One line of detail, e.g. of a build's output; shown while it is the newest."""


class Reporter(Protocol):
    """Where steps and notices go."""

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        """Work that may take longer than a second. `unit` is "B" for bytes (shown with rate) or empty."""

    def notice(self, line: str) -> None:
        """A sentence the user should see, e.g. why a fallback was taken."""


class _Quiet:
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:  # noqa: ARG002 - says nothing, to nobody
        return nullcontext(self)

    def notice(self, line: str) -> None: ...
    def advance(self, amount: int) -> None: ...
    def total(self, amount: int) -> None: ...
    def detail(self, line: str) -> None: ...


QUIET: Final[Reporter] = _Quiet()
