"""Fakes of Enterprise Linux on loopback: base images, package repositories and debuginfo of its vendors.

No mirror of Enterprise Linux can be reached, so a Debian with dnf replaces it: as an image in a registry under the
vendors' names, and as an RPM from which `dnf --installroot` makes a base. Its rpm has its database at the same path as
Enterprise Linux. The crash package is Debian's crash with its libraries, made by rpmbuild and signed by rpmsign with
the test's key. The profiles, their fragments, the layouts of the archives, the package manager and all checks are real.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import archives
import rpms
import standins
from archives import Archive
from sandbox import image, profiles
from sandbox.engine import ContainerSpec, Engine
from sandbox.image.containerfile import BuildContext
from sandbox.image.package_sources import package_sources

WORLD = (
    "https://dl.rockylinux.org",
    "https://repo.almalinux.org",
    "https://vault.almalinux.org",
    "http://debuginfo.centos.org",
    "http://mirror.facebook.net",
    "http://mirrors.ocf.berkeley.edu",
    "https://mirror.stream.centos.org",
    "https://kojihub.stream.centos.org",
    "https://oss.oracle.com",
    "https://cdn.redhat.com",
    "https://vault.centos.org",
    "https://archive.kernel.org",
    # The default URL of CentOS's images, which no longer exists.
    "http://mirrorlist.centos.org",
    "http://mirror.centos.org",
)
REGISTRIES = ("quay.io", "docker.io")

STAND_IN = """\
ARG BASE
FROM ${BASE}
ARG MANAGER
RUN rm -rf /etc/apt /var/lib/apt /var/cache/apt /usr/libexec/vmbox \\
    /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info \\
 && mkdir -p /etc/rpm /etc/yum.repos.d \\
 && echo '%_dbpath /var/lib/rpm' > /etc/rpm/macros \\
 && printf '[base]\\nname=base\\nmirrorlist=http://mirrorlist.centos.org/\\n' > /etc/yum.repos.d/CentOS-Base.repo \\
 && if [ "$MANAGER" != dnf ]; then mv /usr/bin/dnf /usr/bin/"$MANAGER"; fi
"""


def stand_in(engine: Engine, debian: str, manager: str) -> str:
    """An image of Debian that replaces an Enterprise Linux with the package manager `manager`."""
    ref = f"localhost/vmbox-test/{manager}-on-{debian}:2"
    if engine.image(ref) is None:
        profile = profiles.by_name(debian)
        # vmbox makes bases with a Debian with dnf; for Debian 12 this is the same image.
        recipe = BuildContext(
            name=f"bootstrap-dnf-{debian}",
            fragments=("base", "apt", "bootstrap-dnf"),
            args={},
            files=package_sources(profile),
        )
        base = image.build(recipe, engine, base=lambda: image.ensure_base(profile, engine))
        context = io.BytesIO(archives.tar({"Containerfile": STAND_IN.encode()}))
        list(engine.build(context, ref, labels={"vmbox.standin": ref}, args={"BASE": base, "MANAGER": manager}))
    return ref


def unpack(engine: Engine, ref: str, members: str, directory: Path) -> Path:
    """Copy files of an image, given as shell words, to `directory`."""
    directory.mkdir(parents=True)
    # The directories are kept, but not what an engine mounts there.
    left_out = " ".join(f"--exclude='./{name}'" for name in ("proc/*", "sys/*", "dev/*", "tmp/*", ".*env"))
    script = f"tar -c -C / {left_out} {members}"
    spec = ContainerSpec(image=ref, argv=["sh", "-c", script], hardened=False, as_caller=False)
    with subprocess.Popen(["tar", "-x", "--no-same-owner", "-C", str(directory)], stdin=subprocess.PIPE) as tar:
        assert tar.stdin is not None
        for piece in engine.run(spec):
            tar.stdin.write(piece)
    assert tar.returncode == 0
    return directory


CRASH = (
    "$(for file in /usr/bin/crash /usr/bin/less $(ldd /usr/bin/crash /usr/bin/less"
    " | sed -n 's|.* => /\\(lib[^ ]*\\) .*|/usr/\\1|p' | grep -v -e /libc.so -e /libm.so);"
    " do echo .$file .$(readlink -f $file); done | tr ' ' '\\n' | sort -u)"
)
"""crash and less with their libraries, except those that every program has."""


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The maker and signer of a major version's packages, and the web server that has them."""

    archive: Archive
    signer: rpms.Signer
    directory: Path

    def publish(self, profile: str, packages: Iterable[Path], *, url: int = 0) -> None:
        """Put packages into all repositories of `profile`, at the URL of that number of each."""
        for source in profiles.by_name(profile).image.sources:
            name, *urls = source.split()
            repository = self.directory / f"{profile}-{name}"
            shutil.rmtree(repository, ignore_errors=True)
            repository.mkdir()
            for package in packages:
                # As with the vendors, crash is in one repository and its dependencies are in the other.
                if package.name.startswith("crash-") == (name in {"appstream", "updates"}):
                    (repository / package.name).hardlink_to(package)
            rpms.run(["createrepo_c", "--quiet", "--no-database", str(repository)])
            where = urls[min(url, len(urls) - 1)].replace("$basearch", "x86_64").rstrip("/")
            for file in repository.rglob("*"):
                if file.is_file():
                    path = f"/{where.partition('://')[2]}/{file.relative_to(repository)}"
                    self.archive.files[path] = file.read_bytes()

    def package(self, name: str, tree: Path | None = None, *, version: str = "8.0") -> Path:
        """Make the signed package `name`, with the files in `tree` or with one file that contains its name."""
        out = self.directory / f"{name}-{version}-1.x86_64.rpm"
        if not out.exists():
            if tree is None:
                tree = self.directory / "empty" / name
                (tree / "usr/share/packages").mkdir(parents=True)
                (tree / "usr/share/packages" / name).write_text(f"{name} is there already\n")
            standins.rpm(tree, out.name.removesuffix(".rpm"), payload="w1.zstdio", signer=self.signer, out=out)
        return out


def needed(profile: str) -> tuple[str, ...]:
    """The packages from which dnf makes a base of the profile. The first one contains all files."""
    how = profiles.by_name(profile).base.bootstrap
    assert how is not None
    assert how.tool == "dnf"
    return how.packages
