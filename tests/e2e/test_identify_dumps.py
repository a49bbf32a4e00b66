"""Real dumps in every form that makedumpfile and QEMU write, of one crash each: what is identified, and the log.

The log is compared line by line with what makedumpfile --dump-dmesg made of /proc/vmcore in the capture kernel. One
boot writes all of makedumpfile's forms (conftest.FORMS), one all of QEMU's. Debian builds makedumpfile without snappy
and zstd; fixtures of tests/unit have pages of both.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import engines
from archives import Archive, serve
from e2e.conftest import FORMS, Dumps
from engines import EngineUnderTest
from sandbox.dump import identify, read_log, unpack
from sandbox.errors import DebuginfoNotFound, DemoFailed, DumpNotFound, DumpUnreadable
from sandbox.model import Vmcore

WRITTEN = ("elf", *(name for name in FORMS if not name.startswith("full-")))
FULL = ("full-elf", "full-kdump")
BY_QEMU = {
    "kdump": "dump-guest-memory -z /work/out/kdump",
    "vmcore": "dump-guest-memory /work/out/vmcore",
    "migration": 'migrate "exec:cat > /work/out/migration"',
}


MAKE = """
import sys
from pathlib import Path
from sandbox.commands import demo
from sandbox.engine import connect
commands, directory = sys.argv[1:]
demo._QEMU["qemu-elf"] = commands
spec = demo.DemoSpec(format="qemu-elf", memory=2600, timeout=400)
demo.make_vmcore(spec, Path(directory), engine=connect(None))
"""


@pytest.fixture(scope="module")
def forms(podman_rootful: EngineUnderTest, dumps: Dumps) -> Path:
    assert podman_rootful.uid == os.getuid()
    return dumps.forms()


@pytest.fixture(scope="module")
def by_qemu(podman_rootful: EngineUnderTest) -> Path:
    """Dumps of one crash in the cache, made by the demo container with other commands than its own.

    Where the kernel allocates its VMCOREINFO is of chance: near an end of memory in most boots, where it is looked for
    on a server as well. Another dump would have to be downloaded for it.
    """
    directory = engines.cache_root() / "dumps" / "forms-of-qemu-of-2600-mib"
    for _ in range(5):
        if (directory / "vmcore").exists() and _is_near_an_end(directory / "vmcore"):
            return directory
        shutil.rmtree(directory, ignore_errors=True)
        command = [sys.executable, "-c", MAKE, "\n".join(BY_QEMU.values()), str(directory)]
        made = subprocess.run(command, env=dict(podman_rootful.env), capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
    pytest.fail("of five boots none has its VMCOREINFO near an end of memory")


def _is_near_an_end(dump: Path) -> bool:
    with dump.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reach = 24 << 20
        ends = (content[:reach], content[-reach:])
    return any(re.search(rb"\0OSRELEASE=\d[^%\n]*\n(?:[^\0]*\n)?PAGESIZE=", end) for end in ends)


def _log(path: Path) -> list[bytes]:
    return [line.rstrip() for line in read_log(path)]


def _expected(directory: Path) -> list[bytes]:
    return [line.rstrip() for line in (directory / "vmcore-dmesg.txt").read_bytes().rstrip(b"\n").split(b"\n")]


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_written_by_makedumpfile(forms: Path, name: str) -> None:
    found = identify(forms / name)
    reference = identify(forms / "kdump")
    for field in ("release", "utsname_version", "build_id", "arch", "panic", "cause", "hardware", "uptime_seconds"):
        assert getattr(found, field) == getattr(reference, field), field
        assert getattr(found, field) is not None, field
    assert found.complete is True, found.incomplete_reason
    assert found.flattened == name.startswith("flattened")
    assert found.format == ("elf" if name.endswith("elf") or name == "proc-vmcore" else "kdump-compressed")
    if name in {"lzo", "kdump"}:
        assert found.compression == {"kdump": "zlib"}.get(name, name)
    assert _log(forms / name) == _expected(forms)


def test_set_of_parts(forms: Path, tmp_path: Path) -> None:
    assert [file.name for file in identify(forms / "part-2").files] == ["part-1", "part-2", "part-3"]
    os.link(forms / "part-3", tmp_path / "part-3")
    lone = identify(tmp_path / "part-3")
    assert lone.complete is False
    assert "is not beside it" in str(lone.incomplete_reason)
    assert lone.release == identify(forms / "kdump").release


@pytest.mark.parametrize("name", sorted(FULL))
def test_target_ran_out_of_space(forms: Path, name: str) -> None:
    found = identify(forms / name)
    assert found.complete is False
    assert found.origins["complete"] == "header"
    assert "out of space" in str(found.incomplete_reason)
    assert found.release == identify(forms / "kdump").release


@pytest.mark.parametrize("name", ["lzo", "elf", "flattened"])
def test_cut_to_the_byte(forms: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    copy.write_bytes((forms / name).read_bytes()[:-1])
    assert identify(copy).complete is False


def test_rearranged_as_makedumpfile_would(forms: Path, tmp_path: Path) -> None:
    """What crash is given instead of a flattened dump is the dump makedumpfile writes to a disk."""
    found = identify(forms / "flattened")
    plain = unpack(found, tmp_path)
    again = identify(plain)
    assert (again.flattened, again.complete, again.release) == (False, True, found.release)
    assert _log(plain) == _expected(forms)


@pytest.mark.parametrize("name", ["kdump", "vmcore"])
def test_written_by_qemu(by_qemu: Path, name: str) -> None:
    """Without a vmcoreinfo device QEMU writes no VMCOREINFO; the kernel's own copy is found in the memory."""
    found: Vmcore = identify(by_qemu / name)
    assert found.release is not None
    assert found.origins["release"] == "vmcoreinfo in memory"
    assert (found.arch, found.nr_cpus, found.complete) == ("x86_64", 2, True)
    assert found.crash_time is None
    assert found.cause == "sysrq"
    assert b"Kernel panic - not syncing: sysrq triggered crash" in b"\n".join(_log(by_qemu / name))


