"""`mod -s` and `mod -S`: the debug files that crash is about to look for are fetched first."""

from __future__ import annotations

import re
from typing import Final

from sandbox.errors import DebuginfoError, NoSpace
from sandbox.model import Case
from sandbox.progress import Reporter
from sandbox.session.session import Session

_LISTED: Final = re.compile(r"(?m)^\s*[0-9a-f]{8,16}\s+([\w-]+)\s")
"""A line of crash's `mod`: address of struct module, name."""


def modules_requested(command: str) -> frozenset[str] | None:
    """The modules a command loads debug information of: names, none in particular (`mod -S`: all), or None for none."""
    words = command.split()
    if not words or words[0] not in {"mod", "lsmod"} or len(words) < 2:
        return None
    match words[1]:
        case "-S" if len(words) == 2:
            # With a directory, the user says where to look; there is none in the container but ours.
            return frozenset()
        case "-s" if len(words) == 3:
            return frozenset({words[2]})
        case _:
            return None


def loaded_modules(session: Session) -> frozenset[str]:
    """Names of the modules the dead kernel had, in the kernel's spelling."""
    output = bytearray()
    session.run("mod", output.extend)
    return frozenset(_LISTED.findall(output.decode(errors="replace")))


def fetch_for(command: str, session: Session, reporter: Reporter) -> None:
    """Fetches what `command` needs, if it needs anything. What cannot be had is said, and crash says the rest."""
    names = modules_requested(command)
    if names is not None and any_missing(session.case, names):
        fetch(session.case, names or loaded_modules(session), reporter)


def any_missing(case: Case, names: frozenset[str]) -> bool:
    """Whether debug files of `names` (none: all that were loaded, which may be many) could be fetched and are not here.

    In a self-contained image they are there or not; nothing can be added to it.
    """
    from sandbox.debuginfo.modules import spelled, those_in

    return case.vmlinux.exists() and not (names and spelled(names) <= those_in(case.vmlinux.parent))


def fetch(case: Case, names: frozenset[str], reporter: Reporter) -> None:
    """Fetches the debug files of modules into a case."""
    from sandbox.debuginfo.modules import fetch_modules

    try:
        got = fetch_modules(case.vmlinux, names, reporter)
    except (DebuginfoError, NoSpace) as error:
        reporter.notice(f"debug files of modules could not be fetched: {error.message}")
        return
    if got.missing:
        reporter.notice(f"not in the debug package: {', '.join(got.missing)}")
