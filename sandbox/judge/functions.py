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
    # Exceptions by FRED: arch/x86/entry/entry_fred.c and entry_64_fred.S.
    r"|asm_fred_entrypoint_kernel|fred_(?:entry_from_kernel|hwexc|swexc|exc_\w+|bad_type)"
    # What prints a stack: arch/arm64/kernel/stacktrace.c, arch/arm/kernel/unwind.c.
    r"|dump_backtrace\w*|unwind_backtrace"
)
# What a checker reports with, which the compiler or an allocator helps: mm/{kasan,kfence,kmsan}, kernel/kcsan,
# lib/ubsan.c.
_CHECKER: Final = re.compile(
    r"_*(?:print_address_desc|print_report|kasan_|hwasan_|asan_|kcsan_|tsan_|kmsan_|msan_|kfence_|ubsan_|check_region)\w*|end_report"
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
    # FRED; other CPUs and the first one of arm64, riscv, s390, powerpc, loongarch, and guests of Xen.
    r"|asm_fred_entrypoint_user|fred_(?:entry_from_user|other|intx)"
    r"|secondary_start_kernel|__(?:primary|secondary)_switched|smp_callin|smp_start_secondary|start_secondary_prolog"
    r"|start_here_common|smpboot_entry|kernel_entry(?:_end)?|(?:asm_)?cpu_bringup_and_idle"
    r"|stub_(?:v?fork|clone|execve\w*|rt_sigreturn|iopl)|kernel_thread_starter|do_syscall|handle_sys(?:call)?"
    # x86_64 up to 2.6.38; crash prints the second name for the first (x86_64.c: x86_64_print_stack_entry()).
    r"|child_rip|kernel_thread"
)
# Where the stack of a kernel thread begins, that of an idle CPU, and of which system call a stack is.
_THREAD: Final = re.compile(
    r"(?:__)?ret_from_(?:fork|kernel)\w*|kthread|kernel_init\w*|kernel_thread(?:_starter)?|child_rip"
)
_IDLE: Final = re.compile(
    r"cpu_(?:startup_entry|idle)|do_idle|(?:arch_call_)?rest_init|\w*start_(?:kernel|secondary)|\w*startup_64\w*|x86_64_start\w+"
    r"|__(?:primary|secondary)_switched|smp_callin|start_secondary_prolog|start_here_common|smpboot_entry"
    r"|kernel_entry(?:_end)?|(?:asm_)?cpu_bringup_and_idle"
)
_SYSTEM_CALL: Final = re.compile(r"__(?:x64|ia32|arm64|riscv|s390x?|se|do)_\w*?sys_(\w+)")
# Names of one address: the kernel and debuggers pick one each. SyS_write was the alias of sys_write up to 4.16
# (include/linux/syscalls.h); an interrupt returns to ret_from_intr, in common_interrupt, up to 4.14, and has a stack of
# its own by asm_call_on_stack from 5.8 to 5.11 (arch/x86/entry/entry_64.S); those with and without underscores are
# of arch/*/lib.
_SAME_ADDRESS: Final = (
    (re.compile(r"(compat_)?SyS_(\w+)"), r"\1sys_\2"),
    (re.compile(r"__softirqentry_text_start"), "__do_softirq"),
    (re.compile(r"ret_from_intr"), "common_interrupt"),
    (re.compile(r"asm_call_(?:irq_|sysvec_)?on_stack"), "asm_call_on_stack"),
    (re.compile(r"(?:__pi_)?(?:__)?(mem(?:cpy|set|move))"), r"\1"),
)
# include/asm-generic/vmlinux.lds.h: the bounds of a section have the address of the function beside them.
_BOUND: Final = re.compile(r"__[a-z]+_text_(?:start|end)")
# kernel/bpf/core.c: bpf_get_prog_name(), kernel/bpf/trampoline.c, bpf_struct_ops.c. crash has no names of them.
_AT_RUN_TIME: Final = re.compile(r"bpf_prog_[0-9a-f]{16}(?:_\w+)?|bpf_trampoline_\d+(?:_\d+)?|bpf__\w+")
# What a tracer has put in place of a return address. The kernel's unwinder looks up what it was (kernel/trace/fgraph.c:
# ftrace_graph_ret_addr(), kernel/trace/rethook.c: rethook_find_ret_addr()), debuggers do not.
_RETURN_HOOK: Final = re.compile(r"return_to_handler|arch_rethook_trampoline|(?:__)?kretprobe_trampoline")
# Where a task is that does not run: in the switch to another one. Old kernels leave some of them out of traces.
_SWITCH: Final = re.compile(r"__switch_to(?:_asm)?|context_switch|__schedule|schedule|thread_return")
# kernel/panic.c. Its callees, down to the loop or halt in which a hypervisor finds the CPU, are the same for all bugs.
_PANIC: Final = re.compile(r"v?panic|nmi_panic")
# Entries of interrupts, of old and new kernels: arch/x86/entry/entry_64.S, arch/x86/include/asm/idtentry.h, those of
# guests of Xen and Hyper-V; arch/arm64/kernel/entry.S; arch/powerpc/kernel/exceptions-64s.S; arch/s390/kernel/entry.S.
# A driver's handler is none, which may be called nic_interrupt.
_INTERRUPT: Final = re.compile(
    r"asm_sysvec_\w+|fred_extint|(?:asm_)?common_interrupt\w*|ret_from_intr|(?:asm_exc_)?xen_hypervisor_callback"
    r"|(?:apic_timer|reschedule|call_function(?:_single)?|irq_work|error|spurious|thermal|threshold|deferred_error"
    r"|invalidate\d*|reboot|irq_move_cleanup)_interrupt|(?:xen_hvm|hyperv|acrn_hv|hv_stimer0)_callback_vector|x86_platform_ipi"
    # arch/riscv/kernel/traps.c; below them is handle_exception, which system calls enter by, too.
    r"|handle_riscv_irq|do_irq"
    r"|xen_do_hypervisor_callback|kvm_posted_intr_(?:wakeup_|nested_)?(?:ipi|vector)"
    r"|el1(?:[th]_64)?_(?:irq|fiq)(?:_handler)?|__irq_svc|(?:hardware_interrupt|decrementer|doorbell_super)_common(?:_virt)?"
    r"|(?:io|ext)_int_handler"
)
# Entries of exceptions that come while anything runs, the kernel or a program: arch/x86/entry/entry_64.S of old and new
# kernels, arch/arm64/kernel/entry.S. A system call enters by none of them.
_EXCEPTION: Final = re.compile(
    r"asm_exc_\w+|end_repeat_nmi|nmi|machine_check|double_fault|paranoid_\w+|error_entry|(?:asm_exc_)?page_fault"
    r"|el1(?:[th]_64)?_(?:error|sync|dbg|da|ia)|el0(?:t_64)?_error|__pabt_svc|__dabt_svc|__und_svc"
)
_COMPILED: Final = re.compile(
    r"\.(?:constprop|isra|part|cold|llvm|__uniq|lto_priv|localalias|cfi(?:_jt)?)(?:\.\d+)*|\.\d+$"
)
_SECTION: Final = re.compile(r"_MODULE_(?:[A-Z_]+_)?(?:START|END)_")
ALIASES: Final = {"init_module": "init", "cleanup_module": "clean"}
"""The second name of every module's init and exit function (include/linux/module.h), and a word of its first one."""
_LEGACY_RUST: Final = re.compile(r"_ZN(.+)17h[0-9a-f]{16}E")
_V0_RUST: Final = re.compile(r"_R[A-Z]")
# A separator "_" follows where the name begins with a digit or with "_". A disambiguator, as in "s1_", is passed over.
_LENGTH: Final = re.compile(r"(?:s[0-9A-Za-z]*_|B[0-9A-Za-z]*_)*([1-9]\d{0,2})_?")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][\w$.]*")
_OFFSET: Final = re.compile(r"\+(?:0x)?[0-9a-f]+$")


