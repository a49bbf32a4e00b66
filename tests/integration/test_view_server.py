"""The view of a dump, served by FUSE for real: its bytes, and its end in every way. Of cases: e2e/test_views.py."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from archives import multi_block_xz
from dump_servers import flatten
from engines import INFO
from sandbox.case import store, views
from sandbox.commands import leaks
from sandbox.dump import identify, unpack, view
from sandbox.dump.source import FileSource
from sandbox.dump.unpacking import forget
from sandbox.errors import DumpUnreadable
from sandbox.formats import zstandard
from sandbox.host import paths

ROOT = Path(__file__).resolve().parents[1]
DUMP = ROOT / "fixtures" / "dumps" / "x86_64-6.1-zlib"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a mount that containers see needs root, or their namespace")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CACHE", "RUNTIME"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"VMBOX_{name}_DIR", str(tmp_path / name))
    yield
    for place in [*views.directory().iterdir()]:
        views.end(place)


@pytest.fixture
def flattened(tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    path.write_bytes(flatten(DUMP.read_bytes()))
    return path


def serve(path: Path) -> views.Server:
    server = views.serve(identify(path), INFO)
    assert server is not None
    return server


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def until(condition: object, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    assert condition()  # type: ignore[operator]


def test_the_file_is_the_rearranged_dump_and_nothing_else_is_there(flattened: Path) -> None:
    server = serve(flattened)
    assert server.files[0].read_bytes() == DUMP.read_bytes()
    assert [one.name for one in server.files[0].parent.iterdir()] == ["vmcore"]
    assert not [*paths.unpacked_dir().glob("*/vmcore")]
    with pytest.raises(OSError, match="Read-only") as refused:
        server.files[0].open("r+b")
    assert refused.value.errno == errno.EROFS
    server.close()
    assert server.place.name not in mounts()
    assert not server.place.exists()


def test_a_set_of_files_is_served_as_such(flattened: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(flatten(DUMP.read_bytes() + bytes(4096)))
    server = views.serve(replace(identify(flattened), files=(flattened, other)), INFO)
    assert server is not None
    assert [one.name for one in server.files] == ["vmcore", "vmcore-2"]
    assert [one.read_bytes() for one in server.files] == [DUMP.read_bytes(), DUMP.read_bytes() + bytes(4096)]
    server.close()


def test_what_a_copy_would_be_given_the_view_has(tmp_path: Path) -> None:
    """A dump without VMCOREINFO, as QEMU writes it: crash and drgn need its kernel named."""
    by_qemu = bytearray(DUMP.read_bytes())
    at = int.from_bytes(by_qemu[4096 + 32 : 4096 + 40], "little")
    by_qemu[4096 + 32 : 4096 + 48] = bytes(16)
    by_qemu[at - 24 : at + 64] = bytes(88)
    path = tmp_path / "vmcore"
    path.write_bytes(flatten(bytes(by_qemu)))
    vmcore = replace(identify(path), release="6.1.0-test", utsname_version="#1", vmcoreinfo={"OSRELEASE": "6.1.0-test"})
    server = views.serve(vmcore, INFO)
    assert server is not None
    copy = unpack(vmcore, tmp_path / "dumps")
    assert server.files[0].read_bytes() == copy.read_bytes() != bytes(by_qemu)
    server.close()


def test_it_lives_as_long_as_the_fifo_has_a_reader(flattened: Path, tmp_path: Path) -> None:
    server = serve(flattened)
    fifo = tmp_path / "ctl"
    os.mkfifo(fifo)
    case = os.open(fifo, os.O_RDWR)
    server.attach(fifo)
    server.close()
    time.sleep(0.3)
    assert server.files[0].read_bytes() == DUMP.read_bytes()
    os.close(case)
    until(lambda: not views.is_served(server.place))
    assert server.place.name not in mounts()


def test_it_ends_with_its_starter_where_no_case_was_opened(flattened: Path) -> None:
    server = serve(flattened)
    os.close(server._leash)  # as the kernel does when a process ends
    server._leash = -1
    until(lambda: not views.is_served(server.place))
    assert server.place.name not in mounts()


def test_a_mount_whose_server_was_killed_is_a_leak_and_removed(flattened: Path) -> None:
    server = serve(flattened)
    assert not [*views.unserved()]
    os.kill(int((server.place / "lock").read_text()), signal.SIGKILL)
    until(lambda: not views.is_served(server.place))
    with pytest.raises(OSError, match="not connected"):
        server.files[0].read_bytes()
    assert server.place.name in mounts()
    (leak,) = leaks._views()
    assert (leak.kind, leak.name) == ("mount", str(server.place))
    leak.remove()
    assert server.place.name not in mounts()
    assert not [*views.directory().iterdir()]


def test_the_next_view_removes_what_a_killed_server_left(flattened: Path) -> None:
    lost = serve(flattened)
    os.kill(int((lost.place / "lock").read_text()), signal.SIGKILL)
    until(lambda: not views.is_served(lost.place))
    server = serve(flattened)
    assert lost.place.name not in mounts()
    server.close()


def test_a_stopped_server_does_not_outlive_its_end(flattened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_END", 0.2)
    server = serve(flattened)
    os.kill(int((server.place / "lock").read_text()), signal.SIGSTOP)
    server.close()
    assert server.place.name not in mounts()
    assert not server.place.exists()


def test_a_file_that_is_cut_gives_an_error_and_no_zeros(flattened: Path, tmp_path: Path) -> None:
    server = serve(flattened)
    os.truncate(flattened, 20_000)
    with pytest.raises(OSError, match="Input/output error"):
        server.files[0].read_bytes()
    # A debugger that maps the file is killed, and this is told of it.
    case = tmp_path / "case"
    case.mkdir()
    (case / store.VIEW).write_text(str(server.place))
    assert str(store.last_failure(case)).endswith("it was cut while it was open")
    server.close()
    assert store.last_failure(case) is None


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [("FUSE_LIBRARY_PATH", "/nothing.so", "apt-get install fuse3"), ("FUSE_LIBRARY_NAME", "nothing", "fuse3")],
)
def test_without_libfuse_the_reason_is_said(
    flattened: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(views.NotServed, match="libfuse") as caught:
        serve(flattened)
    assert hint in caught.value.hint
    assert not [*views.directory().iterdir()]


def test_another_engines_namespace_is_not_entered(flattened: Path) -> None:
    with pytest.raises(views.NotServed, match="namespace"):
        views.serve(identify(flattened), replace(INFO, rootless=True))


def test_an_archive_that_has_to_be_unpacked_has_no_view(tmp_path: Path) -> None:
    import bz2

    path = tmp_path / "vmcore.bz2"
    path.write_bytes(bz2.compress(DUMP.read_bytes()))
    assert views.serve(identify(path), INFO) is None


def test_a_gzip_file_is_indexed_once_and_served_without_a_copy(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP.read_bytes()))
    vmcore = identify(path)
    (server, steps), (again, none) = ((serve(path), [*paths.unpacked_dir().glob("*/gzip")]) for _ in range(2))
    assert server.files[0].read_bytes() == again.files[0].read_bytes() == DUMP.read_bytes()
    assert len(steps) == 1
    assert none == steps
    assert steps[0].stat().st_mode & 0o777 == 0o600
    assert not [*paths.unpacked_dir().glob("*/vmcore")]
    for one in (server, again):
        one.close()
    assert forget(path, paths.unpacked_dir())
    assert not steps[0].exists()
    # One that is cut, or has another after it, is unpacked as far as it goes, as before.
    for content in (path.read_bytes()[:-5000], path.read_bytes() + gzip.compress(b"more")):
        path.write_bytes(content)
        assert views.serve(replace(vmcore, size=len(content)), INFO) is None


def test_blocks_are_unpacked_only_where_the_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vmcore.xz"
    path.write_bytes(multi_block_xz(DUMP.read_bytes() + bytes(1 << 20), 1 << 16))
    full = SimpleNamespace(f_bavail=1000, f_frsize=4096)
    with FileSource(path) as file:
        found = view.open_view(file, tmp_path / "CACHE" / "dumps")
        assert found is not None
        monkeypatch.setattr(view, "_STRIDE", 1)
        monkeypatch.setattr(os, "fstatvfs", lambda _: full)
        with pytest.raises(DumpUnreadable, match="No space left"):
            found.read_at(found.size - 100, 100)
        monkeypatch.undo()
        assert found.read_at(found.size - 100, 100) == bytes(100)


def test_without_the_library_a_gzip_file_is_unpacked_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setitem(sys.modules, "indexed_gzip", None)
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(DUMP.read_bytes()))
    assert views.serve(identify(path), INFO) is None


def test_a_dump_that_an_archive_stores_is_served_from_it(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "crash.tar", "w") as tar:
        tar.add(DUMP, "crash/vmcore")
    server = serve(tmp_path / "crash.tar")
    assert server.files[0].read_bytes() == DUMP.read_bytes()
    server.close()


def test_a_dump_that_is_compressed_in_blocks_is_served_from_them(tmp_path: Path) -> None:
    """Beginning as pzstd writes it: a skippable frame with the size of the next one."""
    dump, zstd = DUMP.read_bytes(), zstandard.module()
    checked = {zstd.CompressionParameter.checksum_flag: 1}
    frames = [zstd.compress(dump[at : at + 10_000], options=checked) for at in range(0, len(dump), 10_000)]
    path = tmp_path / "vmcore.zst"
    path.write_bytes(b"".join(b"\x50\x2a\x4d\x18\4\0\0\0" + len(one).to_bytes(4, "little") + one for one in frames))
    assert identify(path).panic == identify(DUMP).panic
    server = serve(path)
    assert server.files[0].read_bytes() == dump
    server.close()
    damaged = bytearray(path.read_bytes())
    damaged[-2000:-1900] = bytes(100)
    path.write_bytes(damaged)
    server = serve(path)
    with pytest.raises(OSError, match="Input/output error"):
        server.files[0].read_bytes()
    server.close()
