"""An unpacked dump is its user's alone, whatever was in the cache before."""

import gc
import gzip
import os
import stat
from pathlib import Path

import pytest

from sandbox.dump import identify, unpack
from sandbox.dump.source import FileSource
from sandbox.dump.unpacking import unpacked_path
from sandbox.dump.view import open_view
from sandbox.errors import ConfigurationError

DUMP = (Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib").read_bytes()


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP))
    return identify(path)


def modes(copy):
    return [stat.S_IMODE(place.stat().st_mode) for place in (copy.parent.parent, copy.parent, copy)]


def test_files_and_directories_are_private(packed, tmp_path):
    before = os.umask(0)
    try:
        copy = unpack(packed, tmp_path / "dumps")
    finally:
        os.umask(before)
    assert copy.read_bytes() == DUMP
    assert modes(copy) == [0o700, 0o700, 0o600]


def test_a_directory_that_is_open_is_closed(packed, tmp_path):
    place = unpacked_path(packed.path, tmp_path / "dumps").parent
    place.mkdir(parents=True)
    place.chmod(0o777)
    place.parent.chmod(0o777)
    assert modes(unpack(packed, tmp_path / "dumps")) == [0o700, 0o700, 0o600]


def test_a_directory_made_by_another_user_is_refused(packed, tmp_path, monkeypatch):
    place = unpacked_path(packed.path, tmp_path / "dumps").parent
    place.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="belongs to user") as caught:
        unpack(packed, tmp_path / "dumps")
    assert "VMBOX_CACHE_DIR" in caught.value.hint
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("level", ["dumps", "copy", "file"])
def test_links_are_refused(packed, tmp_path, level):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = unpacked_path(packed.path, tmp_path / "dumps")
    link = {"dumps": copy.parent.parent, "copy": copy.parent, "file": copy}[level]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / "vmcore" if level == "file" else elsewhere)
    with pytest.raises(ConfigurationError):
        unpack(packed, tmp_path / "dumps")
    assert list(elsewhere.iterdir()) == []


def test_what_a_view_unpacks_to_is_closed_with_it(tmp_path, recwarn):
    """In garbage with a cycle, too, of which the interpreter ends any part first."""
    (tmp_path / "kept").mkdir(mode=0o700)
    (tmp_path / "vmcore").write_bytes(gzip.compress(DUMP + bytes(1 << 20)))
    for _ in range(2):
        with FileSource(tmp_path / "vmcore") as file:
            view = open_view(file, tmp_path / "kept")
        assert view is not None
        kept = [view]
        kept.append(kept)
        del view, kept
        gc.collect()
    assert [str(one.message) for one in recwarn if one.category is ResourceWarning] == []
