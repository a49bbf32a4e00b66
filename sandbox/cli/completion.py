"""Completion after TAB. It never prints and never fails, because a broken setting must not disturb typing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from sandbox.errors import VmboxError

_NO_WORD: Final = re.compile(r"[^\w@%+=:,./-]")
"""What means something to a shell: bash takes what is offered unquoted into the command line, a line each, and zsh
evaluates it, help too.
"""


def debugger_commands(incomplete: str) -> Iterator[str]:
    from sandbox.debugger import DEFAULT

    yield from (name for name in DEFAULT.commands if name.startswith(incomplete))


def debuggers(incomplete: str) -> Iterator[str]:
    from sandbox.debugger import DEBUGGERS

    yield from (name for name in DEBUGGERS if name.startswith(incomplete))


def profiles(incomplete: str) -> Iterator[tuple[str, str]]:
    from sandbox.profiles import load

    with suppress(VmboxError, OSError):
        yield from ((name, profile.title) for name, profile in sorted(load().items()) if name.startswith(incomplete))


def cases(incomplete: str) -> Iterator[tuple[str, str]]:
    """Open cases, by id, and by the path of their dump where a shell takes that as one word and nothing more.

    The maker of a dump chose its name and its release.
    """
    from sandbox.case.store import open_cases

    with suppress(VmboxError, OSError):
        for case in open_cases():
            for name in (case.id, str(case.dump)):
                if name.startswith(incomplete) and not _NO_WORD.search(name):
                    yield name, _NO_WORD.sub("?", case.release)


def transcripts(incomplete: str) -> Iterator[tuple[str, str]]:
    """Cases that have a transcript, open or not, by id, and by the path of their dump as `cases` offers them."""
    from sandbox.session.transcript import case_id, kept_transcripts, records

    with suppress(VmboxError, OSError):
        for kept in kept_transcripts():
            first = next(records(kept), {})
            for name in (case_id(kept), str(first.get("dump", ""))):
                if name.startswith(incomplete) and name and not _NO_WORD.search(name):
                    yield name, _NO_WORD.sub("?", str(first.get("release", "")))


def settings(incomplete: str) -> Iterator[tuple[str, str]]:
    from sandbox.host.config import meanings

    yield from ((f"{key}=", meaning) for key, meaning in meanings().items() if key.startswith(incomplete))


def triggers(incomplete: str) -> Iterator[str]:
    from sandbox.commands.demo_triggers import TRIGGERS

    yield from (name for name in TRIGGERS if name.startswith(incomplete))


def engines(incomplete: str) -> Iterator[str]:
    from sandbox.engine import EngineName

    yield from (name for name in (*EngineName, "ssh://", "tcp://", "unix://") if name.startswith(incomplete))
