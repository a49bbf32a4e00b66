"""Stacks that are true with other names, and false ones whose names look right."""

from __future__ import annotations

import pytest

from sandbox.judge import stacks, system
from sandbox.judge.backtrace import parse
from sandbox.judge.verdict import Verdict
from sandbox.judge.which_trace import dump_trace

SYSCALL = "ksys_write __x64_sys_write do_syscall_64 entry_SYSCALL_64_after_hwframe"
OLD_SYSCALL = "vfs_write sys_write system_call_fastpath"
THREAD = "worker_thread kthread ret_from_fork"
INTERRUPT = "irq_exit_rcu sysvec_apic_timer_interrupt asm_sysvec_apic_timer_interrupt"


def _judged(log: str, stack: str) -> Verdict:
    """Judge the stack of functions below panic(), a word each; `!f` was stopped, `m/f` is in module m."""
    lines = [
        "Kernel panic - not syncing: x",
        "CPU: 0 PID: 9 Comm: sh Not tainted 6.1.0 #1",
        "Call Trace:",
        " panic+0x1/0x2",
    ]
    for word in log.split():
        module, _, name = word.rpartition("/")
        traced = name if name.startswith("0x") else f"{name.lstrip('!')}+0x1/0x20{f' [{module}]' if module else ''}"
        lines.append(
            "RIP: 0033:0x4545" if name == "user" else f"RIP: 0010:{traced}" if name[0] == "!" else f" {traced}"
        )
    text = 'PID: 9  TASK: ffff9b3d01f1a8c0  CPU: 0  COMMAND: "sh"\n'
    for word in f"panic {stack}".split():
        module, _, name = word.rpartition("/")
        frame = f" #0 [ffffb4e0402ff938] {name} at ff9c{f' [{module}]' if module else ''}\n"
        text += f"    [exception RIP: {name[1:]}+9]\n" if name[0] == "!" else frame
    trace = dump_trace([*lines, " </TASK>"])
    assert trace is not None
    verdict = stacks.judge_task(parse(text)[0], trace, by="crash")
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(
    ("log", "stack"),
    [
        # Several names of one address.
        ("f vfs_write SyS_write system_call_fastpath", f"f {OLD_SYSCALL}"),
        ("f compat_SyS_ioctl ia32_sysret", "f compat_sys_ioctl ia32_sysret"),
        (f"f __softirqentry_text_start {INTERRUPT} user", f"f __do_softirq {INTERRUPT}"),
        (f"f __sched_text_start g {SYSCALL}", f"f __schedule g {SYSCALL}"),
        (f"f do_IRQ common_interrupt g {SYSCALL}", f"f do_IRQ ret_from_intr g {SYSCALL}"),
        (f"f asm_call_irq_on_stack g {SYSCALL}", f"f asm_call_on_stack g {SYSCALL}"),
        (f"f !memcpy g {SYSCALL}", f"f asm_exc_page_fault !__memcpy g {SYSCALL}"),
        # What clang adds to names.
        (f"f g.__uniq.1234.llvm.55 {SYSCALL}", f"f g {SYSCALL}"),
        (f"f g.cfi_jt {SYSCALL}", f"f g {SYSCALL}"),
        # Compiled at run time: neither has a name, the debugger passes it over, or only the debugger has one.
        (f"f 0xffffffffc0345678 g h {SYSCALL}", f"f 0xffffffffc0345678 g h {SYSCALL}"),
        (f"f 0xffffffffc0345678 g h {SYSCALL}", f"f g h {SYSCALL}"),
        (f"f 0xffffffffc0345678 g h {SYSCALL}", f"f trampoline g h {SYSCALL}"),
        (f"f bpf_prog_6deef7357e7b4530_x g h {SYSCALL}", f"f g h {SYSCALL}"),
        (f"f bpf_prog_6deef7357e7b4530_x g h {SYSCALL}", f"f 0xffffffffc0345678 g h {SYSCALL}"),
        (f"f bpf_trampoline_6442 g h {SYSCALL}", f"f bpf_trampoline_6442 g h {SYSCALL}"),
        (f"f bpf__tcp_congestion_ops_init g h {SYSCALL}", f"f g h {SYSCALL}"),
        # The tracers that the kernel's own unwinder looks behind.
        (f"f g h {SYSCALL}", f"f return_to_handler h {SYSCALL}"),
        (f"f g h {SYSCALL}", f"f arch_rethook_trampoline h {SYSCALL}"),
        # One function of arm64 with three names.
        (f"memcpy g {SYSCALL}", f"__pi_memcpy g {SYSCALL}"),
        (f"f.lto_priv.0 g {SYSCALL}", f"f g {SYSCALL}"),
        # crash has another name for where threads of 2.6 begin.
        ("f worker_thread kthread child_rip", "f worker_thread kthread kernel_thread"),
        # A stub more or less.
        (f"f {THREAD} ret_from_fork_asm", f"f {THREAD}"),
        (f"m/f {SYSCALL}", f"f {SYSCALL}"),
    ],
)
def test_other_names_of_the_same_functions_are_forgiven(log: str, stack: str) -> None:
    verdict = _judged(log, stack)
    assert verdict.agrees, verdict


