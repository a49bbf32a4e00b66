"""Parse tables of crash and drgn: ps, mod, mount, net, irq, runq, dev -d, sys. One function for each command.

The columns are those of crash 7.2 to 9.0 and of drgn 0.3. Lines that do not match are skipped: error messages may be
between rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.judge.backtrace import INTEGER
from sandbox.judge.system import parse

_HEX: Final = r"[0-9a-f]{6,16}"
_PS: Final = re.compile(
    rf"^(?P<active>>?)\s*(?P<pid>{INTEGER})\s+(?P<parent>{INTEGER})\s+(?P<cpu>{INTEGER})\s+(?P<task>{_HEX})"
    rf"\s+(?P<state>[A-Za-z?]{{1,2}})"
    rf"\s+(?P<percent>[\d.]+|nan)\s+(?P<virtual>{INTEGER}|nan)\s+(?P<resident>{INTEGER}|nan)"
    r"(?:\s+|$)(?P<command>.*)$"
)
_STATES: Final = {"R": "RU", "S": "IN", "D": "UN", "I": "ID", "Z": "ZO", "T": "ST", "t": "TR", "X": "DE", "P": "PA"}
"""drgn's letters of a task's state, which are the kernel's (fs/proc/array.c): crash's."""
_PS_M: Final = re.compile(
    r"^\[\s*(?P<days>\d{1,9}) (?P<hours>\d{1,9}):(?P<minutes>\d{1,9}):(?P<seconds>\d{1,9}(?:\.\d*)?)\]"
    r" \[(?P<state>[A-Za-z?]{1,2})\]"
    rf'\s+PID: (?P<pid>{INTEGER})\s+TASK: {_HEX}\s+CPU: \d+\s+COMMAND: "(?P<command>.*)"\s*$'
)
_PS_T: Final = re.compile(rf'^PID: ({INTEGER})\s+TASK: {_HEX}\s+CPU: \d+\s+COMMAND: ".*"\s*$')
_PS_T_TIME: Final = re.compile(r"^\s*(UTIME|STIME): (\d{1,20})\b")
_MODULE: Final = re.compile(rf"^{_HEX}\s+(?P<name>\S+)\s+(?:{_HEX}\s+)?(?P<size>{INTEGER})\s+(?P<file>\S.*)$")
_MODULE_TAINT: Final = re.compile(r"^(\S+)\s+([A-Z()+-]+)\s*$")
_TAINTED_MASK: Final = re.compile(r"^TAINTED_MASK: [0-9a-fx]++([A-Z() ]*+)$", re.MULTILINE)
_MOUNT: Final = re.compile(rf"^{_HEX}\s+{_HEX}\s+(?P<type>\S+)\s+(?P<device>\S+)\s+(?P<directory>\S.*)$")
_DEVICE: Final = re.compile(rf"^{_HEX}\s+(?P<name>\S+)(?:\s+(?P<addresses>\S.*))?$")
_INTERRUPT: Final = re.compile(rf"^\s*(?P<number>\w+):(?P<counts>(?:\s+{INTEGER})+)(?:\s+(?P<rest>\S.*))?$")
_DISK: Final = re.compile(
    rf"^\s*(?P<major>\d+)\s+{_HEX}\s+(?P<name>\S+)\s+{_HEX}\s+(?P<total>\d+)\s+(?P<reads>{INTEGER})\s+(?P<writes>{INTEGER})\b"
)
_LONGEST_ROW: Final = 512
"""Characters of a row that are searched: a search takes time by the square of them, and a dump may print megabytes."""
_RUNQ_CPU: Final = re.compile(rf"^CPU ({INTEGER}) RUNQUEUE:? ")
_RUNQ_TASK: Final = re.compile(
    rf'(?P<current>CURRENT: )?PID: (?P<pid>{INTEGER})\s+TASK: {_HEX}\s+.*?COMMAND: "(?P<command>.*)"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A line of `ps`, with what `ps -m` and `ps -t` add."""

    pid: int
    parent: int
    cpu: int
    command: str
    state: str
    """crash's two letters: RU, IN, UN, ZO, ST, TR, ID …"""
    active: bool
    """Whether it was on a CPU when the kernel died."""
    virtual: int | None
    """Bytes; None where the pages that say so are not in the dump."""
    resident: int | None
    """Bytes; None as above."""
    waited: float | None = None
    """Seconds since it was last on a CPU."""
    ran: float | None = None
    """Seconds of CPU time, in user and kernel mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    name: str
    size: int
    """Bytes."""
    taint: str = ""
    """Its taint letters, e.g. OE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    type: str
    device: str
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDevice:
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    number: str
    counts: tuple[int, ...]
    """Number of interrupts on each CPU."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    name: str
    reads: int
    """Requests in flight, not since boot."""
    writes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A task on a run queue."""

    cpu: int
    pid: int
    command: str
    current: bool


