"""Archives without TLS: what is read is compared with something signed, or is for one dump alone, and said to be."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

import archives
from archives import Archive
from debuginfo_bench import Bench
from sandbox import profiles
from sandbox.commands.info import show_release
from sandbox.debuginfo import download, http_ranges, repodata
from sandbox.debuginfo.modules import fetch_modules
from sandbox.errors import DebuginfoNotFound, DownloadFailed, VerificationFailed
from sandbox.model import DebuginfoFormat
from sandbox.profiles import Profile

pytestmark = pytest.mark.slow

MODULE = f"./usr/lib/debug/lib/modules/{archives.RELEASE}/kernel/x.ko"
DEBIAN = Path(__file__).parents[3] / "images" / "debian-12.toml"


def package(dwarf: bytes) -> bytes:
    noise = random.Random(7).randbytes
    return archives.deb({archives.PATH: archives.vmlinux(dwarf=dwarf), MODULE: noise(900_000)}, "blocks", block=1 << 14)


@pytest.fixture(autouse=True)
def large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "_WINDOW", 4096)
    bench.put(package(b"d" * 100_000))


def twin(monkeypatch: pytest.MonkeyPatch, plain: Archive, secure: str) -> None:
    """As port 443 of the same host would be."""
    monkeypatch.setattr(download, "tls_url", lambda url: url.replace(plain.url, secure))


def test_all_of_it_is_compared(bench: Bench) -> None:
    found = bench.locate()
    assert found.verification == "hash"
    assert bench.archive.sent == len(bench.package)
    assert any("without TLS, so all of it is downloaded" in notice for notice in bench.heard.notices)


def test_what_another_put_in_is_refused(bench: Bench) -> None:
    """As long as the right one, and with the right build-id: only the hash tells."""
    evil = package(b"e" * 100_000)
    right = bench.package
    assert len(evil) == len(right)
    bench.archive.files["/vmlinux-dbg.deb"] = evil
    with pytest.raises(VerificationFailed, match="SHA-256"):
        bench.locate()
    bench.archive.files["/vmlinux-dbg.deb"] = right
    vmlinux = bench.locate().vmlinux
    # Modules of it as well: their MD5 is in the package itself.
    bench.archive.files["/vmlinux-dbg.deb"] = evil
    with pytest.raises(VerificationFailed, match="SHA-256"):
        fetch_modules(vmlinux, ["x"])
    bench.archive.files["/vmlinux-dbg.deb"] = right
    assert fetch_modules(vmlinux, ["x"]).fetched == ("x",)


def test_tls_of_the_same_host_is_used(bench: Bench, tls_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench.archive
    twin(monkeypatch, plain, tls_archive.url)
    found = bench.locate()
    assert found.verification == "ranged-tls"
    assert plain.requests == []
    assert tls_archive.sent < 0.2 * len(bench.package)


def test_tls_that_has_another_file(bench: Bench, tls_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    tls_archive.files = {"/vmlinux-dbg.deb": b"a page of the host's, and no package"}
    twin(monkeypatch, bench.archive, tls_archive.url)
    assert bench.locate().verification == "hash"
    tls_archive.files = {}
    bench.archive.requests.clear()
    assert bench.locate(vmcore=bench.vmcore(path=bench.dump.with_name("2"))).verification == "hash"


def test_a_host_without_tls_is_asked_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_WITHOUT_TLS", set())
    asked = []
    twin(monkeypatch, bench.archive, "https://127.0.0.1:9")
    real = download._answer
    monkeypatch.setattr(download, "_answer", lambda url, *a, **b: [asked.append(url), real(url, *a, **b)][1])
    assert download.over_tls(f"{bench.archive.url}/x", None) is None
    assert download.over_tls(f"{bench.archive.url}/y", None) is None
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("url", "secure"),
    [
        ("http://deb.debian.org/x.deb", "https://deb.debian.org/x.deb"),
        ("http://deb.debian.org:80/x.deb", "https://deb.debian.org/x.deb"),
        ("http://mirror.example:8080/x.deb", None),
        ("https://deb.debian.org/x.deb", None),
    ],
)
def test_where_tls_is_looked_for(url: str, secure: str | None) -> None:
    assert download.tls_url(url) == secure


def test_without_a_hash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be compared: it is said, kept for this dump alone, and refused where verify is strict."""
    bench.sha256 = None
    found = bench.locate()
    assert found.verification == "ranged-plain"
    assert "-of-" in found.directory.name
    other = bench.vmcore(path=bench.dump.with_name("another"))
    bench.urls = ()
    with pytest.raises(DebuginfoNotFound):
        bench.locate(vmcore=other)
    assert bench.locate().vmlinux == found.vmlinux
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    bench.urls = ("/vmlinux-dbg.deb",)
    with pytest.raises(VerificationFailed, match="neither a signature nor a signed hash"):
        bench.locate()


