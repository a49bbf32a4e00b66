"""Logs that could lead the judge astray: traces of other CPUs, of other times, cut ones, and panics without a trace.

The forms are those of reports of such panics; functions and addresses are made up.
"""

from __future__ import annotations

import pytest

from sandbox.judge import stacks
from sandbox.judge.backtrace import parse
from sandbox.judge.log import remark
from sandbox.judge.trace_lines import TraceKind
from sandbox.judge.verdict import Verdict
from sandbox.judge.which_trace import dump_trace, panic_trace, still_blocked


def _frames(*names: str) -> str:
    return "".join(f" {name}+0x10/0x20\n" for name in names)


def _bt(*names: str, pid: int = 96, cpu: int = 0) -> str:
    head = f'PID: {pid}  TASK: ffff9b3d01f1a8c0  CPU: {cpu}  COMMAND: "x"\n'
    return head + "".join(
        f"    [exception RIP: {name[1:]}+9]\n"
        if name.startswith("!")
        else f" #{at} [ffffb4e0402ff938] {name} at ff9c\n"
        for at, name in enumerate(names)
    )


def _judged(log: str, stack: str) -> Verdict | None:
    trace = dump_trace(log.splitlines())
    assert trace is not None
    (found,) = parse(stack)
    return stacks.judge_task(found, trace, by="crash")


def _agrees(log: str, stack: str) -> None:
    verdict = _judged(log, stack)
    assert verdict is not None
    assert verdict.agrees, verdict


def _disagrees(log: str, stack: str) -> None:
    verdict = _judged(log, stack)
    assert verdict is not None
    assert not verdict.agrees


