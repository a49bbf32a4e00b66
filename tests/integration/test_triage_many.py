"""Two hundred dumps in one triage, in a separate process with its workers, which is killed and continued.

The dumps are genuine and shrunk (tests/fixtures/dumps), with names of their own, and every fifth one is cut. There is
no engine, so each report contains only what its dump says without crash. With crash: tests/e2e/test_triage.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from engines import ENTRY

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dumps"
KERNELS = ["x86_64-6.1-zlib", "x86_64-6.12-zstd", "x86_64-6.12-snappy", "aarch64-6.1-zlib", "s390x-6.1-zlib"]
COUNT = 200


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    for number in range(COUNT):
        below = tmp_path / "crash" / f"host{number:03}"
        below.mkdir(parents=True)
        data = (FIXTURES / KERNELS[number % len(KERNELS)]).read_bytes()
        cut = len(data) * (number + 1) // (COUNT + 1) if number % 5 == 4 else len(data)
        (below / "vmcore").write_bytes(data[:cut])
    return tmp_path / "crash"


def _peak(pid: int) -> int:
    """Peak memory of the process itself in kilobytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def test_a_killed_triage_of_two_hundred_dumps_continues(heap: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    places = {f"VMBOX_{name}_DIR": str(tmp_path / name) for name in ("CACHE", "RUNTIME", "STATE", "CONFIG")}
    env = {**os.environ, **places}
    nowhere = f"unix://{tmp_path}/nonexistent.sock"
    command = [sys.executable, "-c", ENTRY, "triage", str(heap), "-o", str(out), "--json", "--engine", nowhere]

    journal = out / "rows.jsonl"
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        early = 0
        deadline = time.monotonic() + 300
        while first.poll() is None and time.monotonic() < deadline:
            lines = journal.read_text().count("\n") if journal.exists() else 0
            if lines >= 10 and not early:
                early = _peak(first.pid)
            if lines >= COUNT // 2:
                break
            time.sleep(0.05)
        late = _peak(first.pid)
        first.kill()
    before = journal.read_text().count("\n")
    assert COUNT // 2 <= before < COUNT
    # The coordinator does not keep reports: ten times the dumps do not need ten times the memory.
    assert late < early * 1.25, (early, late)

    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=600)
    assert done.returncode == 1, done.stderr.decode()[-2000:]
    table = json.loads(done.stdout)
    assert (table["total"], table["left"]) == (COUNT, 0)
    assert {row["dump"] for row in table["rows"]} == {str(path) for path in heap.glob("*/vmcore")}
    for row in table["rows"]:
        assert row["problem"]
        assert (row["status"] == "failed") == (row["report"] is None)
        assert row["report"] is None or (out / row["report"]).stat().st_size > 1000
    # Complete dumps are identified, and grouped by kernel and by signature.
    whole = [row for row in table["rows"] if int(Path(row["dump"]).parent.name[4:]) % 5 != 4]
    assert {row["status"] for row in whole} == {"partial"}
    assert len({row["kernel"] for row in whole}) >= 2
    assert max(Counter(row["signature"] for row in whole).values()) >= COUNT // 5
