from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer.main

from sandbox import __main__

# typer makes the same command line of the same functions each time it is asked, which is a twentieth of a second.
typer.main.get_command = functools.cache(typer.main.get_command)


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
        sys.stdout.flush()
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, printed.out, printed.err)

    return run
