"""The report of a command with endless output. The session is a fake that prints half a gigabyte."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

import pytest

from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.errors import SessionDied, SessionFailed
from sandbox.model import CommandStatus, Transcript
from sandbox.report import collect
from sandbox.report.bounded_answer import PER_ANSWER, PER_REPORT, BoundedAnswer
from sandbox.session import script
from sandbox.session.choice import Choice

LINE = b"PID: 1  TASK: ffff888003510000  CPU: 0  COMMAND: systemd \xf0\x9f\x92\xa3\n"


class Flood:
    """Answers `long` with 500 MiB in pieces, everything else with a word."""

    debugger: Debugger = DEFAULT
    choice = Choice(debugger="crash", reason="it knows this kernel")
    doubt = None

    def __init__(self, case: object, long: frozenset[str], piece: bytes) -> None:
        self.case = case
        self._long = long
        self._piece = piece
        self.asked: list[str] = []

    def works(self, command: str) -> bool:
        return bool(command)

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
        assert timeout
        self.asked.append(command)
        if command == "dies":
            raise SessionDied("crash died of signal 11")
        if command in self._long:
            for _ in range((500 << 20) // len(self._piece)):
                sink(self._piece)
        else:
            sink(b"short\n")
        return Transcript(command=command, status=CommandStatus.OK, seconds=0.1, bytes=1)

    def start(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FakeCase:
    profile = engine = proof = "x"
    no_debuginfo = ""
    doubts: Mapping[str, str] = MappingProxyType({})
    versions = doubts
    vmlinux = Path("vmlinux")
    files = 1

    def __init__(self, directory: Path) -> None:
        self.directory = directory


@pytest.fixture(autouse=True)
def _no_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """These sessions run none of vmbox's own scripts: tests/unit/explain has those."""
    monkeypatch.setattr(collect.waits, "read_or_why", lambda *_, **__: (None, "it was not asked"))


