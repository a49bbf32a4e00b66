"""Who may use what is kept: a file that only claims to be of a kernel never serves another dump than its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import archives
from debuginfo_bench import Bench
from sandbox import profiles
from sandbox.case import provision
from sandbox.cli import app
from sandbox.debuginfo import add, local
from sandbox.debuginfo.inventory import cached_builds
from sandbox.debuginfo.lookup import peek
from sandbox.debuginfo.store import Store
from sandbox.errors import ConfigurationError, DebuginfoNotFound, VmboxError
from sandbox.host import paths
from sandbox.model import Vmcore

EVIL = archives.vmlinux(dwarf=b"lies about every struct")
GOOD = archives.vmlinux()
DEBIAN = Path(__file__).parents[3] / "images" / "debian-12.toml"


@pytest.fixture
def dumps(bench: Bench) -> tuple[Vmcore, Vmcore]:
    """Two dumps of one build, each in a directory of its own: one of a stranger's, and one of ours."""
    found = []
    for name in ("stranger", "ours"):
        path = bench.directory / name / "vmcore"
        path.parent.mkdir()
        path.write_bytes(b"dump")
        found.append(bench.vmcore(path=path))
    return found[0], found[1]


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setenv("VMBOX_VERIFY", "strict")


def beside(dump: Vmcore, content: bytes, name: str = f"vmlinux-{archives.RELEASE}") -> Path:
    path = dump.path.with_name(name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["vmlinux", "package", "given"])
def test_what_lies_beside_one_dump_is_used_for_it_alone(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], tmp_path: Path, kind: str
) -> None:
    stranger, ours = dumps
    package = archives.deb({archives.PATH: EVIL})
    if kind == "given":
        given = tmp_path / "given"
        given.write_bytes(EVIL)
        first = bench.locate(vmcore=stranger, given=given)
    else:
        name = f"linux-image-{archives.RELEASE}-dbg_1_amd64.deb" if kind == "package" else "vmlinux"
        beside(stranger, package if kind == "package" else EVIL, name)
        first = bench.locate(vmcore=stranger)
    assert first.vmlinux.read_bytes() == EVIL
    assert first.verification == "given"
    assert peek(ours, profiles.read(DEBIAN), bench.cache) is None
    second = bench.locate(vmcore=ours)
    assert second.vmlinux.read_bytes() == GOOD
    assert second.verification == "hash"
    # Another time: each its own, and the stranger's now has what was checked.
    bench.archive.requests.clear()
    assert bench.locate(vmcore=ours) == second
    assert bench.locate(vmcore=stranger).vmlinux == second.vmlinux
    assert bench.archive.requests == []


def test_the_same_dump_and_file_are_made_ready_once(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], make_vmlinux: Callable[..., Path]
) -> None:
    stranger, ours = dumps
    given = make_vmlinux()
    first = bench.locate(vmcore=ours, given=given)
    inode = first.vmlinux.stat().st_ino
    assert bench.locate(vmcore=ours, given=given).vmlinux.stat().st_ino == inode
    assert bench.locate(vmcore=ours).vmlinux == first.vmlinux
    other = bench.locate(vmcore=stranger, given=given)
    assert other.directory != first.directory
    assert other.vmlinux.stat().st_ino == inode, "it lies on the disk once"
    # Another file of that name, and another dump of that name, are others.
    given.write_bytes(archives.vmlinux(dwarf=b"another"))
    assert bench.locate(vmcore=ours, given=given).vmlinux.read_bytes() == given.read_bytes()
    ours.path.write_bytes(b"another dump")
    assert peek(ours, profiles.read(DEBIAN), bench.cache) is None


def test_without_a_build_id_as_well(bench: Bench, dumps: tuple[Vmcore, Vmcore]) -> None:
    stranger, ours = (bench.vmcore(path=dump.path, build_id=None) for dump in dumps)
    beside(stranger, EVIL)
    assert bench.locate(vmcore=stranger).vmlinux.read_bytes() == EVIL
    assert bench.locate(vmcore=ours).vmlinux.read_bytes() == GOOD


