"""Finds in a kernel log how the kernel ended: cause, panic line, taint, hardware, uptime."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sandbox.dump.printk import Record
from sandbox.dump.source import SECONDS, Budget
from sandbox.model import PanicCause

_KEPT: Final = 4000
"""Lines at the end that are searched; an oops with the stacks of all CPUs has some hundreds."""

_ASKED: Final = 256
"""Lines between two looks at the clock."""

PANIC_LINE: Final = re.compile(r"(?<!end )Kernel panic - .*")
_OOPS: Final = re.compile(
    r"BUG: (?:[Kk]ernel NULL pointer dereference|[Uu]nable to handle).*|Unable to handle kernel.*"
    r"|[Kk]ernel BUG at.*|Oops: .*|general protection fault.*|Internal error: .*|divide error: .*"
    r"|Oops - .*|stack segment: .*|double fault[:,] .*|BUG: KASAN: .*|watchdog: BUG: .*|Unhandled fault.*"
    r"|BUG: (?:\w+ )?stack guard page was hit.*|kernel stack overflow \(.*|Unhandled kernel unaligned access.*"
    r"|Kernel Fault: Code=.*"
    r"|CFI failure at .*|invalid opcode: [0-9a-f]{4} \[#.*|Bad pagetable: .*|alignment check: .*|Split lock detected.*"
)
_NUMBERS: Final = re.compile(r"Oops|Internal error: (?:Oops|: )|invalid opcode: |kernel stack overflow \(")
"""An oops' line "Oops: 0002 [#1] SMP", which only numbers it."""
_LINES_TO_SHADOW: Final = 4
_SHADOW: Final = re.compile(r"KASAN: null-ptr-deref in range \[")
"""What KASAN says below an oops of an access to its shadow (mm/kasan/report.c: kasan_non_canonical_hook())."""
LINES_OF_HEAD: Final = 32
"""Lines above that one, in which the reason is: arm64 has 20 of them."""
_LINES_OF_PANIC: Final = 140
"""Lines of a panic with its stack and registers, after which a capture kernel is started, or the machine waits."""
_LINES_TO_TASK: Final = 8
"""Lines below a panic's in which the kernel names its task; other CPUs may print between."""
_OF_A_CPU: Final = re.compile(r"\bCPU: \d+ .*\bPID: \d+ |---\[ end trace")
_GENERIC: Final = re.compile(
    r"Fatal exception|Fatal hardware error|panic_on_oops|Oops|Machine halted|Aiee, killing|kill the idle task"
    r"|Kernel Fault"
)

# The meaning of each message. The first match wins, in the panic line, then in the last oops before it. Messages are
# those of Linux 2.6.32 to 6.x: kernel/panic.c, arch/*/kernel/traps.c, mm/oom_kill.c …
_CAUSES: Final = (
    (r"sysrq ?: Trigger a crash|sysrq triggered crash", PanicCause.SYSRQ),
    (r"hung_task: blocked tasks", PanicCause.HUNG_TASK),
    (r"out of memory|panic_on_oom|no killable processes|deadlocked on memory", PanicCause.OOM),
    (r"soft ?lockup", PanicCause.SOFT_LOCKUP),
    (r"hard lockup", PanicCause.HARD_LOCKUP),
    (r"RCU Stall", PanicCause.RCU_STALL),
    (r"machine check|\bMCE\b|broadcast exception handler", PanicCause.MCE),
    (r"NMI: Not continuing|NMI IOCK|An NMI occurred|nmi_panic|Non maskable interrupt|NMI: IOCK", PanicCause.NMI),
    (r"SError Interrupt", PanicCause.SERROR),
    (r"Attempted to kill init", PanicCause.INIT_KILLED),
    (r"Unable to mount root fs|No working init found|Requested init .* failed", PanicCause.NO_ROOT),
    # "[#1] SMP KASAN" only says that the kernel was built with it.
    (r"KASAN: |kasan\.fault", PanicCause.KASAN),
    (r"KFENCE", PanicCause.KFENCE),
    (r"KCSAN: ", PanicCause.KCSAN),
    (r"KMSAN: |kmsan\.panic", PanicCause.KMSAN),
    (r"UBSAN", PanicCause.UBSAN),
    (r"CFI failure|Oops - CFI", PanicCause.CFI),
    (r"not syncing: scheduling while atomic", PanicCause.ATOMIC),
    (r"not syncing: workqueue: ", PanicCause.WORKQUEUE),
    (r"panic_on_warn", PanicCause.WARNING),
    (
        r"stack-protector|stack is corrupted|stack overflow|stack guard page|corrupted stack end",
        PanicCause.STACK_OVERFLOW,
    ),
    (r"NULL pointer dereference", PanicCause.NULL_POINTER),
    (r"list_(?:add|del) corruption", PanicCause.LIST_CORRUPTION),
    (r"kernel BUG at", PanicCause.BUG),
    (r"unable to handle (?:kernel )?(?:paging request|page fault)|unable to handle kernel", PanicCause.PAGE_FAULT),
    (r"general protection", PanicCause.GENERAL_PROTECTION),
    (r"double fault", PanicCause.DOUBLE_FAULT),
    (r"divide error", PanicCause.DIVIDE_ERROR),
    (r"invalid opcode|undefined instruction", PanicCause.INVALID_OPCODE),
    (r"panic forced after error|\b(?:ext4|xfs|btrfs|dm-verity)\b.*panic|dm-verity device", PanicCause.FILESYSTEM),
    (r"IPMI", PanicCause.IPMI),
    (
        r"Fatal hardware error|synchronous (?:external abort|parity)|syncing: (?:EDAC \w+: )?UE |DMAR hardware is malf",
        PanicCause.HARDWARE_ERROR,
    ),
    (r"Oops|Unhandled kernel unaligned access|Kernel Fault: Code=", PanicCause.OOPS),
)

