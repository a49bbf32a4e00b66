"""Triage without an engine: what the dumps say by themselves, in real processes; and who gets which dump next."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import replace
from html import escape
from pathlib import Path

import jsonschema
import pytest
import schema_of

from sandbox.errors import DumpNotFound
from sandbox.opening import Wishes
from sandbox.triage import finding, fleet, index
from sandbox.triage.entry import Entry, Job, Made, entry
from sandbox.triage.work import failed

DUMPS = Path(__file__).parents[2] / "fixtures" / "dumps"
NO_ENGINE = Wishes(engine="unix:///nonexistent/engine.sock")


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    """Genuine dumps, shrunk; one of them cut off, and files that are no dumps."""
    heap = tmp_path / "heap"
    for number, name in enumerate(("x86_64-6.1-zlib", "x86_64-6.12-zstd")):
        below = heap / f"host{number}"
        below.mkdir(parents=True)
        shutil.copy(DUMPS / name, below / "vmcore")
        (below / "vmcore-dmesg.txt").write_text("[ 0.0] Linux version\n")
    (heap / "vmcore.empty").touch()
    (heap / "vmcore.cut").write_bytes((DUMPS / "x86_64-6.1-zlib").read_bytes()[:3000])
    (heap / "notes").write_text("nothing")
    return heap


def test_find(heap: Path) -> None:
    found = finding.find([heap, f"{heap}/host*/vmcore", heap / "host0" / "vmcore"])
    assert [str(one.relative_to(heap)) for one in found] == [
        "vmcore.cut",
        "vmcore.empty",
        "host0/vmcore",
        "host1/vmcore",
    ]
    with pytest.raises(DumpNotFound):
        finding.find([heap / "nosuch*"])


def test_nothing_stops_the_rest_and_what_is_done_stays_done(heap: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = finding.find([heap])
    table = fleet.triage(found, out, NO_ENGINE, jobs=1)
    states = {Path(row.dump).relative_to(heap).as_posix(): row.status for row in table.rows}
    assert states == {
        "host0/vmcore": "partial",
        "host1/vmcore": "partial",
        "vmcore.cut": "partial",
        "vmcore.empty": "failed",
    }
    assert {row.exit_code for row in table.rows if row.dump.endswith("/vmcore")} == {20}
    written = json.loads((out / "index.json").read_text())
    jsonschema.Draft202012Validator(index.schema()).validate(written)
    assert index.schema() == schema_of.schema(index.Index), "run tests/unit/triage/schema_of.py"
    assert {group["title"] for group in written["kernels"]} == {row.release for row in table.rows if row.release}
    page = (out / "index.html").read_text()
    for row in table.rows:
        assert row.dump in page
        assert row.report is None or (f'href="{row.report}"' in page and (out / row.report).exists())
    # What looks like the same bug leads to a report of it.
    assert table.signatures
    for group in table.signatures:
        assert any(f'<a href="reports/{key}.html">{escape(group.title)}' in page for key in group.keys)
    # Killed while it wrote: a torn line, and one dump's row not yet there.
    lines = (out / "rows.jsonl").read_text().splitlines()
    (out / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = fleet.triage(found, out, NO_ENGINE, jobs=1)
    # In the same order: as the dumps were found, whichever was done first.
    assert [row.key for row in again.rows] == [row.key for row in table.rows]


class _Recording:
    """A pool of two places that notes who was given what, and is done at once. Stands for a cluster."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str | None]] = []
        self.without: list[str] = []
        self.lost: set[str] = set()
        self.held: set[tuple[str, str]] = set()

    def places(self) -> Mapping[str, int]:
        return {place: 2 for place in ("a", "b") if place not in self.lost}

    def submit(self, job: Job, place: str) -> Future[Made]:
        self.given.append((place, job.entry.kernel))
        row = failed(job.entry, "", 0)
        if job.entry.kernel == "unknown":
            row = replace(row, status="partial", problem="no debuginfo", exit_code=40)
            if job.without_crash:
                self.without.append(job.without_crash)
        else:
            row = replace(row, status="ok", problem=None)
        future: Future[Made] = Future()
        future.set_result(Made(row=row))
        return future

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        return {(place, kernel) for place, kernel in self.held if kernel in samples}

    def renew(self) -> None: ...

    def close(self, *, stop: bool) -> None: ...


def _some(kernel: str, count: int) -> list[Entry]:
    return [
        Entry(dump=f"/{kernel}/{number}", key=f"{kernel}{number}", stamp="1", kernel=kernel) for number in range(count)
    ]


