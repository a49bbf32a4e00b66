"""Which dumps a triage finds below a directory, in one pass and without following links."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sandbox.dump import identify, read_log
from sandbox.triage.discovery import find

DUMP = (Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib").read_bytes()


def nested(directory: Path, depth: int) -> Path:
    place = directory
    for _ in range(depth):
        (place / "sos_commands").mkdir(parents=True)
        place /= "var"
    place.mkdir(parents=True)
    return place


@pytest.mark.parametrize("dump", [True, False])
def test_a_sosreport_in_a_sosreport_is_walked_once(tmp_path: Path, dump: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: (listed.append(place), scandir(place))[1])
    inner = nested(tmp_path, 20)
    if dump:
        (inner / "vmcore").write_bytes(DUMP)
    start = time.process_time()
    assert find([tmp_path]) == [inner / "vmcore" if dump else inner.parent]
    assert len(listed) == 21
    assert time.process_time() - start < 1


def test_two_sosreports(tmp_path: Path) -> None:
    for name in ("a", "b"):
        nested(tmp_path / name, 1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "vmcore").write_bytes(DUMP)
    assert find([tmp_path]) == [tmp_path / "a", tmp_path / "b", tmp_path / "c" / "vmcore"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"[    0.000000] Linux version 6.1.0\n" * 40)
    case = tmp_path / "case"
    case.mkdir()
    for name in ("vmcore", "vmcore-dmesg.txt", "odd"):
        (case / name).symlink_to(tmp_path / "key")
    assert find([case]) == []
    (case / "vmcore-dmesg.txt").unlink()
    (case / "vmcore-dmesg.txt").write_bytes(b"")
    assert find([case]) == [case / "vmcore-dmesg.txt"]


def test_links_to_directories_that_are_not_followed_are_named(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "today").mkdir(parents=True)
    (kept / "today" / "vmcore").write_bytes(DUMP)
    top = tmp_path / "crash"
    (top / "yesterday").mkdir(parents=True)
    (top / "today").symlink_to(kept / "today")
    (top / "same").symlink_to("yesterday")
    (top / "yesterday" / "run").symlink_to(kept)
    links: list[Path] = []
    assert find([top], links) == []
    assert links == [top / "today"]
    assert find(links) == [kept / "today" / "vmcore"]


def test_logs_of_crashes_are_found_where_there_is_no_dump(tmp_path: Path) -> None:
    oops = b"[    1.000000] BUG: kernel NULL pointer dereference, address: 0\n[    1.100000] Call Trace:\n"
    for name in ("console.log", "notes.txt"):
        (tmp_path / name).write_bytes(oops)
    (tmp_path / "kern.log").write_bytes(b"[    1.000000] eth0: up\n[    2.000000] eth0: down\n")
    kept = tmp_path / "pstore"
    kept.mkdir()
    (kept / "dmesg-efi_pstore-176423200000101001").write_bytes(b"Panic#1 Part1\n" + oops)
    both = tmp_path / "vmcore and log"
    both.mkdir()
    (both / "vmcore").write_bytes(DUMP)
    (both / "console.log").write_bytes(oops)
    assert find([tmp_path]) == [tmp_path / "console.log", kept, both / "vmcore"]


POSTED = Path(__file__).resolve().parents[2] / "fixtures" / "oops" / "posted"


def test_logs_of_other_crashes_beside_a_dump_are_found(tmp_path: Path) -> None:
    """What the dump's own kernel said, whole or cut before its panic, is no other crash."""
    (tmp_path / "vmcore").write_bytes(DUMP)
    own = b"".join(line + b"\n" for line in read_log(tmp_path / "vmcore"))
    (tmp_path / "console.log").write_bytes(own)
    (tmp_path / "serial.log").write_bytes(own.partition(b"Kernel panic")[0])
    (tmp_path / "vmcore-dmesg.txt").write_bytes(own)
    other = tmp_path / "netconsole-nas.log"
    other.write_bytes((POSTED / "truenas-console.txt").read_bytes())
    assert find([tmp_path]) == [tmp_path / "vmcore", other]
    # Of a dump that cannot be read nobody knows: one crash beside it is taken for its own, of two not both are.
    (tmp_path / "vmcore").write_bytes(b"\x7f" * 4096)
    for name in ("console.log", "serial.log", "vmcore-dmesg.txt"):
        (tmp_path / name).unlink()
    assert find([tmp_path]) == [tmp_path / "vmcore"]
    second = tmp_path / "syslog"
    second.write_bytes((POSTED / "proxmox-syslog.txt").read_bytes())
    assert find([tmp_path]) == [tmp_path / "vmcore", other, second]


def test_directories_of_abrt_and_apport_are_one_crash_each(tmp_path: Path) -> None:
    oops = (POSTED / "user-access-smap.txt").read_text(encoding="utf-8")
    # As abrt cuts it: without the line that names the kernel, and the log of a later time beside it.
    cut = "".join(
        f"{line.partition('] ')[2]}\n" for line in oops.splitlines() if "CPU: " not in line and "panic" not in line
    )
    abrt, apport = tmp_path / "oops-2026-11-20-10:11:12-901-0", tmp_path / "unpacked"
    for directory, files in (
        (
            abrt,
            {
                "backtrace": cut,
                "kernel": "5.14.0-427.13.1.el9_4.x86_64\n",
                "dmesg": "[ 9.0] eth0: up\n[ 9.1] eth0: a\n",
            },
        ),
        (apport, {"ProblemType": "KernelCrash\n", "VmCoreDmesg": oops}),
    ):
        directory.mkdir()
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    assert find([tmp_path]) == [abrt, apport]
    found = identify(abrt)
    assert (found.release, found.arch, found.cause) == ("5.14.0-427.13.1.el9_4.x86_64", "x86_64", "page-fault")
    assert found.original_path is None
    # The log's own word counts.
    (abrt / "backtrace").write_text(oops.replace("el9_4", "el9_5"), encoding="utf-8")
    assert identify(abrt).release == "5.14.0-427.13.1.el9_5.x86_64"


@pytest.mark.parametrize("name", ["syslog.1", "journal.json", "messages-20261127", "netconsole-10.0.0.7", "bmc.txt"])
def test_logs_are_found_under_the_names_that_their_writers_give(tmp_path: Path, name: str) -> None:
    oops = (
        "[    9.000001] CPU: 0 PID: 7 Comm: a Not tainted 6.1.0-50-amd64 #1\n[    9.1] Kernel panic - not syncing: x\n"
    )
    (tmp_path / name).write_text(
        f"[    9.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008\n{oops}"
    )
    (tmp_path / f"{name}.old").write_text("[    1.000000] eth0: up\n[    2.000000] eth0: down\n")
    assert find([tmp_path]) == [tmp_path / name]


def test_what_is_in_a_cache_is_not_found_beside_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "vmbox"
    unpacked = cache / "dumps" / "0123"
    unpacked.mkdir(parents=True)
    for place in (tmp_path, unpacked):
        (place / "vmcore").write_bytes(DUMP)
    assert len(find([tmp_path])) == 2
    (cache / "CACHEDIR.TAG").touch()
    assert find([tmp_path]) == [tmp_path / "vmcore"]
    # Named, it is looked into.
    assert find([cache]) == [unpacked / "vmcore"]
