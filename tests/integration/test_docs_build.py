"""The documentation builds without warnings; a dead link is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_docs_build(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "html" / "reference" / "commands.html").read_text()
    assert "vmbox debuginfo fetch" in commands
    library = (tmp_path / "html" / "reference" / "library.html").read_text()
    assert "sandbox.api.OpenCase.run" in library
