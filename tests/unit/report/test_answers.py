"""Parsing crash's output.

The texts follow crash's source and are not captured from a dump. Some are hostile, as a dump could make them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import schema_of
from sandbox.debugger.crash import module_names
from sandbox.debugger.crash_errors import ErrorDetector
from sandbox.errors import DebuginfoNotFound
from sandbox.host import decode
from sandbox.judge import backtrace
from sandbox.model import CommandStatus, PanicCause, Vmcore
from sandbox.report import build, html, kmem, second_opinion, signature, tables, write
from sandbox.report.build import read
from sandbox.report.collect import CommandOutputs, ExternalOutput, from_external, reason, truncate_to_fit
from sandbox.report.compare import compare
from sandbox.report.model import CommandRun

HOSTILE = '"><script>alert(1)</script>&\x1b[31m'

BT = """\
PID: 1        TASK: ff3e461e011f20c0  CPU: 0    COMMAND: "init"
 #0 [ff5e978480013a40] machine_kexec at ffffffff8b264d57
    /build/linux/arch/x86/kernel/machine_kexec_64.c: 384
 #1 [ff5e978480013a98] __crash_kexec at ffffffff8b37a6ed
 #2 [ff5e978480013b58] oops_end.cold at ffffffff8bc2b9a1
 #3 [ff5e978480013b98] asm_exc_page_fault at ffffffff8be00b62
    [exception RIP: mlx5e_poll.isra.0+22]
    RIP: ffffffffc02a8a06  RSP: ff5e978480013c48  RFLAGS: 00010286
 #4 [ff5e978480013c48] mlx5e_napi_poll at ffffffffc02a9206 [mlx5_core]
 #5 [ff5e978480013d48] net_rx_action at ffffffff8b6d3f68
 #6 [ff5e978480013f30] do_syscall_64 at ffffffff8bc3d6f5
"""

PS = f"""\
      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM
        0       0   0  ffffffff8d41aa40  RU   0.0        0        0  [swapper/0]
>       1       0   0  ff3e461e011f20c0  RU   0.2     2592     1568  init
       44       2   1  ff3e461e0126a0c0  UN   0.0        0        0  [kworker/u4:2]
       77       1   1  ff3e461e0126b0c0  IN   3.1    90112    61440  {HOSTILE}
"""

PS_M = '[ 0 00:02:03.500] [UN]  PID: 44       TASK: ff3e461e0126a0c0  CPU: 1    COMMAND: "kworker/u4:2"\n'

PS_T = """\
PID: 77       TASK: ff3e461e0126b0c0  CPU: 1    COMMAND: "x"
    RUN TIME: 00:00:04
  START TIME: 2
       UTIME: 1500000000
       STIME: 500000000
"""

KMEM_I = """\
                 PAGES        TOTAL      PERCENTAGE
    TOTAL MEM   176441     689.2 MB         ----
         FREE   152456     595.5 MB   86% of TOTAL MEM
         USED    23985      93.7 MB   13% of TOTAL MEM
      BUFFERS        0            0    0% of TOTAL MEM
       CACHED     2000       7.8 MB    1% of TOTAL MEM
         SLAB     3000      11.7 MB    1% of TOTAL MEM
   TOTAL SWAP        0            0         ----
 COMMIT LIMIT    88220     344.6 MB         ----
    COMMITTED      230     920.0 KB    0% of TOTAL LIMIT
