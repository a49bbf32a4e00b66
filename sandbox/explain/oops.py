"""The oops in a kernel log that explains the crash, the call trace below it, and an earlier one of the same boot."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.dump.panic import LINES_OF_HEAD
from sandbox.explain.oops_lines import (
    BEGINS,
    END,
    LOCKUP,
    MOST,
    NUMBER,
    PLACE,
    REPORT,
    WARNS,
    WHERE,
    Oops,
    Place,
    place_of,
    read_oops,
)
from sandbox.judge.call_trace import CallTrace, call_traces, interrupted_at, own_lines
from sandbox.judge.functions import is_checker, is_machinery, is_panic, plain_name
from sandbox.judge.trace_lines import TASK_LINE, TracedFrame, without_time
from sandbox.judge.which_trace import is_of_init, panic_and_trace

_REPORTED: Final = re.compile(
    r"\b(KASAN|KFENCE|KCSAN|UBSAN): panic_on_warn set|\b(kasan)\.fault=panic set|\b(kmsan)\.panic set"
)
_WARNED: Final = re.compile(r"panic_on_warn")
_OF_OOPS: Final = re.compile(
    r"Fatal exception|Oops|double fault|stack guard|overflow|BUG|Machine halted|Aiee, killing|kill the idle task"
    r"|CFI failure|UBSAN: |Kernel Fault"
)
"""What panics say that an oops ends in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a log says of its end."""

    lines: Sequence[str]
    """Those of the kernel that crashed, without their times."""
    panic: int | None
    """The index of the panic in `lines`."""
    trace: CallTrace | None
    """The call trace of the panic, or of the oops or lockup that led to it."""
    last: Oops | None
    """The oops or lockup that the panic followed from; None for a panic without one."""
    first: Oops | None
    """An earlier one, the first of this boot, if there was one."""


def find(log: Sequence[str]) -> Found:
    """The panic in a log, and the oops that it followed from."""
    own = own_lines(log)
    panic, trace = panic_and_trace(own)
    lines = list(map(without_time, own))
    last, first = _oopses(lines, panic)
    return Found(lines=lines, panic=panic, trace=trace, last=last, first=first)


def _oopses(lines: Sequence[str], panic: int | None) -> tuple[Oops | None, Oops | None]:
    """`Found.last` and `Found.first`."""
    checker = _REPORTED.search(lines[panic]) if panic is not None else None
    warned = panic is not None and checker is None and _WARNED.search(lines[panic]) is not None
    name = next(filter(None, checker.groups())).upper() if checker else None
    starts = [
        at
        for at, line in enumerate(lines)
        if (panic is None or at < panic)
        and (
            BEGINS.search(line)
            # Before 6.2 a checker's panic does not name it.
            or (warned and (WARNS.match(line) or REPORT.match(line)))
            or (name is not None and (found := REPORT.match(line)) and name in {found["checker"], found["ubsan"]})
        )
    ]
    firsts = [at for number, at in enumerate(starts) if number == 0 or not _one_oops(lines, starts[number - 1], at)]
    if not firsts:
        return None, None
    ends = [*firsts[1:], panic if panic is not None else len(lines)]
    # A log may have any number of them, and these two are asked for.
    last = read_oops(lines, firsts[-1], min(ends[-1], firsts[-1] + MOST))
    earlier = (read_oops(lines, at, min(end, at + MOST)) for at, end in zip(firsts[:-1], ends[:-1], strict=True))
    first = next((one for one in earlier if not one.lockup), None)
    if panic is not None and not _belongs(lines[panic], last):
        return None, first or (None if last.lockup else last)
    return _with_place(lines, last), first


def _with_place(lines: Sequence[str], oops: Oops) -> Oops:
    """Of a checker's report that names no function: the first of its trace that is none of the checker's own."""
    if not oops.reported or oops.place is not None:
        return oops
    trace = next((one for one in call_traces(lines) if one.line > oops.line), None)
    first = next(iter(_unchecked(trace.reliable)), None) if trace is not None else None
    if trace is None or first is None or (oops.check is None and first.function not in oops.text):
        return oops
    printed = f"{first.function}+0x{first.offset}/"
    found = next((PLACE.search(line) for line in lines[trace.line : trace.end] if printed in line), None)
    return oops if found is None else replace(oops, place=place_of(found))


def _unchecked(frames: Sequence[TracedFrame]) -> Iterator[TracedFrame]:
    """Without what a checker called to report."""
    own = {one.function: plain_name(one.function) for one in frames}
    return itertools.dropwhile(
        lambda one: any(test(own[one.function]) for test in (is_checker, is_machinery, is_panic)), frames
    )


def _one_oops(lines: Sequence[str], before: int, at: int) -> bool:
    """Whether two lines that can be the first of an oops are of one: "BUG: …" and "Oops: …". Its CPU is behind both."""
    between = lines[before:at]
    return (
        at - before <= LINES_OF_HEAD
        and (LOCKUP.search(lines[before]) is None) == (LOCKUP.search(lines[at]) is None)
        and not any(TASK_LINE.search(line) or END.search(line) or WHERE.match(line) for line in between)
        and (NUMBER.search(lines[at]) is None or not any(map(NUMBER.search, between)))
    )


def frames(lines: Sequence[str], oops: Oops) -> list[TracedFrame]:
    """The frames of the oops' call trace that the kernel was sure of, outside of the one that faulted."""
    trace = next((one for one in call_traces(lines) if one.line > oops.line), None)
    # Without registers the trace of a lockup begins with the handler that found it, which nothing of the bug called.
    if trace is None or (oops.lockup and oops.place is None):
        return []
    found = list(trace.reliable)
    place = oops.place
    if place is not None:
        # Those above the function only handle what stopped it: an interrupt, or an NMI in one, or that it has no stack.
        # A checker's trace, and those of mips, powerpc and s390, begin with the function itself.
        at = next((at for at, one in enumerate(found) if _is_at(one, place)), -1)
        found = found[at + 1 :]
    if place is None:
        found = [one for one in found if not one.stopped]
        first = lines[trace.line + 1].strip() if trace.line + 1 < len(lines) else ""
        if found and found[0].unknown and oops.bad_place is not None and first.endswith(f"0x{oops.bad_place:x}"):
            # What was run itself, which has no name.
            found[0] = replace(found[0], unknown=found[0].unknown - 1)
    if oops.reported:
        found = list(_unchecked(found))
    return found


