"""The profiles' own URL templates, on loopback: vaults of point releases, and several vendors' builds of a release."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import archives
import certificates
import rpms
from archives import Archive
from sandbox import profiles
from sandbox.debuginfo import certificates as module, download, locate
from sandbox.errors import ConfigurationError, DebuginfoError, DebuginfoMismatch, DebuginfoNotFound
from sandbox.host import paths
from sandbox.model import Debuginfo, Vmcore

NAME = "kernel-debuginfo-4.18.0-80.el8.x86_64.rpm"
CDN = f"content/dist/rhel8/8/x86_64/baseos/debug/Packages/k/{NAME}"
PLACES = {
    "rocky": f"/dl.rockylinux.org/pub/rocky/8/BaseOS/x86_64/debug/tree/Packages/k/{NAME}",
    "rocky vault": f"/dl.rockylinux.org/vault/rocky/8.0/BaseOS/x86_64/debug/tree/Packages/k/{NAME}",
    "alma": f"/repo.almalinux.org/almalinux/8/BaseOS/debug/x86_64/Packages/{NAME}",
    "alma vault": f"/vault.almalinux.org/8/BaseOS/debug/x86_64/Packages/{NAME}",
    "centos": f"/debuginfo.centos.org/8/x86_64/Packages/{NAME}",
    "oracle": f"/oss.oracle.com/ol8/debuginfo/{NAME}",
}


@dataclass
class World:
    """This server is every host of the profile, and the test's key is every vendor's key."""

    archive: Archive
    cache: Path
    good: bytes
    other: bytes
    """The same release, built by another vendor."""
    notices: list[str] = field(default_factory=list)

    def locate(self, **changes: object) -> Debuginfo:
        fields: dict[str, object] = {
            "path": self.cache / "vmcore",
            "format": "elf",
            "size": 1,
            "release": rpms.RELEASE,
            "arch": "x86_64",
            "banner": rpms.BANNER,
            "build_id": archives.BUILD_ID,
        }
        vmcore = Vmcore(**(fields | changes))  # type: ignore[arg-type]
        return locate(vmcore, profiles.by_name("el8"), package_query=lambda *_: [], cache=self.cache)


@pytest.fixture
def world(tmp_path: Path, packages: rpms.Packages, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> World:
    keys = tmp_path / "config" / "images" / "keys"
    keys.mkdir(parents=True)
    for vendor in ("rocky-8", "alma-8", "centos-official", "centos-official-sha256", "oracle-8", "redhat-8"):
        shutil.copy(packages.key, keys / f"{vendor}.asc")
    monkeypatch.setattr(paths, "config_dir", lambda: tmp_path / "config")
    hosts = ("https://dl.rockylinux.org", "https://repo.almalinux.org", "https://vault.almalinux.org")
    hosts += ("http://debuginfo.centos.org", "https://oss.oracle.com", "https://cdn.redhat.com")
    mirrors = (f"{host}={archive.url}/{host.partition('//')[2]}" for host in hosts)
    monkeypatch.setenv("VMBOX_MIRRORS", " ".join(mirrors))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    other = packages.other.read_bytes()
    return World(archive=archive, cache=tmp_path / "cache", good=packages.files["xz blocks"].read_bytes(), other=other)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("vendor_known", [True, False])
def test_every_url_of_the_profile_works(world: World, place: str, vendor_known: bool) -> None:
    world.archive.files[PLACES[place]] = world.good
    found = world.locate(vendor=place.partition(" ")[0] if vendor_known else None)
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert "which Kernel Builders" in found.verification_detail


@pytest.mark.parametrize("build_id", [archives.BUILD_ID, None])
def test_a_build_of_another_vendor_is_skipped(world: World, build_id: str | None) -> None:
    world.archive.files[PLACES["rocky"]] = world.other
    world.archive.files[PLACES["oracle"]] = world.good
    found = world.locate(build_id=build_id)
    assert "oss.oracle.com" in found.origin
    assert found.proof == (f"build-id {build_id}" if build_id else "banner")
    with pytest.raises(DebuginfoMismatch):
        world.locate(build_id="00ff", vendor="rocky")


def test_only_the_vendor_is_asked(world: World) -> None:
    world.archive.files[PLACES["oracle"]] = world.good
    with pytest.raises(DebuginfoNotFound, match="no debuginfo") as caught:
        world.locate(vendor="alma")
    assert (caught.value.detail or "").startswith("not there: ")
    assert all("almalinux" in path for path, _ in world.archive.requests)


def test_rhel_is_fetched_only_from_its_cdn(world: World) -> None:
    with pytest.raises(DebuginfoNotFound, match="no debuginfo"):
        world.locate(vendor="rhel")
    trees = [CDN, *(CDN.replace("dist/rhel8/8/", f"{tree}/rhel8/8.0/") for tree in ("eus", "e4s", "aus", "tus"))]
    assert [path for path, _ in world.archive.requests] == [f"/cdn.redhat.com/{tree}" for tree in trees]


def test_without_a_subscription_the_cdn_is_not_asked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_USUAL", {world.archive.url: str(tmp_path / "nothing")})
    with pytest.raises(DebuginfoNotFound) as caught:
        world.locate(vendor="rhel")
    said = "needs a subscription, whose certificate is not on this host: 5 places (127.0.0.1 for cdn.redhat.com)"
    assert caught.value.detail == said
    assert NAME in caught.value.hint
    assert world.archive.requests == []


@pytest.mark.parametrize("tree", ["dist/rhel8/8", "eus/rhel8/8.0", "tus/rhel8/8.0"])
def test_client_certificate(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: str) -> None:
    """The server requires a client certificate of its authority, as Red Hat's CDN does."""
    made = certificates.make(tmp_path / "tls")
    world.archive.files[f"/{CDN.replace('dist/rhel8/8', tree)}"] = world.good
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "cert.pem", made / "key.pem")
    context.load_verify_locations(made / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)
    with archives.serve(Archive(files=world.archive.files), tls=context) as cdn:
        monkeypatch.setenv("VMBOX_MIRRORS", f"https://cdn.redhat.com={cdn.url}")
        authorities = tmp_path / "authorities"
        authorities.mkdir()
        shutil.copy(made / "ca.pem", authorities)
        monkeypatch.setattr(module, "_AUTHORITIES", authorities)
        with pytest.raises(DebuginfoError):
            world.locate(vendor="rhel")
        assert cdn.requests == []
        entitlement = tmp_path / "entitlement"
        entitlement.mkdir()
        shutil.copy(made / "cert.pem", entitlement / "1234.pem")
        shutil.copy(made / "key.pem", entitlement / "1234-key.pem")
        monkeypatch.setenv("VMBOX_CLIENT_CERTIFICATES", f"{cdn.url}={entitlement}")
        found = world.locate(vendor="rhel")
        assert "which Kernel Builders" in found.verification_detail
        (entitlement / "1234-key.pem").write_text("nothing of the kind")
        broken = module.certificate_for(f"{cdn.url}/x")
        assert broken is not None
        with pytest.raises(ConfigurationError, match="cannot be used"):
            module.context(broken)


def test_debuginfod(world: World, monkeypatch: pytest.MonkeyPatch, packages: rpms.Packages) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", f"ima:ignore {world.archive.url}")
    world.archive.files[f"/buildid/{archives.BUILD_ID}/debuginfo"] = packages.vmlinux
    world.archive.ranges = False
    found = world.locate(vendor="rhel")
    assert found.origin.endswith(f"/buildid/{archives.BUILD_ID}/debuginfo")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert found.vmlinux.stat().st_size < len(packages.vmlinux)
