"""Mirrors on loopback that `tools/probe-profiles --loopback` asks in place of the world's.

Suites are signed with gpg, repositories made by createrepo_c of packages that rpmbuild and rpmsign made; the test's key
is every vendor's. What is where is what the audit of the real ones says: of three kernels the newest is in the live
archive, and an older one in a vault, an earlier version, or a suite of the past.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import archives
import rpms
import standins
from archives import Archive
from sandbox import profiles
from sandbox.debuginfo import download
from sandbox.debuginfo.package_names import package_names
from sandbox.host import paths
from upkeep.probes import kernels, three

PROFILES: Final = ("amazon-2023", "debian-12", "el8", "sles-15")


@contextmanager
def probe_mirrors() -> Iterator[Path]:
    """Serve the mirrors, and set the settings by which they are asked. Yields a directory for scratch."""
    before = dict(os.environ)
    with (
        tempfile.TemporaryDirectory(prefix="vmbox-probe-") as scratch,
        archives.serve(Archive(files={})) as archive,
    ):
        world = _World(directory=Path(scratch), archive=archive, signer=rpms.Signer.new(Path(scratch)))
        os.environ["VMBOX_CONFIG_DIR"] = str(world.directory / "config")
        world.trust()
        profiles.load.cache_clear()
        waiting, download.FIRST_WAIT = download.FIRST_WAIT, 0.001
        try:
            hosts = [host for make in (world.debian, world.el8, world.amazon, world.suse) for host in make()]
            mirrors = [f"{host}={archive.url}/{host.partition('//')[2]}" for host in hosts]
            registry = archive.url.partition("//")[2]
            mirrors += [f"{name}={registry}/{name}" for name in _REGISTRIES]
            os.environ["VMBOX_MIRRORS"] = " ".join(mirrors)
            world.bases()
            yield world.directory
        finally:
            os.environ.clear()
            os.environ.update(before)
            download.FIRST_WAIT = waiting
            profiles.load.cache_clear()


_REGISTRIES: Final = ("docker.io", "quay.io", "public.ecr.aws", "registry.opensuse.org")


@dataclass(frozen=True, kw_only=True)
class _World:
    directory: Path
    archive: Archive
    signer: rpms.Signer

    def trust(self) -> None:
        """The test's key in place of every vendor's, and of Debian's keyring."""
        keys = self.directory / "config" / "images" / "keys"
        keys.mkdir(parents=True)
        for key in (paths.data_dir() / "images" / "keys").iterdir():
            shutil.copy(self.signer.key, keys / key.name)
        shutil.copy(self.signer.key, keys / "debian.asc")
        text = (paths.data_dir() / "images" / "debian-12.toml").read_text(encoding="utf-8")
        own = text.replace('suite = "bookworm"\n', 'suite = "bookworm"\nkeyring = "debian.asc"\n')
        (keys.parent / "debian-12.toml").write_text(own, encoding="utf-8")

    def bases(self) -> None:
        """A manifest for the first of each profile's base images."""
        for name in PROFILES:
            host, _, rest = profiles.by_name(name).base.images[0].partition("/")
            image, _, tag = rest.rpartition(":")
            self.archive.files[f"/v2/{host}/{image}/manifests/{tag}"] = name.encode()

    def debian(self) -> list[str]:
        oldest, middle, newest = (
            names.packages[0]
            for kernel in three(kernels(profiles.by_name("debian-12")))
            if (names := package_names(kernel, profiles.by_name("debian-12"))) is not None
        )
        self._suite("deb.debian.org/debian", "bookworm", "crash=8.0.2-1", "linux-image-6.1.0-99-amd64-dbg=6.1.999-1")
        self._suite("deb.debian.org/debian-security", "bookworm-security", newest)
        # Nothing of backports is live, which is an answer, too.
        snapshots = "snapshot.debian.org/archive/debian-security"
        self._suite(f"{snapshots}/20240507T000000Z", "bookworm-security", oldest)
        self._suite(f"{snapshots}/20260313T000000Z", "bookworm-security", middle)
        return ["http://deb.debian.org", "http://snapshot.debian.org"]

    def _suite(self, root: str, suite: str, *packages: str) -> None:
        """A signed suite with a list of packages, each NAME=VERSION."""
        entries = (package.partition("=") for package in packages)
        listed = "".join(f"Package: {name}\nSource: x\nVersion: {version}\nSize: 1\n\n" for name, _, version in entries)
        packed = lzma.compress(listed.encode())
        name = "main/binary-amd64/Packages.xz"
        release = self.directory / "Release"
        sums = f"SHA256:\n {hashlib.sha256(packed).hexdigest()} {len(packed)} {name}\n"
        release.write_text(f"Origin: Debian\nSuite: {suite}\n{sums}")
        signed = self.signer.clearsigned(release)
        self.archive.files |= {f"/{root}/dists/{suite}/InRelease": signed, f"/{root}/dists/{suite}/{name}": packed}

    def el8(self) -> list[str]:
        rocky = "dl.rockylinux.org"
        self._repository("el8-baseos", f"{rocky}/pub/rocky/8/BaseOS/x86_64/os", "setup-2.12.2-9.el8.noarch")
        self._repository("el8-appstream", f"{rocky}/pub/rocky/8/AppStream/x86_64/os", "crash-7.3.2-4.el8.x86_64")
        for kernel in three(kernels(profiles.by_name("el8"))):
            names = package_names(kernel, profiles.by_name("el8"))
            assert names is not None
            (package,) = names.packages
            place = "oss.oracle.com/ol8/debuginfo"
            if "uek" not in package:
                place = f"{rocky}/vault/rocky/8.{names.names['minor'][0]}/BaseOS/x86_64/debug/tree/Packages/k"
            self.archive.files[f"/{place}/{package}.rpm"] = self._rpm(package).read_bytes()
        others = ("https://repo.almalinux.org", "https://vault.almalinux.org", "http://debuginfo.centos.org")
        return [f"https://{rocky}", "https://oss.oracle.com", "https://cdn.redhat.com", *others]

    def amazon(self) -> list[str]:
        """Each version of the repository has the packages of its own time."""
        core = "cdn.amazonlinux.com/al2023/core"
        self._repository("amazon-core", f"{core}/guid/1", "crash-8.0.5-5.amzn2023.x86_64")
        oldest, middle, newest = (
            f"{names.packages[0]}"
            for kernel in three(kernels(profiles.by_name("amazon-2023")))
            if (names := package_names(kernel, profiles.by_name("amazon-2023"))) is not None
        )
        self._repository("amazon-latest", f"{core}/guid/2", newest)
        self._repository("amazon-earlier", f"{core}/guid/3", middle, oldest)
        lists = {"latest/x86_64": 1, "2023.1.20260101/debuginfo/x86_64": 3, "2023.1.20260101/debuginfo/aarch64": 3}
        lists |= {f"latest/debuginfo/{machine}": 2 for machine in ("x86_64", "aarch64")}
        for place, number in lists.items():
            self.archive.files[f"/{core}/mirrors/{place}/mirror.list"] = f"https://{core}/guid/{number}\n".encode()
        self.archive.files[f"/{core}/releasemd.xml"] = b"<release version='2023.1.20260101'/>"
        return ["https://cdn.amazonlinux.com"]

    def suse(self) -> list[str]:
        """Packages whose release goes on behind what uname -r says of it."""
        leap = "download.opensuse.org"
        self._repository("leap-oss", f"{leap}/distribution/leap/15.6/repo/oss", "crash-8.0.4-150600.1.1.x86_64")
        self._repository("leap-sle", f"{leap}/update/leap/15.6/sle", "tar-1.34-1.x86_64")
        for number, kernel in enumerate(three(kernels(profiles.by_name("sles-15")))):
            names = package_names(kernel, profiles.by_name("sles-15"))
            assert names is not None
            tree = "oss" if "-lp" in (kernel.release or "") else "sle"
            place = f"{leap}/debug/update/leap/15.{names.names['sp'][0]}/{tree}"
            self._repository(f"leap-{number}", place, f"{names.packages[0]}.1.x86_64")
        return [f"https://{leap}"]

    def _repository(self, name: str, at: str, *packages: str) -> None:
        """Index signed packages with createrepo_c, and serve all at a URL path."""
        repository = self.directory / name
        repository.mkdir()
        for package in packages:
            shutil.copy(self._rpm(package), repository / f"{package}.rpm")
        rpms.run(["createrepo_c", "--quiet", "--no-database", str(repository)])
        for file in repository.rglob("*"):
            if file.is_file():
                self.archive.files[f"/{at}/{file.relative_to(repository)}"] = file.read_bytes()

    def _rpm(self, nevra: str) -> Path:
        tree = self.directory / "tree"
        (tree / "usr/share/x").mkdir(parents=True, exist_ok=True)
        (tree / "usr/share/x/x").write_text("x\n")
        out = self.directory / f"{nevra}.rpm"
        return standins.rpm(tree, nevra, payload="w1.gzdio", signer=self.signer, out=out)
