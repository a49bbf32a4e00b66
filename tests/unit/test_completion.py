"""What the shell is offered after TAB, through the protocol that the installed completion script speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.cli.completion import CRASH_COMMANDS


def _offered(words: str, **env: str) -> list[str]:
    line = words.split(" ")
    asked = {"_VMBOX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(line) - 1)}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'vmbox'; from sandbox.entry import main; main()"]
    done = subprocess.run(command, env={**os.environ, **asked, **env}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
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
def test_words(words: str, offered: list[str]) -> None:
    assert _offered(words) == offered


def test_open_cases(tmp_path: Path) -> None:
    """A case as its directory describes it; the reader of its FIFO is this test."""
    place = tmp_path / "cases" / "0123456789-docker"
    place.mkdir(parents=True)
    tmp_path.chmod(0o700)
    os.mkfifo(place / "in")
    reader = os.open(place / "in", os.O_RDONLY | os.O_NONBLOCK)
    names = ["id", "release", "profile", "image", "proof", "engine", "endpoint", "container", "token"]
    described = dict.fromkeys(names, "x") | {"id": place.name, "dump": "/var/crash/a/vmcore", "vmlinux": "/v"}
    described |= {"directory": str(place), "opened": "2026-01-01T00:00:00+00:00", "files": 1}
    (place / "case.json").write_text(json.dumps(described))
    try:
        for beginning, whole in (("/var", "/var/crash/a/vmcore"), ("0", "0123456789-docker")):
            assert _offered(f"vmbox close {beginning}", VMBOX_RUNTIME_DIR=str(tmp_path)) == [whole]
    finally:
        os.close(reader)


def test_a_broken_setting_does_not_break_typing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("nonsense = 1\n")
    assert _offered("vmbox close ", VMBOX_CONFIG_DIR=str(tmp_path)) == []
    assert _offered("vmbox run vmcore -- b", VMBOX_CONFIG_DIR=str(tmp_path))[0] == "bpf"


def test_crash_commands_are_in_order_and_unique() -> None:
    assert list(CRASH_COMMANDS) == sorted(set(CRASH_COMMANDS))
