"""Class, signature and sentences of less common panics. The logs are written for these tests."""

from __future__ import annotations

import pytest
from test_fault import ALONE, said

from sandbox.dump import panic, printk
from sandbox.explain.fault import explain
from sandbox.explain.model import Fault
from sandbox.report import signature

SYSTEM_CALL = ("vfs_write+0xf0/0x540", "do_syscall_64+0x82/0x190", "entry_SYSCALL_64_after_hwframe+0x76/0x7e")


def task(cpu: int, pid: int, name: str) -> str:
    return f"CPU: {cpu} UID: 0 PID: {pid} Comm: {name} Not tainted 6.12.9 #1"


def trace(*frames: str) -> list[str]:
    return ["Call Trace:", " <TASK>", *(f" {one}" for one in frames), " </TASK>"]


def read(*lines: str) -> tuple[str, signature.Signature, Fault]:
    """Class, signature and fault of a log, as the commands have them."""
    log = [f"[   10.{at:06d}] {line}" for at, line in enumerate(lines)]
    found = panic.examine(printk.from_text("\n".join(log).encode()))
    fault = explain(log, arch=found.arch, readings=ALONE, taint=found.taint, panic=found.panic, debugger=None)
    assert fault is not None
    assert found.cause is not None
    return found.cause, signature.of(cause=found.cause, log=log, panic=found.panic), fault


@pytest.mark.parametrize(
    ("cause", "report", "checkers", "panicked"),
    [
        (
            "kasan",
            "BUG: KASAN: slab-use-after-free in drop+0x51/0x90 [toy]",
            ("end_report.part.0+0x48/0x60", "kasan_report+0xe8/0x110", "__asan_report_load8_noabort+0x14/0x20"),
            "KASAN: panic_on_warn set ...",
        ),
        (
            "kcsan",
            "BUG: KCSAN: data-race in drop / take",
            ("kcsan_report_known_origin+0x5ca/0x5f0", "kcsan_setup_watchpoint+0x3ff/0x450", "__tsan_read4+0x10/0x20"),
            "KCSAN: panic_on_warn set ...",
        ),
        (
            "kmsan",
            "BUG: KMSAN: uninit-value in drop+0x51/0x90 drivers/toy.c:31",
            ("kmsan_report+0x2c7/0x2d0", "__msan_warning+0x95/0x120"),
            "kmsan.panic set ...",
        ),
        (
            "ubsan",
            "UBSAN: array-index-out-of-bounds in drivers/toy.c:31:9",
            ("ubsan_epilogue+0x2a/0x30", "__ubsan_handle_out_of_bounds.cold+0x46/0x4b"),
            "UBSAN: panic_on_warn set ...",
        ),
    ],
)
def test_what_a_checker_reported_is_of_the_function_that_called_it(
    cause: str, report: str, checkers: tuple[str, ...], panicked: str
) -> None:
    stack = (*checkers[1:], "drop+0x51/0x90 [toy]", *SYSTEM_CALL)
    own = [report, task(1, 812, "cat"), *trace("dump_stack_lvl+0x5d/0x80", *stack)]
    if cause == "kcsan":  # whose report has two stacks without a heading
        own = [report, "write to 0xffff8881041d2a40 of 4 bytes by interrupt on cpu 0:", " take+0x91/0x180"]
        own += ["read to 0xffff8881041d2a40 of 4 bytes by task 812 on cpu 1:", " drop+0x51/0x90", task(1, 812, "cat")]
    ended = trace("dump_stack_lvl+0x5d/0x80", "panic+0x4c5/0x500", "check_panic_on_warn+0x61/0x80", checkers[0], *stack)
    found, sign, fault = read(*own, f"Kernel panic - not syncing: {panicked}", task(1, 812, "cat"), *ended)
    assert found == cause
    assert sign.frames == ("drop", "vfs_write")
    assert (fault.function, fault.offset) == ("drop", 0x51)
    assert "A checker of the kernel's own reported: " in said(fault, "what")
    assert "not the first error" not in said(fault)
    assert "It was called by vfs_write < do_syscall_64" in said(fault, "where")


