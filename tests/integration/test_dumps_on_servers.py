"""A dump behind HTTP: what is read of it, what is fetched, and what a server may do in between. The server is real."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import sandbox
from archives import Archive, serve
from dump_servers import flatten
from engines import INFO
from sandbox.case import dumps, kept_dumps, views
from sandbox.cli import app
from sandbox.debuginfo import download
from sandbox.dump import identify
from sandbox.errors import (
    ConfigurationError,
    DumpNotFound,
    DumpUnreadable,
    EvidenceChanged,
    NoSpace,
    NotADump,
    UsageError,
)
from sandbox.remote import described, file, http, pages
from sandbox.remote.naming import named
from sandbox.remote.source import RemoteSource
from sandbox.render import size

DUMP = Path(__file__).resolve().parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
CONTENT = DUMP.read_bytes()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    for name in ("CACHE", "RUNTIME"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"VMBOX_{name}_DIR", str(tmp_path / name))
    monkeypatch.setattr(download, "FIRST_WAIT", 0.01)
    with serve(Archive(files={"/vmcore": CONTENT}, headers={"ETag": '"1"'})) as archive:
        yield archive


def url(site: Archive, path: str = "/vmcore") -> str:
    return site.url + path


def vmbox(*words: object, status: int | None = 0) -> str:
    """What is printed on standard output, or with another status on standard error."""
    argv = [sys.executable, "-m", "sandbox", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "SECRET" not in done.stdout + done.stderr
    assert done.returncode == status or (status is None and done.returncode > 1), done.stderr
    return done.stderr if status != 0 else done.stdout


def test_it_is_identified_as_the_file_is(site: Archive) -> None:
    here, there = identify(DUMP), dumps.identify(described.local(named(url(site))))
    for name in ("format", "release", "build_id", "panic", "cause", "complete", "nr_cpus", "size", "uptime_seconds"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.complete is True


def test_only_what_is_needed_is_fetched_and_only_once(site: Archive) -> None:
    site.files["/vmcore"] = CONTENT + os.urandom(64 << 20)
    path = described.local(named(url(site)))
    assert dumps.identify(path).release == identify(DUMP).release
    assert site.sent < 1 << 20
    with RemoteSource(path) as source:
        assert source.read_at(40_000_000, 100) == site.files["/vmcore"][40_000_000:40_000_100]
        sent = site.sent
        assert source.read_at(40_000_000, 200) == site.files["/vmcore"][40_000_000:40_000_200]
        assert site.sent == sent
        assert source.read_at(len(CONTENT) - 10, 1 << 20) == site.files["/vmcore"][len(CONTENT) - 10 :][: 1 << 20]
        assert source.read_at(len(site.files["/vmcore"]) - 5, 10) == site.files["/vmcore"][-5:]
        assert source.read_at(len(site.files["/vmcore"]), 10) == b""


def test_what_was_fetched_by_one_process_is_there_for_the_next(site: Archive) -> None:
    path = described.local(named(url(site)))
    here = dumps.identify(path)
    sent = site.sent
    assert dumps.identify(path) == here
    assert b"".join(line + b"\n" for line in dumps.read_log(path)) == b"".join(
        line + b"\n" for line in dumps.read_log(DUMP)
    )
    assert site.sent == sent
    # What a power failure left of a page is not read.
    pages = path.parent / "pages"
    damaged = bytearray(pages.read_bytes())
    damaged[-1000:-500] = bytes(500)
    pages.write_bytes(damaged)
    with RemoteSource(path) as source:
        assert source.read_at(0, len(CONTENT)) == CONTENT
    assert site.sent > sent


def test_every_command_that_reads_a_dump_takes_its_url(site: Archive) -> None:
    told = url(site, "/vmcore?X-Signature=SECRET")

    assert vmbox("dmesg", told) == vmbox("dmesg", DUMP) != ""
    site.requests.clear()
    first = vmbox("verify", told)
    assert first.split() == [hashlib.sha256(CONTENT).hexdigest(), f"{site.url}/vmcore?X-Signature=***"]
    assert [asked for _, asked in site.requests][-1] == f"bytes=0-{len(CONTENT) - 1}"
    assert vmbox("verify", told) == first
    assert json.loads(vmbox("info", "--json", told))["path"] == f"{site.url}/vmcore?X-Signature=***"
    assert f"vmbox.dev/dump: {site.url}/vmcore?X-Signature=***" in vmbox("kube", told)
    assert vmbox("dmesg", f"file://{DUMP}") == vmbox("dmesg", DUMP) == vmbox("dmesg", f"file://localhost{DUMP}")
    site.files["/vmcore"] = CONTENT[:-1] + b"x"
    assert "not what was recorded" in vmbox("verify", told, status=EvidenceChanged.exit_code)
    # Signed again it is the same dump, and with another value of the server's own another one.
    again = url(site, "/vmcore?X-Amz-Signature=OTHER")
    first_of_all, another = (url(site, f"/vmcore?file={number}&X-Amz-Signature=SECRET") for number in (1, 2))
    vmbox("verify", first_of_all)
    site.files["/vmcore"] = CONTENT
    vmbox("verify", another)
    assert "not what was recorded" in vmbox("verify", first_of_all, status=EvidenceChanged.exit_code)
    assert vmbox("verify", url(site)) == vmbox("verify", again).replace("?X-Amz-Signature=***", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["triage", "URL"], "is on a server, and only files are read here"),
        (["info", "gs://bucket/vmcore"], "is a URL of a kind that is not read"),
    ],
)
def test_what_reads_no_url_says_so(site: Archive, words: list[str], said: str) -> None:
    assert said in vmbox(*(url(site) if word == "URL" else word for word in words), status=None)
    assert not site.requests


def test_pages_that_were_fetched_first_go_first(site: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_PAGE_LIMIT", str(3 * pages.PAGE))
    site.files["/vmcore"] = whole = os.urandom(4 << 20)
    with RemoteSource(described.local(named(url(site)))) as source:
        for offset in (0, 1 << 20, 3 << 20, 2 << 20, 0, 3 << 20, 1 << 19):
            assert source.read_at(offset, 1000) == whole[offset : offset + 1000]
            source._recent.clear()
        assert [source._pages.get(page) is not None for page in (0, 8, 16, 24, 4)] == [True, False, True, False, True]
        assert (source.path.parent / "pages").stat().st_size <= 4096 + 3 * pages.PAGE
        # A process with a larger limit goes on with them, one with a smaller limit begins again.
        for limit, there in ((5, True), (3, True), (2, False)):
            monkeypatch.setenv("VMBOX_PAGE_LIMIT", str(limit * pages.PAGE))
            with RemoteSource(source.path) as other:
                assert (other._pages.get(0) is not None) == there


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount that containers see needs root, or their namespace")
def test_a_case_gets_it_as_a_file_with_nothing_else(site: Archive) -> None:
    path = described.local(named(url(site)))
    server = views.serve(dumps.identify(path), INFO)
    assert server is not None
    assert server.files[0].read_bytes() == CONTENT
    server.close()


def test_what_is_cut_or_refused_for_a_moment_is_asked_again(site: Archive) -> None:
    path = described.local(named(url(site)))
    site.statuses, site.cut_after = [503, 0, 429], [1 << 20, 1000, 1 << 20, 500]
    assert dumps.identify(path).panic == identify(DUMP).panic
    assert not site.statuses


@pytest.mark.parametrize(
    "mark", [{"ETag": '"2"'}, {"Last-Modified": "Fri, 27 Nov 2026 14:00:00 GMT"}], ids=["etag", "time"]
)
def test_a_dump_that_is_replaced_is_another_dump_and_never_mixed(site: Archive, mark: dict[str, str]) -> None:
    path = described.local(named(url(site)))
    identity = path.stat().st_mtime_ns
    with RemoteSource(path) as source:
        assert source.read_at(0, 10) == CONTENT[:10]
        site.headers, site.files["/vmcore"] = mark, CONTENT[:8] + bytes(len(CONTENT) - 8)
        with pytest.raises(DumpUnreadable, match="replaced while it was read"):
            source._file.read_at(5, 10)
    said: list[str] = []

    class Said:
        def notice(self, line: str) -> None:
            said.append(line)

    assert described.local(named(url(site)), Said()) == path  # type: ignore[arg-type]
    assert "another dump" in said[0]
    assert path.stat().st_mtime_ns != identity
    said.clear()
    described.local(named(url(site)), Said())  # type: ignore[arg-type]
    assert not said


def test_a_signature_in_a_url_is_not_said(site: Archive, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "vmbox")
    path = described.local(named(url(site, "/vmcore?X-Signature=SECRET")))
    assert [path for path, _ in site.requests] == ["/vmcore?X-Signature=SECRET"]
    assert (path.name, described.name(path).endswith("/vmcore?X-Signature=***")) == ("vmcore", True)
    assert "SECRET" not in str(path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    site.statuses = [403]
    with pytest.raises(DumpUnreadable) as refused:
        described.local(named(url(site, "/vmcore?X-Signature=SECRET")))
    assert "SECRET" not in f"{refused.value.message} {refused.value.hint} {caplog.text}"
    assert "403" in refused.value.message


def test_a_redirect_to_another_host_is_followed(site: Archive) -> None:
    with serve(Archive(files=site.files)) as other:
        site.redirect = other.url
        assert dumps.identify(described.local(named(url(site)))).panic == identify(DUMP).panic


@pytest.mark.parametrize("fault", ["whole files only", "other parts", "no such range"])
def test_a_small_file_is_read_where_the_server_sends_no_parts_of_it(site: Archive, fault: str, tmp_path: Path) -> None:
    """A log mostly, of a mail archive, a bug tracker or a paste."""
    match fault:
        case "whole files only":
            site.ranges = False
        case "other parts":
            site.shift = 5
        case _:
            site.no_such_range = True
    log = vmbox("dmesg", DUMP)
    site.files["/log"] = log.encode()
    del site.headers["ETag"]
    assert vmbox("dmesg", url(site, "/log")) == log
    assert vmbox("info", url(site)).replace(url(site), str(DUMP)) == vmbox("info", DUMP)
    assert not list((tmp_path / "CACHE" / "dumps").glob("*.download"))
    site.files["/log"] = log.replace("sysrq triggered", "sysrq replaced ").encode()
    with RemoteSource(described.known(named(url(site, "/log")))) as source:
        assert source.read_at(0, 100) == log.encode()[:100]
    assert "sysrq replaced" in vmbox("info", url(site, "/log"))


def test_an_empty_file_is_said_to_be_empty(site: Archive) -> None:
    site.no_such_range = True
    site.files["/vmcore"] = b""
    said = vmbox("info", url(site), status=NotADump.exit_code)
    assert f"{url(site)} is empty" in said


def test_a_server_that_sends_whole_files_only_is_refused_with_the_way_out(
    site: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_WHOLE", 1000)
    site.ranges = False
    site.files["/vmcore"] = CONTENT + bytes(3_000_000 - len(CONTENT) % 1_000_000)
    with pytest.raises(DumpUnreadable, match=f"whole files only, of {size(len(site.files['/vmcore']))}") as caught:
        described.local(named(url(site)))
    assert caught.value.hint.endswith(f"vmbox info --download {url(site)}")
    secret = file.NotInParts("https://me:secret@host.example/vmcore", "whole files only")
    assert secret.hint.endswith("vmbox info --download URL")
    site.files["/vmcore"] = CONTENT
    site.cut_after = [1000]
    told = vmbox("info", "--download", url(site))
    assert "sysrq" in told
    asked = len(site.requests)
    # All other commands read the copy now, and ask the server for nothing.
    assert vmbox("dmesg", url(site)) == vmbox("dmesg", DUMP)
    assert described.local(named(url(site))).read_bytes() == CONTENT
    assert described.local(named(url(site))).stat().st_mode & 0o777 == 0o600
    assert len(site.requests) == asked
    vmbox("close", url(site))
    with pytest.raises(DumpUnreadable):
        described.local(named(url(site)))


def test_a_page_in_the_place_of_a_dump_is_no_dump_and_is_not_downloaded(site: Archive, tmp_path: Path) -> None:
    site.ranges = False
    site.files["/vmcore"] = b"<!DOCTYPE html><html><body>Log in" + bytes(5000)
    for words in (["info"], ["info", "--download"], ["run"]):
        said = vmbox(*words, url(site), status=NotADump.exit_code)
        assert f"{site.url}/vmcore is an HTML page, not a kernel crash dump" in said
        assert "hint: is it a login?" in said
    assert not list((tmp_path / "CACHE" / "dumps").glob("*.download"))


def test_two_slashes_of_a_signature_reach_the_server(site: Archive) -> None:
    signed = f"{site.url}/vmcore?signature=SECRET//a/b"
    assert "sysrq" in vmbox("info", signed.replace("http://", "HTTP://"))
    assert {path for path, _ in site.requests} == {"/vmcore?signature=SECRET//a/b"}


def test_the_library_asks_for_the_url_as_it_is(site: Archive) -> None:
    """`Path` would write // as /, and drop the last /."""
    asked = "/a//b/vmcore?signature=SECRET//a/"
    site.files["/a//b/vmcore"] = CONTENT
    assert sandbox.identify(url(site, asked)).panic == identify(DUMP).panic
    assert len(list(sandbox.dmesg(url(site, asked)))) > 100
    assert {path for path, _ in site.requests} == {asked}