"""

TEXTS = {
    "sys": "        CPUS: 2\nLOAD AVERAGE: 0.08, 0.02, 0.01\n    NODENAME: host\n",
    "bt -l": BT,
    "bt -a": BT,
    "ps": PS,
    "ps -m": PS_M,
    "ps -t": PS_T,
    "kmem -i": KMEM_I,
    "kmem -s": "CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME\n"
    "ff3e461e01042f00      640       1000      1200     50    16k  inode_cache\n",
    "log": f"[    1.0] Linux version 6.1.0\n[    2.0] BUG: kernel NULL pointer dereference {HOSTILE}\n",
    "mod": "     MODULE       NAME          TEXT_BASE         SIZE  OBJECT FILE\n"
    "ffffffffc00aa040  mlx5_core     ffffffffc00a8000    16384  (not loaded)  [CONFIG_KALLSYMS]\n",
    "mod -t": "NAME       TAINTS\nmlx5_core  OE\n",
    "mount": "     MOUNT           SUPERBLK     TYPE   DEVNAME   DIRNAME\n"
    "ff3e461e01205a00 ff3e461e01149800 rootfs none      /\n",
    "net": "   NET_DEVICE     NAME       IP ADDRESS(ES)\nff3e461e01205000  lo         127.0.0.1, ::1\n",
    "irq -s": "           CPU0       CPU1\n  0:          8          0  IR-IO-APIC       timer\n  4: 0 0 x ttyS0\n",
    "runq": 'CPU 0 RUNQUEUE: ff3e461e2f62c980\n  CURRENT: PID: 1      TASK: ff3e461e011f20c0  COMMAND: "init"\n'
    "  CFS RB_ROOT: ff3e461e2f62ca38\n     [no tasks queued]\n",
}


@pytest.fixture
def vmcore(tmp_path) -> Vmcore:
    return Vmcore(
        path=tmp_path / "vmcore",
        format="kdump-compressed",
        size=1000,
        release="6.1.0-56-cloud-amd64",
        cause="null-pointer",
        panic=f"BUG: {HOSTILE}",
    )


@pytest.fixture
def answers() -> CommandOutputs:
    runs = [CommandRun(command=name, status=CommandStatus.OK, seconds=0.1, output=text) for name, text in TEXTS.items()]
    failed = CommandRun(
        command="dev -d", status=CommandStatus.ERROR, seconds=0.1, output="dev: invalid kernel virtual address: 0\n"
    )
    return CommandOutputs(
        runs=(*runs, failed), texts=TEXTS, mode="", case={"profile": "debian-12", "proof": "build-id"}
    )


def test_backtraces() -> None:
    (found,) = backtrace.parse("noise\n" + BT)
    assert (found.pid, found.cpu, found.command) == (1, 0, "init")
    assert [frame.number for frame in found.frames] == list(range(7))
    assert (found.frames[0].file, found.frames[0].line) == ("/build/linux/arch/x86/kernel/machine_kexec_64.c", 384)
    assert found.frames[4].module == "mlx5_core"
    assert found.frames[3].exception == "mlx5e_poll.isra.0"


def test_tasks() -> None:
    found = {task.pid: task for task in tables.tasks(PS, PS_M, PS_T)}
    assert found[1].active
    assert not found[44].active
    assert found[44].waited == 123.5
    assert (found[77].resident, found[77].ran) == (61440 * 1024, 2.0)


def test_memory() -> None:
    found = kmem.totals(KMEM_I)
    assert found is not None
    assert (found.total, found.slab, found.committed) == (176441 * 4096, 3000 * 4096, 230 * 4096)
    assert kmem.totals("kmem: nothing\n") is None
    assert kmem.slab_caches(TEXTS["kmem -s"])[0].bytes == 50 * 16 * 1024


def test_other_tables() -> None:
    assert tables.modules(TEXTS["mod"], TEXTS["mod -t"])[0].taint == "OE"
    assert tables.mounts(TEXTS["mount"])[0].directory == "/"
    assert tables.network(TEXTS["net"])[0].addresses == ("127.0.0.1", "::1")
    assert [one.number for one in tables.interrupts(TEXTS["irq -s"])] == ["0"]
    assert [one.current for one in tables.run_queues(TEXTS["runq"])] == [True]


def test_signature_depends_on_the_bug_and_not_on_the_build() -> None:
    first = signature.of(cause="null-pointer", backtrace=backtrace.parse(BT)[0])
    assert first.frames == ("mlx5e_poll", "mlx5e_napi_poll", "net_rx_action")
    other_build = BT.replace("ffffffff", "ffffff11").replace("+22", "+31").replace("isra.0", "constprop.3")
    assert signature.of(cause="null-pointer", backtrace=backtrace.parse(other_build)[0]) == first
    other_bug = BT.replace("mlx5e_poll", "mlx5e_xmit")
    assert signature.of(cause="null-pointer", backtrace=backtrace.parse(other_bug)[0]).id != first.id
    log = [
        "BUG: kernel NULL pointer dereference",
        "RIP: 0010:mlx5e_poll.isra.0+0x16/0x40 [mlx5_core]",
        "Call Trace:",
        " <TASK>",
        " ? exc_page_fault+0x70/0x170",
        " mlx5e_napi_poll+0x20/0x90 [mlx5_core]",
        " net_rx_action+0x8/0x90",
        " do_syscall_64+0x55/0xb0",
        "---[ end trace 0 ]---",
    ]
    from_log = signature.of(cause="null-pointer", log=log)
    assert (from_log.id, from_log.basis) == (first.id, "log")


@pytest.mark.parametrize(
    "functions",
    [
        # As crash shows dumps made by QEMU: aarch64 continues after a panic, s390x stops. The ppc64le dump is by kexec.
        "__delay __const_udelay panic ext4_error write_inode invoke_syscall el0t_64_sync",
        "on_panic_notify atomic_notifier_call_chain vpanic panic ext4_error write_inode __do_syscall system_call",
        "__crash_kexec panic ext4_error write_inode system_call_exception system_call_vectored_common",
    ],
    ids=["aarch64", "s390x", "ppc64le"],
)
def test_signature_begins_below_panic_and_ends_above_the_system_call(functions: str) -> None:
    frames = "".join(f" #{at} [{at:x}0] {name} at {at:x}4\n" for at, name in enumerate(functions.split()))
    (found,) = backtrace.parse(BT.splitlines(keepends=True)[0] + frames)
    assert signature.of(cause="panic", backtrace=found).frames == ("ext4_error", "write_inode")


@pytest.mark.slow
def test_report_json_is_valid_by_the_schema(vmcore: Vmcore, answers: CommandOutputs) -> None:
    assert write.schema() == schema_of.schema(), "run tests/schema_of.py"
    for report in (read(vmcore, answers), read(vmcore, None, DebuginfoNotFound("there is none"))):
        text = write.as_json(report)
        jsonschema.Draft202012Validator(write.schema()).validate(json.loads(text))


def test_content_of_a_dump_never_becomes_markup(vmcore: Vmcore, answers: CommandOutputs) -> None:
    made = html.html(read(vmcore, answers))
    assert "<script" not in made
    assert "\x1b" not in made
    assert "&lt;script&gt;" in made
    assert made.count('role="img"') >= 4


def test_a_missing_part_has_a_reason(vmcore: Vmcore, answers: CommandOutputs) -> None:
    report = read(vmcore, answers)
    assert report.missing["disks"] == "crash says: dev: invalid kernel virtual address: 0"
    assert "dev: invalid kernel virtual address" in html.html(report)
    degraded = read(vmcore, None, DebuginfoNotFound("no debuginfo for this kernel"))
    assert (degraded.exit_code, degraded.missing["cpus"]) == (40, "no debuginfo for this kernel")
    assert "no debuginfo for this kernel" in html.html(degraded)


@pytest.mark.slow
def test_the_report_of_a_large_machine_fits_on_a_page(vmcore: Vmcore, answers: CommandOutputs) -> None:
    busy = "".join(BT.replace("CPU: 0", f"CPU: {cpu}").replace("napi_poll", f"poll_{cpu % 100}") for cpu in range(100))
    idle = BT.replace("mlx5e_poll", "cpuidle_enter").replace('"init"', '"swapper/7"')
    texts = {
        **answers.texts,
        "bt -a": busy + "".join(idle.replace("CPU: 0", f"CPU: {n}") for n in (*range(100, 512), 600)),
    }
    texts["ps"] = PS + "".join(
        f"  {n}  2  1  ff3e461e0126a0c0  IN   0.0  0  0  [kworker/{n}]\n" for n in range(100, 10_000)
    )
    for command in ("ps -t", "log", "foreach UN bt", "kmem -s", "irq -s"):
        texts[command] = "x" * 79 + "\n" + "".join(f"{n:078}\n" for n in range(15_000))
    runs = [
        CommandRun(command=command, status=CommandStatus.OK, seconds=1, output=text) for command, text in texts.items()
    ]
    shown = truncate_to_fit(runs)
    assert sum(len(run.output) for run in shown) <= 801_000
    # Short answers are complete; long ones keep begin and end.
    assert [run for run in shown if len(run.output) < 5000] == [run for run in runs if len(run.output) < 5000]
    (log,) = (run.output for run in shown if run.command == "log")
    assert log.startswith("x" * 79)
    assert log.endswith(f"{14_999:078}\n")
    assert "characters left out" in log
    made = html.html(read(vmcore, replace(answers, runs=shown, texts=texts)))
    assert len(made.encode()) < 1_500_000
    assert "Only so many different ones are shown" in made
    few = html._alike(backtrace.parse(BT + "".join(idle.replace("CPU: 0", f"CPU: {n}") for n in (1, 2, 3, 7))))
    assert [whose for whose, _ in few] == ["CPU 0: init (PID 1)", "4 CPUs alike (1-3, 7): swapper"]


def test_an_unreadable_stack_hides_no_other_stack(vmcore: Vmcore, answers: CommandOutputs) -> None:
    """From a real dump: the NMI that stops the other CPUs arrived while one of them took a page fault."""
    lost = (
        'PID: 102      TASK: ff1d8c222ff120c0  CPU: 0    COMMAND: "sh"\n'
        " #0 [fffffe000000dea8] crash_nmi_callback at ffffffff9966058c\n"
        "bt: cannot transition from exception stack to current process stack:\n"
        "    exception stack pointer: fffffe000000dea8\n\n"
    )
    told = from_external({"bt -a": ExternalOutput(status=CommandStatus.ERROR, output=lost + BT)}, case={})
    report = read(vmcore, told)
    assert [(stack.cpu, stack.pid) for stack in report.cpus] == [(0, 102), (0, 1)]
    assert "cannot transition" in str(report.cpus[0].complaint)
    assert "cannot transition" in html.html(report)
    assert "cpus" not in report.missing


def test_a_row_without_end_costs_its_length() -> None:
    row = "PID: 1  TASK: ff3e461e011f20c0  " * 60_000
    began = time.process_time()
    assert tables.run_queues(f"CPU 0 RUNQUEUE: ff3e461e2f62c980\n{row}\n") == ()
    assert time.process_time() - began < 2


@pytest.mark.slow
@pytest.mark.parametrize("number", ["9" * 5000, "9" * 400, "9" * 20, "999999999999999", "1.2.3", "٣"])
def test_numbers_that_no_kernel_has(vmcore: Vmcore, answers: CommandOutputs, number: str) -> None:
    """A report is made, and can be read again: JSON of vmbox has numbers of 64 bits."""
    texts = {**TEXTS, "dev -d": "    8 ffff888003c3c000   sda  ffff888003c3d000  1  1  1\n", "mach": "  HZ: 250\n"}
    texts |= {command: re.sub(r"(?<![\w.])\d+(?!\w)", number, text) for command, text in texts.items()}
    texts["ps -m"] = PS_M.replace("03.500", number)
    report = read(replace(vmcore, release="3.10.0"), replace(answers, texts=texts))
    assert "<html" in html.html(report)
    decode.decode(type(report), json.loads(write.as_json(report)))


def test_reasons() -> None:
    excluded = CommandRun(
        command="kmem -s",
        status=CommandStatus.ERROR,
        seconds=0,
        output="kmem: page excluded: kernel virtual address: ff\n",
    )
    assert "left out of the dump" in (reason(excluded) or "")
    assert reason(CommandRun(command="sys", status=CommandStatus.OK, seconds=0, output="")) is None


def test_comparison(vmcore: Vmcore, answers: CommandOutputs) -> None:
    first = read(vmcore, answers)
    assert compare(first, first).same
    other = compare(first, read(vmcore, None))
    assert not other.same
    assert {one.what for one in other.differences} >= {"signature", "frames"}


# As crash prints them (kernel.c, cmd_sys and show_kernel_taints); the machine is QEMU's.
DMI = """\
        DMI_BIOS_VENDOR: SeaBIOS
       DMI_BIOS_VERSION: 1.16.2-debian-1.16.2-1
          DMI_BIOS_DATE: 04/01/2014
         DMI_SYS_VENDOR: QEMU
       DMI_PRODUCT_NAME: Standard PC (i440FX + PIIX, 1996)
