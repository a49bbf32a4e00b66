"""What the cache keeps, what it lets go, and who may use it."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import archives
from debuginfo_bench import Bench
from sandbox.cli import app
from sandbox.debuginfo import add
from sandbox.debuginfo.inventory import cached_builds, remove
from sandbox.debuginfo.store import Store
from sandbox.errors import DebuginfoNotFound
from sandbox.host import locks, paths


@pytest.fixture
def builds(bench: Bench, make_vmlinux) -> list[str]:
    """Three builds, the first one used longest ago."""
    names = []
    for age, number in ((3000, 1), (2000, 2), (1000, 3)):
        build_id = f"{number:02}" * 20
        banner = archives.BANNER.replace("6.1.0", f"6.{number}.0")
        (entry,) = add(make_vmlinux(f"vmlinux-{number}", build_id=build_id, banner=banner), cache=bench.cache)
        os.utime(entry.directory, (time.time() - age,) * 2)
        names.append(build_id)
    return names


def test_listed_by_last_use(bench: Bench, builds: list[str]) -> None:
    found = cached_builds(bench.cache)
    assert [one.build for one in found] == builds[::-1]
    assert [one.release for one in found] == [f"6.{number}.0-50-cloud-amd64" for number in (3, 2, 1)]
    assert all(one.size > 0 and one.modules == 0 for one in found)


def test_the_least_recently_used_goes_first(bench: Bench, builds: list[str]) -> None:
    one = cached_builds(bench.cache)[0].size
    gone = remove(bench.cache, (), limit=2 * one, in_use=frozenset())
    assert [it.build for it in gone] == builds[:1]
    # The oldest is open now: the next one goes.
    gone = remove(bench.cache, (), limit=one, in_use=frozenset({builds[1]}))
    assert [it.build for it in gone] == builds[2:]
    assert [it.build for it in cached_builds(bench.cache)] == [builds[1]]


def test_entries_of_other_users_stay_in_a_shared_cache(
    bench: Bench, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, _to: Path) -> Path:
        """As rename answers in a directory with the sticky bit for a file of somebody else."""
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "rename", refused)
    assert remove(bench.cache, (), limit=0, in_use=frozenset()) == []
    assert {path.name for path in (bench.cache / "debuginfo").iterdir()} == set(builds)


def test_a_fetch_makes_room(bench: Bench, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_DEBUGINFO_LIMIT", str(cached_builds(bench.cache)[0].size * 2))
    found = bench.locate(in_use=lambda: frozenset({builds[0]}))
    assert {one.build for one in cached_builds(bench.cache)} == {archives.BUILD_ID, builds[0]}
    assert found.vmlinux.exists()
    assert any("cache is full" in notice for notice in bench.heard.notices)


def test_certain_builds(bench: Bench, builds: list[str]) -> None:
    with pytest.raises(DebuginfoNotFound, match="is open"):
        remove(bench.cache, ["0101"], limit=0, in_use=frozenset(builds))
    with pytest.raises(DebuginfoNotFound, match="no debuginfo of build ff"):
        remove(bench.cache, ["ff"], limit=0, in_use=frozenset())
    assert [one.build for one in remove(bench.cache, ["0101"], limit=0, in_use=frozenset())] == builds[:1]
    assert len(cached_builds(bench.cache)) == 2


@pytest.mark.parametrize("days", [-2, 400], ids=["past", "clock-set-back"])
def test_leftovers_of_dead_processes_are_removed(bench: Bench, builds: list[str], days: int) -> None:
    old, young = bench.cache / "debuginfo" / ".new-x-1", bench.cache / "debuginfo" / ".new-x-2"
    for directory in (old, young):
        directory.mkdir()
        (directory / "vmlinux").write_bytes(b"half")
    for path in (old / "vmlinux", old):
        os.utime(path, (time.time() + days * 86400,) * 2)
    Store(bench.cache).prune(1 << 40)
    assert not old.exists()
    assert young.exists()


def test_a_cache_that_users_share(tmp_path: Path, make_vmlinux) -> None:
    cache = tmp_path / "shared"
    cache.mkdir()
    cache.chmod(0o1777)
    before = os.umask(0o077)
    try:
        (entry,) = add(make_vmlinux(), cache=cache)
        store = Store(cache)
        store.part("x")
        with store.locked("key", bench_reporter()):
            pass
    finally:
        os.umask(before)
    for name in ("debuginfo", "downloads", "locks"):
        assert stat.S_IMODE((cache / name).stat().st_mode) == 0o1777
    assert stat.S_IMODE((cache / "locks" / "key").stat().st_mode) == 0o666
    assert stat.S_IMODE(entry.directory.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in entry.directory.iterdir()} == {0o644}


def test_a_cache_of_one_s_own_stays_private(tmp_path: Path) -> None:
    with locks.locked(tmp_path / "own" / "lock"):
        assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "own" / "lock").stat().st_mode) == 0o600


def bench_reporter():
    from debuginfo_bench import Heard

    return Heard()


def test_commands(bench: Bench, builds: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(bench.cache))
    monkeypatch.setattr(paths, "runtime_dir", lambda: tmp_path)
    run = CliRunner().invoke
    listed = json.loads(run(app, ["debuginfo", "list", "--json"]).stdout)
    assert [one["build"] for one in listed] == builds[::-1]
    assert "6.3.0-50-cloud-amd64" in run(app, ["debuginfo", "list"]).stdout
    assert run(app, ["debuginfo", "prune", "--limit", "a lot"]).exit_code == 2
    assert run(app, ["debuginfo", "prune", "--limit", "1GB", "0101"]).exit_code == 2
    gone = json.loads(run(app, ["debuginfo", "prune", "0101", "--json"]).stdout)
    assert [one["build"] for one in gone] == builds[:1]
    assert run(app, ["debuginfo", "prune", "--limit", "0"]).exit_code == 0
    assert json.loads(run(app, ["debuginfo", "list", "--json"]).stdout) == []


def test_add_takes_all_of_a_directory(bench: Bench, make_vmlinux, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_vmlinux("tree/a/vmlinux", build_id="aa" * 20)
    (tree / "linux-image-x-dbg_1_amd64.deb").write_bytes(bench.package)
    (tree / "b").mkdir()
    (tree / "b" / "vmlinux").write_bytes(b"nothing of the kind")
    added = add(tree, cache=bench.cache)
    assert {entry.directory.name for entry in added} == {"aa" * 20, archives.BUILD_ID}
    # A second time nothing changes.
    assert {entry.directory for entry in add(tree, cache=bench.cache)} == {entry.directory for entry in added}
    with pytest.raises(DebuginfoNotFound, match="no vmlinux"):
        add(tree / "b", cache=bench.cache)
    # What was added is found for a dump, with nobody asked.
    assert bench.locate(vmcore=bench.vmcore()).proof == f"build-id {archives.BUILD_ID}"
    assert bench.archive.requests == []