@pytest.mark.usefixtures("over_tls")
def test_all_of_it_over_tls_without_a_hash(bench: Bench) -> None:
    bench.sha256 = None
    bench.archive.ranges = False
    found = bench.locate()
    assert (found.verification, found.directory.name) == ("tls", archives.BUILD_ID)
    assert "over TLS: no hash is known" in found.verification_detail


@pytest.mark.usefixtures("over_tls")
def test_a_mirror_without_tls_is_no_tls(bench: Bench, tls_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive's URL has https, and the site's mirror has not."""
    bench.sha256 = None
    with archives.serve(Archive(files=bench.archive.files)) as mirror:
        monkeypatch.setenv("VMBOX_MIRRORS", f"{tls_archive.url}={mirror.url}")
        found = bench.locate()
        assert found.origin.startswith("https:")
        assert found.verification == "ranged-plain"
        assert "without TLS" in found.verification_detail


@pytest.mark.usefixtures("over_tls")
@pytest.mark.parametrize("ranges", [True, False])
def test_a_redirect_out_of_tls_is_refused(bench: Bench, tls_archive: Archive, ranges: bool) -> None:
    bench.sha256 = None if ranges else bench.sha256
    with archives.serve(Archive(files=dict(bench.archive.files))) as plain:
        tls_archive.redirect = plain.url
        with pytest.raises(DownloadFailed, match="without TLS: refused"):
            bench.locate(vmcore=bench.vmcore(build_id=archives.BUILD_ID if ranges else None))
        with pytest.raises(DownloadFailed, match="without TLS: refused"):
            repodata.find(f"{tls_archive.url}/repo/", ["x"], None, bench.heard)
        assert plain.requests == []


# Profiles without keys.


@pytest.fixture
def photon() -> Profile:
    return profiles.by_name("photon")


def test_info_says_that_packages_are_not_signed(photon: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    assert photon.debuginfo is not None
    assert not photon.debuginfo.keys
    show_release("4.19.112-1.ph3", None, json=False)
    assert "packages are not signed" in capsys.readouterr().out
    show_release("4.18.0-80.el8.x86_64", None, json=False)
    assert "not signed" not in capsys.readouterr().out


def test_unsigned_packages_are_said_and_strictly_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    home = profiles.read(DEBIAN)
    assert home.debuginfo is not None
    unsigned = replace(home, debuginfo=replace(home.debuginfo, format=DebuginfoFormat.RPM))
    monkeypatch.setattr(profiles, "read", lambda _: unsigned)
    bench.sha256 = None
    bench.archive.files["/vmlinux-dbg.deb"] = b"\xed\xab\xee\xdb"
    with pytest.raises(VerificationFailed):
        bench.locate()
    assert any("are not signed" in notice for notice in bench.heard.notices)
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    bench.archive.requests.clear()
    with pytest.raises(VerificationFailed, match="neither a signature"):
        bench.locate()
    assert bench.archive.requests == []
