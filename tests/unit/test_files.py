"""Files written in one step, and descriptors that take less than they are given."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner

from sandbox.cli import app
from sandbox.errors import NoSpace, UsageError
from sandbox.host.files import (
    STDOUT,
    check_output,
    is_file_output,
    write_all,
    write_atomically,
    write_chosen,
    write_output,
)
from sandbox.report import write as report


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_the_umask_decides_unless_a_mode_is_given(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "own", b"x")
    assert _mode(tmp_path / "own") == 0o666 & ~umask
    for mode in (0o600, 0o644):
        write_atomically(tmp_path / "own", b"y", mode=mode)
        assert _mode(tmp_path / "own") == mode
    assert (tmp_path / "own").read_bytes() == b"y"


def test_a_file_comes_in_pieces_under_the_longest_name(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), iter((b"a", b"", b"bc")), durable=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("n" * 255, b"abc")]


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"new"
        assert (tmp_path / "file").read_bytes() == b"old"
        raise KeyboardInterrupt

    write_atomically(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", pieces())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"x")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"x")


def test_a_pipe_gets_all_of_it() -> None:
    reading, writing = os.pipe()
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 1 << 16):
            got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    write_all(writing, b"x" * 300_000)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert len(got) == 300_000


def test_an_output_replaces_a_file_and_keeps_its_mode(tmp_path: Path, umask: int) -> None:
    write_output(tmp_path / "file", b"first")
    assert _mode(tmp_path / "file") == 0o666 & ~umask
    (tmp_path / "file").chmod(0o600)
    before = (tmp_path / "file").stat().st_ino
    write_output(tmp_path / "file", iter((b"a", b"b")), durable=True)
    assert _mode(tmp_path / "file") == 0o600
    assert (tmp_path / "file").stat().st_ino != before
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"ab")]


@pytest.mark.parametrize("there", [True, False])
def test_an_output_goes_where_links_lead(tmp_path: Path, there: bool) -> None:
    (tmp_path / "to").mkdir()
    target = tmp_path / "to" / "target"
    if there:
        target.write_bytes(b"an older and longer content")
    (tmp_path / "second").symlink_to("to/target")
    (tmp_path / "link").symlink_to("second")
    write_output(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert target.read_bytes() == b"new"


def test_an_output_with_a_second_name_is_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"older and longer")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    write_output(tmp_path / "one", b"new")
    assert (tmp_path / "two").read_bytes() == b"new"


def test_an_output_to_a_fifo_reaches_its_reader(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    write_output(fifo, (b"x" * 100_000, b"y"), durable=True)
    reader.join()
    assert got == [b"x" * 100_000 + b"y"]
    assert fifo.is_fifo()


def test_an_output_to_a_terminal_is_shown_there() -> None:
    master, slave = os.openpty()
    try:
        write_output(Path(os.ttyname(slave)), b"shown")
        assert os.read(master, 100) == b"shown"
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    for name, minor in {"null": 3, "full": 7}.items():
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    try:
        write_output(tmp_path / "null", b"x")
        report.write(tmp_path / "null", "x")
    except PermissionError:
        pytest.skip("devices do not work in this file system")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_output(tmp_path / "full", b"x")
    with pytest.raises(NoSpace):
        report.write(tmp_path / "full", "x")
    assert all(path.is_char_device() for path in tmp_path.iterdir())


def test_an_output_to_an_open_descriptor_continues_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as log:
        log.write(b"before ")
        write_output(Path(f"/dev/fd/{log.fileno()}"), b"between ")
        (tmp_path / "log").rename(tmp_path / "renamed")
        write_output(Path(f"/proc/self/fd/{log.fileno()}"), b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("renamed", b"before between after")]
    for name in (STDOUT, Path("/dev/stdout")):
        write_output(name, b"printed")
        assert capfd.readouterr().out == "printed"


def test_an_output_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_output(tmp_path, b"x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        write_output(tmp_path / "loop", b"x")
    with pytest.raises(FileNotFoundError):
        write_output(tmp_path / "none" / "file", b"x")


def test_beside_what_is_no_file_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert is_file_output(tmp_path / "file")
    assert is_file_output(tmp_path / "link")
    with (tmp_path / "file").open("rb") as file:
        for name in (STDOUT, Path("/dev/null"), Path("/dev/stdout"), Path(f"/dev/fd/{file.fileno()}"), tmp_path):
            assert not is_file_output(name)


def test_an_output_is_checked_before_there_is_anything_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "dangling").symlink_to("new")
    os.mkfifo(tmp_path / "fifo")
    check_output(STDOUT)
    for good in ("/dev/null", "/dev/full", "file", "new", "dangling", "fifo"):
        check_output(tmp_path / good)
    (tmp_path / "loop").symlink_to("loop")
    for wrong, code in (
        (tmp_path, errno.EISDIR),
        (tmp_path / "none" / "file", errno.ENOENT),
        (tmp_path / "file" / "below", errno.ENOTDIR),
        (tmp_path / "loop", errno.ELOOP),
    ):
        with pytest.raises(OSError, match=re.escape(os.strerror(code))) as found:
            check_output(wrong)
        assert found.value.errno == code
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("line", [["report", "VMCORE"], ["image", "save", "VMCORE"], ["excerpt", "VMCORE"]])
def test_a_command_looks_at_its_output_first(
    vmbox: Callable[..., CompletedProcess[str]], line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the minutes that an image takes: no engine is asked."""
    dump = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
    monkeypatch.setenv("VMBOX_ENGINE", f"unix://{tmp_path}/no.sock")
    done = vmbox(*(str(dump) if word == "VMCORE" else word for word in line), "-o", str(tmp_path / "none" / "file"))
    assert done.returncode == 2, done
    assert "none/file cannot be written: No such file or directory" in done.stderr
    done = vmbox("image", "build", str(dump), "--sbom", str(tmp_path))
    assert done.returncode == 2, done
    assert "Is a directory" in done.stderr