def test_a_hard_lockup_that_another_cpu_found_is_of_the_one_that_is_stuck() -> None:
    found, sign, fault = read(
        "watchdog: Watchdog detected hard LOCKUP on cpu 5",
        task(4, 0, "swapper/4"),
        "Sending NMI from CPU 4 to CPUs 5:",
        "NMI backtrace for cpu 5",
        task(5, 812, "insmod"),
        "RIP: 0010:spin_forever+0x15/0x20 [spin]",
        *trace("spin_init+0x10/0x1000 [spin]", "do_one_initcall+0x5b/0x310"),
        "Kernel panic - not syncing: Hard LOCKUP",
        task(4, 0, "swapper/4"),
        "Call Trace:",
        " <IRQ>",
        " panic+0x118/0x2f0",
        " watchdog_hardlockup_check.cold+0x9e/0xa3",
        " watchdog_timer_fn+0x60/0x2f0",
        " </IRQ>",
        " <TASK>",
        " asm_sysvec_apic_timer_interrupt+0x1a/0x20",
        "RIP: 0010:cpuidle_enter_state+0xcc/0x660",
        " cpuidle_enter+0x2d/0x40",
        " </TASK>",
    )
    assert found == "hard-lockup"
    assert (sign.frames, sign.basis) == (("spin_forever", "spin_init", "do_one_initcall"), "log")
    assert "In spin_forever+0x15 of module spin" in said(fault, "where")
    assert "The task was insmod (PID 812), on CPU 5." in said(fault, "where")
    assert "swapper" not in said(fault)


def test_a_stall_of_3_10_is_of_what_the_timer_interrupted() -> None:
    """Its panic prints no registers, and the entry of the interrupt has handlers above it that are called like it."""
    addresses = iter(range(0xFFFFFFFF81000000, 0xFFFFFFFF82000000, 0x10010))
    handlers = ("dump_stack+0x19/0x1b", "panic+0xe8/0x21f", "rcu_check_callbacks+0x762/0x770",
                "hrtimer_interrupt+0xaf/0x1d0", "local_apic_timer_interrupt+0x3b/0x60",
                "smp_apic_timer_interrupt+0x43/0x60", "apic_timer_interrupt+0x162/0x170")  # fmt: skip
    found, sign, fault = read(
        "INFO: rcu_sched self-detected stall on CPU { 6}  (t=60000 jiffies g=1144002 c=1144001 q=3920)",
        "Kernel panic - not syncing: RCU Stall",
        "CPU: 6 PID: 1204 Comm: multipathd Not tainted 3.10.0-1160.el7.x86_64 #1",
        "Call Trace:",
        " <IRQ>  [<ffffffff81781400>] " + handlers[0],
        *(f" [<{next(addresses):x}>] {one}" for one in handlers[1:]),
        " <EOI>  [<ffffffffc01a2b3c>] ? dm_spin+0x2c/0x50 [dm_toy]",
        " [<ffffffffc01a2c00>] dm_ctl_ioctl+0x130/0x1f0 [dm_toy]",
        " [<ffffffff81270f80>] do_vfs_ioctl+0x3a0/0x5b0",
        " [<ffffffff81795f92>] system_call_fastpath+0x25/0x2a",
    )
    assert found == "rcu-stall"
    assert sign.frames == ("dm_ctl_ioctl", "do_vfs_ioctl")
    assert "The interrupt that found it stopped dm_ctl_ioctl < do_vfs_ioctl" in said(fault, "where")


def test_a_drivers_interrupt_handler_is_no_entry_of_an_interrupt() -> None:
    _, _, fault = read(
        "Kernel panic - not syncing: toy: lost its card",
        task(2, 0, "swapper/2"),
        "Call Trace:",
        " <IRQ>",
        " panic+0x118/0x2f0",
        " toy_interrupt+0x60/0x2f0 [toy]",
        " __handle_irq_event_percpu+0x47/0x190",
        " handle_edge_irq+0x87/0x220",
        " </IRQ>",
        " <TASK>",
        " asm_common_interrupt+0x26/0x40",
        "RIP: 0010:cpuidle_enter_state+0xcc/0x660",
        " do_idle+0x1ff/0x240",
        " </TASK>",
    )
    assert "in toy_interrupt < __handle_irq_event_percpu < handle_edge_irq" in said(fault, "where")
    assert "that interrupted cpuidle_enter_state < do_idle." in said(fault, "where")


def test_what_an_oops_in_a_handler_interrupted_did_not_call_it() -> None:
    _, _, fault = read(
        "traps: Missing ENDBR: toy_op+0x0/0x20 [toy]",
        "------------[ cut here ]------------",
        "kernel BUG at arch/x86/kernel/cet.c:133!",
        "Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        task(2, 77, "w"),
        "RIP: 0010:exc_control_protection+0x2a8/0x2b0",
        "Call Trace:",
        " <TASK>",
        " asm_exc_control_protection+0x26/0x30",
        "RIP: 0010:toy_op+0x0/0x20 [toy]",
        " toy_init+0x10/0x1000 [toy]",
        " </TASK>",
        "---[ end trace 0000000000000000 ]---",
        "Kernel panic - not syncing: Fatal exception",
    )
    assert "It was called by asm_exc_control_protection; that interrupted toy_op < toy_init." in said(fault, "where")
    assert "Before it the kernel said: Missing ENDBR: toy_op+0x0/0x20 [toy]." in said(fault, "what")