def stuck_elsewhere(log: Sequence[str]) -> list[str]:
    """The functions that a CPU was in which another one found stuck, innermost first, with a panic of that other CPU.

    Empty where the panic is of the stuck CPU itself, or the log does not tell.
    """
    found = find(log)
    last, trace = found.last, found.trace
    if last is None or not last.lockup or last.place is None or last.cpu is None or found.panic is None:
        return []
    # The call trace of the panic, if it has one of its own.
    if trace is None or trace.line < found.panic or trace.cpu in {None, last.cpu}:
        return []
    called = frames(found.lines, last)
    return [last.place.function, *(one.function for one in called[: interrupted_at(called)])]


def _is_at(frame: TracedFrame, place: Place) -> bool:
    same = int(frame.offset or "-1", 16) == place.offset
    return frame.function == place.function and (frame.stopped or same)


def _belongs(panic: str, last: Oops) -> bool:
    """Whether a panic is one that an oops or a lockup ends in: kernel/panic.c, arch/*/kernel/*.c."""
    if last.lockup:
        return re.search(r"softlockup|[Hh]ard LOCKUP|RCU Stall", panic) is not None
    if last.reported:
        return (_REPORTED.search(panic) or _WARNED.search(panic)) is not None
    if last.warned:
        return _WARNED.search(panic) is not None
    if last.pid == 1 and is_of_init(panic):
        return True
    return _OF_OOPS.search(panic) is not None
