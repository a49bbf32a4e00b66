from __future__ import annotations

import json
import os

import pytest

from sandbox import render
from sandbox.commands.run import StdinCommands, from_lines
from sandbox.commands.run_arguments import from_arguments
from sandbox.debugger import DEFAULT
from sandbox.debugger.crash import MAX_COMMAND
from sandbox.debugger.crash_errors import ErrorDetector
from sandbox.debugger.crash_redirection import before_pipeline
from sandbox.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (["bt"], ["bt"]),
        (["bt", "-a", "--", "ps", "-t"], ["bt -a", "ps -t"]),
        (["--", "bt", "--", "--", "log | tail -5", "--"], ["bt", "log | tail -5"]),
    ],
)
def test_arguments(arguments: list[str], commands: list[str]) -> None:
    assert from_arguments(arguments) == commands


def test_lines() -> None:
    assert list(from_lines(["bt\n", "\n", "# a comment\n", "  ps -t  \n"])) == ["bt", "ps -t"]


@pytest.mark.parametrize(
    ("command", "output", "status"),
    [
        ("bt", b"PID: 1  TASK: ffff\n #0 [ff] machine_kexec at ff\n", "ok"),
        ("foo", b"crash: command not found: foo\n", "error"),
        ("bt 99999", b"bt: invalid task or pid value: 99999\n", "error"),
        ("bt -Z", b"Usage:\n  bt [-a|-c cpu(s)]\n", "error"),
        ("dmesg -x", b"log: invalid option\n", "error"),
        ("px nosuch", b"p: gdb request failed: p nosuch\n", "error"),
        ("sym nosuch", b"symbol not found: nosuch\n", "error"),
        ("foreach bt", b"PID: 1\nbt: WARNING: stale\n", "ok"),
        ("mod", b"mod: NOTE: modules have changed\n", "ok"),
        ("log", b"[    1.0] systemd: hello\nblog: no\n", "ok"),
        ("bt 1 | touch x", b"touch: cannot touch 'x': Read-only file system\n", "ok"),
        ("!rm x", b"rm: cannot remove 'x': No such file or directory\n", "ok"),
        ("set gdb on", b"gdb: on\n", "ok"),
        ("crash set gdb off", b"gdb: off\n", "ok"),
        ("set 99999", b"set: invalid task or pid value: 99999\n", "error"),
        ("foreach bt", b"   <segmentation violation in gdb>\n", "error"),
        ("help bt", b"NAME\n  bt - backtrace\n", "ok"),
        ("man nosuch", b'No help data for "nosuch" is available.\n', "error"),
        ("alias nosuch", b"ORIGIN   ALIAS    COMMAND\nalias does not exist: nosuch\n", "error"),
        ("print nosuch", b"gdb: gdb request failed: print nosuch\n", "error"),
        ("bt;ps", b"gdb: gdb request failed: bt;ps\n", "error"),
        ("x/4x 0", b"0x0:\tgdb: invalid user virtual address: 0\ngdb: gdb request failed: x/4x 0\n", "error"),
        ("print jiffies", b"$1 = 4294893255\n", "ok"),
        ("*nosuch", b"*: invalid data structure reference: nosuch\n", "error"),
        ("*", b"Usage:\n  * (struct or union command arguments)\n", "error"),
        ("*list_head", b"struct list_head {\n    struct list_head *next;\n", "ok"),
    ],
)
def test_verdict(command: str, output: bytes, status: str) -> None:
    detector = ErrorDetector(command)
    for at in range(len(output)):
        detector.feed(output[at : at + 1])
    assert detector.found() == (status == "error")


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        DEFAULT.line(" ")


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("*task_struct.pid", b"* task_struct.pid"),
        ("<script", b"< script"),
        ("* task_struct", b"* task_struct"),
        ("*", b"*"),
        ("p *init_task.mm", b"p *init_task.mm"),
    ],
)
def test_what_crash_parts_only_at_a_terminal_is_parted(typed: str, sent: bytes) -> None:
    assert DEFAULT.line(typed) == sent


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("bt", "bt"),
        ("log | tail -5", "log "),
        ("bt > file", "bt "),
        ("p init_task->comm", "p init_task->comm"),
        ("p (1 > 2) | cat", "p (1 > 2) "),
        ("log -T 'a|b'", "log -T 'a|b'"),
        ("!ls", ""),
    ],
)
def test_where_crash_ends_and_another_program_begins(command: str, part: str) -> None:
    assert before_pipeline(command) == part


def test_a_command_is_one_line_that_crash_can_read() -> None:
    assert DEFAULT.line(" bt ") == b"bt"
    assert len(DEFAULT.line("x" * MAX_COMMAND)) == MAX_COMMAND
    with pytest.raises(UsageError, match="crash reads"):
        DEFAULT.line("x" * (MAX_COMMAND + 1))
    with pytest.raises(UsageError, match="one line"):
        DEFAULT.line("bt\nquit")
    with pytest.raises(UsageError, match="is a shell"):
        DEFAULT.line(" ! ")


def test_control_characters_are_made_harmless() -> None:
    assert render.visible("a\x1b[31mred\x07\tb\n") == "a\\x1b[31mred\\x07\tb\n"
    assert render.visible("Grüße ✓") == "Grüße ✓"


def test_sizes() -> None:
    assert [render.size(n) for n in (0, 1023, 1024, 281755500, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "268.7 MiB",
        "5.0 TiB",
    ]


@pytest.mark.slow
def test_standard_input_says_whether_a_line_is_there() -> None:
    reader, writer = os.pipe()
    source = StdinCommands(reader)
    assert not source.ready()
    os.write(writer, b"# comment\nbt\n\nps")
    assert source.ready()
    commands = iter(source)
    assert next(commands) == "bt"
    assert not source.ready()
    os.close(writer)
    assert source.ready()
    assert list(commands) == ["ps"]
    os.close(reader)


def test_an_answer_as_json_is_written_while_it_comes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    answer = render.JsonAnswer('p "x"')
    for piece in (b"Gr\xc3", b"\xbc\xc3\x9fe\n", b"\xff\x1b"):
        answer(piece)
    answer.end("ok", 0.25, {"debugger": "crash"})
    render.JsonAnswer("q\udc80").end("error", 0, {"doubt": "it is new"})
    first, second = capfdbinary.readouterr().out.splitlines()
    assert json.loads(first) == {"command": 'p "x"', "output": "Grüße\n\\xff\x1b"} | {
        "status": "ok",
        "seconds": 0.25,
        "debugger": "crash",
    }
    assert json.loads(second)["output"] == ""
    assert json.loads(second)["doubt"] == "it is new"