# Letters of "Tainted:", Linux kernel/panic.c taint_flags and Documentation/admin-guide/tainted-kernels.rst. "G" stands
# in the first column when no proprietary module is loaded and means nothing by itself.
TAINT: Final = {
    "P": "proprietary module was loaded",
    "F": "module was force loaded",
    "S": "kernel running on an out of specification system",
    "R": "module was force unloaded",
    "M": "processor reported a machine check exception",
    "B": "bad page referenced or unexpected page flags",
    "U": "taint requested by a user-space application",
    "D": "kernel died recently, i.e. there was an oops or BUG",
    "A": "ACPI table overridden by user",
    "W": "kernel issued a warning",
    "C": "staging driver was loaded",
    "I": "workaround for a bug in platform firmware applied",
    "O": "externally built (out-of-tree) module was loaded",
    "E": "unsigned module was loaded",
    "L": "soft lockup occurred",
    "K": "kernel has been live patched",
    "X": "auxiliary taint, defined by the distribution",
    "T": "kernel was built with the struct randomization plugin",
    "N": "an in-kernel test has been run",
    "J": "userspace used a mutating debug operation in fwctl",
}

# Since 6.12 a line of its own gives the reasons, "Tainted: [W]=WARN"; the letters are in both.
_TAINTED: Final = re.compile(r"Tainted: ([A-Z ]{1,48})")
_NOT_TAINTED: Final = re.compile(r"\bNot tainted\b")
_HARDWARE: Final = re.compile(r"Hardware name: (.+)")
_DMI: Final = re.compile(r"\bDMI: (.+)")
_BANNER: Final = re.compile(r"(?:^|[\s\]])(Linux version \d\S* \(.*)")
_COMMAND_LINE: Final = re.compile(r"ommand line: ")
_VERSION: Final = re.compile(r"(#\d\S* .*)$")
_RELEASE: Final = re.compile(r"^Linux version (\S+)")
_TRIGGER: Final = re.compile(r"sysrq ?: Trigger a crash", re.IGNORECASE)
_PANICKED: Final = re.compile(PANIC_LINE.pattern.encode())
_OOPSED: Final = re.compile(_OOPS.pattern.encode())

# lib/dump_stack.c:dump_stack_print_info: release, and uname -v up to its first space. Behind it newer kernels print
# their build-id (CONFIG_STACKTRACE_BUILD_ID) and the kind of preemption, and Debian's the version of their package.
_CPU_LINE: Final = re.compile(
    r"(?:\bCPU: \d+ (?:UID: \d+ )?PID: \d+ Comm: |\bPid: \d+, comm: ).*"
    r"(?:\bNot tainted|\bTainted: [A-Z -]{1,64}?) +(?P<release>\d+\.\d+\S{0,120}) (?P<version>#\d.*)"
)
_BUILD_ID: Final = re.compile(r" +([0-9a-f]{40})\b")
# How each machine names its registers: arch/*/kernel/{process,dumpstack,traps}*.c.
_MACHINES: Final = (
    (re.compile(r"\bRIP: [0-9a-f]{4}:"), "x86_64"),
    (re.compile(r"\bpstate: [0-9a-f]{8,16}(?: \(|\s*$)"), "aarch64"),
    (re.compile(r"\bKrnl PSW : "), "s390x"),
    (re.compile(r"\bepc : .*\bra : "), "riscv64"),
    (re.compile(r"(?:^|\] *)LE (?:PAGE_SIZE=\w+ )?(?:MMU=\w+ )?(?:PREEMPT )?SMP NR_CPUS=\d+ "), "ppc64le"),
)
_OLD_LINE: Final = re.compile(
    r"\bPid: \d{1,10}, comm: .{1,16} .*? (?P<version>#\d\S*(?: Debian \S+)?)(?: (?P<hardware>\S.*))?$"
)
"""arch/x86/kernel/process_64.c up to 3.8: behind the version are vendor and product of the DMI."""


