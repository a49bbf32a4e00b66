"""Debuginfo that is fetched by a process of its own: its stages, its end, and what a case makes of them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.case import arrival
from sandbox.case.arrival import Stage
from sandbox.case.options import OpenOptions
from sandbox.commands.run_arguments import parse
from sandbox.errors import NotADump, UsageError
from sandbox.host import paths
from sandbox.model import Case
from sandbox.session import choice

IDENT = "0123456789-podman"
DUMP = Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
UNREACHABLE = "unix:///nowhere/engine.sock"
"""An engine that does not answer: what is started ends soon, and says why."""


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def awaiting(make_case: Callable[..., Case]) -> Case:
    return replace(make_case(vmlinux=None, no_debuginfo="it is still on its way"), awaited=True, id=IDENT)


def _place() -> Path:
    """Where it is documented to be."""
    return paths.runtime_dir() / "arrivals" / IDENT


def _ended(exit_code: int, message: str = "", hint: str = "") -> None:
    place = _place()
    place.mkdir(parents=True)
    (place / arrival.RESULT).write_text(json.dumps({"exit_code": exit_code, "message": message, "hint": hint}))


def test_a_fetch_that_fails_keeps_its_error(tmp_path: Path) -> None:
    dump = tmp_path / "no dump"
    dump.write_bytes(b"text" * 5000)
    arrival.start(IDENT, dump, UNREACHABLE)
    assert arrival.wait(IDENT, 60) is Stage.FAILED, arrival.doing(IDENT)
    failed = arrival.error(IDENT)
    assert isinstance(failed, NotADump)
    assert str(dump) in failed.message
    arrival.end(IDENT)
    assert arrival.stage(IDENT) is Stage.STOPPED
    assert arrival.error(IDENT) is None


def test_the_number_of_an_earlier_process_is_sent_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case is closed while a second fetch is just starting, and has not written its own number yet."""
    place = _place()
    place.mkdir(parents=True)
    (place / "lock").write_text(str(os.getppid()))
    told: list[int] = []

    class Starting:
        def __init__(self, *_: object, **__: object) -> None:
            arrival.end(IDENT)

        def communicate(self, _: bytes) -> None:
            pass

    monkeypatch.setattr("subprocess.Popen", Starting)
    monkeypatch.setattr(arrival, "PATIENCE", 0.05)
    monkeypatch.setattr(arrival.os, "kill", lambda number, _: told.append(number))
    arrival.start(IDENT, tmp_path / "vmcore", UNREACHABLE)
    assert told == []


@pytest.fixture
def silent_engine(tmp_path: Path) -> Iterator[str]:
    """An engine that is asked and says nothing: what is fetched with it stays on its way."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(8)
        yield f"unix://{path}"


@pytest.mark.slow
def test_a_fetch_outlives_its_starter_and_ends_when_it_is_told_to(silent_engine: str, awaiting: Case) -> None:
    arrival.start(IDENT, DUMP, silent_engine)
    assert arrival.wait(IDENT, 1.0) is Stage.FETCHING
    pid = int((_place() / "lock").read_text())
    assert os.getsid(pid) != os.getsid(0)
    # A second one would do the same: it is not started.
    arrival.start(IDENT, DUMP, silent_engine)
    assert int((_place() / "lock").read_text()) == pid
    # Its case answers what does not need debuginfo, and nothing else.
    assert OpenOptions(early=True).accepts(awaiting)
    assert not OpenOptions().accepts(awaiting)
    assert choice.by_kernel(awaiting).reason.startswith("debuginfo is still on its way")
    arrival.end(IDENT)
    assert arrival.stage(IDENT) is Stage.STOPPED
    assert OpenOptions().accepts(awaiting)
    assert "its fetch was stopped; vmbox debuginfo fetch" in choice.by_kernel(awaiting).reason


def test_an_interrupted_wait_ends_the_fetch(silent_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrival.start(IDENT, DUMP, silent_engine)
    with monkeypatch.context() as patched:
        patched.setattr(arrival, "stage", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            arrival.wait(IDENT, 60)
    assert arrival.stage(IDENT) is Stage.STOPPED


def _interrupted(_ident: str) -> Stage:
    raise KeyboardInterrupt


def test_the_case_is_opened_again_when_debuginfo_has_arrived(awaiting: Case) -> None:
    _ended(0)
    assert arrival.stage(IDENT) is Stage.ARRIVED
    assert not OpenOptions(early=True).accepts(awaiting)
    assert not OpenOptions().accepts(awaiting)
    assert OpenOptions(no_debuginfo=True).accepts(awaiting)


def test_the_case_goes_on_without_when_none_was_found(awaiting: Case) -> None:
    _ended(40, "no debuginfo of kernel 6.1.0-1-mine was found")
    for options in (OpenOptions(early=True), OpenOptions()):
        assert options.accepts(awaiting)
    assert not OpenOptions(debugger="crash").accepts(awaiting)
    assert choice.by_kernel(awaiting).reason == "there is no debuginfo (no debuginfo of kernel 6.1.0-1-mine was found)"
    said: list[str] = []
    choice.remind(awaiting, OpenOptions(), SimpleNamespace(notice=said.append))  # type: ignore[arg-type]  # all it uses
    assert said[0].endswith(f"; vmbox debuginfo fetch {awaiting.dump} looks for it")


@pytest.mark.parametrize(
    ("line", "early"),
    [
        ("bt", True),
        ("--json -- bt -a -- ps", True),
        ("--with drgn -- bt", True),
        ("-- ps -p 1 | head", True),
        ("-- log > file", True),
        ("-- bt -l", False),  # source lines
        ("-- bt -- dis panic", False),
        ("-- foreach files", False),
        ("-- timer", False),  # of 5.10, whose BTF has no per-CPU variables
        ("-i commands", False),
        ("", False),
        ("--wait -- bt", False),
        ("--once -- bt", False),
        ("--image debian-12 -- bt", False),
        ("--tool drgn -e 0", False),
    ],
)
def test_which_commands_are_answered_while_debuginfo_is_on_its_way(line: str, early: bool) -> None:
    asked = parse(["vmcore", *line.split()])
    assert asked is not None
    assert asked.open_options().early is early


def test_the_setting_waits_as_the_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_WAIT_FOR_DEBUGINFO", "true")
    asked = parse(["vmcore", "--", "bt"])
    assert asked is not None
    assert not asked.open_options().early
    with pytest.raises(UsageError, match="--wait or --no-debuginfo"):
        parse(["vmcore", "--wait", "--no-debuginfo", "--", "bt"])
