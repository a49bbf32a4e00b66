"""What is left behind is told from what is in use by the locks that living processes hold."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.case import keeper, store
from sandbox.commands import leaks
from sandbox.commands.leaks import Leak
from sandbox.engine import Container, ContainerSpec, labels
from sandbox.engine.orphans import orphans, with_owner_label
from sandbox.errors import EngineNotFound, NoSpace
from sandbox.host.locks import is_locked, locked
from sandbox.host.tempdirs import scratch_directory
from sandbox.render import exit_on_error


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of the test's own, and no engine."""

    def connect(name: str) -> None:
        raise EngineNotFound(name)

    monkeypatch.setattr(leaks, "connect", connect)
    for kind in ("cache", "runtime", "state"):
        monkeypatch.setenv(f"VMBOX_{kind.upper()}_DIR", str(tmp_path / kind))
    (tmp_path / "cache").mkdir()
    return tmp_path


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def names() -> set[str]:
    return {Path(leak.name).name for leak in leaks.find()}


def keepers() -> list[Leak]:
    return [leak for leak in leaks.find() if leak.kind == "process"]


def test_runtime_directory(places: Path, gone: int) -> None:
    store.make_directory(store.directory() / "half-docker")
    sockets = [places / "runtime" / f"podman-{gone}-0.sock", places / "runtime" / f"containers.conf.{gone}"]
    for path in (*sockets, places / "runtime" / "containers.conf"):
        path.touch()
    assert names() == {"half-docker", *(path.name for path in sockets)}
    with store.lock("half-docker"):  # a process is opening it
        assert "half-docker" not in names()
    for leak in leaks.find():
        leak.remove()
    assert names() == set()


def test_an_open_case_of_another_version_is_none(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its description cannot be read, and its session script runs. `--remove` ended it below its user."""
    place = store.directory() / "0123456789-docker"
    store.make_directory(place)
    (place / "case.json").write_text('{"of": "a later version"}')
    carried = {labels.CASE: place.name, labels.DIRECTORY: str(place)}
    case = Container(id="1", name="case", running=True, labels=carried)
    engine = SimpleNamespace(
        containers=lambda wanted: [case] if labels.CASE in wanted else [],
        images=lambda _: [],
        info=lambda: SimpleNamespace(endpoint="docker", local=True),
        close=lambda: None,
    )
    monkeypatch.setattr(leaks, "connect", lambda _: engine)
    reader = os.open(place / store.SHARED / "ctl", os.O_RDONLY | os.O_NONBLOCK)
    assert names() == set()
    os.close(reader)
    assert names() == {"case", place.name}


def test_cache(places: Path, gone: int) -> None:
    build = "ab" * 20
    for name in (f"debuginfo/.new-{build}-x1", "tmp/left", f"debuginfo/{build}", "dumps/1"):
        (places / "cache" / name).mkdir(parents=True)
    (places / "cache" / "dumps" / "1" / f"vmcore.part{gone}").touch()
    with scratch_directory() as mine:
        # Making a new one has removed the ones without a lock.
        assert not (places / "cache" / "tmp" / "left").exists()
        assert names() == {f".new-{build}-x1", f"vmcore.part{gone}"}
        assert mine.is_dir()
    with locked(places / "cache" / "locks" / build):
        assert names() == {f"vmcore.part{gone}"}
    for leak in leaks.find():
        leak.remove()
    assert names() == set()
    assert (places / "cache" / "debuginfo" / build).is_dir()


def test_a_scratch_directory_is_nobodys_at_no_time(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while it is made, nor while it is removed: a doctor beside it said that its process is gone."""
    seen: list[bool] = []

    def mkdtemp(directory: Path) -> str:
        seen.append(is_locked(directory / ".lock"))
        (directory / "made").mkdir()
        return str(directory / "made")

    def rmtree(path: Path, **_: object) -> None:
        seen.append(is_locked(path))
        path.rmdir()

    monkeypatch.setattr(tempfile, "mkdtemp", lambda **given: mkdtemp(given["dir"]))
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with scratch_directory():
        assert names() == set()
    assert seen == [True, True]
    (places / "cache" / "tmp" / "left").mkdir()
    assert names() == {"left"}


def test_a_lock_ends_with_its_holder(places: Path) -> None:
    lock = places / "lock"
    script = "import sys; from pathlib import Path; from sandbox.host.locks import locked\n"
    script += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(lock)
        holder.kill()
    assert not is_locked(lock)


def test_the_keeper_of_a_case_whose_directory_is_gone(places: Path) -> None:
    place = store.directory() / "0123456789-docker"
    store.make_directory(place)
    (place / keeper.LIMIT).write_text("0")
    words = [sys.executable, "-I", "-S", keeper.__file__, str(place), "-1", "/bin/true"]
    with subprocess.Popen(words) as process:
        while (fifo := keeper.reach(str(place))) < 0:
            assert process.poll() is None
        os.close(fifo)
        assert keepers() == []
        shutil.rmtree(place)
        (leak,) = keepers()
        assert leak.name == str(process.pid)
        leak.remove()
    assert keepers() == []


@dataclass
class OneContainer:
    """A fake: an engine with one container, for what is read of its label."""

    label: str
    local: bool = True

    def containers(self, _: object) -> list[Container]:
        return [Container(id="1", name="one", running=True, labels={labels.RUN: self.label})]

    def info(self) -> OneContainer:
        return self


def test_whose_a_container_is(gone: int) -> None:
    own = with_owner_label(ContainerSpec(image="i", argv=["true"], labels={"other": "kept"})).labels
    assert own["other"] == "kept"
    boot, namespace, pid, started = own[labels.RUN].split(".")
    for label, local, expected in (
        (own[labels.RUN], True, 0),
        (f"{boot}.{namespace}.{gone}.{started}", True, 1),
        (f"{boot}.{namespace}.{pid}.1", True, 1),  # the number was given again
        (f"{boot}.1.{gone}.{started}", True, 0),  # another process namespace: nothing can be known
        (f"deadbeef.{namespace}.{pid}.{started}", True, 1),  # before this host was booted
        (f"deadbeef.{namespace}.{pid}.{started}", False, 0),  # another host's
        ("nonsense", True, 0),
    ):
        assert len(list(orphans(OneContainer(label, local)))) == expected, label  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 50), (errno.EDQUOT, 50), (errno.EROFS, 70), (errno.EACCES, 2)]
)
def test_a_place_that_cannot_be_used(capsys: pytest.CaptureFixture[str], number: int, status: int) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise OSError(number, "no", "/cache/x")
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert "/cache/x" in said
    assert "hint: " in said
    assert "internal error" not in said


def test_a_full_disk_is_named_where_the_error_names_none(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """write(2) gives no name. The full file system is a fake: a real one has to be mounted."""
    real = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        found = list(real(path))
        if path == places / "runtime":
            found[4] = 0  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)
    (places / "runtime").mkdir(mode=0o700)
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ended.value.code == NoSpace.exit_code
    assert f"vmbox: no space left in {places / 'runtime'}\n" in capsys.readouterr().err
