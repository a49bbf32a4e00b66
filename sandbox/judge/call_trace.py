"""Parse the call traces in a kernel log, which the kernel's own unwinder made.

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
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from sandbox.dump.panic import PANIC_LINE, CaptureKernelFilter
from sandbox.judge.functions import is_entry, is_exception, is_interrupt, is_panic, plain_name

_PREFIX: Final = re.compile(
    r"^(?:<\d{1,3}>)?(?:\[ *(?P<time>\d{1,12}\.\d{1,9})\] ?)?(?:\[ *(?P<caller>[TC]\d{1,10})\] ?)?"
    r"(?: ?\[\d{1,4}: [^\]:]{1,24}(?::[^\]: ]{1,8})?: *\d{1,10}\] ?| ?-?\(\d{1,3}\)\[\d{1,10}:[^\]]{1,24}\]"
    r"|c\d{1,3} {1,4}\d{1,10} |(?<=\] )(?P<cpu>\d{3}): )?"
)
"""kernel/printk/printk.c: level, time since boot, and the task or CPU that printed (CONFIG_PRINTK_CALLER); phones have
that as "[4:  kworker/u16:3: 4321] ", "(4)[4321:kworker/u16:3]" or "c4   4321 ", real-time kernels of 5.x have the
CPU as "003: "."""
_FUNCTION: Final = r"(?P<function>[A-Za-z_.$][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x[0-9a-f]+"
# Possessive: blanks that two parts could share would take time by the square of a line's length.
_FRAME: Final = re.compile(
    r"^\s*+(?:<+[#/A-Z_]+[0-9]*>+\s*+)*+"
    r"(?P<open>\(?)(?:\[<[0-9a-f]+>\]|\[[0-9a-f]{8,16}\](?: \[[0-9a-f]{8,16}\])?)?\s*"
    r"(?P<doubt>\? )?(?::\w+:)?" + _FUNCTION + r"(?P<rest>.*)$"
)
_ARM_FRAME: Final = re.compile(
    r"^\s*(?:\[<[0-9a-f]+>\] )?\(?(?P<function>[A-Za-z_][\w.]*)(?:\+0x\S+)?(?: \[(?P<module>[\w-]+)\])?\)? from \S"
)
_MODULE: Final = re.compile(r"^\s*\[([\w-]+)(?: [0-9a-f]+)?\]")
_MARKER: Final = re.compile(r"^\s*(?:<+/?[#A-Z_]+[0-9]*>+\s*)+$")
_UNKNOWN: Final = re.compile(r"^\s*\(?(?:\[<?[0-9a-f]+>?\]\s*)*(?:\? )?(?:0x)?[0-9a-f]{8,16}\)?\s*$")
"""An address without a function: of a program that was compiled at run time, or of a module that is gone."""
_NAMELESS: Final = re.compile(r"^\s*(?:\[<[0-9a-f]+>\] )?0x[0-9a-f]{8,16}\s*$")
"""The same as a frame of which the unwinder is sure, as %pB prints it."""
_BEGIN: Final = re.compile(r"^\s*(?:Call [Tt]race|Backtrace):\s*(?P<first>.*)$")
_HEADLESS: Final = re.compile(
    r"^\s*\[<[0-9a-f]{8}>\] \([A-Za-z_][^()]{1,200}\) from \[<[0-9a-f]{8}>\] \("
    r"|^ *[A-Za-z_][\w.]*(?: \[[\w-]+\])? from [A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+"
    r"|^\s*\[<[0-9a-f]{16}>\] " + _FUNCTION
)
"""A frame of arm or riscv, whose unwinders print nothing above the first (arch/arm/kernel/unwind.c)."""
_BADADDR: Final = re.compile(r"^\s*status: [0-9a-f]{16} badaddr: [0-9a-f]{16} cause: [0-9a-f]{8,16}$")
"""The last line of riscv's registers, which a terminal may have broken."""
# Kernel code has the selectors 0x10 and 0x60 (i386), e030 and e008 under Xen.
_STOPPED: Final = re.compile(
    r"^\s*(?:R?EIP|RIP): (?:00(?:10|60)|e0(?:08|30)):(?:\[<[0-9a-f]+>\]\s+\[<[0-9a-f]+>\] )?(?:"
    + _FUNCTION
    + r"|(?P<bad>.*))"
    r"|^\s*(?:pc : |epc : |ERA: [0-9a-f]+ |NIP \[[0-9a-f]+\] |Krnl PSW : .*\(|PC is at |EIP is at |EIP: "
    r"|epc {3}: [0-9a-f]+ |TPC: <|IAOQ\[0\]: )" + _FUNCTION.replace("function", "other").replace("offset", "behind")
)
_USER: Final = re.compile(r"^\s*(?:R?EIP|RIP): (?:00(?:33|23|73)|e033):|^\s*--- interrupt: c00 |^\s*NIP: +\[?0*[0-7]")
_AT_NULL: Final = re.compile(r"^\s*(?:pc : |PC is at )0x0\s*$")
_LINK: Final = re.compile(r"^\s*(?:lr : |LR is at )" + _FUNCTION)
_REGISTERS: Final = re.compile(
    r"^\s*(?:(?:R|E)?(?:[ABCD]X|SP|BP|[SD]I|IP)|R\d\d?|EFLAGS|ORIG_RAX|CR\d|DR\d|[CDEFGS]S|Code|NIP|LR|MSR|CFAR|GPR\d\d|CTR|REGS"
    r"|pstate|lr|sp|[xr]\d\d?|pc)\b ?[:=]|^\s*--- interrupt: |^\s*Code\b|^\s*[0-9a-f]{16} "
    # Of arm below an exception in a trace (arch/arm/kernel/traps.c: dump_mem(), dump_backtrace_stm()).
    r"|^\s*Exception stack\(0x|^[0-9a-f]{4}: [0-9a-f ]{8} "
    # An inlined function, from scripts that add source lines to a log.
    r"|^ \w+ \S+:\d+ \[inline\]$"
)
_DROPPED: Final = re.compile(r"\*\* \d+ printk messages dropped \*\*")
"""Lines are missing from the log of a console that was too slow (kernel/printk/printk.c)."""
TASK_LINE: Final = re.compile(
    r"\bCPU: (\d{1,9}) (?:UID: \d+ )?PID: (\d{1,10}) Comm: (.{1,16}?) (?:Kdump: loaded |Not tainted|Tainted:)"
)
"""CPU, PID and name of the task of an event: dump_stack_print_info() in lib/dump_stack.c."""
OLD_TASK_LINE: Final = re.compile(r"\bPid: (\d{1,10}), comm: (.{1,16}?) +(?:Not tainted|Tainted:)")
"""PID and name, of x86 up to 3.8."""
_BLOCKED: Final = re.compile(r"INFO: task (.{1,16}):(\d{1,10}) blocked (?:in I/O wait )?for more than")
LINES_ABOVE: Final = 80
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


