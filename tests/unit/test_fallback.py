from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.debugger import DEFAULT, StartMode
from sandbox.errors import SessionFailed
from sandbox.progress import QUIET
from sandbox.session.fallback import last_mode, start_with_fallbacks

MODES = DEFAULT.start_modes


class Noting(type(QUIET)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, line: str) -> None:
        self.said.append(line)


class Crash:
    """Stands for a crash that comes up only with a certain option; the genuine ones are in tests/e2e."""

    def __init__(self, needs: str) -> None:
        self.needs = needs
        self.tried: list[str] = []

    def __call__(self, mode: StartMode) -> bytes:
        self.tried.append(mode.option)
        if self.tried[-1] != self.needs:
            raise SessionFailed("no", detail=f"\ncrash: page excluded: {len(self.tried)}\n\n")
        return b"WARNING: something\n"


@pytest.mark.parametrize("needs", [mode.option for mode in MODES])
def test_each_start_mode_is_tried_reported_and_remembered(needs: str, tmp_path: Path) -> None:
    mode, noting, crash = tmp_path / "mode", Noting(), Crash(needs)
    assert start_with_fallbacks(DEFAULT, crash, mode, noting) == b"WARNING: something\n"
    above = [mode.option for mode in MODES[: len(crash.tried)]]
    assert crash.tried == above
    assert noting.said[: len(above) - 1] == [
        f"crash cannot open the dump: crash: page excluded: {number}; trying {option}"
        for number, option in enumerate(above[1:], 1)
    ]
    assert len(noting.said) == (len(above) if needs else 0)
    assert last_mode(mode) == needs
    # What opened it before is tried first.
    crash.tried.clear()
    start_with_fallbacks(DEFAULT, crash, mode, noting)
    assert crash.tried == [needs]


def test_the_reason_of_the_last_mode_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(SessionFailed) as failed:
        start_with_fallbacks(DEFAULT, Crash("nothing"), tmp_path / "mode", Noting())
    assert failed.value.detail == "\ncrash: page excluded: 4\n\n"
    assert last_mode(tmp_path / "mode") == ""
