"""Find the call trace of the panic in a kernel log, and that of the task that hung."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sandbox.dump.panic import PANIC_LINE
from sandbox.judge.call_trace import LINES_ABOVE, CallTrace, call_traces, own_lines
from sandbox.judge.trace_lines import TraceKind, begins_event, time_of

_OF_OOPS: Final = re.compile(
    r"Fatal exception|[Oo]ops|Attempted to kill|Aiee, killing|[Kk]ernel BUG|[Mm]achine check|[Uu]nrecoverable"
    r"|Kernel Fault|Machine halted|idle task"
)
"""Messages of panics that an oops led to. After an oops, also one of hours ago, panic() prints no stack of its own
(TAINT_DIE, kernel/panic.c), so that a panic for another reason has none at all.
"""

_OF_LOCKUP: Final = re.compile(r"soft ?lockup|LOCKUP|hung tasks|RCU [Ss]tall")

_AFTER: Final = 60
"""Lines after the trace of an oops, e.g. its registers, at which the log of a dump that the oops made ends."""

_AFTER_SECONDS: Final = 5.0

_CHECK_SECONDS: Final = 5.0
"""Seconds in which the watchdog prints the traces of one check."""

_LIKE_PANICS: Final = 8
"""Lines that read like a panic among which the panic is looked for. A program may write any number."""


def panic_trace(log: Sequence[str]) -> CallTrace | None:
    """Find the call trace of the panic: the panic's own or, where an oops or a lockup led to it, that one's.

    None if the log has neither. A log without a panic has that of its last oops or lockup.
    """
    return panic_and_trace(log)[1]


def panic_and_trace(log: Sequence[str]) -> tuple[int | None, CallTrace | None]:
    """The index of the panic's line in `own_lines`, and what `panic_trace` finds.

    The line is not one that a program wrote after it and that reads like a panic; None for a log without a panic.
    """
    lines = own_lines(log)
    traces = call_traces(log)
    if _panic_at(lines) is None:
        return None, next((one for one in reversed(traces) if one.kind in {TraceKind.OOPS, TraceKind.LOCKUP}), None)
    return _panic(traces, lines)


def dump_trace(log: Sequence[str]) -> CallTrace | None:
    """As `panic_trace`, only where it is sure that the dump was made for it: what a debugger can be judged by.

    Without a panic the log has to end with an oops: a capture kernel is started from it. A machine may have gone on for
    days after an oops or a lockup, and have been dumped for another reason. The trace of a lockup begins at what the
    watchdog stopped, and not at panic().
    """
    lines = own_lines(log)
    traces = call_traces(log)
    if _panic_at(lines) is not None:
        _, found = _panic(traces, lines)
        return None if found is not None and found.kind is TraceKind.LOCKUP else found
    last = next((one for one in reversed(traces) if one.kind is TraceKind.OOPS), None)
    return last if last is not None and last is traces[-1] and _is_end(lines, last) else None


def _is_end(lines: Sequence[str], trace: CallTrace) -> bool:
    """Whether the log ends with a trace."""
    after = lines[trace.end :]
    if len(after) > _AFTER or any(begins_event(line) for line in after):
        return False
    begin, end = (time_of(line) for line in (lines[trace.line], lines[-1]))
    return begin is None or end is None or 0 <= end - begin < _AFTER_SECONDS


def still_blocked(log: Sequence[str]) -> list[CallTrace]:
    """Find the traces of the tasks for which the hung-task watchdog panicked: their stacks are still what they were.

    They had not run for minutes, and it panics at the end of the same check (kernel/hung_task.c). Not those that an
    earlier check named, for which there was no panic.
    """
    lines = own_lines(log)
    at = _panic_at(lines)
    if at is None or "hung_task" not in lines[at]:
        return []
    end = time_of(lines[at])
    found: dict[int, CallTrace] = {}
    for one in call_traces(log):
        begin = time_of(lines[one.line])
        near = begin is not None and end is not None and 0 <= end - begin < _CHECK_SECONDS
        if one.kind is TraceKind.BLOCKED and one.line < at and near and one.pid is not None and not one.cut:
            found[one.pid] = one
    return list(found.values())


def blocked_trace(log: Sequence[str]) -> CallTrace | None:
    """Find the call trace of the task that was named last as blocked, before the panic if there is one."""
    traces = call_traces(log)
    at = _panic_at(own_lines(log))
    return next(
        (one for one in reversed(traces) if one.kind is TraceKind.BLOCKED and (at is None or one.line < at)), None
    )


def panics(log: Sequence[str]) -> int:
    """Count the panics in a log; that of a capture kernel does not count."""
    return len(_panics_at(own_lines(log)))


def is_last_panic(log: Sequence[str]) -> bool:
    """Whether the trace of the panic is of the last line that reads like a panic; that may be a program's."""
    lines = own_lines(log)
    return _panic(call_traces(log), lines)[0] == _panic_at(lines)


def is_of_init(panic: str) -> bool:
    """Whether a panic's message says that init ended: an oops of another task did not end it."""
    return "Attempted to kill init" in panic


def _panics_at(lines: Sequence[str]) -> list[int]:
    return [at for at, line in enumerate(lines) if PANIC_LINE.search(line)]


def _panic_at(lines: Sequence[str]) -> int | None:
    return max(_panics_at(lines), default=None)


def _panic(traces: Sequence[CallTrace], lines: Sequence[str]) -> tuple[int | None, CallTrace | None]:
    """The line of the panic, and its trace.

    A program on another CPU may write a line that reads like a panic into the log, by /dev/kmsg, until panic() stops
    its CPU. The kernel panics once: where the last such line has no trace, one just before it that has is the panic.
    """
    found = _panics_at(lines)
    for at in reversed(found[-_LIKE_PANICS:]):
        if at != found[-1] and not _is_near_end(lines, at):
            break
        if (trace := _of_panic(traces, lines, at)) is not None:
            return at, trace
    return found[-1] if found else None, None


def _is_near_end(lines: Sequence[str], at: int) -> bool:
    """Whether line `at` is of the last moments of a log, and of the same boot as its end."""
    after = lines[at:]
    begin, end = (time_of(line) for line in (after[0], after[-1]))
    near = len(after) <= LINES_ABOVE + _AFTER if begin is None or end is None else 0 <= end - begin < _AFTER_SECONDS
    return near and not any("Linux version " in line for line in after)


def _of_panic(traces: Sequence[CallTrace], lines: Sequence[str], at: int) -> CallTrace | None:
    """The trace of the panic in line `at`."""
    own = next((one for one in traces if one.line > at and one.kind is TraceKind.PANIC), None)
    if own is not None:
        return own
    why = {TraceKind.OOPS: _OF_OOPS, TraceKind.LOCKUP: _OF_LOCKUP}
    last = next((one for one in reversed(traces) if one.line < at and one.kind in why), None)
    if last is None or why[last.kind].search(lines[at]) is None:
        return None
    return None if is_of_init(lines[at]) and last.pid not in {None, 1} else last