def test_drgn_reads_what_qemu_writes(podman_rootful: EngineUnderTest, by_qemu: Path) -> None:
    """Its kdump names no kernel and has no VMCOREINFO, without which drgn refuses it: the unpacked copy has both."""
    code = "print(*[frame.name for frame in prog.crashed_thread().stack_trace()])"
    done = podman_rootful.run("run", str(by_qemu / "kdump"), "--once", "--tool", "drgn", "-e", code)
    assert done.returncode == 0, done.stderr
    assert b"panic sysrq_handle_crash __handle_sysrq write_sysrq_trigger" in done.stdout


def test_one_of_more_than_two_gib_is_read_where_it_is(podman_rootful: EngineUnderTest, by_qemu: Path) -> None:
    dump = by_qemu / "vmcore"
    assert dump.stat().st_size > 1 << 31
    here = podman_rootful.run("run", str(dump), "--once", "--", "bt", "--", "ps")
    assert here.returncode == 0, here.stderr
    assert b"sysrq_handle_crash" in here.stdout
    with dump.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        with serve(Archive(files={"/vmcore": content}, headers={"ETag": '"1"'})) as site:  # type: ignore[dict-item]
            there = podman_rootful.run("run", f"{site.url}/vmcore", "--once", "--", "bt", "--", "ps")
            assert podman_rootful.run("close", f"{site.url}/vmcore").returncode == 0
        assert there.stdout == here.stdout, there.stderr
        assert site.counted < 0.03 * len(content)


def test_migration_stream(by_qemu: Path) -> None:
    """What `virsh save`, savevm and a migration to a file hold: named, with what the kernel says of itself in it."""
    found, reference = identify(by_qemu / "migration"), identify(by_qemu / "vmcore")
    assert found.format == "qemu-migration"
    for field in ("release", "utsname_version", "build_id", "arch", "page_size", "panic", "cause"):
        assert getattr(found, field) == getattr(reference, field), field
        assert getattr(found, field) is not None, field
    with pytest.raises(DumpUnreadable, match="qemu-migration file is not read here"):
        list(read_log(by_qemu / "migration"))


