"""Discovery of dumps, and the order of jobs. With real processes: tests/integration/test_triage_processes.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import replace
from pathlib import Path

import pytest

import heaps
import schema_of
from sandbox.case.options import OpenOptions
from sandbox.errors import DumpNotFound, UsageError
from sandbox.triage import discovery, scheduler, table
from sandbox.triage.model import DumpEntry, JobResult, ReportJob, RowStatus, entry
from sandbox.triage.worker import failed

DUMPS = Path(__file__).parents[2] / "fixtures" / "dumps"


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    return heaps.make(tmp_path / "heap")


def test_find(heap: Path) -> None:
    found = discovery.find([heap, f"{heap}/host*/vmcore", heap / "host0" / "vmcore"])
    assert [str(one.relative_to(heap)) for one in found] == [
        "vmcore.cut",
        "vmcore.empty",
        "host0/vmcore",
        "host1/vmcore",
    ]
    with pytest.raises(DumpNotFound):
        discovery.find([heap / "nosuch*"])


def test_the_schema_matches_the_dataclasses() -> None:
    assert table.schema() == schema_of.schema(table.Index), "run tests/schema_of.py"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path / "state"))


class _Recording:
    """A fake cluster: a pool of two places that records the jobs of each, and finishes them at once."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str | None]] = []
        self.without: list[str] = []
        self.options: list[OpenOptions] = []
        self.lost: set[str] = set()
        self.held: set[tuple[str, str]] = set()

    def places(self) -> Mapping[str, int]:
        return {place: 2 for place in ("a", "b") if place not in self.lost}

    def submit(self, job: ReportJob, place: str) -> Future[JobResult]:
        self.given.append((place, job.entry.kernel))
        self.options.append(job.options)
        row = failed(job.entry, "", 0)
        if job.entry.kernel == "unknown":
            row = replace(row, status=RowStatus.PARTIAL, problem="no debuginfo", exit_code=40)
            if job.without_crash:
                self.without.append(job.without_crash)
        else:
            asked = job.options.no_debuginfo_reason if job.options.no_debuginfo else None
            none = "there is none" if job.entry.kernel == "nobody's" else None
            row = replace(row, status=RowStatus.OK, problem=None, no_debuginfo=asked or none)
        future: Future[JobResult] = Future()
        future.set_result(JobResult(row=row))
        return future

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        return {(place, kernel) for place, kernel in self.held if kernel in samples}

    def renew(self) -> None: ...

    def close(self, *, stop: bool) -> None: ...


def _some(kernel: str, count: int) -> list[DumpEntry]:
    return [
        DumpEntry(dump=f"/{kernel}/{number}", key=f"{kernel}{number}", stamp="1", kernel=kernel)
        for number in range(count)
    ]


def _driven(
    pool: _Recording, entries: list[DumpEntry], out: Path, *, options: OpenOptions | None = None, again: bool = True
) -> scheduler._Scheduler:
    (out / "reports").mkdir(parents=True, exist_ok=True)
    made = scheduler._Scheduler(
        output=out, pool=pool, options=options or OpenOptions(), timeout=1, reporter=scheduler.QUIET
    )
    made.run(entries, again=again)
    return made


def test_a_dump_goes_to_a_place_that_has_its_kernel(tmp_path: Path) -> None:
    pool = _Recording()
    made = _driven(pool, [*_some("one", 5), *_some("two", 5)], tmp_path / "out")
    assert len(made.rows) == len(pool.given) == 10
    # The first dumps of two kernels go to different places; the others follow them.
    assert pool.given[:2] != [("a", "one"), ("a", "one")]
    first = {kernel: place for place, kernel in reversed(pool.given)}
    elsewhere = [kernel for place, kernel in pool.given if place != first[kernel]]
    assert len(elsewhere) <= 5


def test_a_dump_goes_to_a_place_that_got_its_kernel_earlier(tmp_path: Path) -> None:
    pool = _Recording()
    pool.held = {("a", "one"), ("b", "two")}
    _driven(pool, [*_some("one", 2), *_some("two", 2)], tmp_path / "out")
    assert set(pool.given) == pool.held


def test_an_incomplete_line_of_the_journal_spoils_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _driven(_Recording(), _some("one", 3), out)
    journal = out / "rows.jsonl"
    journal.write_text(journal.read_text()[:-40])
    for expected in (1, 0):
        pool = _Recording()
        made = scheduler._Scheduler(output=out, pool=pool, options=OpenOptions(), timeout=1, reporter=scheduler.QUIET)
        made.run(_some("one", 3), again=False)
        assert len(pool.given) == expected
        assert len(made.rows) == 3
    assert len(journal.read_text().splitlines()) == 4
    assert "" not in journal.read_text().splitlines()


def test_a_row_that_a_stranger_wrote_is_no_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _driven(_Recording(), _some("one", 3), out)
    journal = out / "rows.jsonl"
    first, second, third = journal.read_text().splitlines()
    forged = second.replace('"seal": "', '"seal": "0')
    said = third.replace('"status": "', '"title": "nothing happened", "status": "', 1)
    changed = first.replace('"dump": "', '"dump": "x', 1)
    assert len({first, changed, second, forged, third, said}) == 6
    journal.write_text("\n".join([changed, forged, said, "x" * (3 << 20), ""]))
    pool = _Recording()
    _driven(pool, _some("one", 3), out, again=False)
    assert len(pool.given) == 3
    # What this user's own wrote is kept, also by another process.
    pool = _Recording()
    _driven(pool, _some("one", 3), out, again=False)
    assert pool.given == []


