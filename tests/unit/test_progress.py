"""Progress in a log file."""

from __future__ import annotations

import pytest

from sandbox import render


def test_a_rewritten_line_is_shown_in_its_last_state(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render._PlainStep, "_EVERY", -1.0)
    with render._Plain().step("Building") as step:
        step.detail("(Reading database ... \r(Reading database ... 5%\r(Reading database ... 100%\r\n")
    assert "Building: (Reading database ... 100%\n" in capsys.readouterr().err