_NAMED: Final = re.compile(
    # CPUs that are stopped for the panic (arch/arm/kernel/smp.c, arm64 before 4.16) and those of sysrq-l; tasks of
    # sysrq-t, before "task:" (kernel/sched/core.c, before 5.11) and since.
    r"^\s*task:.{1,16}? +state:|^\s*CPU ?\d{1,5}: stopping|^\s*CPU\d{1,5}:$"
    r"|^\S.{0,15} [RSDTtXZPI] +(?:running task|[0-9a-f]{8,16}|\d{1,6})(?: +\d{1,10}){2,3} +0x[0-9a-f]{8}\b"
)
"""Lines that name the task or the CPU of a stack: none with CPU, PID and Comm has to follow."""

# In this order: a line that fits several has the first kind. What is looked for anywhere in a line begins with a letter
# in each alternative: Python's re then looks for those letters, and takes a fifth of the time.
_KINDS: Final = (
    (TraceKind.PANIC, PANIC_LINE, None),
    (
        TraceKind.OOPS,
        re.compile(
            r"Oops(?<!\wOops)\b|Kernel BUG at|kernel BUG at|BUG: (?:kernel NULL|unable to handle)"
            r"|Unable to handle kernel|unable to handle kernel"
            r"|general protection fault|Internal error: |divide error|double fault|stack segment: |invalid opcode: "
            r"|Unhandled fault|illegal operation: |Machine Check|stack guard page|Kernel Fault: Code="
            r"|Unhandled kernel unaligned access"
        ),
        # What __die() of x86 prints first, whatever it is: "stack guard page: 0000 [#1] PREEMPT SMP".
        re.compile(r"[\w ,-]{1,60}: [0-9a-f]{4} \[#\d{1,9}\]"),
    ),
    (TraceKind.LOCKUP, re.compile(r"soft lockup|hard LOCKUP|detected stall|self-detected stall|Watchdog CPU:"), None),
    (TraceKind.BLOCKED, _BLOCKED, None),
    (
        TraceKind.OTHER,
        re.compile(r"WARNING: |NMI backtrace for cpu|Sending NMI|sending NMI|sysrq ?: Show|SysRq : Show|BUG: "),
        _NAMED,
    ),
)
"""(kind, pattern anywhere in a line, pattern at its beginning)"""


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
    offset: str = ""
    """In the function, hexadecimal."""
    nameless: bool = False
    """The address is the first of this function: what called is the function before it, whose call never returned.
    arm64, riscv and s390 print so (noreturn functions such as panic())."""
    unknown: int = 0
    """How many addresses without a name stand before it: programs that were compiled at run time, or trampolines."""


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
    return [int(found[2]) for found in map(_BLOCKED.search, log) if found]


def call_traces(log: Sequence[str]) -> list[CallTrace]:
    """Parse all call traces of a log, in its order. Those of a capture kernel are left out."""
    lines, callers = [], []
    for line in own_lines(log):
        prefix = _PREFIX.match(line)
        callers.append((prefix["caller"] or prefix["cpu"]) if prefix else None)
        lines.append(without_time(line))
    return list(_traces(lines, callers))


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


