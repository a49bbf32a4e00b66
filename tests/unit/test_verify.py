"""vmbox verify: what a file is, recorded once and compared ever after. Nothing of it is touched."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.commands.verify import fingerprint, verify
from sandbox.dump import identify
from sandbox.errors import DumpNotFound, EvidenceChanged, UsageError

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
