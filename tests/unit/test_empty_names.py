"""An empty argument, as "$X" is one where X is not set: as a path it is ".", and every name begins with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import typer

import sandbox
from sandbox.case import store
from sandbox.cli import app
from sandbox.debuginfo import inventory
from sandbox.errors import ConfigurationError, UsageError
from sandbox.host import config
from sandbox.session import transcript

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


def _parameters(group: Any, above: tuple[str, ...] = ()) -> list[list[str]]:
    """A command line with one empty value for each parameter of each command that takes one."""
    lines = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            lines += _parameters(command, (*above, name))
            continue
        needed = ["x" for one in command.params if one.param_type_name == "argument" and one.required]
        needed += [
            word
            for one in command.params
            if one.param_type_name == "option" and one.required
            for word in (one.opts[0], "x")
        ]
        for parameter in command.params:
            if parameter.name == "commands" or getattr(parameter, "is_flag", False):
                continue
            if parameter.param_type_name == "argument":
                lines.append([*above, name, *needed[1:], ""])
            else:
                lines.append([*above, name, *needed, parameter.opts[0], ""])
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("line", _parameters(typer.main.get_command(app)), ids=" ".join)
def test_no_parameter_of_any_command_is_empty(
    vmbox: Callable[..., CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    shutil.copy(DUMP, tmp_path / "vmcore")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    done = vmbox(*line)
    assert done.returncode == 2, done
    assert "is the variable set?" in done.stderr
    assert done.stdout == ""


def test_the_library_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DUMP, tmp_path / "vmcore")
    monkeypatch.chdir(tmp_path)
    for call in (sandbox.identify, sandbox.open, sandbox.dmesg, store.find_by_id_or_dump, transcript.find):
        with pytest.raises(UsageError, match="empty"):
            call("")  # type: ignore[operator]  # functions of different results
    with pytest.raises(UsageError, match="empty"):
        inventory.remove(tmp_path, [""], limit=0, in_use=frozenset())


def test_no_setting_is_an_empty_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("cache_dir", "engine", "registry"):
        with pytest.raises(ConfigurationError, match=f"--set {key} must be text"):
            config.override([f"{key}="])
    monkeypatch.setenv("VMBOX_ENGINE", "")
    assert config.current().engine is None
