"""Debug files of modules that lie beside a dump, whose author chose what lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import UsageError
from sandbox.report import shipped_scripts
from sandbox.report.shipped_scripts import module_files, read_module


def test_what_became_a_link_is_not_read(tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    crash.mkdir()
    (tmp_path / "secret").write_bytes(b"key")
    (crash / "a.ko").write_bytes(b"module")
    (found,) = module_files(crash / "vmcore")
    assert read_module(found, below=crash) == b"module"
    found.unlink()
    found.symlink_to("../secret")
    assert read_module(found) == b"key"  # as the user says
    with pytest.raises(UsageError, match="symbolic links"):
        read_module(found, below=crash)


def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.ko")
    for name in (tmp_path / "fifo.ko", Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a regular file"):
            read_module(name)
    monkeypatch.setattr(shipped_scripts, "_LONGEST_MODULE", 3 << 20)
    with (tmp_path / "large.ko").open("wb") as file:
        file.truncate((3 << 20) + 1)
    with pytest.raises(UsageError, match="larger than 3 MiB"):
        read_module(tmp_path / "large.ko")
