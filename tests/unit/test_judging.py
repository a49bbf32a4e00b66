"""`run -- bt` and `run -- sys`: which answers are judged, and what is said where. Sessions are fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from panics import LOG, STACK as TEXT
from sandbox.case import dumps
from sandbox.commands.verdicts import Announcer
from sandbox.debugger import DEFAULT
from sandbox.errors import CommandTimeout, DumpUnreadable
from sandbox.judge import log
from sandbox.model import Case, CommandStatus, Transcript
from sandbox.session.judging import Judge, Judgement, is_judged
from sandbox.session.second_stack import SecondStack

STACK = TEXT.encode()
TASK = (1, "ff429f4ac12b8000")
SYS = b"""      KERNEL: /case/debuginfo/vmlinux
        CPUS: 2
        DATE: Fri Nov 27 17:18:19 UTC 2026
      UPTIME: 00:00:03
       TASKS: 57
"""


class _Reporter:
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)


class _Session:
    debugger = DEFAULT

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Transcript:
        if command not in self._answers:
            raise CommandTimeout(f"{command!r} was stopped after {timeout:g} seconds")
        sink(self._answers[command].encode())
        return Transcript(command=command, status=CommandStatus.OK, seconds=0, bytes=0)


@pytest.fixture
def case() -> Case:
    given: dict[str, Any] = dict.fromkeys(Case.__slots__, "")
    return Case(**(given | {"dump": Path("vmcore"), "remote": False}))


@pytest.fixture
def reporter() -> _Reporter:
    return _Reporter()


class _Run:
    """One `vmbox run` on a case."""

    def __init__(self, case: Case, reporter: _Reporter, answers: Mapping[str, str] | None = None) -> None:
        self._judge = Judge(case)
        second = SecondStack(cast(Any, None), cast(Any, None), cast(Any, reporter), wished=True)
        self._announcer = Announcer(self._judge, case, cast(Any, reporter), second=second)
        self._session = _Session(answers or {})

    def ask(self, answer: bytes = STACK, command: str = "bt") -> Judgement:
        got = bytearray()
        sink = self._judge.listen(command, got.extend)
        sink(answer[:20])
        sink(answer[20:])
        assert got == answer
        found, shown = self._announcer.judged(cast(Any, self._session))
        assert shown is None
        return found


def _has(monkeypatch: pytest.MonkeyPatch, witness: log.Witness) -> None:
    monkeypatch.setattr(log, "witness", lambda dump, vmcore=None, *, unpacked: witness)


@pytest.mark.parametrize(
    ("command", "judged"),
    [
        ("bt", True),
        ("bt -a", True),
        ("bt -l 1", True),
        ("foreach UN bt", True),
        ("sys", True),
        ("sys -i", False),
        ("bt | head -3", False),
        ("bt >file", False),
        ("btop", False),
        ("p bt", False),
        ("", False),
    ],
)
def test_whole_answers_of_bt_and_sys_are_judged(command: str, judged: bool) -> None:
    assert is_judged(command) is judged


def test_agreement_is_a_notice_and_a_disagreement_is_never_silent(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _has(monkeypatch, log.Witness(lines=LOG))
    run = _Run(case, reporter)
    assert [one.agrees for one in run.ask().verdicts] == [True]
    assert reporter.said == ["AGREES WITH: the log's call trace (2 frames; it ends at __handle_sysrq)"]
    assert capsys.readouterr().err == ""
    (verdict,) = run.ask(STACK.replace(b"sysrq_handle_crash", b"filp_close\x1b[1m")).verdicts
    assert not verdict.agrees
    said = capsys.readouterr().err
    assert "DISAGREES WITH: the log's call trace (crash has filp_close" in said
    assert "    the kernel printed: sysrq_handle_crash < __handle_sysrq\n" in said
    assert "    crash prints:       filp_close" in said
    assert "vmbox run vmcore --with drgn -- bt" in said
    assert "\x1b" not in said
    # Another task, and no stack.
    other = run.ask(STACK.replace(b"PID: 1 ", b"PID: 2 "))
    why = "the kernel printed the panic in PID 1, and this is PID 2 of crash"
    assert other == Judgement(not_judged=why, tasks=frozenset({(2, TASK[1])}))
    assert run.ask((TEXT + TEXT).replace("PID: 1 ", "PID: 2 ").encode(), command="bt -a").not_judged is None
    assert run.ask(b"bt: invalid task\n") == Judgement()
    assert run.ask(STACK, command="p jiffies") == Judgement()


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
    run = _Run(case, reporter)
    run.ask()
    found = run.ask()
    assert "\n".join([*reporter.said, capsys.readouterr().err]).count(said) == 1
    assert said in (found.not_judged or found.remark or "")


def test_a_log_that_cannot_be_read_is_no_witness(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(dump: Path, vmcore: object = None, *, unpacked: Path) -> log.Witness:
        raise DumpUnreadable(f"{dump}: the log's pages are not in the dump")

    monkeypatch.setattr(log, "witness", fails)
    found = _Run(case, reporter).ask()
    assert found == Judgement(not_judged="vmcore: the log's pages are not in the dump", tasks=frozenset({TASK}))
    assert reporter.said == [
        "the stack is not compared with the kernel's own: vmcore: the log's pages are not in the dump"
    ]


def test_the_log_of_a_dump_on_another_host_is_the_debuggers(case: Case, reporter: _Reporter) -> None:
    elsewhere = replace(case, remote=True)
    run = _Run(elsewhere, reporter, {"log": "\n".join(LOG)})
    assert [one.agrees for one in run.ask().verdicts] == [True]
    assert [one.agrees for one in run.ask(STACK.replace(b"__handle_sysrq", b"filp_close")).verdicts] == [False]
    silent = _Run(elsewhere, reporter)
    assert silent.ask().not_judged == "crash there does not print the log"


def test_date_uptime_and_tasks_are_judged(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _has(monkeypatch, log.Witness(lines=[f"[    3.0] {line}" for line in LOG]))
    at = datetime(2026, 11, 27, 17, 18, 19, tzinfo=UTC)
    monkeypatch.setattr(dumps, "identify", lambda path: SimpleNamespace(crash_time=at))
    run = _Run(case, reporter, {"rd -32 -d nr_threads": "ffffffff8beee7d8:            55 \n"})
    assert [(one.subject, one.agrees) for one in run.ask(SYS, "sys").verdicts] == [
        ("date", True),
        ("uptime", True),
        ("tasks", True),
    ]
    assert len(reporter.said) == 3
    wrong = SYS.replace(b"2026", b"1970").replace(b"00:00:03", b"00:03:48").replace(b"57", b"5")
    assert not any(one.agrees for one in run.ask(wrong, "sys").verdicts)
    said = capsys.readouterr().err
    assert "vmbox: date: DISAGREES WITH: CRASHTIME in VMCOREINFO (crash says 1970-11-27" in said
    assert "vmbox: uptime: DISAGREES WITH: the log's last time stamp (crash says 228 s, the log 3 s)" in said
    assert "vmbox: tasks: DISAGREES WITH: the kernel's own number of tasks (nr_threads) (crash finds 5 tasks" in said
    assert "vmbox run vmcore --with drgn -- sys" in said
    # What cannot be had is not judged.
    assert [one.subject for one in _Run(case, reporter).ask(SYS, "sys").verdicts] == ["date", "uptime"]


HUNG = """[   20.1] INFO: task fsfreeze:95 blocked for more than 3 seconds.
[   20.1]       Not tainted 6.1.0 #1
[   20.1] task:fsfreeze state:D stack:0     pid:95    ppid:1      flags:0x00000002
[   20.1] Call Trace:
[   20.1]  <TASK>
[   20.1]  __schedule+0x34d/0x9e0
[   20.1]  schedule+0x5a/0xd0
[   20.1]  percpu_rwsem_wait+0x116/0x140
[   20.1]  do_syscall_64+0x55/0xb0
[   20.1]  </TASK>
[   20.2] Kernel panic - not syncing: hung_task: blocked tasks
[   20.2] CPU: 1 PID: 28 Comm: khungtaskd Not tainted 6.1.0 #1
[   20.2] Call Trace:
[   20.2]  panic+0x118/0x2f4
[   20.2]  watchdog.cold+0xc/0x16
[   20.2]  kthread+0xda/0x100
[   20.2]  ret_from_fork+0x22/0x30
"""
WATCHDOG = """PID: 28       TASK: ff0000000000001c  CPU: 1    COMMAND: "khungtaskd"
 #0 [ff10] panic at ffffffff81000001
 #1 [ff20] watchdog at ffffffff81000002
 #2 [ff30] kthread at ffffffff81000003
