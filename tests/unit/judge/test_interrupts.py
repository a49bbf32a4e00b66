"""Panics in interrupts: stacks that go on below one, and which of their functions name the bug.

The stacks are genuine, of Debian's 6.1.0-56-cloud-amd64: a module's timer and a module's call of NULL.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.judge import backtrace, stacks
from sandbox.judge.which_trace import dump_trace
from sandbox.report import signature

# A timer's function on an idle CPU 0, whose idle task is the one that booted.
DRGN = """PID: 0        TASK: ffffffffad01aa40  CPU: 0  COMMAND: "swapper/0"
 #0 [ff83ebc100003e90] vmbox_forward at ffffffffc03dc106 [vmbox_demo]
 #1 [ff83ebc100003ea0] x_soft at ffffffffc03dc163 [vmbox_demo]
 #2 [ff83ebc100003eb0] call_timer_fn at ffffffffab744737
 #3 (inline)           expire_timers
 #4 [ff83ebc100003ed0] __run_timers at ffffffffab744a62
 #5 [ff83ebc100003f80] run_timer_softirq at ffffffffab744b19
 #6 [ff83ebc100003f88] handle_softirqs at ffffffffab69c597
 #7 [ff83ebc100003fe8] __irq_exit_rcu at ffffffffab69c7ec
 #8 [ff83ebc100003ff8] sysvec_apic_timer_interrupt at ffffffffac00656e
 #9 [ffffffffad003de8] asm_sysvec_apic_timer_interrupt at ffffffffac200ec6
    RIP: ffffffffac017a0b  RSP: ffffffffad003e98  RFLAGS: 00000246
     CS: 0010   SS: 0018
#10 [ffffffffad003e98] native_safe_halt at ffffffffac017a0b
#11 [ffffffffad003ea0] amd_e400_idle at ffffffffab63c09d
#12 [ffffffffad003ea8] default_idle_call at ffffffffac017b58
#13 [ffffffffad003eb0] do_idle at ffffffffab6eddc6
#14 [ffffffffad003ef0] cpu_startup_entry at ffffffffab6ee046
#15 [ffffffffad003f00] rest_init at ffffffffac007a2a
#16 [ffffffffad003f10] arch_call_rest_init at ffffffffad64ee19
#17 [ffffffffad003f18] start_kernel at ffffffffad64f529
#18 [ffffffffad003f58] secondary_startup_64 at ffffffffab600159
"""
CRASH = """PID: 0        TASK: ffffffffad01aa40  CPU: 0    COMMAND: "swapper/0"
 #0 [ff83ebc100003bf8] machine_kexec at ffffffffab66c62f
 #1 [ff83ebc100003d18] oops_end at ffffffffab633d61
 #2 [ff83ebc100003d38] page_fault_oops at ffffffffab67b4d9
 #3 [ff83ebc100003db8] exc_page_fault at ffffffffac006ef0
 #4 [ff83ebc100003de0] asm_exc_page_fault at ffffffffac200c02
    [exception RIP: vmbox_forward+6]
    RIP: ffffffffc03dc106  RSP: ff83ebc100003e90  RFLAGS: 00000202
    ORIG_RAX: ffffffffffffffff  CS: 0010  SS: 0018
 #5 [ff83ebc100003e98] x_soft at ffffffffc03dc163 [vmbox_demo]
 #6 [ff83ebc100003ea8] call_timer_fn at ffffffffab744737
 #7 [ff83ebc100003ec8] __run_timers at ffffffffab744a62
 #8 [ff83ebc100003f78] run_timer_softirq at ffffffffab744b19
 #9 [ff83ebc100003f80] handle_softirqs at ffffffffab69c597
#10 [ff83ebc100003fe0] __irq_exit_rcu at ffffffffab69c7ec
#11 [ff83ebc100003ff0] sysvec_apic_timer_interrupt at ffffffffac00656e
--- <IRQ stack> ---
#12 [ffffffffad003de8] asm_sysvec_apic_timer_interrupt at ffffffffac200ec6
    [exception RIP: native_safe_halt+11]
    RIP: ffffffffac017a0b  RSP: ffffffffad003e98  RFLAGS: 00000246
    ORIG_RAX: ffffffffffffffff  CS: 0010  SS: 0018
#13 [ffffffffad003e98] amd_e400_idle at ffffffffab63c09d
#14 [ffffffffad003ea0] default_idle_call at ffffffffac017b58
#15 [ffffffffad003ea8] do_idle at ffffffffab6eddc6
#16 [ffffffffad003ee8] cpu_startup_entry at ffffffffab6ee046
#17 [ffffffffad003ef8] rest_init at ffffffffac007a2a
#18 [ffffffffad003f08] arch_call_rest_init at ffffffffad64ee19
#19 [ffffffffad003f10] start_kernel at ffffffffad64f529
#20 [ffffffffad003f50] secondary_startup_64_no_verify at ffffffffab600159
"""
LOG = """BUG: kernel NULL pointer dereference, address: 0000000000000018
Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 0 Comm: swapper/0 Kdump: loaded Tainted: G           OE      6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
RIP: 0010:vmbox_forward+0x6/0x30 [vmbox_demo]
RSP: 0018:ff83ebc100003e90 EFLAGS: 00000202
Call Trace:
 <IRQ>
 x_soft+0x13/0x20 [vmbox_demo]
 call_timer_fn+0x27/0x130
 ? x_ipi+0x20/0x20 [vmbox_demo]
 __run_timers+0x222/0x2c0
 run_timer_softirq+0x19/0x30
 handle_softirqs+0xd7/0x280
 __irq_exit_rcu+0xac/0xe0
 sysvec_apic_timer_interrupt+0x6e/0x90
 </IRQ>
 <TASK>
 asm_sysvec_apic_timer_interrupt+0x16/0x20
