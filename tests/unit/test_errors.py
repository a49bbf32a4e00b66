"""Failures that users can do something about have statuses of their own; 99 is left to internal errors."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from sandbox import __main__, errors
from sandbox.dump.source import cannot_open
from sandbox.host import config
from sandbox.render import exit_on_error

PACKAGE = Path(errors.__file__).parent


def test_statuses_are_different() -> None:
    statuses = [kind.exit_code for kind in errors.kinds()]
    assert len(statuses) == len({*statuses, errors.VmboxError.exit_code}) - 1
    assert not {0, 1} & set(statuses)


def test_no_failure_is_raised_without_a_class() -> None:
    assert [str(path) for path in PACKAGE.rglob("*.py") if "raise VmboxError" in path.read_text()] == []


@pytest.mark.parametrize(
    ("number", "setting", "kind"),
    [
        (errno.EACCES, False, errors.UsageError),
        (errno.EACCES, True, errors.ConfigurationError),
        (errno.ENOSPC, False, errors.NoSpace),
        (errno.EDQUOT, True, errors.NoSpace),
    ],
)
def test_an_unwritable_path(number: int, setting: bool, kind: type[errors.VmboxError]) -> None:
    made = errors.unwritable("/out", OSError(number, "why"), hint="choose another", setting=setting)
    assert type(made) is kind
    assert "/out" in made.message
    assert made.hint == "choose another"


@pytest.mark.parametrize(("ended", "status"), [(KeyboardInterrupt(), 130), (errors.Terminated(15), 143)])
def test_ctrl_c_while_modules_are_loaded_shows_no_traceback(
    ended: KeyboardInterrupt, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> None:
        raise ended

    monkeypatch.setattr(__main__, "open_standard_streams", load)
    with pytest.raises(SystemExit) as exited:
        __main__.main()
    assert exited.value.code == status
    assert capsys.readouterr().err == "vmbox: interrupted\n"


def test_a_limit_of_the_process_is_no_matter_of_modes() -> None:
    """open(2) of a disk in a container: no ACL helps."""
    said = cannot_open(Path("/dev/vdb"), PermissionError(errno.EPERM, os.strerror(errno.EPERM)))
    assert type(said) is errors.DumpUnreadable
    assert said.message == "/dev/vdb: what limits this process forbids to open it (Operation not permitted)"
    assert said.hint == "read it outside of this container or service: cat /dev/vdb > vmcore"


def test_a_help_whose_reader_left_ends_as_all_other_output() -> None:
    """As rich ends a process: rich.console.Console.on_broken_pipe."""
    ended = SystemExit(1)
    ended.__context__ = BrokenPipeError()
    with pytest.raises(SystemExit) as exited, exit_on_error():
        raise ended
    assert exited.value.code == 141


def test_an_empty_home_and_a_missing_tmpdir_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("sys.argv", ["vmbox", "--version"])
    monkeypatch.setattr(__main__, "_end_on_signals", lambda: None)
    with pytest.raises(SystemExit):
        __main__._main()
    assert Path.home() == Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert "TMPDIR" not in os.environ


@pytest.mark.parametrize("words", [["run", "vmcore", "--", "bt"], ["run", "vmcore"], ["info", "vmcore"], ["list"]])
@pytest.mark.parametrize("variable", ["VMBOX_IDLE", "HOME"])
def test_a_broken_place_of_settings_is_one_line_for_each_command(
    words: list[str], variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` reads settings while its options are read."""
    said = {
        "VMBOX_IDLE": errors.ConfigurationError("$VMBOX_IDLE must be seconds", hint="it is 'soon'"),
        "HOME": RuntimeError("Could not determine home directory."),
    }

    def broken() -> NoReturn:
        raise said[variable]

    monkeypatch.setattr(config, "current", broken)
    monkeypatch.setattr("sys.argv", ["vmbox", *words])
    monkeypatch.setattr(__main__, "_end_on_signals", lambda: None)
    with pytest.raises(SystemExit) as exited:
        __main__.main()
    assert (exited.value.code, len(capsys.readouterr().err.splitlines())) == (70, 2)