@pytest.mark.parametrize(
    ("log", "stack", "words"),
    [
        (
            f"f {SYSCALL}",
            f"f {SYSCALL}".replace("sys_write d", "sys_poll d"),
            "has the system call poll below ksys_write",
        ),
        (f"f {THREAD}", f"f worker_thread {SYSCALL[26:]}", "has do_syscall_64 of a program below worker_thread"),
        (f"f {SYSCALL}", f"f ksys_write {THREAD[14:]}", "has kthread of a kernel thread below ksys_write"),
        (f"f g {SYSCALL}", f"f exc_page_fault g {SYSCALL}", "has exc_page_fault below f, there it is g"),
        # The registers of the program end a trace without an entry.
        (f"f {INTERRUPT} user", f"f {INTERRUPT} stale", "has stale below asm_sysvec_apic_timer_interrupt"),
        ("f g kernel_thread_starter", "f g kernel_thread_starter stale", "has stale below"),
        ("f g do_syscall handle_syscall", "f g do_syscall handle_syscall stale", "has stale below"),
        (f"m/f g {SYSCALL}", f"n/f g {SYSCALL}", "has f of n below panic(), there it is that of m"),
        # One address without a name is not two.
        (f"f 0xffffffffc0345678 g {SYSCALL}", f"f stale stale g {SYSCALL}", "has stale below f"),
        (f"f 0xffffffffc0345678 g {SYSCALL}", f"f stale {SYSCALL}", "has stale below f"),
        # One address of a tracer is one function.
        (f"f g h {SYSCALL}", f"f return_to_handler stale {SYSCALL}", "has stale below g, there it is h"),
        ("f kthread child_rip", f"f {SYSCALL[26:]}", "has do_syscall_64 of a program below f"),
    ],
)
def test_false_stacks_whose_names_look_right_are_found(log: str, stack: str, words: str) -> None:
    verdict = _judged(log, stack)
    assert not verdict.agrees, verdict
    assert words in verdict.words


def test_the_clock_goes_on_where_a_machine_waits_in_panic_for_its_dump() -> None:
    log = ["[  100.000000] Kernel panic - not syncing: x"]
    waits = [*log, "[  100.100000] ---[ end Kernel panic - not syncing: x ]---"]
    for uptime, lines, agrees in (
        ("08:00:00", log, [False]),
        ("08:00:00", waits, []),
        ("00:00:10", waits, [False]),
    ):
        found = system.judge({"UPTIME": uptime}, crash_time=None, log=lines, counted=None, by="crash")
        assert [one.agrees for one in found] == agrees


LEGACY = "_ZN6kernel4sync4lock14Table$LT$T$GT$3get17h0123456789abcdefE"
V0 = "_RNvMs1_NtCs5_6kernel4sync5Table3get"
RUST = " _RNvNtCs7_4core9panicking9panic_fmt+0x1/0x2\n {}+0x1/0x2\n vfs_write+0x1/0x2\n do_syscall_64+0x1/0x2\n"


@pytest.mark.parametrize("symbol", [LEGACY, V0, f"{V0}.llvm.123", "_RINvNtCs5_6kernel4sync3gethtE"])
@pytest.mark.parametrize("name", ["get", "get<u8, u16>", "kernel::sync::get", "{closure#0}"])
def test_functions_of_rust_are_mangled_in_the_log(symbol: str, name: str) -> None:
    log = "Kernel panic - not syncing: x\nCPU: 0 PID: 9 Comm: a Not tainted 6.12\nCall Trace:\n panic+0x1/0x2\n"
    trace = dump_trace((log + RUST.format(symbol)).splitlines())
    assert trace is not None
    for found, agrees in ((name, True), (symbol, True), ("put<u8, u16>", False), ("_RNvNtCs5_6kernel4sync3put", False)):
        words = ("panic", "panic_fmt", found, "vfs_write", "do_syscall_64")
        lines = "".join(f" #{at} [ffffb4e0402ff938] {word} at ffffffff81000000\n" for at, word in enumerate(words))
        (stack,) = parse(f'PID: 9  TASK: ffff9b3d01f1a8c0  CPU: 0  COMMAND: "a"\n{lines}')
        verdict = stacks.judge(stack, trace, by="drgn")
        assert verdict is not None
        assert verdict.agrees is agrees, verdict


IDLE = "do_idle cpu_startup_entry"


@pytest.mark.parametrize(
    "outer",
    [
        f"{IDLE} secondary_start_kernel __secondary_switched",  # arm64
        f"{IDLE} rest_init start_kernel __primary_switched",
        f"{IDLE} smp_callin",  # riscv
        f"{IDLE} smp_start_secondary",  # s390
        f"{IDLE} start_secondary start_secondary_prolog",  # powerpc
        f"{IDLE} cpu_bringup_and_idle asm_cpu_bringup_and_idle",  # Xen
        "ksys_write do_syscall_64 fred_other fred_entry_from_user asm_fred_entrypoint_user",  # FRED
    ],
)
def test_the_entries_of_every_architecture_end_a_stack(outer: str) -> None:
    names = f"broken driver_run {outer}"
    assert _judged(names, names).agrees
    # A debugger may end at an earlier one of them.
    assert _judged(names, names.rpartition(" ")[0]).agrees
    # As false as elsewhere.
    assert not _judged(names, names.replace("driver_run", "other_run")).agrees
    assert not _judged(names, "broken driver_run worker_thread kthread ret_from_fork").agrees


def test_what_an_exception_by_fred_stopped_is_compared() -> None:
    outer = "ksys_write do_syscall_64 fred_other asm_fred_entrypoint_user"
    log = f"exc_page_fault fred_hwexc fred_entry_from_kernel asm_fred_entrypoint_kernel broken run {outer}"
    assert _judged(log, f"oops_end exc_page_fault asm_fred_entrypoint_kernel broken run {outer}").agrees
    assert not _judged(log, f"oops_end exc_page_fault asm_fred_entrypoint_kernel stale run {outer}").agrees