"""


def test_machine_and_taint_without_the_log() -> None:
    machine = "QEMU Standard PC (i440FX + PIIX, 1996), BIOS 1.16.2-debian-1.16.2-1 04/01/2014"
    assert tables.hardware(DMI) == machine
    assert tables.hardware("sys: cannot determine dmi strings\n") is None
    assert tables.taint("TAINTED_MASK: 3000  OE\n") == "OE"
    assert tables.taint("TAINTED_MASK: 0  \n") == ""
    assert tables.taint("sys: invalid option\n") is None


@pytest.mark.parametrize("panic", [None, "Kernel panic - not syncing: Fatal exception in interrupt"])
def test_crashes_of_which_nothing_is_known_are_not_the_same_bug(panic: str | None) -> None:
    unknown = signature.of(cause="null-pointer", log=["no trace"], panic=panic)
    assert (unknown.id, unknown.frames, unknown.basis) == (None, (), "nothing")
    # The panic line alone is enough where it has a reason.
    said = signature.of(cause="no-root", panic="Kernel panic - not syncing: VFS: Unable to mount root fs on 8:1")
    other = signature.of(cause="no-root", panic="Kernel panic - not syncing: VFS: Unable to mount root fs on 8:2")
    assert said.id is not None
    assert said.id == other.id
    dump = Vmcore(path=Path("vmcore"), format="log", size=1, cause="null-pointer", panic=panic)
    report = read(dump, None)
    assert report.signature.id is None
    result = compare(report, report)
    assert (result.same, result.likeness, result.verdict) == (False, 0.0, "too little is known of one of them")
    assert "Signature" in html.html(report)


def test_a_log_that_is_cut_in_its_trace_has_no_signature_and_says_so(tmp_path: Path) -> None:
    log = [
        "[    3.0] BUG: kernel NULL pointer dereference, address: 0000000000000038",
        "[    3.0] Oops: 0000 [#1] PREEMPT SMP",
        "[    3.0] CPU: 0 PID: 101 Comm: insmod Not tainted 6.1.0 #1",
        "[    3.0] RIP: 0010:vmbox_gateway+0x6/0x12 [vmbox_demo]",
        "[    3.0] Call Trace:",
        "[    3.0]  <TASK>",
        *(f"[    3.0]  {name}+0x1/0x2" for name in ("forward", "demo_init", "do_one_initcall", "do_init_module")),
    ]
    whole = signature.of(cause="null-pointer", log=[*log, "[    3.0]  do_syscall_64+0x1/0x2", "[    3.0]  </TASK>"])
    assert whole.id is not None
    # Of five functions what is missing does not count.
    assert signature.of(cause="null-pointer", log=log).id == whole.id
    cut = signature.of(cause="null-pointer", log=log[:-1])
    assert (cut.id, cut.frames, cut.basis) == (None, whole.frames[:-1], "log")
    panicked = [*log, "[    3.0]  do_syscall_64+0x1/0x2", "[    3.0] Kernel panic - not syncing: Fatal exception"]
    for lines, remark in (
        (log, "the log ends within the call trace of the panic"),
        (panicked, None),
        (panicked * 2, "the log has 2 panics; the last one counts"),
    ):
        (tmp_path / "dmesg.txt").write_text("\n".join(lines) + "\n")
        report = build.make(tmp_path / "dmesg.txt")
        assert report.log_remark == remark
        assert (remark is None) is ('lass="note">The log' not in html.html(report))


def test_a_hung_task_has_the_signature_of_the_task_with_and_without_its_dump() -> None:
    blocked = """PID: 95       TASK: ffff9b3d01f1a8c0  CPU: 1    COMMAND: "fsfreeze"
 #0 [ffffb4e0402ffbd8] __schedule at ffffffff
 #1 [ffffb4e0402ffbe8] schedule at ffffffff
 #2 [ffffb4e0402ffbf8] percpu_rwsem_wait at ffffffff
 #3 [ffffb4e0402ffbf8] do_syscall_64 at ffffffff
