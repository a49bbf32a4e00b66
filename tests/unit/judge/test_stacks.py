"""The debugger's stack against the kernel's: what is forgiven, and what is not.

Answers of crash for 5.10, 6.1 and 6.12 are genuine: tests/unit/report/test_genuine.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.judge import backtrace, stacks
from sandbox.judge.backtrace import Backtrace
from sandbox.judge.call_trace import CallTrace
from sandbox.judge.which_trace import panic_trace
from sandbox.report import signature

# drgn 0.3.0 on a dump of 7.2.12 that vmbox demo made: `crash bt` of drgn.commands.
DRGN = """PID: 1        TASK: ff429f4ac12b8000  CPU: 1  COMMAND: "init"
 #0 (inline)           crash_setup_regs
 #1 [ff6880a180013b48] __crash_kexec at ffffffffaf8d0a81
 #2 [ff6880a180013c08] vpanic at ffffffffaf60c239
 #3 [ff6880a180013c38] panic at ffffffffaf60c49b
 #4 [ff6880a180013c98] sysrq_handle_crash at ffffffffb01b16ba
 #5 [ff6880a180013ca0] __handle_sysrq at ffffffffaf679d99
 #6 [ff6880a180013ce8] write_sysrq_trigger at ffffffffb01b256b
 #7 (inline)           pde_write
 #8 [ff6880a180013d10] proc_reg_write at ffffffffafce63aa
 #9 [ff6880a180013d20] vfs_write at ffffffffafc0b4c6
#10 [ff6880a180013db0] ksys_write at ffffffffafc0bb4b
#11 (inline)           do_syscall_x64
#12 [ff6880a180013de8] do_syscall_64 at ffffffffb0636b41
#13 [ff6880a180013f48] entry_SYSCALL_64 at ffffffffaf40012f
    RIP: 00000000004b0642  RSP: 00007ffefa7e2e10  RFLAGS: 00000202
