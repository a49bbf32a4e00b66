"""Which debugger answers: crash where it knows the kernel and comes up as it is, else drgn; or the one asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sandbox.case import arrival
from sandbox.case.options import OpenOptions
from sandbox.case.with_debugger import has_debugger
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.errors import pasteable
from sandbox.host import decode
from sandbox.host.files import write_atomically
from sandbox.model import Case
from sandbox.progress import Reporter

_KEPT: Final = "choice"
"""The file of a case that keeps what was chosen for it, so that a warm run does not choose again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A debugger by name, and why it is that one, in words."""

    debugger: str
    reason: str


def asked_for(name: str) -> Choice:
    """The user's own choice, by --with or --tool."""
    return Choice(debugger=name, reason="it was asked for")


def quick(case: Case) -> Choice | None:
    """The debugger that is up first, for a report, where it and the default one know the kernel; None where not.

    What it does not answer, the default one is asked.
    """
    other = instead_of(DEFAULT)
    able = case.vmlinux is not None and (case.files == 1 or other.reads_split_dumps)
    if not able or other.name not in case.versions or {DEFAULT.name, other.name} & set(case.doubts):
        return None
    return Choice(debugger=other.name, reason=f"it is up before {DEFAULT.name}, which is asked what it does not answer")


def by_kernel(case: Case) -> Choice:
    """The choice by what is known before a debugger is started."""
    other = instead_of(DEFAULT)
    if case.vmlinux is None:
        return Choice(debugger=other.name, reason=_why_without(case))
    doubt = case.doubts.get(DEFAULT.name)
    if doubt is not None and case.only_misread and case.files > 1 and not other.reads_split_dumps:
        return Choice(debugger=DEFAULT.name, reason=f"{other.name} does not read split dumps")
    if doubt is not None:
        # Without what may be wrong: that debugger does not answer.
        return Choice(debugger=other.name, reason=doubt.partition(": ")[0])
    version = case.versions.get(DEFAULT.name, "")
    return Choice(debugger=DEFAULT.name, reason=f"version {version} of image {case.profile} knows this kernel")


def _why_without(case: Case) -> str:
    """Why a case without debuginfo has none, as it is now."""
    if not case.awaited:
        return f"there is no debuginfo ({case.no_debuginfo})"
    match arrival.stage(case.id):
        case arrival.Stage.FETCHING:
            now = arrival.doing(case.id).rstrip(" …")
            return f"debuginfo is still on its way{now and f' ({now})'}; the next command uses it, --wait waits for it"
        case arrival.Stage.ARRIVED:
            return "debuginfo has just arrived; the next command uses it"
        case arrival.Stage.FAILED:
            failed = arrival.error(case.id)
            return f"there is no debuginfo ({'' if failed is None else failed.message})"
        case arrival.Stage.STOPPED:
            again = f"vmbox debuginfo fetch {pasteable(case.dump)}"
            return f"there is no debuginfo (its fetch was stopped; {again} goes on with it)"


def remind(case: Case, options: OpenOptions, reporter: Reporter) -> None:
    """Tells a user of an open case without debuginfo so, and how to get it, unless this command asked for none."""
    if case.vmlinux is not None or options.no_debuginfo:
        return
    chosen = by_kernel(case)
    line = f"{chosen.debugger} answers: {chosen.reason}"
    if not case.awaited or arrival.stage(case.id) is arrival.Stage.FAILED:
        line += f"; vmbox debuginfo fetch {pasteable(case.dump)} looks for it"
    reporter.notice(line)


def instead_of(debugger: Debugger) -> Debugger:
    """The debugger that answers where `debugger` may not, or cannot."""
    return next(one for one in DEBUGGERS.values() if one is not debugger)


def second(case: Case, debugger: Debugger) -> Debugger | None:
    """The other debugger of a case; None where it is not there, cannot read the dump, or its answers are in doubt."""
    other = instead_of(debugger)
    lacking = (case.vmlinux is None and other.needs_debuginfo) or (case.files > 1 and not other.reads_split_dumps)
    return None if lacking or other.name in case.doubts or not has_debugger(case, other) else other


def kept(case: Case) -> Choice | None:
    """What was chosen for the case before; None for one that no debugger has opened yet."""
    try:
        found = decode.read_json(Choice, case.directory / _KEPT)
    except (OSError, ValueError):
        return None
    if case.awaited and found.debugger == instead_of(DEFAULT).name:
        return by_kernel(case)
    return found if found.debugger in DEBUGGERS else None


def keep(case: Case, choice: Choice) -> None:
    """Writes down what was chosen for the case."""
    import json
    from dataclasses import asdict

    write_atomically(case.directory / _KEPT, json.dumps(asdict(choice)).encode())
