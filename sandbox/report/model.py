"""The report of one dump as values. An unknown value is None or empty, and `missing` has the reason.

`report.schema.json` describes their JSON form. A change of meaning needs a new `SCHEMA_VERSION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sandbox.debugger import DEFAULT
from sandbox.explain.model import Fault
from sandbox.explain.waits import Waits
from sandbox.judge.backtrace import Backtrace
from sandbox.judge.verdict import Verdict
from sandbox.model import CommandStatus
from sandbox.report.kmem import Memory, SlabCache
from sandbox.report.signature import Signature
from sandbox.report.tables import Disk, Interrupt, Module, Mount, NetworkDevice, Queued, Task
from sandbox.report.timeline import Timeline

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Properties of the dump, and what was used to open it."""

    dump: str
    """Path of the file, as given."""
    size: int
    """Bytes."""
    format: str
    release: str | None
    version: str | None
    """uname -v."""
    arch: str | None
    vendor: str | None
    kernel_class: str | None
    """Distribution and version, e.g. debian:12."""
    build_id: str | None
    hardware: str | None
    host: str | None
    """uname -n of the crashed machine."""
    cpus: int | None
    crash_time: datetime | None
    """UTC."""
    uptime_seconds: float | None
    dump_level: int | None
    complete: bool | None
    incomplete_reason: str | None
    proof: str | None
    """Evidence that the debuginfo is of this kernel."""
    profile: str | None
    engine: str | None
    doubt: str | None
    """The reason why the debugger may have answered wrongly, e.g. a kernel that is newer than it knows."""
    no_debuginfo: str | None
    """The reason why the dump was read without debuginfo, by what its kernel has of itself; None with it."""
    mode: str | None
    """Option with which the debugger had to be started, e.g. --minimal; empty if it needed none."""
    debugger: str | None
    """Name of the debugger that answered."""
    debugger_reason: str | None
    """The reason why it was that one."""
    origins: Mapping[str, str]
    """For each field: its source in the dump."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panic:
    cause: str | None
    """Class of the panic, e.g. null-pointer."""
    words: str
    """The class in a sentence."""
    message: str | None
    """The kernel's own line."""
    taint: tuple[str, ...] | None
    """In words; empty if the kernel was not tainted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    number: int
    """In the whole log, from 1."""
    text: str
    kind: str = ""
    """panic, oops, warning, trace or hardware for an important line; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """A command of crash whose answer is in the report; drgn has them, too."""

    command: str
    status: CommandStatus
    """ok, error, timeout or died."""
    seconds: float
    output: str
    """What the debugger printed; if it is very long, its middle is cut out."""
    debugger: str = DEFAULT.name
    """Name of the debugger that was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All content of the page."""

    schema_version: int
    vmbox_version: str
    made: datetime
    seconds: float
    """Time to make the report, including the opening of the dump."""
    problem: str | None
    """Why no debugger could open the dump; then the report contains only what the dump says by itself. Or which stacks
    are missing, and why."""
    exit_code: int
    """0, or the exit status of `problem` (see sandbox/errors.py)."""
    identity: Identity
    panic: Panic
    signature: Signature
    timeline: Timeline
    """What the log tells from boot to the end."""
    fault: Fault | None
    """What happened, in sentences; made of the log alone where no debugger read the dump."""
    backtrace: Backtrace | None
    """Of the task that panicked."""
    verdicts: tuple[Verdict, ...]
    """Comparisons of what the debugger says with what the kernel itself printed."""
    log_remark: str | None
    """What to know of the log: that it ends within the call trace of the panic, or has several panics."""
    lost_pages: str | None
    """Why pages of the kernel itself are missing, and what to do, if they are: a fault of makedumpfile."""
    cpus: tuple[Backtrace, ...]
    """The stack of each CPU."""
    blocked: tuple[Backtrace, ...]
    """Tasks in uninterruptible sleep."""
    waits: Waits | None
    """Who waits for whom."""
    load: tuple[float, ...]
    """Averages over 1, 5 and 15 minutes."""
    memory: Memory | None
    slab: tuple[SlabCache, ...]
    """The largest caches."""
    tasks_total: int
    states: Mapping[str, int]
    """Number of tasks in each state."""
    active_tasks: tuple[Task, ...]
    waiting_tasks: tuple[Task, ...]
    """Blocked tasks, the longest waiting first."""
    by_memory: tuple[Task, ...]
    by_time: tuple[Task, ...]
    run_queues: tuple[Queued, ...]
    log: tuple[LogLine, ...]
    log_lines: int
    """Lines of the whole log; `log` is its end, after the lines of the timeline's earlier events."""
    modules: tuple[Module, ...]
    mounts: tuple[Mount, ...]
    network: tuple[NetworkDevice, ...]
    interrupts: tuple[Interrupt, ...]
    disks: tuple[Disk, ...]
    missing: Mapping[str, str]
    """For each part above without a value: the reason."""
    commands: tuple[CommandRun, ...]

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the debuggers that were asked may be wrong, each reason once; empty where none is known."""
        readers = (self.identity, self.fault, self.waits)
        return tuple(dict.fromkeys(one.doubt for one in readers if one is not None and one.doubt is not None))
