"""Find and parse the call traces in a kernel log: above all the one of the panic, which the kernel's own unwinder made.

Forms, with the file that prints them:

* x86 (arch/x86/kernel/dumpstack.c): ` func+0x16/0x20 [module]`, before 4.11 with `[<address>] ` in front (commit
  bb5e5ce545f2 ("x86/dumpstack: Remove kernel text addresses from stack dump"), v4.10); `? ` marks what only lies on the
  stack; `<IRQ>`, `<NMI>`, `<#DF>`, `<TASK>` begin a stack; `RIP: 0010:func+…` names the function that an exception or
  an interrupt stopped, `RIP: 0033:…` the program's.
* arm64 (arch/arm64/kernel/traps.c, stacktrace.c): `pc : func+…`, `Call trace:`, ` func+0x10/0x20`, newer ones with
  ` (P)` behind; arm: `[<…>] (func) from [<…>] (caller+…)`, newer ` func from caller+…`.
* powerpc (arch/powerpc/kernel/process.c): `NIP [address] func+…`, `[stack] [address] func+… (unreliable)`.
* s390 (arch/s390/kernel/dumpstack.c): `Krnl PSW : … (func+…)`, ` [<address>] func+…`, in parentheses if unreliable.
* riscv: `epc : func+…`, `[<address>] func+…`; loongarch: `ERA: address func+…`, the same frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sandbox.dump.panic import PANIC_LINE, CaptureKernelFilter
from sandbox.judge.functions import is_entry, plain_name

_TIME: Final = re.compile(r"^(?:<\d{1,3}>)?(?:\[ *\d+\.\d+\] ?)?(?:\[ *[TC]\d+\] ?)?")
_FUNCTION: Final = r"(?P<function>[A-Za-z_.$][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
# Possessive: blanks that two parts could share would take time by the square of a line's length.
_FRAME: Final = re.compile(
    r"^\s*+(?:<+[#/A-Z_]+[0-9]*>+\s*+)*+"
    r"(?P<open>\(?)(?:\[<[0-9a-f]+>\]|\[[0-9a-f]{8,16}\](?: \[[0-9a-f]{8,16}\])?)?\s*"
    r"(?P<doubt>\? )?(?::\w+:)?" + _FUNCTION + r"(?P<rest>.*)$"
)
_ARM_FRAME: Final = re.compile(r"^\s*(?:\[<[0-9a-f]+>\] )?\(?(?P<function>[A-Za-z_][\w.]*)(?:\+0x\S+)?\)? from \S")
_MODULE: Final = re.compile(r"^\s*\[([\w-]+)(?: [0-9a-f]+)?\]")
_MARKER: Final = re.compile(r"^\s*(?:<+/?[#A-Z_]+[0-9]*>+\s*)+$")
_UNKNOWN: Final = re.compile(r"^\s*\(?(?:\[<?[0-9a-f]+>?\]\s*)*(?:\? )?(?:0x)?[0-9a-f]{8,16}\)?\s*$")
"""An address without a function: of a program that was compiled at run time, or of a module that is gone."""
_BEGIN: Final = re.compile(r"^\s*(?:Call [Tt]race|Backtrace):\s*(?P<first>.*)$")
# Kernel code has the selectors 0x10 and 0x60 (i386), e030 and e008 under Xen.
_STOPPED: Final = re.compile(
    r"^\s*(?:R?EIP|RIP): (?:00(?:10|60)|e0(?:08|30)):(?:\[<[0-9a-f]+>\]\s+\[<[0-9a-f]+>\] )?(?:"
    + _FUNCTION
    + r"|(?P<bad>.*))"
    r"|^\s*(?:pc : |epc : |ERA: [0-9a-f]+ |NIP \[[0-9a-f]+\] |Krnl PSW : .*\(|PC is at |EIP is at |EIP: )"
    + _FUNCTION.replace("function", "other")
)
_USER: Final = re.compile(r"^\s*(?:R?EIP|RIP): (?:00(?:33|23|73)|e033):|^\s*--- interrupt: c00 |^\s*NIP: +\[?0*[0-7]")
_REGISTERS: Final = re.compile(
    r"^\s*(?:(?:R|E)?(?:[ABCD]X|SP|BP|[SD]I|IP)|R\d\d?|EFLAGS|ORIG_RAX|CR\d|DR\d|[CDEFGS]S|Code|NIP|LR|MSR|CFAR|GPR\d\d|CTR|REGS"
    r"|pstate|lr|sp|x\d\d?|pc)\b ?[:=]|^\s*--- interrupt: |^\s*Code\b|^\s*[0-9a-f]{16} "
)
_TASK: Final = re.compile(
    r"\bCPU: (\d{1,9}) (?:UID: \d+ )?PID: (\d{1,10}) Comm: (.{1,16}?) (?:Kdump: loaded |Not tainted|Tainted:)"
)
_BLOCKED: Final = re.compile(r"INFO: task (.{1,16}):(\d{1,10}) blocked (?:in I/O wait )?for more than")
_ABOVE: Final = 80
"""Lines above a call trace that can belong to it: registers, and the list of modules."""

_ENDS: Final = re.compile(
    r"---\[ end|Modules linked in|Last Breaking-Event|Instruction dump|Kernel Offset|^\s*task:|\bCPU: \d"
)

_FOREIGN: Final = 3
"""Lines of others, of another CPU or of user space, that may stand between two frames."""


class TraceKind(StrEnum):
    """What made the kernel print a call trace."""

    PANIC = "panic"
    OOPS = "oops"
    """An exception in kernel code, or BUG()."""
    LOCKUP = "lockup"
    """A soft or hard lockup, or an RCU stall."""
    BLOCKED = "blocked"
    """A hung task: the stack is that task's."""
    OTHER = "other"
    """A warning, or a stack that was asked for."""