def rust_names(function: str) -> frozenset[str]:
    """Names in a mangled symbol of Rust, which the kernel and crash print; drgn prints the function's alone.

    The legacy form has a path of which the last is the function's; of the v0 form (RFC 2603) all names are given, those
    of types and crates too. Empty for another symbol.
    """
    if found := _LEGACY_RUST.fullmatch(function):
        path = _identifiers(found[1])
        return frozenset(path[-1:])
    return frozenset(_identifiers(function[2:])) if _V0_RUST.match(function) else frozenset()


def _identifiers(mangled: str) -> list[str]:
    names, at = [], 0
    while found := _LENGTH.search(mangled, at):
        begin, length = found.end(), int(found[1])
        name = mangled[begin : begin + length]
        if len(name) == length and _IDENTIFIER.fullmatch(name):
            names.append(name)
            at = begin + length
        else:
            at = found.end()
    return names


def plain_name(function: str) -> str:
    """The name in the source: vfs_write for vfs_write.cold, tcp_ack for .tcp_ack.isra.0, f for f+36 (`bt -s`).

    Of Rust drgn has the name with parameters of its type, which a symbol does not tell: get for kernel::Table::get<u8>.
    """
    if function.endswith(">") and not function.startswith("<"):
        function = function.partition("<")[0]
    function = function.rpartition("::")[2] or function
    return _COMPILED.sub("", _OFFSET.sub("", function)).strip(".") or function


