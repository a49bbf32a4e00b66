"""Fetches the debug files of modules before a command loads them, e.g. `mod -s` and `mod -S` of crash."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sandbox.errors import CommandTimeout, DebuginfoError, NoSpace
from sandbox.model import Case
from sandbox.progress import Reporter
from sandbox.session.session import Session

_LONGEST: Final = 1 << 20
"""Bytes of the list of modules that are read: those of some 10,000."""
_PATIENCE: Final = 120.0
"""Seconds for that list."""
_SAID: Final = 10
"""Modules that are named in a notice."""


def loaded_modules(session: Session) -> frozenset[str]:
    """Names of the modules the dead kernel had, in the kernel's spelling.

    A dump that took its case over may print for ever. Raises as `Session.run` does, and `CommandTimeout`.
    """
    output = bytearray()

    def keep(piece: bytes) -> None:
        output.extend(piece[: _LONGEST - len(output)])

    session.run(session.debugger.list_modules, keep, timeout=_PATIENCE)
    return session.debugger.parse_modules(bytes(output))


def lacks(missing: Collection[str]) -> str:
    """In words, that the debug package has no such modules."""
    named = [*sorted(missing)[:_SAID], *([f"and {len(missing) - _SAID} more"] if len(missing) > _SAID else [])]
    return f"not in the debug package: {', '.join(named)}"


def fetch_for(command: str, session: Session, reporter: Reporter) -> None:
    """Fetches what `command` needs, if it needs anything. What cannot be had is said, and crash says the rest."""
    names = session.debugger.modules_requested(command)
    if names is None or not any_missing(session.case, names):
        return
    try:
        wanted = names or loaded_modules(session)
    except CommandTimeout as late:
        reporter.notice(f"debug files of modules are not fetched: {late.message}")
        return
    fetch(session.case, wanted, reporter)


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
        reporter.notice(lacks(got.missing))
