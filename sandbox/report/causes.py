"""The meaning of each class of panic, in one sentence for a reader who sees it for the first time."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from sandbox.model import PanicCause

_WORDS: Final = MappingProxyType(
    {
        PanicCause.SYSRQ: "A crash was triggered on purpose, through SysRq.",
        PanicCause.HUNG_TASK: "A task was blocked for too long, and hung_task_panic is set.",
        PanicCause.OOM: "Memory ran out, and panic_on_oom is set or no process was left to kill.",
        PanicCause.SOFT_LOCKUP: "A CPU stayed in kernel code for too long, and other tasks could not run.",
        PanicCause.HARD_LOCKUP: "A CPU did not even take interrupts for too long.",
        PanicCause.RCU_STALL: "A CPU did not pass through an RCU quiescent state for too long.",
        PanicCause.MCE: "The processor reported a hardware error (machine check).",
        PanicCause.NMI: "A non-maskable interrupt arrived: "
        "a hardware fault, or a request to see where the machine hung.",
        PanicCause.SERROR: "The hardware reported an asynchronous error (SError).",
        PanicCause.INIT_KILLED: "Process 1 ended, and the kernel cannot continue without it.",
        PanicCause.NO_ROOT: "There was no root file system, or no init on it.",
        PanicCause.KASAN: "The address sanitizer caught a bad memory access.",
        PanicCause.KFENCE: "KFENCE caught a bad memory access.",
        PanicCause.KCSAN: "KCSAN caught two accesses of one variable at the same time, of which one writes it.",
        PanicCause.KMSAN: "KMSAN caught a use of memory that was never written.",
        PanicCause.UBSAN: "The sanitizer caught undefined behaviour.",
        PanicCause.CFI: "A pointer to a function pointed to one of another type, or to none (control flow integrity).",
        PanicCause.ATOMIC: "A task was to sleep where it must not, and panic_on_warn is set.",
        PanicCause.WORKQUEUE: "A pool of workers began no work for too long, and the kernel is set to panic then.",
        PanicCause.WARNING: "The kernel warned, and panic_on_warn is set.",
        PanicCause.STACK_OVERFLOW: "A kernel stack overflowed or was overwritten.",
        PanicCause.NULL_POINTER: "Kernel code followed a NULL pointer.",
        PanicCause.LIST_CORRUPTION: "The links of a kernel list did not match: overwritten, or used after free.",
        PanicCause.BUG: "A check in the kernel's own code failed: BUG().",
        PanicCause.PAGE_FAULT: "Kernel code touched an address that is not mapped.",
        PanicCause.GENERAL_PROTECTION: "Kernel code used an address or a register value that the processor refuses.",
        PanicCause.DOUBLE_FAULT: "An exception happened while another was being handled, usually for lack of stack.",
        PanicCause.DIVIDE_ERROR: "Kernel code divided by zero.",
        PanicCause.INVALID_OPCODE: "The processor met an instruction that it does not know.",
        PanicCause.FILESYSTEM: "A file system or block target found itself damaged and is set to panic then.",
        PanicCause.IPMI: "The management controller asked for it.",
        PanicCause.HARDWARE_ERROR: "The hardware reported a fatal error.",
        PanicCause.OOPS: "The kernel ran into an error in its own code.",
        PanicCause.OTHER: "The kernel panicked for a reason that has no class of its own.",
    }
)


def explain(cause: PanicCause | None) -> str:
    """The sentence for a class of `sandbox.dump.panic`."""
    return "Why the kernel died is not known." if cause is None else _WORDS[cause]