RIP: 0010:native_safe_halt+0xb/0x10
RSP: 0018:ffffffffad003e98 EFLAGS: 00000246
 amd_e400_idle+0x3d/0x50
 default_idle_call+0x38/0xf0
 do_idle+0x206/0x2b0
 cpu_startup_entry+0x26/0x30
 rest_init+0xca/0xd0
 arch_call_rest_init+0xa/0x14
 start_kernel+0x6e8/0x6fc
 secondary_startup_64_no_verify+0xe4/0xeb
 </TASK>
""".splitlines()

# A panic in a timer's function, while a module's loop ran.
HARD = """Kernel panic - not syncing: x panic in hard interrupt
CPU: 0 PID: 101 Comm: insmod Kdump: loaded Tainted: G           OE      6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
Call Trace:
 <IRQ>
 dump_stack_lvl+0x44/0x5c
 panic+0x118/0x2f4
 x_hard+0x15/0x15 [vmbox_demo]
 __hrtimer_run_queues+0x10d/0x250
 hrtimer_interrupt+0xf4/0x210
 __sysvec_apic_timer_interrupt+0x5d/0x110
 sysvec_apic_timer_interrupt+0x69/0x90
 </IRQ>
 <TASK>
 asm_sysvec_apic_timer_interrupt+0x16/0x20
RIP: 0010:x_busy+0x34/0x50 [vmbox_demo]
RSP: 0018:ff5049de403ebd20 EFLAGS: 00000293
 x_irq+0x4c/0x60 [vmbox_demo]
 do_one_initcall+0x59/0x220
 do_syscall_64+0x5d/0x90
 entry_SYSCALL_64_after_hwframe+0x6e/0xd8
 </TASK>
""".splitlines()

NULL_LOG = """BUG: kernel NULL pointer dereference, address: 0000000000000000
Oops: 0010 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 101 Comm: insmod Kdump: loaded Tainted: G           OE      6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
RIP: 0010:0x0
Code: Unable to access opcode bytes at 0xffffffffffffffd6.
Call Trace:
 <TASK>
 x_jump+0x10/0x30 [vmbox_demo]
 x_all+0x189/0x290 [vmbox_demo]
 do_one_initcall+0x59/0x220
 do_syscall_64+0x5d/0x90
 entry_SYSCALL_64_after_hwframe+0x6e/0xd8
 </TASK>
""".splitlines()
NULL_DRGN = """PID: 101      TASK: ff2452d4eff30000  CPU: 0  COMMAND: "insmod"
 #0 [ff69cb94c03fbb90] 0x0 at 0
 #1 [ff69cb94c03fbb98] x_jump at ffffffffc0472180 [vmbox_demo]
 #2 [ff69cb94c03fbba8] x_all at ffffffffc0472959 [vmbox_demo]
 #3 [ff69cb94c03fbbf0] do_one_initcall at ffffffffa4c024b9
 #4 [ff69cb94c03fbd50] do_syscall_64 at ffffffffa5603f4d
 #5 [ff69cb94c03fbf58] entry_SYSCALL_64 at ffffffffa5800126
"""


@pytest.mark.parametrize("answer", [DRGN, CRASH], ids=["drgn", "crash"])
def test_the_stack_of_the_idle_task_that_booted_agrees(answer: str) -> None:
    (stack,) = backtrace.parse(answer)
    trace = dump_trace(LOG)
    assert trace is not None
    verdict = stacks.judge(stack, trace, by="a debugger")
    assert verdict is not None
    assert verdict.agrees, verdict
    assert verdict.words == "18 frames"
    # One function below the interrupt that was never called is seen.
    (false,) = backtrace.parse(answer.replace("default_idle_call", "wait_for_completion"))
    verdict = stacks.judge(false, trace, by="a debugger")
    assert verdict is not None
    assert not verdict.agrees


def test_a_bug_in_an_interrupt_is_named_by_its_handler_and_not_by_what_it_stopped() -> None:
    expected = ("vmbox_forward", "x_soft", "call_timer_fn", "__run_timers", "run_timer_softirq")
    made = [signature.of(cause="null-pointer", log=LOG)]
    made += [signature.of(cause="null-pointer", backtrace=backtrace.parse(one)[0]) for one in (DRGN, CRASH)]
    assert {one.frames for one in made} == {expected}
    assert len({one.id for one in made}) == 1
    hard = signature.of(cause="other", log=HARD)
    assert hard.frames == ("x_hard", "__hrtimer_run_queues", "hrtimer_interrupt", "__sysvec_apic_timer_interrupt",
                           "sysvec_apic_timer_interrupt")  # fmt: skip
    # A watchdog's handler is not the bug: what it stopped is.
    assert signature.of(cause="soft-lockup", log=HARD).frames == ("x_busy", "x_irq", "do_one_initcall")


def test_a_call_of_no_code_is_no_function_that_was_never_called() -> None:
    (stack,) = backtrace.parse(NULL_DRGN)
    trace = dump_trace(NULL_LOG)
    assert trace is not None
    verdict = stacks.judge(stack, trace, by="drgn")
    assert verdict is not None
    assert (verdict.agrees, verdict.words) == (True, "5 frames")
    # crash has no frame of it.
    by_crash = replace(stack, frames=stack.frames[1:])
    between = stacks.between(stack, by_crash, by="drgn", against="crash")
    assert between is not None
    assert between.agrees
    other = replace(stack.frames[1], function="x_other")
    for false in ((stack.frames[0], other, *stack.frames[2:]), (stack.frames[0], *stack.frames)):
        verdict = stacks.judge(replace(stack, frames=false), trace, by="drgn")
        assert verdict is not None
        assert not verdict.agrees, verdict
