"""What each class of panic means, in a sentence for somebody who meets it for the first time."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

_WORDS: Final = MappingProxyType(
    {
        "sysrq": "Somebody asked for it: a crash was triggered through SysRq.",
        "hung-task": "A task was blocked for too long, and hung_task_panic is set.",
        "oom": "Memory ran out, and panic_on_oom is set or no process was left to kill.",
        "soft-lockup": "A CPU did not get out of kernel code for too long to let other tasks run.",
        "hard-lockup": "A CPU did not even take interrupts for too long.",
        "rcu-stall": "A CPU did not pass through an RCU quiescent state for too long.",
        "mce": "The processor reported a hardware error (machine check).",
        "nmi": "A non-maskable interrupt arrived: a hardware fault, or a person's wish to see where the machine hung.",
        "serror": "The hardware reported an asynchronous error (SError).",
        "init-killed": "Process 1 ended, which nothing can go on without.",
        "no-root": "There was no root file system, or no init on it.",
        "kasan": "The address sanitizer caught a bad memory access.",
        "kfence": "KFENCE caught a bad memory access.",
        "ubsan": "The sanitizer caught undefined behaviour.",
        "warning": "The kernel warned, and panic_on_warn is set.",
        "stack-overflow": "A kernel stack overflowed or was overwritten.",
        "null-pointer": "Kernel code followed a NULL pointer.",
        "list-corruption": "The links of a kernel list did not fit together: overwritten, or used after free.",
        "bug": "A check in the kernel's own code failed: BUG().",
        "page-fault": "Kernel code touched an address that is not mapped.",
        "general-protection": "Kernel code used an address or a register value that the processor refuses.",
        "double-fault": "An exception struck while another was being handled, usually for want of stack.",
        "divide-error": "Kernel code divided by zero.",
        "invalid-opcode": "The processor met an instruction that it does not know.",
        "filesystem": "A file system or block target found itself damaged and is set to panic then.",
        "ipmi": "The management controller asked for it.",
        "hardware-error": "The hardware reported a fatal error.",
        "oops": "The kernel ran into an error in its own code.",
        "other": "The kernel panicked for a reason that has no class of its own.",
    }
)


def explain(cause: str | None) -> str:
    """The sentence for a class of `sandbox.dump.panic`."""
    return _WORDS.get(cause or "", "Why the kernel died is not known.")
