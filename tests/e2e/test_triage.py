"""`vmbox triage` on genuine dumps: copies of them under names of their own, and parts of them as damaged ones."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest

from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.engine import labels

SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
WORKER = "from distributed.cli.dask_worker import main; main()"


def _heap(directory: Path, dumps: Sequence[Path], *, times: int) -> Path:
    heap = directory / "crash"
    for number in range(times):
        for at, dump in enumerate(dumps):
            below = heap / f"host{number}-{at}"
            below.mkdir(parents=True)
            subprocess.run(["cp", "--reflink=auto", dump, below / "vmcore"], check=True)
            (below / "vmcore").chmod(0o644)
    return heap


def _cases(engine: EngineUnderTest, heap: Path) -> int:
    """The cases of dumps below `heap`; another test may have left one of its own open."""
    found = engine.engine.containers({labels.CASE: ""})
    return sum(1 for one in found if heap in Path(one.labels[labels.DUMP]).parents)


def _rows(journal: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def _until(true: Callable[[], object], seconds: float, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_heap(docker_engine: EngineUnderTest, dumps) -> None:
    heap = _heap(docker_engine.directory(), [dumps(), dumps(form="elf"), dumps("6.12")], times=1)
    (heap / "vmcore.cut").write_bytes(dumps().read_bytes()[:200_000])
    (heap / "vmcore.empty").touch()
    out = docker_engine.directory() / "out"
    quick = docker_engine.run("triage", str(heap), "-o", str(out), "--json", "--quick")
    assert b"3 of 5 were read without debuginfo" in quick.stderr
    first = {row["dump"]: row for row in json.loads(quick.stdout)["rows"]}
    done = docker_engine.run("triage", str(heap), "-o", str(out), "--json")
    assert done.returncode == 1, done.stderr.decode()
    table = json.loads(done.stdout)
    assert table["no_debuginfo"] == 0
    for row in table["rows"]:
        earlier = first[row["dump"]]
        assert (earlier["status"], earlier["signature"]) == (row["status"], row["signature"])
        assert earlier["no_debuginfo"] == ("--quick" if row["status"] == "ok" else None)
    schema = json.loads(docker_engine.run("triage", "--schema").stdout)
    jsonschema.Draft202012Validator(schema).validate(table)
    assert table == json.loads((out / "index.json").read_text())
    states = {str(Path(row["dump"]).relative_to(heap)): row["status"] for row in table["rows"]}
    whole = {"host0-0/vmcore", "host0-1/vmcore", "host0-2/vmcore"}
    assert {name for name, state in states.items() if state == "ok"} == whole, (table["rows"], done.stderr)
    assert states["vmcore.empty"] == "failed"
    assert states["vmcore.cut"] in {"partial", "failed"}
    # The same death of two kernels and in three files is one bug.
    assert table["signatures"][0]["count"] >= 3
    assert len(table["signatures"][0]["kernels"]) == 2
    assert _cases(docker_engine, heap) == 0
    # What a cluster asks each of its hosts: which kernels it has image and debuginfo of.
    of_both = {row["kernel"]: row["dump"] for row in table["rows"] if row["status"] == "ok"}
    assert len(of_both) == 2
    asked = {**of_both, "0123456789abcdef": next(iter(of_both.values()))}
    program = "import pathlib, sys; from sandbox.triage.worker import prepared; words = sys.argv[1:]; "
    program += "print(prepared(dict(zip(words[::2], map(pathlib.Path, words[1::2])))))"
    words = [word for pair in asked.items() for word in pair]
    said = subprocess.run(
        [*docker_engine.vmbox[:-1], program, *words], env=dict(docker_engine.env), capture_output=True, check=True
    )
    assert ast.literal_eval(said.stdout.decode()) == list(of_both)
    # Nothing is left to do.
    began = time.monotonic()
    again = docker_engine.run("triage", str(heap), "-o", str(out), "--json")
    assert json.loads(again.stdout)["rows"] == table["rows"]
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_goes_on_where_it_was(docker_engine: EngineUnderTest, dumps, how: signal.Signals) -> None:
    heap = _heap(docker_engine.directory(), [dumps()], times=4)
    out = docker_engine.directory() / "out"
    command = [*docker_engine.vmbox, "triage", str(heap), "-o", str(out), "--jobs", "1"]
    with subprocess.Popen(
        command, env=dict(docker_engine.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as first:
        _until(lambda: _rows(out / "rows.jsonl"), 200, first)
        first.send_signal(how)
        assert first.wait(60) == (130 if how == signal.SIGINT else -how)
    before = _rows(out / "rows.jsonl")
    assert 1 <= len(before) < 4
    deadline = time.monotonic() + 30
    while _cases(docker_engine, heap) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert _cases(docker_engine, heap) == 0, "a case outlived the triage that opened it"
    if how == signal.SIGINT:
        assert (out / "index.html").exists()
    docker_engine.run("triage", str(heap), "-o", str(out), "--jobs", "1")
    rows = _rows(out / "rows.jsonl")
    assert rows[: len(before)] == before
    assert Counter(row["key"] for row in rows) == dict.fromkeys({row["key"] for row in rows}, 1)
    assert [row["status"] for row in rows] == ["ok"] * 4


@contextmanager
def _process(command: Sequence[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(command, env=env, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def test_cluster_loses_a_worker(
    docker_engine: EngineUnderTest,
    podman_rootful: EngineUnderTest,
    podman_rootless: EngineUnderTest,
    dumps,
    tmp_path: Path,
) -> None:
    """A scheduler and three workers, each with an engine and a store of its own; one is killed at its work."""
    # What each engine builds for itself is other tests' matter: here they work at once.
    archive = tmp_path / "image.tar"
    ready = image.ensure(profiles.by_name("latest"), docker_engine.engine)
    archive.write_bytes(b"".join(docker_engine.engine.save(ready)))
    for other in (podman_rootful, podman_rootless):
        other.engine.load(archive)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"tcp://127.0.0.1:{port}"
    heap = _heap(docker_engine.directory(), [dumps()], times=9)
    out = docker_engine.directory() / "out"
    env = {**os.environ, **docker_engine.env}
    at = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    from contextlib import ExitStack

    with ExitStack() as stack:
        stack.enter_context(_process([sys.executable, "-c", SCHEDULER, *at], env, tmp_path / "scheduler"))
        workers = []
        for engine in (docker_engine, podman_rootful, podman_rootless):
            place = engine.directory()
            command = [*engine.vmbox[:-1], WORKER, url, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
            command += ["--local-directory", str(place), "--name", engine.name]
            workers.append(stack.enter_context(_process(command, dict(engine.env), tmp_path / engine.name)))
        triage = [*docker_engine.vmbox, "triage", str(heap), "-o", str(out), "--scheduler", url, "--json"]
        running = stack.enter_context(subprocess.Popen(triage, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        _until(lambda: _rows(out / "rows.jsonl") and _cases(docker_engine, heap), 400, running)
        workers[0].kill()
        said, complained = running.communicate(timeout=500)
        logs = [(tmp_path / name).read_text()[-1500:] for name in ("scheduler", "podman-rootful", "podman-rootless")]
        assert running.returncode == 0, (complained[-2000:], said[-3000:], logs)
    rows = _rows(out / "rows.jsonl")
    assert [row["status"] for row in rows] == ["ok"] * 9
    assert len({row["key"] for row in rows}) == 9, "a dump was reported more than once"
    made = {json.loads(path.read_text())["identity"]["engine"] for path in (out / "reports").glob("*.json")}
    assert "podman" in made
    shutil.rmtree(out)
