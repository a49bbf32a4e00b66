from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import archives
from debuginfo_bench import Bench
from sandbox import profiles
from sandbox.case import package_query
from sandbox.debuginfo import local, locate, user_provided
from sandbox.debuginfo.lookup import peek
from sandbox.debuginfo.package_names import NoPackageManager, file_names, package_names
from sandbox.debuginfo.urls import Source
from sandbox.dump.release import of_release
from sandbox.errors import (
    BaseImageUnavailable,
    DebuginfoError,
    DebuginfoMismatch,
    DebuginfoNotFound,
    DownloadFailed,
    NoSpace,
    Unreachable,
    VerificationFailed,
    VmboxError,
)
from sandbox.formats import zstandard
from sandbox.host import disk
from sandbox.log import without_secrets
from sandbox.model import DumpFormat
from sandbox.profiles import Snapshots

COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.module().compress,
}

DEBIAN = Path(__file__).parents[3] / "images" / "debian-12.toml"


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_VERIFY", "strict")


@pytest.mark.usefixtures("strict")
def test_downloads_proves_and_keeps(bench: Bench) -> None:
    found = bench.locate()
    assert found.vmlinux.read_bytes() == archives.vmlinux()
    assert found.vmlinux == bench.cache / "debuginfo" / archives.BUILD_ID / "vmlinux"
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert (found.verification_detail, found.verification) == ("SHA-256 of the whole package", "hash")
    here = peek(bench.vmcore(), profiles.read(DEBIAN), bench.cache)
    assert here is not None
    assert (here.vmlinux, here.proof, here.verification, here.package) == (
        found.vmlinux,
        found.proof,
        "hash",
        found.package,
    )
    assert peek(bench.vmcore(build_id="00" * 20), profiles.read(DEBIAN), bench.cache) is None
    assert bench.asked == [(f"linux-image-{archives.RELEASE}-dbg={archives.VERSION}",)]
    assert bench.left_over() == []
    assert bench.heard.done == len(bench.package)


@pytest.mark.usefixtures("strict")
def test_the_second_time_no_source_is_asked(bench: Bench) -> None:
    first = bench.locate()
    assert bench.locate() == first
    assert len(bench.asked) == 1
    assert len(bench.archive.requests) == 1


@pytest.mark.parametrize("kind", ["", "gz", "xz", "blocks", "zst"])
def test_payloads(bench: Bench, kind: str) -> None:
    files = {"./usr/share/doc/" + "long/" * 30 + "copyright": b"x" * 70_000, archives.PATH: archives.vmlinux()}
    bench.put(archives.deb(files, kind))
    assert bench.locate().vmlinux.read_bytes() == archives.vmlinux()


@pytest.mark.usefixtures("strict")
def test_eight_at_once_download_once(bench: Bench) -> None:
    bench.archive.delay = 0.05
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: bench.locate(), range(8)))
    assert len(set(map(str, found))) == 1
    assert len(bench.archive.requests) == 1
    assert any("another vmbox" in notice for notice in bench.heard.notices)


def test_another_build_is_refused(bench: Bench) -> None:
    with pytest.raises(DebuginfoMismatch, match=r"build-id is bb603a91.* the dump's 00ff") as caught:
        bench.locate(vmcore=bench.vmcore(build_id="00ff"))
    assert bench.archive.url in (caught.value.detail or "")
    assert list((bench.cache / "debuginfo").iterdir()) == []


def test_a_given_vmlinux_is_believed_of_a_dump_that_says_nothing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(archives.vmlinux())
    nameless = bench.vmcore(build_id=None, release=None, utsname_version=None, banner=None)
    found = bench.locate(given=tmp_path / "vmlinux", vmcore=nameless)
    assert found.proof == "forced: neither build-id nor banner can be compared"
    assert any("does not say which kernel" in notice for notice in bench.heard.notices)
    with pytest.raises(DebuginfoMismatch):
        bench.locate(given=tmp_path / "vmlinux", vmcore=bench.vmcore(build_id="00ff"))


