"""`vmbox explain` on dumps of known cause: what it says is compared with the module's own source."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engines import EngineUnderTest
from sandbox.host import paths

SOURCE = paths.data_dir() / "Containerfile.d" / "files" / "demo-trigger.c"

# trigger: function of the mark "CAUSE" in the source, access, texts that the sentences must have.
KNOWN: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "null-pointer": (
        "vmbox_gateway",
        "read",
        (
            "A NULL pointer was followed",
            "has the value of `route`, struct vmbox_route *",
            "is struct vmbox_route.gateway",
        ),
    ),
    "use-after-free": (
        "vmbox_measure",
        "write",
        (
            "holds POISON_FREE",
            "It is struct vmbox_packet.route, by `packet`",
            "slab cache vmbox_packet",
            "which is free",
            "SLUB's record of it: freed by PID ",
        ),
    ),
    "general-protection": ("vmbox_gateway", "read", ('holds the text "overflow"', "which is no address")),
    "bug": ("vmbox_check", None, ("A check in the kernel's own code failed: BUG() at",)),
    "stack-overflow": ("vmbox_descend", "write", ("A kernel stack overflowed", " times")),
    "soft-lockup": ("soft_lockup", None, ("a CPU did not get on",)),
    "rcu-stall": ("rcu_stall", None, ("a CPU did not get on",)),
}
EVERY = [("6.1", "null-pointer"), ("7.2", "use-after-free"), *(("6.1", trigger) for trigger in list(KNOWN)[1:])]


def _line(mark: str) -> int:
    text = SOURCE.read_text(encoding="utf-8").splitlines()
    (number,) = (number for number, line in enumerate(text, 1) if f"/* CAUSE: {mark} */" in line)
    return number


@pytest.mark.parametrize(
    ("kernel", "trigger"),
    [pytest.param(*one, marks=() if one in EVERY[:2] else pytest.mark.on_demand("FIDELITY")) for one in EVERY],
)
def test_a_known_cause_is_explained(docker_engine: EngineUnderTest, dumps, kernel: str, trigger: str) -> None:
    # makedumpfile 1.7.8 leaves out the modules of 7.2.
    dump: Path = dumps(kernel, form="proc-vmcore" if kernel == "7.2" else "kdump", trigger=trigger)
    told = docker_engine.run("explain", str(dump), "--json", "--source", str(dump.parent))
    assert told.returncode == 0, told.stderr
    fault: dict[str, Any] = json.loads(told.stdout)
    function, access, texts = KNOWN[trigger]
    said = "\n".join(one["text"] for one in fault["sentences"])
    assert (fault["function"], fault["module"]) == (function, "vmbox_demo"), fault
    assert fault["access"] == access, fault
    for text in texts:
        assert text in said, said
    if trigger != "stack-overflow":  # its instruction fills the frame, in a line before the call
        marked = "null-pointer" if trigger == "general-protection" else trigger
        # Of a loop that is interrupted, the condition is in the line before its body.
        possible = range(_line(marked) - (1 if trigger in {"soft-lockup", "rcu-stall"} else 0), _line(marked) + 1)
        assert fault["frames"][-1]["line"] in possible, fault["frames"]
        (number,) = (one["number"] for one in fault["source"] if one["fault"])
        (line,) = (one for one in fault["source"] if f"/* CAUSE: {marked} */" in one["text"])
        assert number - line["number"] in {0, fault["frames"][0]["line"] - _line(marked)}
    # What the sentence names answers, and shows what it says.
    commands = list(dict.fromkeys(one["command"] for one in fault["sentences"] if one["command"]))
    where = next(one["command"] for one in fault["sentences"] if one["topic"] == "where")
    answers = {}
    for command in commands:
        done = docker_engine.run("run", str(dump), "--", command)
        answers[command] = done.stdout.decode(errors="replace")
    docker_engine.run("close", str(dump))
    assert re.search(rf"\b{function}\b", answers[where]), answers[where]
    if trigger == "use-after-free":
        (kmem,) = (text for command, text in answers.items() if command.startswith("kmem "))
        assert "vmbox_packet" in kmem


def test_a_deadlock_is_found_with_its_owners(docker_engine: EngineUnderTest, dumps) -> None:
    """The module says in the log who holds what; the kernel's hung-task detector finds the same tasks blocked."""
    dump: Path = dumps("6.1", trigger="deadlock")
    told = docker_engine.run("waits", str(dump), "--json")
    log = docker_engine.run("dmesg", str(dump)).stdout.decode(errors="replace")
    drawn = docker_engine.run("waits", str(dump), "--dot")
    docker_engine.run("close", str(dump))
    assert told.returncode == 0, told.stderr
    waits: dict[str, Any] = json.loads(told.stdout)
    made = {int(pid): lock for pid, lock in re.findall(r"vmbox_demo: pid (\d+) holds (\w+), waits for", log)}
    (behind,) = (int(pid) for pid in re.findall(r"vmbox_demo: pid (\d+) waits for vmbox_outer", log))
    (cycle,) = waits["cycles"]
    assert sorted(cycle) == sorted(made)
    owners = {one["pid"]: one["owner"] for one in waits["waits"]}
    first, second = made
    assert (owners[first], owners[second]) == (second, first)
    assert made[owners[behind]] == "vmbox_outer"
    assert {one["pid"] for one in waits["waits"]} == {
        int(pid) for pid in re.findall(r"INFO: task \S+:(\d+) blocked", log)
    }
    assert all(one["confirmed"] for one in waits["waits"])
    assert f"t{behind} -> t{owners[behind]} [" in drawn.stdout.decode()
