"""The log as a witness: the dump's own or, where that cannot be read, the one that kdump saved, if of the same boot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sandbox.dump import identify, read_records, same_boot
from sandbox.dump.printk import Record
from sandbox.judge.call_trace import call_traces, own_lines
from sandbox.judge.trace_lines import TraceKind
from sandbox.judge.which_trace import is_last_panic, panic_and_trace, panic_trace, panics
from sandbox.model import DumpFormat, Vmcore


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A log that belongs to a dump, or the reason why there is none."""

    lines: Sequence[str] = ()
    """All of it, as dmesg prints it."""
    of_programs: frozenset[int] = frozenset()
    """Which of the lines programs wrote, where the log says so: numbers from 0."""
    saved: Path | None = None
    """The file beside the dump that it was read from."""
    refused: str | None = None
    """Why the log beside the dump is not believed."""

    @classmethod
    def of(cls, records: Iterable[Record], saved: Sequence[Path] = ()) -> Self:
        """The log that consists of `records`; `saved` has the file that they were read from, once they are."""
        lines: list[str] = []
        programs: set[int] = set()
        for record in records:
            begin = len(lines)
            lines += (line.decode(errors="backslashreplace") for line in record.lines())
            if record.from_program:
                programs.update(range(begin, len(lines)))
        return cls(lines=lines, of_programs=frozenset(programs), saved=next(iter(saved), None))

    @property
    def kernel(self) -> Sequence[str]:
        """The lines that the kernel itself wrote."""
        if not self.of_programs:
            return self.lines
        return [line for number, line in enumerate(self.lines) if number not in self.of_programs]


def witness(dump: Path, vmcore: Vmcore | None = None, *, unpacked: Path | None = None) -> Witness:
    """Read the log of a dump. Raises `VmboxError` if it has none that can be read.

    `unpacked` is where dumps in archives are unpacked, if this one may be.
    """
    saved: list[Path] = []
    read = Witness.of(read_records(dump, unpack_into=unpacked, on_saved=saved.append), saved)
    if read.saved is None:
        return read
    why = another_boot(vmcore or identify(dump, log=False), read.kernel)
    return Witness(saved=read.saved, refused=f"{read.saved.name} {why}") if why else read


def remark(lines: Sequence[str]) -> str | None:
    """What to know of a log's panic, in words: that its trace is cut, or that there are more."""
    trace, count = panic_trace(lines), panics(lines)
    if trace is not None and trace.cut:
        ends = trace.end >= len(own_lines(lines))
        return f"the log {'ends' if ends else 'lacks lines'} within the call trace of the panic"
    if count < 2:
        return None
    which = "the last one counts" if is_last_panic(lines) else "the last one with a call trace counts"
    return f"the log has {count} panics; {which}"


def unproven(lines: Sequence[str]) -> str | None:
    """Why the panic in a log without facilities may be a program's, where it has nothing that only a kernel's has."""
    at, trace = panic_and_trace(lines)
    if at is None or trace is not None:
        return None
    if not any(one.kind is TraceKind.OOPS and one.line < at for one in call_traces(lines)):
        return None
    return (
        "the panic has no call trace, as none has after an oops: a program could have written its line, where the log "
        "does not tell who wrote it, as that of dmesg -x does"
    )


def log_remark(vmcore: Vmcore, lines: Sequence[str]) -> str | None:
    """What to know of a log: `remark` and, of a log without its dump, `unproven`."""
    return remark(lines) or (unproven(lines) if vmcore.format is DumpFormat.LOG else None)


def another_boot(vmcore: Vmcore, lines: Sequence[str]) -> str | None:
    """Why a log is not of the boot that a dump is of; None if nothing speaks against it."""
    return same_boot.another_boot(
        lines, release=vmcore.release, version=vmcore.utsname_version, crash_time=vmcore.crash_time
    )
