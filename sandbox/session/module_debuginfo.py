"""Fetches the debug files of modules before a command loads them, e.g. `mod -s` and `mod -S` of crash."""

from __future__ import annotations

from sandbox.errors import DebuginfoError, NoSpace
from sandbox.model import Case
from sandbox.progress import Reporter
from sandbox.session.session import Session


def loaded_modules(session: Session) -> frozenset[str]:
    """Names of the modules the dead kernel had, in the kernel's spelling."""
    output = bytearray()
    session.run(session.debugger.list_modules, output.extend)
    return session.debugger.parse_modules(bytes(output))


def fetch_for(command: str, session: Session, reporter: Reporter) -> None:
    """Fetches what `command` needs, if it needs anything. What cannot be had is said, and crash says the rest."""
    names = session.debugger.modules_requested(command)
    if names is not None and any_missing(session.case, names):
        fetch(session.case, names or loaded_modules(session), reporter)


def any_missing(case: Case, names: frozenset[str]) -> bool:
    """Whether debug files of `names` (none: all that were loaded, which may be many) could be fetched and are not here.

    In a self-contained image they are there or not; nothing can be added to it.
    """
    from sandbox.debuginfo.modules import spelled, those_in

    if case.vmlinux is None:
        return False
    return case.vmlinux.exists() and not (names and spelled(names) <= those_in(case.vmlinux.parent))


def fetch(case: Case, names: frozenset[str], reporter: Reporter) -> None:
    """Fetches the debug files of modules into a case."""
    from sandbox.debuginfo.modules import fetch_modules

    if case.vmlinux is None:
        return
    try:
        got = fetch_modules(case.vmlinux, names, reporter)
    except (DebuginfoError, NoSpace) as error:
        reporter.notice(f"debug files of modules could not be fetched: {error.message}")
        return
    if got.missing:
        reporter.notice(f"not in the debug package: {', '.join(got.missing)}")
