"""The case in which a debugger runs: the dump's own, or one with the newest image, where that lacks the debugger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sandbox.case.available_image import newest_with, profile_with
from sandbox.case.opening import find_or_open_case, here, open_dump
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.errors import UsageError, pasteable
from sandbox.model import Case
from sandbox.progress import QUIET, Reporter


@contextmanager
def case_for_tool(tool: str, dump: Path, options: OpenOptions, reporter: Reporter = QUIET) -> Iterator[Case]:
    """Yield the case in which `tool` (a debugger, or a shell) runs beside the warm debuggers; see `case_with`."""
    case, own = case_with(DEBUGGERS.get(tool, DEFAULT), dump, options, reporter)
    try:
        yield case
    finally:
        if own:
            _close_case(case)


def case_with(
    debugger: Debugger, dump: Path, options: OpenOptions, reporter: Reporter = QUIET, *, case: Case | None = None
) -> tuple[Case, bool]:
    """The case in which a debugger runs, and whether it is the caller's alone, who then closes it.

    This is the dump's own case (`case` is the open one, where the caller has found it). A debugger that its image
    lacks, e.g. because it is emulated, gets a case with the newest image.
    """
    dump = here(dump, reporter)
    if case is None:
        wanted = debugger.name if debugger.reads_any_arch else options.debugger
        case = find_or_open_case(dump, replace(options, debugger=wanted), reporter)
    if has_debugger(case, debugger):
        return case, options.once
    if options.image is not None:
        if options.once:
            _close_case(case)
        raise lacking(case, debugger)
    beside = "" if options.once else ", beside the open case"
    reporter.notice(f"{lacks(case, debugger)}: it runs in that of {newest_with(debugger).name}{beside}")
    if options.once:
        _close_case(case)
    image = profile_with(debugger, options, reporter)
    return open_dump(dump, replace(options, image=image, once=True, native=True), reporter), True


def has_debugger(case: Case, debugger: Debugger) -> bool:
    """Whether the image of the case has `debugger`: crash always, for which it was selected."""
    return not debugger.reads_any_arch or debugger.name in case.versions


def lacks(case: Case, debugger: Debugger) -> str:
    """That the image of the case has no `debugger`; and why it cannot have it, where the profile says so."""
    from sandbox.profiles import load

    profile = load().get(case.profile)
    why = None if profile is None else profile.image.lacks.get(debugger.name)
    return f"image {case.profile} has no {debugger.name}" + (f" ({why})" if why else "")


def lacking(case: Case, debugger: Debugger) -> UsageError:
    """The error about an image that the user chose and that has no `debugger`."""
    return UsageError(
        lacks(case, debugger),
        hint=f"--image latest has one: vmbox run {pasteable(case.dump)} --image latest --with {debugger.name} -- …",
    )


def _close_case(case: Case) -> None:
    from sandbox.case.container import close

    close(case)
