"""Parse the call traces in a kernel log, which the kernel's own unwinder made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.dump.panic import CaptureKernelFilter
from sandbox.judge.functions import is_entry, is_exception, is_interrupt, is_panic, plain_name
from sandbox.judge.trace_lines import (
    AT_NULL,
    BADADDR,
    BEGIN,
    BLOCKED,
    DROPPED,
    ENDS,
    HEADLESS,
    LINK,
    MARKER,
    NAMED,
    NAMELESS,
    REGISTERS,
    TASK_LINE,
    UNKNOWN,
    USER,
    TracedFrame,
    TraceKind,
    caller_of,
    frame_of,
    kind_of,
    stopped_frame,
    without_time,
)

LINES_ABOVE: Final = 80
"""Lines above a call trace that can belong to it: registers, and the list of modules."""

_FOREIGN: Final = 3
"""Lines of others, of another CPU or of user space, that may stand between two frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTrace:
    """A call trace of the log, innermost function first."""

    kind: TraceKind
    line: int
    """Index of its "Call Trace:" in the log."""
    frames: tuple[TracedFrame, ...]
    cpu: int | None = None
    pid: int | None = None
    command: str | None = None
    cut: bool = False
    """Whether the log ends in it, or lacks what follows: the outer functions are missing."""
    user: bool = False
    """Whether the registers of the program follow: it has all functions, also where no entry is among them."""
    end: int = 0
    """Index of the line after it."""

    @property
    def reliable(self) -> tuple[TracedFrame, ...]:
        """The frames that the unwinder is sure of."""
        return tuple(frame for frame in self.frames if frame.reliable)


def interrupted_at(frames: Sequence[TracedFrame]) -> int | None:
    """The index of the first frame that did not call those before it: an exception or an interrupt came while it ran.

    None where there is none; the number of frames where a program was interrupted, whose functions the kernel does
    not have.
    """
    names = [plain_name(one.function) for one in frames]
    for at in range(1, len(frames) + 1):
        if at < len(frames) and frames[at].stopped:
            return at
        entered = is_exception(names[at - 1]) or is_interrupt(names[at - 1])
        # Old kernels have several of them for one.
        if entered and (at == len(frames) or not (is_exception(names[at]) or is_interrupt(names[at]))):
            return at
    return None


def blocked_pids(log: Sequence[str]) -> list[int]:
    """The tasks that the kernel found blocked, in the log's order."""
    return [int(found[2]) for found in map(BLOCKED.search, log) if found]


def call_traces(log: Sequence[str]) -> list[CallTrace]:
    """Parse all call traces of a log, in its order. Those of a capture kernel are left out."""
    lines = own_lines(log)
    return list(_traces([without_time(line) for line in lines], [caller_of(line) for line in lines]))


def below_panic(frames: Sequence[TracedFrame]) -> int:
    """The index of the first frame below panic() itself; 0 where it is not among them.

    panic() ends in a call of vpanic() (kernel/panic.c, since 6.16), which never returns, so that arm64, riscv and s390
    name the function after panic().
    """
    names = [plain_name(one.function) for one in frames]
    at = max((number + 1 for number, name in enumerate(names) if is_panic(name)), default=0)
    return at + 1 if 0 < at < len(frames) and names[at - 1] == "vpanic" and frames[at].nameless else at


def own_lines(log: Sequence[str]) -> list[str]:
    """The lines of the kernel that is looked at, without those of its capture kernel."""
    boots = CaptureKernelFilter()
    return [line for line in log if boots.takes(line)]


@dataclass(slots=True)
class _Above:
    """What stands above a call trace."""

    kind: TraceKind | None = None
    stopped: TracedFrame | None = None
    task: tuple[int, int, str] | None = None
    blocked: tuple[str, int] | None = None
    since: int = 0
    around: _Above | None = None
    """The oops or panic between whose lines another CPU printed this event; its own trace is still to come."""
    named: bool = False
    """Whether a line names its task or CPU."""
    null: bool = False
    """Whether NULL was called: the processor was at address 0."""
    link: TracedFrame | None = None
    """Of a call of NULL on arm64: the caller, which the link register has. The trace, by frame pointers, has only that
    one's caller: what was called has made no frame."""

    def is_within(self, kind: TraceKind) -> bool:
        """Whether a line of `kind` begins an event of another CPU before the trace of this one is printed.

        Oopses wait for each other (arch/x86/kernel/dumpstack.c: oops_begin()).
        """
        return self.kind in {TraceKind.OOPS, TraceKind.PANIC} and kind not in {TraceKind.OOPS, TraceKind.PANIC}

    def takes(self, kind: TraceKind) -> bool:
        """Whether a line of `kind` begins another event than the one that the lines before it are of."""
        # After an oops panic() prints no stack of its own: what follows is of another CPU, or of all tasks.
        if self.kind is None or kind is TraceKind.PANIC or self.kind is TraceKind.PANIC:
            return True
        # "BUG: unable to handle …" is followed by "Oops: …" of the same oops, "blocked for more than" by "task:…".
        return kind is not self.kind and kind is not TraceKind.OTHER


