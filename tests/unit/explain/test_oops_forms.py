"""Oopses in the forms of other machines, of checkers and of phones, and several in one log: written for these tests."""

from __future__ import annotations

from itertools import dropwhile
from pathlib import Path

import pytest
from test_fault import ALONE, said

from sandbox.dump import panic as panics, printk, read_log
from sandbox.explain import oops
from sandbox.explain.fault import explain
from sandbox.explain.model import Fault
from sandbox.report import signature

FIXTURES = Path(__file__).parents[2] / "fixtures" / "dumps"

DIED = "Kernel panic - not syncing: Fatal exception"

ARM64 = (
    "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000038",
    "Mem abort info:",
    "  ESR = 0x0000000096000044",
    "  EC = 0x25: DABT (current EL), IL = 32 bits",
    "  SET = 0, FnV = 0",
    "  EA = 0, S1PTW = 0",
    "  FSC = 0x04: level 0 translation fault",
    "Data abort info:",
    "  ISV = 0, ISS = 0x00000044, ISS2 = 0x00000000",
    "  CM = 0, WnR = 1, TnD = 0, TagAccess = 0",
    "  GCS = 0, Overlay = 0, DirtyBit = 0, Xs = 0",
    "user pgtable: 4k pages, 48-bit VAs, pgdp=00000001020a3000",
    "[0000000000000038] pgd=0000000000000000, p4d=0000000000000000",
    "Internal error: Oops: 0000000096000044 [#1] PREEMPT SMP",
    "Modules linked in: drv(O)",
    "CPU: 2 UID: 0 PID: 300 Comm: sh Tainted: G           O       6.12.1-arm64 #1",
    "pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)",
    "pc : drv_store+0x24/0x60 [drv]",
    "lr : drv_store+0x1c/0x60 [drv]",
    "Call trace:",
    " drv_store+0x24/0x60 [drv] (P)",
    " sysfs_kf_write+0x44/0x58",
    "---[ end trace 0000000000000000 ]---",
)
X86 = (
    "BUG: kernel NULL pointer dereference, address: 0000000000000018",
    "#PF: supervisor write access in kernel mode",
    "#PF: error_code(0x0002) - not-present page",
    "Oops: 0002 [#1] PREEMPT SMP PTI",
    "CPU: 3 PID: 812 Comm: worker-a Not tainted 6.1.0-22-amd64 #1  Debian 6.1.94-1",
    "RIP: 0010:first_fn+0x12/0x40 [mod_a]",
    "RSP: 0018:ffffa0f1c0b3fe40 EFLAGS: 00010246",
    "---[ end trace 0000000000000000 ]---",
)
POWER = (
    "Kernel attempted to read user page (8) - exploit attempt? (uid: 0)",
    "BUG: Kernel NULL pointer dereference on read at 0x00000008",
    "Faulting instruction address: 0xc008000001b40048",
    "Oops: Kernel access of bad area, sig: 11 [#1]",
    "LE PAGE_SIZE=64K MMU=Radix SMP NR_CPUS=2048 NUMA PowerNV",
    "CPU: 8 PID: 3012 Comm: insmod Not tainted 6.4.0-default #1",
    "NIP:  c008000001b40048 LR: c008000001b40040 CTR: c000000000b1d2a0",
    "NIP [c008000001b40048] drv_store+0x24/0x60 [drv]",
    "LR [c008000001b40040] drv_store+0x1c/0x60 [drv]",
    "Call Trace:",
    "[c00000002fd3b970] [c008000001b40048] drv_store+0x24/0x60 [drv]",
    "[c00000002fd3b9e0] [c0000000000122b4] do_one_initcall+0x64/0x2d0",
)
RISCV = (
    "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010",
    "Oops [#1]",
    "CPU: 1 PID: 210 Comm: insmod Not tainted 6.6.20-riscv64 #1",
    "epc : drv_store+0x24/0x60 [drv]",
    " ra : do_one_initcall+0x5c/0x1c8",
    "epc : ffffffff01584022 ra : ffffffff800020f4 sp : ff2000000062bc30",
)
S390 = (
    "Unable to handle kernel pointer dereference in virtual kernel address space",
    "Failing address: 0000000000000000 TEID: 0000000000000483",
    "Oops: 0038 ilc:3 [#1] SMP ",
    "CPU: 0 PID: 812 Comm: insmod Not tainted 5.15.0-100-generic #110-Ubuntu",
    "Krnl PSW : 0704c00180000000 000003ff80345026 (drv_store+0x24/0x60 [drv])",
    "Call Trace:",
    " [<000003ff80345026>] drv_store+0x24/0x60 [drv] ",
    " [<00000000a1b2c3d4>] do_one_initcall+0x44/0x1e0 ",
)
ARM = (
    "8<--- cut here ---",
    "Unable to handle kernel NULL pointer dereference at virtual address 00000004 when read",
    "[00000004] *pgd=00000000",
    "Internal error: Oops: 5 [#1] SMP ARM",
    "CPU: 0 PID: 190 Comm: insmod Not tainted 6.6.31-v7 #1",
    "PC is at drv_store+0x24/0x60 [drv]",
    "LR is at platform_probe+0x5c/0xb8",
)
MIPS = (
    "CPU 0 Unable to handle kernel paging request at virtual address 00000008, epc == 82b4c0f8, ra == 82b4c0e0",
    "Oops[#1]:",
    "CPU: 0 PID: 1420 Comm: insmod Not tainted 5.15.137 #0",
    "epc   : 82b4c0f8 drv_store+0x24/0x60 [drv]",
    "Call Trace:",
    "[<82b4c0f8>] drv_store+0x24/0x60 [drv]",
    "[<80100564>] do_one_initcall+0x50/0x1a8",
)
KASAN = (
    "BUG: KASAN: slab-use-after-free in drv_store+0x24/0x60 [drv]",
    "Read of size 8 at addr ffff888104a3c018 by task rmmod/1402",
    "",
    "CPU: 1 UID: 0 PID: 1402 Comm: rmmod Not tainted 6.13.0-rc3+ #12",
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x53/0x70",
    " print_report+0xce/0x630",
    " kasan_report+0xca/0x100",
    " drv_store+0x24/0x60 [drv]",
    " do_one_initcall+0x64/0x2d0",
    " </TASK>",
)
UBSAN = (
    "UBSAN: array-index-out-of-bounds in drivers/net/drv.c:120:15",
    "index 9 is out of range for type 'int [8]'",
    "CPU: 1 UID: 0 PID: 500 Comm: insmod Not tainted 6.12.9 #1",
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x5d/0x80",
    " ubsan_epilogue+0x5/0x2b",
    " __ubsan_handle_out_of_bounds.cold+0x54/0x59",
    " drv_probe+0x88/0x100 [drv]",
    " </TASK>",
)