# In this order: a line that fits several has the first kind.
_KINDS: Final = (
    (TraceKind.PANIC, PANIC_LINE),
    (
        TraceKind.OOPS,
        re.compile(
            r"\bOops\b|[Kk]ernel BUG at|BUG: (?:kernel NULL|unable to handle)|[Uu]nable to handle kernel"
            r"|general protection fault|Internal error: |divide error|double fault|stack segment: |invalid opcode: "
            r"|Unhandled fault|illegal operation: |Machine Check"
        ),
    ),
    (TraceKind.LOCKUP, re.compile(r"soft lockup|hard LOCKUP|detected stall|self-detected stall|Watchdog CPU:")),
    (TraceKind.BLOCKED, _BLOCKED),
    (TraceKind.OTHER, re.compile(r"WARNING: |NMI backtrace for cpu|Sending NMI|sysrq: Show|^\s*task:|BUG: ")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedFrame:
    """One function of a call trace."""

    function: str
    """As printed, e.g. vfs_write.cold."""
    module: str | None = None
    reliable: bool = True
    """False for an address that only lies on the stack ("? func")."""
    stopped: bool = False
    """An exception or an interrupt came while this function ran: it is from a line with registers."""
    nameless: bool = False
    """The address is the first of this function: what called is the function before it, whose call never returned.
    arm64, riscv and s390 print so (noreturn functions such as panic())."""


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
    """Whether the log ends in it: the outer functions are missing."""

    @property
    def reliable(self) -> tuple[TracedFrame, ...]:
        """The frames that the unwinder is sure of."""
        return tuple(frame for frame in self.frames if frame.reliable)


def panic_trace(log: Sequence[str]) -> CallTrace | None:
    """Find the call trace of the panic: the panic's own or, where an oops led to it, that of the oops.

    None if the log has neither. A log without a panic has that of its last oops or lockup.
    """
    return _of_panic(call_traces(log), log)


def blocked_trace(log: Sequence[str]) -> CallTrace | None:
    """Find the call trace of the task that was named last as blocked, before the panic if there is one."""
    traces = call_traces(log)
    at = _panic_at(log)
    return next(
        (one for one in reversed(traces) if one.kind is TraceKind.BLOCKED and (at is None or one.line < at)), None
    )


def blocked_pids(log: Sequence[str]) -> list[int]:
    """The tasks that the kernel found blocked, in the log's order."""
    return [int(found[2]) for found in map(_BLOCKED.search, log) if found]


def panics(log: Sequence[str]) -> int:
    """Count the panics in a log; that of a capture kernel does not count."""
    return sum(1 for line in _own(log) if PANIC_LINE.search(line))


def call_traces(log: Sequence[str]) -> list[CallTrace]:
    """Parse all call traces of a log, in its order. Those of a capture kernel are left out."""
    return list(_traces([_TIME.sub("", line, count=1) for line in _own(log)]))


def _own(log: Sequence[str]) -> list[str]:
    boots = CaptureKernelFilter()
    return [line for line in log if boots.takes(line)]


def _panic_at(log: Sequence[str]) -> int | None:
    return max((at for at, line in enumerate(_own(log)) if PANIC_LINE.search(line)), default=None)


def _of_panic(traces: Sequence[CallTrace], log: Sequence[str]) -> CallTrace | None:
    at = _panic_at(log)
    guilty = (TraceKind.OOPS, TraceKind.LOCKUP)
    if at is None:
        return next((one for one in reversed(traces) if one.kind in guilty), None)
    own = next((one for one in traces if one.line > at and one.kind is TraceKind.PANIC), None)
    # panic() prints no stack after an oops: oops_end() says "Fatal exception".
    return own or next((one for one in reversed(traces) if one.line < at and one.kind in guilty), None)


@dataclass(slots=True)
class _Above:
    """What stands above a call trace."""

    kind: TraceKind | None = None
    stopped: TracedFrame | None = None
    task: tuple[int, int, str] | None = None
    blocked: tuple[str, int] | None = None
    since: int = 0

    def takes(self, kind: TraceKind) -> bool:
        """Whether a line of `kind` begins another event than the one that the lines before it are of."""
        # "BUG: unable to handle …" is followed by "Oops: …" of the same oops, "blocked for more than" by "task:…".
        return (
            self.kind is None
            or kind is TraceKind.PANIC
            or (self.kind is not TraceKind.PANIC and kind is not self.kind and kind is not TraceKind.OTHER)
        )


def _traces(lines: Sequence[str]) -> Iterator[CallTrace]:
    above = _Above()
    at = 0
    while at < len(lines):
        line = lines[at]
        began = _BEGIN.match(line)
        if began is None:
            _look(line, at, above)
            at += 1
            continue
        if above.since + _ABOVE < at:
            above = _Above()
        frames = [] if above.stopped is None else [above.stopped]
        if (beside := _frame(began["first"])) is not None:
            frames.append(beside)
        end, cut = _frames(lines, at + 1, frames)
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
                cut=cut and not any(is_entry(plain_name(frame.function)) for frame in frames if frame.reliable),
            )
        above = _Above(since=end)
        at = end


def _look(line: str, at: int, above: _Above) -> None:
    kind = next((kind for kind, pattern in _KINDS if pattern.search(line)), None)
    if kind is not None and above.takes(kind):
        above.kind, above.since, above.stopped, above.task = kind, at, None, None
        found = _BLOCKED.search(line)
        above.blocked = (found[1], int(found[2])) if found else None
    if found := _TASK.search(line):
        above.task = int(found[1]), int(found[2]), found[3]
        above.since = at
    if above.stopped is None and (stopped := _stopped(line)):
        above.stopped = stopped


def _stopped(line: str) -> TracedFrame | None:
    found = _STOPPED.match(line)
    name = found and (found["function"] or found["other"])
    return TracedFrame(function=name.lstrip("."), stopped=True) if name else None


def _frames(lines: Sequence[str], at: int, found: list[TracedFrame]) -> tuple[int, bool]:
    """Add the frames from line `at` on to `found`. Returns the line after them, and whether the log ends with them."""
    while at < len(lines):
        line = lines[at]
        if _USER.match(line):
            return at, False
        if (frame := _frame(line)) is not None:
            found.append(frame)
        elif (stopped := _stopped(line)) is not None:
            found.append(stopped)
        elif "</TASK>" in line:
            return at + 1, False
        elif not (_MARKER.match(line) or _REGISTERS.match(line) or _UNKNOWN.match(line)):
            foreign = _foreign(lines, at)
            if not foreign:
                return at, False
            at += foreign - 1
        at += 1
    return at, True


def _foreign(lines: Sequence[str], at: int) -> int:
    """The number of lines from `at` on that are not of the trace, if it goes on after them; else 0."""
    for count, line in enumerate(lines[at : at + _FOREIGN + 1]):
        if _frame(line) is not None or "</TASK>" in line:
            return count
        if _BEGIN.match(line) or _ENDS.search(line) or any(pattern.search(line) for _, pattern in _KINDS):
            return 0
    return 0


def _frame(line: str) -> TracedFrame | None:
    if (found := _FRAME.match(line)) is None:
        arm = _ARM_FRAME.match(line)
        return TracedFrame(function=arm["function"]) if arm else None
    rest = found["rest"]
    begins = line[found.end("function") :].startswith("+0x0/")
    module = _MODULE.match(rest)
    doubtful = bool(found["doubt"] or (found["open"] and rest.startswith(")")) or "(unreliable)" in rest)
    return TracedFrame(
        function=found["function"].lstrip("."),
        module=module[1] if module else None,
        reliable=not doubtful,
        nameless=begins,
    )


def _without_repetition(frames: Sequence[TracedFrame]) -> Iterator[TracedFrame]:
    """Leave out the frame after one with registers if it is the same function: arm64 and powerpc print it twice."""
    for at, frame in enumerate(frames):
        before = frames[at - 1] if at else None
        if before is not None and before.stopped and not frame.stopped and before.function == frame.function:
            continue
        yield frame
