"""The library, `import sandbox`: its names, and its errors."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import DumpNotFound, VmboxError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dumps"
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_public_name_exists() -> None:
    for name in sandbox.__all__:
        assert getattr(sandbox, name) is not None
        assert name in dir(sandbox)
    with pytest.raises(AttributeError, match="identifi"):
        sandbox.identifi  # noqa: B018 - the access is the test


def test_a_missing_dump_is_a_vmbox_error(tmp_path: Path) -> None:
    for call in (sandbox.identify, sandbox.open):
        with pytest.raises(DumpNotFound) as caught:
            call(str(tmp_path / "vmcore"))
        assert isinstance(caught.value, VmboxError)


def test_the_inventory_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Makes a table of real dumps and of a file that is not a dump. Needs no engine."""
    dump = FIXTURES / "x86_64-6.1-zlib"
    broken = tmp_path / "broken"
    broken.write_bytes(b"no dump")
    script = str(EXAMPLES / "inventory.py")
    monkeypatch.setattr(sys, "argv", [script, str(dump), str(broken)])
    runpy.run_path(script, run_name="__main__")
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert first["release"] == sandbox.identify(dump).release
    assert first["cause"] == "sysrq"
    assert "no kernel log" in second["problem"]
