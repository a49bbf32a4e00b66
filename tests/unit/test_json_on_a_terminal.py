"""JSON is all ASCII where it is shown by a terminal, and unchanged elsewhere."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path

import pytest

from sandbox import render

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
    assert file.read_bytes().count("Straße 💣".encode()) == 4