def test_json_of_the_command(podman_rootful: EngineUnderTest, forms: Path) -> None:
    done = podman_rootful.run("info", str(forms / "flattened"), "--json")
    found = json.loads(done.stdout)
    assert (found["flattened"], found["class"], found["profile"]) == (True, "debian:12", "latest")
    assert podman_rootful.run("dmesg", str(forms / "flattened")).stdout.count(b"\n") == len(_expected(forms))


def test_pages_compressed_with_zstd(podman_rootful: EngineUnderTest, dumps) -> None:
    """By Debian 13's makedumpfile. Debian 12's knows neither zstd nor snappy, and would store the pages as they are."""
    dump = dumps("6.12", form="kdump-zstd")
    found = identify(dump)
    assert (found.compression, found.cause, found.complete) == ("zstd", "sysrq", True)
    # This makedumpfile prints which task or CPU a line is of, and indents the next lines of one by as much more.
    expected = [re.sub(rb"^(\[[ \d.]+\]) \[ *[TC]\d+\]", rb"\1", line) for line in _expected(dump.parent)]
    assert [line.strip() for line in _log(dump)] == [line.strip() for line in expected]
    refused = podman_rootful.run("demo", str(podman_rootful.directory() / "none"), "--format", "kdump-snappy")
    assert refused.returncode == DemoFailed.exit_code
    assert b"built without libsnappy" in refused.stderr


def test_sosreport_before_the_dump_is_here(podman_rootful: EngineUnderTest, dumps) -> None:
    """Kernel, panic and the path to ask for; image and debuginfo are ready when the dump comes."""
    log = (dumps().parent / "vmcore-dmesg.txt").read_bytes()
    release = identify(dumps()).release
    report = podman_rootful.directory() / "sosreport-web01-2026.tar.xz"
    case = "var/crash/127.0.0.1-2026-01-02-03:04:05"
    with tarfile.open(report, "w:xz") as archive:
        for name, content in {
            "sos_commands/kernel/uname_-a": f"Linux web01 {release} #1 SMP x86_64 GNU/Linux\n".encode(),
            f"{case}/vmcore-dmesg.txt": log,
            f"{case}/kexec-dmesg.log": b"[    0.000000] Linux version 1.2.3 of the capture kernel\n",
        }.items():
            member = tarfile.TarInfo(f"sosreport-web01-2026/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = json.loads(podman_rootful.run("info", "--json", str(report)).stdout)
    assert (found["release"], found["cause"], found["wanted"]) == (release, "sysrq", f"/{case}/vmcore")
    refused = podman_rootful.run("run", str(report), "--", "bt")
    assert refused.returncode == DumpNotFound.exit_code
    assert f"/{case}/vmcore".encode() in refused.stderr
    ready = podman_rootful.run("prepare", str(report))
    assert ready.returncode == 0, ready.stderr
    prepared = dict(line.strip().split(": ", 1) for line in ready.stdout.decode().splitlines())
    assert Path(prepared["DEBUGINFO"]).is_file()
    assert "banner" in prepared["PROOF"]


def test_ready_by_the_name_of_a_kernel_alone(podman_rootful: EngineUnderTest, dumps) -> None:
    """Without a dump nothing can be compared, as is said; the dump that comes is compared, and fetches nothing."""
    found = identify(dumps())
    assert found.release is not None
    assert found.utsname_version is not None
    own_cache = ("--set", f"cache_dir={podman_rootful.directory() / 'cache'}")
    words = (*own_cache, "prepare", "--release", found.release, "--utsname-version", found.utsname_version)
    ready = podman_rootful.run(*words)
    assert ready.returncode == 0, ready.stderr
    prepared = dict(line.strip().split(": ", 1) for line in ready.stdout.decode().splitlines())
    assert Path(prepared["DEBUGINFO"]).parent.name == found.build_id
    again = podman_rootful.run(*words)
    assert again.stdout == ready.stdout
    opened = podman_rootful.run(*own_cache, "run", str(dumps()), "--once", "--", "sys")
    assert opened.returncode == 0, opened.stderr
    assert found.release.encode() in opened.stdout
    assert b"download" not in opened.stderr.lower()
    nowhere = podman_rootful.run(*own_cache, "prepare", "--release", "6.1.0-99999-cloud-amd64")
    assert nowhere.returncode == DebuginfoNotFound.exit_code
    assert b"6.1.0-99999" in nowhere.stderr
