"""The salvage modes: what crash can do with a dump that it does not open as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.debugger import DEFAULT, Debugger, StartMode
from sandbox.errors import SessionError, SessionFailed
from sandbox.model import Case
from sandbox.progress import Reporter


def start_with_fallbacks(
    debugger: Debugger,
    start: Callable[[StartMode], bytes],
    remembered: Path,
    reporter: Reporter,
    modes: Sequence[StartMode] | None = None,
) -> bytes:
    """Starts `debugger` in the first of `modes` that works; all of its modes by default.

    `remembered` is the file that keeps the mode which opened the dump: it is tried first. `start` returns what the
    debugger printed and raises `SessionFailed` when it does not come up; the last mode's error is passed on.
    """
    modes = debugger.start_modes if modes is None else modes
    known = last_mode(remembered)
    first = next((number for number, mode in enumerate(modes) if mode.option == known), 0)
    for number, mode in enumerate(modes[first:], first):
        try:
            said = start(mode)
        except SessionFailed as error:
            if mode is modes[-1]:
                raise
            reporter.notice(
                f"{debugger.name} cannot open the dump: {error_line(debugger, error)}; "
                f"trying {modes[number + 1].option}"
            )
        else:
            if mode.option and (said or mode.option != known):
                reporter.notice(f"opened with {mode.option}: {mode.limitation}")
            remembered.write_text(mode.option)
            return said
    raise SessionFailed(f"there is no way to start {debugger.name}")


def mode_file(case: Case, debugger: Debugger) -> Path:
    """The file of a case that keeps the mode in which a debugger opened the dump."""
    return case.directory / ("mode" if debugger is DEFAULT else f"mode-{debugger.name}")


def last_mode(mode: Path) -> str:
    """The option with which the debugger was started last; empty when as it is, or not yet."""
    return mode.read_text() if mode.exists() else ""


def error_line(debugger: Debugger, error: SessionError) -> str:
    """The line of the debugger's words that says most; the error's message where it said nothing."""
    return debugger.error_line(error.detail or "") or error.message