@dataclass(slots=True, kw_only=True)
class LogFindings:
    """Facts from one log. Unknown is None."""

    banner: str | None = None
    release: str | None = None
    utsname_version: str | None = None
    cause: PanicCause | None = None
    panic: str | None = None
    taint: tuple[str, ...] | None = None
    """Empty when the log says "Not tainted"; None when it says neither."""
    hardware: str | None = None
    uptime_seconds: float | None = None
    arch: str | None = None
    """As the names of the registers show."""
    build_id: str | None = None
    """From the line that names the kernel above a stack."""


def severity(text: bytes) -> int:
    """Whether a record tells of a panic (2), of an oops (1), or of neither (0)."""
    head = text[:2048]
    return 2 if _PANICKED.search(head) else 1 if _OOPSED.search(head) else 0


def is_of_capture_kernel(line: str) -> bool:
    """Whether a line is the command line of a capture kernel: it has elfcorehdr= (admin-guide/kdump/kdump.rst)."""
    return "elfcorehdr=" in line and _COMMAND_LINE.search(line) is not None


class CaptureKernelFilter:
    """Tells the lines of the kernel that panicked from those of a capture kernel, with which a console's log goes on.

    A capture kernel has elfcorehdr= on its command line (Documentation/admin-guide/kdump/kdump.rst). It can panic
    itself, e.g. when memory runs out, and that is not the crash. The next boot's lines count again.
    """

    def __init__(self) -> None:
        self._panicked = self._captures = False

    def takes(self, line: str) -> bool:
        """Whether `line` is of the kernel that panicked; a capture kernel's lines before its command line are, too."""
        if "Linux version " in line and _BANNER.search(line):
            self._captures = False
        elif self._panicked and is_of_capture_kernel(line):
            self._captures = True
        if self._captures:
            return False
        self._panicked = self._panicked or PANIC_LINE.search(line) is not None
        return True


def examine(records: Iterable[Record], budget: Budget | None = None) -> LogFindings:
    """Reads the whole log once and keeps its end. Raises `DeadlineExceeded` for one that is made to take long."""
    found = LogFindings()
    budget = budget or Budget(SECONDS)
    lines = 0
    tail: deque[str] = deque(maxlen=_KEPT)
    last: int | None = None
    dmi: str | None = None
    boots = CaptureKernelFilter()
    for record in records:
        for raw in record.text.split(b"\n"):
            lines += 1
            # Not each record: one of 64 KiB may have as many lines.
            if lines % _ASKED == 0:
                budget.ask()
            line = _printable_line(raw)
            # A line of a program tells the time, and nothing of the kernel.
            if not record.from_program and not boots.takes(line):
                continue
            if record.nanoseconds is not None:
                last = max(last or 0, record.nanoseconds)
            if record.from_program:
                continue
            tail.append(line)
            if found.banner is None and "Linux version " in line:
                budget.ask()
                _take_banner(found, line)
            if dmi is None and "DMI: " in line and (match := _DMI.search(line)):
                dmi = match[1].strip()
    found.uptime_seconds = None if last is None else round(last / 1e9, 6)
    _conclude(found, list(tail), budget)
    found.hardware = found.hardware or dmi
    return found


def says_why(panic: str) -> bool:
    """Whether a panic line gives a reason of its own; "Fatal exception" only points to the oops before it."""
    return _GENERIC.search(panic) is None


def _take_machine(found: LogFindings, lines: list[str], budget: Budget) -> None:
    """What the last stack says of its kernel. Its release counts where the banner is another boot's, or lost.

    Its registers may be those of an oops above, or there are none.
    """
    done = False
    for line in reversed(lines):
        budget.ask()
        if found.arch is None:
            found.arch = next((arch for pattern, arch in _MACHINES if pattern.search(line)), None)
        if done and found.arch is not None:
            return
        if done or "ainted" not in line or (named := _CPU_LINE.search(line)) is None:
            continue
        version = _BUILD_ID.sub("", named["version"]).strip()
        if old := _OLD_LINE.search(line):
            version = old["version"]
            found.hardware = found.hardware or old["hardware"]
        if build_id := _BUILD_ID.search(named["version"]):
            found.build_id = build_id[1]
        if found.release != named["release"]:
            found.banner, found.release, found.utsname_version = None, named["release"], version
        done = True


