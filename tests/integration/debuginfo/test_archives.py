"""The profiles' own URL templates, on loopback: vaults by point release, several vendors' builds of one release."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import archives
import rpms
from archives import Archive
from sandbox import paths, profiles
from sandbox.debuginfo import locate
from sandbox.errors import DebuginfoMismatch, DebuginfoNotFound
from sandbox.model import Debuginfo, Vmcore

NAME = "kernel-debuginfo-4.18.0-80.el8.x86_64.rpm"
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
    """Every host of the profile is this server; every vendor's key is the test's."""

    archive: Archive
    cache: Path
    good: bytes
    other: bytes
    """The same release, by another builder."""
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
        return locate(vmcore, profiles.by_name("el8"), oracle=lambda _: [], cache=self.cache)


@pytest.fixture
def world(tmp_path: Path, packages: rpms.Packages, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> World:
    keys = tmp_path / "config" / "images" / "keys"
    keys.mkdir(parents=True)
    for name in ("rocky-8.asc", "alma-8.asc", "centos-official.asc", "centos-official-sha256.asc", "oracle-8.asc"):
        shutil.copy(packages.key, keys / name)
    monkeypatch.setattr(paths, "config_dir", lambda: tmp_path / "config")
    hosts = ("https://dl.rockylinux.org", "https://repo.almalinux.org", "https://vault.almalinux.org")
    hosts += ("http://debuginfo.centos.org", "https://oss.oracle.com")
    mirrors = (f"{host}={archive.url}/{host.partition('//')[2]}" for host in hosts)
    monkeypatch.setenv("VMBOX_MIRRORS", " ".join(mirrors))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    other = packages.other.read_bytes()
    return World(archive=archive, cache=tmp_path / "cache", good=packages.files["xz blocks"].read_bytes(), other=other)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("vendor_known", [True, False])
def test_every_place(world: World, place: str, vendor_known: bool) -> None:
    world.archive.files[PLACES[place]] = world.good
    found = world.locate(vendor=place.partition(" ")[0] if vendor_known else None)
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert "which Kernel Builders" in found.verified


@pytest.mark.parametrize("build_id", [archives.BUILD_ID, None])
def test_another_vendor_s_build_of_the_release(world: World, build_id: str | None) -> None:
    world.archive.files[PLACES["rocky"]] = world.other
    world.archive.files[PLACES["oracle"]] = world.good
    found = world.locate(build_id=build_id)
    assert "oss.oracle.com" in found.origin
    assert found.proof == (f"build-id {build_id}" if build_id else "banner")
    with pytest.raises(DebuginfoMismatch):
        world.locate(build_id="00ff", vendor="rocky")


def test_only_the_vendor_is_asked(world: World) -> None:
    world.archive.files[PLACES["oracle"]] = world.good
    with pytest.raises(Exception, match="404"):
        world.locate(vendor="alma")
    assert all("almalinux" in path for path, _ in world.archive.requests)


def test_nobody_publishes_rhel_s(world: World) -> None:
    with pytest.raises(DebuginfoNotFound) as caught:
        world.locate(vendor="rhel")
    assert "none of rhel is known to have it" in (caught.value.detail or "")


def test_debuginfod(world: World, monkeypatch: pytest.MonkeyPatch, packages: rpms.Packages) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", f"ima:ignore {world.archive.url}")
    world.archive.files[f"/buildid/{archives.BUILD_ID}/debuginfo"] = packages.vmlinux
    world.archive.ranges = False
    found = world.locate(vendor="rhel")
    assert found.origin.endswith(f"/buildid/{archives.BUILD_ID}/debuginfo")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert found.vmlinux.stat().st_size < len(packages.vmlinux)