@pytest.mark.parametrize("check", ["given", "none", "ranged-plain", ""])
def test_what_an_earlier_version_kept(bench: Bench, dumps: tuple[Vmcore, Vmcore], check: str) -> None:
    """It is not used, not removed where a case has it open, and what is fetched takes its place."""
    directory = bench.cache / "debuginfo" / archives.BUILD_ID
    directory.mkdir(parents=True)
    (directory / "vmlinux").write_bytes(EVIL)
    about = {"build_id": archives.BUILD_ID, "origin": "/stranger/vmlinux", "verified": "given as it is", "check": check}
    (directory / "about.json").write_text(json.dumps(about))
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    found = bench.locate(vmcore=dumps[1], in_use=lambda: frozenset({archives.BUILD_ID}))
    assert found.vmlinux.read_bytes() == GOOD
    assert any("is not used: it was not checked" in notice for notice in bench.heard.notices)
    assert os.stat("vmlinux", dir_fd=opened).st_size == len(EVIL)
    os.close(opened)


def test_strict_refuses_what_is_kept(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], strict: Callable[[], None], make_vmlinux: Callable[..., Path]
) -> None:
    _, ours = dumps
    kept = bench.locate(vmcore=ours, given=make_vmlinux())
    strict()
    bench.urls = ()
    with pytest.raises(DebuginfoNotFound) as caught:
        bench.locate(vmcore=ours)
    assert f"{kept.vmlinux}: not used" in (caught.value.detail or "")
    assert sum("is not used" in notice for notice in bench.heard.notices) == 1
    # What the user names in this very command is the user's decision.
    assert bench.locate(vmcore=ours, given=make_vmlinux()).verification == "given"


def test_strict_refuses_what_lies_beside(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], strict: Callable[[], None]
) -> None:
    _, ours = dumps
    beside(ours, EVIL)
    strict()
    assert bench.locate(vmcore=ours).vmlinux.read_bytes() == GOOD
    assert any("nothing signed it" in notice for notice in bench.heard.notices)


@pytest.mark.parametrize("name", ["vmlinux", f"linux-image-{archives.RELEASE}-dbg_1_amd64.deb"])
def test_a_link_beside_a_dump_is_followed_only_where_the_user_names_it(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], tmp_path: Path, name: str
) -> None:
    _, ours = dumps
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(archives.deb({archives.PATH: EVIL}) if name.endswith(".deb") else EVIL)
    link = ours.path.with_name(name)
    link.symlink_to(elsewhere)
    assert bench.locate(vmcore=ours).vmlinux.read_bytes() == GOOD
    assert f"{link} is not used: it is a link; --debuginfo {link} uses it" in bench.heard.notices
    assert bench.locate(vmcore=ours, given=link).vmlinux.read_bytes() == EVIL


def test_a_fifo_and_a_device_are_no_debuginfo(bench: Bench, dumps: tuple[Vmcore, Vmcore], tmp_path: Path) -> None:
    """Neither keeps its reader waiting, nor gives it data without an end."""
    _, ours = dumps
    directory = tmp_path / "given"
    directory.mkdir()
    os.mkfifo(directory / "vmlinux")
    (directory / f"vmlinux-{archives.RELEASE}").symlink_to("/dev/zero")
    os.mkfifo(directory / "ext4.ko")
    (directory / "xfs.ko").symlink_to("/etc/passwd")
    assert [*local.candidates(directory, archives.RELEASE)] == []
    assert [*local.modules(directory)] == []
    for path in (directory / "vmlinux", Path("/dev/zero")):
        with pytest.raises(DebuginfoNotFound, match="is not a regular file"):
            bench.locate(vmcore=ours, given=path)
    os.mkfifo(ours.path.with_name("vmlinux"))
    assert bench.locate(vmcore=ours).vmlinux.read_bytes() == GOOD


def test_added_is_for_every_dump(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], strict: Callable[[], None], make_vmlinux: Callable[..., Path]
) -> None:
    (entry,) = add(make_vmlinux(), cache=bench.cache)
    assert entry.directory.name == archives.BUILD_ID
    assert entry.about.verified.startswith("added by the user for every dump")
    strict()
    for dump in dumps:
        assert bench.locate(vmcore=dump).vmlinux == entry.vmlinux
    assert bench.archive.requests == []


