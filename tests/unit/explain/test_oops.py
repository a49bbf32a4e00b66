"""Oopses read out of logs: those of tests/fixtures/oops are genuine, made by `vmbox demo --trigger` on 6.1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.explain import oops
from sandbox.explain.fault import Readings, explain
from sandbox.explain.oops_lines import Oops

LOGS = Path(__file__).parents[2] / "fixtures" / "oops"

# What arch/arm64 prints (mm/fault.c, kernel/traps.c, kernel/process.c of 6.6); no kernel of it is made to fault here.
ARM64 = """\
[   12.100000] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000038
[   12.100100] Mem abort info:
[   12.100200]   ESR = 0x0000000096000044
[   12.100300]   EC = 0x25: DABT (current EL), IL = 32 bits
[   12.100400]   FSC = 0x04: level 0 translation fault
[   12.100500] Data abort info:
[   12.100600]   ISV = 0, ISS = 0x00000044, ISS2 = 0x00000000
[   12.100700] user pgtable: 4k pages, 48-bit VAs, pgdp=0000000041b3a000
[   12.100800] Internal error: Oops: 0000000096000044 [#1] SMP
[   12.100900] Modules linked in: broken(O) virtio_blk
[   12.101000] CPU: 3 PID: 77 Comm: insmod Tainted: G           O       6.6.1-arm64 #1
[   12.101100] Hardware name: linux,dummy-virt (DT)
[   12.101200] pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
[   12.101300] pc : broken_write+0x1c/0x40 [broken]
[   12.101400] lr : broken_init+0x24/0x1000 [broken]
[   12.101500] sp : ffff80008337bb20
[   12.101600] x29: ffff80008337bb20 x28: 0000000000000000 x27: 0000000000000000
[   12.101700] x2 : 0000000000000001 x1 : 0000000000000007 x0 : 0000000000000000
[   12.101800] Call trace:
[   12.101900]  broken_write+0x1c/0x40 [broken]
[   12.102000]  do_one_initcall+0x60/0x2c0
[   12.102100] Code: aa1e03e9 d503201f d503233f 52800021 (f9001c01)
[   12.102200] ---[ end trace 0000000000000000 ]---
[   12.102300] Kernel panic - not syncing: Oops: Fatal exception
"""


def read(name: str) -> list[str]:
    return (LOGS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def found(log: list[str]) -> Oops:
    read = oops.find(log)
    assert read.last is not None
    assert read.first is None
    return read.last


def test_the_registers_and_the_code_are_those_of_the_kernel_and_not_of_the_program() -> None:
    one = found(read("general-protection"))
    assert one.place == oops.Place(function="vmbox_gateway", offset=5, size=14, module="vmbox_demo")
    assert one.registers["rdi"] == int.from_bytes(b"overflow", "little")
    assert one.registers["rsp"] >> 63
    assert {"rax", "r8", "r15", "cr2", "eflags"} <= one.registers.keys()
    # mov 0x38(%rdi),%rax
    assert one.code[one.code_at :].startswith(bytes.fromhex("488b4738"))
    assert (one.address, one.guessed) == (one.registers["rdi"] + 0x38, True)
    assert (one.number, one.command, one.modules) == (1, "insmod", {"vmbox_demo": "OE"})


def test_a_check_that_failed_has_its_file_and_what_was_said_before_it() -> None:
    one = found(read("list-corruption"))
    assert one.check is not None
    assert one.check[0] == "lib/list_debug.c"
    assert one.corruption is not None
    assert "next is LIST_POISON1" in one.corruption
    assert [frame.function for frame in oops.frames(oops.find(read("list-corruption")).lines, one)][:1] == [
        "vmbox_dequeue"
    ]
    assert found(read("bug")).corruption is None


def test_the_address_of_a_stack_overflow_is_the_processors() -> None:
    one = found(read("stack-overflow"))
    assert one.guard_page
    # The log has it hashed or as (____ptrval____); CR2 is the page below the stack.
    assert one.address == one.registers["cr2"]


def test_a_stall_is_no_fault() -> None:
    one = found(read("rcu-stall"))
    assert one.lockup
    assert one.address is None
    assert one.pid is not None


def test_a_panic_of_the_watchdog_has_no_oops() -> None:
    read_log = oops.find(read("deadlock"))
    assert (read_log.last, read_log.first) == (None, None)
    assert read_log.panic is not None


def test_an_oops_before_an_unrelated_panic_is_not_its_cause_but_is_told() -> None:
    before = [line for line in read("general-protection") if "Kernel panic" not in line]
    log = [*before, *["[ 99.0] something else"] * 20, "[ 99.1] Kernel panic - not syncing: sysrq triggered crash"]
    read_log = oops.find(log)
    assert read_log.last is None
    assert read_log.first is not None
    assert "non-canonical" in read_log.first.text


def test_the_last_oops_before_the_panic_counts_and_the_first_is_told() -> None:
    bug = [line for line in read("bug") if "Kernel panic" not in line]
    read_log = oops.find([*bug, *["[ 9.0] quiet"] * 20, *read("general-protection")])
    last, first = read_log.last, read_log.first
    assert last is not None
    assert "non-canonical" in last.text
    assert first is not None
    assert first.check is not None


def test_an_abort_of_arm64_is_read() -> None:
    one = found(ARM64.splitlines())
    assert (one.address, one.error_code, one.cpu, one.pid) == (0x38, 0x96000044, 3, 77)
    assert one.place == oops.Place(function="broken_write", offset=0x1C, size=0x40, module="broken")
    assert (one.registers["x0"], one.registers["x1"], one.registers["sp"]) == (0, 7, 0xFFFF80008337BB20)
    # Numbers of 32 bits, in the order of memory.
    assert one.code[one.code_at :] == bytes.fromhex("011c00f9")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["general-protection", "list-corruption", "stack-overflow", "rcu-stall"])
def test_an_oops_that_is_cut_anywhere_is_read_without_an_error(name: str) -> None:
    log = read(name)
    for end in range(len(log)):
        oops.find(log[:end])


def test_a_line_that_reads_like_a_panic_does_not_hide_the_oops() -> None:
    """A program may write one, by /dev/kmsg, on another CPU, before panic() stops that."""
    log = read("general-protection")
    stamp = log[-1].partition("]")[0]
    log.append(f"{stamp}] Kernel panic - not syncing: Fatal exception")
    forged = f"{stamp}] Kernel panic - not syncing: hung_task: blocked tasks"
    genuine, read_log = oops.find(log), oops.find([*log, forged])
    assert genuine.last is not None
    assert read_log == replace(genuine, lines=[*genuine.lines, forged.partition("] ")[2]])
    assert read_log.panic is not None
    assert "Fatal exception" in read_log.lines[read_log.panic]


def test_an_error_before_an_early_line_that_reads_like_a_panic_is_still_the_first() -> None:
    log = [
        "[    1.000000] Kernel panic - not syncing: says a program",
        "[    2.000000] BUG: Bad page state in process x  pfn:00001",
        *read("deadlock"),
    ]
    told = explain(
        log, arch="x86_64", readings=Readings(), panic="Kernel panic - not syncing: hung_task: blocked tasks"
    )
    assert told is not None
    assert any("That was: BUG: Bad page state in process x" in sentence.text for sentence in told.sentences)


def test_what_an_interrupt_ran_did_not_call_what_it_stopped() -> None:
    """5.10 prints the stack of the interrupt that found a stall above the registers of the function."""
    log = read("rcu-stall-5.10")
    read_log = oops.find(log)
    assert read_log.last is not None
    assert read_log.last.place is not None
    assert read_log.last.place.function == "rcu_stall"
    names = [one.function for one in oops.frames(read_log.lines, read_log.last)]
    assert names[:3] == ["vmbox_demo_init", "do_one_initcall", "do_init_module"]
    assert not {"dump_stack", "update_process_times"} & set(names)
