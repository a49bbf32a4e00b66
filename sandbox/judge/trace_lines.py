"""The lines of call traces in a kernel log: what tells of an event, begins a trace, is a frame or stands between.

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
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sandbox.dump.panic import PANIC_LINE

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
MARKER: Final = re.compile(r"^\s*(?:<+/?[#A-Z_]+[0-9]*>+\s*)+$")
UNKNOWN: Final = re.compile(r"^\s*\(?(?:\[<?[0-9a-f]+>?\]\s*)*(?:\? )?(?:0x)?[0-9a-f]{8,16}\)?\s*$")
"""An address without a function: of a program that was compiled at run time, or of a module that is gone."""
NAMELESS: Final = re.compile(r"^\s*(?:\[<[0-9a-f]+>\] )?0x[0-9a-f]{8,16}\s*$")
"""The same as a frame of which the unwinder is sure, as %pB prints it."""
BEGIN: Final = re.compile(r"^\s*(?:Call [Tt]race|Backtrace):\s*(?P<first>.*)$")
HEADLESS: Final = re.compile(
    r"^\s*\[<[0-9a-f]{8}>\] \([A-Za-z_][^()]{1,200}\) from \[<[0-9a-f]{8}>\] \("
    r"|^ *[A-Za-z_][\w.]*(?: \[[\w-]+\])? from [A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+"
    r"|^\s*\[<[0-9a-f]{16}>\] " + _FUNCTION
)
"""A frame of arm or riscv, whose unwinders print nothing above the first (arch/arm/kernel/unwind.c)."""
BADADDR: Final = re.compile(r"^\s*status: [0-9a-f]{16} badaddr: [0-9a-f]{16} cause: [0-9a-f]{8,16}$")
"""The last line of riscv's registers, which a terminal may have broken."""
# Kernel code has the selectors 0x10 and 0x60 (i386), e030 and e008 under Xen.
_STOPPED: Final = re.compile(
    r"^\s*(?:R?EIP|RIP): (?:00(?:10|60)|e0(?:08|30)):(?:\[<[0-9a-f]+>\]\s+\[<[0-9a-f]+>\] )?(?:"
    + _FUNCTION
    + r"|(?P<bad>.*))"
    r"|^\s*(?:pc : |epc : |ERA: [0-9a-f]+ |NIP \[[0-9a-f]+\] |Krnl PSW : .*\(|PC is at |EIP is at |EIP: "
    r"|epc {3}: [0-9a-f]+ |TPC: <|IAOQ\[0\]: )" + _FUNCTION.replace("function", "other").replace("offset", "behind")
)
USER: Final = re.compile(r"^\s*(?:R?EIP|RIP): (?:00(?:33|23|73)|e033):|^\s*--- interrupt: c00 |^\s*NIP: +\[?0*[0-7]")
AT_NULL: Final = re.compile(r"^\s*(?:pc : |PC is at )0x0\s*$")
LINK: Final = re.compile(r"^\s*(?:lr : |LR is at )" + _FUNCTION)
REGISTERS: Final = re.compile(
    r"^\s*(?:(?:R|E)?(?:[ABCD]X|SP|BP|[SD]I|IP)|R\d\d?|EFLAGS|ORIG_RAX|CR\d|DR\d|[CDEFGS]S|Code|NIP|LR|MSR|CFAR|GPR\d\d|CTR|REGS"
    r"|pstate|lr|sp|[xr]\d\d?|pc)\b ?[:=]|^\s*--- interrupt: |^\s*Code\b|^\s*[0-9a-f]{16} "
    # Of arm below an exception in a trace (arch/arm/kernel/traps.c: dump_mem(), dump_backtrace_stm()).
    r"|^\s*Exception stack\(0x|^[0-9a-f]{4}: [0-9a-f ]{8} "
    # An inlined function, from scripts that add source lines to a log.
    r"|^ \w+ \S+:\d+ \[inline\]$"
)
DROPPED: Final = re.compile(r"\*\* \d+ printk messages dropped \*\*")
"""Lines are missing from the log of a console that was too slow (kernel/printk/printk.c)."""
TASK_LINE: Final = re.compile(
    r"\bCPU: (\d{1,9}) (?:UID: \d+ )?PID: (\d{1,10}) Comm: (.{1,16}?) (?:Kdump: loaded |Not tainted|Tainted:)"
)
"""CPU, PID and name of the task of an event: dump_stack_print_info() in lib/dump_stack.c."""
OLD_TASK_LINE: Final = re.compile(r"\bPid: (\d{1,10}), comm: (.{1,16}?) +(?:Not tainted|Tainted:)")
"""PID and name, of x86 up to 3.8."""
BLOCKED: Final = re.compile(r"INFO: task (.{1,16}):(\d{1,10}) blocked (?:in I/O wait )?for more than")
ENDS: Final = re.compile(
    r"---\[ end|Modules linked in|Last Breaking-Event|Instruction dump|Kernel Offset|^\s*task:|\bCPU: \d"
)


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


NAMED: Final = re.compile(
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
    (TraceKind.BLOCKED, BLOCKED, None),
    (
        TraceKind.OTHER,
        re.compile(r"WARNING: |NMI backtrace for cpu|Sending NMI|sending NMI|sysrq ?: Show|SysRq : Show|BUG: "),
        NAMED,
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


def without_time(line: str) -> str:
    """The text of a line, without what printk puts in front."""
    return _PREFIX.sub("", line, count=1)


def time_of(line: str) -> float | None:
    """Seconds since boot; None where a line has none."""
    found = _PREFIX.match(line)
    return None if found is None or found["time"] is None else float(found["time"])


def caller_of(line: str) -> str | None:
    """The task or CPU that printed a line, as printk has it; None where a line does not say."""
    found = _PREFIX.match(line)
    return None if found is None else found["caller"] or found["cpu"]


def begins_event(line: str) -> bool:
    """Whether a line tells of something of which a call trace may follow."""
    return kind_of(line) is not None


def kind_of(line: str) -> TraceKind | None:
    """The kind of the event that a line tells of."""
    for kind, anywhere, beginning in _KINDS:
        if anywhere.search(line) or (beginning is not None and beginning.match(line)):
            return kind
    return None


def stopped_frame(line: str) -> TracedFrame | None:
    """The function that an exception or an interrupt stopped, of a line with registers; None of any other line."""
    found = _STOPPED.match(line)
    if found is None or not (name := found["function"] or found["other"]):
        return None
    return TracedFrame(function=name.lstrip("."), stopped=True, offset=found["offset"] or found["behind"])


def frame_of(line: str) -> TracedFrame | None:
    """The frame in a line of a trace; None of any other line."""
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
