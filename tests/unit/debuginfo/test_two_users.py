"""Users who share a cache, with processes of their own: uids that no account has, which only root can take."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import archives
from debuginfo_bench import Bench
from sandbox.dump import identify, unpack
from sandbox.dump.unpacking import unpacked_path
from sandbox.errors import ConfigurationError, VmboxError
from sandbox.host import paths

ALICE, BOB, MALLORY, GROUP = 47111, 47112, 47113, 47110
EVIL = archives.vmlinux(dwarf=b"lies about every struct")
GOOD = archives.vmlinux()
DUMP = (Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib").read_bytes()

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")


def as_user(uid: int, work: Callable[[], Any], groups: Sequence[int] = ()) -> Any:
    """What `work` returns, or the error that it raises, in a process of that user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
            try:
                answer = work()
            except (VmboxError, OSError) as error:
                answer = error
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
            status = 0
        except BaseException:  # noqa: BLE001 - the parent fails
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(said)


@pytest.fixture
def place(bench: Bench) -> Iterator[Path]:
    """A directory that every user can pass, with a home for each; the bench's cache is in it."""
    # Imported now: an interpreter below /root is one that other users cannot read.
    bench.dump.write_bytes(b"dump")
    bench.locate()
    packed = bench.directory / "vmcore.gz"
    packed.write_bytes(gzip.compress(DUMP))
    unpack(identify(packed), bench.directory / "dumps")
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))
    top.chmod(0o755)
    for uid in (ALICE, BOB, MALLORY):
        home = top / str(uid)
        home.mkdir(mode=0o700)
        os.chown(home, uid, uid)
    bench.directory = top
    bench.dump.write_bytes(b"dump")
    yield top
    shutil.rmtree(top)


def share(place: Path, mode: int, group: int = 0) -> Path:
    cache = place / "cache"
    cache.mkdir()
    os.chown(cache, 0, group)
    cache.chmod(mode)
    return cache


def at_home(place: Path, uid: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """`work` with that user's environment, whose setting names the cache that is shared."""

    def done() -> Any:
        for name in list(os.environ):
            if name.startswith(("XDG_", "VMBOX_")) and name != "VMBOX_VERIFY":
                del os.environ[name]
        home = place / str(uid)
        os.environ |= {"HOME": str(home), "VMBOX_CACHE_DIR": str(place / "cache"), "VMBOX_CONFIG_DIR": str(home)}
        return work()

    return done


def vmlinux(bench: Bench) -> bytes:
    return bench.locate().vmlinux.read_bytes()


def test_what_another_user_put_into_an_open_cache_is_not_used(bench: Bench, place: Path) -> None:
    share(place, 0o1777)

    def plant() -> bytes:
        found = bench.locate()
        assert found.verification == "hash"
        found.vmlinux.chmod(0o644)
        found.vmlinux.write_bytes(EVIL)
        return found.vmlinux.read_bytes()

    assert as_user(MALLORY, at_home(place, MALLORY, plant)) == EVIL
    error = as_user(ALICE, at_home(place, ALICE, lambda: vmlinux(bench)))
    assert isinstance(error, ConfigurationError), error
    assert str(place / "cache") in error.message


@pytest.mark.slow
def test_dumps_are_unpacked_where_no_other_user_can_reach_them(place: Path) -> None:
    cache = share(place, 0o1777)
    packed = place / str(ALICE) / "vmcore.gz"
    packed.write_bytes(gzip.compress(DUMP))
    packed.chmod(0o600)
    os.chown(packed, ALICE, ALICE)

    place_of_the_copy = unpacked_path(packed, cache / "dumps").parent

    def prepare() -> None:
        """The places that vmbox would take, made in advance; the names can be known."""
        for directory in (cache / "dumps", place_of_the_copy):
            directory.mkdir()
            directory.chmod(0o777)

    assert as_user(MALLORY, prepare) is None
    into = as_user(ALICE, at_home(place, ALICE, lambda: unpack(identify(packed), cache / "dumps")))
    assert isinstance(into, ConfigurationError)
    assert "belongs to user" in into.message
    copy = as_user(ALICE, at_home(place, ALICE, lambda: unpack(identify(packed), paths.unpacked_dir())))
    assert isinstance(copy, Path), copy
    assert place / str(ALICE) in copy.parents
    assert copy.read_bytes() == DUMP
    assert [stat.S_IMODE(one.stat().st_mode) for one in (copy.parent.parent, copy.parent, copy)] == [
        0o700,
        0o700,
        0o600,
    ]
    assert [one for one in cache.rglob("*") if one.is_file()] == []
    assert isinstance(as_user(MALLORY, copy.read_bytes), PermissionError)


@pytest.mark.slow
def test_a_group_shares_what_was_fetched_once(bench: Bench, place: Path) -> None:
    """The set-up of the how-to. Each of the two could have been the first; the second asks no archive."""
    share(place, 0o2770, GROUP)
    assert as_user(ALICE, at_home(place, ALICE, lambda: vmlinux(bench)), [GROUP]) == GOOD
    bench.archive.requests.clear()
    assert as_user(BOB, at_home(place, BOB, lambda: vmlinux(bench)), [GROUP]) == GOOD
    assert bench.archive.requests == []
    # Another kernel: that the first user made directories and locks does not keep the second from making some.
    other = archives.deb({archives.PATH: archives.vmlinux(build_id="cd" * 20)})
    bench.put(other)
    newer = bench.vmcore(build_id="cd" * 20)
    found = as_user(BOB, at_home(place, BOB, lambda: bench.locate(vmcore=newer).directory), [GROUP])
    assert isinstance(found, Path), found
    assert found.stat().st_uid == BOB
    outside = as_user(MALLORY, at_home(place, MALLORY, lambda: vmlinux(bench)))
    assert isinstance(outside, ConfigurationError | PermissionError), outside
    unpacked = as_user(ALICE, at_home(place, ALICE, paths.unpacked_dir), [GROUP])
    assert place / str(ALICE) in unpacked.parents
