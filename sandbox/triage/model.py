"""One dump of a triage as values: what it is, and how its report came out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from sandbox.case.options import OpenOptions
from sandbox.dump import identify, is_plain
from sandbox.errors import VmboxError
from sandbox.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpEntry:
    """A dump that was found, identified."""

    dump: str
    key: str
    """Names its report: of the path."""
    stamp: str
    """Changes when the file does, or vmbox."""
    kernel: str | None = None
    """Equal for dumps of one build: they share image and debuginfo."""
    files: tuple[str, ...] = ()
    """All of a split dump."""
    wrapped: bool = False
    """crash reads a copy of it that is made in the cache."""
    problem: str | None = None
    exit_code: int = 0
    """Why it is no dump, and the status of that."""
    path: Path | None = None
    """Where it lies, when that is no text that JSON could hold."""


class RowStatus(StrEnum):
    """How the report of a dump came out; see `Row.status`."""

    OK = "ok"
    LOG = "log"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table."""

    dump: str
    key: str
    stamp: str
    status: RowStatus
    """ok; log for a log or sosreport, in which there is no dump for crash to open; partial when crash did not open the
    dump and the report holds what it says by itself; failed without a report."""
    problem: str | None
    exit_code: int
    """0, or the exit status of `problem`."""
    seconds: float
    host: str
    """Where the report was made."""
    kernel: str | None = None
    release: str | None = None
    vendor: str | None = None
    kernel_class: str | None = None
    crash_time: datetime | None = None
    cause: str | None = None
    panic: str | None = None
    signature: str | None = None
    title: str | None = None
    task: str | None = None
    report: str | None = None
    """Path of the page, relative to the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJob:
    """What a worker is given; travels between hosts."""

    entry: DumpEntry
    options: OpenOptions
    timeout: float
    """Seconds for each crash command."""
    without_crash: str | None = None
    """Report what the dump says by itself, for this reason: what its kernel needs was just found not to be had."""
    without_crash_status: int = 0
    settings: tuple[str, ...] = ()
    """What the user set for this command, as KEY=VALUE: for a worker that is no child of ours."""
    neighbours: int = 0
    """How many jobs the worker's process does at once, to share its host; 0: it was told when it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a worker gives back."""

    row: Row
    html: str | None = None
    json: str | None = None


def entry(path: Path) -> DumpEntry:
    """Identifies the dump at `path`; what goes wrong with it is in the answer."""
    text, key = _named(path)
    try:
        state = path.stat()
        stamp = f"{state.st_size}.{state.st_mtime_ns}.{__version__}"
        vmcore = identify(path, log=False)
    except VmboxError as error:
        return unidentified(path, error.message, error.exit_code)
    except Exception as error:  # noqa: BLE001 - one bad dump never stops the rest
        return unidentified(path, f"{type(error).__name__}: {error}", VmboxError.exit_code)
    kernel = vmcore.build_id or (f"{vmcore.release} {vmcore.utsname_version or ''}" if vmcore.release else None)
    files = tuple(_named(file)[0] for file in vmcore.files)
    odd = path if text != str(path) else None
    return DumpEntry(
        dump=text, key=key, stamp=stamp, kernel=kernel, files=files, wrapped=not is_plain(vmcore), path=odd
    )


def unidentified(path: Path, problem: str, status: int) -> DumpEntry:
    """What cannot be told what it is."""
    text, key = _named(path)
    return DumpEntry(dump=text, key=key, stamp="", problem=problem, exit_code=status)


def _named(path: Path) -> tuple[str, str]:
    text = str(path).encode(errors="backslashreplace").decode()
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]
