"""Completion after TAB, through the protocol of the installed completion script."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.cli import app
from sandbox.debugger import DEFAULT


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[str]]:
    """Completions for a command line. Runs in this process, because a process for each case takes seconds."""

    def ask(words: str) -> list[str]:
        asked = {"_VMBOX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["vmbox"])
        with pytest.raises(SystemExit):
            app()
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out.split()

    return ask


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("vmbox clo", ["close"]),
        ("vmbox run vmcore -- b", ["bpf", "bt", "btop"]),
        ("vmbox run vmcore -- bt -- fo", ["foreach"]),
        ("vmbox run vmcore --image debian-12", ["debian-12"]),
        ("vmbox run vmcore --engine p", ["podman"]),
        ("vmbox config ", ["show", "template"]),
        # Nothing of ours: the shell offers file names.
        ("vmbox run vm", []),
    ],
)
def test_completion_offers_matching_words(offered: Callable[[str], list[str]], words: str, whole: list[str]) -> None:
    assert offered(words) == whole


def test_open_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: Callable[[str], list[str]]) -> None:
    """The case is only a directory; this test is the reader of its FIFO."""
    place = tmp_path / "cases" / "0123456789-docker"
    place.mkdir(parents=True)
    tmp_path.chmod(0o700)
    os.mkfifo(place / "ctl")
    reader = os.open(place / "ctl", os.O_RDONLY | os.O_NONBLOCK)
    names = ["id", "release", "profile", "image", "proof", "engine", "endpoint", "container", "token"]
    described = dict.fromkeys(names, "x") | {"id": place.name, "dump": "/var/crash/a/vmcore", "vmlinux": "/v"}
    described |= {"directory": str(place), "opened": "2026-01-01T00:00:00+00:00", "files": 1}
    (place / "case.json").write_text(json.dumps(described))
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path))
    try:
        for beginning, whole in (("/var", "/var/crash/a/vmcore"), ("0", "0123456789-docker")):
            assert offered(f"vmbox close {beginning}") == [whole]
    finally:
        os.close(reader)


def test_a_broken_setting_does_not_break_typing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: Callable[[str], list[str]]
) -> None:
    (tmp_path / "config.toml").write_text("nonsense = 1\n")
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    assert offered("vmbox close ") == []
    assert offered("vmbox run vmcore -- b")[0] == "bpf"


def test_crash_commands_are_in_order_and_unique() -> None:
    assert list(DEFAULT.commands) == sorted(set(DEFAULT.commands))