def test_force_uses_it_and_says_so(bench: Bench) -> None:
    assert bench.locate(vmcore=bench.vmcore(build_id="00ff"), force=True).proof.startswith("forced: ")
    # It is kept as what it is, not as what the dump wanted.
    with pytest.raises(DebuginfoMismatch):
        bench.locate(vmcore=bench.vmcore(build_id="00ff"))


@pytest.mark.parametrize(
    ("changes", "proof"),
    [
        ({}, "banner"),
        ({"banner": None}, "release and version"),
        ({"banner": archives.BANNER.replace(" (gcc", "  (gcc")}, "banner"),
    ],
)
def test_without_build_id_the_banner_decides(bench: Bench, changes: dict[str, object], proof: str) -> None:
    vmcore = bench.vmcore(build_id=None, **changes)
    assert bench.locate(vmcore=vmcore).proof == proof
    assert bench.locate(vmcore=vmcore).proof == proof
    assert len(bench.asked) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"banner": archives.BANNER.replace("(debian", "(mock")},
        {"banner": None, "utsname_version": "#2 SMP Debian 6.1.176-1"},
    ],
)
def test_another_banner_is_refused(bench: Bench, changes: dict[str, object]) -> None:
    with pytest.raises(DebuginfoMismatch, match="banner"):
        bench.locate(vmcore=bench.vmcore(build_id=None, **changes))


def test_banner_of_init_version_lacks_the_number(bench: Bench) -> None:
    bench.put(archives.deb({archives.PATH: archives.vmlinux(None, archives.BANNER.replace(" #1 ", " # "))}))
    assert bench.locate().proof == "banner up to the build number"


def test_flipped_byte(bench: Bench) -> None:
    bench.put(archives.deb({archives.PATH: archives.vmlinux(dwarf=b"d" * 5000)}, ""))
    bench.archive.flip = len(bench.package) - 3000
    with pytest.raises(VerificationFailed):
        bench.locate()
    assert bench.left_over() == []
    assert list((bench.cache / "debuginfo").iterdir()) == []
    bench.archive.flip = None
    assert bench.locate().proof


def test_the_next_source_is_tried(bench: Bench) -> None:
    bench.archive.files["/other"] = b"!<arch>\nnonsense"
    bench.urls = ("/gone", "/other", "/vmlinux-dbg.deb")
    assert bench.locate().origin.endswith("/vmlinux-dbg.deb")


def test_a_web_page_is_no_package(bench: Bench) -> None:
    page = b"\n<!DOCTYPE HTML><html><title>Log in</title></html>"
    bench.archive.files |= {"/a": page, "/b": b"\xef\xbb\xbf<html>"}
    bench.size = bench.sha256 = None
    bench.urls = ("/a", "/b", "/vmlinux-dbg.deb")
    assert bench.locate().origin.endswith("/vmlinux-dbg.deb")
    shutil.rmtree(bench.cache)
    bench.urls = ("/a", "/b", "/gone")
    with pytest.raises(DownloadFailed, match="no debuginfo of kernel") as caught:
        bench.locate()
    assert (caught.value.detail or "").splitlines() == [
        "not there: 1 place (127.0.0.1)",
        "a web page came in place of it: 2 places (127.0.0.1)",
    ]
    assert f"bring linux-image-{archives.RELEASE}-dbg_{archives.VERSION}_amd64.deb" in caught.value.hint
    assert bench.left_over() == []


def test_nothing_anywhere(bench: Bench) -> None:
    bench.urls = ()
    with pytest.raises(DebuginfoNotFound, match=archives.RELEASE) as caught:
        bench.locate()
    assert caught.value.detail == "not there: 1 place (package manager of Debian 12 (bookworm))"
    # The customer can be asked for it.
    assert f"linux-image-{archives.RELEASE}-dbg_{archives.VERSION}_amd64.deb" in caught.value.hint
    with pytest.raises(DebuginfoNotFound) as caught:
        bench.locate(vmcore=bench.vmcore(utsname_version=None))
    assert "does not say which package" in (caught.value.detail or "")
    # There is no dump yet: vmbox prepare --release.
    with pytest.raises(DebuginfoNotFound) as caught:
        bench.locate(vmcore=bench.vmcore(utsname_version=None, format=DumpFormat.RELEASE))
    assert "--utsname-version" in (caught.value.detail or "")


