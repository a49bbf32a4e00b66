from __future__ import annotations

import random
import shutil

import httpx
import pytest

import archives
from archives import Archive
from debuginfo_bench import Bench, forget_connections
from sandbox.debuginfo import download, package_download
from sandbox.debuginfo.attempts import SearchLog
from sandbox.debuginfo.certificates import CertificateMissing
from sandbox.errors import ConfigurationError, DebuginfoNotFound, DownloadFailed, Unreachable, VerificationFailed


@pytest.fixture(scope="module")
def package() -> bytes:
    """Incompressible enough that a cut falls into the middle."""
    noise = random.Random(1).randbytes(300_000)
    return archives.deb({archives.PATH: archives.vmlinux(dwarf=noise), "./more": noise}, "")


@pytest.fixture(autouse=True)
def large(bench: Bench, package: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    bench.put(package)


def test_a_proxy_variable_that_is_no_url_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "garbage://proxy:1")
    with pytest.raises(ConfigurationError, match="garbage"):
        download.new_client()


@pytest.mark.slow
def test_cut_connections_are_continued(bench: Bench) -> None:
    bench.archive.cut_after = [100_000, 1, 50_000, 200_000]
    assert bench.locate().proof
    assert [wanted for _, wanted in bench.archive.requests] == [
        None,
        "bytes=100000-",
        "bytes=100001-",
        "bytes=150001-",
        "bytes=350001-",
    ]
    assert bench.archive.sent == len(bench.package)


def test_cut_without_ranges_starts_over(bench: Bench) -> None:
    bench.archive.ranges = False
    bench.archive.cut_after = [100_000]
    assert bench.locate().proof
    bench.heard.notices = [notice for notice in bench.heard.notices if "cannot resume" in notice]
    assert len(bench.heard.notices) == 1


def test_busy_server(bench: Bench) -> None:
    bench.archive.statuses = [503, 429, 502]
    assert bench.locate().proof
    assert "503 Service Unavailable; trying again" in bench.heard.notices[0]


def test_busy_for_good(bench: Bench) -> None:
    bench.archive.statuses = [503] * 100
    bench.urls = ("/a", "/b", "/c")
    with pytest.raises(DownloadFailed, match="no debuginfo of kernel") as caught:
        bench.locate()
    assert caught.value.detail == "server fails: 3 places (127.0.0.1); 503 Service Unavailable"
    assert f"or bring linux-image-{archives.RELEASE}-dbg_{archives.VERSION}_amd64.deb" in caught.value.hint
    # The others of this host are asked once.
    assert len(bench.archive.requests) == 6
    assert len(bench.heard.notices) == 3


def test_a_host_that_answers_again_is_asked_again(bench: Bench) -> None:
    bench.archive.statuses = [503] * 4
    bench.urls = ("/a", "/vmlinux-dbg.deb")
    assert bench.locate().proof
    shutil.rmtree(bench.cache)
    bench.archive.statuses = [503, 503]
    bench.urls = ("/vmlinux-dbg.deb",)
    assert bench.locate().proof


def test_a_refusal_is_final(bench: Bench) -> None:
    bench.archive.statuses = [404] * 10
    with pytest.raises(DebuginfoNotFound) as caught:
        bench.locate()
    assert caught.value.detail == "not there: 1 place (127.0.0.1)"
    assert len(bench.archive.requests) == 1


def test_a_host_that_takes_no_connection_is_asked_once(bench: Bench) -> None:
    url, bench.urls = bench.archive.url, ("/a", "/b", "/c")
    bench.archive.url = "http://127.0.0.1:9"
    with pytest.raises(DownloadFailed) as caught:
        bench.locate()
    bench.archive.url = url
    assert bench.heard.notices == []
    assert (caught.value.detail, caught.value.message.count("\n")) == (None, 0)
    assert f"of kernel {archives.RELEASE} was found: 127.0.0.1 is not reachable, no conn" in caught.value.message
    assert f"or bring linux-image-{archives.RELEASE}-dbg_{archives.VERSION}_amd64.deb" in caught.value.hint
    # One attempt is in the log, of three URLs.
    assert bench.heard.steps.count(f"Downloading linux-image-dbg {archives.VERSION}") == 1


