"""Debian's suites and packages as dpkg-deb and apt-ftparchive make them, and images that trust who signed them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from rpms import Signer, run
from sandbox.engine import Engine

_CONTROL = """\
Package: {package}
Version: {version}
Architecture: amd64
Maintainer: Kernel Builders <k@example.org>
Description: debug information
"""


def trust(engine: Engine, below: str, key: Path, ref: str, *commands: str) -> None:
    """Build `ref`: the base `below` whose apt trusts `key` as well, after `commands`."""
    lines = [f"FROM {below}", *(f"RUN {command}" for command in commands), "COPY key.asc /etc/apt/trusted.gpg.d/"]
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, data in (("Containerfile", "\n".join(lines).encode()), ("key.asc", key.read_bytes())):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    context.seek(0)
    for _ in engine.build(context, ref, labels={"vmbox.test": "apt"}):
        pass


def deb(tree: Path, package: str, version: str, pool: Path) -> Path:
    """Make a package of all files in `tree`, with their checksums, in `pool`."""
    files = sorted((path for path in tree.rglob("*") if path.is_file()), key=lambda path: path.parts)
    control = tree / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(_CONTROL.format(package=package, version=version))
    with (control / "md5sums").open("w") as sums:
        for path in files:
            with path.open("rb") as file:
                sums.write(f"{hashlib.file_digest(file, 'md5').hexdigest()}  {path.relative_to(tree)}\n")
    pool.mkdir(parents=True)
    made = pool / f"{package}_{version}_amd64.deb"
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(made)])
    return made


def publish(root: Path, suite: str, signer: Signer) -> None:
    """Write the signed indexes of a suite that has all packages below `root`. It expired long ago."""
    directory = root / "dists" / suite
    listed = directory / "main" / "binary-amd64"
    listed.mkdir(parents=True)
    (root / "pool").mkdir(exist_ok=True)
    (listed / "Packages").write_bytes(run(["apt-ftparchive", "packages", "pool"], cwd=root))
    told = {"Suite": suite, "Codename": suite, "Architectures": "amd64", "Components": "main"}
    options = [word for name, value in told.items() for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")]
    # It writes no date of expiry by itself.
    release = run(["apt-ftparchive", *options, "release", "."], cwd=directory)
    (directory / "Release").write_bytes(b"Valid-Until: Fri, 13 Mar 2026 00:00:00 UTC\n" + release)
    (directory / "InRelease").write_bytes(signer.clearsigned(directory / "Release"))