"""
# The log of that dump.
LOG = """[   10.680100] [      T1] Kernel panic - not syncing: sysrq triggered crash
[   10.680500] [      T1] CPU: 1 UID: 0 PID: 1 Comm: init Kdump: loaded Not tainted 7.2.12+deb14-cloud-amd64 #1
[   10.680950] [      T1] Call Trace:
[   10.682561] [      T1]  <TASK>
[   10.682900] [      T1]  dump_stack_lvl+0x5d/0x80
[   10.683204] [      T1]  vpanic+0x246/0x440
[   10.683291] [      T1]  panic+0x6b/0x70
[   10.683368] [      T1]  sysrq_handle_crash+0x1a/0x20
[   10.683485] [      T1]  __handle_sysrq.cold+0xba/0x1b9
[   10.683591] [      T1]  ? security_file_permission+0x55/0x100
[   10.683710] [      T1]  write_sysrq_trigger+0x7b/0xd0
[   10.683810] [      T1]  proc_reg_write+0x5a/0xb0
[   10.683901] [      T1]  vfs_write+0xe6/0x560
[   10.684186] [      T1]  ksys_write+0x7b/0x110
[   10.684271] [      T1]  do_syscall_64+0xe1/0x610
[   10.684366] [      T1]  ? filp_flush+0x58/0x80
[   10.685009] [      T1]  entry_SYSCALL_64_after_hwframe+0x76/0x7e
[   10.685222] [      T1] RIP: 0033:0x4b0642
[   10.687033] [      T1]  </TASK>
"""

OOPS_LOG = """BUG: kernel NULL pointer dereference, address: 0000000000000000
Oops: Oops: 0002 [#1] SMP
CPU: 0 PID: 96 Comm: insmod Not tainted 6.12.1 #1
RIP: 0010:init_module+0x9/0x1000 [null]
Call Trace:
 <TASK>
 ? show_regs+0x6c/0x80
 ? page_fault_oops+0x17a/0x4c0
 ? asm_exc_page_fault+0x27/0x30
 do_one_initcall+0x58/0x310
 do_init_module+0x60/0x230
 do_syscall_64+0x87/0x180
 entry_SYSCALL_64_after_hwframe+0x76/0x7e
RIP: 0033:0x4ae3f7
 </TASK>
Kernel panic - not syncing: Fatal exception
"""
OOPS_CRASH = """PID: 96       TASK: ffff9b3d01f1a8c0  CPU: 0    COMMAND: "insmod"
 #0 [ffffb4e0402ff938] machine_kexec at ffffffff9c26c62f
 #1 [ffffb4e0402ff990] __crash_kexec at ffffffff9c3646b7
 #2 [ffffb4e0402ffa50] crash_kexec at ffffffff9c3657e8
 #3 [ffffb4e0402ffa60] oops_end at ffffffff9c22a0cb
 #4 [ffffb4e0402ffa80] page_fault_oops at ffffffff9c27b4a9
 #5 [ffffb4e0402ffb00] exc_page_fault at ffffffff9cc0a1b2
 #6 [ffffb4e0402ffb30] asm_exc_page_fault at ffffffff9ce00bb2
    [exception RIP: init_module+9]
    RIP: ffffffffc0a60009  RSP: ffffb4e0402ffbe8  RFLAGS: 00010246
 #7 [ffffb4e0402ffbe8] do_one_initcall at ffffffff9c2010d8
 #8 [ffffb4e0402ffc60] do_init_module at ffffffff9c35f1a0
 #9 [ffffb4e0402ffcc8] do_syscall_64 at ffffffff9cc03f4d
#10 [ffffb4e0402fff50] entry_SYSCALL_64_after_hwframe at ffffffff9ce00126
"""


def _trace(log: str) -> CallTrace:
    found = panic_trace(log.splitlines())
    assert found is not None
    return found


def _stack(text: str) -> Backtrace:
    (found,) = backtrace.parse(text)
    return found


def _words(text: str, log: str = LOG) -> str | None:
    verdict = stacks.judge(_stack(text), _trace(log), by="crash")
    assert verdict is not None
    return None if verdict.agrees else verdict.words


def test_inlined_frames_cold_parts_and_the_panic_path_are_forgiven() -> None:
    verdict = stacks.judge(_stack(DRGN), _trace(LOG), by="drgn")
    assert verdict is not None
    assert verdict.line == "AGREES WITH: the log's call trace (8 frames)"
    assert verdict.stack[:2] == verdict.witness[:2] == ("sysrq_handle_crash", "__handle_sysrq")


def test_an_oops_agrees_from_the_function_that_the_exception_stopped() -> None:
    assert _words(OOPS_CRASH, OOPS_LOG) is None
    # drgn has the function as a frame of its own.
    drgn = OOPS_CRASH.replace(
        "    [exception RIP: init_module+9]\n", " #6 [ffffb4e0402ffbe0] init_module at ffffffffc0a\n"
    )
    assert _words(drgn, OOPS_LOG) is None
    # The function is in a module, and its debuginfo is of another.
    assert _words(OOPS_CRASH.replace("init_module+9", "exit_module+9"), OOPS_LOG) == (
        "crash has exit_module below panic(), there it is init_module"
    )


@pytest.mark.parametrize(
    ("was", "became", "words"),
    [
        (
            "write_sysrq_trigger",
            "security_file_permission",
            "crash has security_file_permission below __handle_sysrq, there it is write_sysrq_trigger",
        ),
        ("ksys_write", "vfs_write", "crash has vfs_write below vfs_write, there it is ksys_write"),
        # Frames of an earlier system call, below the first one.
        (
            "#13 [ff6880a180013f48] entry_SYSCALL_64",
            "#13 [ff6880a180013e00] do_syscall_64 at ffffffffb0636b41\n#14 [ff6880a180013f48] entry_SYSCALL_64",
            "crash has do_syscall_64 more than once",
        ),
        (
            "#13 [ff6880a180013f48] entry_SYSCALL_64",
            "#13 [ff6880a180013e00] filp_flush at ffffffffb0636b41\n#14 [ff6880a180013f48] entry_SYSCALL_64",
            "crash has filp_flush below do_syscall_64, there the stack ends",
        ),
    ],
)
def test_a_false_frame_is_found_and_named(was: str, became: str, words: str) -> None:
    assert was in DRGN
    assert _words(DRGN.replace(was, became)) == words


def test_a_stack_that_ends_too_early_is_shorter_and_has_the_debuggers_own_words() -> None:
    short = DRGN[: DRGN.index("#10")] + "bt: cannot read stack page\n"
    words = "crash ends below vfs_write, there ksys_write follows; crash says: cannot read stack page"
    assert _words(short) == words
    verdict = stacks.judge(_stack(short), _trace(LOG), by="crash")
    assert verdict is not None
    assert verdict.shorter
    assert verdict.line == f"IS SHORTER THAN: the log's call trace ({words})"
    # With a false function, or with the entry below it, it is no shorter stack but another.
    for other in (short.replace("vfs_write", "vfs_read"), short + DRGN[DRGN.index("#13") :]):
        verdict = stacks.judge(_stack(other), _trace(LOG), by="crash")
        assert verdict is not None
        assert (verdict.agrees, verdict.shorter) == (False, False)


def test_a_log_that_was_cut_agrees_as_far_as_it_goes() -> None:
    cut = LOG[: LOG.index("[   10.683901]")]
    assert _trace(cut).cut
    assert _words(DRGN, cut) is None
    # What is there still counts.
    assert _words(DRGN.replace("write_sysrq_trigger", "other"), cut) is not None


def test_an_address_after_a_call_that_never_returns_has_no_name() -> None:
    noreturn = LOG.replace("sysrq_handle_crash+0x1a/0x20", "sysrq_reset_seq_param_set+0x0/0x80")
    assert _words(DRGN, noreturn) is None


def test_stacks_of_other_tasks_are_not_compared() -> None:
    other = replace(_stack(DRGN), pid=7)
    assert stacks.judge(other, _trace(LOG), by="crash") is None
    # Each CPU has an idle task of PID 0.
    idle = replace(_trace(LOG), pid=0)
    assert stacks.judge(replace(_stack(DRGN), pid=0, cpu=0), idle, by="crash") is None
    assert stacks.judge(replace(_stack(DRGN), pid=0, cpu=1), idle, by="crash") is not None
    # But the debugger may be wrong about which task panicked.
    verdict = stacks.judge_task(other, _trace(LOG), by="crash")
    assert verdict is not None
    assert verdict.words == "crash names PID 7 on CPU 1, the kernel printed the panic in PID 1 on CPU 1"
    assert not verdict.agrees


def test_two_debuggers_are_compared_where_the_log_is_silent() -> None:
    crash = "".join(line for line in DRGN.splitlines(keepends=True) if "(inline)" not in line)
    same = stacks.between(_stack(crash), _stack(DRGN), by="crash", against="drgn")
    assert same is not None
    assert same.line == "AGREES WITH: drgn (8 frames)"
    parted = stacks.between(_stack(crash.replace("vfs_write", "vfs_read")), _stack(DRGN), by="crash", against="drgn")
    assert parted is not None
    assert parted.words == "crash has vfs_read below proc_reg_write, there it is vfs_write"
    assert stacks.between(replace(_stack(DRGN), frames=()), _stack(DRGN), by="crash", against="drgn") is None


# A module without debuginfo: vmbox demo --trigger null-pointer with 6.1, by drgn 0.3.0, and its log.
NAMELESS = """PID: 102      TASK: ff2c4aeaafe90000  CPU: 1  COMMAND: "insmod"
 #0 [ff6373eb003fbc58] 0xffffffffc036d015 at ffffffffc036d015
 #1 [ff6373eb003fbc68] 0xffffffffc036d00d at ffffffffc036d00d
 #2 [ff6373eb003fbc78] do_one_initcall at ffffffff836024b9
 #3 [ff6373eb003fbce8] do_init_module at ffffffff83739faa
 #4 [ff6373eb003fbd08] __do_sys_finit_module at ffffffff8373c67c
 #5 (inline)           do_syscall_x64
 #6 [ff6373eb003fbdd8] do_syscall_64 at ffffffff84003f4d
 #7 [ff6373eb003fbf58] entry_SYSCALL_64 at ffffffff84200126
"""
NAMELESS_LOG = """[    8.693567] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    8.694403] Oops: 0002 [#1] PREEMPT SMP NOPTI
[    8.694582] CPU: 1 PID: 102 Comm: insmod Kdump: loaded Tainted: G           OE      6.1.0-56-cloud-amd64 #1
[    8.696737] RIP: 0010:vmbox_crashes+0x6/0xff1 [crash]
[    8.696737] Call Trace:
[    8.696737]  <TASK>
[    8.696737]  init_module+0xd/0xf [crash]
[    8.696737]  do_one_initcall+0x59/0x220
[    8.696737]  do_init_module+0x4a/0x1f0
[    8.696737]  __do_sys_finit_module+0xac/0x120
[    8.696737]  do_syscall_64+0x5d/0x90
[    8.696737]  ? handle_mm_fault+0xdb/0x2d0
[    8.696737]  entry_SYSCALL_64_after_hwframe+0x6e/0xd8
[    8.696737] RIP: 0033:0x47fbe9
[    8.696737]  </TASK>
"""


def test_an_address_without_a_symbol_stands_for_any_function() -> None:
    assert _words(NAMELESS, NAMELESS_LOG) is None
    assert _words(NAMELESS.replace("do_init_module", "load_module"), NAMELESS_LOG) is not None
    # The signature has the kernel's names.
    found = signature.of(cause="null-pointer", backtrace=_stack(NAMELESS), log=NAMELESS_LOG.splitlines())
    assert (found.frames[:2], found.basis) == (("vmbox_crashes", "init_module"), "log")
    # Also for the second name of a module's init function, which crash shows.
    alias = NAMELESS.replace("0xffffffffc036d015 at", "vmbox_crashes at").replace(
        "0xffffffffc036d00d at", "init_module at"
    )
    logged = NAMELESS_LOG.replace("init_module+0xd", "vmbox_init+0xd")
    by_crash = signature.of(cause="null-pointer", backtrace=_stack(alias), log=logged.splitlines())
    assert by_crash == signature.of(cause="null-pointer", log=logged.splitlines())
    alone = signature.of(cause="null-pointer", backtrace=_stack(NAMELESS))
    assert (alone.frames, alone.basis) == (("do_one_initcall", "do_init_module"), "backtrace")


def test_a_caller_that_frame_pointers_lead_past_makes_no_false_stack() -> None:
    """Of the function that was stopped before it had made its frame; made of a genuine stack."""
    past = NAMELESS.replace("0xffffffffc036d015 at", "vmbox_crashes at").replace(
        " #1 [ff6373eb003fbc68] 0xffffffffc036d00d at ffffffffc036d00d\n", ""
    )
    verdict = stacks.judge(_stack(past), _trace(NAMELESS_LOG), by="drgn")
    assert verdict is not None
    assert verdict.line == (
        "IS SHORTER THAN: the log's call trace "
        "(drgn has do_one_initcall below vmbox_crashes, there init_module is between them)"
    )
    # Once, and only there.
    for false in (
        past.replace("do_init_module", "load_module"),
        past.replace(" #3 [ff6373eb003fbce8] do_init_module at ffffffff83739faa\n", ""),
        past.replace(" #2 [ff6373eb003fbc78] do_one_initcall at ffffffff836024b9\n", ""),
    ):
        verdict = stacks.judge(_stack(false), _trace(NAMELESS_LOG), by="drgn")
        assert verdict is not None
        assert (verdict.agrees, verdict.shorter) == (False, False), verdict


# 6.12 of aarch64, read without debuginfo by drgn 0.3.0, which does not know the stack pointers; some frames left out.
FRAME_POINTERS = """PID: 1        TASK: ffff2b2d425d3780  CPU: 0  COMMAND: "init"
 #0 [ffff80008000b920] vectors at ffffce336a810a80
 #1 [????????????????] __delay at ffffce336b59ada4
 #3 [????????????????] vpanic at ffffce336b5cb178
 #4 [????????????????] panic at ffffce336b5cb1f8
 #5 [????????????????] sysrq_handle_crash at ffffce336b176d08
 #6 [????????????????] __handle_sysrq at ffffce336b1776d4
 #7 [????????????????] write_sysrq_trigger at ffffce336b177eb0
 #9 [????????????????] vfs_write at ffffce336ac49e64
#17 [????????????????] el0t_64_sync at ffffce336a811550
"""
FRAME_POINTERS_LOG = """[    3.252000] Kernel panic - not syncing: sysrq triggered crash
[    3.252400] CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 6.12.118+deb13-cloud-arm64 #1  Debian 6.12.118-1
[    3.252942] Call trace:
[    3.257352]  vpanic+0x11c/0x338
[    3.257441]  trace_suspend_resume+0x0/0x70
[    3.257553]  sysrq_handle_crash+0x20/0x28
[    3.257665]  __handle_sysrq+0xa4/0x1a8
[    3.257766]  write_sysrq_trigger+0xc8/0xe0
[    3.257983]  vfs_write+0xdc/0x3b0
[    3.258790]  el0t_64_sync+0x190/0x198
"""


def test_frames_without_a_stack_pointer_and_panic_without_a_name_are_compared() -> None:
    assert len(_stack(FRAME_POINTERS).frames) == 9
    assert _words(FRAME_POINTERS, FRAME_POINTERS_LOG) is None
    assert _words(FRAME_POINTERS.replace("vfs_write", "vfs_read"), FRAME_POINTERS_LOG) is not None


# A soft lockup of 7.2 by drgn 0.3.0, as `bt` of vmbox printed it; some registers are left out.
LOCKUP = """PID: 118      TASK: ff3bcb464365c600  CPU: 1  COMMAND: "insmod"
 #0 (inline)           crash_setup_regs
 #1 [ff7371b9000f0da0] __crash_kexec at ffffffff878d0a81
 #2 [ff7371b9000f0e60] vpanic at ffffffff8760c239
 #3 [ff7371b9000f0e90] panic at ffffffff8760c49b
 #4 [ff7371b9000f0ef0] watchdog_timer_fn at ffffffff8761e07e
#11 [ff7371b9000f0ff8] sysvec_apic_timer_interrupt at ffffffff8863f1dc
#12 [ff7371b9004a3938] asm_sysvec_apic_timer_interrupt at ffffffff8740160a
--- <IRQ stack> ---
    RIP: ffffffffc040501c  RSP: ff7371b9004a39e8  RFLAGS: 00000246
     CS: 0010   SS: 0018
#13 [ff7371b9004a39e8] loops_for_ever at ffffffffc040501c
#14 [ff7371b9004a39f8] init_module at ffffffffc040500d
#15 [ff7371b9004a3a08] do_one_initcall at ffffffff8769ebfe
#24 [ff7371b9004a3f48] entry_SYSCALL_64 at ffffffff8740012f
     CS: 0033   SS: 002b
"""


def test_the_function_that_an_interrupt_stopped_begins_the_signature_of_drgns_stack() -> None:
    stack = _stack(LOCKUP)
    assert [frame.function for frame in stack.frames if frame.stopped] == ["loops_for_ever"]
    found = signature.of(cause="soft-lockup", backtrace=stack)
    assert found.frames == ("loops_for_ever", "init_module", "do_one_initcall")
    # crash names it in another way, and marks no frame.
    assert not any(frame.stopped for frame in _stack(OOPS_CRASH).frames)


# A BUG() in a tasklet of 6.1, by drgn 0.3.0, and its log.
SOFTIRQ = """PID: 21       TASK: ff2775a1412b8000  CPU: 1  COMMAND: "ksoftirqd/1"
 #0 [ff52349e400bbe50] vmbox_tasklet at ffffffffc04fb4c9 [vmbox_demo]
 #1 [ff52349e400bbe60] tasklet_action_common at ffffffff8c49cb07
 #2 [ff52349e400bbe98] handle_softirqs at ffffffff8c49c597
 #3 (inline)           run_ksoftirqd
 #4 [ff52349e400bbef8] run_ksoftirqd at ffffffff8c49ca2d
 #5 [ff52349e400bbf00] smpboot_thread_fn at ffffffff8c4c80c8
 #6 [ff52349e400bbf20] kthread at ffffffff8c4bfbfa
 #7 [ff52349e400bbf58] ret_from_fork at ffffffff8c4032f2
"""
SOFTIRQ_LOG = """[    3.1] kernel BUG at vmbox_demo.c:251!
[    3.1] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
[    3.1] CPU: 1 PID: 21 Comm: ksoftirqd/1 Kdump: loaded Tainted: G           OE      6.1.0-56-cloud-amd64 #1
[    3.1] RIP: 0010:vmbox_tasklet+0x9/0xb [vmbox_demo]
[    3.1] Call Trace:
[    3.1]  <TASK>
[    3.1]  tasklet_action_common.constprop.0+0xa7/0x100
[    3.1]  handle_softirqs+0xc7/0x280
[    3.1]  run_ksoftirqd+0x2d/0x40
[    3.1]  smpboot_thread_fn+0x1c8/0x260
[    3.1]  kthread+0xda/0x100
[    3.1]  ret_from_fork+0x22/0x30
[    3.1]  </TASK>
"""


def test_a_function_of_which_a_part_is_inlined_into_the_rest_is_one() -> None:
    assert _words(SOFTIRQ, SOFTIRQ_LOG) is None
    assert _words(SOFTIRQ.replace("smpboot_thread_fn", "other"), SOFTIRQ_LOG) is not None


# Of Debian's 5.10.0-32-cloud-amd64, by drgn: a task that ran when another CPU panicked.
CLEARING = """PID: 89       TASK: ffff938ac1f30000  CPU: 0  COMMAND: "busybox"
 #0 [ffffb10a0017fa98] clear_page_erms at ffffffff89f38857
 #1 [ffffb10a0017faa0] kernel_init_free_pages at ffffffff89c6d5d6
 #2 [ffffb10a0017faa8] prep_new_page at ffffffff89c6f5f0
 #3 [ffffb10a0017fad0] get_page_from_freelist at ffffffff89c72378
 #4 [ffffb10a0017ff48] do_syscall_64 at ffffffff8a2a5a03
 #5 [ffffb10a0017ff58] entry_SYSCALL_64_after_hwframe at ffffffff8a40011f
"""


@pytest.mark.parametrize(
    "function", ["kernel_init_free_pages", "kernel_init_pages", "system_callback", "die_cpus_read", "do_membarrier"]
)
def test_a_function_whose_name_only_begins_as_an_entrys_is_none(function: str) -> None:
    (stack,) = backtrace.parse(CLEARING.replace("kernel_init_free_pages", function))
    same = stacks.between(stack, stack, by="drgn", against="crash")
    assert same is not None
    assert (same.agrees, same.words) == (True, "6 frames")
    expected = ("clear_page_erms", function, "prep_new_page", "get_page_from_freelist")
    assert signature.of(cause="oops", backtrace=stack).frames == expected
    alone = replace(stack, frames=stack.frames[1:])
    assert signature.of(cause="oops", backtrace=alone).frames == expected[1:]
    (false,) = backtrace.parse(CLEARING.replace("get_page_from_freelist", "vfs_write"))
    verdict = stacks.between(false, stack, by="drgn", against="crash")
    assert verdict is not None
    assert not verdict.agrees
