"""vmbox verify: what a file is, recorded once and compared ever after. Nothing of it is touched."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.commands.verify import fingerprint, verify
from sandbox.dump import identify
from sandbox.errors import DumpNotFound, EvidenceChanged, NotADump, UsageError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path / "state"))
    path = tmp_path / "vmcore"
    path.write_bytes(FIXTURE.read_bytes())
    os.utime(path, ns=(1_000_000_000, 2_000_000_000))
    return path


def test_recorded_once_then_compared(dump: Path) -> None:
    (first,) = verify([dump])
    assert first.newly_recorded
    assert first.found.sha256 == hashlib.sha256(dump.read_bytes()).hexdigest()
    (second,) = verify([dump])
    assert not second.newly_recorded
    assert (second.found, second.recorded) == (first.found, first.recorded)


def _content(dump: Path) -> None:
    with dump.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    os.utime(dump, ns=(1_000_000_000, 2_000_000_000))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_content, "content"),
        (lambda dump: dump.chmod(0o644), "mode"),
        (lambda dump: os.utime(dump, ns=(1, 1)), "mtime_ns"),
        (lambda dump: os.setxattr(dump, "user.label", b"x"), "extended attributes"),
        (lambda dump: os.truncate(dump, 4096), "size"),
    ],
)
def test_says_what_changed(dump: Path, change, said: str) -> None:
    dump.chmod(0o600)
    verify([dump])
    change(dump)
    with pytest.raises(EvidenceChanged, match="not what was recorded") as caught:
        verify([dump])
    assert said in (caught.value.detail or "")
    assert verify([dump], accept=True)[0].newly_recorded
    assert not verify([dump])[0].newly_recorded


def test_a_hash_from_elsewhere(dump: Path) -> None:
    right = hashlib.sha256(dump.read_bytes()).hexdigest()
    dump.with_name("vmcore.sha256").write_text(f"{'0' * 64}  vmcore\n")
    with pytest.raises(EvidenceChanged):
        verify([dump])
    # Nothing wrong was recorded; and what the user gives goes before the file.
    assert verify([dump], expected=right.upper())[0].newly_recorded
    with pytest.raises(UsageError, match="64 hexadecimal"):
        verify([dump], expected="abc")


def test_what_has_no_content_of_its_own_is_not_recorded(dump: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, said in ((tmp_path, "a directory"), (tmp_path / "fifo", "regular"), (Path("/dev/zero"), "regular")):
        with pytest.raises(NotADump, match=said):
            verify([path])


def test_holes_are_hashed_without_being_read(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = 1 << 20
    sparse = dump.with_name("sparse")
    with sparse.open("wb") as file:
        for at in (3 * piece, 9 * piece + 17):
            file.seek(at)
            file.write(b"x" * 5000)
        file.truncate(20 * piece)
    wanted = hashlib.sha256(sparse.read_bytes()).hexdigest()
    read = 0
    pread = os.pread

    def counting(descriptor: int, size: int, at: int) -> bytes:
        nonlocal read
        data = pread(descriptor, size, at)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)
    assert fingerprint(sparse).sha256 == wanted
    assert 0 < read < piece
    read = 0
    monkeypatch.setattr(os, "lseek", lambda *_: os.open("/nowhere", os.O_RDONLY))  # a file system that cannot tell
    assert fingerprint(sparse).sha256 == wanted
    assert read == 20 * piece


def test_ctrl_c_ends_it_at_once(dump: Path) -> None:
    large = dump.with_name("large")
    with large.open("wb") as file:
        file.truncate(1 << 40)
    code = "import sys; from sandbox.__main__ import main; sys.exit(main())"
    with subprocess.Popen([sys.executable, "-c", code, "verify", str(large)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"Hashing large" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_several_at_once_with_progress(dump: Path, tmp_path: Path) -> None:
    others = [tmp_path / f"vmcore-{number}" for number in range(5)]
    for number, other in enumerate(others):
        other.write_bytes(bytes([number]) * 100_000)
    found = verify([dump, *others])
    assert [one.path for one in found] == [dump, *others]
    assert len({one.found.sha256 for one in found}) == 6


def test_reading_leaves_no_trace_on_the_file(dump: Path) -> None:
    """Not even the access time, for its owner: `relatime` would set it, the last change being later."""
    before = dump.stat()
    identify(dump)
    fingerprint(dump)
    after = dump.stat()
    assert before == after
    assert before.st_atime_ns == after.st_atime_ns == 1_000_000_000


def test_command(dump: Path, vmbox: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    first = vmbox("verify", dump)
    assert first.returncode == 0
    assert first.stdout == f"{hashlib.sha256(dump.read_bytes()).hexdigest()}  {dump}\n"
    assert "recorded" in first.stderr
    _content(dump)
    changed = vmbox("verify", dump)
    assert changed.returncode == EvidenceChanged.exit_code
    assert changed.stdout == ""
    with pytest.raises(DumpNotFound):
        verify([dump.with_name("none")])


@pytest.mark.parametrize("kind", ["fifo", "link to /dev/zero", "large", "long", "directory"])
def test_a_hash_beside_it_that_is_no_such_file_is_not_waited_for(
    dump: Path, kind: str, vmbox: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    beside = dump.with_name("vmcore.sha256")
    if kind == "fifo":
        os.mkfifo(beside)
    elif kind == "large":
        with beside.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "long":
        beside.write_text("a" * 400 + "  vmcore")
    elif kind == "directory":
        beside.mkdir()
    else:
        beside.symlink_to("/dev/zero")
    done = vmbox("verify", dump)
    assert done.returncode == 0
    assert "recorded" in done.stderr
    assert "vmcore.sha256 is not compared: " in done.stderr
