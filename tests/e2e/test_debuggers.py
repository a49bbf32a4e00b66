"""Debuggers by their protocol: crash, drgn, and a third that needs no line in session, case or commands."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from engines import EngineUnderTest
from sandbox.case.opening import find_or_open_case
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, Debugger, StartMode
from sandbox.debugger.drgn import Drgn
from sandbox.errors import CommandTimeout, SessionFailed
from sandbox.model import Case
from sandbox.session.session import Session


class ShellErrors:
    def __init__(self) -> None:
        self.text = b""

    def feed(self, piece: bytes) -> None:
        self.text += piece

    def found(self) -> bool:
        return b"not found" in self.text


class Toy(Drgn):
    """A shell as a debugger. What is not here is as of drgn: a debugger of one's own has a module with all of it."""

    name = "toy"
    start_modes: Sequence[StartMode] = (StartMode("--no-such-option", ""), StartMode("-u", "nothing is missing"))

    def session_argv(self, vmlinux: str, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        assert vmlinux.endswith("vmlinux")
        return ["sh", mode.option, "-s", *dumps]

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        return b"echo " + marker

    def complaints(self, command: str) -> ShellErrors:
        return ShellErrors()


@pytest.fixture
def case(podman_rootful: EngineUnderTest, dumps, monkeypatch: pytest.MonkeyPatch) -> Case:
    for name, value in podman_rootful.env.items():
        if name.startswith("VMBOX_"):
            monkeypatch.setenv(name, value)
    return find_or_open_case(Path(dumps()), OpenOptions())


def ask(case: Case, debugger: Debugger, *commands: str) -> list[tuple[str, str]]:
    with closing(Session(case, debugger=debugger)) as session:
        session.start()
        answers = []
        for command in commands:
            output = io.BytesIO()
            done = session.run(command, output.write)
            answers.append((done.status, output.getvalue().decode()))
        return answers


def test_crash_drgn_and_a_toy_take_turns_in_one_case(case: Case) -> None:
    crash = DEBUGGERS["crash"]
    ((status, stack),) = ask(case, crash, "bt")
    assert status == "ok"
    assert "sysrq_handle_crash" in stack
    # The second debugger ends the first; each has its own modes, marker and complaints.
    answers = ask(case, Toy(), "echo $1", "nosuch", "sleep 0.1; echo late")
    assert answers[0] == ("ok", "/case/vmcore\n")
    assert answers[1][0] == "error"
    assert answers[2] == ("ok", "late\n")
    assert (case.directory / "mode-toy").read_text() == "-u"
    answers = ask(
        case,
        DEBUGGERS["drgn"],
        "stack_trace(prog.crashed_thread().tid)",
        "prog['init_task'].pid",
        "1/0",
        "x = 41",
        "x + 1",
    )
    assert "sysrq_handle_crash" in answers[0][1]
    assert answers[1] == ("ok", "(pid_t)0\n")
    assert answers[2] == ("error", "drgn: error: ZeroDivisionError: division by zero\n")
    assert answers[4] == ("ok", "42\n")
    assert re.fullmatch(r"\$\d+ = 2\n", ask(case, crash, "p 1+1")[0][1])


def test_an_interrupt_stops_the_command_and_not_the_debugger(case: Case) -> None:
    with closing(Session(case, debugger=DEBUGGERS["drgn"])) as session:
        session.start()
        session.run("import time; kept = 7", lambda _: None)
        with pytest.raises(CommandTimeout):
            session.run("time.sleep(60)", lambda _: None, timeout=0.5)
        output = io.BytesIO()
        session.run("kept", output.write)
        assert output.getvalue() == b"7\n"


def test_a_debugger_that_does_not_start_says_so(case: Case) -> None:
    class Broken(Toy):
        name = "broken"
        start_modes = (StartMode("--no-such-option", ""),)

    with closing(Session(case, debugger=Broken())) as session, pytest.raises(SessionFailed, match="broken"):
        session.start()