def _report(*words: str) -> tuple[int, str]:
    made = CliRunner().invoke(app, ["report", "-q", "--no-debuginfo", *words])
    return made.exit_code, made.output


def test_a_report_replaces_nothing_that_it_is_made_of(tmp_path: Path) -> None:
    (tmp_path / "m.vmss").write_bytes(b"\xd2\xbe\xd2\xbe" + bytes(8188))
    (tmp_path / "m.vmem").write_bytes(bytes(8192))
    log = tmp_path / "dmesg.txt"
    log.write_text("[    1.000000] Linux version 6.1.0 (x@y) #1\n[    2.000000] Kernel panic - not syncing: x\n")
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(b"debuginfo")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    for words in (
        (str(tmp_path / "m.vmss"), "-o", str(tmp_path / "m.vmem")),
        (str(log), "-o", str(log)),
        (str(log), "--debuginfo", str(vmlinux), "-o", str(vmlinux)),
    ):
        status, said = _report(*words)
        assert status
        assert "only read" in said
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_report_without_a_name_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory may be a stranger's, with a link of that name to a file of the user's."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "dmesg.txt").write_text(
        "[    1.000000] Linux version 6.1.0 (x@y)\n[    2.000000] Kernel panic - not syncing: x\n"
    )
    (here / "dmesg.txt").chmod(0o600)
    (tmp_path / "own").write_text("mine")
    (here / "report.html").symlink_to(tmp_path / "own")
    status, said = _report("dmesg.txt")
    assert status
    assert "link" in said
    assert (tmp_path / "own").read_text() == "mine"
    (here / "report.html").unlink()
    assert _report("dmesg.txt")[0] == 0
    assert _mode(here / "report.html") == 0o600


def test_a_name_that_was_chosen_here_is_replaced_and_not_followed(tmp_path: Path) -> None:
    evidence, name = tmp_path / "vmcore", tmp_path / "name"
    evidence.write_bytes(b"evidence")
    name.hardlink_to(evidence)
    write_chosen(name, b"new", hint="")
    assert (evidence.read_bytes(), name.read_bytes()) == (b"evidence", b"new")
    for make in (lambda: name.symlink_to(evidence), lambda: os.mkfifo(name), name.mkdir):
        name.unlink()
        make()
        with pytest.raises(UsageError, match="link or no file"):
            write_chosen(name, b"new", hint="")
    assert evidence.read_bytes() == b"evidence"