def _traces(lines: Sequence[str], callers: Sequence[str | None]) -> Iterator[CallTrace]:
    above = _Above()
    at = 0
    while at < len(lines):
        line = lines[at]
        first = _beginning(lines, at)
        if first is None:
            above = _look(line, at, above)
            at += 1
            continue
        if above.around is not None and not above.named:
            # A line that looked like another event, as what the unwinder warns of.
            above.around.stopped = above.around.stopped or above.stopped
            above = above.around
        if above.since + LINES_ABOVE < at:
            above = _Above()
        frames = [] if above.stopped is None else [above.stopped]
        if (beside := frame_of(first)) is not None:
            frames.append(beside)
        end, cut = _frames(lines, callers, at + 1, frames)
        if above.link is not None and (not frames or frames[0].function != above.link.function):
            if frames and frames[0].unknown:  # NULL itself
                frames[0] = replace(frames[0], unknown=frames[0].unknown - 1)
            frames.insert(0, above.link)
        cpu, pid, command = above.task or (None, None, None)
        if above.blocked is not None:
            command, pid, cpu = *above.blocked, None
        if frames:
            yield CallTrace(
                kind=above.kind or TraceKind.OTHER,
                line=at,
                frames=tuple(_without_repetition(frames)),
                cpu=cpu,
                pid=pid,
                command=command,
                # A dump's own log may end with the outermost frame of a whole trace.
                end=end,
                user=end < len(lines) and USER.match(lines[end]) is not None,
                cut=cut and not any(is_entry(plain_name(frame.function)) for frame in frames if frame.reliable),
            )
        above = above.around or _Above(since=end)
        at = end


def _beginning(lines: Sequence[str], at: int) -> str | None:
    """What stands in the line that begins a trace, behind its heading; None where none begins."""
    if (began := BEGIN.match(lines[at])) is not None:
        return began["first"]
    headless = HEADLESS.match(lines[at])
    if headless is None or (headless["function"] and not any(map(BADADDR.match, lines[max(0, at - 2) : at]))):
        return None
    if any(map(BEGIN.match, lines[at + 1 : at + 2])):
        return None
    return lines[at]


def _look(line: str, at: int, above: _Above) -> _Above:
    """What a line adds to what stands above a trace, or the event that it begins."""
    kind = kind_of(line)
    if kind in {TraceKind.OOPS, TraceKind.PANIC} and above.around is not None:
        above = above.around
    if kind is not None and above.is_within(kind):
        above = _Above(around=above)
    if kind is not None and above.takes(kind):
        above.kind, above.since, above.stopped, above.task = kind, at, None, None
        above.null, above.link = False, None
        found = BLOCKED.search(line)
        above.blocked = (found[1], int(found[2])) if found else None
    if found := TASK_LINE.search(line):
        above.task = int(found[1]), int(found[2]), found[3]
        above.since = at
    above.named = above.named or above.task is not None or NAMED.match(line) is not None
    if above.stopped is None and (stopped := stopped_frame(line)):
        above.stopped = stopped
    above.null = above.null or AT_NULL.match(line) is not None
    if above.null and above.link is None and (link := LINK.match(line)):
        above.link = TracedFrame(function=link["function"], offset=link["offset"])
    return above


def _frames(lines: Sequence[str], callers: Sequence[str | None], at: int, found: list[TracedFrame]) -> tuple[int, bool]:
    """Add the frames from line `at` on to `found`. Returns the line after them, and whether the log ends with them.

    Lines of another caller than that of the line before `at` are of another CPU, and are passed over.
    """
    caller = callers[at - 1]
    unknown = 0
    while at < len(lines):
        line = lines[at]
        if DROPPED.search(line):
            return at, True
        if caller is not None and callers[at] not in {None, caller}:
            at += 1
            continue
        if USER.match(line):
            return at, False
        if (frame := frame_of(line)) is not None:
            found.append(replace(frame, unknown=unknown) if unknown and frame.reliable else frame)
            unknown = 0 if frame.reliable else unknown
        elif NAMELESS.match(line):
            unknown += 1
        elif (stopped := stopped_frame(line)) is not None:
            if found and is_entry(plain_name(found[-1].function)):
                return at, False  # no exception is below the outermost function: it is of the oops around this trace
            found.append(stopped)
        elif "</TASK>" in line:
            return at + 1, False
        elif not (MARKER.match(line) or REGISTERS.match(line) or UNKNOWN.match(line)):
            foreign = _foreign(lines, at)
            if not foreign:
                return at, False
            at += foreign - 1
        at += 1
    return at, True


def _foreign(lines: Sequence[str], at: int) -> int:
    """The number of lines from `at` on that are not of the trace, if it goes on after them; else 0."""
    for count, line in enumerate(lines[at : at + _FOREIGN + 1]):
        if frame_of(line) is not None or "</TASK>" in line:
            return count
        if BEGIN.match(line) or ENDS.search(line) or kind_of(line) is not None:
            return 0
    return 0


def _without_repetition(frames: Sequence[TracedFrame]) -> Iterator[TracedFrame]:
    """Leave out the frame after one with registers if it is the same address: arm, arm64 and powerpc print it twice."""
    for at, frame in enumerate(frames):
        before = frames[at - 1] if at else None
        twice = before is not None and before.function == frame.function and frame.offset in {before.offset, ""}
        if before is None or not (twice and before.stopped and not frame.stopped):
            yield frame
