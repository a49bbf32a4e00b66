"""Names of functions on a stack: as in the source, and which of them only handle a panic or enter the kernel."""

from __future__ import annotations

import re
from typing import Final

# Functions that only handle the panic: kernel/panic.c, kernel/kexec_core.c, arch/*/kernel/{crash,dumpstack,traps}.c,
# arch/*/mm/fault.c, lib/dump_stack.c; entry stubs of exceptions of old and new kernels.
_MACHINERY: Final = re.compile(
    r"machine_kexec\w*|__crash_kexec|crash_kexec|crash_(?:nmi_callback|save_cpu|setup_regs)|nmi_handle|nmi_panic\w*"
    r"|(?:v?panic|__?panic|nmi_panic_self_stop|panic_other_cpus\w*)|oops_(?:end|enter|exit)|__?die(?:_body|_addr)?|die(?:_addr|_body|_kernel_fault|_nmi)?"
    r"|no_context|__?bad_area\w*|page_fault_oops|kernelmode_fixup_or_oops|(?:__)?do_(?:kernel|user)?_?(?:page_fault|addr_fault)"
    r"|do_user_addr_fault|handle_page_fault|(?:async_)?page_fault|do_(?:trap\w*|error_trap|invalid_op|general_protection)"
    r"|exc_\w+|asm_exc_\w+|asm_sysvec_\w+|do_nmi|default_do_nmi|end_repeat_nmi|(?:do_)?general_protection|invalid_op"
    r"|handle_bug|report_bug|check_panic_on_warn|handle_stack_overflow|__warn\w*|warn_slowpath\w*|dump_stack\w*|show_(?:stack|regs)\w*|__show_regs|show_trace\w*"
    r"|arm64_notify_die|arm64_force_sig_fault|__do_kernel_fault|die_kernel_fault|do_(?:mem_abort|translation_fault|sea)|el1\w*"
    r"|xen_panic_event|notifier_call_chain|\w*notifier_call_chain|notify_die|kgdb_\w+|ret_from_exception|relocate_kernel"
    r"|setup_fault|native_machine_\w+|perf_event_nmi_handler|ghes_notify_nmi"
    # What prints a stack: arch/arm64/kernel/stacktrace.c, arch/arm/kernel/unwind.c.
    r"|dump_backtrace\w*|unwind_backtrace"
)
# The outermost functions: every stack ends in one of these.
_ENTRY: Final = re.compile(
    r"do_syscall_\w+|entry_SYSCALL\w*|system_call_fastpath|sysenter_\w+|ret_from_fork\w*|kthread|__x64_sys_\w+|invoke_syscall\w*"
    r"|el0\w*|(?:common_|secondary_)startup_64\w*|start_secondary|x86_64_start\w+|start_kernel|(?:arch_call_)?rest_init"
    r"|cpu_startup_entry"
    r"|do_idle|x64_sys_call"
    r"|system_call(?:_\w+)?|__do_syscall|__do_sys_\w+|__se_sys_\w+|__ret_from_fork|ret_from_kernel_\w+|kernel_init(?:_freeable)?"
    r"|__(?:ia32|arm64|riscv|s390x?|se)_\w*sys_\w+|ia32_sys_call|(?:__)?do_fast_syscall_32|do_SYSENTER_32|entry_SYSENTER\w*"
    r"|entry_INT80\w*|do_int80\w*|do_trap_ecall_u|handle_exception|cpu_idle|do_el0_svc|sysret_\w+|tracesys\w*|ret_fast_syscall|syscall_call"
)
# kernel/panic.c. Its callees, down to the loop or halt in which a hypervisor finds the CPU, are the same for all bugs.
_PANIC: Final = re.compile(r"v?panic|nmi_panic")
# Entries of interrupts, of old and new kernels: arch/x86/entry/entry_64.S, arch/x86/include/asm/idtentry.h, those of
# paravirtual guests of Xen; arch/arm64/kernel/entry.S; arch/powerpc/kernel/exceptions-64s.S; arch/s390/kernel/entry.S.
_INTERRUPT: Final = re.compile(
    r"asm_sysvec_\w+|(?:asm_)?common_interrupt\w*|ret_from_intr|\w+_interrupt|(?:asm_exc_)?xen_hypervisor_callback"
    r"|el1(?:[th]_64)?_(?:irq|fiq)(?:_handler)?|__irq_svc|(?:hardware_interrupt|decrementer|doorbell_super)_common(?:_virt)?"
    r"|(?:io|ext)_int_handler"
)
_COMPILED: Final = re.compile(r"\.(?:constprop|isra|part|cold|llvm)(?:\.\d+)*|\.\d+$")
_SECTION: Final = re.compile(r"_MODULE_(?:[A-Z_]+_)?(?:START|END)_")
ALIASES: Final = {"init_module": "init", "cleanup_module": "clean"}
"""The second name of every module's init and exit function (include/linux/module.h), and a word of its first one."""
_OFFSET: Final = re.compile(r"\+(?:0x)?[0-9a-f]+$")


def plain_name(function: str) -> str:
    """The name in the source: vfs_write for vfs_write.cold, tcp_ack for .tcp_ack.isra.0, f for f+36 (`bt -s`)."""
    return _COMPILED.sub("", _OFFSET.sub("", function)).strip(".") or function


def is_address(function: str) -> bool:
    """Whether a frame has no name of its own: in a module without debuginfo drgn prints the address of a function, and
    crash the beginning of its section (symbols.c: _MODULE_INIT_START_ext4).
    """
    return function.startswith("0x") or _SECTION.match(function) is not None


def is_machinery(function: str) -> bool:
    """Whether a function of this plain name only handles panics, exceptions or the printing of a stack."""
    return _MACHINERY.fullmatch(function) is not None


def is_interrupt(function: str) -> bool:
    """Whether a function of this plain name enters the kernel for an interrupt, and not for an exception or an NMI.

    What an interrupt stopped has nothing to do with what its handler does.
    """
    return _INTERRUPT.fullmatch(function) is not None


def is_entry(function: str) -> bool:
    """Whether a function of this plain name is where a stack begins: of a system call, a thread or an idle CPU."""
    return _ENTRY.fullmatch(function) is not None


def is_panic(function: str) -> bool:
    """Whether a function of this plain name is panic() itself."""
    return _PANIC.fullmatch(function) is not None
