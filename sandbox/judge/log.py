"""The log as a witness: the dump's own or, where that cannot be read, the one that kdump saved, if of the same boot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sandbox.dump import identify, read_log
from sandbox.judge.call_trace import panic_trace, panics
from sandbox.model import Vmcore

_CLOCK: Final = re.compile(r"^\[ *(\d{1,9}\.\d{1,9})\].* setting system clock to \S+ (?:\S+ )?UTC \((\d{1,11})\)")
"""drivers/rtc/class.c: the wall clock at one time since boot."""

_TIME: Final = re.compile(r"^\[ *(\d{1,9}\.\d{1,9})\]")
_BANNER: Final = re.compile(r"Linux version (\S+) .*?(#\d\S* .*)$")
_QUARTER: Final = 900.0
_DRIFT: Final = 120.0
"""Seconds that a clock may have been set by after boot."""

_ZONES: Final = timedelta(hours=26)
"""The widest distance of two local times: the hardware's clock may have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A log that belongs to a dump, or the reason why there is none."""

    lines: Sequence[str] = ()
    saved: Path | None = None
    """The file beside the dump that it was read from."""
    refused: str | None = None
    """Why the log beside the dump is not believed."""


def witness(dump: Path, vmcore: Vmcore | None = None, *, unpacked: Path | None = None) -> Witness:
    """Read the log of a dump. Raises `VmboxError` if it has none that can be read.

    `unpacked` is where dumps in archives are unpacked, if this one may be.
    """
    saved: list[Path] = []
    log = read_log(dump, unpack_into=unpacked, on_saved=saved.append)
    lines = [line.decode(errors="backslashreplace") for line in log]
    if not saved:
        return Witness(lines=lines)
    why = another_boot(vmcore or identify(dump, log=False), lines)
    return Witness(lines=() if why else lines, saved=saved[0], refused=f"{saved[0].name} {why}" if why else None)


def remark(lines: Sequence[str]) -> str | None:
    """What to know of a log's panic, in words: that its trace is cut, or that there are more."""
    trace, count = panic_trace(lines), panics(lines)
    if trace is not None and trace.cut:
        return "the log ends within the call trace of the panic"
    return f"the log has {count} panics; the last one counts" if count > 1 else None


def another_boot(vmcore: Vmcore, lines: Sequence[str]) -> str | None:
    """Why a log is not of the boot that a dump is of; None if nothing speaks against it.

    The kernel's banner is compared, and the time of the crash (VMCOREINFO's CRASHTIME) with that of the log's end. The
    hardware's clock may be some zones away from UTC, and is never set by less than a quarter of an hour then.
    """
    banner = next((found for line in lines if (found := _BANNER.search(line))), None)
    if banner is not None:
        for mine, its in ((vmcore.release, banner[1]), (vmcore.utsname_version, banner[2].strip())):
            if mine is not None and mine != its:
                return f"is of another kernel: {its}, the dump is of {mine}"
    end = ended(lines)
    if end is None or vmcore.crash_time is None:
        return None
    apart = (vmcore.crash_time - end).total_seconds()
    off = abs(apart - _QUARTER * round(apart / _QUARTER))
    if off > _DRIFT or abs(apart) > _ZONES.total_seconds():
        crash = f"{vmcore.crash_time:%Y-%m-%d %H:%M:%S}"
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
