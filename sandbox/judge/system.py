"""Judge what `sys` of a debugger says: DATE, UPTIME and TASKS.

Against VMCOREINFO's CRASHTIME, the last time stamp of the log, and the kernel's own number of tasks; where the debugger
runs scripts, also against a walk of the kernel's list of processes, which is another one than that of `sys`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from sandbox.dump.same_boot import last_time
from sandbox.judge.verdict import Verdict
from sandbox.judge.which_trace import dump_trace, panics

_SECONDS: Final = 120.0
"""How far they may be apart: a CPU that hung with its interrupts off has not kept the time."""

_SHARE: Final = 0.01
"""And for an uptime, which share of it: the log's clock is not disciplined by NTP."""

_UPTIME: Final = re.compile(r"(?:(\d{1,9}) days?, )?(\d{1,9}):(\d\d):(\d\d)")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE: Final = re.compile(r"^\w{3} (\w{3}) +(\d\d?) (\d\d):(\d\d):(\d\d) (UTC|GMT) (\d{4})$")

_COUNTED: Final = re.compile(r"^[0-9a-f]{8,16}: +(\d{1,9})\s*$", re.MULTILINE)
_WALKED: Final = re.compile(r"^walk: (\d{1,9})$", re.MULTILINE)
_CPUS: Final = re.compile(r"(\d{1,6})\b")


def parse(text: str) -> Mapping[str, str]:
    """Parse `sys` of either debugger into a mapping with crash's names, e.g. "LOAD AVERAGE"."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return MappingProxyType(
        {name.strip(): value.strip() for name, colon, value in pairs if colon and name.strip().isupper()}
    )


def judge(
    said: Mapping[str, str], *, crash_time: datetime | None, log: Sequence[str], counted: str | None, by: str
) -> Iterator[Verdict]:
    """Judge the lines of a debugger's `sys`, those for which the dump has the other value.

    `log` is the kernel's, empty where there is none; `counted` is the debugger's answer to `COUNT_TASKS`.
    """
    yield from _clock(said, crash_time=crash_time, log=log, by=by)
    yield from _tasks(said, counted, by=by)


def _tasks(said: Mapping[str, str], counted: str | None, *, by: str) -> Iterator[Verdict]:
    found, cpus = _COUNTED.search(counted or ""), _CPUS.match(said.get("CPUS", ""))
    walked, tasks = _WALKED.search(counted or ""), re.fullmatch(r"\d{1,9}", said.get("TASKS", ""))
    if found is None or cpus is None or tasks is None:
        return
    # The idle tasks are one for each CPU, also for those that are offline; and each CPU may have died in the middle of
    # a fork or of an exit.
    idle = int(cpus[1])
    witnesses = [found[1]] if walked is None else [walked[1], found[1]]
    counts = "" if walked is None else f"the list of processes has {walked[1]}, "
    counts += f"the kernel counted {found[1]}; of {idle} CPUs each has an idle one"
    yield Verdict(
        subject="tasks",
        agrees=all(abs(int(tasks[0]) - int(number) - idle) <= idle for number in witnesses),
        by=by,
        against=("" if walked is None else "a walk of the kernel's list of processes, and ")
        + "the kernel's own number of tasks (nr_threads)",
        words=f"{by} finds {tasks[0]} tasks, {counts}",
    )


def _clock(said: Mapping[str, str], *, crash_time: datetime | None, log: Sequence[str], by: str) -> Iterator[Verdict]:
    date = _date(said.get("DATE", ""))
    if date is not None and crash_time is not None:
        apart = abs((date - crash_time).total_seconds())
        yield Verdict(
            subject="date",
            agrees=apart <= _SECONDS,
            by=by,
            against="CRASHTIME in VMCOREINFO",
            words=f"{by} says {date:%Y-%m-%d %H:%M:%S}, the dump {crash_time:%Y-%m-%d %H:%M:%S} UTC",
        )
    found = _UPTIME.fullmatch(said.get("UPTIME", ""))
    # An oops ends the log where a capture kernel is started from it. A log without either does not reach the crash.
    last = last_time(log) if panics(log) or dump_trace(log) is not None else None
    # A machine without a capture kernel says so before it waits in panic(), where its clock goes on: a hypervisor may
    # have dumped it hours later.
    waited = any("---[ end Kernel panic" in line for line in log)
    if found is not None and last is not None:
        days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
        uptime = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if waited and uptime > last:
            return
        yield Verdict(
            subject="uptime",
            agrees=abs(uptime - last) <= max(_SECONDS / 2, last * _SHARE),
            by=by,
            against="the log's last time stamp",
            words=f"{by} says {uptime} s, the log {last:.0f} s",
        )


def _date(text: str) -> datetime | None:
    # In a case the time zone is UTC. Not strptime, whose month names depend on the locale.
    found = _DATE.match(text.strip())
    if found is None or found[1] not in _MONTHS:
        return None
    _, day, hour, minute, second, _, year = found.groups()
    try:
        return datetime(
            int(year), _MONTHS.index(found[1]) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC
        )
    except ValueError:
        return None
