"""Crashes in which no memory was accessed: warnings, checks, divisions, canaries, memory that ran out.

The double fault is a genuine log (`vmbox demo --trigger double-fault`, 6.1); the others have the forms of the kernel.
"""

from __future__ import annotations

import pytest
from test_fault import ALONE, log_of, said

from sandbox.explain import oops
from sandbox.explain.facts import Facts, Instruction
from sandbox.explain.fault import Readings, explain
from sandbox.explain.model import Fault
from sandbox.explain.x86 import divisor

TASK = "CPU: 1 PID: 102 Comm: insmod Tainted: G           OE      6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2"
DIED = "Kernel panic - not syncing: Fatal exception"


def explained(*lines: str, panic: str = DIED, read: Readings = ALONE) -> Fault:
    log = [f"[    5.{number:06}] {line}" for number, line in enumerate([*lines, panic])]
    found = explain(log, arch="x86_64", readings=read, panic=panic, debugger=None)
    assert found is not None
    return found


WARNED = (
    "------------[ cut here ]------------",
    "refcount_t: addition on 0; use-after-free.",
    "WARNING: CPU: 1 PID: 102 at lib/refcount.c:25 refcount_warn_saturate+0x74/0x110",
    "Modules linked in: vmbox_demo(OE+)",
    TASK,
    "RIP: 0010:refcount_warn_saturate+0x74/0x110",
    "RSP: 0018:ff4b5a3a40076800 EFLAGS: 00000286",
    "Call Trace:",
    " <TASK>",
    " vmbox_get+0x20/0x30 [vmbox_demo]",
    " vmbox_demo_init+0x30/0x100 [vmbox_demo]",
    " </TASK>",
)
ON_WARN = "Kernel panic - not syncing: kernel: panic_on_warn set ..."


def test_a_warning_that_ended_the_kernel_has_its_line_its_words_and_its_caller() -> None:
    fault = explained(*WARNED, panic=ON_WARN)
    assert said(fault, "what") == (
        "A check in the kernel's own code warned: WARN() at lib/refcount.c:25. The kernel would have gone on, but "
        "panic_on_warn is set.\nBefore it the kernel said: refcount_t: addition on 0; use-after-free."
    )
    assert (fault.function, fault.access) == ("refcount_warn_saturate", None)
    assert "It was called by vmbox_get < vmbox_demo_init." in said(fault, "where")


def test_a_warning_without_words_of_its_own_has_none() -> None:
    fault = explained(WARNED[0], *WARNED[2:], panic=ON_WARN)
    assert "Before it" not in said(fault)


@pytest.mark.parametrize(
    "first",
    [
        "WARNING: at lib/refcount.c:25 refcount_warn_saturate+0x74/0x110",
        "WARNING: lib/refcount.c:25 at refcount_warn_saturate+0x74/0x110, CPU#1: insmod/102",
        "WARNING: [count == 0] lib/refcount.c:25 at refcount_warn_saturate+0x74/0x110, CPU#1: insmod/102",
    ],
)
def test_newer_kernels_name_no_cpu_in_a_warning_or_at_its_end(first: str) -> None:
    assert "WARN() at lib/refcount.c:25" in said(explained(*WARNED[:2], first, *WARNED[3:], panic=ON_WARN))


def test_a_warning_that_the_kernel_survived_is_not_its_end() -> None:
    fault = explained(*WARNED, panic="Kernel panic - not syncing: sysrq triggered crash")
    assert "No instruction of the kernel faulted: Kernel panic - not syncing: sysrq" in said(fault, "what")
    assert "WARN()" not in said(fault)


DIVIDED = ("divide error: 0000 [#1] PREEMPT SMP NOPTI", TASK, "RIP: 0010:vmbox_average+0x9/0x20 [vmbox_demo]")


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        ("div    %rsi", 0, "A division by zero."),
        ("idivl  %esi", 7 << 32, "A division by zero."),
        ("div    %rsi", 3, "The result of a division by 3 does not fit."),
        ("divq   0x8(%rsi)", 3, "the divisor is 0, or the result does not fit"),
    ],
)
def test_a_division_is_told_by_its_divisor(text: str, value: int, words: str) -> None:
    facts = Facts(errors={}, registers={"rsi": value}, instructions=(Instruction(offset=0, text=text),))
    assert words in said(explained(*DIVIDED, read=Readings(facts=facts)), "what")


@pytest.mark.parametrize(
    ("text", "found"),
    [("div %rsi", 0x1234567890), ("divl %esi", 0x34567890), ("idiv %si", 0x7890), ("divb %sil", 0x90)],
)
def test_the_width_of_a_divisor_is_that_of_its_register(text: str, found: int) -> None:
    assert divisor(text, {"rsi": 0x1234567890}) == found
    assert divisor(text, {}) is None


def test_without_an_instruction_both_ways_to_fail_are_named() -> None:
    assert "the divisor is 0, or the result does not fit" in said(explained(*DIVIDED), "what")


