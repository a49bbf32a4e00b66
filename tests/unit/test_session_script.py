"""The script that is PID 1 of a case, run here with its places below another directory (in a case: e2e/)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.case.places import SESSION_VERSION
from sandbox.debugger import StartMode
from sandbox.debugger.drgn import Drgn
from sandbox.errors import CommandTimeout
from sandbox.host import paths
from sandbox.model import Case
from sandbox.session.channel import FifoChannel
from sandbox.session.session import Session

TOKEN = "feed" * 8
NAMES = ("in", "out", "in-2", "out-2", "ctl")


@pytest.fixture
def script(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    files = paths.data_dir() / "Containerfile.d" / "files"
    places = {"/tmp/": "tmp/", "/run/vmbox": "run", "/scratch": "scratch", "/usr/libexec/vmbox/versions": "versions"}
    text = (files / "session").read_text(encoding="utf-8")
    for place, here in places.items():  # /tmp/ first: the others become paths below it
        text = text.replace(place, str(tmp_path / here) + "/" * here.endswith("/"))
    for name in ("run", "tmp", "scratch"):
        (tmp_path / name).mkdir()
    for name in NAMES:
        os.mkfifo(tmp_path / "run" / name)
    (tmp_path / "run" / "lock").touch()
    (tmp_path / "versions").write_text("crash=8.0.2")
    environment = {"PATH": os.environ["PATH"], "IDLE": "60"}
    process = subprocess.Popen(["sh", "-c", text, "session"], env=environment, start_new_session=True)
    yield process
    # In a container all end with PID 1. A debugger has a session of its own.
    debuggers = [int(file.read_text()) for file in (tmp_path / "tmp").glob(".debugger.pid.*")]
    for group in (process.pid, *debuggers):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.wait()


def until(descriptor: int, end: bytes) -> bytes:
    said, deadline = b"", time.monotonic() + 30
    while end not in said:
        assert time.monotonic() < deadline, said
        try:
            said += os.read(descriptor, 65536)
        except BlockingIOError:
            time.sleep(0.02)
    return said


def test_what_a_debugger_can_read_has_no_token(script: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Nor has what it can read of the script: it runs as the same user."""
    ctl, out = (os.open(tmp_path / "run" / name, os.O_RDWR | os.O_NONBLOCK) for name in ("ctl", "out"))
    try:
        os.write(ctl, f"{TOKEN}\n".encode())
        assert until(out, b"\n") == f"{TOKEN} ready {SESSION_VERSION} crash=8.0.2\n".encode()
        os.write(ctl, b"start 1 0badcafe env\n")
        assert b"IDLE=60\n" in until(out, f"{TOKEN} exit 0 0badcafe\n".encode()).partition(TOKEN.encode())[0]
        os.write(ctl, f"start 1 0badcafe cat /proc/{script.pid}/environ /proc/{script.pid}/cmdline\n".encode())
        said = until(out, f"{TOKEN} exit 0 0badcafe\n".encode())
        assert b"IDLE=60\0" in said
        assert said.count(TOKEN.encode()) == 1
        os.write(ctl, b"stop\n")
        assert script.wait(timeout=30) == 0
    finally:
        os.close(ctl)
        os.close(out)


_LINES = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
while True:
    try:
        exec(sys.stdin.readline() or "sys.exit()")
    except KeyboardInterrupt:
        pass
