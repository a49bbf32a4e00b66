"""A triage by a real Dask cluster on loopback: a worker that is killed, a worker that is added later, their settings.

There is no engine: each report contains only what the dump says without crash. With engines: tests/e2e/test_triage.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engines import ENTRY

DUMPS = Path(__file__).parents[1] / "fixtures" / "dumps"
KERNELS = ["x86_64-6.1-zlib", "x86_64-6.12-zstd", "s390x-6.1-zlib"]
COUNT = 30
OURS, THEIRS = "unix:///nonexistent/coordinator.sock", "unix:///nonexistent/worker.sock"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `python -m distributed.cli.…` with the engine of its host. All end with the test."""
    with ExitStack() as stack:

        def run(program: str, *words: str, engine: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((tmp_path / f"{program}-{time.monotonic_ns()}.log").open("wb"))
            command = [sys.executable, "-m", f"distributed.cli.{program}", *words, "--host", "127.0.0.1"]
            process = subprocess.Popen(
                [*command, "--no-dashboard"], env=_env(tmp_path, engine), stdout=log, stderr=log, cwd=tmp_path
            )
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            return process

        yield run


def _env(place: Path, engine: str) -> dict[str, str]:
    names = ("CACHE", "RUNTIME", "STATE", "CONFIG")
    return {**os.environ, **{f"VMBOX_{name}_DIR": str(place / name) for name in names}, "VMBOX_ENGINE": engine}


def _until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def test_each_dump_is_reported_once(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    heap, out, described = tmp_path / "heap", tmp_path / "out", tmp_path / "scheduler.json"
    for number in range(COUNT):
        (heap / f"{number:02}").mkdir(parents=True)
        shutil.copy(DUMPS / KERNELS[number % len(KERNELS)], heap / f"{number:02}" / "vmcore")
    start("dask_scheduler", "--port", "0", "--scheduler-file", str(described), engine=THEIRS)
    _until(lambda: described.exists() and described.stat().st_size, 60)
    address = json.loads(described.read_text())["address"]
    command = [sys.executable, "-c", ENTRY, "triage", str(heap), "-o", str(out), "--scheduler", address, "--json"]
    said = (tmp_path / "said").open("wb+")
    with said, subprocess.Popen(command, env=_env(tmp_path, OURS), stdout=subprocess.PIPE, stderr=said) as running:
        _until(lambda: b"waiting for one" in (tmp_path / "said").read_bytes(), 60)
        worker = [address, "--no-nanny", "--nthreads"]
        workers = [start("dask_worker", *worker, str(threads), engine=THEIRS) for threads in (2, 1, 1)]
        _until(lambda: len(_lines(out / "rows.jsonl")) >= 4, 90)
        workers[0].kill()
        table = json.loads(running.communicate(timeout=200)[0])
    assert running.returncode == 1
    assert (table["total"], table["partial"], table["left"]) == (COUNT, COUNT, 0)
    keys = [json.loads(line)["key"] for line in _lines(out / "rows.jsonl")]
    assert len(keys) == len(set(keys)) == COUNT
    assert len(list((out / "reports").glob("*.html"))) == COUNT
    # Each worker uses the engine of its own host.
    assert all("/nonexistent/worker.sock" in row["problem"] for row in table["rows"]), table["rows"]


def test_no_scheduler(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENTRY, "triage", str(DUMPS), "-o", str(tmp_path / "out")]
    command += ["--scheduler", "tcp://127.0.0.1:9"]
    done = subprocess.run(command, env=_env(tmp_path, OURS), capture_output=True, check=False)
    assert done.returncode == 70
    assert b"vmbox: no Dask scheduler answers at tcp://127.0.0.1:9\nhint: dask scheduler" in done.stderr