def is_address(function: str) -> bool:
    """Whether a frame has no name of its own: in a module without debuginfo drgn prints the address of a function, and
    crash the beginning of its section (symbols.c: _MODULE_INIT_START_ext4).
    """
    return function.startswith("0x") or _SECTION.match(function) is not None


def is_closure(function: str) -> bool:
    """Whether a function is a closure of Rust, which drgn only numbers: {closure#0}."""
    return function.startswith("{closure")


def is_bound(function: str) -> bool:
    """Whether a name is that of a section's bound, which stands for any function: __sched_text_start."""
    return _BOUND.fullmatch(function) is not None


def is_of_run_time(function: str) -> bool:
    """Whether a function was compiled by the kernel itself: a BPF program."""
    return _AT_RUN_TIME.fullmatch(function) is not None


def is_return_hook(function: str) -> bool:
    """Whether a function of this plain name stands for another one, to which a traced function returns."""
    return _RETURN_HOOK.fullmatch(function) is not None


def is_switch(function: str) -> bool:
    """Whether a function of this plain name switches to another task."""
    return _SWITCH.fullmatch(function) is not None


def one_of_its_names(function: str) -> str:
    """The same name for all names of one address: sys_write for SyS_write."""
    for names, one in _SAME_ADDRESS:
        if found := names.fullmatch(function):
            return found.expand(one)
    return function


def kind_of_entry(function: str) -> str:
    """Of which kind an entry is: of a kernel thread, of an idle CPU, or from a program."""
    if _THREAD.fullmatch(function):
        return "a kernel thread"
    return "an idle CPU" if _IDLE.fullmatch(function) else "a program"


def system_call(function: str) -> str | None:
    """The system call that a function of this name is: write for __x64_sys_write; None if it is none."""
    found = _SYSTEM_CALL.fullmatch(function)
    return found[1] if found else None


def is_machinery(function: str) -> bool:
    """Whether a function of this plain name only handles panics, exceptions or the printing of a stack."""
    return _MACHINERY.fullmatch(function) is not None


def is_checker(function: str) -> bool:
    """Whether a function of this plain name is of KASAN, KFENCE, KCSAN, KMSAN or UBSAN, and only checks or reports."""
    return _CHECKER.fullmatch(function) is not None


def is_interrupt(function: str) -> bool:
    """Whether a function of this plain name enters the kernel for an interrupt, and not for an exception or an NMI.

    What an interrupt stopped has nothing to do with what its handler does.
    """
    return _INTERRUPT.fullmatch(function) is not None


def is_exception(function: str) -> bool:
    """Whether a plain name is an entry of an exception, a machine check or an NMI: what follows was interrupted."""
    return _EXCEPTION.fullmatch(function) is not None


def is_entry(function: str) -> bool:
    """Whether a function of this plain name is where a stack begins: of a system call, a thread or an idle CPU."""
    return _ENTRY.fullmatch(function) is not None


def is_panic(function: str) -> bool:
    """Whether a function of this plain name is panic() itself."""
    return _PANIC.fullmatch(function) is not None
