"""Triage without an engine, in real processes: reports of what the dumps say without crash."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from html import escape
from pathlib import Path

import jsonschema
import pytest

import heaps
from sandbox.case.options import OpenOptions
from sandbox.triage import discovery, scheduler, table as triage_table

DUMPS = Path(__file__).parents[1] / "fixtures" / "dumps"
NO_ENGINE = OpenOptions(engine="unix:///nonexistent/engine.sock")


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    return heaps.make(tmp_path / "heap")


def test_a_failure_stops_no_other_dump_and_finished_reports_stay(heap: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = discovery.find([heap])
    index = scheduler.triage(found, out, NO_ENGINE, jobs=1)
    states = {Path(row.dump).relative_to(heap).as_posix(): row.status for row in index.rows}
    assert states == {
        "host0/vmcore": "partial",
        "host1/vmcore": "partial",
        "vmcore.cut": "partial",
        "vmcore.empty": "failed",
    }
    assert {row.exit_code for row in index.rows if row.dump.endswith("/vmcore")} == {20}
    written = json.loads((out / "index.json").read_text())
    jsonschema.Draft202012Validator(triage_table.schema()).validate(written)
    assert {group["title"] for group in written["kernels"]} == {row.release for row in index.rows if row.release}
    page = (out / "index.html").read_text()
    for row in index.rows:
        assert row.dump in page
        assert row.report is None or (f'href="{row.report}"' in page and (out / row.report).exists())
    # The group of a bug links to a report.
    assert index.signatures
    for group in index.signatures:
        assert any(f'<a href="reports/{key}.html">{escape(group.title)}' in page for key in group.keys)
    # As if killed while writing: an incomplete line, and no row of one dump.
    lines = (out / "rows.jsonl").read_text().splitlines()
    (out / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = scheduler.triage(found, out, NO_ENGINE, jobs=1)
    # In the order in which the dumps were found, not in that in which they were finished.
    assert [row.key for row in again.rows] == [row.key for row in index.rows]


def test_logs_and_sosreports(tmp_path: Path) -> None:
    """Logs of kdump and sosreports without a dump are found and reported, and do not count as failed."""
    log = gzip.decompress((DUMPS / "x86_64-6.1.dmesg.gz").read_bytes())
    alone = tmp_path / "127.0.0.1-2026-01-01" / "vmcore-dmesg.txt"
    sos = tmp_path / "sosreport-host"
    crash = sos / "var" / "crash" / "stamp"
    for directory in (alone.parent, crash, sos / "sos_commands" / "kernel"):
        directory.mkdir(parents=True)
    (sos / "sos_commands" / "kernel" / "uname_-a").write_text(
        "Linux host 6.1.0-50-amd64 #1 SMP Debian x86_64 GNU/Linux\n"
    )
    alone.write_bytes(log)
    found = discovery.find([tmp_path])
    assert found == [alone, sos]
    index = scheduler.triage(found, tmp_path / "out", NO_ENGINE, jobs=1)
    assert [row.status for row in index.rows] == ["log", "log"]
    assert index.rows[0].signature
    # A dump in it has priority.
    shutil.copy(DUMPS / "x86_64-6.1-zlib", crash / "vmcore")
    assert discovery.find([sos]) == [crash / "vmcore"]


def test_a_path_that_is_not_text(tmp_path: Path) -> None:
    heap = tmp_path / os.fsdecode(b"caf\xe9")
    heap.mkdir()
    shutil.copy(DUMPS / "x86_64-6.1-zlib", heap / "vmcore")
    index = scheduler.triage(discovery.find([tmp_path]), tmp_path / "out", NO_ENGINE, jobs=1)
    (row,) = index.rows
    assert (row.status, row.exit_code) == ("partial", 20)
    assert row.dump.endswith("caf\\udce9/vmcore")
    assert row.report is not None
    assert row.dump in (tmp_path / "out" / "index.html").read_text()
