"""What is found beside a dump, or below a directory, is read only where no link leads to it."""

import os
import time
from pathlib import Path

import dump_writer
import pytest

from sandbox.commands import verify
from sandbox.dump import identify, read_log
from sandbox.dump.source import FileSource, confined
from sandbox.errors import DumpUnreadable, NotADump, VmboxError
from sandbox.progress import QUIET

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
DUMP = (FIXTURES / "x86_64-6.1-zlib").read_bytes()
SECRET = b"[    0.000000] Linux version 6.1.0 (secret) #1\n[    1.000000] Kernel panic - not syncing: secret\n"
VMSS = b"\xd2\xbe\xd2\xbe" + bytes(8188)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "elsewhere" / "id_rsa"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def case(tmp_path):
    directory = tmp_path / "case"
    directory.mkdir()
    return directory


def without_log(path):
    """A dump whose log is not in it, so that the one beside it is looked for."""
    path.write_bytes(DUMP[:20000])
    return path


def printed(path):
    try:
        return b"\n".join(read_log(path))
    except VmboxError:
        return b""


def test_a_log_beside_a_dump_is_read(case):
    dump = without_log(case / "vmcore")
    (case / "vmcore-dmesg.txt").write_bytes(SECRET)
    assert b"secret" in printed(dump)


@pytest.mark.parametrize("name", ["vmcore-dmesg.txt", "dmesg.txt", "dmesg", "vmcore-dmesg-incomplete.txt"])
@pytest.mark.parametrize("log", [True, False])
def test_a_link_for_a_log_is_not_followed(case, secret, name, log):
    dump = without_log(case / "vmcore")
    (case / name).symlink_to(secret)
    assert b"secret" not in printed(dump)
    assert "secret" not in str(identify(dump, log=log))


def test_a_fifo_for_a_log_keeps_nobody_waiting(case):
    dump = without_log(case / "vmcore")
    os.mkfifo(case / "vmcore-dmesg.txt")
    os.mkfifo(case / "README.txt")
    os.mkfifo(case / "vmcore.sha256")
    start = time.monotonic()
    assert printed(dump) == b""
    identify(dump)
    assert verify._beside(dump, QUIET) is None
    assert time.monotonic() - start < 5


def test_a_checksum_file_of_endless_zeros_is_not_read(case):
    dump = without_log(case / "vmcore")
    (case / "vmcore.sha256").symlink_to("/dev/zero")
    assert verify._beside(dump, QUIET) is None


def test_a_link_for_a_readme_is_not_followed(case, secret):
    secret.write_bytes(b"This crash dump is likely incomplete")
    (case / "vmcore").write_bytes(DUMP)
    (case / "README.txt").symlink_to(secret)
    assert identify(case / "vmcore").complete is not False


def test_the_memory_of_a_vmware_machine(case, secret):
    (case / "m.vmss").write_bytes(VMSS)
    memory = case / "m.vmem"
    memory.write_bytes(bytes(8192))
    assert identify(case / "m.vmss").files == (case / "m.vmss", memory)
    memory.unlink()
    memory.symlink_to(secret)
    assert identify(case / "m.vmss").files == (case / "m.vmss",)


def test_the_state_of_a_vmware_machine_is_no_link(case, tmp_path):
    (tmp_path / "m.vmss").write_bytes(VMSS)
    (case / "m.vmem").write_bytes(bytes(8192))
    (case / "m.vmss").symlink_to(tmp_path / "m.vmss")
    with pytest.raises(NotADump):
        identify(case / "m.vmem")


def test_links_below_a_directory_are_not_followed(case, secret):
    crash = case / "var" / "crash" / "127.0.0.1-2026-01-02-03:04:05"
    crash.parent.mkdir(parents=True)
    crash.mkdir()
    (crash / "vmcore-dmesg.txt").symlink_to(secret)
    assert printed(case) == b""
    with pytest.raises(NotADump):
        identify(case)
    (crash / "vmcore-dmesg.txt").unlink()
    crash.rmdir()
    secret.rename(secret.with_name("vmcore-dmesg.txt"))
    crash.symlink_to(secret.parent)
    assert printed(case) == b""


def test_a_directory_that_becomes_a_link_is_not_followed(case, secret):
    (case / "inner").symlink_to(secret.parent)
    with pytest.raises(VmboxError):
        FileSource(case / "inner" / "id_rsa", below=case)
    with pytest.raises(VmboxError):
        FileSource(case / ".." / "elsewhere" / "id_rsa", below=case)


def test_a_dump_named_by_a_link_is_the_user_s_word(case, tmp_path):
    (tmp_path / "dump").write_bytes(DUMP)
    (case / "vmcore").symlink_to(tmp_path / "dump")
    assert identify(case / "vmcore").release == identify(tmp_path / "dump").release


def test_the_opened_file_is_checked_and_not_its_name(case, secret):
    (case / "vmcore").write_bytes(DUMP)
    (case / "vmcore-link").symlink_to(secret)
    with confined((case.resolve(),)):
        assert identify(case / "vmcore").release
        with pytest.raises(DumpUnreadable, match="not below"):
            identify(case / "vmcore-link")
        with pytest.raises(DumpUnreadable, match="not below"):
            list(read_log(case / "vmcore-link"))
    with FileSource(case / "vmcore-link") as source:
        assert source.read_at(0, 512) == SECRET


def test_verify_names_the_other_parts_of_a_split_dump(tmp_path, monkeypatch):
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path / "state"))
    pages, info = {pfn: bytes([pfn]) * 4096 for pfn in range(20)}, b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n"
    parts = [tmp_path / f"vmcore.{number}" for number in (1, 2)]
    for number, part in enumerate(parts):
        part.write_bytes(dump_writer.kdump(pages, info, split=(10 * number, 10 * number + 10)))
    said = []
    monkeypatch.setattr(type(QUIET), "notice", lambda _, line: said.append(line))
    verify.verify(parts)
    assert not said
    verify.verify(parts[1:])
    assert said == [f"vmcore.2 is one of 2 files of a dump; the others: vmbox verify {parts[0]}"]
