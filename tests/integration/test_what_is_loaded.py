"""What a new process has to load before it does what it was started for; each of these starts one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def _printed(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_warm_path_loads_nothing_heavy() -> None:
    modules = ("__main__", "commands.run", "commands.info", "dump", "engine", "session.start")
    imports = ", ".join(f"sandbox.{module}" for module in modules)
    heavy = {"docker", "podman", "rich", "httpx", "typer"}
    assert _printed(f"import {imports}; print(*(set(sys.modules) & {heavy}))") == []


def test_the_command_line_loads_what_all_commands_need() -> None:
    parts = {
        f"sandbox.{part}" for part in ("debuginfo", "engine", "dump", "report", "triage", "case.opening", "session")
    }
    assert _printed(f"import sandbox.cli; print(*(set(sys.modules) & {parts}))") == []


def test_the_library_loads_what_is_asked_of_it() -> None:
    assert _printed("import sandbox; print(*(name for name in sys.modules if name.startswith('sandbox.')))") == []


def test_only_who_has_a_file_of_settings_pays_for_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    code = "from sandbox.host import config; config.current(); print(*{'tomllib', 'difflib'} & set(sys.modules))"
    assert _printed(code) == []
