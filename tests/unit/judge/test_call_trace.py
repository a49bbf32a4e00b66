"""Call traces of every form since 3.10: the panic's own is found, with the frames that the unwinder was sure of.

Logs of Debian's kernels are genuine (tests/fixtures/dumps); forms of kernels that cannot be booted here are written as
the kernel's source prints them.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest

from sandbox.dump import read_log
from sandbox.judge import call_trace, which_trace
from sandbox.judge.trace_lines import TraceKind
from sandbox.judge.which_trace import panic_trace

DUMPS = Path(__file__).parents[2] / "fixtures" / "dumps"

SYSRQ = "sysrq_handle_crash __handle_sysrq write_sysrq_trigger proc_reg_write vfs_write ksys_write"


def _log(name: str) -> list[str]:
    if name.endswith(".gz"):
        return gzip.decompress((DUMPS / name).read_bytes()).decode(errors="replace").splitlines()
    return [line.decode(errors="replace") for line in read_log(DUMPS / name)]


def _names(text: str) -> str | None:
    trace = panic_trace(text.strip("\n").splitlines())
    return None if trace is None else " ".join(frame.function for frame in trace.reliable)


@pytest.mark.parametrize(
    "name",
    [
        "x86_64-6.1.dmesg.gz",
        "x86_64-6.12.dmesg.gz",
        "x86_64-printk_log.dmesg.gz",
        "x86_64-bytes.dmesg.gz",
        "x86_64-6.1-zlib",
        "i686-6.1-zlib",
        "ppc64le-6.1-zlib",
        "aarch64-6.1-zlib",
        "riscv64-6.12-zlib",
        "s390x-6.1-zlib",
    ],
)
def test_the_trace_of_a_genuine_panic_is_found_on_every_architecture(name: str) -> None:
    trace = panic_trace(_log(name))
    assert trace is not None
    assert (trace.kind, trace.pid, trace.command, trace.cut) == (TraceKind.PANIC, 1, "init", False)
    frames = [frame for frame in trace.reliable if frame.function not in {"dump_stack_lvl", "dump_stack"}]
    begin = next(at for at, frame in enumerate(frames) if frame.function == "panic")
    below = frames[begin + 1 : begin + 7]
    # Where panic() is the last call of a function that never returns, the address is that of the next function.
    expected = [name.split(".")[0] for name in SYSRQ.split()]
    found = [frame.function.split(".")[0] for frame in below]
    assert found[1:] == expected[1:]
    assert below[0].nameless is (name.partition("-")[0] in {"aarch64", "riscv64", "s390x"})
    assert below[0].nameless or found[0] == expected[0]


def test_an_oops_before_a_panic_without_a_trace_of_its_own_is_the_panics() -> None:
    trace = panic_trace(_log("loongarch64-7.2-qemu"))
    assert trace is not None
    assert (trace.kind, trace.frames[0].function, trace.frames[0].stopped) == (TraceKind.OOPS, "i8042_flush", True)


RHEL7 = """
[  180.1] BUG: unable to handle kernel NULL pointer dereference at           (null)
[  180.1] IP: [<ffffffff813bb5d6>] sysrq_handle_crash+0x16/0x20
[  180.1] PGD 3a1c3067 PUD 3a1c4067 PMD 0
[  180.1] Oops: 0002 [#1] SMP
[  180.1] Modules linked in: ext4 jbd2
[  180.1] CPU: 1 PID: 2312 Comm: bash Not tainted 3.10.0-327.el7.x86_64 #1
[  180.1] task: ffff88003a0f6780 ti: ffff880036a3c000 task.ti: ffff880036a3c000
[  180.1] RIP: 0010:[<ffffffff813bb5d6>]  [<ffffffff813bb5d6>] sysrq_handle_crash+0x16/0x20
[  180.1] RSP: 0018:ffff880036a3fe80  EFLAGS: 00010246
[  180.1] RAX: 000000000000000f RBX: ffffffff81a7b180 RCX: 0000000000000000
[  180.1] CR2: 0000000000000000 CR3: 000000003a1c2000 CR4: 00000000000006e0
[  180.1] Stack:
[  180.1]  ffff880036a3feb8 ffffffff813bbdf2 0000000000000002 00007f0a8a8e2000
[  180.1] Call Trace:
[  180.1]  [<ffffffff813bbdf2>] __handle_sysrq+0xa2/0x170
[  180.1]  [<ffffffff813bc26f>] write_sysrq_trigger+0x2f/0x40
[  180.1]  [<ffffffff8124907d>] proc_reg_write+0x3d/0x80
[  180.1]  [<ffffffff811de5cd>] vfs_write+0xbd/0x1e0
[  180.1]  [<ffffffffa0123456>] ? ext4_write+0x1/0x2 [ext4]
[  180.1]  [<ffffffff811df06f>] SyS_write+0x7f/0xe0
[  180.1]  [<ffffffff81645909>] system_call_fastpath+0x16/0x1b
[  180.1] Code: eb 9b 45 01 f4 45 39 65 34 75 e5 4c 89 ef e8 e2 f7 ff ff eb db 66 66
[  180.1] RIP  [<ffffffff813bb5d6>] sysrq_handle_crash+0x16/0x20
[  180.1]  RSP <ffff880036a3fe80>
[  180.1] CR2: 0000000000000000
[  180.1] ---[ end trace 5f1a2 ]---
[  180.1] Kernel panic - not syncing: Fatal exception
"""

LOCKUP = """
[ 61.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [insmod:171]
[ 61.0] CPU: 0 PID: 171 Comm: insmod Not tainted 6.1.0 #1
[ 61.0] RIP: 0010:loop_forever+0x5/0x10 [lockup]
[ 61.0] Call Trace:
[ 61.0]  <TASK>
[ 61.0]  init_module+0x20/0x1000 [lockup]
[ 61.0]  do_one_initcall+0x56/0x220
[ 61.0]  </TASK>
[ 61.0] Sending NMI from CPU 0 to CPUs 1:
[ 61.0] NMI backtrace for cpu 1
[ 61.0] CPU: 1 PID: 0 Comm: swapper/1 Not tainted 6.1.0 #1
[ 61.0] RIP: 0010:native_safe_halt+0xb/0x10
[ 61.0] Call Trace:
[ 61.0]  <TASK>
[ 61.0]  default_idle+0xa/0x20
[ 61.0]  </TASK>
[ 61.1] Kernel panic - not syncing: softlockup: hung tasks
[ 61.1] CPU: 0 PID: 171 Comm: insmod Tainted: G             L     6.1.0 #1
[ 61.1] Call Trace:
[ 61.1]  <IRQ>
[ 61.1]  dump_stack_lvl+0x44/0x5c
[ 61.1]  panic+0x118/0x2f4
[ 61.1]  watchdog_timer_fn.cold+0xc/0x16
[ 61.1]  __hrtimer_run_queues+0x10f/0x2b0
[ 61.1]  </IRQ>
[ 61.1]  <TASK>
[ 61.1]  asm_sysvec_apic_timer_interrupt+0x16/0x20
[ 61.1] RIP: 0010:loop_forever+0x5/0x10 [lockup]
[ 61.1] Code: 00 00 f3 90 eb fc
[ 61.1] RSP: 0018:ffffb4e0402ffbd8 EFLAGS: 00000246
[ 61.1] RAX: 0000000000000000 RBX: 0000000000000000 RCX: 0000000000000000
[ 61.1]  ? 0xffffffffc0a60000
[ 61.1] a line of another CPU
[ 61.1]  init_module+0x20/0x1000 [lockup]
[ 61.1]  do_one_initcall+0x56/0x220
[ 61.1]  do_syscall_64+0x5d/0x90
[ 61.1]  entry_SYSCALL_64_after_hwframe+0x6e/0xd8
[ 61.1] RIP: 0033:0x7f1f
[ 61.1]  </TASK>
[ 61.2] Call Trace:
[ 61.2]  shown_because_of_panic_print+0x1/0x2
"""

ARM64 = """
[    5.1] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000
[    5.1] Internal error: Oops: 0000000096000044 [#1] SMP
[    5.1] CPU: 0 PID: 96 Comm: sh Not tainted 6.12.1 #1
[    5.1] pstate: 60000005 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)
[    5.1] pc : lkdtm_NULL+0x10/0x20 [lkdtm]
[    5.1] lr : direct_entry+0x90/0x100 [lkdtm]
[    5.1] sp : ffff8000829fbc20
[    5.1] x29: ffff8000829fbc20 x28: ffff0000c1 x27: 0000000000000000
[    5.1] Call trace:
[    5.1]  lkdtm_NULL+0x10/0x20 [lkdtm] (P)
[    5.1]  direct_entry+0x90/0x100 [lkdtm] (L)
[    5.1]  full_proxy_write+0x60/0xb0
[    5.1]  el0_svc+0x30/0xb0
[    5.1] Code: d503201f 910003fd
[    5.1] ---[ end trace 0000000000000000 ]---
[    5.1] Kernel panic - not syncing: Oops: Fatal exception
"""

DOUBLE_FAULT = """
[ 9.0] PANIC: double fault, error_code: 0x0
[ 9.0] Kernel panic - not syncing: Machine halted.
[ 9.0] CPU: 3 PID: 77 Comm: kworker/3:1 Not tainted 4.9.0 #1
[ 9.0] Call Trace:
[ 9.0]  <#DF> [<ffffffff81328574>] ? dump_stack+0x5c/0x78
[ 9.0]  [<ffffffff8117f8b1>] panic+0xe4/0x22a
[ 9.0]  [<ffffffff8102d1a5>] df_debug+0x2d/0x30
[ 9.0]  <<EOE>>  [<ffffffff81611111>] recurse+0x1d/0x40
[ 9.0]  [<ffffffff81611111>] recurse+0x1d/0x40
[ 9.0]  [<ffffffff8108f4f6>] kthread+0xd6/0xf0
"""

POWER = """
[ 4.0] BUG: Kernel NULL pointer dereference on write at 0x00000000
[ 4.0] Oops: Kernel access of bad area, sig: 11 [#1]
[ 4.0] CPU: 2 PID: 90 Comm: sh Not tainted 5.14.0 #1
[ 4.0] NIP:  c0000000008d4f98 LR: c0000000008d5a3c CTR: c0000000008d4f70
[ 4.0] NIP [c0000000008d4f98] sysrq_handle_crash+0x28/0x30
[ 4.0] LR [c0000000008d5a3c] __handle_sysrq+0xdc/0x280
[ 4.0] Call Trace:
[ 4.0] [c00000000a4f7b20] [c0000000008d5a1c] __handle_sysrq+0xbc/0x280 (unreliable)
[ 4.0] [c00000000a4f7bc0] [c0000000008d6324] write_sysrq_trigger+0x104/0x110
[ 4.0] [c00000000a4f7c20] [c0000000005d6a04] proc_reg_write+0xf4/0x180
[ 4.0] --- interrupt: c00 at 0x7fffb1f37d64
[ 4.0] NIP:  00007fffb1f37d64 LR: 0000000000000000 CTR: 0000000000000000
[ 4.0] Kernel panic - not syncing: Fatal exception
"""

ARM = """
[ 4.0] Kernel panic - not syncing: sysrq triggered crash
[ 4.0] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1
[ 4.0]  unwind_backtrace from show_stack+0x18/0x1c
[ 4.0] Backtrace:
[ 4.0] [<c010f0a0>] (dump_stack) from [<c0d01234>] (panic+0x10/0x300)
[ 4.0]  panic from sysrq_handle_crash+0x20/0x28
[ 4.0]  sysrq_handle_crash from __handle_sysrq+0xe4/0x1d0
"""


@pytest.mark.parametrize(
    ("text", "kind", "frames"),
    [
        (
            RHEL7,
            TraceKind.OOPS,
            (
                "sysrq_handle_crash __handle_sysrq write_sysrq_trigger proc_reg_write vfs_write SyS_write "
                "system_call_fastpath"
            ),
        ),
        (
            LOCKUP,
            TraceKind.PANIC,
            (
                "dump_stack_lvl panic watchdog_timer_fn.cold __hrtimer_run_queues asm_sysvec_apic_timer_interrupt "
                "loop_forever init_module do_one_initcall do_syscall_64 entry_SYSCALL_64_after_hwframe"
            ),
        ),
        (ARM64, TraceKind.OOPS, "lkdtm_NULL direct_entry full_proxy_write el0_svc"),
        (DOUBLE_FAULT, TraceKind.PANIC, "panic df_debug recurse recurse kthread"),
        (POWER, TraceKind.OOPS, "sysrq_handle_crash write_sysrq_trigger proc_reg_write"),
        (ARM, TraceKind.PANIC, "dump_stack panic sysrq_handle_crash"),
    ],
)
def test_every_form_of_trace_is_read(text: str, kind: TraceKind, frames: str) -> None:
    assert _names(text) == frames
    trace = panic_trace(text.strip("\n").splitlines())
    assert trace is not None
    assert trace.kind is kind
    assert not trace.cut or text is ARM


ARM_EXCEPTION = """[ 61.1] Kernel panic - not syncing: x
[ 61.1] CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0 #1
[ 61.1]  panic from handler+0x10/0x20
[ 61.1]  r10:b774ef05 r9:00000000 r8:b774ef00 r7:000000c0 r6:b774bb40 r5:85ccc5b8
[ 61.1]  r4:bc815000
[ 61.1]  handler from __irq_svc+0x50/0x7c
[ 61.1] Exception stack(0xc0f01f00 to 0xc0f01f48)
[ 61.1] 1f00: 00000000 00000001 00000002 c0119f20 c0f00000 c0f04f6c c0f04fac 00000000
[ 61.1] 1f20: 00000000 c0e45a30 00000000 00000000 c0f01f50 c0f01f50 c0108d9c c0108da0
[ 61.1] 1f40: 60000013 ffffffff
[ 61.1]  __irq_svc from arch_cpu_idle+0x34/0x38
[ 61.1]  arch_cpu_idle from cpu_startup_entry+0x10/0x14
[ 61.1]  cpu_startup_entry from 0x80008000
"""
INLINED = """Kernel panic - not syncing: x
CPU: 0 PID: 7 Comm: sh Not tainted 6.1.0 #1
Call Trace:
 <TASK>
 panic+0x1/0x2 kernel/panic.c:12
 one lib/x.c:94 [inline]
 two lib/x.c:95 [inline]
 three lib/x.c:96 [inline]
 four lib/x.c:97 [inline]
 broken+0x1/0x2 lib/x.c:98
 do_syscall_64+0x1/0x2 arch/x86/entry/common.c:80
 </TASK>
"""


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        (ARM_EXCEPTION, "panic handler __irq_svc arch_cpu_idle cpu_startup_entry"),
        (INLINED, "panic broken do_syscall_64"),
    ],
)
def test_lines_between_two_frames_do_not_end_a_trace(text: str, frames: str) -> None:
    assert _names(text) == frames


def test_a_frame_names_its_module_and_what_an_interrupt_stopped() -> None:
    trace = panic_trace(LOCKUP.strip("\n").splitlines())
    assert trace is not None
    assert (trace.cpu, trace.pid, trace.command) == (0, 171, "insmod")
    assert [frame.function for frame in trace.frames if frame.stopped] == ["loop_forever"]
    assert {frame.function: frame.module for frame in trace.frames}["init_module"] == "lockup"


def test_the_last_panic_counts_and_not_that_of_the_capture_kernel() -> None:
    one, two = (f"Kernel panic - not syncing: {word}\nCall Trace:\n panic+0x1/0x2\n {word}+0x1/0x2\n" for word in "ab")
    boot = "Linux version 6.1.0 (x@y) (gcc) #1 SMP\nCommand line: root=/dev/vda"
    assert _names(f"{boot}\n{one}{boot}\n{two}") == "panic b"
    capture = boot + " elfcorehdr=0x3000000"
    log = f"{boot}\n{one}{capture}\n{two}".splitlines()
    assert _names("\n".join(log)) == "panic a"
    assert which_trace.panics(log) == 1
    # After the capture kernel the machine boots again.
    assert _names(f"{boot}\n{one}{capture}\n{one}{boot}\n{two}") == "panic b"
    assert which_trace.panics(f"{boot}\n{one}{boot}\n{two}".splitlines()) == 2


def test_a_trace_at_which_the_log_ends_is_cut() -> None:
    whole = LOCKUP[: LOCKUP.index("[ 61.1]  do_syscall_64")]
    trace = panic_trace(whole.strip("\n").splitlines())
    assert trace is not None
    assert trace.cut
    assert trace.frames[-1].function == "do_one_initcall"


def test_a_log_without_a_trace_has_none() -> None:
    assert panic_trace(["Kernel panic - not syncing: no init", "---[ end Kernel panic"]) is None
    assert panic_trace([]) is None
    # One that was asked for is not that of the panic.
    asked = "sysrq: Show Blocked State\ntask:x state:D\nCall Trace:\n <TASK>\n __schedule+0x1/0x2\n </TASK>\n"
    assert panic_trace([*asked.splitlines(), "Kernel panic - not syncing: x"]) is None


def test_the_trace_of_a_blocked_task_is_that_tasks() -> None:
    log = [
        "INFO: task fsfreeze:95 blocked for more than 3 seconds.",
        "      Not tainted 6.1.0 #1",
        "task:fsfreeze state:D stack:0     pid:95    ppid:1      flags:0x00000002",
        "Call Trace:",
        " <TASK>",
        " __schedule+0x34d/0x9e0",
        " percpu_rwsem_wait+0x116/0x140",
        " </TASK>",
        "INFO: task fsfreeze:95 is blocked on a rw-semaphore likely owned by task x:9.",
        "Kernel panic - not syncing: hung_task: blocked tasks",
        "CPU: 1 PID: 28 Comm: khungtaskd Not tainted 6.1.0 #1",
        "Call Trace:",
        " panic+0x118/0x2f4",
        " watchdog.cold+0xc/0x16",
        " kthread+0xda/0x100",
    ]
    blocked = which_trace.blocked_trace(log)
    assert blocked is not None
    assert (blocked.pid, blocked.command, blocked.frames[-1].function) == (95, "fsfreeze", "percpu_rwsem_wait")
    panicked = panic_trace(log)
    assert panicked is not None
    assert (panicked.pid, panicked.frames[-1].function) == (28, "kthread")
    assert call_trace.blocked_pids(log) == [95]


@pytest.mark.slow
@pytest.mark.parametrize("unit", [" ", "<A> ", "[<a>] ", "CPU: 1 ", "INFO: task "])
def test_a_line_without_end_costs_its_length(unit: str) -> None:
    lines = ["Kernel panic - not syncing: x", "Call Trace:", unit * 20_000 + "!"]
    began = time.process_time()
    call_trace.call_traces(lines)
    call_trace.blocked_pids(lines)
    assert time.process_time() - began < 2


def test_arm64s_caller_of_null_is_in_the_link_register() -> None:
    """Of a genuine dump (6.12): the kernel's trace goes on with the caller of the caller."""
    log = [
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
        "CPU: 0 UID: 0 PID: 131 Comm: busybox Tainted: G           OE      6.12.118+deb13-cloud-arm64 #1",
        "pstate: 60000005 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)",
        "pc : 0x0",
        "lr : vmbox_poll+0x24/0x40 [vmbox_demo]",
        "sp : ffff800080563820",
        "Call trace:",
        " 0x0",
        " vmbox_demo_init+0x2b4/0x7b0 [vmbox_demo]",
        " do_one_initcall+0x60/0x298",
        " el0t_64_sync+0x190/0x198",
        "---[ end trace 0000000000000000 ]---",
        "Kernel panic - not syncing: Oops: Fatal exception",
    ]
    (trace,) = call_trace.call_traces(log)
    names = "vmbox_poll vmbox_demo_init do_one_initcall el0t_64_sync"
    assert [one.function for one in trace.frames] == names.split()
    assert [one.unknown for one in trace.frames] == [0, 0, 0, 0]
    # What ran elsewhere may have returned into another function: its link register is no frame.
    log[3] = "pc : vmbox_other+0x10/0x40 [vmbox_demo]"
    (trace,) = call_trace.call_traces(log)
    assert "vmbox_poll" not in [one.function for one in trace.frames]
