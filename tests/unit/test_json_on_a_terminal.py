"""JSON is all ASCII where it is shown by a terminal, and unchanged elsewhere."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import render

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
HOSTILE = "\x9b6n\x9d0;x\x07\x85 Straße 💣 \udcff"


class _Stream:
    """Standard output on a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, text: str) -> int:
        return os.write(self.descriptor, text.encode(errors="surrogateescape"))

    def flush(self) -> None:
        pass


def _print() -> None:
    render.as_json({"panic": HOSTILE})
    render.json_line({"panic": HOSTILE})
    answer = render.JsonAnswer(HOSTILE)
    answer(HOSTILE.encode(errors="surrogateescape"))
    answer.end("ok", 1.0)


def test_on_a_terminal_all_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(sys, "stdout", _Stream(theirs))
    _print()
    said = b""
    while b"seconds" not in said or not said.endswith(b"\n"):
        said += os.read(ours, 10_000)
    os.close(ours)
    os.close(theirs)
    assert said.isascii()
    assert b"\x1b" not in said
    table, line, answer = said.decode().replace("\r", "").replace("{\n", "{").replace("\n}", "}").splitlines()
    assert json.loads(table) == json.loads(line) == {"panic": HOSTILE}
    assert json.loads(answer)["command"] == HOSTILE


def test_elsewhere_it_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out"
    with file.open("wb") as out:
        monkeypatch.setattr(sys, "stdout", _Stream(out.fileno()))
        _print()
        monkeypatch.undo()
    said = file.read_bytes()
    assert said.count("Straße 💣".encode()) == 4
    # What is no UTF-8 in a name is an escape: JSON has no bytes.
    assert json.loads(said.decode().rstrip("\n").rpartition("\n")[2])["command"] == HOSTILE


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape", "latin-1:strict"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_name_that_is_no_utf8_is_shown_in_each_locale(tmp_path: Path, options: list[str], encoding: str) -> None:
    dump = Path(os.fsdecode(bytes(tmp_path / "vmcore") + b"\xff"))
    shutil.copyfile(DUMP, dump)
    argv = [sys.executable, "-m", "sandbox", "info", str(dump), *options]
    done = subprocess.run(argv, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True)
    if options:
        assert json.loads(done.stdout.decode("utf-8"))["path"] == str(dump)
    else:
        assert done.stdout.startswith(rf"   DUMPFILE: {dump.parent}/vmcore\udcff".encode())
