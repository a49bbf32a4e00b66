"""What a log file gets of a step's progress."""

from __future__ import annotations

import pytest

from sandbox import render


def test_a_line_that_was_written_over_is_shown_as_it_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render._PlainStep, "_EVERY", -1.0)
    with render._Plain().step("Building") as step:
        step.detail("(Reading database ... \r(Reading database ... 5%\r(Reading database ... 100%\r\n")
    assert "Building: (Reading database ... 100%\n" in capsys.readouterr().err
