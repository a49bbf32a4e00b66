"""`vmbox report` on genuine dumps: the page, its JSON against the published schema, two dumps compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from engines import EngineUnderTest
from sandbox.dump import identify
from sandbox.report.collect import COMMANDS

ONE = pytest.mark.parametrize("engine", ["podman_rootless"], indirect=True)
"""For what the debuggers answer, in which no engine has a part."""


def test_one_command_makes_a_page(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    page = engine.directory() / "crash.html"
    made = vmbox("report", own_dump, "-o", page)
    assert made.stdout.decode().strip() == str(page)
    text = page.read_text()
    for part in (identify(own_dump).release, "sysrq_handle_crash", "Kernel panic - not syncing: sysrq triggered crash"):
        assert part in text
    # Needs nothing else, from nowhere. (What the kernel's log says may hold addresses: as text.)
    assert "<script" not in text
    for attribute in re.findall(r'(?:src|href|xlink:href|action|data)="([^"]*)"', text):
        assert attribute.startswith(("#", "data:,")), attribute
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text) < 1_500_000


@ONE
def test_json_is_as_published(vmbox, own_dump: Path) -> None:
    schema = json.loads(vmbox("report", "--schema").stdout)
    report = json.loads(vmbox("report", own_dump, "--json").stdout)
    jsonschema.Draft202012Validator(schema).validate(report)
    assert report["panic"]["cause"] == "sysrq"
    assert report["backtrace"]["command"] == "init"
    functions = [frame["function"] for frame in report["backtrace"]["frames"]]
    assert "sysrq_handle_crash" in functions
    assert any(frame["file"] and frame["line"] for frame in report["backtrace"]["frames"])
    assert [run["command"] for run in report["commands"]] == list(COMMANDS)
    assert report["tasks_total"] > 20
    assert report["memory"]["total"] > 1 << 26
    assert report["log_lines"] > 100
    # drgn has an answer to each question, so that no crash is started for a report.
    assert report["missing"] == {}
    assert {run["debugger"] for run in report["commands"]} == {"drgn"}
    assert {one["subject"]: one["agrees"] for one in report["verdicts"]} == dict.fromkeys(
        ("stack", "date", "uptime", "tasks"), True
    )
    assert any(frame["function"] == "sysrq_handle_crash" for cpu in report["cpus"] for frame in cpu["frames"])
    by_crash = json.loads(vmbox("report", own_dump, "--json", "--with", "crash").stdout)
    assert by_crash["identity"]["debugger"] == "crash"
    for part in ("signature", "panic", "load", "states", "tasks_total", "run_queues", "mounts", "disks", "network"):
        assert report[part] == by_crash[part], part
    for part in ("active_tasks", "by_memory", "modules"):
        names = [sorted(one.get("command", one.get("name")) for one in made[part]) for made in (report, by_crash)]
        assert names[0] == names[1], part


@ONE
def test_two_dumps_compared(vmbox, engine: EngineUnderTest, own_dump: Path, dumps) -> None:
    other = dumps.copy_for(engine, dumps(form="elf"))
    same = json.loads(vmbox("report", "--compare", own_dump, other, "--json").stdout)
    assert same["same"] is True
    assert same["likeness"] == 1.0