"""
    log = [
        "INFO: task fsfreeze:95 blocked for more than 3 seconds.",
        "Call Trace:",
        " <TASK>",
        " __schedule+0x34d/0x9e0",
        " schedule+0x5a/0xd0",
        " percpu_rwsem_wait+0x116/0x140",
        " do_syscall_64+0x1/0x2",
        " </TASK>",
        "Kernel panic - not syncing: hung_task: blocked tasks",
        "Call Trace:",
        " panic+0x118/0x2f4",
        " watchdog.cold+0xc/0x16",
    ]
    from_dump = signature.of(cause="hung-task", backtrace=backtrace.parse(blocked)[0], log=log)
    # Without the scheduler's functions, in which every task waits.
    assert from_dump.frames == ("percpu_rwsem_wait",)
    assert signature.of(cause="hung-task", log=log).id == from_dump.id
    # A dump without that task's pages has the watchdog's stack only.
    watchdog = blocked.replace("PID: 95 ", "PID: 28 ").replace("__schedule", "watchdog")
    answers = from_external({}, case={})
    answers = replace(answers, texts={"bt -l": watchdog, "log": "\n".join(log)})
    dump = Vmcore(path=Path("vmcore"), format="elf", size=1, cause=PanicCause.HUNG_TASK)
    assert read(dump, answers).signature.id == from_dump.id


def test_a_task_whose_size_is_not_in_the_dump_has_none() -> None:
    """What drgn-session.py prints of a task whose mm_struct makedumpfile has left out."""
    (task,) = tables.tasks("   112     1    1  ff33430d42612300  S    nan   nan   nan  sh\n")
    assert (task.pid, task.command, task.virtual, task.resident) == (112, "sh", None, None)
    half = "   112     1    1  ff33430d42612300  S    nan   nan   988  sh\n"
    report = read(
        Vmcore(path=Path("vmcore"), format="elf", size=1), replace(from_external({}, case={}), texts={"ps": half})
    )
    assert '<td class="number">988.0 KiB</td><td class="number"></td>' in html.html(report)


BLANKS = " " * 100_000


@pytest.mark.parametrize(
    ("parse", "line"),
    [
        (tables.tasks, "> 1 1 1 ffffffff RU 0.0 1 1 x{}y"),
        (tables.modules, "ffffffff a 1 x{}y"),
        (tables.mounts, "ffffffff ffffffff a b /x{}y"),
        (tables.network, "ffffffff a x{}y"),
        (tables.interrupts, "1: 1 x{}y"),
        (tables.taint, "TAINTED_MASK: 0{}x"),
    ],
    ids=["tasks", "modules", "mounts", "network", "interrupts", "taint"],
)
def test_a_row_of_blanks_costs_what_it_is_long(parse: Callable[[str], object], line: str) -> None:
    """From a crash that a dump took over. 100,000 blanks took 20 s, and ten times as many a hundred times that."""
    start = time.process_time()
    parse(line.format(BLANKS))
    assert time.process_time() - start < 1


def test_lines_without_end_cost_what_they_are() -> None:
    """Each pattern that is looked for at the beginning of each line, in an answer of nothing but their ends."""
    newlines = "\n" * 100_000
    start = time.process_time()
    assert second_opinion._TASK.findall(newlines) == []
    assert build._HZ.search(newlines) is None
    assert module_names(newlines.encode()) == frozenset()
    complaints = ErrorDetector("bt")
    complaints.feed(b"Usage:" + newlines.encode())
    assert not complaints.found()
    assert time.process_time() - start < 2
