"""Transcripts: every command of a case with its answer, as JSON lines in the user's state directory.

They outlive the case: what was asked and seen is the record of an analysis. A line is appended in one piece when its
command has ended, so that commands of several processes never mix.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sandbox.case.store import about_debuginfo
from sandbox.errors import CaseNotFound, refuse_empty
from sandbox.host import paths
from sandbox.host.files import write_all
from sandbox.model import Case, CommandStatus
from sandbox.progress import QUIET, Reporter
from sandbox.session.choice import Choice

MAX_OUTPUT: Final = 16 << 20
"""Bytes of one command's output that are kept; "truncated" says that there was more."""

_SUFFIX: Final = ".jsonl"


class Recorder:
    """Keeps what a case is asked and answers. A transcript that cannot be written is said once and stops nothing."""

    def __init__(self, case: Case, reporter: Reporter = QUIET, *, wanted: bool = True) -> None:
        self._case = case
        self._reporter = reporter
        self._wanted = wanted
        # Not the pieces themselves: a case may send it byte by byte.
        self._kept = bytearray()
        self._bytes = 0
        # What a dump was asked in cases of their own (`--once`) is the same record.
        self._path = _directory() / f"{case.id.partition('.')[0]}{_SUFFIX}"
        self._opened = datetime.now(UTC)
        self._began = time.monotonic()

    def begin(self) -> None:
        """A command starts now."""
        self._kept.clear()
        self._bytes = 0
        self._opened = datetime.now(UTC)
        self._began = time.monotonic()

    def __call__(self, piece: bytes) -> None:
        """Some of its output."""
        self._bytes += len(piece)
        if self._wanted:
            self._kept += piece[: MAX_OUTPUT - len(self._kept)]

    def end(self, command: str, status: CommandStatus, *, by: Choice, doubt: str | None) -> float:
        """The command has ended, as `status` says. Returns the seconds it took.

        `by` is the debugger that answered and why it was that one, `doubt` why its answer may be wrong.
        """
        seconds = time.monotonic() - self._began
        if self._wanted:
            record: dict[str, object] = {
                "time": self._opened.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "dump": str(self._case.dump),
                "tool": by.debugger,
                "command": command,
                "status": status,
                "seconds": round(seconds, 6),
                "bytes": self._bytes,
            }
            record |= {name: text for name, text in (("reason", by.reason), ("doubt", doubt)) if text}
            if self._bytes > len(self._kept):
                record["truncated"] = True
            record["output"] = self._kept.decode(errors="backslashreplace")
            self._kept.clear()
            # One line for each opening of a case, before its first command: with what crash and debuginfo it answers.
            begun = self._case.directory / "transcript"
            head = b"" if begun.exists() else json.dumps(header(self._case)).encode() + b"\n"
            self._append(head + json.dumps(record).encode() + b"\n")
            if head and self._wanted:
                with suppress(OSError):
                    begun.touch()
        return seconds

    def _append(self, line: bytes) -> None:
        path = self._path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                write_all(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._wanted = False
            self._reporter.notice(f"no transcript is kept: {path}: {error.strerror}")


def header(case: Case) -> dict[str, object]:
    """The line of a transcript about an opened case: the crash and the debuginfo of its answers."""
    return {
        "opened": case.opened.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "dump": str(case.dump),
        "release": case.release,
        "profile": case.profile,
        "image": case.image,
        "engine": case.engine,
        "debuginfo": about_debuginfo(case),
        "incomplete": case.incomplete,
    }


def find(what: str, reporter: Reporter = QUIET) -> list[Path]:
    """The transcripts that `what` names: a case, the beginning of one, or a dump file. Raises `CaseNotFound`."""
    refuse_empty(what)
    kept = kept_transcripts(reporter)
    found = [path for path in kept if path.name.startswith(what)]
    if not found:
        named = Path(what).resolve()
        dumps = {path: Path(str(first.get("dump"))) for path in kept if (first := next(records(path), None))}
        found = [path for path, dump in dumps.items() if dump == named]
        if not found and len({dump for dump in dumps.values() if named in dump.parents}) == 1:
            # A directory opens the one dump in it.
            found = [path for path, dump in dumps.items() if named in dump.parents]
    if not found:
        raise CaseNotFound(f"there is no transcript of {what}", hint="vmbox log lists them")
    return found


def kept_transcripts(reporter: Reporter = QUIET) -> list[Path]:
    """All that can be read, the one with the oldest last command first; the others are said."""
    found = []
    for path in paths.own_files(_directory(), f"*{_SUFFIX}"):
        if os.access(path, os.R_OK):
            found.append(path)
        else:
            reporter.notice(f"{path} cannot be read: it belongs to another user")
    return sorted(found, key=lambda path: path.stat().st_mtime)


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The commands of a transcript in their order."""
    return (record for record in lines(path) if "command" in record)


def lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The commands of a transcript, and before each opening's first one its `header`, which has "opened".

    A line that was cut off, e.g. by a full disk, is left out.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and ("command" in record or "opened" in record):
                yield record


def case_id(path: Path) -> str:
    return path.name.removesuffix(_SUFFIX)


def _directory() -> Path:
    return paths.state_dir() / "transcripts"
