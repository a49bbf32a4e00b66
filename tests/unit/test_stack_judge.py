"""`run -- bt`: which answers are judged, and what is said where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from panics import LOG, STACK as TEXT
from sandbox.commands.stack_judge import StackJudge, is_judged
from sandbox.errors import DumpUnreadable
from sandbox.judge import log
from sandbox.model import Case

STACK = TEXT.encode()


class _Reporter:
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def case() -> Case:
    given: dict[str, Any] = dict.fromkeys(Case.__slots__, "")
    return Case(**(given | {"dump": Path("vmcore"), "remote": False}))


@pytest.fixture
def reporter() -> _Reporter:
    return _Reporter()


def _ask(judge: StackJudge, answer: bytes = STACK, command: str = "bt") -> Any:
    got = bytearray()
    sink = judge.listen(command, got.extend)
    sink(answer[:20])
    sink(answer[20:])
    assert got == answer
    return judge.verdict("crash")


def _has(monkeypatch: pytest.MonkeyPatch, witness: log.Witness) -> None:
    monkeypatch.setattr(log, "witness", lambda dump, vmcore=None, *, unpacked: witness)


@pytest.mark.parametrize(
    ("command", "judged"),
    [
        ("bt", True),
        ("bt -a", True),
        ("bt -l 1", True),
        ("foreach UN bt", True),
        ("bt | head -3", False),
        ("bt >file", False),
        ("btop", False),
        ("p bt", False),
        ("", False),
    ],
)
def test_whole_answers_of_bt_are_judged(command: str, judged: bool) -> None:
    assert is_judged(command) is judged


def test_agreement_is_a_notice_and_a_disagreement_is_never_silent(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _has(monkeypatch, log.Witness(lines=LOG))
    judge = StackJudge(case, cast(Any, reporter))
    assert _ask(judge).agrees
    assert reporter.said == ["AGREES WITH: the log's call trace (2 frames)"]
    assert capsys.readouterr().err == ""
    verdict = _ask(judge, STACK.replace(b"sysrq_handle_crash", b"filp_close\x1b[1m"))
    assert not verdict.agrees
    said = capsys.readouterr().err
    assert "DISAGREES WITH: the log's call trace (crash has filp_close" in said
    assert "    the kernel printed: sysrq_handle_crash < __handle_sysrq\n" in said
    assert "    crash prints:       filp_close" in said
    assert "\x1b" not in said
    # Another task, and no stack.
    assert _ask(judge, STACK.replace(b"PID: 1 ", b"PID: 2 ")) is None
    assert _ask(judge, b"bt: invalid task\n") is None
    assert _ask(judge, STACK, command="p jiffies") is None


@pytest.mark.parametrize(
    "expected",
    [
        (log.Witness(lines=["no trace"]), "the log has no call trace of the panic"),
        (log.Witness(lines=[*LOG, *LOG]), "the log has 2 panics"),
        (log.Witness(refused="vmcore-dmesg.txt is of another boot"), "vmcore-dmesg.txt is of another boot"),
    ],
)
def test_why_a_stack_is_not_compared_is_said_once(
    case: Case,
    reporter: _Reporter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    expected: tuple[log.Witness, str],
) -> None:
    witness, said = expected
    _has(monkeypatch, witness)
    judge = StackJudge(case, cast(Any, reporter))
    _ask(judge)
    _ask(judge)
    assert "\n".join([*reporter.said, capsys.readouterr().err]).count(said) == 1


def test_a_log_that_cannot_be_read_is_no_witness(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(dump: Path, vmcore: object = None, *, unpacked: Path) -> log.Witness:
        raise DumpUnreadable(f"{dump}: the log's pages are not in the dump")

    monkeypatch.setattr(log, "witness", fails)
    judge = StackJudge(case, cast(Any, reporter))
    assert _ask(judge) is None
    assert reporter.said == [
        "the stack is not compared with the kernel's own: vmcore: the log's pages are not in the dump"
    ]
    # Nor is one on another host.
    judge = StackJudge(replace(case, remote=True), cast(Any, reporter))
    assert _ask(judge) is None
    assert "on another host" in reporter.said[-1]