def _rows(text: str) -> Iterator[str]:
    """The lines without the blanks at their ends, for which a pattern would look from each blank on."""
    return map(str.rstrip, text.splitlines())


def hardware(text: str) -> str | None:
    """Parse `sys -i` into the firmware's name of the machine, in the form of the kernel's log; None if empty."""
    found = parse(text)
    machine = " ".join(found[name] for name in ("DMI_SYS_VENDOR", "DMI_PRODUCT_NAME") if found.get(name))
    if not machine:
        return None
    bios = " ".join(found[name] for name in ("DMI_BIOS_VERSION", "DMI_BIOS_DATE") if found.get(name))
    return f"{machine}, BIOS {bios}" if bios else machine


def taint(text: str) -> str | None:
    """Parse `sys -t` into the taint letters: "" for a kernel without taint, None if there is no answer."""
    found = _TAINTED_MASK.search(text)
    return None if found is None else "".join(found[1].split())


def tasks(ps: str, waits: str = "", times: str = "", *, tick: float = 1e-9) -> tuple[Task, ...]:
    """Parse `ps`, completed by `ps -m` and `ps -t`. `tick` is the unit of UTIME and STIME in seconds."""
    waited = dict(_waits(waits))
    ran = _times(times, tick)
    return tuple(
        Task(
            pid=pid,
            parent=int(row["parent"]),
            cpu=int(row["cpu"]),
            command=row["command"],
            state=_STATES.get(row["state"], row["state"]),
            active=bool(row["active"]),
            virtual=_size(row["virtual"]),
            resident=_size(row["resident"]),
            waited=waited.get((pid, row["command"].strip("[]"))),
            # All idle tasks have PID 0 and one entry each; their time is of no interest.
            ran=ran.get(pid) if pid else None,
        )
        for row in map(_PS.match, _rows(ps))
        if row
        for pid in [int(row["pid"])]
    )


def _size(kib: str) -> int | None:
    return None if kib == "nan" else int(kib) * 1024


def _waits(text: str) -> Iterator[tuple[tuple[int, str], float]]:
    for row in filter(None, map(_PS_M.match, text.splitlines())):
        hours = int(row["days"]) * 24 + int(row["hours"])
        yield (int(row["pid"]), row["command"]), (hours * 60 + int(row["minutes"])) * 60 + float(row["seconds"])


def _times(text: str, tick: float) -> dict[int, float]:
    found: dict[int, float] = {}
    pid: int | None = None
    for line in text.splitlines():
        if header := _PS_T.match(line):
            pid = int(header[1])
        elif pid is not None and (time := _PS_T_TIME.match(line)):
            found[pid] = found.get(pid, 0.0) + int(time[2]) * tick
    return found


def modules(mod: str, taints: str = "") -> tuple[Module, ...]:
    """Parse `mod`, completed by `mod -t`."""
    letters = {row[1]: row[2] for row in map(_MODULE_TAINT.match, taints.splitlines()) if row and row[1] != "NAME"}
    return tuple(
        Module(name=row["name"], size=int(row["size"]), taint=letters.get(row["name"], ""))
        for row in map(_MODULE.match, _rows(mod))
        if row
    )


def mounts(text: str) -> tuple[Mount, ...]:
    """Parse `mount`."""
    rows = filter(None, map(_MOUNT.match, _rows(text)))
    return tuple(Mount(type=row["type"], device=row["device"], directory=row["directory"]) for row in rows)


def network(text: str) -> tuple[NetworkDevice, ...]:
    """Parse `net`."""
    return tuple(
        NetworkDevice(name=row["name"], addresses=tuple((row["addresses"] or "").replace(",", " ").split()))
        for row in map(_DEVICE.match, _rows(text))
        if row
    )


def interrupts(text: str) -> tuple[Interrupt, ...]:
    """Parse `irq -s`: interrupts that happened, the most frequent first."""
    found = (
        Interrupt(
            number=row["number"],
            counts=tuple(map(int, row["counts"].split())),
            name=" ".join((row["rest"] or "").split()),
        )
        for row in map(_INTERRUPT.match, _rows(text))
        if row
    )
    return tuple(sorted((one for one in found if sum(one.counts)), key=lambda one: -sum(one.counts)))


def disks(text: str) -> tuple[Disk, ...]:
    """Parse `dev -d`."""
    rows = filter(None, map(_DISK.match, text.splitlines()))
    return tuple(Disk(name=row["name"], reads=int(row["reads"]), writes=int(row["writes"])) for row in rows)


def run_queues(text: str) -> tuple[Queued, ...]:
    """Parse `runq`: running and waiting tasks, by CPU."""
    found: list[Queued] = []
    cpu = 0
    for line in text.splitlines():
        if begin := _RUNQ_CPU.match(line):
            cpu = int(begin[1])
        elif row := _RUNQ_TASK.search(line[:_LONGEST_ROW]):
            found.append(Queued(cpu=cpu, pid=int(row["pid"]), command=row["command"], current=bool(row["current"])))
    return tuple(found)