def test_the_archive_of_the_days_after_the_build(bench: Bench) -> None:
    line = "deb http://snapshot.example/debian/{day}T000000Z bookworm main"
    bench.snapshots = (Snapshots(days=(4, 14), sources=(line,)), Snapshots(days=(45,), sources=(line, "deb more main")))
    bench.known_in = "20260816"
    # Built on 2026-07-02, says uname -v.
    assert bench.locate().origin.endswith("/vmlinux-dbg.deb")
    live, *past = bench.sources
    assert live[0] == "deb http://deb.debian.org/debian bookworm main"
    assert past == [
        ("deb http://snapshot.example/debian/20260706T000000Z bookworm main",),
        ("deb http://snapshot.example/debian/20260716T000000Z bookworm main",),
        ("deb http://snapshot.example/debian/20260816T000000Z bookworm main", "deb more main"),
    ]


@pytest.mark.parametrize("said", ["", " (2026-99-99)", " (9999-12-31)", " (2999-01-01)"])
def test_no_archive_of_days_to_come_or_of_none(bench: Bench, said: str) -> None:
    line = "deb http://snapshot.example/debian/{day}T000000Z bookworm main"
    bench.snapshots = (Snapshots(days=(4, 14), sources=(line,)),)
    bench.known_in = "nowhere"
    with pytest.raises(DebuginfoNotFound):
        bench.locate(vmcore=bench.vmcore(utsname_version=f"#1 SMP Debian {archives.VERSION}{said}"))
    assert len(bench.sources) == 1


def test_snapshots_that_cannot_be_reached_are_asked_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def query(packages: object, sources: tuple[str, ...]) -> tuple[()]:
        asked.append(sources)
        if "snapshot" in sources[0]:
            raise Unreachable("the package sources cannot be read: Could not resolve 'snapshot.example'")
        return ()

    monkeypatch.setattr(bench, "package_query", query)
    bench.snapshots = (Snapshots(days=(4, 14, 45), sources=("deb http://snapshot.example/{day} bookworm main",)),)
    with pytest.raises(DownloadFailed) as caught:
        bench.locate()
    assert len(asked) == 2
    assert len((caught.value.detail or "").splitlines()) == 2
    assert "not reachable: 3 places" in (caught.value.detail or "")


@pytest.mark.parametrize("error", [NoPackageManager("no base: Could not resolve"), BaseImageUnavailable("none")])
def test_without_an_image_no_other_day_is_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: VmboxError
) -> None:
    asked = []

    def query(packages: object, sources: tuple[str, ...]) -> tuple[()]:
        asked.append(sources)
        raise error

    monkeypatch.setattr(bench, "package_query", query)
    bench.snapshots = (Snapshots(days=(4, 14, 45), sources=("deb http://snapshot.example/{day} bookworm main",)),)
    with pytest.raises(DebuginfoError) as caught:
        bench.locate()
    assert len(asked) == 1
    said = f"{caught.value.message}\n{caught.value.detail or ''}".strip()
    assert len(said.splitlines()) == (1 if isinstance(error, NoPackageManager) else 2)
    assert "package manager of Debian 12 (bookworm)" in said


@pytest.mark.parametrize(
    ("line", "unreachable"),
    [
        ("  Could not resolve 'snapshot.debian.org'", True),
        ("  Temporary failure resolving 'deb.debian.org'", True),
        ("  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)", True),
        ("  Unable to connect to deb.debian.org:http:", True),
        ("E: Release file for http://deb.debian.org/x is expired (invalid since 1d).", False),
        ("  404  Not Found [IP: 127.0.0.1 80]", False),
    ],
)
def test_what_apt_says_of_a_host_that_is_not_reachable(line: str, *, unreachable: bool) -> None:
    assert bool(package_query._UNREACHABLE.search(f"Err:1 http://x InRelease\n{line}\n")) is unreachable


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("6.6.32-1-lts", "Arch Linux publishes no debug information of its kernels"),
        ("6.4.0-150700.53.3-default", "SUSE publishes SLES 15 SP7 to subscribers only"),
        ("4.4.180-94.164-default", "SUSE publishes SLES 12 to subscribers only"),
    ],
)
def test_what_a_vendor_does_not_publish_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, said: str
) -> None:
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    dump = replace(of_release(release, None), arch="x86_64")
    with pytest.raises(DebuginfoNotFound) as caught:
        locate(dump, profiles.select(dump).distribution, package_query=lambda *_: [], cache=tmp_path)
    assert said in (caught.value.detail or "")
    assert "package manager" not in (caught.value.detail or "")


