"""One dump of a triage as values: its identification, and the result of its report."""

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
    """A dump that was found and identified."""

    dump: str
    key: str
    """Name of its report, made from the path."""
    stamp: str
    """Changes when the file or vmbox changes."""
    kernel: str | None = None
    """Equal for dumps of one build: they share image and debuginfo."""
    files: tuple[str, ...] = ()
    """All files of a split dump."""
    wrapped: bool = False
    """Whether crash reads an unpacked copy of it in the cache."""
    problem: str | None = None
    exit_code: int = 0
    """Exit status of `problem`, the reason why it is not a dump."""
    path: Path | None = None
    """Its path, if that is not text that JSON can contain."""


class RowStatus(StrEnum):
    """Result of a dump's report; see `Row.status`."""

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
    """ok; log for a log or sosreport, which contain no dump for crash; partial if no debugger opened the dump, so that
    the report contains only what it says by itself, or if stacks are missing; failed if there is no report."""
    problem: str | None
    exit_code: int
    """0, or the exit status of `problem`."""
    seconds: float
    host: str
    """Host that made the report."""
    kernel: str | None = None
    release: str | None = None
    vendor: str | None = None
    kernel_class: str | None = None
    crash_time: datetime | None = None
    cause: str | None = None
    panic: str | None = None
    signature: str | None = None
    no_debuginfo: str | None = None
    """Why the dump was read without debuginfo; None if it was read with it, or not by a debugger."""
    doubt: str | None = None
    """Why the debuggers that were asked may be wrong; None where nothing is known against them."""
    disagreement: str | None = None
    """Where the debugger's stack, or else its date, uptime or number of tasks, is not the kernel's."""
    title: str | None = None
    task: str | None = None
    report: str | None = None
    """Path of the page, relative to the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJob:
    """Input of a worker; it is sent between hosts."""

    entry: DumpEntry
    options: OpenOptions
    timeout: float
    """Seconds for each crash command."""
    without_crash: str | None = None
    """Report only what the dump says without crash, for this reason: what its kernel needs is not available."""
    without_crash_status: int = 0
    settings: tuple[str, ...] = ()
    """Settings that the user gave this command, as KEY=VALUE, for a worker that is not our child."""
    neighbours: int = 0
    """Number of jobs that share the worker's host; 0: the worker got its share when it started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """Output of a worker."""

    row: Row
    html: str | None = None
    json: str | None = None


def entry(path: Path) -> DumpEntry:
    """Identify the dump at `path`. An error is in the result."""
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
    """The entry of a file that could not be identified."""
    text, key = _named(path)
    return DumpEntry(dump=text, key=key, stamp="", problem=problem, exit_code=status)


def _named(path: Path) -> tuple[str, str]:
    text = str(path).encode(errors="backslashreplace").decode()
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]
