import pytest

from sandbox.dump import panic, printk
from sandbox.model import PanicCause
from sandbox.report import causes


def examine(text):
    return panic.examine(printk.from_text(text.encode()))


@pytest.mark.parametrize(
    ("lines", "cause", "shown"),
    [
        (["sysrq: Trigger a crash", "Kernel panic - not syncing: sysrq triggered crash"], "sysrq", "Kernel panic"),
        (
            [
                "SysRq : Trigger a crash",
                "BUG: unable to handle kernel NULL pointer dereference at (null)",
                "Oops: 0002 [#1] SMP",
            ],
            "sysrq",
            "BUG: unable to handle kernel NULL pointer dereference at (null)",
        ),
        (
            [
                "BUG: kernel NULL pointer dereference, address: 0000000000000008",
                "Oops: 0000 [#1] PREEMPT SMP PTI",
                "Kernel panic - not syncing: Fatal exception in interrupt",
            ],
            "null-pointer",
            "Kernel panic - not syncing: Fatal exception in interrupt",
        ),
        (["Kernel panic - not syncing: hung_task: blocked tasks"], "hung-task", "Kernel panic"),
        (["Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled"], "oom", "Kernel panic"),
        (["Kernel panic - not syncing: softlockup: hung tasks"], "soft-lockup", "Kernel panic"),
        (["Kernel panic - not syncing: Hard LOCKUP"], "hard-lockup", "Kernel panic"),
        (["Kernel panic - not syncing: Watchdog detected hard LOCKUP on cpu 3"], "hard-lockup", "Kernel panic"),
        (["Kernel panic - not syncing: RCU Stall"], "rcu-stall", "Kernel panic"),
        (["Kernel panic - not syncing: Fatal machine check on current CPU"], "mce", "Kernel panic"),
        (["Kernel panic - not syncing: NMI: Not continuing"], "nmi", "Kernel panic"),
        (["Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"], "init-killed", "Kernel panic"),
        (["Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"], "no-root", "Kernel"),
        (["kernel BUG at mm/slub.c:305!", "invalid opcode: 0000 [#1] SMP"], "bug", "kernel BUG at mm/slub.c:305!"),
        (["BUG: unable to handle page fault for address: ffffb"], "page-fault", "BUG: unable"),
        (["general protection fault, probably for non-canonical address 0xdead: 0000 [#1]"], "general-protection", "g"),
        (["Unable to handle kernel NULL pointer dereference at virtual address 00"], "null-pointer", "Unable"),
        (["Kernel panic - not syncing: panic_on_warn set ..."], "warning", "Kernel panic"),
        (["Kernel panic - not syncing: KCSAN: panic_on_warn set ..."], "kcsan", "Kernel panic"),
        (["Kernel panic - not syncing: kmsan.panic set ..."], "kmsan", "Kernel panic"),
        (["Kernel panic - not syncing: scheduling while atomic"], "scheduling-while-atomic", "Kernel panic"),
        (["Kernel panic - not syncing: workqueue: 1 stall(s) exceeded threshold 1"], "workqueue-stall", "Kernel panic"),
        (["Kernel panic - not syncing: UE page 0x3f1a22 on any memory"], "hardware-error", "Kernel panic"),
        (["Kernel panic - not syncing: corrupted stack end detected inside scheduler"], "stack-overflow", "Kernel"),
        (["Kernel panic - not syncing: dm-verity device corrupted"], "filesystem", "Kernel panic"),
        (["Kernel panic - not syncing: Timeout: Not all CPUs entered broadcast exception handler"], "mce", "Kernel"),
        (
            ["PANIC: double fault, error_code: 0x0", "Kernel panic - not syncing: Machine halted."],
            "double-fault",
            "Kernel panic",
        ),
        (
            ["CFI failure at f+0x1/0x2 (target: g+0x0/0x4; expected type: 0x1)", "invalid opcode: 0000 [#1] SMP"],
            "cfi-failure",
            "CFI failure at f",
        ),
        (["Kernel panic - not syncing: Oops - CFI: Fatal exception"], "cfi-failure", "Kernel panic"),
        (["invalid opcode: 0000 [#1] SMP NOPTI"], "invalid-opcode", "invalid opcode"),
        # The kernel was built with KASAN, which found nothing here.
        (["general protection fault: 0000 [#1] SMP KASAN PTI"], "general-protection", "general"),
        (
            [
                "general protection fault, probably for non-canonical address 0xdffffc0000000002: 0000 [#1] SMP KASAN",
                "KASAN: null-ptr-deref in range [0x0000000000000010-0x0000000000000017]",
            ],
            "null-pointer",
            "general",
        ),
        (["Kernel panic - not syncing: something nobody has seen before"], "other", "Kernel panic"),
        (["eth0: link is up"], None, None),
    ],
)
def test_causes(lines, cause, shown):
    found = examine("\n".join(f"[   10.{at:06d}] {line}" for at, line in enumerate(lines)))
    assert found.cause == cause
    assert (found.panic or "").startswith(shown or "")
    assert (found.panic is None) == (shown is None)


