"""Identify a dump on another host with only Python and the code that is sent, and do not trust the answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.case import on_engine_host
from sandbox.dump import identify
from sandbox.errors import DumpDamaged, DumpNotFound, NotADump

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
PLACE = Path("/var/crash/host-2026-01-01/vmcore")


def _ask(dump: Path, tmp_path: Path) -> bytes:
    """Run it as in the container: without site packages and this checkout, and in another directory than its /tmp."""
    code = on_engine_host.program()
    text = on_engine_host._PROGRAM.replace("/tmp/vmbox", str(tmp_path / "code"))
    argv = [sys.executable, "-I", "-S", "-c", text, str(dump), str(len(code))]
    env = {"HOME": str(tmp_path)}
    return subprocess.run(argv, input=code, capture_output=True, check=True, env=env, cwd="/").stdout


@pytest.mark.slow
def test_gives_the_same_result_as_on_this_host(tmp_path: Path) -> None:
    there = on_engine_host.parse_answer(_ask(FIXTURE, tmp_path), str(FIXTURE), PLACE)
    here = identify(FIXTURE)
    assert there.path == PLACE
    assert there.files == (PLACE,)
    names = set(here.__slots__) - {"path", "files"}
    assert {name: getattr(there, name) for name in names} == {name: getattr(here, name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "zip", "7z"])
def test_reads_archives(tmp_path: Path, kind: str) -> None:
    """With nothing but what is sent: all readers of formats are."""
    if kind == "7z":
        dump = FIXTURE.parents[1] / "archives" / "lzma2.7z"
    else:
        (tmp_path / "case").mkdir()
        (tmp_path / "case" / "vmcore").write_bytes(FIXTURE.read_bytes())
        form = {"tar.gz": "gztar", "tar.xz": "xztar", "zip": "zip"}[kind]
        dump = Path(shutil.make_archive(str(tmp_path / "case"), form, tmp_path / "case"))
    there = on_engine_host.parse_answer(_ask(dump, tmp_path), str(dump), PLACE)
    here = identify(dump)
    assert (there.wrappers, there.member, there.release) == (here.wrappers, here.member, here.release)
    assert there.wrappers[-1] == kind.partition(".")[0]


@pytest.mark.slow
def test_reports_errors(tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("Dear support,\nour machine died.\n")
    with pytest.raises(NotADump, match="/var/crash/host-2026-01-01/vmcore"):
        on_engine_host.parse_answer(_ask(letter, tmp_path), str(letter), PLACE)


GOOD: dict[str, Any] = {"path": "/case/vmcore", "files": ["/case/vmcore"], "format": "elf", "size": 7}


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/etc/shadow"},
        {"path": "/case/vmcore/../../etc/shadow"},
        {"files": ["/case/vmcore", "/etc/shadow"]},
        {"files": "/case/vmcore"},
        {"size": True},
        {"size": "7"},
        {"release": ["6.1"]},
        {"crash_time": "yesterday"},
        {"vmcoreinfo": {"OSRELEASE": 6}},
        {"taint": [1]},
        {"format": None},
        {"build_id": "../../../home/user"},
        {"release": "../../x"},
        {"release": "-oDir::Etc=/"},
        {"arch": 'x"; APT::Update::Pre-Invoke {"id";};'},
        {"panic": "a\nb"},
        {"taint": ["\x1b]0;x\x07"]},
        {"banner": "b" * 100_000},
        {"origins": {"panic": "\x1b[2J"}},
    ],
    ids=str,
)
def test_hostile_answers(change: dict[str, Any]) -> None:
    """The author of the dump may control the answer: it must not name another file, or have other types."""
    assert on_engine_host.parse_answer(json.dumps(GOOD).encode(), "/case/vmcore", PLACE).size == 7
    with pytest.raises(DumpDamaged):
        on_engine_host.parse_answer(json.dumps(GOOD | change).encode(), "/case/vmcore", PLACE)


@pytest.mark.parametrize("answer", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"{}"])
def test_no_answer(answer: bytes) -> None:
    with pytest.raises(DumpDamaged):
        on_engine_host.parse_answer(answer, "/case/vmcore", PLACE)


def test_an_unknown_class_of_error() -> None:
    answer = json.dumps({"error": "SystemExit", "message": "x", "hint": ""}).encode()
    with pytest.raises(on_engine_host.DumpError):
        on_engine_host.parse_answer(answer, "/case/vmcore", PLACE)


@pytest.mark.parametrize("kind", ["SessionDied", "EngineFailed", "VmboxError", "kinds"])
def test_an_error_that_no_dump_causes(kind: str) -> None:
    answer = json.dumps({"error": kind, "message": "a\nb\x1b[2J", "hint": "\r\n"}).encode()
    with pytest.raises(on_engine_host.DumpError) as raised:
        on_engine_host.parse_answer(answer, "/case/vmcore", PLACE)
    assert raised.value.message.isprintable()
    assert raised.value.hint.isprintable()


def test_relative_path() -> None:
    with pytest.raises(DumpNotFound, match="no path from the root"):
        on_engine_host.identify(Path("vmcore"), None)  # type: ignore[arg-type] # refused before the engine is asked
