"""A worker that serves many callers: their settings, and debuginfo from earlier jobs."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.case.options import OpenOptions
from sandbox.cli import triage as cli
from sandbox.dump import identify, unpack
from sandbox.host import config
from sandbox.judge.verdict import Verdict
from sandbox.report.build import read
from sandbox.triage import scheduler, table, worker
from sandbox.triage.model import ReportJob, entry

DUMP = Path(__file__).parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    config.replace_overrides(())
    worker._settled.clear()


def test_settings_of_one_caller_do_not_affect_the_next() -> None:
    options = OpenOptions(engine="unix:///nonexistent/engine.sock")
    job = ReportJob(entry=entry(DUMP), options=options, timeout=1, settings=("idle=5m",), neighbours=2)
    assert worker.run_job(job).row.exit_code == 20
    first = config.current()
    assert first.idle == 300
    assert first.memory is not None
    assert first.cpus is not None
    assert first.cpus >= 1
    # The next caller has no settings, and the whole host.
    worker.run_job(ReportJob(entry=entry(DUMP), options=options, timeout=1, neighbours=1))
    assert config.current().idle == 1800
    assert config.current().memory is None


def test_limits_set_by_the_user_are_not_divided() -> None:
    config.override(["memory=6GB"])
    assert "memory=6GB" in worker.shares(4)
    assert not any(word.startswith("memory=") and word != "memory=6GB" for word in worker.shares(4))


def test_debuginfo_that_the_host_already_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path))
    # A kernel without a build-id is named by its release, which is not a key of the cache.
    assert worker.holding(["3b43fad503", "../../etc", "6.1.0-56 #1 SMP"]) == []


@pytest.mark.slow
def test_the_unpacked_copy_is_removed_after_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "RUNTIME"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"VMBOX_{name}_DIR", str(tmp_path / name))
    packed, into = tmp_path / "vmcore.gz", tmp_path / "CACHE" / "dumps"
    packed.write_bytes(gzip.compress(DUMP.read_bytes(), 1))
    job = ReportJob(entry=entry(packed), options=OpenOptions(engine="unix:///nonexistent/engine.sock"), timeout=1)
    assert job.entry.wrapped
    with worker._passing_copy(packed):
        assert unpack(identify(packed), into).read_bytes() == DUMP.read_bytes()
    assert list(into.iterdir()) == []
    # It is unpacked before an engine is searched.
    assert worker.run_job(job).row.status == "partial"
    assert list(into.iterdir()) == []
    # The next run removes the copy of a killed run; the copy of a user stays.
    abandoned = worker._passing_copy(packed)
    abandoned.__enter__()
    unpack(identify(packed), into)
    worker.run_job(job)
    assert list(into.iterdir()) == []
    copy = unpack(identify(packed), into)
    worker.run_job(job)
    assert copy.exists()


@pytest.mark.parametrize(
    ("false", "said"),
    [
        ((), None),
        (("uptime",), "uptime: DISAGREES WITH: the kernel (why)"),
        (("uptime", "stack"), "DISAGREES WITH: the kernel (why)"),
    ],
)
def test_what_the_kernel_contradicts_is_in_the_table(false: tuple[str, ...], said: str | None) -> None:
    def verdict(subject: str) -> Verdict:
        return Verdict(subject=subject, agrees=subject not in false, by="crash", against="the kernel", words="why")

    report = read(identify(DUMP), None)
    judged = replace(report, verdicts=tuple(map(verdict, ("date", "uptime", "stack"))))
    assert worker._row(entry(DUMP), judged).disagreement == said


def test_a_kernel_that_no_debugger_was_tried_with_is_marked_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt = "drgn 0.3.0 was tried with kernels up to 7.3, and this is 7.9.1"
    report = replace(read(identify(DUMP), None), problem=None)
    doubted = replace(report, identity=replace(report.identity, doubt=doubt))
    rows = [worker._row(entry(DUMP), one) for one in (report, doubted, doubted)]
    assert [row.doubt for row in rows] == [None, doubt, doubt]
    made = table.of(rows)
    assert table.html(made).count(f'title="{doubt}"') == 2
    monkeypatch.setattr(scheduler, "triage", lambda *_, **__: made)
    cli.triage([str(DUMP)], tmp_path / "out")
    # Once, however many dumps it is of.
    assert capsys.readouterr().err.count(doubt) == 1


def test_a_crash_without_a_signature_is_named_below_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    log = tmp_path / "dmesg.txt"
    log.write_text(
        "[    3.0] BUG: kernel NULL pointer dereference, address: 0000000000000038\n"
        "[    3.0] CPU: 0 PID: 101 Comm: insmod Not tainted 6.1.0 #1\n"
        "[    3.0] RIP: 0010:vmbox_gateway+0x6/0x12 [vmbox_demo]\n[    3.0] Call Trace:\n"
        "[    3.0]  vmbox_forward+0x1/0x2\n"
    )
    row = worker.run_job(ReportJob(entry=entry(log), options=OpenOptions(), timeout=1)).row
    cli._grouped(table.of([row]))
    said = capsys.readouterr().err
    assert (
        said
        == f"vmbox: {log}: too little is known of it for a signature: null-pointer in vmbox_gateway < vmbox_forward\n"
    )