"""


class Lines(Drgn):
    """A debugger that runs lines of Python."""

    name = "lines"
    start_modes = (StartMode("-u", ""), StartMode("-uB", "writes no files"))

    def __init__(self, program: Path) -> None:
        self._program = program

    def session_argv(self, vmlinux: str | None, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        return [sys.executable, mode.option, str(self._program)]

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        return b'print("%b")' % marker


@pytest.fixture
def case(script: subprocess.Popen[bytes], tmp_path: Path, make_case: Callable[..., Case]) -> Case:
    """Of the script, which has its token."""
    assert script.poll() is None
    (tmp_path / "shared").symlink_to("run")
    (tmp_path / "lock").touch()
    ctl, out = (os.open(tmp_path / "run" / name, os.O_RDWR | os.O_NONBLOCK) for name in ("ctl", "out"))
    os.write(ctl, f"{TOKEN}\n".encode())
    until(out, b"\n")
    os.close(ctl)
    os.close(out)
    return make_case(directory=tmp_path, token=TOKEN)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    program = tmp_path / "lines.py"
    program.write_text(_LINES)
    return Lines(program)


@pytest.mark.slow
def test_a_signal_that_is_sent_late_does_not_hit_the_next_command(
    script: subprocess.Popen[bytes], case: Case, lines: Lines
) -> None:
    """A busy host sends it long after the client asked for it, and the command that it was for may have ended."""
    said: list[bytes] = []
    with Session(case, debugger=lines) as session:
        session.start()
        script.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, script.send_signal, [signal.SIGCONT]).start()
        with pytest.raises(CommandTimeout):
            session.run("time.sleep(0.2)", said.append, timeout=0.1)
        session.run("time.sleep(1); print('whole')", said.append)
    assert b"".join(said) == b"whole\n"


class Killed(BaseException):
    """In place of SIGKILL: the client does nothing more."""


@pytest.mark.slow
def test_a_signal_that_a_killed_client_asked_for_does_not_hit_another_ones_command(
    script: subprocess.Popen[bytes], case: Case, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for the signal, and is killed before the script has sent it."""
    said: list[bytes] = []
    signal_of = FifoChannel.signal

    def ask_and_die(self: FifoChannel, slot: int, name: str) -> None:
        signal_of(self, slot, name)
        raise Killed

    with Session(case, debugger=lines) as session, monkeypatch.context() as patch:
        session.start()
        script.send_signal(signal.SIGSTOP)
        patch.setattr(FifoChannel, "signal", ask_and_die)
        with pytest.raises(Killed):
            session.run("time.sleep(0.2)", said.append, timeout=0.1)
    threading.Timer(0.5, script.send_signal, [signal.SIGCONT]).start()
    with Session(case, debugger=lines) as session:
        session.start()
        session.run("time.sleep(1); print('whole')", said.append)
    assert b"".join(said) == b"whole\n"


def test_what_the_script_says_to_a_killed_client_is_no_word_of_the_debugger(case: Case, lines: Lines) -> None:
    """Nor is it an answer to the next client's own signal."""
    said: list[bytes] = []
    with Session(case, debugger=lines) as session:
        session.start()
        (case.shared / "out-2").write_bytes(f"\n{TOKEN} sent 0badcafe\n".encode())
        session.run("print('whole')", said.append)
        talk = session._channel
        talk.signal(lines.slot, "0")
        (case.shared / "out-2").write_bytes(f"\n{TOKEN} sent 0badcafe\n".encode())
        while not talk.sent:
            assert talk.receive(10)
        assert talk.buffer == b""
    assert b"".join(said) == b"whole\n"


def _killed_while_it_starts(
    case: Case, lines: Lines, monkeypatch: pytest.MonkeyPatch, modes: Sequence[StartMode] | None
) -> None:
    """A client that has asked for the debugger, and waits for its prompt no more."""

    def die(_self: FifoChannel, _seconds: float | None) -> bool:
        raise Killed

    with monkeypatch.context() as patch, Session(case, debugger=lines) as session:
        patch.setattr(FifoChannel, "receive", die)
        with pytest.raises(Killed):
            session.start(modes)


def test_a_debugger_is_in_the_mode_that_is_told_though_another_client_was_killed_while_it_started(
    case: Case, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one started it with less than all of its abilities."""
    _killed_while_it_starts(case, lines, monkeypatch, lines.start_modes[1:])
    said: list[bytes] = []
    with Session(case, debugger=lines) as session:
        session.start(lines.start_modes[:1])
        session.run("print(sys.flags.dont_write_bytecode)", said.append)
    assert b"".join(said) == b"0\n"


def test_a_start_that_a_killed_client_began_is_gone_on_with(
    case: Case, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_while_it_starts(case, lines, monkeypatch, None)
    pid = case.directory / "tmp" / ".debugger.pid.2"
    deadline = time.monotonic() + 10
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    begun, said = pid.read_text(), list[bytes]()
    with Session(case, debugger=lines) as session:
        session.start()
        session.run("print(sys.flags.dont_write_bytecode)", said.append)
    assert (b"".join(said), pid.read_text()) == (b"0\n", begun)
