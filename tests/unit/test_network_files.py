"""Dumps on network file systems whose server does not answer. The server is a thread here that never does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.dump import identify
from sandbox.errors import DumpUnreadable
from sandbox.host import network_files

DUMP = Path(__file__).resolve().parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
MOUNTS = b"""\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:50 / /srv/with\\040space rw shared:1 - nfs4 server:/export rw,hard
31 30 0:51 / /srv/with\\040space/local rw - tmpfs tmpfs rw
32 27 0:52 / /home/me/there rw - fuse.sshfs me@there: rw
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/with space/vmcore", "nfs4"),
        ("/srv/with space/local/vmcore", None),
        ("/srv/with spaces/vmcore", None),
        ("/home/me/there", "fuse.sshfs"),
        ("/vmcore", None),
    ],
)
def test_network_file_systems_are_known_by_their_mounts(tmp_path: Path, path: str, found: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(MOUNTS)
    assert network_files.kind(Path(path), mounts) == found


def test_links_are_followed_until_the_network_begins(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(MOUNTS)
    (tmp_path / "dumps").symlink_to("/srv/with space/of today")
    (tmp_path / "last").symlink_to("dumps/vmcore")
    (tmp_path / "round").symlink_to("round")
    assert network_files.kind(tmp_path / "last", mounts) == "nfs4"
    assert network_files.kind(tmp_path / "round", mounts) is None
    words = ["info", "-v", str(tmp_path), str(tmp_path / "last"), "/home/me/there/x"]
    assert network_files.first(words, mounts) == (tmp_path / "last", "nfs4")
    assert network_files.first(words[:3], mounts) is None


@pytest.mark.parametrize(
    ("work", "status"),
    [("pass", 0), ("sys.exit(13)", 13), ("os.kill(os.getpid(), 15)", -15), ("print(input())", 0)],
)
def test_a_command_in_a_child_ends_as_it_would_without(work: str, status: int) -> None:
    code = f"import os, pathlib, sys; from sandbox.host import abandoned\ndef work(): {work}\n"
    code += "abandoned.run(work, pathlib.Path('vmcore'), 'nfs4')"
    done = subprocess.run([sys.executable, "-c", code], input=b"words", capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    assert done.stdout == (b"words\n" if "input" in work else b"")
    assert done.stderr == b""


@pytest.mark.slow
def test_a_slow_reader_gets_all_that_a_child_printed() -> None:
    code = "import pathlib, sys; from sandbox.host import abandoned\n"
    code += "def work(): sys.stdout.write('more' * 100_000)\n"
    code += "abandoned.run(work, pathlib.Path('vmcore'), 'nfs4')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        time.sleep(1.5)
        assert len(process.communicate(timeout=20)[0]) == 400_000
    assert process.returncode == 0


def test_a_reader_that_goes_ends_a_command_in_a_child() -> None:
    code = "import pathlib, sys; from sandbox.host import abandoned\n"
    code += "def work():\n  while True: sys.stdout.write('more' * 1000)\n"
    code += "abandoned.run(work, pathlib.Path('vmcore'), 'nfs4')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"moremore"
        process.stdout.close()
        assert process.wait(20) != 0


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """All reads wait for the event."""
    event, pread = threading.Event(), os.pread

    def wait(descriptor: int, size: int, offset: int) -> bytes:
        event.wait()
        return pread(descriptor, size, offset)

    monkeypatch.setattr(network_files, "PATIENCE", 0.05)
    monkeypatch.setattr(network_files, "_silent", set())
    monkeypatch.setattr(network_files, "kind", lambda _: "nfs4")
    monkeypatch.setattr(os, "pread", wait)
    yield event
    event.set()


def test_a_read_that_is_not_answered_is_an_error_and_is_not_tried_again(stalled: threading.Event) -> None:
    for _ in range(2):
        with pytest.raises(DumpUnreadable, match=r"x86_64-6.1-zlib: its file system \(nfs4\) has not answered for"):
            identify(DUMP)
    waiting = [one for one in threading.enumerate() if one.name == "network file"]
    assert len(waiting) == 1


def test_a_server_that_answers_is_read_as_a_disk_is(stalled: threading.Event) -> None:
    stalled.set()
    assert identify(DUMP).cause == "sysrq"
