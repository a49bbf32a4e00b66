"""Refusals as each debugger has worded them, in answers that were recorded: none counts as answered."""

from __future__ import annotations

import pytest

import refusals
from sandbox.debugger import DEBUGGERS
from sandbox.debugger.selection import Selection

RECORDED = refusals.recorded()

RIGHT = {"bt", "ps", "sys", "mod", "kmem -i", "struct list_head", "rd jiffies", "foreach bt", "eval 1 + 1", "help bt"}
"""Commands that each debugger has answered."""


def test_each_debugger_is_recorded() -> None:
    assert {name.split()[0] for name in RECORDED} == {"crash", "drgn"}
    assert {name for name in RECORDED if name.startswith("crash")} == {
        f"crash {version}" for version in ("7.2.9", "8.0.2", "8.0.6", "9.0.2")
    }
    assert len(refusals.commands()) > 150


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("name", RECORDED)
def test_a_refusal_is_told_from_an_answer(name: str, size: int) -> None:
    wrong = []
    for command, answer in RECORDED[name].items():
        debugger, _, version = name.partition(" ")
        complaints = DEBUGGERS[debugger].complaints(command, version)
        said = answer["output"].encode(errors="surrogateescape")
        for at in range(0, len(said), size):
            complaints.feed(said[at : at + size])
        if complaints.found() != answer["refused"]:
            wrong.append(command)
    assert wrong == []


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_asked_of_nothing_is_refused(name: str) -> None:
    """By the command alone: a word "nosuch" or 999999 is of nothing in any dump."""
    answered = {command for command, one in RECORDED[name].items() if not one["refused"]}
    assert answered >= RIGHT
    # A search that finds nothing has its answer, and what runs in a shell is the shell's.
    searches = {"sym -q nosuchsubstring", "log | grep nosuchtext", "fuser nosuch", "!nosuch"}
    assert {one for one in answered if "nosuch" in one or "99" in one} <= searches


@pytest.mark.parametrize(
    ("command", "output", "missing"),
    [
        ("ps nosuch", "   PID  PPID  CPU  TASK  ST\n", "ps: nothing matches nosuch"),
        ("ps nosuch", "   PID  PPID  CPU  TASK  ST\n>    1     0    0  ffff  RU\n", None),
        ("ps -p nosuch", "", "ps: nothing matches nosuch"),
        ("ps -C 1", "   PID  PPID  CPU  TASK  ST\n", None),
        ("ps -y FIFO", "   PID  PPID  CPU  TASK  ST\n", None),
        ("ps nosuch | cat", "", None),
        ("ps nosuch > file", "", None),
        ("kmem -s nosuch", "CACHE  OBJSIZE  ALLOCATED\n", "kmem: nothing matches nosuch"),
        ("kmem -I a,b -s", "", None),
        ("kmem 0", "", "kmem: nothing matches 0"),
        ("sym -m nosuch", "", "sym: nothing matches nosuch"),
        ("mount 999999", "", "mount: nothing matches 999999"),
        ("foreach nosuch bt", "", "foreach: nothing matches nosuch"),
        ("foreach UN bt", "", None),
        ("foreach user D bt", "", None),
        ("foreach nosuch files -R x", "", None),
        ("foreach a b bt -a", "", "foreach: nothing matches a b"),
        ("mod -s nosuch", "MODULE  NAME  TEXT_BASE  SIZE\n", "mod: nothing matches nosuch"),
        ("bt", "", None),
        ("", "", None),
    ],
)
def test_an_answer_without_a_row_says_what_is_missing(command: str, output: str, missing: str | None) -> None:
    for size in (1, 1000):
        selection = Selection(command)
        for at in range(0, len(output), size):
            selection.feed(output[at : at + size].encode())
        assert selection.missing() == missing


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fuser nosuch", "fuser: what it was given is neither a path nor the address of an inode"),
        ("fuser 0x1234", "fuser: what it was given is neither a path nor the address of an inode"),
        ("fuser /dev/null", None),
        ("fuser ffff8a03811d0000", None),
        ("vm -M 0xdeadbeef", "vm: what it was given is no address of the kernel"),
        ("vm -p -M 1234", "vm: what it was given is no address of the kernel"),
        ("vm -M ffff8a03811d0000 1", None),
        ("vm 1", None),
        ("net", None),
        ("net -n", None),
    ],
)
def test_what_an_old_crash_does_not_check(command: str, words: str | None) -> None:
    crash = DEBUGGERS["crash"]
    for version in ("7.2.9", "7.3.2-2.el8", "8.0.2"):
        complaints = crash.complaints(command, version)
        complaints.feed(b"    1  ffff8a03811d0000  init  fd\n")
        assert (complaints.missing(), complaints.found(), complaints.note()) == (words, words is not None, None)
    for version in ("8.0.3", "9.0.2", ""):
        assert crash.complaints(command, version).missing() is None


def test_what_only_crash_can_check_is_said() -> None:
    """crash 8.0.2 shows the devices of the current task, and not a word (its commit 5a652ed)."""
    complaints = DEBUGGERS["crash"].complaints("net -n 999999", "8.0.2")
    complaints.feed(b"   NET_DEVICE     NAME   IP ADDRESS(ES)\n")
    note = complaints.note()
    assert note is not None
    assert note.startswith("net: where it knows no such task, this crash shows the devices of the current one")
    assert note.endswith("set 999999")
    assert not complaints.found()
    assert DEBUGGERS["crash"].complaints("net -n 999999", "8.0.3").note() is None