def test_a_double_fault_names_the_stack_and_the_page() -> None:
    fault = explain(log_of("double-fault"), arch="x86_64", readings=ALONE, panic=DIED)
    assert fault is not None
    assert said(fault, "what") == (
        "A double fault: the processor could not begin to handle another exception, as happens without a stack; "
        "the stack pointer was 0xff4b5a3a40076800, and the last page fault was at 0xff4b5a3a400767f8 (CR2)."
    )
    assert (fault.function, fault.module) == ("vmbox_switch", "vmbox_demo")


def test_a_canary_names_the_function_whose_frame_it_was() -> None:
    corrupted = "stack-protector: Kernel stack is corrupted in: vmbox_name+0x3b/0x40 [vmbox_demo]"
    fault = explained(panic=f"Kernel panic - not syncing: {corrupted}")
    assert said(fault, "what").startswith("The stack frame of vmbox_name+0x3b/0x40 [vmbox_demo] was overwritten: ")


MEMORY = (
    "tail invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO), order=0, oom_score_adj=0",
    "Tasks state (memory values in pages):",
    "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
    "[     96]     0    96      562       21    40960        0             0 sleep",
    "[    102]     0   102   185204   184102  1515520        0             0 tail",
    "[    103]     0   103      562      199    40960        0         -1000 a name of two",
)
OUT = "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled"


def test_who_had_most_memory_is_read_of_the_kernels_table() -> None:
    assert said(explained(*MEMORY, panic=OUT), "what").splitlines()[1:] == [
        "tail asked for a page, and none could be found.",
        "tail (PID 102) had most memory of 3 processes that the kernel listed: 184102 pages.",
    ]


def test_a_table_with_other_columns_is_read_by_its_heading() -> None:
    """mm/oom_kill.c of 6.8 has three columns more."""
    newer = (
        "[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name"
    )
    row = "[    102]     0   102   185204      400      300      100         0  1515520        0             0 tail"
    assert "PID 102) had most memory of 1 process that the kernel listed: 400 pages." in said(
        explained(MEMORY[0], newer, row, panic=OUT)
    )


def test_a_table_that_is_cut_off_is_not_read() -> None:
    assert "had most memory" not in said(explained(*MEMORY[:2], *MEMORY[3:], panic=OUT))


def test_an_error_that_the_kernel_survived_is_told_as_the_first() -> None:
    fault = explained(
        "BUG: Bad page state in process insmod  pfn:02a40", "page:00000000d34 refcount:0", panic="Kernel panic - x"
    )
    assert "It was not the first error of this boot. That was: BUG: Bad page state in process insmod" in said(fault)


def test_an_oops_of_these_kinds_is_found_wherever_it_is_cut() -> None:
    *log, panic = [f"[    5.000000] {line}" for line in (*WARNED, ON_WARN)]
    begin = next(at for at, line in enumerate(log) if "WARNING: " in line)
    for end in range(len(log) + 1):
        # The kernel went on after a warning, for all that is known, where the log has no panic.
        assert oops.find(log[:end]).last is None
        found = oops.find([*log[:end], panic]).last
        assert (None if found is None else found.line) == (begin if end > begin else None)


def test_code_in_a_page_of_data_is_run_and_not_read() -> None:
    """As `vmbox demo --trigger execute-data` prints it: the page fault is the second line."""
    fault = explained(
        "kernel tried to execute NX-protected page - exploit attempt? (uid: 0)",
        "BUG: unable to handle page fault for address: ff25eff2aff9d480",
        "#PF: supervisor instruction fetch in kernel mode",
        "#PF: error_code(0x0011) - permissions violation",
        TASK,
        "RIP: 0010:0xff25eff2aff9d480",
    )
    assert fault.access == "execute"
    assert said(fault, "what") == (
        "The kernel tried to run code at address 0xff25eff2aff9d480, which is mapped, but not as code."
    )


@pytest.mark.parametrize(
    "words",
    ["detected buffer overflow in memcpy", "usercopy: Kernel memory overwrite attempt detected to SLUB object 'x'!"],
)
def test_what_a_check_of_buffers_said_is_told(words: str) -> None:
    fault = explained(
        words,
        "------------[ cut here ]------------",
        "kernel BUG at lib/string_helpers.c:1027!",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        TASK,
    )
    assert f"Before it the kernel said: {words}." in said(fault, "what")


def test_what_a_check_of_buffers_said_is_told_above_a_warning_as_well() -> None:
    """7.2 warns first: the text is some forty lines above the BUG()."""
    said_first = "memcpy: detected buffer overflow: 32 byte write of buffer size 16"
    filler = [f"R{number:02}: 0000000000000000 R11: 0000000000000000 R12: 0000000000000000" for number in range(40)]
    bug = ("kernel BUG at lib/string_helpers.c:1044!", "Oops: invalid opcode: 0000 [#1] SMP NOPTI", TASK)
    place = "RIP: 0010:__fortify_panic+0xd/0xf"
    fault = explained(said_first, *filler, *bug, place)
    assert f"Before it the kernel said: {said_first}." in said(fault, "what")
    # Of another check it says nothing.
    other = explained(said_first, *filler, *bug, "RIP: 0010:vmbox_check+0xd/0xf")
    assert "Before it" not in said(other, "what")