@pytest.mark.parametrize(
    ("first", "second", "address", "says"),
    [
        (
            "general protection fault, probably for non-canonical address 0xdffffc0000000002: 0000 [#1] SMP KASAN",
            "KASAN: null-ptr-deref in range [0x0000000000000010-0x0000000000000017]",
            "0xdffffc0000000002",
            "the access was to be of 0x10 to 0x17 (null-ptr-deref).",
        ),
        (
            "general protection fault, kernel NULL pointer dereference 0x10: 0000 [#1] SMP",
            "",
            "0x10",
            "A NULL pointer was followed: the kernel tried to access address 0x10.",
        ),
        (
            "general protection fault, probably LASS violation for address 0x100000: 0000 [#1] SMP",
            "",
            "0x100000",
            "refused to access 0x100000, which is of user space (LASS).",
        ),
        (
            "general protection fault, maybe for address 0xffff888104a3c018: 0000 [#1] SMP",
            "",
            "0xffff888104a3c018",
            "was to access 0xffff888104a3c018; the log does not say why.",
        ),
    ],
)
def test_the_address_of_a_general_protection_fault_is_what_the_kernel_says(
    first: str, second: str, address: str, says: str
) -> None:
    _, _, fault = read(
        f"Oops: {first} NOPTI", second, task(2, 77, "w"), "RIP: 0010:toy_get+0x28/0xb0", *trace("toy_poll+0x1/0x10"),
        "Kernel panic - not syncing: Fatal exception",
    )  # fmt: skip
    assert fault.address == address
    assert says in said(fault, "what")
    assert ("not canonical" in said(fault, "what")) is ("non-canonical" in first)


@pytest.mark.parametrize(
    ("error", "panicked"),
    [
        ("BUG: scheduling while atomic: cat/812/0x00000002", "scheduling while atomic"),
        (
            "BUG: workqueue lockup - pool cpus=3 node=0 flags=0x0 nice=0 stuck for 41s!",
            "workqueue: 1 stall(s) exceeded",
        ),
    ],
)
def test_an_error_that_the_kernel_panicked_of_is_not_one_that_it_survived(error: str, panicked: str) -> None:
    _, _, fault = read(error, task(3, 812, "cat"), f"Kernel panic - not syncing: {panicked}", task(3, 812, "cat"))
    assert f"Before it the kernel said: {error.rstrip('!')}." in said(fault, "what")
    assert "not the first error" not in said(fault)


def test_a_double_fault_that_halted_the_machine_is_its_fault() -> None:
    found, _, fault = read(
        "PANIC: double fault, error_code: 0x0",
        "CPU: 1 PID: 812 Comm: cat Not tainted 4.19.0 #1",
        "RIP: 0010:toy+0x10/0x20 [toy]",
        "Kernel panic - not syncing: Machine halted.",
    )
    assert (found, fault.function) == ("double-fault", "toy")
    assert said(fault, "what").startswith("A double fault: ")


def test_an_serror_is_told_from_others_by_what_the_cpu_did() -> None:
    """All have the same handlers. In 7.2 panic() calls vpanic(), and the kernel prints the function behind panic()."""
    _, sign, fault = read(
        "Kernel panic - not syncing: Asynchronous SError Interrupt",
        task(6, 855, "sensors"),
        "Call trace:",
        " show_stack+0x18/0x30 (C)",
        " vpanic+0xf8/0x2dc",
        " abort+0x0/0x4",
        " arm64_serror_panic+0x70/0x80",
        " do_serror+0x58/0x74",
        " el1h_64_error_handler+0x38/0x60",
        " el1h_64_error+0x70/0x74",
        " toy_write+0x98/0xb4 (P)",
        " toy_resume+0x30/0x44",
        " el0t_64_sync+0x198/0x19c",
    )
    assert sign.frames == ("toy_write", "toy_resume")
    assert "abort" not in said(fault)
    assert "in arm64_serror_panic < do_serror; that interrupted toy_write < toy_resume" in said(fault, "where")


def test_the_machine_is_told_by_registers_above_the_last_stack() -> None:
    log = [
        "[    1.1] SError Interrupt on CPU2, code 0x00000000bf000002 -- SError",
        "[    1.2] pstate: 60000005 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)",
        "[    1.3] Kernel panic - not syncing: Asynchronous SError Interrupt",
        "[    1.4] CPU: 2 PID: 301 Comm: sensors Not tainted 6.6.31 #1",
    ]
    found = panic.examine(printk.from_text("\n".join(log).encode()))
    assert (found.arch, found.release) == ("aarch64", "6.6.31")
