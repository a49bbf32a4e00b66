"""Tell whether a log is of the boot that a dump is of: by the kernel's banner, and by the time of the crash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

_CLOCK: Final = re.compile(r"^\[ *(\d{1,9}\.\d{1,9})\].* setting system clock to \S+ (?:\S+ )?UTC \((\d{1,11})\)")
"""drivers/rtc/class.c: the wall clock at one time since boot."""

_TIME: Final = re.compile(r"^\[ *(\d{1,9}\.\d{1,9})\]")
_BANNER: Final = re.compile(r"Linux version (\S+) .*?(#\d\S* .*)$")
_QUARTER: Final = 900.0
_DRIFT: Final = 120.0
"""Seconds that a clock may have been set by after boot."""

_ZONES: Final = timedelta(hours=26)
"""The widest distance of two local times: the hardware's clock may have one."""


def another_boot(
    lines: Sequence[str], *, release: str | None, version: str | None, crash_time: datetime | None
) -> str | None:
    """Why a log is not of the boot of a dump of such a kernel and time; None if nothing speaks against it.

    The kernel's banner is compared, and the time of the crash (VMCOREINFO's CRASHTIME) with that of the log's end. The
    hardware's clock may be some zones away from UTC, and is never set by less than a quarter of an hour then.
    """
    banner = next((found for line in lines if (found := _BANNER.search(line))), None)
    if banner is not None:
        for mine, its in ((release, banner[1]), (version, banner[2].strip())):
            if mine is not None and mine != its:
                return f"is of another kernel: {its}, the dump is of {mine}"
    end = ended(lines)
    if end is None or crash_time is None:
        return None
    apart = (crash_time - end).total_seconds()
    off = abs(apart - _QUARTER * round(apart / _QUARTER))
    if off > _DRIFT or abs(apart) > _ZONES.total_seconds():
        crash = f"{crash_time:%Y-%m-%d %H:%M:%S}"
        return f"is of another boot: it ends at {end:%Y-%m-%d %H:%M:%S}, the dump's crash was at {crash} UTC"
    return None


def last_time(lines: Sequence[str]) -> float | None:
    """The time stamp of the log's last line that has one, in seconds since boot."""
    return next((float(found[1]) for line in reversed(lines) if (found := _TIME.match(line))), None)


def ended(lines: Sequence[str]) -> datetime | None:
    """The wall-clock time of the log's last line, UTC, by the clock that the kernel set at boot."""
    clock = next((found for line in lines if (found := _CLOCK.match(line))), None)
    last = last_time(lines)
    if clock is None or last is None:
        return None
    return datetime.fromtimestamp(int(clock[2]), UTC) + timedelta(seconds=last - float(clock[1]))
