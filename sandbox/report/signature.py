"""The signature of a crash: it is the same when the same bug hits another build of the kernel.

It consists of the class of the cause and the significant frames: those between the functions that handle the panic and
the system call or thread. It leaves out addresses, offsets and compilers' suffixes for parts of functions. If crash has
no backtrace, the frames are from the call trace in the log.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.report.backtrace import Backtrace

FRAMES: Final = 5
"""Number of frames that count. With fewer, different bugs look the same; with more, one bug differs by its callers."""

# Functions that only handle the panic: kernel/panic.c, kernel/kexec_core.c, arch/*/kernel/{crash,dumpstack,traps}.c,
# arch/*/mm/fault.c, lib/dump_stack.c; entry stubs of exceptions of old and new kernels.
_MACHINERY: Final = re.compile(
    r"machine_kexec\w*|__crash_kexec|crash_kexec|crash_(?:nmi_callback|save_cpu|setup_regs)|nmi_handle|nmi_panic\w*"
    r"|(?:v?panic|__?panic|nmi_panic_self_stop|panic_other_cpus\w*)|oops_(?:end|enter|exit)|__?die(?:_body|_addr)?|die\w*"
    r"|no_context|__?bad_area\w*|page_fault_oops|kernelmode_fixup_or_oops|(?:__)?do_(?:kernel|user)?_?(?:page_fault|addr_fault)"
    r"|do_user_addr_fault|handle_page_fault|(?:async_)?page_fault|do_(?:trap\w*|error_trap|invalid_op|general_protection)"
    r"|exc_\w+|asm_exc_\w+|asm_sysvec_\w+|do_nmi|default_do_nmi|end_repeat_nmi|(?:do_)?general_protection|invalid_op"
    r"|handle_bug|report_bug|__warn\w*|warn_slowpath\w*|dump_stack\w*|show_(?:stack|regs)\w*|__show_regs|show_trace\w*"
    r"|arm64_notify_die|arm64_force_sig_fault|__do_kernel_fault|die_kernel_fault|do_(?:mem|translation|sea)\w*|el1\w*"
    r"|xen_panic_event|notifier_call_chain|\w*notifier_call_chain|notify_die|kgdb_\w+|ret_from_exception|relocate_kernel"
    r"|setup_fault|native_machine_\w+|perf_event_nmi_handler|ghes_notify_nmi"
)
# The outermost functions: every stack ends in one of these.
_ENTRY: Final = re.compile(
    r"do_syscall_\w+|entry_SYSCALL\w*|system_call_fastpath|sysenter_\w+|ret_from_fork\w*|kthread|__x64_sys_\w+|invoke_syscall\w*"
    r"|el0\w*|secondary_startup_64\w*|start_secondary|x86_64_start\w+|start_kernel|rest_init|cpu_startup_entry|do_idle|x64_sys_call"
    r"|system_call\w*|__do_syscall|__do_sys_\w+|__se_sys_\w+|__ret_from_fork|ret_from_kernel_\w+|kernel_init\w*"
)
# kernel/panic.c. Its callees, down to the loop or halt in which a hypervisor finds the CPU, are the same for all bugs.
_PANIC: Final = re.compile(r"v?panic")
_COMPILED: Final = re.compile(r"\.(?:constprop|isra|part|cold|llvm)(?:\.\d+)*|\.\d+$")
_LOGGED: Final = re.compile(
    r"(?:^|\s)(?:RIP: \d+:)?(?P<function>[A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[[\w-]+\])?"
)
_LOG_TRACE: Final = re.compile(r"Call [Tt]race:|\bRIP: |\bpc : ")
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Equal for two crashes that look like the same bug."""

    id: str
    """Twelve hexadecimal digits."""
    cause: str
    frames: tuple[str, ...]
    """Innermost first, at most `FRAMES`."""
    basis: str
    """Source of the frames: backtrace or log; panic if there are no frames and the panic line is used instead."""

    @property
    def title(self) -> str:
        """For people, e.g. "null-pointer in foo < bar"."""
        return f"{self.cause} in {' < '.join(self.frames[:3])}" if self.frames else self.cause


def of(
    *, cause: str | None, backtrace: Backtrace | None = None, log: Sequence[str] = (), panic: str | None = None
) -> Signature:
    """Make the signature of a crash of class `cause` from the best source available."""
    cause = cause or "unknown"
    basis = "backtrace"
    frames = significant(_functions(backtrace)) if backtrace else ()
    if not frames:
        basis, frames = "log", significant(_traced(log))
    words = frames
    if not frames:
        basis, words = "panic", (_NUMBER.sub("N", panic or ""),)
    digest = hashlib.sha256("\n".join((cause, *words)).encode()).hexdigest()
    return Signature(id=digest[:12], cause=cause, frames=frames, basis=basis)


def significant(functions: Iterable[str]) -> tuple[str, ...]:
    """Select the frames that distinguish bugs, in the same order, with their names in the source."""
    found: list[str] = []
    for function in map(plain_name, functions):
        if _ENTRY.fullmatch(function):
            break
        if not found and _MACHINERY.fullmatch(function):
            continue
        if not found or found[-1] != function:
            found.append(function)
        if len(found) == FRAMES:
            break
    return tuple(found)


def plain_name(function: str) -> str:
    """The name in the source: vfs_write for vfs_write.cold, tcp_ack for .tcp_ack.isra.0."""
    return _COMPILED.sub("", function).strip(".") or function


def _functions(backtrace: Backtrace) -> Iterator[str]:
    """Functions from the kernel's exception on, because the frames above only handle it; else those below panic()."""
    frames = backtrace.frames
    first = next(
        (at for at, frame in enumerate(frames) if frame.exception and not _is_machinery(frame.exception)), None
    )
    if first is None:
        names = [frame.function for frame in frames]
        yield from names[
            max((at + 1 for at, name in enumerate(names) if _PANIC.fullmatch(plain_name(name))), default=0) :
        ]
        return
    yield frames[first].exception or ""
    yield from (frame.function for frame in frames[first + 1 :])


def _is_machinery(function: str) -> bool:
    return _MACHINERY.fullmatch(plain_name(function)) is not None


def _traced(log: Sequence[str]) -> Iterator[str]:
    """Functions of the last call trace that the kernel printed, without unreliable ones ("? name")."""
    start = max((at for at, line in enumerate(log) if _LOG_TRACE.search(line)), default=None)
    if start is None:
        return
    # The RIP line, if there is one, is at most some 30 lines above its call trace.
    for line in log[max(0, start - 30) : start]:
        if "RIP: 0010:" in line and (found := _LOGGED.search(line)):
            yield found["function"]
            break
    for line in log[start:]:
        if "? " not in line and (found := _LOGGED.search(line)) and "RIP: 0033" not in line:
            yield found["function"]
        elif "---[ end" in line:
            return
