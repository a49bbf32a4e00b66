"""Completion after TAB, through the protocol of the installed completion script."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Opens a case of a dump and a release, which is only a directory: this test is the reader of its FIFO."""
    place = tmp_path / "cases" / "0123456789-docker"
    place.mkdir(parents=True)
    tmp_path.chmod(0o700)
    os.mkfifo(place / "ctl")
    reader = os.open(place / "ctl", os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path))

    def describe(dump: str, release: str) -> str:
        names = ["id", "profile", "image", "proof", "engine", "endpoint", "container", "token"]
        described = dict.fromkeys(names, "x") | {"id": place.name, "dump": dump, "release": release, "vmlinux": "/v"}
        described |= {"directory": str(place), "opened": "2026-01-01T00:00:00+00:00", "files": 1}
        (place / "case.json").write_text(json.dumps(described))
        return place.name

    yield describe
    os.close(reader)


def test_open_cases(offered: Callable[[str], list[str]], opened: Callable[[str, str], str]) -> None:
    ident = opened("/var/crash/a/vmcore", "6.1")
    for beginning, whole in (("/var", "/var/crash/a/vmcore"), ("0", ident)):
        assert offered(f"vmbox close {beginning}") == [whole]


def test_transcripts(offered: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path))
    (tmp_path / "transcripts").mkdir()
    record = {"command": "bt", "dump": "/var/crash/a/vmcore", "release": "6.1"}
    (tmp_path / "transcripts" / "0123456789-podman.jsonl").write_text(json.dumps(record) + "\n")
    for beginning, whole in (("/var", "/var/crash/a/vmcore"), ("0", "0123456789-podman")):
        assert offered(f"vmbox log {beginning}") == [whole]


@pytest.mark.parametrize(
    "name",
    ["$(id)", r"\$(id)", "`id`", "a;id", "a b", "a\nid", "*", "'id", '"id', "&id", "\N{RIGHT-TO-LEFT OVERRIDE}id"],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_no_name_of_a_dump_is_a_command_to_a_shell(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    opened: Callable[[str, str], str],
    name: str,
    shell: str,
) -> None:
    ident = opened(f"/tmp/{name}", name)
    asked = {"_VMBOX_COMPLETE": f"complete_{shell}", "COMP_WORDS": "vmbox close ", "COMP_CWORD": "2"}
    for variable, value in (asked | {"_TYPER_COMPLETE_ARGS": "vmbox close "}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["vmbox"])
    with pytest.raises(SystemExit):
        app()
    said = capsys.readouterr().out
    assert ident in said
    assert "/tmp" not in said
    assert not set(said.replace("'*: ", "")) & set("$`\\;&*"), said


def test_a_broken_setting_does_not_break_typing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: Callable[[str], list[str]]
) -> None:
    (tmp_path / "config.toml").write_text("nonsense = 1\n")
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    assert offered("vmbox close ") == []
    assert offered("vmbox run vmcore -- b")[0] == "bpf"


def test_crash_commands_are_in_order_and_unique() -> None:
    assert list(DEFAULT.commands) == sorted(set(DEFAULT.commands))
