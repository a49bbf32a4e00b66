"""Dumps of aarch64 on a host of another machine: opened with aarch64's own crash under user-mode emulation."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import aarch64
import engines
from engines import EngineUnderTest

BINFMT = Path("/proc/sys/fs/binfmt_misc")
ENTRY = BINFMT / "qemu-aarch64"
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""What Debian's qemu-user-static registers where systemd runs."""
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "dumps" / "aarch64-6.1-zlib"
FRAME = re.compile(rb"^ *#\d+ \[[0-9a-f]+\] (\S+) at", re.MULTILINE)
PANICKED = [b"panic", b"sysrq_handle_crash", b"__handle_sysrq", b"write_sysrq_trigger", b"vfs_write", b"el0t_64_sync"]
"""What the panicking task's stack has, innermost first: the kernel's own call trace in its log says the same."""

pytestmark = pytest.mark.skipif(os.uname().machine == "aarch64", reason="nothing has to be emulated here")


@pytest.fixture
def dump(docker_engine: EngineUnderTest) -> Path:
    directory = engines.cache_root() / "dumps" / "6.1-aarch64-one"
    if not (directory / "vmcore").exists():
        directory.mkdir(parents=True, exist_ok=True)
        aarch64.make_vmcore(docker_engine.engine, directory)
    return directory / "vmcore"


@pytest.fixture
def emulation() -> Iterator[None]:
    """Emulation of aarch64 is set up; afterwards all is as it was before."""
    mounted = (BINFMT / "register").exists()
    if not mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    registered = ENTRY.exists()
    if not registered:
        rule = RULE.read_text().strip()
        (BINFMT / "register").write_bytes(rule[rule.index(":") :].encode())
    yield
    if not registered:
        ENTRY.write_text("-1")
    if not mounted:
        subprocess.run(["umount", str(BINFMT)], check=True)


def test_what_is_missing_is_named(docker_engine: EngineUnderTest) -> None:
    if ENTRY.exists():
        pytest.xfail("emulation is set up on this host: nothing is missing")
    refused = docker_engine.run("run", str(FIXTURE), "--", "bt")
    assert refused.returncode == 23
    said = refused.stderr.decode()
    assert "the dump is of aarch64, and this host (x86_64) cannot run its crash" in said
    assert "sudo " in said


@pytest.mark.on_demand("EMULATION")
@pytest.mark.usefixtures("emulation")
def test_backtrace_of_aarch64(docker_engine: EngineUnderTest, dump: Path) -> None:
    facts = json.loads(docker_engine.run("info", str(dump), "--json").stdout)
    assert facts["arch"] == "aarch64"
    try:
        done = docker_engine.run(
            "run", str(dump), "--", "bt", "--", "bt 2", "--", "sys", "--", "!uname -m", timeout=1500
        )
        assert done.returncode == 0, done.stderr.decode()
        (case,) = (one for one in json.loads(docker_engine.run("list", "--json").stdout) if one["dump"] == str(dump))
    finally:
        docker_engine.run("close", str(dump))
    panicked, other = (FRAME.findall(stack) for stack in done.stdout.split(b"PID: ")[1:])
    # Two frames are the processor's own when QEMU stopped it: it goes on counting the time after a panic.
    assert [name for name in panicked if name in PANICKED] == PANICKED
    assert other == [b"__switch_to", b"__schedule", b"schedule", b"kthreadd"]
    assert b"MACHINE: aarch64" in done.stdout
    assert b"\naarch64\n" in done.stdout
    assert case["profile"] == "latest-aarch64"