def test_a_download_by_ranges_goes_on_after_a_cut_and_leaves_nothing_half(
    site: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bz2

    site.files["/vmcore.bz2"] = bz2.compress(CONTENT)
    site.cut_after = [1 << 20, 5000, 7000]
    copy = described.download(named(url(site, "/vmcore.bz2")))
    assert copy.read_bytes() == site.files["/vmcore.bz2"]
    assert site.requests[-1][1].startswith("bytes=12000-")  # type: ignore[union-attr]
    described.forget(copy)
    monkeypatch.setattr("sandbox.host.disk.shutil.disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    with pytest.raises(NoSpace):
        described.download(named(url(site, "/vmcore.bz2")))
    assert not copy.parent.exists()
    with pytest.raises(UsageError, match="on this host"):
        described.download(DUMP)


FAULTS = {
    "not the part that was asked for": ({"shift": 5}, "does not send the range"),
    "encoded on the way": ({"headers": {"ETag": '"1"', "Content-Encoding": "gzip"}}, "sends it encoded"),
    "another length": ({"wrong_total": 1}, "bytes long, not"),
    "not the user's": ({"statuses": [403] * 9}, "403"),
    "overloaded for good": ({"statuses": [503] * 9}, "503"),
    "stalled": ({"delay": 0.6}, "no answer in time"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_server_that_fails_gives_an_error_in_time_and_never_false_bytes(
    site: Archive, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_SECONDS", 0.2)
    monkeypatch.setattr(http, "_WHOLE", 1000)
    path = described.local(named(url(site)))
    for name, value in FAULTS[fault][0].items():
        setattr(site, name, value)
    began = time.monotonic()
    with RemoteSource(path) as source:
        with pytest.raises(DumpUnreadable, match=FAULTS[fault][1]):
            source.read_at(0, 4096)
        asked = len(site.requests)
        # The kernel asks more than once for one read, and must not wait as often.
        with pytest.raises(DumpUnreadable):
            source.read_at(0, 4096)
        assert len(site.requests) == asked
    assert time.monotonic() - began < 10


def test_a_length_that_is_too_large_takes_nothing_away(site: Archive) -> None:
    path = described.local(named(url(site)))
    site.claimed = 1 << 40
    with RemoteSource(path) as source:
        assert source.read_at(0, len(CONTENT)) == CONTENT


def test_a_file_that_is_compressed_is_no_encoding_of_another(site: Archive) -> None:
    import gzip

    site.files["/vmcore.gz"] = gzip.compress(CONTENT)
    site.headers["Content-Encoding"] = "x-gzip"
    assert dumps.identify_inside_of(named(url(site, "/vmcore.gz")), unpacking=True).panic == identify(DUMP).panic


def test_a_login_of_netrc_is_for_its_host_only(site: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "netrc"
    place.write_text("machine 127.0.0.1 login me password SECRET\ndefault login any password SECRET\n")
    place.chmod(0o600)
    monkeypatch.setenv("NETRC", str(place))
    site.login = "me:SECRET"
    assert "sysrq" in vmbox("info", url(site))
    assert set(site.logins) == {"me:SECRET"}
    with serve(Archive(files=site.files)) as other:
        site.redirect = other.url.replace("127.0.0.1", "localhost")
        described.local(named(url(site, "/vmcore?again")))
        assert other.logins == [None]
    place.write_text("machine 127.0.0.1 SECRET\n")
    assert "cannot be read" in vmbox("info", url(site), status=ConfigurationError.exit_code)


def test_credentials_in_a_url_do_not_follow_a_redirect(site: Archive) -> None:
    with serve(Archive(files=site.files)) as other:
        site.redirect = other.url
        given = str(url(site)).replace("127.0.0.1", "me:SECRET@127.0.0.1")
        path = described.local(named(given))
        assert (site.logins, other.logins) == (["me:SECRET"], [None])
        assert "SECRET" not in described.name(path)


def test_a_proxy_is_used_as_the_environment_says(site: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    site.files["http://dumps.invalid/vmcore"] = CONTENT
    assert "sysrq" in vmbox("info", "http://dumps.invalid/vmcore")


def test_a_proxy_that_lets_nothing_by_is_named(site: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.replace("//", "//me:SECRET@"))
    monkeypatch.setenv("https_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    site.statuses = [407]
    said = vmbox("info", "http://dumps.invalid/vmcore", status=DumpUnreadable.exit_code)
    assert f"by the proxy {site.url.replace('//', '//***@')}: 407 " in said
    assert "http://USER:PASSWORD@HOST:PORT" in said
    # To TLS it has no way at all.
    said = vmbox("info", "https://dumps.invalid/vmcore", status=DumpUnreadable.exit_code)
    assert f"by the proxy {site.url}: 501 " in said
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    said = vmbox("info", "http://dumps.invalid/vmcore", status=DumpUnreadable.exit_code)
    assert "by the proxy http://127.0.0.1:9: no connection" in said


def test_a_missing_file_is_said(site: Archive) -> None:
    with pytest.raises(DumpNotFound, match="there is no file http://127"):
        described.local(named(url(site, "/nothing")))


def test_a_log_on_a_server_is_read_as_the_file_is(site: Archive, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"".join(line + b"\n" for line in dumps.read_log(DUMP)))
    site.files["/console.log"] = log.read_bytes()
    there = url(site, "/console.log?X-Signature=SECRET")
    assert vmbox("dmesg", there) == vmbox("dmesg", log)
    here, told = (json.loads(vmbox("info", "--json", one)) for one in (log, there))
    assert (told["format"], told["panic"], told["release"]) == ("log", here["panic"], here["release"])
    assert told["path"] == f"{site.url}/console.log?X-Signature=***"
    assert f"{site.url}/console.log?X-Signature=*** tells of a crash" in vmbox("run", there, "--", "bt", status=10)
    site.files["/console.log"] = b"Good morning\n"
    assert f"{site.url}/console.log?X-Signature=*** is text, but no kernel log" in vmbox("info", there, status=12)
    assert f"{site.url}/console.log?X-Signature=*** is text, but no kernel log" in vmbox("decode", there, status=12)


def test_what_is_kept_is_read_without_what_asks_servers(site: Archive) -> None:
    path = described.local(named(url(site)))
    list(dumps.read_log(path))
    code = f"""
import sys
from sandbox.case import dumps
from sandbox.remote import described, naming
named = naming.named({url(site)!r})
assert described.is_known(named)
print(len(list(dumps.read_log(described.known(named)))))
print(*{{"sandbox.remote.http", "sandbox.debuginfo", "ssl"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(list(dumps.read_log(DUMP))))]


def test_of_what_would_take_all_of_it_the_beginning_is_told(site: Archive) -> None:
    import bz2

    site.files["/vmcore.bz2"] = bz2.compress(CONTENT) + os.urandom(65 << 20)
    told = dumps.identify(named(url(site, "/vmcore.bz2")))
    assert (told.release, told.panic, told.wrappers) == (identify(DUMP).release, None, ("bz2",))
    assert told.skipped is not None
    assert site.sent < 2 << 20
    with pytest.raises(DumpUnreadable, match="takes all of it"):
        dumps.identify_inside_of(named(url(site, "/vmcore.bz2")), unpacking=True)


def test_a_gzip_file_on_a_server_is_indexed_where_its_pages_can_be_kept(
    site: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    site.files["/vmcore.gz"] = gzip.compress(CONTENT)
    assert dumps.identify_inside_of(named(url(site, "/vmcore.gz")), unpacking=True).panic == identify(DUMP).panic
    monkeypatch.setenv("VMBOX_PAGE_LIMIT", str(len(site.files["/vmcore.gz"])))
    described.forget(described.known(named(url(site, "/vmcore.gz"))))
    with pytest.raises(DumpUnreadable, match="takes all of it"):
        dumps.identify_inside_of(named(url(site, "/vmcore.gz")), unpacking=True)


def test_a_flattened_dump_on_a_server_is_indexed_when_all_of_it_is_asked_for(site: Archive) -> None:
    site.files["/vmcore"] = flatten(CONTENT, 1)
    told = dumps.identify(named(url(site)))
    assert (told.release, told.flattened, told.panic) == (identify(DUMP).release, True, None)
    assert told.skipped is not None
    whole = dumps.identify_inside_of(named(url(site)), unpacking=True)
    assert (whole.panic, whole.complete, whole.flattened) == (identify(DUMP).panic, True, True)
    # The index is kept: the beginning tells all now.
    assert dumps.identify(named(url(site))).panic == whole.panic
    assert list(dumps.read_log(named(url(site)))) == list(dumps.read_log(DUMP))
    site.files["/backwards"] = flatten(CONTENT)
    assert dumps.identify(named(url(site, "/backwards"))).panic == whole.panic


def test_a_dump_that_an_archive_on_a_server_stores_is_read_there(site: Archive, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "crash.tar", "w") as tar:
        tar.add(DUMP, "crash/vmcore")
    site.files["/crash.tar"] = (tmp_path / "crash.tar").read_bytes()
    assert dumps.identify(described.local(named(url(site, "/crash.tar")))).panic == identify(DUMP).panic


def test_a_warm_run_asks_the_server_for_the_version_once_a_minute(site: Archive) -> None:
    path = described.local(named(url(site)))
    assert described.is_known(named(url(site)))
    os.utime(path.parent, (0, time.time() - 61))
    assert not described.is_known(named(url(site)))
    described.local(named(url(site)))
    assert described.is_known(named(url(site)))
    assert described.is_known(DUMP)
    assert not described.is_known(named(url(site, "/other")))


def test_what_was_not_used_for_long_is_removed(site: Archive, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.write_bytes(flatten(CONTENT, 1) + bytes(64 << 20))
    path = described.local(named(url(site)))
    dumps.identify(path)
    dumps.identify_inside_of(flat, unpacking=False)
    (index,) = path.parent.parent.glob("*/pieces")
    assert kept_dumps.prune() == []
    for one in (path, path.with_name("pages"), index):
        os.utime(one, (0, 0))
    # What is used counts from then on.
    dumps.identify(flat)
    assert kept_dumps.prune() == [path.parent]
    assert (path.parent.exists(), index.exists()) == (False, True)
    os.utime(index, (0, 0))
    assert kept_dumps.prune() == [index.parent]
    assert not index.parent.exists()


def test_closing_by_the_url_removes_what_stands_for_it(site: Archive, tmp_path: Path) -> None:
    given = f"{site.url}/vmcore?X-Signature=SECRET"
    path = described.local(named(given))
    assert described.known(named(given)) == path
    # The case of a test without an engine: it has ended by itself.
    closed = CliRunner().invoke(app, ["close", given])
    assert closed.exit_code == 0, closed.stderr
    assert not path.parent.exists()
    assert f"no open case matches {site.url}/vmcore?X-Signature=***" in vmbox("close", given, status=None)
