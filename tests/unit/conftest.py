from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sandbox import __main__, log
from sandbox.case.places import SESSION_VERSION
from sandbox.model import Case

# typer makes the same command line of the same functions each time it is asked, which is a twentieth of a second.
typer.main.get_command = functools.cache(typer.main.get_command)


_numbers = itertools.count()


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest's own looks through the directories of all tests before it, to find a number that is free."""
    return tmp_path_factory.mktemp(f"{next(_numbers)}", numbered=False)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment, and those that tests on engines set for their whole process, are not of a unit test."""
    for name in [one for one in os.environ if one.startswith("VMBOX_") and not one.startswith("VMBOX_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the command line library, `python -m pytest` has another name, and so other variables for completion."""
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identification is not limited by the clock: a test of it must hold on a busy machine, too."""
    monkeypatch.setattr(sys.modules["sandbox.dump.identify"], "SECONDS", 60)


@pytest.fixture
def vmbox(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line from its entry point on, in this process: to start one takes half a second."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["vmbox", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            __main__.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            log.stop()
        sys.stdout.flush()
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, printed.out, printed.err)

    return run


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    """Makes a case that no container runs."""

    def make(**different: Any) -> Case:
        directory = tmp_path / "nowhere"
        directory.mkdir(exist_ok=True)
        values = {
            "id": "abc-docker",
            "dump": tmp_path / "vmcore",
            "release": "6.1.0",
            "profile": "debian-12",
            "image": "image",
            "vmlinux": directory,
            "proof": "build-id 12ab",
            "origin": "https://archive.example/k.rpm",
            "verification_detail": "signed by example",
            "engine": "docker",
            "endpoint": "unix:///nowhere",
            "container": "c",
            "opened": datetime.now(UTC),
            "directory": directory,
            "files": 1,
            "token": "t",
            "script": SESSION_VERSION,
        }
        return Case(**(values | different))

    return make