def test_end_line_is_not_the_panic():
    found = examine("Kernel panic - not syncing: RCU Stall\n---[ end Kernel panic - not syncing: RCU Stall ]---")
    assert found.panic == "Kernel panic - not syncing: RCU Stall"


@pytest.mark.parametrize(
    ("line", "taint"),
    [
        ("CPU: 1 PID: 9 Comm: sh Kdump: loaded Not tainted 6.1.0-50-amd64 #1", ()),
        (
            "CPU: 1 PID: 9 Comm: sh Kdump: loaded Tainted: G        W  OE     5.15.0-91-generic #101-Ubuntu",
            (
                "kernel issued a warning",
                "externally built (out-of-tree) module was loaded",
                "unsigned module was loaded",
            ),
        ),
        (
            "Pid: 9, comm: bash Tainted: P           ---------------    2.6.32-754.el6",
            ("proprietary module was loaded",),
        ),
        (
            "CPU: 0 UID: 0 PID: 1 Comm: init Tainted: G      D            6.12.0 #1\nTainted: [D]=DIE",
            ("kernel died recently, i.e. there was an oops or BUG",),
        ),
    ],
)
def test_taint(line, taint):
    assert examine(line).taint == taint


def test_uptime_and_hardware():
    found = examine(
        "[    0.000000] DMI: Some Board\n"
        "[  123.456789] Hardware name: Dell Inc. PowerEdge R640/0H28RR, BIOS 2.1 01/01/2020\n"
    )
    assert found.uptime_seconds == pytest.approx(123.456789)
    assert found.hardware == "Dell Inc. PowerEdge R640/0H28RR, BIOS 2.1 01/01/2020"


def test_console_log_goes_on_with_the_capture_kernel():
    found = examine(
        "[    0.000000] Linux version 6.1.0 (a@b) (gcc) #1 SMP Debian 6.1.170-3\n"
        "[    5.000000] Kernel panic - not syncing: RCU Stall\n"
        "[    0.000000] Linux version 9.9.9 (c@d) (gcc) #2 SMP\n"
    )
    assert (found.release, found.utsname_version) == ("6.1.0", "#1 SMP Debian 6.1.170-3")


def test_escape_sequences_do_not_pass():
    found = examine("[    1.000000] Kernel panic - not syncing: \x1b]0;evil\x07 RCU Stall")
    assert found.panic is not None
    assert found.panic.isprintable()


def test_every_cause_has_messages_and_an_explanation():
    assert {cause for _, cause in panic._CAUSES} == {*PanicCause} - {PanicCause.OTHER}
    assert len({causes.explain(cause) for cause in (None, *PanicCause)}) == len(PanicCause) + 1


def test_a_capture_kernel_that_panics_is_not_the_crash() -> None:
    own = "[   99.000001] Kernel panic - not syncing: hung_task: blocked tasks\n"
    banner = "[    0.000000] Linux version 6.1.0 (x@y) (gcc) #1 SMP\n"
    capture = banner + "[    0.000000] Command line: root=/dev/vda elfcorehdr=0x3000000 quiet\n"
    oom = "[    9.000001] Kernel panic - not syncing: Out of memory: System is deadlocked on memory\n"
    found = examine(banner + own + capture + oom)
    assert (found.cause, found.uptime_seconds) == (PanicCause.HUNG_TASK, 99.000001)
    # A log of a capture kernel alone is of that one.
    assert examine(capture + oom).cause == PanicCause.OOM
    # And what the machine does after it counts.
    assert examine(banner + own + capture + oom + banner + oom).cause == PanicCause.OOM


OOPS = """[    7.1] general protection fault, probably for non-canonical address 0x77: 0000 [#1] PREEMPT SMP NOPTI
[    7.1] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1
[    7.1] RIP: 0010:broken+0x5/0x10
[    7.1] Call Trace:
[    7.1]  </TASK>
[    7.1] ---[ end trace 0000000000000000 ]---
"""
FATAL = "[    7.2] Kernel panic - not syncing: Fatal exception\n"
FORGED = "[    7.2] Kernel panic - not syncing: hung_task: blocked tasks\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (OOPS + FATAL + FORGED, PanicCause.GENERAL_PROTECTION),
        (
            "[    7.1] Kernel panic - not syncing: RCU Stall\n"
            "[    7.1] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1\n" + FORGED,
            PanicCause.RCU_STALL,
        ),
        # After an oops the kernel prints no stack of a panic, so that this may be one.
        (OOPS + FORGED, PanicCause.HUNG_TASK),
        (OOPS + FATAL + "[    7.3] x\n" * 200 + FORGED, PanicCause.HUNG_TASK),
        (OOPS + FATAL + "[    0.0] Linux version 6.1.0 (a@b) #1 SMP\n" + FORGED, PanicCause.HUNG_TASK),
    ],
    ids=["after an oops", "with its task", "no other", "long after", "of another boot"],
)
def test_what_a_program_wrote_behind_the_panic_is_not_the_panic(text: str, cause: PanicCause) -> None:
    assert examine(text).cause is cause
