"""Faults in sentences. Logs and answers of drgn in tests/fixtures/oops are of genuine dumps (`vmbox demo`, 6.1)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sandbox.debugger import DEBUGGERS
from sandbox.explain import facts as readers
from sandbox.explain.fault import Readings, explain
from sandbox.explain.model import TOPICS, Fault
from sandbox.explain.text import lines as as_text

ALONE = Readings(why="it is a log without its dump")
FIXTURES = Path(__file__).parents[2] / "fixtures" / "oops"


def log_of(name: str) -> list[str]:
    return (FIXTURES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def readings(name: str) -> Readings:
    first, second = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return Readings(
        facts=readers.read_facts(json.dumps(first).encode()), values=readers.read_values(json.dumps(second).encode())
    )


def explained(name: str, read: Readings | None = None, *, arch: str = "x86_64", debugger: str = "crash") -> Fault:
    found = explain(
        log_of(name),
        arch=arch,
        readings=readings(name) if read is None else read,
        taint=("unsigned module was loaded",),
        panic="Kernel panic - not syncing: Fatal exception",
        debugger=DEBUGGERS[debugger],
    )
    assert found is not None
    return found


def said(fault: Fault, topic: str | None = None) -> str:
    return "\n".join(one.text for one in fault.sentences if topic in {None, one.topic})


@pytest.mark.parametrize(
    ("debugger", "where", "how", "layout"),
    [("crash", "dis -l ", "dis -l ", "struct -o vmbox_route"), ("drgn", "bt -l", "log", "struct vmbox_route")],
)
def test_the_commands_are_those_of_the_debugger_that_answers(debugger: str, where: str, how: str, layout: str) -> None:
    """drgn's `sym` has the line of the function's beginning, its `struct` no -o; it has no `dis`."""
    fault = explained("general-protection", debugger=debugger)
    first = {one.topic: one.command or "" for one in reversed(fault.sentences)}
    assert first["where"].startswith(where)
    assert first["how"].startswith(how)
    # A type of a module's own, of which crash says that there is no such type.
    assert not [one for one in fault.sentences if (one.command or "").startswith("struct")]
    assert DEBUGGERS[debugger].layout_command("vmbox_route") == layout
    assert {one.topic for one in fault.sentences} <= TOPICS.keys()
    for one in fault.sentences:
        assert one.command is None or one.command.split()[0] in DEBUGGERS[debugger].commands
        # drgn's sys has no such option.
        assert one.command != "sys -t"


def test_a_text_that_was_copied_over_a_pointer_is_named_with_the_member_that_was_read() -> None:
    fault = explained("general-protection")
    assert (fault.function, fault.offset, fault.module, fault.access) == ("vmbox_gateway", 5, "vmbox_demo", "read")
    assert fault.address == hex(int.from_bytes(b"overflow", "little") + 0x38)
    how = said(fault, "how")
    assert 'rdi holds the text "overflow".' in how
    assert "rdi has the value of `route`, struct vmbox_route *" in how
    assert "+ 0x38 is struct vmbox_route.gateway." in how
    assert f"That makes {fault.address}, the address of the fault." in how
    assert "of module vmbox_demo (out of tree, unsigned), /tmp/module/vmbox_demo.c:" in said(fault, "where")
    assert fault.unknown == {}


def test_the_offset_that_5_10_leaves_out_of_an_address_is_added() -> None:
    """Its log has the register alone: a genuine dump of the same cause has 0x776f6c667265766f there."""
    whole = explained("general-protection")
    text = int.from_bytes(b"overflow", "little")
    log = [line.replace(f"{text + 0x38:x}", f"{text:x}") for line in log_of("general-protection")]
    assert log != log_of("general-protection")
    fault = explain(log, arch="x86_64", readings=readings("general-protection"), taint=(), panic="Fatal exception")
    assert fault is not None
    assert fault.address == whole.address == hex(text + 0x38)
    assert f"refused to read {hex(text + 0x38)}" in said(fault, "what")
    assert f"The log has {hex(text)}, without the instruction's offset." in said(fault, "how")
    assert "operand" not in fault.unknown
    # A log alone does not tell.
    alone = explain(log, arch="x86_64", readings=ALONE, taint=(), panic="Fatal exception")
    assert alone is not None
    assert "in some versions without the instruction's offset." in said(alone, "what")
    assert "versions" not in said(whole, "what")


def test_the_caller_of_a_check_in_the_list_code_has_its_line() -> None:
    fault = explained("list-corruption")
    assert "BUG() at lib/list_debug.c:" in said(fault, "what")
    assert "next is LIST_POISON1" in said(fault, "what")
    assert "It was called by vmbox_dequeue (/tmp/module/vmbox_demo.c:" in said(fault, "where")
    assert fault.access is None


def test_a_recursion_is_counted_and_not_listed() -> None:
    fault = explained("stack-overflow")
    assert "A kernel stack overflowed" in said(fault, "what")
    assert " times" in said(fault, "where")
    assert said(fault, "where").count("vmbox_descend") == 2


def test_a_stall_names_no_instruction_that_failed() -> None:
    fault = explained("rcu-stall")
    assert said(fault, "what").startswith("Nothing faulted; a CPU did not get on: rcu: ")
    assert "The CPU was at " in said(fault, "how")
    assert (fault.access, fault.address) == (None, None)


@pytest.mark.parametrize("name", ["general-protection", "list-corruption", "bug", "stack-overflow", "rcu-stall"])
def test_a_log_alone_says_less_and_why(name: str) -> None:
    whole, alone = explained(name), explained(name, ALONE)
    assert alone.unknown["dump"] == ALONE.why
    assert alone.function == whole.function
    assert said(alone, "what").split()[:3] == said(whole, "what").split()[:3]
    assert (alone.frames, alone.instruction, said(alone, "how"), said(alone, "cpus")) == ((), None, "", "")


def test_a_panic_without_an_oops_is_said_to_be_none() -> None:
    fault = explain(
        log_of("deadlock"), arch="x86_64", readings=ALONE, panic="Kernel panic - not syncing: hung_task: blocked tasks"
    )
    assert fault is not None
    assert said(fault, "what").startswith("No instruction of the kernel faulted: Kernel panic - not syncing: hung_task")
    # The module wrote into the log which thread is which.
    pids = [line.split("pid ")[1].split()[0] for line in log_of("deadlock") if "vmbox_demo: pid " in line]
    assert len(pids) == 3
    assert all(f"(PID {pid}) was blocked." in said(fault, "what") for pid in pids)
    assert fault.unknown["taint"]
    assert re.fullmatch(r"khungtaskd \(PID \d+\) panicked, on CPU \d, in watchdog.*", said(fault, "where"))


def test_a_log_in_which_nothing_failed_is_not_explained() -> None:
    assert explain(["[ 0.0] Linux version 6.1.0"], arch="x86_64", readings=ALONE) is None


def test_hardware_errors_come_first() -> None:
    error = "[    1.0] mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 4: b200000000070005"
    fault = explain([error, *log_of("bug")], arch="x86_64", readings=ALONE)
    assert fault is not None
    assert fault.sentences[0].topic == "hardware"
    assert "Bank 4" in fault.sentences[0].text
    assert said(explained("bug"), "hardware") == "The log has no hardware error."


def test_values_that_differ_are_said_and_the_logs_are_used() -> None:
    read = readings("general-protection")
    assert read.facts is not None
    first = json.loads((FIXTURES / "general-protection.json").read_text(encoding="utf-8"))[0]
    first["registers"]["rdi"] = 0x1000
    fault = explained("general-protection", Readings(facts=readers.read_facts(json.dumps(first).encode())))
    assert "rdi" in fault.unknown["registers"]
    assert fault.operands[0].value == hex(int.from_bytes(b"overflow", "little"))


def test_an_address_that_the_registers_do_not_make_is_not_explained_by_them() -> None:
    first = json.loads((FIXTURES / "general-protection.json").read_text(encoding="utf-8"))[0]
    for one in first["instructions"]:
        if one["offset"] == 0:
            one["text"] = "mov    0x40(%rdi),%rax"
    fault = explained("general-protection", Readings(facts=readers.read_facts(json.dumps(first).encode())))
    assert "the address of the fault" not in said(fault)
    assert "the log has" in fault.unknown["operand"]


def test_a_word_that_has_changed_since_is_no_evidence() -> None:
    first, second = json.loads((FIXTURES / "general-protection.json").read_text(encoding="utf-8"))
    value = first["registers"]["rdi"]
    first["registers"]["rbx"] = 0xFFFF888000001000
    first["instructions"].insert(-1, {"offset": -4, "text": "mov    0x10(%rbx),%rdi"})
    first["instructions"].sort(key=lambda one: one["offset"])
    log = [line for line in log_of("general-protection") if "RBX" not in line]

    def told(word: int | None) -> str:
        second["words"] = [word]
        second["members"] = [{"type": "struct vmbox_route", "member": "gateway"}]
        read = Readings(
            facts=readers.read_facts(json.dumps(first).encode()),
            values=readers.read_values(json.dumps(second).encode()),
        )
        fault = explain(log, arch="x86_64", readings=read)
        assert fault is not None
        return said(fault, "how")

    assert "rdi was loaded from 0x10(%rbx), which is 0xffff888000001010" in told(value)
    assert "was loaded from" not in told(value + 1)
    assert "was loaded from" not in told(None)


def test_the_access_of_arm64_is_that_of_the_esr() -> None:
    from test_oops import ARM64

    def access(esr: int) -> str | None:
        log = ARM64.replace("0x0000000096000044", f"0x{esr:016x}").splitlines()
        fault = explain(log, arch="aarch64", readings=ALONE, taint=())
        assert fault is not None
        assert fault.function == "broken_write"
        return fault.access

    assert access(0x96000044) == "write"
    assert access(0x96000004) == "read"
    assert access(0x86000004) == "execute"
    # EC 0x3c is BRK.
    assert access(0xF2000800) is None


@pytest.mark.parametrize(
    ("code", "address", "words"),
    [
        (0x0, 0x38, "A NULL pointer was followed: the kernel tried to read address 0x38."),
        (0x2, 0xFFFF888000000000, "tried to write address 0xffff888000000000, which is not mapped."),
        (0x3, 0xFFFFFFFF81000000, "which is mapped read-only."),
        (
            0x11,
            0xFFFF888000000000,
            "tried to run code at address 0xffff888000000000, which is mapped, but not as code.",
        ),
        (0x1, 0x7F0000001000, "of user space: the kernel may do so in few places only (SMAP)."),
        (0x9, 0xFFFF888000000000, "of which a page table is damaged (a reserved bit is set)."),
    ],
)
def test_a_page_fault_is_said_by_its_error_code(code: int, address: int, words: str) -> None:
    log = [
        f"[ 1.0] BUG: unable to handle page fault for address: {address:016x}",
        f"[ 1.0] #PF: error_code(0x{code:04x}) - words",
        f"[ 1.0] Oops: {code:04x} [#1] PREEMPT SMP",
        "[ 1.0] CPU: 1 PID: 7 Comm: a Not tainted 6.1.0 #1",
        "[ 1.0] RIP: 0010:f+0x1/0x2",
    ]
    fault = explain(log, arch="x86_64", readings=ALONE, taint=())
    assert fault is not None
    assert words in said(fault, "what")


def test_the_text_has_a_command_below_what_it_shows() -> None:
    text = list(as_text(explained("bug"), "'a b/vmcore'"))
    assert text[0] == "WHAT"
    assert "      $ vmbox run 'a b/vmcore' -- log" in text
    assert "NOT KNOWN" not in text
    assert "NOT KNOWN" in list(as_text(explained("bug", ALONE), None))


def test_an_answer_that_is_not_understood_is_refused() -> None:
    for answer in (b"", b"[]", b"{}", b'{"errors": {}, "pc": "x"}', b'{"errors": {}, "registers": {"rax": "y"}}'):
        with pytest.raises(ValueError, match=r"."):
            readers.read_facts(answer)