SYSCALL = ("vfs_write", "ksys_write", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")
OOPS = (
    "[  100.0] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
    "[  100.0] Oops: Oops: 0002 [#1] SMP\n"
    "[  100.0] CPU: 0 UID: 0 PID: 96 Comm: sh Not tainted 6.12.1 #1\n"
    "[  100.0] RIP: 0010:broken+0x9/0x1000 [driver]\n"
    "[  100.0] Call Trace:\n" + _frames(*SYSCALL) + "[  100.0] ---[ end trace 0000000000000000 ]---\n"
)
OOPS_STACK = _bt("machine_kexec", "oops_end", "asm_exc_page_fault", "!broken", *SYSCALL)
IDLE = _frames("default_idle", "do_idle", "cpu_startup_entry", "start_secondary")
OTHER_CPU = {
    "nmi": "Sending NMI from CPU 0 to CPUs 1:\nNMI backtrace for cpu 1\n"
    "CPU: 1 PID: 0 Comm: swapper/1 Not tainted 6.12.1 #1\nRIP: 0010:pv_native_safe_halt+0xb/0x10\nCall Trace:\n" + IDLE,
    "arm stops": "CPU1: stopping\nCPU: 1 PID: 0 Comm: swapper/1 Tainted: G D 4.4.0 #5\nCall trace:\n" + IDLE,
    "sysrq-l": "sysrq: Show backtrace of all active CPUs\nCPU1:\nCall Trace:\n" + IDLE,
    "sysrq-t": "task:systemd         state:S stack:0     pid:1     ppid:0      flags:0x00000002\nCall Trace:\n"
    + _frames("__schedule", "schedule", "ep_poll", "do_syscall_64"),
    "sysrq-t of 4.19": "kthreadd        S    0     2      0 0x80000000\nCall Trace:\n"
    + _frames("schedule", "kthreadd", "ret_from_fork"),
    "sysrq-t of 3.10": "rcu_sched       R  running task        0    10      2 0x00000000\nCall Trace:\n"
    + _frames("schedule", "kthread"),
    "hung tasks": "INFO: task fsfreeze:95 blocked for more than 120 seconds.\n"
    "task:fsfreeze state:D stack:0 pid:95 ppid:1 flags:0x00000002\nCall Trace:\n" + _frames("__schedule", "kthread"),
    "a warning": "WARNING: CPU: 1 PID: 7 at mm/x.c:1 y+0x1/0x2\nCPU: 1 PID: 7 Comm: y Not tainted 6.12.1 #1\n"
    "RIP: 0010:y+0x1/0x2\nCall Trace:\n" + _frames("kthread"),
}
PANIC = "[  200.0] Kernel panic - not syncing: sysrq triggered crash\n"
OWN = (
    PANIC
    + "[  200.0] CPU: 0 PID: 96 Comm: sh Not tainted 6.12.1 #1\n[  200.0] Call Trace:\n"
    + _frames("dump_stack_lvl", "panic", "sysrq_handle_crash", *SYSCALL)
    + " </TASK>\n"
)
OWN_STACK = _bt("machine_kexec", "__crash_kexec", "panic", "sysrq_handle_crash", *SYSCALL)


@pytest.mark.parametrize("other", OTHER_CPU.values(), ids=OTHER_CPU.keys())
def test_traces_of_others_before_and_after_the_panic_are_not_the_panics(other: str) -> None:
    for log in (other + OWN, OWN + other, other + OWN + other):
        verdict = _judged(log, OWN_STACK)
        assert verdict is not None
        assert verdict.agrees, verdict
    fatal = OOPS + "[  100.1] Kernel panic - not syncing: Fatal exception\n"
    for log in (fatal + other, other + fatal, other + fatal + other):
        verdict = _judged(log, OOPS_STACK)
        assert verdict is not None
        assert verdict.agrees, verdict


@pytest.mark.parametrize("other", OTHER_CPU.values(), ids=OTHER_CPU.keys())
def test_an_oops_that_the_machine_survived_is_not_the_panics(other: str) -> None:
    """After it panic() prints no stack: TAINT_DIE."""
    log = OOPS + PANIC + other
    assert dump_trace(log.splitlines()) is None
    assert panic_trace(log.splitlines()) is None


@pytest.mark.parametrize(
    "why",
    [
        "Fatal exception",
        "Fatal exception in interrupt",
        "Oops: Fatal exception",
        "Fatal exception: panic_on_oops",
        "Attempted to kill init! exitcode=0x00000009",
        "Attempted to kill the idle task!",
        "Aiee, killing interrupt handler!",
    ],
)
def test_a_panic_that_an_oops_led_to_has_its_trace(why: str) -> None:
    pid = 1 if "kill init" in why else 96
    oops = OOPS.replace("PID: 96 ", f"PID: {pid} ")
    trace = dump_trace(f"{oops}[  100.1] Kernel panic - not syncing: {why}\n".splitlines())
    assert trace is not None
    assert (trace.kind, trace.pid) == (TraceKind.OOPS, pid)


def test_without_a_panic_the_log_has_to_end_with_the_oops() -> None:
    # With a capture kernel loaded, oops_end() starts it before "end trace" is printed.
    ended = OOPS.removesuffix("[  100.0] ---[ end trace 0000000000000000 ]---\n")
    ended += "[  100.0] Modules linked in: driver(+)\n[  100.0] CR2: 0000000000000000\n"
    verdict = _judged(ended, OOPS_STACK)
    assert verdict is not None
    assert verdict.agrees
    for more in (
        "[ 4000.0] usb 1-1: new device\n",
        "[  101.0] a line\n" * 100,
        OTHER_CPU["a warning"],
    ):
        log = (OOPS + more).splitlines()
        assert dump_trace(log) is None
        # A log alone is about it nevertheless.
        assert panic_trace(log) is not None
    # A lockup does not start one.
    locked = "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:7]\n"
    locked += f"CPU: 1 PID: 7 Comm: x Not tainted 6.1.0 #1\nCall Trace:\n{IDLE}"
    assert dump_trace(locked.splitlines()) is None
    assert panic_trace(locked.splitlines()) is not None


def test_a_trace_that_is_cut_is_compared_as_far_as_it_goes() -> None:
    for lines in range(5, len(OWN.splitlines())):
        cut = OWN.splitlines()[:lines]
        trace = dump_trace(cut)
        assert trace is not None
        found = [stacks.judge_task(parse(text)[0], trace, by="crash") for text in (OWN_STACK, _false(OWN_STACK))]
        if len(trace.reliable) <= 3:
            # dump_stack_lvl(), panic(), and at most one function below it.
            assert found[0] is None
            assert found[1] is None or not found[1].agrees
            assert stacks.why_not(parse(OWN_STACK), trace, by="crash") is not None
            continue
        true, false = found
        assert true is not None
        assert true.agrees
        whole = "entry_SYSCALL_64_after_hwframe" in cut[-1] or "do_syscall_64" in cut[-1] or "TASK" in cut[-1]
        assert ("it ends at" in true.words) is not whole
        assert true.words.startswith(f"{len(trace.reliable) - 2} frames")
        # The false one is found as soon as the log has the function.
        assert false is not None
        assert false.agrees is (len(trace.reliable) < 4)


def _false(stack: str) -> str:
    return stack.replace("vfs_write", "security_file_permission")


def test_where_the_kernels_unwinder_gave_up_more_frames_of_a_debugger_are_no_fault() -> None:
    gave_up = OWN.replace(" ksys_write", " ? ksys_write").replace(" do_sys", " ? do_sys").replace(" entry", " ? entry")
    verdict = _judged(gave_up, OWN_STACK)
    assert verdict is not None
    assert verdict.line == "AGREES WITH: the log's call trace (2 frames; it ends at vfs_write)"
    _disagrees(gave_up, _false(OWN_STACK))


def test_names_that_are_not_known_agree_with_nothing() -> None:
    unnamed = _bt("panic", *("0xffffffffc0a60009" for _ in SYSCALL), "0xffffffffc0a60010")
    assert _judged(OWN, unnamed) is None


def test_lines_of_another_cpu_within_a_trace_are_passed_over() -> None:
    lines = OWN.replace("[  200.0]", "[  200.000000] [   T96]").splitlines()
    mixed = []
    for line in lines:
        mixed.append(line if line.startswith("[") else f"[  200.000000] [   T96]{line}")
        if "Call Trace" in line or "vfs_write" in line:
            mixed += [f"[  200.000000] [    C1] {text}" for text in ("watchdog: CPU1", " other+0x1/0x2", " e+0x1/0x2")]
            mixed += ["[  200.000000] [    C1] a line"] * 5
    verdict = _judged("\n".join(mixed), OWN_STACK)
    assert verdict is not None
    assert verdict.line == "AGREES WITH: the log's call trace (5 frames)"


def test_an_oops_while_an_oops_is_handled() -> None:
    second = (
        OOPS.replace("[#1]", "[#2]")
        .replace("broken+0x9/0x1000 [driver]", "show_fault+0x9/0x100")
        .replace(
            "Call Trace:\n",
            "Call Trace:\n <TASK>\n"
            + _frames("__die", "page_fault_oops", "exc_page_fault", "asm_exc_page_fault")
            + "RIP: 0010:broken+0x9/0x1000 [driver]\nCode: 00\nRSP: 0018:ffffb4e0402ffbd8 EFLAGS: 00000246\n",
        )
    )
    log = OOPS[: OOPS.index("[  100.0] ---[ end")] + second + "[  100.1] Kernel panic - not syncing: Fatal exception\n"
    stack = _bt(
        *("machine_kexec", "oops_end", "page_fault_oops", "asm_exc_page_fault", "!show_fault"),
        *("__die", "page_fault_oops", "exc_page_fault", "asm_exc_page_fault", "!broken", *SYSCALL),
    )
    _agrees(log, stack)
    _disagrees(log, stack.replace("show_fault", "other"))


def test_panic_on_warn() -> None:
    log = (
        "------------[ cut here ]------------\nWARNING: CPU: 0 PID: 96 at fs/x.c:334 odd+0x21/0x2e\n"
        "CPU: 0 UID: 0 PID: 96 Comm: sh Not tainted 6.16.1 #1\nRIP: 0010:odd+0x21/0x2e\nCall Trace:\n"
        + _frames(*SYSCALL)
        + "Kernel panic - not syncing: kernel: panic_on_warn set ...\n"
        "CPU: 0 UID: 0 PID: 96 Comm: sh Not tainted 6.16.1 #1\nCall Trace:\n <TASK>\n"
        + _frames("dump_stack_lvl", "panic", "check_panic_on_warn", "__warn.cold", "report_bug", "handle_bug")
        + _frames("exc_invalid_op", "asm_exc_invalid_op")
        + "RIP: 0010:odd+0x21/0x2e\nCode: 00\nRSP: 0018:ffffb4e0402ffbd8 EFLAGS: 00010246\n"
        + _frames(*SYSCALL)
    )
    stack = _bt("panic", "check_panic_on_warn", "__warn", "report_bug", "asm_exc_invalid_op", "!odd", *SYSCALL)
    verdict = _judged(log, stack)
    assert verdict is not None
    assert verdict.agrees, verdict
    assert verdict.witness[0] == "odd"


# arm64, 6.19: what panic() called last is named after the functions that follow them in memory.
SERROR = """Kernel panic - not syncing: Asynchronous SError Interrupt
CPU: 6 UID: 1000 PID: 96 Comm: weston Tainted: G   M    W           6.19.0-rc8 #1 PREEMPT
Tainted: [M]=MACHINE_CHECK, [W]=WARN
Call trace:
 show_stack+0x18/0x30 (C)
 dump_stack+0x18/0x24
 vpanic+0xf8/0x2dc
 abort+0x0/0x4
 add_taint+0x0/0xbc
 arm64_serror_panic+0x70/0x80
 do_serror+0x58/0x74
 el1h_64_error+0x70/0x74
 smmu_write+0x98/0xb4 (P)
 smmu_reset+0x6c/0x2c0
 el0_svc+0x30/0xb0
"""


def test_functions_that_are_named_after_what_follows_them_are_forgiven() -> None:
    stack = ("vpanic", "panic", "nmi_panic", "arm64_serror_panic", "do_serror", "smmu_write", "smmu_reset", "el0_svc")
    _agrees(SERROR, _bt(*stack, cpu=6))
    _disagrees(SERROR, _bt(*stack, cpu=6).replace("smmu_write", "kfree"))


# 3.10: no registers within a trace, so that the function which the NMI stopped is in it only as what lies on the stack.
HARD_LOCKUP = """[46.6] Kernel panic - not syncing: Hard LOCKUP
[46.6] CPU: 0 PID: 96 Comm: dockerd Kdump: loaded Tainted: G        W  OE K------------   3.10.0-862.el7.x86_64 #1
[46.6] Call Trace:
[46.6]  <NMI>  [<ffffffffa7313562>] dump_stack+0x19/0x1b
[46.6]  [<ffffffffa730cc7f>] panic+0xe8/0x20d
[46.6]  [<ffffffffa6c920af>] nmi_panic+0x3f/0x40
[46.6]  [<ffffffffa6d44411>] watchdog_overflow_callback+0x121/0x140
[46.6]  [<ffffffffa731cd69>] end_repeat_nmi+0x1e/0x81
[46.6]  [<ffffffff8b0ca613>] ? native_queued_spin_lock_slowpath+0x113/0x1a0
[46.6]  <EOE>  [<ffffffff8b5d4df8>] _raw_spin_lock_irq+0x28/0x30
[46.6]  [<ffffffff8b5d4df8>] take_it+0x28/0x30
[46.6]  [<ffffffff81645909>] system_call_fastpath+0x16/0x1b
"""


def test_a_stack_that_was_switched_by_an_nmi_in_a_kernel_without_registers_in_its_traces() -> None:
    tail = ("_raw_spin_lock_irq", "take_it", "system_call_fastpath")
    stack = _bt(
        "panic", "nmi_panic", "watchdog_overflow_callback", "end_repeat_nmi", "!native_queued_spin_lock_slowpath", *tail
    )
    _agrees(HARD_LOCKUP, stack)
    _disagrees(HARD_LOCKUP, stack.replace("take_it", "kfree"))


S390 = """[    1.7] Unable to handle kernel pointer dereference in virtual kernel address space
[    1.7] Oops: 0004 ilc:2 [#1] SMP
[    1.7] CPU: 0 PID: 96 Comm: sh Not tainted 5.17.0 #1
[    1.7] Krnl PSW : 0704d00180000000 00000000009e59e4 (number+0x464/0x5d0)
[    1.7]            R:0 T:1 IO:1 EX:1 Key:0 M:1 W:0 P:0 AS:3 CC:1 PM:0 RI:0 EA:3
[    1.7] Krnl GPRS: ffffff01fffffffc 0000000000000000 0000000000000001 0000000000000000
[    1.7] Krnl Code: 00000000009e59d4: ecdcfff8a065\tclgrj\t%r13,%r12,10
[    1.7] Call Trace:
[    1.7]  [<00000000009e59e4>] number+0x464/0x5d0
[    1.7] ([<00000000009e436e>] put_dec+0x1e/0x30)
[    1.7]  [<00000000009e6b4a>] vsnprintf+0x3a2/0x730
[    1.7]  [<0000000000c1a2b4>] __do_syscall+0x1d4/0x200
[    1.7]  [<0000000000c28312>] system_call+0x82/0xb0
[    1.7] Last Breaking-Event-Address:
[    1.7]  [<00000000009e5640>] number+0xc0/0x5d0
[    1.7] Kernel panic - not syncing: Fatal exception: panic_on_oops
"""
POWER = """[  223.6] BUG: Kernel NULL pointer dereference on read at 0x00000040
[  223.6] Oops: Kernel access of bad area, sig: 11 [#1]
[  223.6] LE PAGE_SIZE=64K MMU=Radix SMP NR_CPUS=2048 NUMA PowerNV
[  223.6] CPU: 0 PID: 96 Comm: sh Not tainted 6.1.0 #1
[  223.6] NIP [c000000000ac0ce8] dbs_update_util_handler+0x18/0xf0
[  223.6] LR [c000000000159748] propagate_entity_cfs_rq+0x4a8/0x5f0
[  223.6] Call Trace:
[  223.6] [c000003fdc18bc80] [c000000000159400] propagate_entity_cfs_rq+0x160/0x5f0 (unreliable)
[  223.6] [c000003fdc18bd40] [c000000000150aec] wake_up_new_task+0x13c/0x310
[  223.6] [c000003fdc18bda0] [c00000000010c124] kernel_clone+0x164/0x510
[  223.6] [c000003fdc18be30] [c00000000000b580] system_call_exception+0x8/0xc
[  223.6] --- interrupt: c00 at 0x7fffb1f37d64
[  223.6] Instruction dump:
[  223.6] ebe1fff8 7d908120 4e800020 3860ffea 4bffffe0 60420000 3c4c00c3 3842a330
[  223.6] ---[ end trace 4456a1917aa7e1d7 ]---
[  224.4] Kernel panic - not syncing: Fatal exception
"""


@pytest.mark.parametrize(
    ("log", "stack"),
    [
        (S390, ("number", "vsnprintf", "__do_syscall", "system_call")),
        (POWER, ("dbs_update_util_handler", "wake_up_new_task", "kernel_clone", "system_call_exception")),
    ],
    ids=["s390x", "ppc64le"],
)
def test_oopses_of_other_machines(log: str, stack: tuple[str, ...]) -> None:
    _agrees(log, _bt(*stack))
    _disagrees(log, _bt(*stack[:1], "kfree", *stack[2:]))


def test_two_panics_in_one_log_the_last_counts() -> None:
    earlier = OWN.replace("sysrq_handle_crash", "earlier").replace("200.0", "150.0")
    boot = "[    0.000000] Linux version 6.12.1 (x@y) (gcc) #1 SMP\n"
    for log in (earlier + OWN, boot + earlier + boot + OWN):
        verdict = _judged(log, OWN_STACK)
        assert verdict is not None
        assert verdict.agrees
        verdict = _judged(log, OWN_STACK.replace("sysrq_handle_crash", "earlier"))
        assert verdict is not None
        assert not verdict.agrees


def test_the_beginning_of_a_modules_section_is_no_name() -> None:
    """What crash has for a function of a module without debuginfo, of a genuine BUG() in a module's init function."""
    log = OOPS.replace("vfs_write", "demo_init")
    for section in ("_MODULE_INIT_START_vmbox_demo", "_MODULE_INIT_TEXT_START_vmbox_demo"):
        verdict = _judged(log, OOPS_STACK.replace("vfs_write", section))
        assert verdict is not None
        assert verdict.agrees, verdict


def test_a_module_has_two_names_of_its_init_function() -> None:
    log = OOPS.replace("vfs_write", "demo_init")
    _agrees(log, OOPS_STACK.replace("vfs_write", "init_module"))
    for false in ("cleanup_module", "demo_exit"):
        verdict = _judged(log, OOPS_STACK.replace("vfs_write", false))
        assert verdict is not None
        assert not verdict.agrees


# Of a 6.1 kernel that a module's recursion ended; the capture kernel was started before a panic line.
OVERFLOW = """[    7.921037] BUG: TASK stack guard page was hit at 00000000eddb32de (stack is 000000001c738601)
[    7.921037] stack guard page: 0000 [#1] PREEMPT SMP NOPTI
[    7.921037] CPU: 0 PID: 96 Comm: insmod Kdump: loaded Tainted: G           OE      6.1.0-56-cloud-amd64 #1  Debian
[    7.921037] RIP: 0010:vmbox_descend.isra.0+0x2d/0x69 [vmbox_demo]
[    7.921037] Code: 00 00 48 81 ec 08 02 00 00 48 89 fe b9 40 00 00 00 65 48 8b 04 25
[    7.921037] RSP: 0018:ff528241c03f7f28 EFLAGS: 00000246
[    7.921037] Call Trace:
[    7.921037]  <TASK>
[    7.921037]  vmbox_descend.isra.0+0x41/0x69 [vmbox_demo]
[    7.921037]  vmbox_descend.isra.0+0x41/0x69 [vmbox_demo]
[    7.921037]  vmbox_demo_init+0x1c9/0x1000 [vmbox_demo]
[    7.921037]  ? 0xffffffffc0349000
[    7.921037]  do_one_initcall+0x59/0x220
[    7.921037]  do_syscall_64+0x5d/0x90
[    7.921037]  entry_SYSCALL_64_after_hwframe+0x6e/0xd8
[    7.921037] RIP: 0033:0x47fbe9
[    7.921037]  </TASK>
[    7.921037] Modules linked in: vmbox_demo(OE+) qemu_fw_cfg virtio_blk
"""


def test_a_stack_overflow() -> None:
    above = _bt("machine_kexec", "crash_kexec", "handle_stack_overflow", "asm_exc_double_fault", "!vmbox_descend")
    below = _bt(
        *(*["vmbox_descend"] * 3, "_MODULE_INIT_START_vmbox_demo", "do_one_initcall"),
        *("do_syscall_64", "entry_SYSCALL_64_after_hwframe"),
    )
    # The exception has a stack of its own, below which crash prints the function that it stopped once more.
    stack = f"{above}--- <DOUBLEFAULT exception stack> ---\n{below.partition(chr(10))[2]}"
    _agrees(OVERFLOW, stack)
    _disagrees(OVERFLOW, stack.replace("do_one_initcall", "kfree"))


def test_an_interrupt_of_a_function_without_a_name() -> None:
    """Of a soft lockup in the init function of a module without debuginfo."""
    log = (
        "Kernel panic - not syncing: softlockup: hung tasks\n"
        "CPU: 0 PID: 96 Comm: insmod Tainted: G 6.1.0 #1\nCall Trace:\n"
        + _frames("panic", "watchdog_timer_fn.cold", "asm_sysvec_apic_timer_interrupt")
        + "RIP: 0010:vmbox_demo_init+0x1ee/0x1000 [vmbox_demo]\n"
        + _frames("do_one_initcall", "do_syscall_64")
    )
    stack = _bt(
        *("panic", "watchdog_timer_fn", "asm_sysvec_apic_timer_interrupt", "!_MODULE_INIT_START_vmbox_demo"),
        *("do_one_initcall", "do_syscall_64"),
    )
    verdict = _judged(log, stack)
    assert verdict is not None
    assert verdict.line == "AGREES WITH: the log's call trace (4 frames)"


def test_an_oops_of_which_only_the_head_is_in_the_log_is_not_the_one_before() -> None:
    second = OOPS.replace("PID: 96", "PID: 97").replace("[#1]", "[#2]")
    assert dump_trace((OOPS + second[: second.index("[  100.0] Call Trace")]).splitlines()) is None
    trace = dump_trace((OOPS + second).splitlines())
    assert trace is not None
    assert trace.pid == 97


def test_the_trace_of_a_lockup_is_not_that_of_its_panic() -> None:
    """It begins at the function that the watchdog's interrupt stopped, the panic's at panic()."""
    log = (
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [insmod:96]\n"
        "CPU: 0 PID: 96 Comm: insmod Not tainted 6.1.0 #1\n"
        "RIP: 0010:vmbox_demo_init+0x1ee/0x1000 [vmbox_demo]\nCall Trace:\n"
        + _frames("do_one_initcall", "do_syscall_64")
        + "Kernel panic - not syncing: softlockup: hung tasks\n"
        "CPU: 0 PID: 96 Comm: insmod Tainted: G L 6.1.0 #1\nCall Trace:\n <IRQ>\n"
    ).splitlines()
    assert dump_trace(log) is None
    # The log alone is about it.
    found = panic_trace(log)
    assert found is not None
    assert found.kind is TraceKind.LOCKUP


@pytest.mark.parametrize("other", OTHER_CPU.values(), ids=OTHER_CPU.keys())
@pytest.mark.parametrize("whole", [OOPS, OWN], ids=["oops", "panic"])
def test_a_trace_of_another_cpu_between_the_lines_of_an_oops_or_of_a_panic(whole: str, other: str) -> None:
    lines = whole.splitlines(keepends=True)
    (begin,) = (at for at, line in enumerate(lines) if "Call Trace" in line)
    stack = OOPS_STACK if whole is OOPS else OWN_STACK
    for at in range(1, begin + 1):
        log = "".join([*lines[:at], other, *lines[at:]])
        log += "[  100.1] Kernel panic - not syncing: Fatal exception\n" if whole is OOPS else ""
        verdict = _judged(log, stack)
        assert verdict is not None, at
        assert verdict.agrees, (at, verdict)
    # A line like those that begin another event, which has no trace of its own, behind the one that names the task.
    for at in range(begin if whole is OWN else begin - 1, begin + 1):
        log = "".join([*lines[:at], "WARNING: kernel stack regs has bad value\n", *lines[at:]])
        verdict = _judged(log + "[  100.1] Kernel panic - not syncing: Fatal exception\n" * (whole is OOPS), stack)
        assert verdict is not None, at
        assert verdict.agrees, (at, verdict)


OOM = (
    "[  100.0] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled\n"
    "[  100.0] CPU: 0 UID: 0 PID: 96 Comm: sh Not tainted 6.12.1 #1\n"
    "[  100.0] Call Trace:\n" + _frames("dump_stack_lvl", "panic", "out_of_memory", *SYSCALL)
)
OOM_STACK = _bt("machine_kexec", "__crash_kexec", "panic", "out_of_memory", *SYSCALL)


@pytest.mark.parametrize("message", ["Kernel panic - not syncing: no", "job 3: Kernel panic - what a day"])
def test_a_line_of_a_program_after_the_panic_does_not_hide_its_trace(message: str) -> None:
    """By /dev/kmsg, on another CPU, before panic() stops that."""
    log = OOM + f"[  100.1] {message}\n"
    _agrees(log, OOM_STACK)
    _disagrees(log, _bt("machine_kexec", "__crash_kexec", "panic", "mount_root", *SYSCALL))
    assert remark(log.splitlines()) == "the log has 2 panics; the last one with a call trace counts"
    _agrees(OOPS + "[  100.1] Kernel panic - not syncing: Fatal exception\n" + f"[  100.2] {message}\n", OOPS_STACK)


def test_a_panic_long_before_one_without_a_trace_is_not_taken_for_it() -> None:
    later = "[  900.0] Kernel panic - not syncing: hung_task: blocked tasks\n"
    assert dump_trace((OOM + later).splitlines()) is None
    again = "[  0.0] Linux version 6.12.1 (x@y) #1\n[  1.0] Kernel panic - not syncing: VFS: no root\n"
    assert dump_trace((OOM + again).splitlines()) is None
    untimed = (OOM + again).replace("[  100.0] ", "").replace("[  0.0] ", "").replace("[  1.0] ", "")
    assert dump_trace(untimed.splitlines()) is None


def test_one_function_in_common_is_no_agreement() -> None:
    head = OOM.partition("Call Trace:\n")[0] + "Call Trace:\n"
    cut = head + _frames("dump_stack_lvl", "panic", "out_of_memory")
    assert _judged(cut, OOM_STACK) is None
    (found,) = parse(OOM_STACK)
    trace = dump_trace(cut.splitlines())
    assert trace is not None
    why = stacks.why_not([found], trace, by="crash")
    assert (
        why == "the log's call trace and the stack do not have two functions below the panic in common that have names"
    )
    # Another function is still another one.
    _disagrees(cut, _bt("machine_kexec", "panic", "mount_root", *SYSCALL))
    # A whole trace of one function agrees, and it is said how little that is.
    whole = _judged(
        head + _frames("panic", "kthread") + "[  100.0]  </TASK>\n", _bt("machine_kexec", "panic", "kthread")
    )
    assert whole is not None
    assert whole.line == "AGREES WITH: the log's call trace (1 frame, which proves little)"


@pytest.mark.parametrize(("pid", "found"), [(4242, False), (1, True)])
def test_init_was_killed_by_its_own_oops_alone(pid: int, found: bool) -> None:
    log = [
        "[  100.0] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[  100.0] Oops: 0000 [#1] SMP",
        f"[  100.0] CPU: 0 PID: {pid} Comm: dd Not tainted 6.1.0 #1",
        "[  100.0] RIP: 0010:driver_read+0x1/0x10",
        "[  100.0] Call Trace:",
        "[  100.0]  vfs_read+0x10/0x20",
        "[  100.0]  entry_SYSCALL_64_after_hwframe+0x10/0x20",
        "[  100.0] ---[ end trace 0000000000000000 ]---",
        "[  100.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
    ]
    assert (panic_trace(log) is not None) is found
    assert (dump_trace(log) is not None) is found


HEAD = "[  100.0] Kernel panic - not syncing: x\n[  100.0] CPU: 0 UID: 0 PID: 96 Comm: sh Not tainted 6.12.1 #1\n"


@pytest.mark.parametrize(
    "dropped", ["** 12 printk messages dropped **\n", "** 12 printk messages dropped ** [  100.0] "]
)
def test_a_trace_of_which_a_slow_console_lost_lines_contradicts_no_frame(dropped: str) -> None:
    log = HEAD + "Call Trace:\n" + _frames("panic", "broken", "caller") + dropped + _frames(*SYSCALL[1:])
    verdict = _judged(log, _bt("machine_kexec", "panic", "broken", "caller", "lost", *SYSCALL))
    assert verdict is not None
    assert (verdict.agrees, verdict.words) == (True, "2 frames; it ends at caller")
    assert remark(log.splitlines()) == "the log lacks lines within the call trace of the panic"
    _disagrees(log, _bt("machine_kexec", "panic", "broken", "stale", *SYSCALL))


def test_entries_alone_are_no_agreement() -> None:
    """Each system call has them: a stack of which no other function has a name proves nothing."""
    log = HEAD + "Call Trace:\n" + _frames("panic", "one", "two", *SYSCALL[2:])
    assert _judged(log, _bt("machine_kexec", "panic", "0xffffffffc0345678", "0xffffffffc0345699", *SYSCALL[2:])) is None


def test_cpus_of_the_first_real_time_kernels_are_kept_apart() -> None:
    lines = HEAD.replace("] ", "] 003: ") + "[  100.0] 003: Call trace:\n"
    lines += "".join(f"[  100.0] 003: {line}\n" for line in _frames("panic", "broken", "caller").splitlines())
    lines += "".join(f"[  100.0] 001: {line}\n" for line in _frames("of", "another", "cpu", "altogether").splitlines())
    lines += "".join(f"[  100.0] 003: {line}\n" for line in _frames("kthread", "ret_from_fork").splitlines())
    _agrees(lines, _bt("machine_kexec", "panic", "broken", "caller", "kthread", "ret_from_fork"))
    _disagrees(lines, _bt("machine_kexec", "panic", "broken", "stale", "kthread", "ret_from_fork"))


BLOCKED = (
    "[   99.9] INFO: task sync:97 blocked for more than 120 seconds.\n"
    "[   99.9]       Not tainted 3.10.0 #1\n"
    "[   99.9] Call Trace:\n"
    + _frames("schedule", "io_schedule", "sleep_on_page", "sys_fsync", "system_call_fastpath")
    + "[  100.0] Kernel panic - not syncing: hung_task: blocked tasks\n"
    "[  100.0] CPU: 1 PID: 28 Comm: khungtaskd Not tainted 3.10.0 #1\n"
    "[  100.0] Call Trace:\n" + _frames("panic", "watchdog", "kthread")
)


@pytest.mark.parametrize("switch", [(), ("schedule",), ("__schedule", "schedule"), ("__switch_to", "__schedule")])
def test_how_a_task_that_sleeps_left_its_cpu_is_of_no_account(switch: tuple[str, ...]) -> None:
    (trace,) = still_blocked(BLOCKED.splitlines())
    for called, agrees in (("io_schedule", True), ("schedule_timeout", False)):
        stack = _bt(*switch, called, "sleep_on_page", "sys_fsync", "system_call_fastpath", pid=97)
        verdict = stacks.judge(parse(stack)[0], trace, by="crash")
        assert verdict is not None
        assert verdict.agrees is agrees, verdict