@pytest.mark.parametrize("theirs", ["entry", "about.json", "vmlinux", "entries", "downloads", "part"])
def test_a_cache_that_every_user_can_write_to(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    """What a stranger put there, and says was checked, is used for nobody; a group's members are trusted."""
    _, ours = dumps
    bench.cache.mkdir(exist_ok=True)
    bench.cache.chmod(0o1777)
    first = bench.locate(vmcore=ours)
    store = Store(bench.cache)
    entries, part = first.directory.parent, store.part("http://archive.example/x")
    part.write_bytes(b"theirs")
    places = {"entry": first.directory, "entries": entries, "downloads": part.parent, "part": part}
    stranger, real = places.get(theirs, first.directory / theirs), Path.lstat

    def owned(path: Path) -> os.stat_result:
        found = real(path)
        return os.stat_result((*found[:4], 4711, *found[5:])) if path == stranger else found

    monkeypatch.setattr(Path, "lstat", owned)
    download = theirs in {"downloads", "part"}
    ask = partial(store.part, "http://archive.example/x") if download else partial(bench.locate, vmcore=ours)
    with pytest.raises(ConfigurationError, match=f"{re.escape(str(stranger))} belongs to user 4711"):
        ask()
    assert len([*store.entries()]) == (1 if download else 0)
    bench.cache.chmod(0o2770)
    assert bench.locate(vmcore=ours) == first


def test_adding_takes_the_place_of_what_was_not_checked(bench: Bench, make_vmlinux: Callable[..., Path]) -> None:
    (entry,) = add(make_vmlinux(), cache=bench.cache)
    about = json.loads((entry.directory / "about.json").read_text())
    (entry.directory / "about.json").write_text(json.dumps(about | {"check": "given"}))
    (again,) = add(make_vmlinux(), cache=bench.cache)
    assert again.about.check == "added"


def test_another_user_s_unchecked_one_is_not_taken_for_ours(
    bench: Bench, dumps: tuple[Vmcore, Vmcore], make_vmlinux: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache that users share: what was fetched is kept for this dump then."""
    (entry,) = add(make_vmlinux(), cache=bench.cache)
    about = json.loads((entry.directory / "about.json").read_text())
    (entry.directory / "about.json").write_text(json.dumps(about | {"check": "given"}))
    (entry.directory / "vmlinux").write_bytes(EVIL)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    found = bench.locate(vmcore=dumps[1])
    assert found.vmlinux.read_bytes() == GOOD
    assert found.directory != entry.directory


def test_list_and_add_say_whom_it_is_for(
    bench: Bench,
    dumps: tuple[Vmcore, Vmcore],
    make_vmlinux: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(bench.cache))
    monkeypatch.setattr(paths, "runtime_dir", lambda: tmp_path)
    monkeypatch.setattr(provision, "debuginfo_helpers", lambda *_: contextlib.nullcontext((None, None)))
    monkeypatch.setenv("COLUMNS", "400")
    given = make_vmlinux()
    bench.locate(vmcore=dumps[0], given=given)
    added = CliRunner().invoke(app, ["debuginfo", "add", str(make_vmlinux("other", build_id="aa" * 20))])
    assert "every dump of this build" in added.stdout
    assert "You vouch for it" in CliRunner().invoke(app, ["debuginfo", "add", "--help"]).stdout
    listed = CliRunner().invoke(app, ["debuginfo", "list"]).stdout
    assert str(dumps[0].path) in listed
    assert "every dump" in listed
    kept = {one.check: one.dump for one in cached_builds(bench.cache)}
    assert kept == {"given": str(dumps[0].path), "added": ""}


def test_a_given_package_without_vmlinux_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    package = tmp_path / "x.deb"
    package.write_bytes(archives.deb({"./x": b"x"}))
    with pytest.raises(VmboxError):
        bench.locate(given=package)
    assert bench.left_over() == []
    shutil.rmtree(bench.cache)
