"""Mistakes in a command line look like all other errors: one line, and a hint that can be pasted."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandbox.cli import app


def test_a_file_whose_name_is_taken_for_options_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-xyz core").touch()
    done = CliRunner().invoke(app, ["info", "-xyz core"], prog_name="vmbox")
    assert done.stderr == "vmbox: no such option: -x\nhint: if the file is meant: './-xyz core'\n"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("frob", "no such command 'frob'", "vmbox --help"),
        ("--frob", "no such option: --frob", "vmbox --help"),
        ("image frob", "no such command 'frob'", "vmbox image --help"),
        ("list vmcore", "got unexpected extra argument(s) (vmcore)", "vmbox list --help"),
        ("info", "give a dump, or --release", "vmbox info --help"),
        ("run", "missing argument 'VMCORE'", "vmbox run --help"),
        ("run --frob vmcore -- bt", "no such option: --frob", "vmbox run --help"),
        ("run vmcore --timeout", "option '--timeout' requires an argument", "vmbox run --help"),
        ("run vmcore --json=1", "option '--json' does not take a value", "vmbox run --help"),
        (
            "run vmcore --timeout 0 -- bt",
            "invalid value for '--timeout': '0' is not a number of seconds above 0",
            "vmbox run --help",
        ),
        ("run vmcore --keep --once -- bt", "--keep or --once", "vmbox run --help"),
        (
            "run vmcore --with crash --no-debuginfo -- bt",
            "crash opens no dump without debuginfo",
            "leave out --with, or --no-debuginfo",
        ),
        (
            "report vmcore --timeout nan",
            "invalid value for '--timeout': it is a number of seconds above 0",
            "vmbox report --help",
        ),
        ("doctor --remove", "--remove goes with --leaks", "vmbox doctor --help"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(words: str, message: str, hint: str) -> None:
    done = CliRunner().invoke(app, words.split(), prog_name="vmbox")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"vmbox: {message}\nhint: {hint}\n"
