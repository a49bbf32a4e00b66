"""Dumps made to do harm, and a crash that does: limits hold, the host goes on, the message says what happened."""

from __future__ import annotations

import os
import pty
import random
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.conftest import Dumps
from engines import EngineUnderTest

TITLE = b"\x1b]0;own\x07\x1b[31m!!"
"""Sets a terminal's title and colour; as long as what it takes the place of."""


on_demand = pytest.mark.on_demand


@pytest.fixture(
    scope="session",
    params=["docker_engine", *(pytest.param(name, marks=on_demand) for name in ("podman_rootful", "podman_rootless"))],
)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Docker; each of the three with VMBOX_TEST_FAULTS=all."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def painted(docker_engine: EngineUnderTest, dumps: Dumps) -> Path:
    """A dump with escape sequences in its log and in the name of a task. Its pages are not compressed."""
    dump = dumps.copy_for(docker_engine, dumps(form="elf"))
    content = dump.read_bytes()
    for before, after in ((b"Trigger a crash", TITLE), (b"kthreadd\0", b"k\x1b[31mdd\0")):
        assert before in content
        assert len(before) == len(after)
        content = content.replace(before, after)
    dump.write_bytes(content)
    return dump


def on_a_terminal(engine: EngineUnderTest, *arguments: str) -> bytes:
    """What a terminal is sent when vmbox writes to it."""
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                seen.extend(piece)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    command = [*engine.vmbox, *arguments]
    subprocess.run(command, env=dict(engine.env), stdout=theirs, stderr=subprocess.DEVNULL, check=True, timeout=200)
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    return bytes(seen)


def test_escape_sequences(docker_engine: EngineUnderTest, painted: Path) -> None:
    """Made visible on a terminal, untouched in a pipe."""
    commands = ["run", str(painted), "-q", "--", "log", "--", "ps 2"]
    piped = docker_engine.run(*commands)
    assert piped.returncode == 0, piped.stderr
    # crash prints dots for what is no text in a log, and names of tasks as they are.
    assert b"k\x1b[31mdd" in piped.stdout
    assert TITLE in docker_engine.run("dmesg", str(painted)).stdout
    for shown in (on_a_terminal(docker_engine, *commands), on_a_terminal(docker_engine, "dmesg", str(painted))):
        assert b"\x1b" not in shown
        assert b"\x07" not in shown
    assert rb"\x1b]0;own\x07\x1b[31m!!" in shown
    assert b"\x1b" not in on_a_terminal(docker_engine, "info", str(painted))
    docker_engine.run("close", "--all")


def _vmcoreinfo(dump: bytearray) -> None:
    start = dump.index(b"OSRELEASE=")
    text = bytes(dump[start : start + 4096])
    lied = re.sub(rb"(SYMBOL|OFFSET|SIZE|NUMBER|LENGTH)\(([^)]*)\)=(\d)", rb"\1(\2)=7", text)
    dump[start : start + len(text)] = lied


def _counts(dump: bytearray) -> None:
    # struct disk_dump_header of x86_64: block_size, sub_hdr_size, bitmap_blocks, max_mapnr at 0x1a0 and on.
    dump[0x1A8:0x1B4] = b"\xff\xff\xff\x7f" * 3


def _descriptors(dump: bytearray) -> None:
    noise = random.Random(7)
    middle = len(dump) // 40
    for at in range(middle, middle * 2, 24):
        dump[at : at + 8] = noise.randbytes(8)


def _pages(dump: bytearray) -> None:
    noise = random.Random(8)
    for at in range(len(dump) // 8, len(dump), len(dump) // 2000):
        dump[at : at + 64] = noise.randbytes(64)


def _tail(dump: bytearray) -> None:
    del dump[len(dump) * 2 // 3 :]
    dump += os.urandom(1 << 20)


@pytest.mark.parametrize("damage", [_vmcoreinfo, _counts, _descriptors, _pages, _tail], ids=lambda one: one.__name__)
def test_crafted_dumps(podman_rootless: EngineUnderTest, dumps: Dumps, damage: Callable[[bytearray], None]) -> None:
    """An answer, or what is wrong in a line with its own status; in bounded time, and nothing is left."""
    dump = dumps.copy_for(podman_rootless, dumps())
    content = bytearray(dump.read_bytes())
    damage(content)
    dump.write_bytes(content)
    done = podman_rootless.run("run", str(dump), "--timeout", "20", "--", "bt", "--", "ps", timeout=240)
    assert done.returncode in {0, 1, 12, 13, 14, 40, 60, 61, 62}, done.stderr
    assert b"internal error" not in done.stderr
    assert b"Traceback" not in done.stderr
    podman_rootless.run("close", "--all")
    assert podman_rootless.run("doctor", "--leaks", "--engine", podman_rootless.url).returncode == 0


def test_memory_pids_and_scratch_are_bounded(engine: EngineUnderTest, own_dump: Path) -> None:
    """Limits as the settings say hold, and crash answers on."""
    engine.run("close", "--all")
    env = {**engine.env, "VMBOX_MEMORY": "1500MB", "VMBOX_PIDS": "100"}
    commands = [
        "!(head -c 5000000000 /dev/zero | tail -c 4999999999) 2>/dev/null | wc -c",
        "!head -c 9000000000 /dev/zero 2>/dev/null >/scratch/full; stat -c %s /scratch/full; rm /scratch/full",
        "!(for i in $(seq 200); do sleep 3 & done) 2>&1 | tail -1",
        "p 1+1",
    ]
    words = [part for command in commands for part in ("--", command)]
    done = subprocess.run(
        [*engine.vmbox, "run", str(own_dump), *words], env=env, capture_output=True, check=False, timeout=200
    )
    engine.run("close", "--all")
    # Which of the processes is killed is the kernel's choice, and the shell prints of some that they were.
    eaten, written, *rest = (line for line in done.stdout.split(b"\n") if line != b"Killed")
    assert int(eaten or 0) < 4_999_999_999, done.stdout
    assert 0 < int(written) <= 1_500_000_000 // 8 + 4096  # whole pages
    assert b"ork" in rest[0] or not engine.engine.info().limits
    assert done.stdout.endswith(b"= 2\n"), done.stderr


def test_a_crash_that_does_not_come_up(podman_rootless: EngineUnderTest, dumps: Dumps) -> None:
    """What a dump can cost at most, here a second; its case can be used when more is allowed."""
    dump = dumps.copy_for(podman_rootless, dumps())
    env = {**podman_rootless.env, "VMBOX_START": "1"}
    command = [*podman_rootless.vmbox, "run", str(dump), "--", "p 1+1"]
    late = subprocess.run(command, env=env, capture_output=True, check=False, timeout=300)
    assert late.returncode == 62, late.stderr
    assert b"did not come up" in late.stderr
    assert b"--set start=" in late.stderr
    again = podman_rootless.run("run", str(dump), "--", "p 1+1")
    assert again.stdout.endswith(b"= 2\n"), again.stderr
    podman_rootless.run("close", "--all")


def test_a_crash_that_dies_of_the_dump(podman_rootless: EngineUnderTest, dumps: Dumps) -> None:
    dump = dumps.copy_for(podman_rootless, dumps())
    died = podman_rootless.run("run", str(dump), "--", "p 1+1", "--", "!kill -SEGV $PPID; sleep 1; kill -KILL $PPID")
    assert died.returncode == 61
    assert b"= 2\n" in died.stdout
    assert b"crash died of signal 11" in died.stderr
    podman_rootless.run("close", "--all")
