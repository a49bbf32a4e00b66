"""Answers of a case that a dump took over: of the right types, and otherwise whatever it likes."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import random
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from sandbox.explain import facts as readers, source, wait_facts, waits
from sandbox.explain.facts import Facts, MemberFacts, Values
from sandbox.explain.fault import Readings, explain
from sandbox.explain.inspection import inspect
from sandbox.explain.oops import find
from sandbox.explain.text import lines, wait_lines
from sandbox.explain.wait_facts import WaitAnswer
from sandbox.host.decode import DecodeError
from sandbox.report import wait_drawing

pytestmark = pytest.mark.slow

LOG = (Path(__file__).parents[2] / "fixtures" / "oops" / "general-protection.txt").read_text().splitlines()
EVIL = "\n      $ vmbox run evil; \x1b]52;c;x\x07"
TEXTS = ["", "rdi", "%rax", "mutex", "mov 0x38(%rdi),%rax", "lock xchg %rax,(%rbx,%rcx,8)", "<x>", "struct a; id", EVIL]
NUMBERS = [0, 1, -1, 5, 4096, 1 << 63, (1 << 64) - 1, -(1 << 63), 0xFFFF888000001000]


def made(wanted: Any, dice: random.Random) -> Any:
    """A value of a type, as JSON has it."""
    inside = typing.get_args(wanted)
    match typing.get_origin(wanted):
        case types.UnionType | typing.Union:
            return made(dice.choice(inside), dice)
        case collections.abc.Mapping:
            return {made(inside[0], dice): made(inside[1], dice) for _ in range(dice.randrange(3))}
        case origin if origin is tuple:
            return [made(inside[0], dice) for _ in range(dice.randrange(4))]
        case _:
            pass
    if dataclasses.is_dataclass(wanted):
        hints = typing.get_type_hints(wanted)
        return {one.name: made(hints[one.name], dice) for one in dataclasses.fields(wanted)}
    values: dict[Any, Any] = {str: TEXTS, int: NUMBERS, float: [0.0, -1.5, 1e308], bool: [True, False]}
    return None if wanted is types.NoneType else dice.choice(values[wanted])


def of_vmbox(said: list[str]) -> bool:
    """Whether no line begins as one of vmbox's own, none has a control character, and no command another one."""
    return all(line.isprintable() and ("evil" not in line or not line.startswith("      $")) for line in said)


@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_a_fault_is_explained_or_refused(seed: int) -> None:
    dice = random.Random(seed)
    oops = find(LOG).last
    assert oops is not None
    for _ in range(100):
        try:
            facts = readers.read_facts(json.dumps(made(Facts, dice)).encode())
        except DecodeError:
            continue
        seen = inspect(oops, facts, "x86_64")
        answer = made(Values, dice)
        answer["members"] = [made(MemberFacts, dice) for _ in seen.members]
        answer["words"] = [made(int | None, dice) for _ in seen.words]
        values = readers.read_values(json.dumps(answer).encode())
        fault = explain(LOG, arch="x86_64", readings=Readings(facts=facts, values=values))
        assert fault is not None
        assert of_vmbox(list(lines(fault, "vmcore")))
        assert not any(";" in (one.command or "") for one in fault.sentences)


DOT = re.compile(
    r"digraph waits \{|  rankdir=LR;|  node \[[a-z=, \"]*\];|\}"
    r'|  [tul][0-9a-f]+ \[label="(?:[^"\\]|\\.)*"(?:, (?:color|shape)=[a-z]+)?\];'
    r'|  t\d+ -> [tul][0-9a-f]+ \[label="(?:[^"\\]|\\.)*"\];',
    re.ASCII,
)
"""A line of what `dot` prints, whatever tasks and locks are called."""


def _mostly_counted(answer: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Without the signs that have all of an answer refused, in most of them."""
    if dice.random() < 0.8:
        for one in (*answer["waits"], *answer["owners"]):
            one |= {name: abs(one[name]) for name in ("pid", "owner", "lock") if one.get(name) is not None}
    return answer


@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_waits_are_explained_or_refused(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(100):
        try:
            found = waits.explain(wait_facts.read(json.dumps(_mostly_counted(made(WaitAnswer, dice), dice)).encode()))
        except DecodeError:
            continue
        assert of_vmbox(list(wait_lines(found, "vmcore")))
        assert wait_drawing.draw(found).height < 10_000
        for line in waits.dot(found).splitlines():
            assert DOT.fullmatch(line), line


def wait(pid: int, **changed: object) -> dict[str, object]:
    usual = made(wait_facts.WaitFacts, random.Random(1)) | {"pid": pid, "owner": pid, "lock": 1, "listed": None}
    return usual | changed


def test_an_owner_of_no_lock_is_refused() -> None:
    answer: dict[str, object] = {"errors": {}, "blocked": 1, "owners": [], "pools": []}
    with pytest.raises(DecodeError, match="owner of no lock"):
        wait_facts.read(json.dumps(answer | {"waits": [wait(1, lock=None)]}).encode())
    with pytest.raises(DecodeError, match="at most were asked for"):
        wait_facts.read(json.dumps(answer | {"waits": [wait(pid) for pid in range(5001)]}).encode())
    # One task named twice: what it waits for is what has an owner.
    both = [wait(1), wait(1, owner=None, lock=None)]
    found = waits.explain(wait_facts.read(json.dumps(answer | {"waits": both}).encode()))
    assert found.cycles == ((1,),)


@pytest.mark.parametrize("changed", [{"pid": -1}, {"owner": -1}, {"lock": -1}])
def test_a_task_or_a_lock_has_no_sign(changed: dict[str, int]) -> None:
    """It would be no name in Graphviz's language, and no task."""
    answer = {"errors": {}, "blocked": 1, "owners": [], "pools": [], "waits": [{**wait(1), **changed}]}
    with pytest.raises(DecodeError, match="no sign"):
        wait_facts.read(json.dumps(answer).encode())


def test_a_register_has_no_sign() -> None:
    with pytest.raises(DecodeError, match="sign"):
        readers.read_facts(b'{"errors": {}, "registers": {"rdi": -1}}')


def test_a_path_of_debug_information_that_is_none(tmp_path: Path) -> None:
    for name in ("x" * 4000, "a/" * 2000 + "b", "a/" * 2_000_000, "\0", ".."):
        with pytest.raises(LookupError):
            source.excerpt(tmp_path, name, 1)
