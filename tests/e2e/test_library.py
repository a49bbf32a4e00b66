"""The library on a genuine dump, and the examples as a reader would run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from e2e.conftest import AGREES
from engines import EngineUnderTest
from sandbox.errors import CommandTimeout

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def environment(docker_engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch) -> EngineUnderTest:
    for name, value in docker_engine.env.items():
        if name.startswith("VMBOX_"):
            monkeypatch.setenv(name, value)
    return docker_engine


def test_open_run_close(environment: EngineUnderTest, dumps) -> None:
    dump = dumps()
    with sandbox.open(dump) as case:
        answer = case.run("bt")
        assert "sysrq_handle_crash" in answer.text
        assert answer.status == "ok"
        assert (answer.debugger, answer.doubt, answer.not_judged) == ("crash", None, None)
        assert [(one.subject, one.agrees) for one in answer.verdicts] == [("stack", True)]
        system = case.run("sys")
        assert {one.subject: one.agrees for one in system.verdicts} == dict.fromkeys(("date", "uptime", "tasks"), True)
        assert case.run("nosuch").status == "error"
        with pytest.raises(CommandTimeout):
            case.run("!sleep 60", timeout=0.5)
        pieces: list[bytes] = []
        done = case.stream("log", pieces.append)
        assert done.bytes == len(b"".join(pieces)) > 1000
        # Kept as what is typed is.
        kept = [json.loads(line) for line in environment.run("log", str(dump), "--json").stdout.splitlines()]
        asked = [(one["command"], one["status"]) for one in kept[-5:]]
        assert asked == [("bt", "ok"), ("sys", "ok"), ("nosuch", "error"), ("!sleep 60", "timeout"), ("log", "ok")]
        assert kept[-5]["output"] == answer.text
        with case.session() as session:
            assert session.run("p 1+1", pieces.append).status == "ok"
        assert case.case.release == sandbox.identify(dump).release
        report = case.report()
        assert report.backtrace is not None
        assert "sysrq_handle_crash" in [frame.function for frame in report.backtrace.frames]
    # Left open: the command line finds the same crash warm.
    warm = environment.run("run", str(dump), "--", "bt")
    assert warm.stdout == answer.output
    assert re.fullmatch(AGREES, warm.stderr)
    assert dump in [found.dump for found in sandbox.cases()]
    case.close()
    assert dump not in [found.dump for found in sandbox.cases()]


@pytest.mark.parametrize(
    ("example", "says"), [("backtrace.py", "sysrq_handle_crash"), ("inventory.py", "sysrq"), ("blocked.py", "waiting")]
)
def test_examples(environment: EngineUnderTest, dumps, example: str, says: str) -> None:
    command = [sys.executable, str(EXAMPLES / example), str(dumps())]
    env = {**environment.env, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