def _collect(
    commands: list[str], long: set[str], piece: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[collect.CommandOutputs, Flood]:
    session = Flood(FakeCase(tmp_path), frozenset(long), piece)
    monkeypatch.setattr(collect, "open_session", lambda *_, **__: (session, b""))
    return collect.collect(tmp_path, OpenOptions(), commands=commands), session


@pytest.mark.slow
@pytest.mark.parametrize("piece", [LINE * 1000, b"A" * 65536], ids=["lines", "no newline"])
def test_an_answer_of_500_mib_is_not_held_in_memory(
    piece: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracemalloc.start()
    try:
        answers, _ = _collect(["ps", "mod"], {"ps"}, piece, tmp_path, monkeypatch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Text with one character outside of the basic plane takes four bytes for each.
    assert peak < 12 * PER_ANSWER
    assert 0.9 * PER_ANSWER < len(answers.texts["ps"].encode()) < 1.1 * PER_ANSWER
    shown, after = answers.runs
    assert "bytes more left out …]" in shown.output
    assert answers.missing_reason("ps") == "only the beginning of a very long answer was read"
    assert (after.output, answers.missing_reason("mod")) == ("short\n", None)


@pytest.mark.slow
def test_all_answers_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = ["sys", "ps", "bt -a", "foreach UN bt", "mod", "runq", "net"]
    answers, session = _collect(commands, set(commands[1:]), b"x" * 65535 + b"\n", tmp_path, monkeypatch)
    assert sum(map(len, answers.texts.values())) <= PER_REPORT
    assert session.asked == ["set", "set -p", *commands[:5]]
    assert answers.runs[-1].status is CommandStatus.UNASKED
    assert answers.missing_reason("net") == "the answers before it had 64 MiB"


def test_a_question_that_the_debugger_has_no_command_for_is_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bytes]] = []

    def run_script(
        _session: object, name: str, code: bytes, _arguments: object, sink: Callable[[bytes], None], *, timeout: float
    ) -> tuple[CommandStatus, bytes]:
        assert timeout
        asked.append((name, code))
        sink(b"TAINTED_MASK: 0  \n")
        return (CommandStatus.OK, b"") if name == "sys -t" else (CommandStatus.ERROR, b"LookupError: no dmi_ident\n")

    monkeypatch.setattr(script, "run_script", run_script)
    monkeypatch.setattr(Flood, "debugger", DEBUGGERS["drgn"])
    monkeypatch.setattr(Flood, "choice", Choice(debugger="drgn", reason="crash is too old"))
    answers, session = _collect(["sys", "sys -t", "sys -i"], set(), b"", tmp_path, monkeypatch)
    assert session.asked == ["set", "set -p", "sys"]
    assert [name for name, _ in asked] == ["sys -t", "sys -i"]
    assert b"tainted_mask" in asked[0][1]
    assert answers.texts["sys -t"] == "TAINTED_MASK: 0  \n"
    assert answers.missing_reason("sys -i") == "drgn says: LookupError: no dmi_ident"
    assert (answers.case["debugger"], answers.case["reason"]) == ("drgn", "crash is too old")


def test_a_bounded_answer_ends_with_a_whole_line() -> None:
    answer = BoundedAnswer(12)
    for piece in (b"one\ntwo\nth", b"ree\nfour\n"):
        answer(piece)
    assert (answer.text(), answer.left_out) == ("one\ntwo\n", 7)


def test_bytes_that_are_not_text_count_as_their_escapes() -> None:
    answer = BoundedAnswer(1000)
    for _ in range(100):
        answer(b"\xff" * 100)
    assert len(answer.text()) < 1500
    assert answer.left_out > 9000


def test_short_answers_are_complete_and_the_end_of_a_dying_crash_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, _ = _collect(["sys", "dies"], set(), b"", tmp_path, monkeypatch)
    assert [run.output for run in answers.runs] == ["short\n", "\ncrash died of signal 11\n"]
    assert answers.missing_reason("sys") is None


class Contexts(Flood):
    """Has a context, which `set` changes as crash's does, and prints it for `bt`."""

    context = "ffff888003510000"

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
        word, _, task = command.partition(" ")
        if word == "set" and task:
            self.context = "ffff88800abc0000" if task == "-p" else task
        sink(f'    PID: 1\nCOMMAND: "x"\n   TASK: {self.context}  [THREAD_INFO: {self.context}]\n'.encode())
        return Transcript(command=command, status=CommandStatus.OK, seconds=0.1, bytes=1)


def test_a_report_is_of_the_task_that_panicked_whatever_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Contexts(FakeCase(tmp_path), frozenset(), b"")
    monkeypatch.setattr(collect, "open_session", lambda *_, **__: (session, b""))
    outputs = collect.collect(tmp_path, OpenOptions(), commands=["bt -l"])
    assert "TASK: ffff88800abc0000 " in outputs.texts["bt -l"]
    assert session.context == "ffff888003510000"


class Pair(Flood):
    """drgn, which has no answer to some commands, and crash beside it."""

    debugger = DEBUGGERS["drgn"]

    def __init__(self, case: object, lacks: frozenset[str], *, beside: Pair | None = None, starts: bool = True) -> None:
        super().__init__(case, frozenset(), b"")
        self._lacks = lacks
        self._beside = beside
        self._starts = starts
        self.closed = False

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
        done = super().run(command, sink, timeout=timeout)
        return replace(done, status=CommandStatus.ERROR if command in self._lacks else CommandStatus.OK)

    def beside(self, debugger: Debugger) -> Pair:
        assert self._beside is not None
        assert self._beside.debugger is debugger
        return self._beside

    def start(self, modes: object = None) -> None:
        if not self._starts:
            raise SessionFailed("crash does not open this dump")

    def close(self) -> None:
        self.closed = True


def _asked_both(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacks: set[str],
    *,
    starts: bool = True,
    options: OpenOptions | None = None,
) -> tuple[collect.CommandOutputs, Pair]:
    case = FakeCase(tmp_path)
    other = Pair(case, frozenset({"ps -m"}), starts=starts)
    other.debugger = DEFAULT
    session = Pair(case, frozenset(lacks), beside=other)
    monkeypatch.setattr(collect, "open_session", lambda *_, **__: (session, b""))
    monkeypatch.setattr(collect, "is_needed", lambda *_: False)
    commands = ["bt -a", "ps", "ps -m", "mount"]
    return collect.collect(tmp_path, options or OpenOptions(), commands=commands), other


def test_what_one_debugger_does_not_answer_the_other_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, other = _asked_both(tmp_path, monkeypatch, {"ps", "ps -m"})
    assert other.asked == ["set", "set -p", "ps", "ps -m"]
    assert other.closed
    assert [(run.command, run.debugger, str(run.status)) for run in answers.runs] == [
        ("bt -a", "drgn", "ok"),
        ("ps", "crash", "ok"),
        # The first one's rows stay where the other has an error, too.
        ("ps -m", "drgn", "error"),
        ("mount", "drgn", "ok"),
    ]
    assert answers.texts["ps"] == "short\n"
    assert answers.missing_reason("ps -m") == "drgn says: short"


@pytest.mark.parametrize("lacks", [set(), {"ps -m"}])
def test_the_other_debugger_is_not_started_where_no_part_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: set[str]
) -> None:
    assert _asked_both(tmp_path, monkeypatch, lacks)[1].asked == []


