"""Progress in a log file."""

from __future__ import annotations

import pytest

from sandbox import render
from sandbox.errors import VmboxError
from sandbox.render import progress


def test_a_rewritten_line_is_shown_in_its_last_state(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.PlainStep, "EVERY", -1.0)
    with progress.Plain().step("Building") as step:
        step.detail("(Reading database ... \r(Reading database ... 5%\r(Reading database ... 100%\r\n")
    assert "Building: (Reading database ... 100%\n" in capsys.readouterr().err


def test_a_line_that_is_repeated_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    warning = "WARNING: possibly corrupt Elf64_Nhdr: n_namesz: 0"
    detail = "\n".join([*[warning] * 1861, "crash: cannot malloc", warning])
    render.error(VmboxError("crash does not open this dump", detail=detail))
    said = capsys.readouterr().err.splitlines()
    assert said[1:] == [f"    {warning}   (1861 times)", "    crash: cannot malloc", f"    {warning}"]


def test_the_rest_of_long_work_is_estimated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Plain().step("Hashing vmcore", total=1 << 40, unit="B") as step:
        now = 11.0
        step.advance(11 << 30)
        now = 1000.0
        step.advance(1000 << 30)
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "Hashing vmcore: 11.0 GiB of 1.0 TiB, 1.0 GiB/s, 17 min left"
    assert said[2] == "Hashing vmcore: 1011.0 GiB of 1.0 TiB, 1.0 GiB/s"


@pytest.mark.parametrize(("term", "live"), [("xterm-256color", True), ("dumb", False)])
def test_a_terminal_whose_cursor_cannot_be_moved_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], term: str, live: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with render.reporter(quiet=False).step("Building image latest"):
        pass
    assert ("Building image latest …\n" in capsys.readouterr().err) != live
