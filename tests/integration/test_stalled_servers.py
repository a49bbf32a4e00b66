"""Commands on a file system by FUSE, for real, whose server takes requests and does not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DUMP = Path(__file__).resolve().parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel is told to drop what waits for the server")

# One thread: when it stalls, it answers nothing, not even that a request is interrupted.
SERVER = """
import errno, os, pathlib, stat, sys, time
import mfusepy

source, mount, stall = sys.argv[1:]
content = pathlib.Path(source).read_bytes()

class Files(mfusepy.Operations):
    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
        if path != "/vmcore":
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": len(content)}

    def wait(self, operation):
        while os.path.exists(f"{stall}/{operation}"):
            pathlib.Path(stall, "taken").touch()
            time.sleep(0.02)

    def open(self, path, flags):
        self.wait("open")
        return 0

    def read(self, path, size, offset, fh):
        self.wait("read")
        return content[offset : offset + size]

    def flush(self, path, fh):
        self.wait("flush")
        return 0

mfusepy.FUSE(Files(), mount, foreground=True, nothreads=True, ro=True, fsname="there:", subtype="sshfs")
"""

# Below 30 s and its double: a test does not wait for a minute.
IMPATIENT = """
import sys
from sandbox.host import network_files
network_files.PATIENCE = 0.3
from sandbox.host import abandoned
abandoned._SILENCE = 1.0
abandoned._AFTER_SIGNAL = 0.5
from sandbox.__main__ import main
main()
"""


@pytest.fixture
def stall(tmp_path: Path) -> Iterator[Path]:
    """A directory, of whose files each names an operation that stalls. The server's file is mount/vmcore beside it."""
    stall, mount = tmp_path / "stall", tmp_path / "mount"
    stall.mkdir()
    mount.mkdir()
    with subprocess.Popen([sys.executable, "-c", SERVER, str(DUMP), str(mount), str(stall)]) as server:
        try:
            _until(mount.is_mount)
            yield stall
        finally:
            server.kill()
            subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=True)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _ask(stall: Path, *, number: int | None = None) -> tuple[int, str, float]:
    """Status, standard error and seconds of `vmbox info`, sent a signal when the server has taken a request."""
    command = [sys.executable, "-c", IMPATIENT, "info", str(stall.parent / "mount" / "vmcore")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if number is not None:
            _until((stall / "taken").exists)
            process.send_signal(number)
        began = time.monotonic()
        # To the end of what the process prints: one that is left behind may not have it open.
        _, said = process.communicate(timeout=20)
        seconds = time.monotonic() - began
    return process.returncode, said, seconds


def test_a_server_that_answers_changes_nothing(stall: Path) -> None:
    command = [sys.executable, "-m", "sandbox", "info", str(stall.parent / "mount" / "vmcore")]
    there = subprocess.run(command, capture_output=True, check=True)
    command[-1] = str(DUMP)
    here = subprocess.run(command, capture_output=True, check=True)
    assert there.stdout.splitlines()[1:] == here.stdout.splitlines()[1:]


@pytest.mark.parametrize("operation", ["open", "read", "flush"])
def test_a_command_ends_although_the_kernel_keeps_its_process(stall: Path, operation: str) -> None:
    (stall / operation).touch()
    status, said, _ = _ask(stall)
    assert status == 11
    assert "mount/vmcore: its file system (fuse.sshfs) has not answered for" in said
    assert "hint: is its server up?" in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_that_the_kernel_keeps(stall: Path, number: int, status: int) -> None:
    (stall / "flush").touch()
    found, said, seconds = _ask(stall, number=number)
    assert found == status
    assert "does not answer" in said
    assert seconds < 10