def test_what_is_alike_is_counted(bench: Bench) -> None:
    bench.urls = ("/gone", "/gone/too", "/no", "/odd")
    bench.archive.statuses = [404, 410, 403]
    bench.archive.files["/odd"] = b"!<arch>\nnonsense"
    bench.size = bench.sha256 = None
    with pytest.raises(VerificationFailed) as caught:
        bench.locate()
    _, *lines = (caught.value.detail or "").splitlines()
    assert lines == [
        "not there: 2 places (127.0.0.1)",
        "refused: 1 place (127.0.0.1)",
    ]
    bench.urls = bench.urls[:3]
    bench.archive.statuses = [404, 410, 403]
    with pytest.raises(DebuginfoNotFound) as absent:
        bench.locate()
    assert (absent.value.detail or "").splitlines() == lines


@pytest.mark.parametrize(
    ("release", "profile", "file"),
    [
        ("4.18.0-348.el8.0.2.x86_64", "el8", "kernel-debuginfo-4.18.0-348.el8.0.2.x86_64.rpm"),
        ("5.3.18-59.40-default", "sles-15", "kernel-default-debuginfo-5.3.18-59.40.*.x86_64.rpm"),
    ],
)
def test_the_file_to_ask_the_customer_for(release: str, profile: str, file: str) -> None:
    home = profiles.by_name(profile)
    dump = replace(of_release(release, None), arch="x86_64")
    names = package_names(dump, home)
    assert names is not None
    assert home.debuginfo is not None
    assert file_names(names, home.debuginfo, dump.arch) == (file,)


def test_package_without_vmlinux(bench: Bench) -> None:
    bench.put(archives.deb({"./usr/share/doc/x": b""}))
    with pytest.raises(VmboxError, match="no vmlinux"):
        bench.locate()
    bench.put(archives.deb({archives.PATH: archives.vmlinux().replace(b".debug_info", b".nothing_in")}))
    with pytest.raises(DebuginfoNotFound) as caught:
        bench.locate()
    assert "has no debug information" in (caught.value.detail or "")


def test_no_network(bench: Bench) -> None:
    url = bench.archive.url
    bench.archive.url = "http://127.0.0.1:9"
    with pytest.raises(DownloadFailed, match="no connection") as caught:
        bench.locate()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    bench.archive.url = url