def test_the_report_is_made_where_the_other_debugger_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, other = _asked_both(tmp_path, monkeypatch, {"ps"}, starts=False)
    assert other.asked == []
    assert answers.missing_reason("ps") == "drgn says: short"
    # Nor is it asked where the user asked for one.
    _, other = _asked_both(tmp_path, monkeypatch, {"ps"}, options=OpenOptions(debugger="drgn"))
    assert other.asked == []


def test_rows_that_are_there_are_shown_with_the_reason_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = "drgn: crash: error: mounts (2) are left out: pages of them are not in the dump\n"

    class Partial(Pair):
        def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
            sink(left_out.encode())
            return super().run(command, sink, timeout=timeout)

    case = FakeCase(tmp_path)
    case.doubts = {"crash": "it is too old"}
    session = Partial(case, frozenset({"mount", "kmem -i"}))
    monkeypatch.setattr(collect, "open_session", lambda *_, **__: (session, b""))
    monkeypatch.setattr(collect, "is_needed", lambda *_: False)
    answers = collect.collect(tmp_path, OpenOptions(), commands=["mount", "kmem -i"])
    assert answers.texts == {"mount": left_out + "short\n"}
    for command in ("mount", "kmem -i"):
        said = answers.missing_reason(command)
        assert said == "drgn says: mounts (2) are left out: pages of them are not in the dump"


@pytest.mark.parametrize("agreeing", ["crash", "drgn", "neither"])
def test_stacks_that_contradict_the_log_give_way_to_those_that_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agreeing: str
) -> None:
    def agrees(_dump: object, _texts: object, by: str) -> bool:
        return by == agreeing

    monkeypatch.setattr(collect, "agrees_with_log", agrees)
    case = FakeCase(tmp_path)
    other = Pair(case, frozenset())
    other.debugger = DEFAULT
    session = Pair(case, frozenset(), beside=other)
    monkeypatch.setattr(collect, "open_session", lambda *_, **__: (session, b""))
    monkeypatch.setattr(collect, "is_needed", lambda _dump, _texts, by: by != agreeing)
    commands = ["sys", "bt -l", "bt -a", "foreach UN bt"]
    answers = collect.collect(tmp_path, OpenOptions(), commands=commands)
    by = {run.command: run.debugger for run in answers.runs}
    stacks = "crash" if agreeing == "crash" else "drgn"
    assert by == {"sys": "drgn", **dict.fromkeys(commands[1:], stacks)}
    assert ("the log does not agree with drgn" in answers.case["reason"]) is (agreeing == "crash")
    assert (answers.second is not None) is (agreeing == "neither")
