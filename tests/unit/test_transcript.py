from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from sandbox.errors import CaseNotFound
from sandbox.host import paths
from sandbox.model import Case
from sandbox.progress import QUIET
from sandbox.session import transcript
from sandbox.session.choice import Choice
from sandbox.session.transcript import Recorder

BY = Choice(debugger="crash", reason="it knows this kernel")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "state_dir", lambda: tmp_path / "state")
    return tmp_path / "state"


def test_what_was_asked_and_answered(make_case: Callable[..., Case], tmp_path: Path, state: Path) -> None:
    record = Recorder(make_case())
    record.begin()
    record(b"PID: 1\n")
    record(b"\xff\n")
    assert record.end("bt", "ok", by=BY, doubt=None) >= 0
    record.begin()
    record.end("nosuch", "error", by=BY, doubt=None)
    (path,) = transcript.find("abc")
    assert path.stat().st_mode & 0o077 == 0
    first, second = transcript.records(path)
    assert (first["command"], first["status"], first["output"], first["bytes"]) == ("bt", "ok", "PID: 1\n\\xff\n", 9)
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert (second["command"], second["output"]) == ("nosuch", "")
    assert transcript.find(str(tmp_path / "vmcore")) == [path]
    assert transcript.find(str(tmp_path)) == [path]
    # Before them, and once: which crash and which debuginfo gave these answers.
    header, *commands = transcript.lines(path)
    assert [record["command"] for record in commands] == ["bt", "nosuch"]
    assert (header["release"], header["profile"]) == ("6.1.0", "debian-12")
    assert header["debuginfo"] == {
        "vmlinux": str(tmp_path / "nowhere"),
        "proof": "build-id 12ab",
        "origin": "https://archive.example/k.rpm",
        "verified": "signed by example",
        "check": "",
    }
    with pytest.raises(CaseNotFound):
        transcript.find("other")


def test_a_flood_is_cut_and_says_so(make_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_OUTPUT", 10)
    record = Recorder(make_case())
    record.begin()
    for _ in range(100):
        record(b"1234567\n")
    record.end("log", "ok", by=BY, doubt=None)
    (kept,) = transcript.records(transcript.find("abc")[0])
    assert (kept["output"], kept["bytes"], kept["truncated"]) == ("1234567\n12", 800, True)


def test_writers_do_not_mix_and_a_torn_line_is_left_out(make_case: Callable[..., Case]) -> None:
    def write(number: int) -> None:
        record = Recorder(make_case())
        for _ in range(20):
            record.begin()
            record(f"{number}\n".encode() * 20000)
            record.end(f"p {number}", "ok", by=BY, doubt=None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = transcript.find("abc")
    with path.open("a") as file:
        file.write('{"command": "bt", "outp')
    kept = list(transcript.records(path))
    assert len(kept) == 80
    assert all(record["output"] == f"{record['command'][2:]}\n" * 20000 for record in kept)
    assert all(json.dumps(record) for record in kept)


def test_nothing_is_kept_when_nothing_is_wanted(make_case: Callable[..., Case]) -> None:
    record = Recorder(make_case(), wanted=False)
    record.begin()
    record(b"x")
    record.end("bt", "ok", by=BY, doubt=None)
    assert transcript.kept_transcripts() == []


def test_a_transcript_that_cannot_be_written_is_said_once(make_case: Callable[..., Case], state: Path) -> None:
    state.write_text("in the way")
    said: list[str] = []

    class Noting(type(QUIET)):  # type: ignore[misc]
        def notice(self, line: str) -> None:
            said.append(line)

    record = Recorder(make_case(), Noting())
    for _ in range(3):
        record.begin()
        record.end("bt", "ok", by=BY, doubt=None)
    assert len(said) == 1
    assert "no transcript is kept" in said[0]


def test_lines_that_python_cannot_read_are_left_out(tmp_path: Path) -> None:
    odd = ("[" * 100_000, '{"command": ' + "9" * 5000 + "}", "[]", '{"command": "bt"}')
    (tmp_path / "x.jsonl").write_text("".join(f"{line}\n" for line in odd))
    assert list(transcript.records(tmp_path / "x.jsonl")) == [{"command": "bt"}]
