"""kernel-debuginfo packages as rpmbuild and rpmsign make them."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import archives

RELEASE = "4.18.0-80.el8.x86_64"
DIRECTORY = f"/usr/lib/debug/lib/modules/{RELEASE}"
BANNER = f"Linux version {RELEASE} (mockbuild@build.example.org) (gcc 8) #1 SMP Mon May 6 2019"

PAYLOADS = {
    "one xz block": "w2.xzdio",
    "xz blocks": "w0T2.xzdio",
    "gzip": "w6.gzdio",
    "zstd": "w3.zstdio",
    "bzip2": "w5.bzdio",
}

SPEC = """\
Name: kernel-debuginfo
Version: 4.18.0
Release: 80.el8
Summary: Debug information
License: GPLv2
%define _build_id_links none
%define __strip /bin/true
%define debug_package %{{nil}}
%description
%install
mkdir -p %{{buildroot}}{directory}/kernel %{{buildroot}}/usr/lib/debug/.build-id/bb
cp {source}/vmlinux %{{buildroot}}{directory}/
cp {source}/x.ko.debug %{{buildroot}}{directory}/kernel/
ln -s ../../lib/modules %{{buildroot}}/usr/lib/debug/.build-id/bb/603a
%files
/usr/lib/debug
"""


@dataclass(frozen=True)
class Packages:
    """RPMs of one small vmlinux, by kind of payload; signed, with the public key."""

    vmlinux: bytes
    files: dict[str, Path]
    other: Path
    """The same release, built by somebody else and signed with the same key."""
    key: Path


@dataclass(frozen=True)
class Signer:
    """A vendor: a key of GnuPG's that rpmsign signs with."""

    home: Path
    key: Path
    """The public key, armored."""

    @classmethod
    def new(cls, top: Path) -> Signer:
        home = top / "gnupg"
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", ""]
        key = top / "key.asc"
        made = cls(home=home, key=key)
        with made._agent():
            run([*gpg, "--quick-generate-key", "Kernel Builders <k@example.org>", "rsa3072", "sign", "never"])
            key.write_bytes(run([*gpg, "--armor", "--export"]))
        return made

    @contextmanager
    def _agent(self) -> Iterator[None]:
        """Ends the agent that gpg starts, and that would outlive the tests."""
        try:
            yield
        finally:
            gpgconf = ["gpgconf", "--homedir", str(self.home)]
            socket = Path(run([*gpgconf, "--list-dirs", "agent-socket"]).decode().strip())
            run([*gpgconf, "--kill", "gpg-agent"])
            # It answers before it ends, and who connects to it then gets no answer.
            deadline = time.monotonic() + 10
            while socket.exists() and time.monotonic() < deadline:
                time.sleep(0.01)

    def clearsigned(self, text: Path) -> bytes:
        with self._agent():
            return run(
                ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--output", "-", "--clearsign", str(text)]
            )

    def sign(self, package: Path, *, digest: str = "sha256") -> None:
        defined = {
            "__gpg": shutil.which("gpg"),
            "_gpg_path": self.home,
            "_gpg_name": "k@example.org",
            "_gpg_digest_algo": digest,
        }
        options = [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]
        with self._agent():
            run(["rpmsign", *options, "--addsign", str(package)])


def build(top: Path) -> Packages:
    """All of `PAYLOADS`, in `top`. Takes some seconds."""
    noise = random.Random(1).randbytes
    vmlinux = archives.vmlinux(banner=BANNER, dwarf=noise(2_000_000), relocations=bytes(2_000_000))
    (top / "vmlinux").write_bytes(vmlinux)
    (top / "x.ko.debug").write_bytes(noise(4_000_000))
    spec = top / "kernel.spec"
    spec.write_text(SPEC.format(directory=DIRECTORY, source=top))
    signer = Signer.new(top)

    def package(out: Path, payload: str) -> Path:
        run(
            [
                *["rpmbuild", "-bb", "--quiet", "--nodeps", "--target", "x86_64"],
                *["--define", f"_topdir {out}", "--define", f"_binary_payload {payload}"],
                *["--define", "_binary_filedigest_algorithm 8", str(spec)],
            ]
        )
        (file,) = out.rglob("*.rpm")
        signer.sign(file)
        return file

    files = {name: package(top / payload, payload) for name, payload in PAYLOADS.items()}
    elsewhere = archives.vmlinux("0123456789", BANNER.replace("build.example", "elsewhere.example"))
    (top / "vmlinux").write_bytes(elsewhere)
    return Packages(vmlinux=vmlinux, files=files, other=package(top / "other", "w2.xzdio"), key=signer.key)


def run(command: list[str], *, cwd: Path | None = None) -> bytes:
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