"""
BLOCKED = """PID: 95       TASK: ff0000000000005f  CPU: 0    COMMAND: "fsfreeze"
 #0 [ff10] __schedule at ffffffff81000004
 #1 [ff20] schedule at ffffffff81000005
 #2 [ff30] percpu_rwsem_wait at ffffffff81000006
 #3 [ff40] do_syscall_64 at ffffffff81000007
"""


def test_the_task_for_which_the_watchdog_panicked_is_judged_too(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _has(monkeypatch, log.Witness(lines=HUNG.splitlines()))
    run = _Run(case, reporter)
    found = run.ask((WATCHDOG + "\n" + BLOCKED).encode(), "foreach bt")
    assert [(one.pid, one.agrees) for one in found.verdicts] == [(28, True), (95, True)]
    assert reporter.said == [
        "PID 28 (khungtaskd): AGREES WITH: the log's call trace (2 frames)",
        "PID 95 (fsfreeze): AGREES WITH: the log's call trace (2 frames)",
    ]
    assert run.ask(BLOCKED.replace("percpu_rwsem_wait", "io_schedule").encode(), "bt 95").verdicts[0].pid == 95
    said = capsys.readouterr().err
    assert "vmbox: PID 95 (fsfreeze): DISAGREES WITH: the log's call trace (crash has io_schedule below" in said
    assert said.endswith("vmbox run vmcore --with drgn -- bt 95\n")
    # One of an earlier check may have run since.
    _has(monkeypatch, log.Witness(lines=HUNG.replace("20.1", "12.1").splitlines()))
    assert _Run(case, reporter).ask(BLOCKED.encode(), "bt 95").verdicts == ()


@pytest.mark.parametrize("command", ["bt | head -3", "bt -l 1 >file", "bt|grep -c vfs"])
def test_a_stack_behind_a_pipe_is_judged_as_it_was(
    case: Case, reporter: _Reporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    _has(monkeypatch, log.Witness(lines=LOG))
    asked = command.replace(">", "|").partition("|")[0].strip()
    true = _Run(case, reporter, {asked: TEXT}).ask(b"7\n", command)
    assert [one.agrees for one in true.verdicts] == [True]
    false = _Run(case, reporter, {asked: TEXT.replace("sysrq_handle_crash", "filp_close")}).ask(b"", command)
    assert [one.agrees for one in false.verdicts] == [False]
    assert "PID 1 (init): DISAGREES WITH" in capsys.readouterr().err
    # Not where it is not answered again, and not those of all tasks, which take long.
    assert _Run(case, reporter).ask(b"7\n", command) == Judgement()
    assert _Run(case, reporter).ask(b"7\n", "foreach bt | head -3") == Judgement()
