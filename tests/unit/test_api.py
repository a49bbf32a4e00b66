"""`import sandbox`: what it offers, what it costs, and that the command line offers nothing else."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import DumpNotFound, VmboxError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dumps"
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_public_name_is_there() -> None:
    for name in sandbox.__all__:
        assert getattr(sandbox, name) is not None
        assert name in dir(sandbox)
    with pytest.raises(AttributeError, match="identifi"):
        sandbox.identifi  # noqa: B018 - the access is the test


def test_importing_it_loads_nothing() -> None:
    code = "import sys, sandbox; print(*(name for name in sys.modules if name.startswith('sandbox.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_a_missing_dump_is_a_vmbox_error(tmp_path: Path) -> None:
    for call in (sandbox.identify, sandbox.open):
        with pytest.raises(DumpNotFound) as caught:
            call(str(tmp_path / "vmcore"))
        assert isinstance(caught.value, VmboxError)


def test_the_inventory_example(tmp_path: Path) -> None:
    """Needs no engine: a table of real dumps, and of a file that is none."""
    dump = FIXTURES / "x86_64-6.1-zlib"
    broken = tmp_path / "broken"
    broken.write_bytes(b"no dump")
    command = [sys.executable, str(EXAMPLES / "inventory.py"), str(dump), str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = csv.DictReader(done.stdout.splitlines())
    assert first["release"] == sandbox.identify(dump).release
    assert first["cause"] == "sysrq"
    assert "no kernel log" in second["problem"]