@pytest.mark.parametrize("name", ["rows.jsonl", "index.html", "index.json", ".lock", "reports"])
def test_a_stranger_s_link_in_the_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    """It may be in a directory of dumps: what is written there goes to no file of the user's choice of a stranger."""
    own = tmp_path / "own"
    if name == "reports":
        own.mkdir()
    else:
        own.write_text("mine")
    out = tmp_path / "triage"
    out.mkdir()
    (out / name).symlink_to(own)
    with pytest.raises(UsageError, match="link"):
        scheduler.triage([DUMPS / "x86_64-6.1-zlib"], out, QUICK, jobs=1)
    assert not list(own.iterdir()) if own.is_dir() else own.read_text() == "mine"


def test_a_second_name_of_a_dump_is_not_written_to(tmp_path: Path) -> None:
    for name in ("rows", "index"):
        (tmp_path / name).write_text("evidence")
    out = tmp_path / "out"
    out.mkdir()
    (out / "rows.jsonl").hardlink_to(tmp_path / "rows")
    with pytest.raises(UsageError, match="link"):
        scheduler.triage([DUMPS / "x86_64-6.1-zlib"], out, QUICK, jobs=1)
    (out / "rows.jsonl").unlink()
    (out / "index.html").hardlink_to(tmp_path / "index")
    _driven(_Recording(), _some("one", 1), out).publish(final=True)
    assert "<html" in (out / "index.html").read_text()
    assert [(tmp_path / name).read_text() for name in ("rows", "index")] == ["evidence"] * 2


@pytest.mark.parametrize(("mode", "made"), [(0o600, 0o600), (0o644, 0o644)])
def test_others_read_what_is_made_only_where_they_read_the_dumps(tmp_path: Path, mode: int, made: int) -> None:
    for number, one in enumerate((0o644, mode)):
        (tmp_path / str(number)).touch()
        (tmp_path / str(number)).chmod(one)
    entries = [replace(one, dump=str(tmp_path / str(at))) for at, one in enumerate(_some("one", 2))]
    before = os.umask(0o022)
    try:
        _driven(_Recording(), entries, tmp_path / "out").publish(final=True)
    finally:
        os.umask(before)
    files = [one for one in (tmp_path / "out").iterdir() if one.is_file()]
    assert {one.name: one.stat().st_mode & 0o777 for one in files} == dict.fromkeys(
        ("rows.jsonl", "index.html", "index.json"), made
    )


def test_missing_debuginfo_of_a_kernel_is_searched_once(tmp_path: Path) -> None:
    pool = _Recording()
    made = _driven(pool, _some("unknown", 6), tmp_path / "out")
    assert len(made.rows) == 6
    assert len(pool.without) >= 4
    assert set(pool.without) == {"no debuginfo"}


QUICK = OpenOptions(no_debuginfo=True, no_debuginfo_reason="--quick")


def test_a_quick_look_gets_nothing_for_a_kernel(tmp_path: Path) -> None:
    pool = _Recording()
    pool.held = {("a", "one")}
    _driven(pool, _some("one", 4), tmp_path / "out", options=QUICK)
    # No dump waits for another of its kernel, or for a place that has debuginfo.
    assert [place for place, _ in pool.given] == ["a", "a", "b", "b"]


def test_a_quick_look_is_replaced_by_one_with_debuginfo(tmp_path: Path) -> None:
    for options, expected, why in ((QUICK, 3, "--quick"), (QUICK, 0, "--quick"), (None, 3, None), (QUICK, 0, None)):
        pool = _Recording()
        made = _driven(pool, _some("one", 3), tmp_path / "out", options=options, again=False)
        assert len(pool.given) == expected
        assert {row.no_debuginfo for row in made.rows.values()} == {why}
        assert made.publish(final=True).no_debuginfo == (3 if why else 0)


def test_debuginfo_that_nobody_has_is_searched_once(tmp_path: Path) -> None:
    pool = _Recording()
    made = _driven(pool, _some("nobody's", 6), tmp_path / "out")
    searched = [one for one in pool.options if not one.no_debuginfo]
    assert 1 <= len(searched) <= 2
    assert {row.no_debuginfo for row in made.rows.values()} == {"there is none"}


class _Breaking:
    """A fake pool of processes. One dump kills the process that reads it; then all fail until the pool is renewed."""

    broken = False

    def map(self, function: Callable[[Path], DumpEntry], paths: Sequence[Path]) -> Iterator[DumpEntry]:
        for path in paths:
            self.broken |= path.name == "vmcore.killer"
            if self.broken:
                raise BrokenExecutor
            yield function(path)

    def renew(self) -> None:
        self.broken = False


def test_a_dump_that_kills_its_reader_is_reported(tmp_path: Path) -> None:
    paths = [tmp_path / f"vmcore.{number}" for number in range(40)]
    paths[20] = tmp_path / "vmcore.killer"
    for path in paths:
        shutil.copy(DUMPS / "x86_64-6.1-zlib", path)
    found = scheduler._identified(paths, _Breaking(), scheduler.QUIET)
    assert [one.dump for one in found] == [str(path) for path in paths]
    assert [path.name for path, one in zip(paths, found, strict=True) if one.problem] == ["vmcore.killer"]


def test_entry_of_a_file_that_is_not_a_dump(tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_text("no dump at all")
    found = entry(tmp_path / "vmcore")
    assert found.exit_code == 12
    assert found.problem
