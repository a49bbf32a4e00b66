"""A dump that kdump wrote to a disk (`raw` in kdump.conf): a block device, which no case is given."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from sandbox.case import store
from sandbox.dump import identify, is_plain

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


def test_a_disk_is_served_like_what_is_not_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DUMP, tmp_path / "disk")
    found = identify(tmp_path / "disk")
    assert is_plain(found)
    monkeypatch.setattr(Path, "is_block_device", lambda path: path.name == "disk")
    assert not is_plain(found)


def test_another_dump_on_the_same_disk_is_another_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"KDUMP   one")
    before = disk.stat()
    kept = [store.key(disk)]
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    kept.append(store.key(disk))
    assert store.key(disk) == kept[-1]
    disk.write_bytes(b"KDUMP   two")
    # The node of a disk keeps its times.
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    kept.append(store.key(disk))
    assert len(set(kept)) == 3