def _driven(pool: _Recording, entries: list[Entry], out: Path) -> fleet._Fleet:
    (out / "reports").mkdir(parents=True)
    made = fleet._Fleet(output=out, pool=pool, wishes=Wishes(), timeout=1, reporter=fleet.QUIET)
    made.run(entries, again=True)
    return made


def test_a_kernel_goes_where_it_is(tmp_path: Path) -> None:
    pool = _Recording()
    made = _driven(pool, [*_some("one", 5), *_some("two", 5)], tmp_path / "out")
    assert len(made.rows) == len(pool.given) == 10
    # One dump of each kernel goes ahead, to places of their own; the others follow it.
    assert pool.given[:2] != [("a", "one"), ("a", "one")]
    first = {kernel: place for place, kernel in reversed(pool.given)}
    elsewhere = [kernel for place, kernel in pool.given if place != first[kernel]]
    assert len(elsewhere) <= 5


def test_a_kernel_goes_where_an_earlier_day_left_it(tmp_path: Path) -> None:
    pool = _Recording()
    pool.held = {("a", "one"), ("b", "two")}
    _driven(pool, [*_some("one", 2), *_some("two", 2)], tmp_path / "out")
    assert set(pool.given) == pool.held


def test_a_torn_line_of_the_journal_takes_no_other_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _driven(_Recording(), _some("one", 3), out)
    journal = out / "rows.jsonl"
    journal.write_text(journal.read_text()[:-40])
    for expected in (1, 0):
        pool = _Recording()
        made = fleet._Fleet(output=out, pool=pool, wishes=Wishes(), timeout=1, reporter=fleet.QUIET)
        made.run(_some("one", 3), again=False)
        assert len(pool.given) == expected
        assert len(made.rows) == 3
    assert len(journal.read_text().splitlines()) == 4
    assert "" not in journal.read_text().splitlines()


def test_what_a_kernel_lacks_is_looked_for_once(tmp_path: Path) -> None:
    pool = _Recording()
    made = _driven(pool, _some("unknown", 6), tmp_path / "out")
    assert len(made.rows) == 6
    assert len(pool.without) >= 4
    assert set(pool.without) == {"no debuginfo"}


def test_logs_and_sosreports(tmp_path: Path) -> None:
    """What kdump and sos leave where there is no dump: found, reported as far as it goes, and nothing that failed."""
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
    found = finding.find([tmp_path])
    assert found == [alone, sos]
    table = fleet.triage(found, tmp_path / "out", NO_ENGINE, jobs=1)
    assert [row.status for row in table.rows] == ["log", "log"]
    assert table.rows[0].signature
    # A dump in it is what counts.
    shutil.copy(DUMPS / "x86_64-6.1-zlib", crash / "vmcore")
    assert finding.find([sos]) == [crash / "vmcore"]


class _Breaking:
    """Stands for processes, of which one dump kills whichever reads it; after that all fail until they are renewed."""

    broken = False

    def map(self, function: Callable[[Path], Entry], paths: Sequence[Path]) -> Iterator[Entry]:
        for path in paths:
            self.broken |= path.name == "vmcore.killer"
            if self.broken:
                raise BrokenExecutor
            yield function(path)

    def renew(self) -> None:
        self.broken = False


def test_a_dump_that_kills_its_reader_is_told_of(tmp_path: Path) -> None:
    paths = [tmp_path / f"vmcore.{number}" for number in range(40)]
    paths[20] = tmp_path / "vmcore.killer"
    for path in paths:
        shutil.copy(DUMPS / "x86_64-6.1-zlib", path)
    found = fleet._identified(paths, _Breaking(), fleet.QUIET)
    assert [one.dump for one in found] == [str(path) for path in paths]
    assert [path.name for path, one in zip(paths, found, strict=True) if one.problem] == ["vmcore.killer"]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    heap = tmp_path / os.fsdecode(b"caf\xe9")
    heap.mkdir()
    shutil.copy(DUMPS / "x86_64-6.1-zlib", heap / "vmcore")
    table = fleet.triage(finding.find([tmp_path]), tmp_path / "out", NO_ENGINE, jobs=1)
    (row,) = table.rows
    assert (row.status, row.exit_code) == ("partial", 20)
    assert row.dump.endswith("caf\\udce9/vmcore")
    assert row.report is not None
    assert row.dump in (tmp_path / "out" / "index.html").read_text()


def test_entry_of_no_dump(tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_text("no dump at all")
    found = entry(tmp_path / "vmcore")
    assert found.exit_code == 12
    assert found.problem