def explained(*lines: str, arch: str | None = None, prefix: str = "", panic: str | None = DIED) -> Fault:
    log = [f"[    5.{number:06}] {prefix}{line}" for number, line in enumerate([*lines, *([panic] if panic else [])])]
    found = explain(log, arch=arch, readings=ALONE, panic=panic or lines[0], debugger=None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("lines", "access", "address"),
    [
        (ARM64, "write", "0x38"),
        (POWER, "read", "0x8"),
        (RISCV, None, "0x10"),
        (S390, None, None),
        (ARM, "read", "0x4"),
        (MIPS, None, "0x8"),
    ],
    ids=["arm64", "powerpc", "riscv", "s390", "arm", "mips"],
)
def test_the_head_of_an_oops_is_one_oops_on_each_machine(
    lines: tuple[str, ...], access: str | None, address: str | None
) -> None:
    fault = explained(*lines, arch="aarch64" if lines is ARM64 else None)
    assert (fault.function, fault.offset, fault.module) == ("drv_store", 0x24, "drv")
    assert (fault.access, fault.address) == (access, address)
    assert "not the first error" not in said(fault)
    assert "called by drv_store" not in said(fault)


@pytest.mark.parametrize(
    ("esr", "address", "words"),
    [
        ("96000006", "ffff800012345678", "tried to read address 0xffff800012345678, which is not mapped."),
        ("9600004f", "ffff800012345678", "tried to write address 0xffff800012345678, which is mapped read-only."),
        ("8600000f", "ffff800012345678", "run code at address 0xffff800012345678, which is mapped, but not as code."),
        ("9600000f", "0000aaaabbbbc000", "which is of user space: the kernel may do so in few places only (PAN)."),
        ("96000021", "ffff800012345679", "which is not aligned for this access."),
        ("96000010", "ffff800012345678", "for which memory, a bus or a device answered with an error."),
    ],
)
def test_why_arm64_refused_is_read_of_the_syndrome(esr: str, address: str, words: str) -> None:
    first = f"Unable to handle kernel paging request at virtual address {address}"
    lines = [line.replace("96000044", esr) for line in ARM64[1:]]
    assert said(explained(first, *lines, arch="aarch64"), "what").endswith(words)