def test_no_space(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_MARGIN", 1 << 60)
    with pytest.raises(NoSpace, match="MB are missing") as caught:
        bench.locate()
    assert "VMBOX_CACHE_DIR" in caught.value.hint


def test_mirrors(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_MIRRORS", f"http://deb.example={bench.archive.url}")
    bench.archive.url = "http://deb.example"
    assert bench.locate().origin == "http://deb.example/vmlinux-dbg.deb"


# What is on this host already.


def test_given_vmlinux(bench: Bench, make_vmlinux: Callable[..., Path]) -> None:
    path = make_vmlinux()
    found = bench.locate(given=path)
    assert found.origin == str(path)
    path.write_bytes(b"changed later")
    assert found.vmlinux.read_bytes() == archives.vmlinux()
    assert bench.locate().vmlinux == found.vmlinux
    assert bench.asked == []


def test_given_package(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(bench.package)
    assert bench.locate(given=path).vmlinux.read_bytes() == archives.vmlinux()


def test_given_directory(bench: Bench, make_vmlinux: Callable[..., Path], tmp_path: Path) -> None:
    make_vmlinux("tree/boot/vmlinux-6.1.0-1", build_id="0123")
    make_vmlinux(f"tree/usr/lib/debug/boot/vmlinux-{archives.RELEASE}")
    assert bench.locate(given=tmp_path / "tree").proof == f"build-id {archives.BUILD_ID}"
    with pytest.raises(DebuginfoMismatch) as caught:
        bench.locate(given=tmp_path / "tree", vmcore=bench.vmcore(build_id="00ff"))
    assert len((caught.value.detail or "").splitlines()) == 2
    forced = bench.locate(given=tmp_path / "tree", vmcore=bench.vmcore(build_id="00ff"), force=True)
    assert forced.proof.startswith("forced")


def test_given_something_else(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xd8 a picture")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "x", tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(DebuginfoNotFound, match=str(path)):
            bench.locate(given=path)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_vmlinux_is_unpacked(bench: Bench, suffix: str, tmp_path: Path) -> None:
    """SUSE's kernels bring vmlinux.gz, vmlinux.xz or vmlinux.zst."""
    pack = COMPRESSED[suffix]
    beside = bench.dump.with_name(f"vmlinux-{archives.RELEASE}.{suffix}")
    beside.write_bytes(pack(archives.vmlinux()))
    found = bench.locate()
    assert found.origin == str(beside)
    assert found.vmlinux.read_bytes()[:4] == b"\x7fELF"
    beside.unlink()
    packed = tmp_path / "given"
    packed.write_bytes(pack(archives.vmlinux()))
    assert bench.locate(given=packed).proof == f"build-id {archives.BUILD_ID}"
    (added,) = user_provided.add(packed, cache=tmp_path / "c")
    assert added.vmlinux.read_bytes()[:4] == b"\x7fELF"
    # As SUSE's in /boot: stripped.
    packed.write_bytes(pack(archives.vmlinux().replace(b".debug_info", b".other_info")))
    with pytest.raises(DebuginfoNotFound, match=f"{packed}: has no debug information"):
        bench.locate(given=packed)


def test_beside_the_dump(bench: Bench) -> None:
    beside = bench.dump.with_name(f"vmlinux-{archives.RELEASE}")
    beside.write_bytes(archives.vmlinux(build_id="0123"))
    assert bench.locate().origin.startswith("http")
    (bench.cache / "debuginfo" / archives.BUILD_ID / "about.json").unlink()
    beside.write_bytes(archives.vmlinux())
    assert bench.locate().origin == str(beside)


def test_each_place_has_its_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="vmbox")
    bench.archive.files.clear()
    bench.urls = ("/gone.deb?token=secret",)
    beside = bench.dump.with_name(f"vmlinux-{archives.RELEASE}")
    beside.write_bytes(archives.vmlinux("00" * 20))
    with pytest.raises(DebuginfoMismatch) as caught:
        bench.locate()
    said = "\n".join(caplog.messages)
    assert f"kernel {archives.RELEASE}, build-id {archives.BUILD_ID}, packages linux-image-" in said
    assert f"cache {bench.cache / 'debuginfo'}: nothing" in said
    assert f"{beside} does not match the dump: its build-id is 0000" in said
    for source in Source:
        assert f"asking: {source}\n" in said
        assert f"nothing from: {source}" in said
    assert f"GET {bench.archive.url}/gone.deb?token=***: 404, 0 bytes in " in said
    assert f"{bench.archive.url}/gone.deb?token=***: 404 Not Found" in said
    assert "secret" not in said
    # And all that the error tells.
    for line in (caught.value.detail or "").splitlines():
        assert without_secrets(line) in said
    caplog.clear()
    beside.unlink()
    bench.urls = ("/vmlinux-dbg.deb",)
    bench.put(bench.package)
    bench.locate()
    assert any(
        re.search(rf"{archives.BUILD_ID}/vmlinux, from {bench.archive.url}/.*: build-id ", line)
        for line in caplog.messages
    )
    assert any(re.search(r"vmlinux-dbg\.deb.*: 20[06], \d+ bytes in ", line) for line in caplog.messages)


def test_hints_for_a_file_that_is_no_debuginfo_name_no_option(tmp_path: Path) -> None:
    """`vmbox debuginfo add FILE` has none."""
    (tmp_path / "notes").write_bytes(b"none")
    for path in (tmp_path / "notes", tmp_path / "nothing"):
        with pytest.raises(DebuginfoNotFound) as caught:
            local.kind(path)
        assert "--debuginfo" not in caught.value.hint