def without_time(line: str) -> str:
    """The text of a line, without what printk puts in front."""
    return _PREFIX.sub("", line, count=1)


def time_of(line: str) -> float | None:
    """Seconds since boot; None where a line has none."""
    found = _PREFIX.match(line)
    return None if found is None or found["time"] is None else float(found["time"])


def begins_event(line: str) -> bool:
    """Whether a line tells of something of which a call trace may follow."""
    return _kind(line) is not None


def _kind(line: str) -> TraceKind | None:
    """The kind of the event that a line tells of."""
    for kind, anywhere, beginning in _KINDS:
        if anywhere.search(line) or (beginning is not None and beginning.match(line)):
            return kind
    return None


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
        if (beside := _frame(first)) is not None:
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
                user=end < len(lines) and _USER.match(lines[end]) is not None,
                cut=cut and not any(is_entry(plain_name(frame.function)) for frame in frames if frame.reliable),
            )
        above = above.around or _Above(since=end)
        at = end


def _beginning(lines: Sequence[str], at: int) -> str | None:
    """What stands in the line that begins a trace, behind its heading; None where none begins."""
    if (began := _BEGIN.match(lines[at])) is not None:
        return began["first"]
    headless = _HEADLESS.match(lines[at])
    if headless is None or (headless["function"] and not any(map(_BADADDR.match, lines[max(0, at - 2) : at]))):
        return None
    if any(map(_BEGIN.match, lines[at + 1 : at + 2])):
        return None
    return lines[at]


def _look(line: str, at: int, above: _Above) -> _Above:
    """What a line adds to what stands above a trace, or the event that it begins."""
    kind = _kind(line)
    if kind in {TraceKind.OOPS, TraceKind.PANIC} and above.around is not None:
        above = above.around
    if kind is not None and above.is_within(kind):
        above = _Above(around=above)
    if kind is not None and above.takes(kind):
        above.kind, above.since, above.stopped, above.task = kind, at, None, None
        above.null, above.link = False, None
        found = _BLOCKED.search(line)
        above.blocked = (found[1], int(found[2])) if found else None
    if found := TASK_LINE.search(line):
        above.task = int(found[1]), int(found[2]), found[3]
        above.since = at
    above.named = above.named or above.task is not None or _NAMED.match(line) is not None
    if above.stopped is None and (stopped := _stopped(line)):
        above.stopped = stopped
    above.null = above.null or _AT_NULL.match(line) is not None
    if above.null and above.link is None and (link := _LINK.match(line)):
        above.link = TracedFrame(function=link["function"], offset=link["offset"])
    return above


def _stopped(line: str) -> TracedFrame | None:
    found = _STOPPED.match(line)
    if found is None or not (name := found["function"] or found["other"]):
        return None
    return TracedFrame(function=name.lstrip("."), stopped=True, offset=found["offset"] or found["behind"])


def _frames(lines: Sequence[str], callers: Sequence[str | None], at: int, found: list[TracedFrame]) -> tuple[int, bool]:
    """Add the frames from line `at` on to `found`. Returns the line after them, and whether the log ends with them.

    Lines of another caller than that of the line before `at` are of another CPU, and are passed over.
    """
    caller = callers[at - 1]
    unknown = 0
    while at < len(lines):
        line = lines[at]
        if _DROPPED.search(line):
            return at, True
        if caller is not None and callers[at] not in {None, caller}:
            at += 1
            continue
        if _USER.match(line):
            return at, False
        if (frame := _frame(line)) is not None:
            found.append(replace(frame, unknown=unknown) if unknown and frame.reliable else frame)
            unknown = 0 if frame.reliable else unknown
        elif _NAMELESS.match(line):
            unknown += 1
        elif (stopped := _stopped(line)) is not None:
            if found and is_entry(plain_name(found[-1].function)):
                return at, False  # no exception is below the outermost function: it is of the oops around this trace
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
        if _BEGIN.match(line) or _ENDS.search(line) or _kind(line) is not None:
            return 0
    return 0


def _frame(line: str) -> TracedFrame | None:
    if (found := _FRAME.match(line)) is None:
        arm = _ARM_FRAME.match(line)
        return TracedFrame(function=arm["function"], module=arm["module"]) if arm else None
    rest = found["rest"]
    begins = line[found.end("function") :].startswith("+0x0/")
    module = _MODULE.match(rest)
    doubtful = bool(found["doubt"] or (found["open"] and rest.startswith(")")) or "(unreliable)" in rest)
    return TracedFrame(
        function=found["function"].lstrip("."),
        module=module[1] if module else None,
        reliable=not doubtful,
        offset=found["offset"],
        nameless=begins,
    )


def _without_repetition(frames: Sequence[TracedFrame]) -> Iterator[TracedFrame]:
    """Leave out the frame after one with registers if it is the same address: arm, arm64 and powerpc print it twice."""
    for at, frame in enumerate(frames):
        before = frames[at - 1] if at else None
        twice = before is not None and before.function == frame.function and frame.offset in {before.offset, ""}
        if before is None or not (twice and before.stopped and not frame.stopped):
            yield frame