@pytest.mark.parametrize("lines", [ARM64, POWER, ARM], ids=["arm64", "powerpc", "arm"])
@pytest.mark.parametrize("ended", [True, False])
def test_the_cause_is_in_the_line_above_the_number_of_the_oops(lines: tuple[str, ...], *, ended: bool) -> None:
    found = panics.examine(printk.from_text("\n".join([*lines, *([DIED] if ended else [])]).encode()))
    assert found.cause == "null-pointer"
    assert found.panic is not None
    assert ended or "NULL pointer dereference" in found.panic


def test_the_reason_of_an_earlier_oops_is_not_that_of_the_last() -> None:
    lines = [*X86, "Internal error: Oops - undefined instruction: 0 [#2] SMP ARM", DIED]
    assert panics.examine(printk.from_text("\n".join(lines).encode())).cause == "invalid-opcode"


def test_lines_with_the_prefix_of_a_phone_are_read() -> None:
    fault = explained(*ARM64, arch="aarch64", prefix=" [4:   kworker/u16:3: 4321] ")
    assert (fault.function, fault.access) == ("drv_store", "write")


def test_an_oops_that_follows_a_stall_at_once_is_not_part_of_it() -> None:
    stall = (
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "NMI backtrace for cpu 3",
        "CPU: 3 PID: 700 Comm: spin Not tainted 6.1.0 #1",
        "RIP: 0010:spin_fn+0x5/0x10 [spin]",
    )
    fault = explained(*stall, *X86, arch="x86_64")
    assert (fault.function, fault.access) == ("first_fn", "write")


def test_a_panic_behind_an_oops_that_the_kernel_survived_is_not_without_a_fault() -> None:
    fault = explained(*X86, arch="x86_64", panic="Kernel panic - not syncing: hung_task: blocked tasks")
    assert "No instruction of the kernel faulted" not in said(fault)
    assert "The kernel went on after a fault, and panicked later: Kernel panic" in said(fault)
    assert "0000000000000018, in first_fn+0x12 of module mod_a." in said(fault)


def test_an_oops_of_init_is_what_killed_it() -> None:
    killed = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"
    assert "panicked later" in said(explained(*X86, arch="x86_64", panic=killed))
    of_init = [line.replace("PID: 812", "PID: 1") for line in X86]
    assert explained(*of_init, arch="x86_64", panic=killed).function == "first_fn"


def test_the_report_of_a_checker_that_ended_the_kernel_is_its_fault() -> None:
    fault = explained(*KASAN, panic="Kernel panic - not syncing: KASAN: panic_on_warn set ...")
    assert (fault.function, fault.access, fault.address) == ("drv_store", "read", "0xffff888104a3c018")
    assert "It was called by do_one_initcall." in said(fault)
    assert "not the first error" not in said(fault)
    fault = explained(*UBSAN, panic="Kernel panic - not syncing: UBSAN: panic_on_warn set ...")
    assert "reported: UBSAN: array-index-out-of-bounds in drivers/net/drv.c:120:15." in said(fault)
    # The function that did it, which called the checker.
    assert (fault.function, fault.module) == ("drv_probe", "drv")
    assert "It was called by " not in said(fault)


