"""File names with control characters are shown with escapes, in results and in errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sandbox import render

NAMES = [b"\x1b]0;own\x07\x1b[31m", b"two\nlines", b"\xff\xfe", "\N{RIGHT-TO-LEFT OVERRIDE}erocmv".encode()]


@pytest.mark.parametrize(
    ("name", "content"), [(NAMES[0], None), *zip(NAMES, [b"\x7fELF", *[b"none"] * 3], strict=True)]
)
def test_commands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vmbox: Callable[..., CompletedProcess[str]],
    name: bytes,
    content: bytes | None,
) -> None:
    place = bytes(tmp_path) + b"/" + name
    if content is not None:
        with open(place, "wb") as file:  # noqa: PTH123 - a name that is no text
            file.write(content)
    for kind in ("CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"VMBOX_{kind}_DIR", str(tmp_path))
    done = vmbox("info", os.fsdecode(place))
    assert done.returncode in {10, 12, 13}, done.stderr
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert not {char for char in said if not char.isprintable() and char != "\n"}


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = render._Plain()
    with reporter.step("Reading \x1b]0;own\x07"):
        reporter.notice("it is \x1b[31mred")
    assert "\x1b" not in capsys.readouterr().err
