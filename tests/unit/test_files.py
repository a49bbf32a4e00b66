"""Files written in one step, and descriptors that take less than they are given."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host.files import write_all, write_atomically


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_the_umask_decides_unless_a_mode_is_given(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "own", b"x")
    assert _mode(tmp_path / "own") == 0o666 & ~umask
    for mode in (0o600, 0o644):
        write_atomically(tmp_path / "own", b"y", mode=mode)
        assert _mode(tmp_path / "own") == mode
    assert (tmp_path / "own").read_bytes() == b"y"


def test_a_file_comes_in_pieces_under_the_longest_name(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), iter((b"a", b"", b"bc")), durable=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("n" * 255, b"abc")]


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"new"
        assert (tmp_path / "file").read_bytes() == b"old"
        raise KeyboardInterrupt

    write_atomically(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", pieces())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"x")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"x")


def test_a_pipe_gets_all_of_it() -> None:
    reading, writing = os.pipe()
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 1 << 16):
            got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    write_all(writing, b"x" * 300_000)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert len(got) == 300_000
