"""Progress on standard error, live or in lines."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from sandbox.log import Log
from sandbox.progress import QUIET, Reporter, Step
from sandbox.render.output import note
from sandbox.render.text import one_line, size, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_log = Log("steps")


def reporter(*, quiet: bool) -> Reporter:
    """Progress on stderr: live on a terminal, otherwise plain lines, or nothing if quiet. Never live beside the log."""
    if _log.on():
        return _Logged(QUIET if quiet else Plain())
    if quiet:
        return QUIET
    # rich draws nothing where the cursor cannot be moved, so minutes would pass in silence.
    movable = os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    return Live() if movable and sys.stderr.isatty() else Plain()


_SETTLED: Final = 2.0
"""Seconds after which the rate says how long the rest takes."""


_CURSOR_ON: Final = b"\x1b[?25h"
_CURSOR_OFF: Final = b"\x1b[?25l"


def _control(control: bytes) -> None:
    """Past rich: what it prints within something else that it prints waits for the end of that."""
    os.write(sys.stderr.fileno(), control)


class Live:
    """Shows a line for each step in progress, with bar and rate if an amount is known."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._steps = 0
        # Image and debuginfo are fetched by two threads.
        import threading

        self._lock = threading.Lock()
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._pause)

    def _pause(self, number: int, _: object) -> None:
        """Stop on Ctrl-Z without the lines and with the cursor, and show them again when the shell goes on with it."""
        # Without `_lock`: the signal may have come to the thread that has it.
        shown = self._progress
        # What the signal interrupts may be printing.
        if shown is not None:
            with suppress(RuntimeError, OSError):
                shown.stop()
            with suppress(OSError):
                _control(_CURSOR_ON)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, self._pause)
        if shown is not None and shown is self._progress:
            with _cursor_if_interrupted(shown), suppress(RuntimeError, OSError):
                shown.start()
                _control(_CURSOR_OFF)

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        return _LiveStep(self, title, total, unit)

    def notice(self, line: str) -> None:
        if self._progress is None:
            note(f"vmbox: {one_line(line)}")
        else:
            self._progress.console.print(f"vmbox: {one_line(line)}", markup=False, highlight=False)

    def enter(self) -> Progress:
        with self._lock:
            if self._progress is None:
                from rich.console import Console
                from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
                from rich.table import Column

                self._progress = Progress(
                    SpinnerColumn(),
                    # A narrow terminal cuts the titles, not the time.
                    TextColumn("{task.description}", markup=False, table_column=Column(max_width=44, no_wrap=True)),
                    BarColumn(bar_width=20),
                    TextColumn("{task.fields[amount]}", markup=False),
                    TimeElapsedColumn(table_column=Column(min_width=7)),
                    TextColumn(
                        "{task.fields[said]}",
                        style="dim",
                        markup=False,
                        table_column=Column(max_width=36, no_wrap=True),
                    ),
                    console=Console(stderr=True),
                    transient=True,
                )
                with _cursor_if_interrupted(self._progress):
                    self._progress.start()
            self._steps += 1
            return self._progress

    def leave(self) -> None:
        with self._lock:
            self._steps -= 1
            if self._steps == 0 and self._progress is not None:
                self._progress.stop()
                self._progress = None


@contextmanager
def _cursor_if_interrupted(shown: Progress) -> Iterator[None]:
    """Show the cursor if Ctrl-C comes while `shown` is started: what ends it later does not know that it is hidden."""
    try:
        yield
    except BaseException:
        with suppress(RuntimeError, OSError):
            shown.stop()
        with suppress(OSError):
            _control(_CURSOR_ON)
        raise


class _LiveStep:
    def __init__(self, owner: Live, title: str, total: int | None, unit: str) -> None:
        self._owner = owner
        self._title = one_line(title)
        self._total = total
        self._unit = unit
        self._done = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._progress = self._owner.enter()
        self._task: TaskID = self._progress.add_task(self._title, total=self._total, amount="", said="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.remove_task(self._task)
        self._owner.leave()

    def advance(self, amount: int) -> None:
        self._done += amount
        self._progress.update(
            self._task, advance=amount, amount=_amount(self._done, self._total, self._unit, self._began)
        )

    def total(self, amount: int) -> None:
        self._total = amount
        self._progress.update(self._task, total=amount)

    def detail(self, line: str) -> None:
        self._progress.update(self._task, said=_newest(line)[-60:])


class Plain:
    """Prints one line when a step begins and one when a long step ends: suitable for a log file."""

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        return PlainStep(title, total, unit)

    def notice(self, line: str) -> None:
        note(f"vmbox: {one_line(line)}")


class PlainStep:
    EVERY = 10.0

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self._title = one_line(title)
        self._total = total
        self._unit = unit
        self._done = 0
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        note(f"{self._title} …")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = time.monotonic() - self._began
        if took >= 1 and kind is None:
            note(f"{self._title}: {took:.1f} s{', ' + size(self._done) if self._unit == 'B' and self._done else ''}")

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() - self._shown > self.EVERY:
            self._shown = time.monotonic()
            note(f"{self._title}: {_amount(self._done, self._total, self._unit, self._began)}")

    def total(self, amount: int) -> None:
        self._total = amount

    def detail(self, line: str) -> None:
        if time.monotonic() - self._shown > self.EVERY:
            self._shown = time.monotonic()
            note(f"{self._title}: {_newest(line)}")


class _Logged:
    """Shows steps as `inner` does, and logs how long each took."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    @contextmanager
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Step]:
        began = time.monotonic()
        ended = "failed after "
        try:
            with self._inner.step(title, total=total, unit=unit) as step:
                yield step
            ended = ""
        finally:
            _log.info("%s: %s%.3f s", title, ended, time.monotonic() - began)

    def notice(self, line: str) -> None:
        # Not logged: a notice may repeat what crash prints about a dump.
        self._inner.notice(line)


def _newest(line: str) -> str:
    """The last state of a line that is rewritten with carriage returns, as by dpkg ("Reading database … 5%")."""
    return visible(line.strip().rpartition("\r")[2])


def _amount(done: int, total: int | None, unit: str, began: float) -> str:
    if unit != "B":
        return f"{done}/{total}" if total else str(done)
    took = max(time.monotonic() - began, 0.001)
    rate = size(done / took)
    if not total:
        return f"{size(done)}, {rate}/s"
    left = took * (total - done) / max(done, 1)
    estimate = f", {left / 60:.0f} min left" if took >= _SETTLED and left >= 60 else ""
    return f"{size(done)} of {size(total)}, {rate}/s{estimate}"
