"""The modules that a new process loads. Each test starts one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sandbox.case import store
from sandbox.case.places import SESSION_VERSION
from sandbox.model import Case
from sandbox.session import choice

NO_ENGINE = "unix:///nowhere/docker.sock"
DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


def _printed(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_warm_path_loads_nothing_heavy() -> None:
    modules = ("__main__", "commands.run", "commands.info", "dump", "engine", "session.start")
    imports = ", ".join(f"sandbox.{module}" for module in modules)
    heavy = {"docker", "podman", "rich", "httpx", "typer", "logging"}
    assert _printed(f"import {imports}; print(*(set(sys.modules) & {heavy}))") == []


def test_the_command_line_loads_what_all_commands_need() -> None:
    parts = {
        f"sandbox.{part}" for part in ("debuginfo", "engine", "dump", "report", "triage", "case.opening", "session")
    }
    assert _printed(f"import sandbox.cli; print(*(set(sys.modules) & {parts}))") == []


def test_the_library_loads_only_what_is_used() -> None:
    assert _printed("import sandbox; print(*(name for name in sys.modules if name.startswith('sandbox.')))") == []


def test_the_toml_parser_is_loaded_only_for_a_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    code = "from sandbox.host import config; config.current(); print(*{'tomllib', 'difflib'} & set(sys.modules))"
    assert _printed(code) == []


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A dump with an open case. In place of its container, a thread answers each echo as crash does."""
    for kind in ("RUNTIME", "STATE", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"VMBOX_{kind}_DIR", str(tmp_path / kind.lower()))
    (tmp_path / "runtime").mkdir(mode=0o700)
    dump = tmp_path / "vmcore"
    shutil.copy(DUMP, dump)
    (tmp_path / "vmlinux").touch()
    place = store.directory() / f"{store.key(dump)}-docker"
    store.make_directory(place)
    (place / "up").write_text("crash")
    known: dict[str, Any] = {"dump": dump, "vmlinux": tmp_path / "vmlinux", "directory": place, "id": place.name}
    known |= {"opened": datetime.now(UTC), "files": 1}
    known |= {"script": SESSION_VERSION, "endpoint": NO_ENGINE}
    # Should the case not be found, none is opened in its place.
    monkeypatch.setenv("VMBOX_ENGINE", NO_ENGINE)
    needed = (item.name for item in fields(Case) if item.default is MISSING and item.default_factory is MISSING)
    case = Case(**(dict.fromkeys(needed, "x") | known))
    store.write(case)
    choice.keep(case, choice.Choice(debugger="crash", reason="it knows this kernel"))
    ends = {name: os.open(case.shared / name, os.O_RDWR) for name in ("in", "out", "in-2", "out-2", "ctl")}

    def answer() -> None:
        with os.fdopen(ends["in"], "rb") as lines:
            for line in lines:
                if line == b"quit\n":
                    return
                if line.startswith(b"gdb echo "):
                    os.write(ends["out"], line.removeprefix(b"gdb echo ").strip().removesuffix(rb"\n") + b"\n")

    thread = threading.Thread(target=answer)
    thread.start()
    yield dump
    os.write(ends["in"], b"quit\n")
    thread.join()
    for name in ends.keys() - {"in"}:
        os.close(ends[name])


def _vmbox(*words: object, loaded: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which says at the end which of the modules `loaded` it has."""
    argv = ["vmbox", *map(str, words)]
    code = (
        f"import atexit, sys; sys.argv = {argv!r}\n"
        f"atexit.register(lambda: print(*(set(sys.modules) & set({loaded.split()!r})), file=sys.stderr))\n"
        "from sandbox.__main__ import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_warm_run_and_info_do_not_log(warm: Path) -> None:
    for words in (("run", warm, "--", "bt"), ("info", warm), ("info", warm, "--json")):
        done = _vmbox(*words, loaded="logging traceback typer")
        assert done.stderr.strip() == "", words


def test_a_warm_run_logs_when_it_is_asked(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _vmbox("run", warm, "--json", "--", "bt", loaded="")
    told = _vmbox("run", "-v", warm, "--json", "--", "bt", loaded="logging")
    assert told.stdout.partition('"seconds"')[0] == plain.stdout.partition('"seconds"')[0]
    assert "session: crash is up already" in told.stderr
    assert "a command was answered (ok): 0 bytes" in told.stderr
    assert told.stderr.split()[-1] == "logging"
    # Without the command line's library.
    monkeypatch.setenv("VMBOX_LOG", "info")
    told = _vmbox("run", warm, "--", "bt", loaded="typer")
    assert "session: crash is at its prompt" in told.stderr
    assert "debug:" not in told.stderr
    assert not told.stderr.endswith("typer\n")
