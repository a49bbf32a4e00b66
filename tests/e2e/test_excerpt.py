"""A small dump is made of a large one, and answers as that does; of user memory it has no page."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engines import EngineUnderTest


@pytest.fixture(scope="module", autouse=True)
def _fuse() -> None:
    if not os.access("/dev/fuse", os.F_OK):
        os.mknod("/dev/fuse", 0o020666, os.makedev(10, 229))
    Path("/dev/fuse").chmod(0o666)


def test_an_excerpt_on_each_engine(vmbox, engine: EngineUnderTest, dumps) -> None:
    raw = dumps.copy_for(engine, dumps.forms() / "proc-vmcore")
    small = raw.parent / "small.vmcore"
    made = vmbox("excerpt", "--with", "drgn", "--verify", raw, "-o", small, "--", "bt", "-a")
    assert b"the excerpt answers as the dump does" in made.stdout
    assert small.stat().st_size < raw.stat().st_size / 50
    assert small.stat().st_mode & 0o777 == 0o600


def test_both_debuggers_read_an_excerpt(podman_rootless: EngineUnderTest, dumps) -> None:
    vmbox = podman_rootless
    # All of the memory: what a kdump of level 31 has of processes, nothing reads.
    dump = dumps.copy_for(vmbox, dumps.forms() / "proc-vmcore")
    small = dump.parent / "small.vmcore"
    made = vmbox.run("excerpt", str(dump), "-o", str(small), "--exclude-user", "--", "ps", "-a", "1")
    assert made.returncode == 0, made.stderr
    assert b"no page of user memory is in it" in made.stdout, made.stdout
    listed = json.loads(small.with_name("small.vmcore.json").read_text())
    assert listed["questions"] == ["report by crash", "report by drgn", "ps -a 1"]
    assert sum(one["count"] for one in listed["ranges"]) == listed["pages"] == sum(listed["kinds"].values())
    assert not {"anonymous", "page cache", "unknown"} & set(listed["kinds"])
    told = vmbox.run("info", str(small))
    assert b"report by crash; report by drgn; ps -a 1" in told.stdout
    for debugger in ("crash", "drgn"):
        answer = vmbox.run("run", str(small), "--with", debugger, "--", "bt", "--", "ps", "--", "log")
        assert answer.returncode == 0, answer.stderr
        assert b"AGREES WITH: the log's call trace" in answer.stderr
        whole = vmbox.run("run", str(dump), "--with", debugger, "--", "bt", "--", "ps", "--", "log")
        assert answer.stdout == whole.stdout
        vmbox.run("close", "--all")


def test_the_stack_of_a_new_kernel(podman_rootful: EngineUnderTest, dumps) -> None:
    vmbox = podman_rootful
    dump = dumps.copy_for(vmbox, dumps("7.2"))
    small = dump.parent / "small-7.2.vmcore"
    made = vmbox.run("excerpt", str(dump), "-o", str(small))
    assert made.returncode == 0, made.stderr
    assert b"crash is not asked: " in made.stderr
    answer = vmbox.run("run", str(small), "--", "bt")
    assert b"AGREES WITH: the log's call trace" in answer.stderr, answer.stderr
    assert answer.stdout == vmbox.run("run", str(dump), "--", "bt").stdout
    vmbox.run("close", "--all")
