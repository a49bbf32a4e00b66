"""Scripts of maintainers: the support matrix is made from the profiles, and the probe knows all their URLs."""

from __future__ import annotations

import http.server
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from listening import listening
from sandbox import image, profiles
from sandbox.errors import ConfigurationError
from upkeep import asking, probe, probes, support_matrix

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def server() -> Iterator[str]:
    """A registry that requires a token, and a mirror with one index."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            if self.headers.get("Authorization") != "Bearer t":
                realm = f"http://127.0.0.1:{self.server.server_port}/token"  # type: ignore[attr-defined]
                self.send_response(401)
                self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="x",scope="repository:a:pull"')
            elif self.path == "/v2/library/debian/manifests/12-slim":
                self.send_response(200)
                self.send_header("Docker-Content-Digest", DIGEST)
            else:
                self.send_response(404)
            self.end_headers()

        def do_GET(self) -> None:
            body = b'{"token": "t"}' if self.path.startswith("/token?") else b"x"
            there = self.path.startswith("/token?") or self.path == "/debian/dists/bookworm/InRelease"
            self.send_response(200 if there else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as port:
        yield f"127.0.0.1:{port}"


def test_the_support_matrix_is_up_to_date() -> None:
    assert support_matrix.page() == support_matrix.FILE.read_text(), "make it again: python -m upkeep.support_matrix"


def test_every_tested_profile_is_in_an_e2e_test() -> None:
    said = {name for name, profile in profiles.load().items() if profile.tested is not None}
    tests = "".join(file.read_text() for file in Path(__file__).parents[1].joinpath("e2e").glob("*.py"))
    assert {name for name in said if f'"{name}"' not in tests} == set()


@pytest.mark.slow
def test_every_place_of_the_profiles_is_probed() -> None:
    asked = [one for profile in profiles.load().values() for one in probes.probes(profile)]
    assert {one.profile for one in asked if one.kind == "base"} == set(profiles.load())
    urls = {one.url for one in asked}
    assert "https://vault.centos.org/7.9.2009/os/x86_64/" in urls
    assert "http://archive.debian.org/debian/dists/buster" in urls
    assert "https://oss.oracle.com/ol9/debuginfo/kernel-uek-debuginfo-6.12.0-104.43.4.el9uek.x86_64.rpm" in urls
    # Repositories, lists of their versions, and the archives of the past.
    assert "https://cdn.amazonlinux.com/al2023/core/releasemd.xml" in urls
    assert "https://cdn.amazonlinux.com/al2023/core/mirrors/latest/debuginfo/x86_64/mirror.list" in urls
    assert "https://download.opensuse.org/debug/tumbleweed/repo/oss/" in urls
    snapshots = "http://snapshot.debian.org/archive/debian-security"
    assert f"{snapshots}/20240507T000000Z/dists/bookworm-security" in urls
    assert "http://ports.ubuntu.com/ubuntu-ports/dists/jammy" not in urls
    assert not [url for url in urls if "{" in url or "$" in url]


@pytest.mark.slow
def test_each_profile_that_publishes_debuginfo_has_kernels_to_probe() -> None:
    for name, profile in profiles.load().items():
        rules = profile.debuginfo
        published = rules is not None and rules.packages and "" not in rules.unpublished
        assert bool(probes.three(probes.kernels(profile))) == bool(published), name


@pytest.mark.slow
def test_probe_and_pin(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMBOX_MIRRORS", f"docker.io={server} http://deb.debian.org=http://{server}")
    digests = tmp_path / "config" / "images" / "digests.toml"
    digests.parent.mkdir(parents=True)
    places = ["--memory", str(tmp_path / "memory"), "--page", str(tmp_path / "page.md"), "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["probe", "debian-12", "--pin", "--pin-to", str(digests), *places])
    # This mirror has a base and nothing else.
    assert probe.main() == 1
    said = capsys.readouterr()
    lines = [line.split("\t") for line in said.out.splitlines()]
    assert ["debian-12", "base", "", DIGEST, f"{server}/library/debian:12-slim"] in lines
    assert ["debian-12", "base", "", "no: 404", f"{server}/library/debian:12"] in lines
    (unsigned,) = (line for line in lines if line[-1] == f"http://{server}/debian/dists/bookworm" and "pack" in line[1])
    assert unsigned[3].startswith("no: its signature")
    assert "debian-12: nothing has its packages" in said.err.splitlines()
    assert "* debian-12: nothing has its debuginfo of 6.1.0-44-amd64\n" in (tmp_path / "page.md").read_text()
    # The pinned digest is pulled, from the site's mirror.
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path / "config"))
    profiles.digests.cache_clear()
    try:
        assert image.base_references(profiles.by_name("debian-12")) == [
            f"{server}/library/debian@{DIGEST}",
            f"{server}/library/debian:12",
        ]
        digests.write_text('"a:1" = "latest"\n')
        profiles.digests.cache_clear()
        with pytest.raises(ConfigurationError, match="not a digest"):
            profiles.digests()
    finally:
        profiles.digests.cache_clear()


def test_the_day_of_the_newest_crash_is_renewed_where_all_of_it_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "latest.toml"
    before = probe.LATEST.read_text()
    file.write_text(before)
    monkeypatch.setattr(probe, "LATEST", file)
    latest = profiles.by_name("latest")
    good = [
        asking.Seen(probe=one, good=one.kind != "base", said="")
        for one in probes.probes(latest)
        if one.kind in {"base", "packages", "crash"}
    ]
    probe.pin([one for one in good if one.probe.kind != "crash"], tmp_path / "digests.toml")
    assert file.read_text() == before
    probe.pin(good, tmp_path / "digests.toml")
    now = profiles.loading.read(file).image.snapshot
    assert now == f"http://snapshot.debian.org/archive/debian/{datetime.now(UTC):%Y%m%d}T000000Z"


def test_each_host_gets_one_request_a_second() -> None:
    pace = asking.Pace(seconds=0.1)
    began = time.monotonic()
    for url in ("http://a.example/1", "http://b.example/1", "http://a.example/2", "http://a.example/3"):
        pace.wait(url)
    assert 0.2 <= time.monotonic() - began < 2


def test_a_missing_server_is_reported() -> None:
    with httpx.Client(timeout=5) as client:
        one = probes.Probe(profile="x", kind=probes.Kind.PACKAGES, url="http://127.0.0.1:9/x")
        seen = asking.Asker(client).ask(one)
    assert (seen.good, seen.reached) == (False, False)
    assert "refused" in seen.said


def test_a_host_that_could_not_be_reached_is_asked_again(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--memory", str(tmp_path / "memory"), "--page", str(tmp_path / "page.md"), "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["probe", "debian-12", *places])
    monkeypatch.setenv("VMBOX_MIRRORS", "docker.io=127.0.0.1:9 http://deb.debian.org=http://127.0.0.1:9")
    monkeypatch.setattr(probe, "probes", lambda profile: [one for one in probes.probes(profile) if one.kind == "base"])
    assert probe.main() == 1
    assert capsys.readouterr().err == "debian-12: no place could be reached that has its base\n"
    assert (tmp_path / "memory").read_text() == ""
    monkeypatch.setenv("VMBOX_MIRRORS", f"docker.io={server} http://deb.debian.org=http://{server}")
    assert probe.main() == 0


def test_a_probe_that_is_ended_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(probes.probes(profiles.by_name("debian-12")))

    def ended(self: asking.Asker, one: probes.Probe) -> asking.Seen:
        if one == first:
            raise KeyboardInterrupt
        self.pace.wait("http://archive.example/")
        return asking.Seen(probe=one, good=True, said="")

    words = ["probe", "debian-12", "--memory", str(tmp_path / "memory"), "--seconds", "60"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(asking.Asker, "ask", ended)
    began = time.monotonic()
    assert probe.main() == 130
    # It does not wait for those whose turn has not come.
    assert time.monotonic() - began < 30
    assert capsys.readouterr() == ("", "stopped: the same command goes on from here\n")
