"""Another debugger is asked where the log has no trace of the panic or contradicts the first. Both are fakes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from panics import LOG, STACK
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.errors import DumpUnreadable, SessionFailed
from sandbox.judge.log import Witness
from sandbox.model import CommandStatus, Transcript, Vmcore
from sandbox.progress import QUIET
from sandbox.report import second_opinion
from sandbox.report.build import read
from sandbox.report.collect import CommandOutputs
from sandbox.report.second_opinion import SecondOpinion

FALSE = STACK.replace("sysrq_handle_crash", "filp_close")
PS = {
    "crash": "      0      0   0  ffffffff9dc1aa40  RU   0.0        0        0  [swapper/0]\n"
    ">     1      0   1  ff3deeecc11f0000  RU   0.3     2336     1736  init\n",
    "drgn": "     0     0    0  ffffffffaa411140  R    0.0     0     0  [swapper/0]\n"
    ">    1     0    0  ff1df5db812b2300  R    0.4  2336  1736  init\n"
    "     2     0    1  ff1df5db812a8000  S    0.0     0     0  [kthreadd]\n",
}


class _Session:
    """One of crash, and one of drgn beside it."""

    debugger: Debugger = DEFAULT

    def __init__(self, *, starts: bool = True, doubts: Mapping[str, str] | None = None) -> None:
        self.case = SimpleNamespace(doubts=doubts or {}, remote=False, vmlinux=Path("vmlinux"))
        self.asked: list[str] = []
        self._starts = starts

    def beside(self, debugger: Any) -> _Session:
        assert debugger.name == "drgn"
        return self

    def start(self, modes: Any) -> None:
        assert len(modes) == 1
        if not self._starts:
            raise SessionFailed("drgn does not open this dump")

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
        self.asked.append(command)
        sink({"bt": STACK, "ps": PS["drgn"]}.get(command, "").encode())
        return Transcript(command=command, status=CommandStatus.OK, seconds=timeout, bytes=1)

    def close(self) -> None:
        self.asked.append("closed")


def _ask(monkeypatch: pytest.MonkeyPatch, session: _Session, lines: list[str], stack: str) -> SecondOpinion | None:
    def witness(dump: Path, unpacked: Path) -> Witness:
        if not lines:
            raise DumpUnreadable(f"{dump}: no log")
        return Witness(lines=lines)

    monkeypatch.setattr(second_opinion, "witness", witness)
    texts = {"bt -l": stack}
    return second_opinion.second_opinion(cast(Any, session), Path("vmcore"), texts, QUIET, timeout=1)


@pytest.mark.parametrize(("lines", "stack"), [(LOG, FALSE), (["no trace"], STACK), ([], STACK)])
def test_drgn_is_asked_where_the_log_is_silent_or_contradicts(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], stack: str
) -> None:
    session = _Session()
    found = _ask(monkeypatch, session, lines, stack)
    assert found == SecondOpinion(by="drgn", texts={"bt": STACK, "ps": PS["drgn"]})
    assert session.asked == ["set", "set -p", "bt", "ps", "closed"]


def test_nothing_is_asked_where_the_log_agrees_and_of_a_debugger_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    session = _Session()
    assert _ask(monkeypatch, session, LOG, STACK) is None
    assert _ask(monkeypatch, session, LOG, "bt: no stack\n") is None
    assert session.asked == []
    assert _ask(monkeypatch, _Session(doubts={"drgn": "too old"}), LOG, FALSE) is None
    # One that does not start has no opinion, and the report is made without it.
    assert _ask(monkeypatch, _Session(starts=False), LOG, FALSE) is None


def test_a_debugger_that_needs_debuginfo_is_not_asked_without(monkeypatch: pytest.MonkeyPatch) -> None:
    session = _Session()
    session.debugger = DEBUGGERS["drgn"]
    session.case.vmlinux = None
    assert _ask(monkeypatch, session, LOG, FALSE) is None
    assert session.asked == []


def test_the_report_has_both_stacks_and_both_numbers_of_tasks() -> None:
    vmcore = Vmcore(path=Path("vmcore"), format="kdump-compressed", size=1, release="6.1.0", cause="sysrq")
    answers = CommandOutputs(
        texts={"bt -l": FALSE, "ps": PS["crash"], "log": "\n".join(LOG)},
        runs=(),
        mode="",
        case={"debugger": "crash"},
        second=SecondOpinion(by="drgn", texts={"bt": STACK, "ps": PS["drgn"]}),
    )
    report = read(vmcore, answers)
    assert [(one.subject, one.agrees, one.against) for one in report.verdicts] == [
        ("stack", False, "the log's call trace"),
        ("stack", False, "drgn"),
        ("tasks", False, "drgn"),
    ]
    assert report.verdicts[2].words == "crash finds 2 tasks, drgn 3"
    assert report.verdicts[1].witness == ("sysrq_handle_crash", "__handle_sysrq")
    # The signature is that of the true stack.
    assert report.signature.frames == ("sysrq_handle_crash", "__handle_sysrq")
