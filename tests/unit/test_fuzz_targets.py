"""The targets in tests/fuzz still fit what they fuzz: their first inputs are read, without a fuzzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FUZZ = Path(__file__).parents[1] / "fuzz"

# atheris is installed for fuzzing only. Targets change modules for themselves: each file has a process of its own.
SEEDS = """
import contextlib, sys, types
sys.modules["atheris"] = types.SimpleNamespace(instrument_imports=lambda **_: contextlib.nullcontext())
sys.path.insert(0, sys.argv[1])
targets = __import__(sys.argv[2]).TARGETS
for name, (read, seeds) in targets.items():
    inputs = seeds()
    assert inputs, name
    for content in inputs:
        read(content)
print(len(targets))
"""


@pytest.mark.parametrize("name", ["answers", "kernel_tables", "layers", "packages", "servers"])
def test_the_first_inputs_are_read(name: str) -> None:
    if name == "servers":
        for library in ("asyncssh", "botocore", "indexed_gzip"):
            pytest.importorskip(library)
    done = subprocess.run(
        [sys.executable, "-c", SEEDS, str(FUZZ), name], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= 2