def test_no_network_is_one_line_where_a_place_needs_a_subscription() -> None:
    search = SearchLog("4.18.0-80.el8.x86_64")
    search.note("https://cdn.example/a.rpm", CertificateMissing("a certificate is needed"))
    for host in ("one", "two"):
        search.note(f"https://{host}.example/a.rpm", Unreachable(f"https://{host}.example/a.rpm: no connection (no)"))
    error = search.to_error(files=("a.rpm",))
    assert (type(error), error.detail) == (DownloadFailed, None)
    assert error.message.endswith("was found: none of 2 hosts is reachable, no connection (no)")


def test_what_a_proxy_wants_is_in_the_hint() -> None:
    search = SearchLog("4.18.0-80.el8.x86_64")
    search.note("https://one.example/a.rpm", download.ProxyRefused("https://one.example/a.rpm: 407"))
    error = search.to_error(files=("a.rpm",))
    assert error.hint.startswith("what it wants: export https_proxy=")
    assert error.hint.endswith(", or bring a.rpm and give it: --debuginfo FILE")


def test_a_connection_that_is_lost_after_some_bytes_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.archive.cut_after = [100_000]
    refused = 2

    def answer(*arguments: object, **more: object) -> object:
        nonlocal refused
        if bench.archive.requests and refused:
            refused -= 1
            error = httpx.ConnectError("All connection attempts failed")
            error.__cause__ = ConnectionRefusedError()
            raise error
        return real(*arguments, **more)

    real = download.get
    monkeypatch.setattr(package_download, "get", answer)
    assert bench.locate().proof
    assert refused == 0


def test_resumes_after_a_killed_process(bench: Bench) -> None:
    part = bench.cache / "downloads" / f"{archives.sha256(bench.package)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bench.package[:400_000])
    (bench.cache / "debuginfo" / f".new-{archives.BUILD_ID}-killed").mkdir(parents=True)
    assert bench.locate().proof
    assert bench.archive.requests == [("/vmlinux-dbg.deb", "bytes=400000-")]
    assert bench.left_over() == []


@pytest.mark.parametrize("length", [400_000, 10_000_000])
def test_a_damaged_part_is_thrown_away(bench: Bench, length: int) -> None:
    part = bench.cache / "downloads" / f"{archives.sha256(bench.package)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(length))
    assert bench.locate().proof
    assert bench.archive.requests[-1] == ("/vmlinux-dbg.deb", None)


def test_a_complete_part_needs_no_network(bench: Bench) -> None:
    part = bench.cache / "downloads" / f"{archives.sha256(bench.package)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bench.package)
    assert bench.locate().proof
    assert bench.archive.requests == []


@pytest.mark.parametrize("wrong", [-1000, 1000])
def test_a_length_other_than_in_the_index_is_refused(bench: Bench, wrong: int) -> None:
    bench.archive.wrong_total = wrong
    with pytest.raises(VerificationFailed, match="bytes long, not"):
        bench.locate()
    assert bench.left_over() == []


def test_a_wrong_total_is_refused(bench: Bench) -> None:
    bench.size = None
    bench.archive.wrong_total = 1000
    with pytest.raises((DownloadFailed, VerificationFailed)):
        bench.locate()


def test_without_size_or_hash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.size = bench.sha256 = None
    with pytest.raises(VerificationFailed, match='verify is "strict"'):
        bench.locate()
    assert bench.archive.requests == []
    monkeypatch.setenv("VMBOX_VERIFY", "auto")
    bench.archive.ranges = False
    assert "no hash is known" in bench.locate().verification_detail


@pytest.mark.slow
def test_a_host_that_never_answers_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.get.__wrapped__, "__kwdefaults__", {"seconds": 0.1, "login": False})  # type: ignore[attr-defined]
    bench.archive.delay = 0.4
    bench.urls = ("/a", "/b")
    with pytest.raises(DownloadFailed, match="no debuginfo of kernel") as caught:
        bench.locate()
    assert caught.value.detail == "no answer in time: 2 places (127.0.0.1)"
    # A busy host may not even have taken the first request yet.
    assert {path for path, _ in bench.archive.requests} <= {"/a"}


def test_a_certificate_that_is_not_trusted_is_seen_once(
    bench: Bench, tls_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    forget_connections()
    bench.archive, bench.urls = tls_archive, ("/a", "/b")
    with pytest.raises(DownloadFailed, match="no debuginfo of kernel") as caught:
        bench.locate()
    assert caught.value.detail == (
        "certificate is not trusted: 2 places (127.0.0.1); unable to get local issuer certificate"
    )
    assert "export SSL_CERT_FILE=" in caught.value.hint
    assert bench.heard.notices == []
    assert bench.heard.steps.count(f"Downloading linux-image-dbg {archives.VERSION}") == 1
