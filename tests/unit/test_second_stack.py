"""The other debugger's stack in place of one that the log contradicts. Sessions are fakes; the judge is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from panics import LOG, STACK
from sandbox.commands import run
from sandbox.commands.run import RunOptions
from sandbox.debugger import DEBUGGERS, Debugger, StartMode
from sandbox.errors import CommandTimeout, SessionFailed
from sandbox.judge import log
from sandbox.model import Case, CommandStatus, Transcript
from sandbox.progress import QUIET
from sandbox.session import choice
from sandbox.session.choice import Choice

FALSE = STACK.replace("sysrq_handle_crash", "filp_close")
TRUE = STACK.replace("panic at", "panic+1 at")


class _Session:
    """One of `name`, which answers as `answers` says, by debugger; an error is raised."""

    def __init__(self, case: Case, answers: Mapping[str, str | BaseException], name: str = "crash") -> None:
        self.case = case
        self.debugger: Debugger = DEBUGGERS[name]
        self.choice = Choice(debugger=name, reason="it knows this kernel")
        self.doubt = None
        self._answers = answers

    def beside(self, debugger: Debugger) -> _Session:
        return _Session(self.case, self._answers, debugger.name)

    def start(self, modes: list[StartMode]) -> None:
        assert [mode.option for mode in modes] == [""]
        if isinstance(failed := self._answers[self.debugger.name], SessionFailed):
            raise failed

    def close(self) -> None:
        pass

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float | None) -> Transcript:
        answer = self._answers[self.debugger.name]
        if isinstance(answer, BaseException):
            sink(FALSE[:90].encode())
            raise answer
        sink(answer[:30].encode())
        sink(answer[30:].encode())
        status = CommandStatus.ERROR if answer.startswith("drgn: ") else CommandStatus.OK
        return Transcript(command=command, status=status, seconds=0, bytes=len(answer))


@pytest.fixture
def ask(
    make_case: Callable[..., Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., tuple[str, str, Case]]:
    monkeypatch.setattr(log, "witness", lambda dump, vmcore=None, *, unpacked: log.Witness(lines=LOG))

    def asked(
        answers: Mapping[str, str | BaseException],
        *commands: str,
        wished: bool = False,
        json: bool = False,
        doubts: Mapping[str, str] | None = None,
        by: str = "crash",
    ) -> tuple[str, str, Case]:
        case = make_case(directory=tmp_path, versions={"crash": "8.0.6", "drgn": "0.3.0"}, doubts=doubts or {})
        session = cast(Any, _Session(case, answers, by))
        options = RunOptions(json=json, transcript=False)
        with suppress(KeyboardInterrupt):
            run._run(session, commands or ["bt"], options, QUIET, None, wished=wished)
        said = capfd.readouterr()
        return said.out, said.err, case

    return asked


def test_a_stack_that_the_log_confirms_is_printed_in_place_of_a_false_one(
    ask: Callable[..., tuple[str, str, Case]],
) -> None:
    out, err, case = ask({"crash": FALSE, "drgn": TRUE})
    assert out == TRUE
    assert "vmbox: PID 1 (init): DISAGREES WITH: the log's call trace (crash has filp_close below panic()" in err
    assert "    crash prints:       filp_close" in err
    assert "vmbox: the stack of drgn is printed, which AGREES WITH: the log's call trace (2 frames" in err
    assert "--with crash -- bt" in err
    # The next command line asks it.
    kept = choice.kept(case)
    assert kept is not None
    assert (kept.debugger, kept.reason) == ("drgn", "the kernel's own call trace contradicts crash's stack")


def test_json_has_the_debugger_whose_stack_it_is_and_both_verdicts(ask: Callable[..., tuple[str, str, Case]]) -> None:
    import json

    answer = json.loads(ask({"crash": FALSE, "drgn": TRUE}, json=True)[0])
    assert (answer["output"], answer["debugger"]) == (TRUE, "drgn")
    assert answer["reason"] == "the kernel's own call trace contradicts crash's stack"
    assert [(one["by"], one["agrees"]) for one in answer["verdicts"]] == [("drgn", True), ("crash", False)]


@pytest.mark.parametrize(
    ("answers", "more"),
    [
        ({"crash": STACK, "drgn": TRUE}, {}),
        # Neither is confirmed: the log is the odd one.
        ({"crash": FALSE, "drgn": FALSE}, {}),
        # drgn does not have the option, cannot open the dump, is too slow, or is too old.
        ({"crash": FALSE, "drgn": "drgn: crash: bt: unrecognized arguments: -r\n"}, {}),
        ({"crash": FALSE, "drgn": SessionFailed("no")}, {}),
        ({"crash": FALSE, "drgn": CommandTimeout("late")}, {}),
        ({"crash": FALSE, "drgn": TRUE}, {"doubts": {"drgn": "was tried with kernels up to 7.3"}}),
        # The user asked for crash.
        ({"crash": FALSE, "drgn": TRUE}, {"wished": True}),
    ],
)
def test_what_crash_prints_stays_where_no_other_stack_is_confirmed(
    ask: Callable[..., tuple[str, str, Case]], answers: Mapping[str, str | BaseException], more: Mapping[str, Any]
) -> None:
    out, err, case = ask(answers, **more)
    assert out == answers["crash"]
    assert ("DISAGREES WITH" in err) is (answers["crash"] == FALSE)
    assert "is printed" not in err
    assert choice.kept(case) is None


def test_crash_is_not_asked_where_drgn_answers_in_its_place(ask: Callable[..., tuple[str, str, Case]]) -> None:
    """It does not know the kernel, or does not open the dump: it was tried, which takes long."""
    out, err, _ = ask({"drgn": FALSE, "crash": TRUE}, by="drgn")
    assert out == FALSE
    assert "DISAGREES WITH" in err


@pytest.mark.parametrize("stop", [CommandTimeout("'bt' was stopped after 1 second"), KeyboardInterrupt()])
def test_half_a_stack_is_printed_when_its_command_is_stopped(
    ask: Callable[..., tuple[str, str, Case]], stop: BaseException
) -> None:
    assert ask({"crash": stop, "drgn": TRUE})[0] == FALSE[:90]


def test_a_false_stack_is_contradicted_when_the_other_debugger_is_not_waited_for(
    ask: Callable[..., tuple[str, str, Case]],
) -> None:
    out, err, _ = ask({"crash": FALSE, "drgn": KeyboardInterrupt()})
    assert out == FALSE
    assert "DISAGREES WITH" in err


def test_a_very_long_answer_is_not_held_back(ask: Callable[..., tuple[str, str, Case]]) -> None:
    long = FALSE * (1 + (4 << 20) // len(FALSE))
    out, err, _ = ask({"crash": long, "drgn": TRUE}, "bt -a")
    assert out == long
    assert "DISAGREES" not in err  # nor judged, which is said


def test_stacks_of_all_tasks_are_printed_as_they_come(ask: Callable[..., tuple[str, str, Case]]) -> None:
    """The false one is named all the same."""
    out, err, case = ask({"crash": FALSE, "drgn": TRUE}, "foreach bt")
    assert out == FALSE
    assert choice.kept(case) is None
    assert "vmbox: PID 1 (init): DISAGREES WITH" in err
    assert err.endswith("--with drgn -- foreach bt\n")


OTHER = STACK.replace("PID: 1 ", "PID: 2 ").replace("TASK: ff42", "TASK: ff43")


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("bt -a", None),
        ("bt -c 0,1", None),
        ("bt 1", None),
        ("bt -p -l", None),
        ("bt -sx 1", "bt 1"),
        ("bt -ls 1", "bt -l 1"),
    ],
)
def test_the_same_question_is_asked_and_said(
    ask: Callable[..., tuple[str, str, Case]], command: str, asked: str | None
) -> None:
    out, err, _ = ask({"crash": FALSE + OTHER, "drgn": OTHER + TRUE}, command)
    assert out == OTHER + TRUE
    changed = f" ({asked})" if asked else ""
    assert f"vmbox: the stacks of drgn are printed{changed}; that of PID 1 (init) AGREES WITH: the log's" in err
    assert f"--with crash -- {command}\n" in err


@pytest.mark.parametrize(
    ("command", "answer", "hint"),
    [
        # Another task's stack is none of this one, though it is true.
        ("bt -a", TRUE, "bt -a"),
        ("bt -a", TRUE + OTHER.replace("TASK: ff43", "TASK: ff44"), "bt -a"),
        # drgn has no such options, or others of that name.
        ("bt -g 1", TRUE + OTHER, "bt 1"),
        ("bt -e", TRUE + OTHER, "bt 1"),
        ("bt -n idle -a", TRUE + OTHER, "bt 1"),
    ],
)
def test_an_answer_to_another_question_is_not_printed(
    ask: Callable[..., tuple[str, str, Case]], command: str, answer: str, hint: str
) -> None:
    out, err, case = ask({"crash": FALSE + OTHER, "drgn": answer}, command)
    assert out == FALSE + OTHER
    assert choice.kept(case) is None
    assert err.endswith(f"--with drgn -- {hint}\n")
