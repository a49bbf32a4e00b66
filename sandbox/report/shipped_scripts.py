"""Scripts of vmbox's own, asked in the debugger of a session that runs scripts, and the files that they need."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from sandbox.debugger import DEBUGGERS
from sandbox.dump.source import open_below, open_evidence
from sandbox.errors import SessionFailed, UsageError
from sandbox.model import CommandStatus
from sandbox.report.bounded_answer import BoundedAnswer
from sandbox.session.script import run_script
from sandbox.session.session import Session

SCRIPTED: Final = next(
    one for one in DEBUGGERS.values() if one.script("", b"", (), "") is not None and not one.needs_debuginfo
)
"""The debugger that runs them."""
_LONGEST: Final = 16 << 20
"""Bytes of an answer that are read."""
_LONGEST_MODULE: Final = 8 << 20
"""Bytes of a debug file that is sent into the case."""


@contextmanager
def scripted_session(session: Session) -> Iterator[Session]:
    """The session, or one beside it with the debugger that runs scripts."""
    if session.debugger is SCRIPTED:
        yield session
        return
    if session.case.remote:
        raise UsageError("on another host only one debugger is asked")
    with closing(session.beside(SCRIPTED)) as beside:
        beside.start()
        yield beside


def run_shipped(session: Session, name: str, script: bytes, request: str, *, timeout: float) -> bytes:
    """The answer of a script to a request. Raises `SessionFailed` where the script failed, and as a session does."""
    answer = BoundedAnswer(_LONGEST)
    status, errors = run_script(session, name, script, (request,), answer, timeout=timeout)
    if status is not CommandStatus.OK:
        said = errors.decode(errors="backslashreplace").strip().splitlines()
        raise SessionFailed(f"vmbox's script in {SCRIPTED.name} failed: {said[-1] if said else 'without a word'}")
    return answer.text().encode(errors="surrogateescape")


def module_files(dump: Path) -> Iterator[Path]:
    """Debug files of modules in the directory of their dump. Links are not followed: the dump's sender chose them."""
    with suppress(OSError):
        for path in sorted(dump.parent.glob("*.ko*")):
            if path.is_file() and not path.is_symlink() and path.name.endswith((".ko", ".ko.debug")):
                yield path


def read_module(path: Path, *, below: Path | None = None) -> bytes:
    """The content of a debug file; one that was found, and not named by a user, is opened as `open_below` does.

    Raises `UsageError` for a file that cannot be read, is no regular file, or is too large to be sent.
    """
    try:
        opened = open_evidence(path) if below is None else open_below(below, path)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise UsageError(f"{path} is not a regular file", hint="check the path given with --module")
            content = file.read(_LONGEST_MODULE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="check the path given with --module") from error
    if len(content) > _LONGEST_MODULE:
        raise UsageError(f"{path} is larger than {_LONGEST_MODULE >> 20} MiB")
    return content
