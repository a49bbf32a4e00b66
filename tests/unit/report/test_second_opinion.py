"""Another debugger is asked where the log has no trace of the panic or contradicts the first. Both are fakes here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from panics import LOG, STACK
from sandbox.debugger import DEBUGGERS, Debugger
from sandbox.errors import DumpUnreadable
from sandbox.judge.log import Witness
from sandbox.model import CommandStatus, Transcript, Vmcore
from sandbox.report import second_opinion
from sandbox.report.build import read
from sandbox.report.collect import CommandOutputs
from sandbox.report.second_opinion import SecondOpinion
from sandbox.session import choice

FALSE = STACK.replace("sysrq_handle_crash", "filp_close")
PS = {
    "crash": "      0      0   0  ffffffff9dc1aa40  RU   0.0        0        0  [swapper/0]\n"
    ">     1      0   1  ff3deeecc11f0000  RU   0.3     2336     1736  init\n",
    "drgn": "     0     0    0  ffffffffaa411140  R    0.0     0     0  [swapper/0]\n"
    ">    1     0    0  ff1df5db812b2300  R    0.4  2336  1736  init\n"
    "     2     0    1  ff1df5db812a8000  S    0.0     0     0  [kthreadd]\n",
}


class _Session:
    """One of crash, or of drgn."""

    def __init__(self, debugger: str = "crash", **case: object) -> None:
        known = {"doubts": {}, "vmlinux": Path("vmlinux"), "files": 1, "versions": {"crash": "9.0.2", "drgn": "0.3.0"}}
        self.case = SimpleNamespace(**known | case)
        self.debugger: Debugger = DEBUGGERS[debugger]

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
        sink({"bt": STACK, "ps": PS["drgn"]}[command].encode())
        status = CommandStatus.OK if command == "bt" else CommandStatus.ERROR
        return Transcript(command=command, status=status, seconds=timeout, bytes=1)


@pytest.mark.parametrize(
    ("lines", "stack", "needed"),
    [
        (LOG, FALSE, True),
        (["no trace"], STACK, True),
        ([], STACK, True),
        (LOG, STACK, False),
        (LOG, "bt: no stack\n", False),
    ],
)
def test_the_other_debugger_is_needed_where_the_log_is_silent_or_contradicts(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], stack: str, needed: bool
) -> None:
    def witness(dump: Path, unpacked: Path) -> Witness:
        if not lines:
            raise DumpUnreadable(f"{dump}: no log")
        return Witness(lines=lines)

    monkeypatch.setattr(second_opinion, "witness", witness)
    assert second_opinion.is_needed(Path("vmcore"), {"bt -l": stack}, "crash") is needed


def test_the_other_debugger_says_what_it_can() -> None:
    found = second_opinion.second_opinion(cast(Any, _Session("drgn")), timeout=1)
    assert found == SecondOpinion(by="drgn", texts={"bt": STACK})


@pytest.mark.parametrize(
    ("session", "other"),
    [
        (_Session("crash"), "drgn"),
        (_Session("drgn"), "crash"),
        (_Session("crash", doubts={"drgn": "too old"}), None),
        (_Session("drgn", doubts={"crash": "too old"}), None),
        (_Session("crash", versions={"crash": "7.2.9"}), None),
        (_Session("crash", files=3), None),
        (_Session("drgn", vmlinux=None), None),
    ],
)
def test_a_debugger_that_cannot_answer_or_is_in_doubt_is_no_other(session: _Session, other: str | None) -> None:
    found = choice.second(cast(Any, session.case), cast(Any, session.debugger))
    assert (found and found.name) == other


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
