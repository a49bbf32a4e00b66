"""Files and directories as people have them: parts of split(1), collected names, links, and what is no dump."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
import zlib
from pathlib import Path

import pytest

from sandbox.commands.run import from_file
from sandbox.debuginfo import local
from sandbox.dump import crash_directory, identify
from sandbox.errors import DebuginfoNotFound, DumpNotFound, NotADump, UsageError
from sandbox.triage import discovery

DUMPS = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
DUMP = DUMPS / "x86_64-6.1-zlib"
LOG = gzip.decompress((DUMPS / "x86_64-6.1.dmesg.gz").read_bytes())


def _split(whole: bytes, directory: Path, names: list[str]) -> None:
    size = -(-len(whole) // len(names))
    for number, name in enumerate(names):
        (directory / name).write_bytes(whole[number * size :][:size])


@pytest.mark.parametrize(
    "names",
    [
        ["vmcore.part.aa", "vmcore.part.ab", "vmcore.part.ac"],
        ["vmcore.00", "vmcore.01"],
        ["vmcore-001", "vmcore-002", "vmcore-003", "vmcore-004", "vmcore-005"],
        ["xaa", "xab"],
    ],
)
def test_parts_of_split_are_named_with_how_to_join_them(tmp_path: Path, names: list[str]) -> None:
    _split(DUMP.read_bytes(), tmp_path, names)
    first = identify(tmp_path / names[0])
    assert first.complete is False
    assert f"; it is the first of {len(names)} parts, join them: cat {tmp_path / names[0]} " in str(
        first.incomplete_reason
    )
    with pytest.raises(NotADump, match=f"a part of a file that split.* there are {len(names)}") as later:
        identify(tmp_path / names[1])
    assert later.value.hint.startswith(f"join them: cat {tmp_path / names[0]} {tmp_path / names[1]}")


def test_parts_of_a_compressed_dump(tmp_path: Path) -> None:
    _split(gzip.compress(DUMP.read_bytes()), tmp_path, ["vmcore.gz.aa", "vmcore.gz.ab"])
    assert "it is the first of 2 parts" in str(identify(tmp_path / "vmcore.gz.aa").incomplete_reason)
    with pytest.raises(NotADump, match="a part of a file"):
        identify(tmp_path / "vmcore.gz.ab")


@pytest.mark.parametrize("name", ["vmcore", "vmcore.aa", "vmcore.20", "vmcore.202611270001"])
def test_a_cut_dump_without_neighbours_is_no_part(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DUMP.read_bytes()[:-4096])
    assert "parts" not in str(identify(tmp_path / name).incomplete_reason)


@pytest.mark.parametrize("name", ["kdump.202611270001.gz", "kdump.202611270001", "web1.vmcore.gz", "web1-vmcore.gz"])
def test_a_dump_of_another_collector_is_found_in_its_directory(tmp_path: Path, name: str) -> None:
    whole = DUMP.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith(".gz") else whole)
    (tmp_path / "dmesg.202611270001").write_bytes(LOG)
    assert identify(tmp_path).format == "kdump-compressed"
    assert discovery.find([tmp_path]) == [tmp_path / name]


@pytest.mark.parametrize(
    ("dump", "log", "taken"),
    [
        ("kdump.202611270001", "dmesg.202611270001", True),
        ("web1.vmcore", "web1.vmcore-dmesg.txt", True),
        ("web1.vmcore", "web1.dmesg", True),
        ("web1.vmcore", "vmcore-dmesg.txt", False),  # of another host, perhaps
        ("web1.vmcore", "web2.vmcore-dmesg.txt", False),
    ],
)
def test_the_log_beside_a_dump_is_its_own(tmp_path: Path, dump: str, log: str, taken: bool) -> None:
    (tmp_path / dump).touch()
    (tmp_path / log).write_bytes(LOG)
    assert crash_directory.log_beside(tmp_path / dump) == (tmp_path / log if taken else None)


def test_links_that_lead_out_are_named_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").write_bytes(DUMP.read_bytes())
    (tmp_path / "in" / "vmcore").symlink_to("../elsewhere")
    with pytest.raises(NotADump, match="vmcore leads out of it") as found:
        identify(tmp_path / "in")
    assert found.value.hint == f"name it: vmbox info {tmp_path / 'in' / 'vmcore'}"
    links: list[Path] = []
    assert discovery.find([tmp_path / "in"], links) == []
    assert links == [tmp_path / "in" / "vmcore"]
    # One that stays below, where its target is found; one that leads nowhere.
    (tmp_path / "in" / "vmcore.0").write_bytes(DUMP.read_bytes())
    (tmp_path / "in" / "vmcore.1").symlink_to("vmcore.0")
    (tmp_path / "in" / "vmcore.2").symlink_to("nosuch")
    assert discovery.find([tmp_path / "in"], links) == [tmp_path / "in" / "vmcore.0"]
    assert {link.name for link in links} == {"vmcore"}
    assert identify(tmp_path / "in").path.name == "vmcore.0"


@pytest.mark.parametrize(
    ("head", "what", "how"),
    [
        (b"AVML\2\0\0\0", "an AVML memory image", "avml-convert"),
        (b"EMiL\1\0\0\0", "a LiME memory image", "crash vmlinux"),
        (b"Salted__12345678", "a file that OpenSSL encrypted", "openssl enc -d"),
        (bytes.fromhex("8c0d04090302b3c1"), "a GPG-encrypted file", "gpg --output"),  # gpg -c
        (bytes.fromhex("85018c03f00dfeed"), "a GPG-encrypted file", "gpg --output"),  # gpg -e, of RSA
        (bytes.fromhex("845e03f00dfeed00"), "a GPG-encrypted file", "gpg --output"),  # gpg -e, of Curve25519
        (bytes.fromhex("c30d04090308aabb"), "a GPG-encrypted file", "gpg --output"),
        (b"age-encryption.org/v1\n", "a file that age encrypted", "age --decrypt"),
        (b"PK\x07\x08PK\x03\x04", "the first part of a zip archive in parts", "zip -s 0"),
    ],
)
def test_what_is_no_dump_is_named(tmp_path: Path, head: bytes, what: str, how: str) -> None:
    (tmp_path / "file").write_bytes(head + os.urandom(4096))
    with pytest.raises(NotADump, match=what) as found:
        identify(tmp_path / "file")
    assert how in found.value.hint


@pytest.mark.parametrize("head", ["8c0d0000", "8cff04090302", "850001", "84ff07"])
def test_bytes_that_only_look_like_openpgp(tmp_path: Path, head: str) -> None:
    (tmp_path / "file").write_bytes(bytes.fromhex(head) + bytes(range(256)) * 4)
    with pytest.raises(NotADump, match="as far as its first bytes tell"):
        identify(tmp_path / "file")


def test_zeros_are_raw_memory_only_if_more_follows(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(1 << 20) + zlib.compress(LOG) * 40)
    with pytest.raises(NotADump, match="raw memory"):
        identify(tmp_path / "raw")
    (tmp_path / "never").write_bytes(bytes(1 << 20))
    with pytest.raises(NotADump, match="never finished"):
        identify(tmp_path / "never")


@pytest.mark.parametrize("url", ["gs://bucket/var/crash/vmcore", "ftp://example.com/vmcore"])
def test_a_url_that_is_not_read_is_said(url: str) -> None:
    with pytest.raises(DumpNotFound, match=f"{url} is a URL of a kind that is not read") as found:
        identify(Path(url))
    assert "download it first" in found.value.hint


@pytest.mark.parametrize(
    ("content", "what", "how"),
    [
        (gzip.compress(bytes(600)), "what is compressed there \\(gzip\\) is no vmlinux", "with debug information"),
        (lzma.compress(b"x" * 257 + b"ustar" + bytes(500)), "is an archive", "tar xf"),
        (bz2.compress(b"\x7fELF" + bytes(5000))[:10], "ends too early", "get it again"),
        (b"MZ\x00\x00" + bytes(600), "vmlinuz", "with debug information"),
    ],
    ids=["gzip", "archive", "cut", "vmlinuz"],
)
def test_a_vmlinux_that_is_none_is_named(tmp_path: Path, content: bytes, what: str, how: str) -> None:
    (tmp_path / "vmlinux").write_bytes(content)
    with pytest.raises(DebuginfoNotFound, match=what) as found:
        local.kind(tmp_path / "vmlinux")
    assert how in found.value.hint


def test_command_files_of_windows(tmp_path: Path) -> None:
    (tmp_path / "commands").write_bytes(b"\xef\xbb\xbfsys\r\nbt\r\n")
    assert list(map(str.strip, from_file(tmp_path / "commands"))) == ["sys", "bt"]
    (tmp_path / "commands").write_bytes("sys\r\n".encode("utf-16"))
    with pytest.raises(UsageError, match="UTF-16"):
        from_file(tmp_path / "commands")


def test_a_command_file_that_is_not_there_is_an_error_before_its_first_line(tmp_path: Path) -> None:
    """A dump is opened for that line."""
    with pytest.raises(UsageError, match="commands: No such file"):
        from_file(tmp_path / "commands")
    os.mkfifo(tmp_path / "commands")
    writer = threading.Thread(target=(tmp_path / "commands").write_text, args=("sys\n",))
    writer.start()
    assert list(from_file(tmp_path / "commands")) == ["sys\n"]
    writer.join()


def test_a_list_of_paths_need_not_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf/a\r\n/caf\xe9\n")
    assert discovery.listed(tmp_path / "list") == ["/a", os.fsdecode(b"/caf\xe9")]
