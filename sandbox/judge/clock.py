"""Compare a debugger's DATE and UPTIME with VMCOREINFO's CRASHTIME and with the last time stamp of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from sandbox.judge.verdict import Verdict

_SECONDS: Final = 120.0
"""How far they may be apart: a CPU that hung with its interrupts off has not kept the time."""

_SHARE: Final = 0.01
"""And for an uptime, which share of it: the log's clock is not disciplined by NTP."""

_UPTIME: Final = re.compile(r"(?:(\d{1,9}) days?, )?(\d{1,9}):(\d\d):(\d\d)")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE: Final = re.compile(r"^\w{3} (\w{3}) +(\d\d?) (\d\d):(\d\d):(\d\d) (UTC|GMT) (\d{4})$")


def judge_clock(
    system: Mapping[str, str], *, crash_time: datetime | None, last: float | None, by: str
) -> Iterator[Verdict]:
    """Judge the lines DATE and UPTIME of a debugger's `sys`, where it and the dump have both values.

    `last` is the time of the log's last line in seconds since boot, of a log that has the panic.
    """
    date = _date(system.get("DATE", ""))
    if date is not None and crash_time is not None:
        apart = abs((date - crash_time).total_seconds())
        yield Verdict(
            subject="date",
            agrees=apart <= _SECONDS,
            by=by,
            against="CRASHTIME in VMCOREINFO",
            words=f"{by} says {date:%Y-%m-%d %H:%M:%S}, the dump {crash_time:%Y-%m-%d %H:%M:%S} UTC",
        )
    found = _UPTIME.fullmatch(system.get("UPTIME", ""))
    if found is not None and last is not None:
        days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
        uptime = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
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