def _take_banner(found: LogFindings, line: str) -> None:
    match = _BANNER.search(line)
    if match is None:
        return
    found.banner = match[1].rstrip()
    release = _RELEASE.match(found.banner)
    found.release = release[1] if release else None
    version = _VERSION.search(found.banner)
    found.utsname_version = version[1] if version else None


def _conclude(found: LogFindings, lines: list[str], budget: Budget) -> None:
    panic_at = _panic_at(lines, budget)
    oops_at = _last(lines[:panic_at], _OOPS, budget)
    panic = PANIC_LINE.search(lines[panic_at]) if panic_at is not None else None
    oops = _OOPS.search(lines[oops_at]) if oops_at is not None else None
    if oops_at is not None and oops is not None and _NUMBERS.match(oops[0]):
        oops = _reason(lines, oops_at, budget) or oops
    trigger = _last(lines, _TRIGGER, budget)
    found.panic = panic[0].strip() if panic else oops[0].strip() if oops else None
    if trigger is not None:
        # Before 5.10 sysrq crashed the kernel with a null pointer dereference, so the oops does not give the cause.
        found.cause = PanicCause.SYSRQ
        found.panic = found.panic or lines[trigger].strip()
    else:
        candidates = [match[0] for match in (panic, oops) if match]
        if panic and _GENERIC.search(panic[0]):
            candidates.reverse()
        found.cause = next(filter(None, map(_cause, candidates)), PanicCause.OTHER if panic else None)
        if found.cause in {PanicCause.GENERAL_PROTECTION, PanicCause.PAGE_FAULT} and oops_at is not None:
            below = lines[oops_at + 1 : oops_at + 1 + _LINES_TO_SHADOW]
            if any(map(_SHADOW.search, below)):
                found.cause = PanicCause.NULL_POINTER
    for line in reversed(lines):
        budget.ask()
        if tainted := _TAINTED.search(line):
            found.taint = tuple(TAINT.get(letter, letter) for letter in tainted[1] if letter not in "G ")
        elif _NOT_TAINTED.search(line):
            found.taint = ()
        if found.taint is not None:
            break
    for line in reversed(lines):
        budget.ask()
        if hardware := _HARDWARE.search(line):
            found.hardware = hardware[1].strip()
            break
    _take_machine(found, lines, budget)


def _panic_at(lines: list[str], budget: Budget) -> int | None:
    """The line of the panic. The kernel prints one, and then the task that panicked, or it points to the oops before.

    A program on another CPU may write a line that reads like a panic after it, until panic() stops that CPU. A log
    without facilities does not tell who wrote it: one like the kernel's counts, just before a last one that is not.
    """
    last = _last(lines, PANIC_LINE, budget)
    if last is None:
        return None
    near = range(last, max(-1, last - _LINES_OF_PANIC), -1)
    found = [at for at in near if PANIC_LINE.search(lines[at])]
    if len(found) < 2:
        return last
    first_oops = next((at for at in range(last) if _OOPS.search(lines[at])), last)
    for at in found:
        if any(map(_BANNER.search, lines[at:last])):
            break
        task = any(map(_OF_A_CPU.search, lines[at + 1 : at + 1 + _LINES_TO_TASK]))
        if task or (first_oops < at and not says_why(lines[at])):
            return at
    return last


def _reason(lines: list[str], numbered: int, budget: Budget) -> re.Match[str] | None:
    """The line of an oops that has its reason, above the one that numbers it. No CPU is named between them."""
    for line in reversed(lines[max(0, numbered - LINES_OF_HEAD) : numbered]):
        budget.ask()
        if _OF_A_CPU.search(line):
            return None
        found = _OOPS.search(line)
        if found is not None and not _NUMBERS.match(found[0]):
            return found
    return None


def _cause(line: str) -> PanicCause | None:
    # Compiled one by one: mostly one of the first fits, and all of them would take longer than the whole log.
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, line, re.IGNORECASE)), None)


def _last(lines: list[str], pattern: re.Pattern[str], budget: Budget) -> int | None:
    for at in range(len(lines) - 1, -1, -1):
        budget.ask()
        if pattern.search(lines[at]):
            return at
    return None


def _printable_line(raw: bytes) -> str:
    """One line without control characters for a terminal; the longest the kernel prints is 1 KiB."""
    return printable(raw[:2048].decode("utf-8", "replace"))


def printable(text: str) -> str:
    """The text with blanks in place of control characters."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