def test_the_report_of_a_checker_that_the_kernel_survived_is_told_as_the_first() -> None:
    fault = explained(*KASAN, *X86, arch="x86_64")
    assert fault.function == "first_fn"
    assert "That was: BUG: KASAN: slab-use-after-free in drv_store" in said(fault)


def test_code_without_a_function_ran_where_nothing_was_fetched() -> None:
    lines = [line.replace("first_fn+0x12/0x40 [mod_a]", "0xffffffffc0a81234") for line in X86]
    assert "The CPU ran code at 0xffffffffc0a81234, where" in said(explained(*lines, arch="x86_64"))


def test_before_6_2_a_panic_of_a_checker_does_not_name_it() -> None:
    warning = (
        "WARNING: CPU: 0 PID: 9 at net/core/dev.c:5 warn_me+0x1/0x2",
        "CPU: 0 PID: 9 Comm: x Not tainted 5.10.0 #1",
        "RIP: 0010:warn_me+0x1/0x2",
        "Call Trace:",
        " vfs_write+0x1/0x2",
        "---[ end trace 0000000000000000 ]---",
    )
    fault = explained(*warning, *KASAN, panic="Kernel panic - not syncing: panic_on_warn set ...")
    assert (fault.function, fault.access) == ("drv_store", "read")


def test_what_a_checker_says_between_the_lines_of_an_oops_is_not_the_oops_own() -> None:
    report = [line for line in KASAN if not line.startswith(("CPU: ", "Call Trace"))]
    inside = [*X86[:2], *(line for line in report if " of size " in line), *X86[2:]]
    alone, mixed = (explained(*lines, arch="x86_64") for lines in (X86, inside))
    assert (mixed.address, mixed.access) == (alone.address, alone.access)


@pytest.mark.parametrize("lines", [ARM64, POWER, MIPS, KASAN, UBSAN])
def test_these_oopses_are_read_wherever_they_are_cut(lines: tuple[str, ...]) -> None:
    # Of a checker's report nothing is told but where the kernel panics of it.
    panic = ["Kernel panic - not syncing: panic_on_warn set ..."] if lines in {KASAN, UBSAN} else []
    whole = oops.find([*lines, *panic]).last
    assert whole is not None
    found = (oops.find([*lines[:end], *panic]).last for end in range(len(lines)))
    first, *others = dropwhile(lambda one: one is None, found)
    for one in (first, *others):
        assert one is not None
        assert (one.line, one.text) == (whole.line, whole.text)
        assert one.address in {None, whole.address}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aarch64-6.1-zlib", "in the function in front of sysrq_reset_seq_param_set < __handle_sysrq < "),
        ("riscv64-6.12-zlib", "in the function in front of sysrq_reset_seq_param_set < __handle_sysrq < "),
        ("s390x-6.1-qemu", "in the function in front of mount_root < prepare_namespace < "),
        ("ppc64le-6.1-zlib", "in sysrq_handle_crash < __handle_sysrq < "),
        ("loongarch64-7.2-qemu", "In i8042_flush+0x58."),
    ],
)
def test_no_function_is_named_that_genuine_kernels_did_not_run(name: str, words: str) -> None:
    """sysrq_handle_crash() ends with panic(), which never returns: its return address is in the next function."""
    log = [line.decode() for line in read_log(FIXTURES / name)]
    panic = next(line for line in log if "Kernel panic" in line)
    fault = explain(log, arch=None, readings=ALONE, panic=panic.partition("] ")[2], debugger=None)
    assert fault is not None
    assert words in said(fault, "where")
    assert {"sysrq_reset_seq_param_set", "mount_root"}.isdisjoint(signature.of(cause=None, log=log).frames)
