"""Debuginfo with the real Debian archive, real debug packages and a running crash."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from e2e.conftest import Dumps
from engines import EngineUnderTest


@pytest.fixture(scope="module")
def docker_dump(docker_engine: EngineUnderTest, dumps: Dumps) -> Path:
    return dumps.copy_for(docker_engine, dumps())


def test_modules_appear_in_the_running_case(docker_engine: EngineUnderTest, docker_dump: Path) -> None:
    def run(*arguments: object) -> str:
        done = docker_engine.run("run", str(docker_dump), "--", *map(str, arguments))
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    before = run("mod")
    names = re.findall(r"(?m)^[0-9a-f]{16}\s+(\S+).*\(not loaded\)", before)
    assert names
    (case,) = json.loads(docker_engine.run("list", "--json").stdout)
    shutil.rmtree(Path(case["vmlinux"]).parent / "modules", ignore_errors=True)
    loaded = run("mod", "-s", names[0])
    assert re.search(rf"{names[0]}.*/case/debuginfo/modules/{names[0].replace('_', '[_-]')}\.ko", loaded)
    assert "(not loaded)" not in run("mod", "-S")
    # Of what was fetched, crash now knows types and lines.
    assert "/case/debuginfo/modules/" in run("mod")
    assert len(list((Path(case["vmlinux"]).parent / "modules").iterdir())) == len(names)
