"""Names of files that write to a terminal, or to nobody's file: shown harmless, whatever becomes of the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import render

NAMES = [b"\x1b]0;own\x07\x1b[31m", b"two\nlines", b"\xff\xfe", "\N{RIGHT-TO-LEFT OVERRIDE}erocmv".encode()]


@pytest.mark.parametrize(
    ("name", "content"), [(NAMES[0], None), *zip(NAMES, [b"\x7fELF", *[b"none"] * 3], strict=True)]
)
def test_commands(tmp_path: Path, name: bytes, content: bytes | None) -> None:
    place = bytes(tmp_path) + b"/" + name
    if content is not None:
        with open(place, "wb") as file:  # noqa: PTH123 - a name that is no text
            file.write(content)
    env = {**os.environ, "VMBOX_CONFIG_DIR": str(tmp_path), "VMBOX_RUNTIME_DIR": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([sys.executable, "-m", "sandbox", "info", place], env=env, capture_output=True, check=False)
    assert done.returncode in {10, 12, 13}, done.stderr
    said = done.stdout + done.stderr
    assert b"Traceback" not in said
    assert not {char for char in said.decode() if not char.isprintable() and char != "\n"}


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = render._Plain()
    with reporter.step("Reading \x1b]0;own\x07"):
        reporter.notice("it is \x1b[31mred")
    assert "\x1b" not in capsys.readouterr().err
