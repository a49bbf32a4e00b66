"""The salvage modes: what crash can do with a dump that it does not open as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import SessionFailed
from sandbox.progress import Reporter


@dataclass(frozen=True, slots=True)
class StartMode:
    """One way to start crash."""

    option: str
    limitation: str
    """What no longer works, in words."""


MINIMAL: Final = "--minimal"

START_MODES: Final = (
    StartMode("", ""),
    StartMode("--zero_excluded", "pages that are missing read as zeros, so what is shown may be wrong"),
    StartMode("--no_modules", "modules are not known: addresses in them have no names"),
    StartMode(MINIMAL, "only log, dis, rd, sym, eval, set and exit work"),
)
"""Each mode is tried when the one above it failed, and said. Before the last one a newer crash is tried, in another
image; see `opening`."""


def start_with_fallbacks(
    start: Callable[[Sequence[str]], bytes],
    mode_file: Path,
    reporter: Reporter,
    modes: Sequence[StartMode] = START_MODES,
) -> bytes:
    """Starts crash on the first mode that holds. `mode_file` remembers it: what opened the dump once will do so again.

    `start` takes crash's options, returns what crash said and raises `SessionFailed` when it does not come up; the
    last mode's error is passed on.
    """
    known = last_mode(mode_file)
    first = next((number for number, mode in enumerate(modes) if mode.option == known), 0)
    for number, mode in enumerate(modes[first:], first):
        try:
            said = start((mode.option,) if mode.option else ())
        except SessionFailed as error:
            if mode is modes[-1]:
                raise
            reporter.notice(f"crash cannot open the dump: {error_line(error)}; trying {modes[number + 1].option}")
        else:
            if mode.option and (said or mode.option != known):
                reporter.notice(f"opened with {mode.option}: {mode.limitation}")
            mode_file.write_text(mode.option)
            return said
    raise SessionFailed("there is no way to start crash")


def last_mode(mode: Path) -> str:
    """The option with which crash was started last; empty when as it is, or not yet."""
    return mode.read_text() if mode.exists() else ""


def error_line(error: SessionFailed) -> str:
    """The line of crash's words that says most: its own error, else the last one."""
    lines = [line.strip() for line in (error.detail or "").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("crash: ")), lines[-1] if lines else error.message)
