"""Enterprise Linux without a mirror of it: genuine dumps and kernels of Debian under an EL name.

The release in a raw vmcore and in its vmlinux is replaced by an EL release of the same length, the build host in the
banner by a vendor's. crash compares banners and opens the pair. rpmbuild makes the kernel-debuginfo package of it, and
rpmsign signs it. That the kernel inside is Debian's is all that is not real.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import rpms

DEBIAN_HOST = b"debian-kernel@lists.debian.org"
HOSTS = {
    "debian": DEBIAN_HOST,
    "rocky": b"mockbuild@pb-01.rockylinux.org",
    "alma": b"mockbuild@x64-b2.almalinux.org",
    "centos": b"mockbuild@kbuilder1.centos.org",
    "oracle": b"mockbuild@build-ol8.oracle.com",
    "rhel": b"mockbuild@x86-vm-08.redhat.com",
    "unknown": b"mockbuild@builder-1.example.org",
}
_NUMBERS = {2: "80", 3: "348", 7: "124.8.1"}
"""Of real releases; others are made up to fit."""


def release_like(template: str, real: str) -> str:
    """ "4.18.0-{}.el8.x86_64" filled to the length of `real`."""
    missing = len(real) - len(template.format(""))
    assert missing > 0, (template, real)
    return template.format(_NUMBERS.get(missing, "1" * missing))


@dataclass(frozen=True, kw_only=True)
class Disguise:
    real: str
    release: str
    vendor: str
    build_id: bool = True
    """Whether VMCOREINFO has one: kernels before 5.9 do not."""
    more: Mapping[bytes, bytes] = field(default_factory=dict)
    """Other words, each as long as what it replaces."""

    @property
    def words(self) -> Mapping[bytes, bytes]:
        words = {self.real.encode(): self.release.encode(), DEBIAN_HOST: HOSTS[self.vendor][: len(DEBIAN_HOST)]}
        words.update(self.more)
        return words if self.build_id else {**words, b"\nBUILD-ID=": b"\nBUILD-XX="}

    def put_on(self, source: Path, target: Path) -> None:
        """A copy of `source` with the words replaced; sizes do not change."""
        longest = max(map(len, self.words))
        with source.open("rb") as file, target.open("wb") as out:
            rest = b""
            while piece := file.read(16 << 20):
                data = rest + piece
                for before, after in self.words.items():
                    assert len(before) == len(after)
                    data = data.replace(before, after)
                # A word may be torn at the end of a piece.
                out.write(data[:-longest])
                rest = data[-longest:]
            out.write(rest)


SPEC = """\
Name: {name}
Version: {version}
Release: {release}
Summary: A package
License: GPLv2
%define _build_id_links none
%define __strip /bin/true
%define debug_package %{{nil}}
%define __os_install_post %{{nil}}
AutoReqProv: no
%description
%install
mkdir -p %{{buildroot}}
cp -al {source}/. %{{buildroot}}/ || cp -a {source}/. %{{buildroot}}/
%files
/*
"""


def rpm(root: Path, nevra: str, *, payload: str, signer: rpms.Signer, out: Path, digest: str = "sha256") -> Path:
    """The package NAME-VERSION-RELEASE.ARCH of all that lies in `root`, its signature over `digest`."""
    rest, _, machine = nevra.rpartition(".")
    name, version, release = rest.rsplit("-", 2)
    work = out.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    spec = work / "a.spec"
    spec.write_text(SPEC.format(name=name, version=version, release=release, source=root))
    rpms.run(
        [
            *["rpmbuild", "-bb", "--quiet", "--nodeps", "--target", machine],
            *["--define", f"_topdir {work}", "--define", f"_binary_payload {payload}"],
            *["--define", "_binary_filedigest_algorithm 8", str(spec)],
        ]
    )
    (made,) = work.rglob("*.rpm")
    signer.sign(made, digest=digest)
    shutil.move(made, out)
    shutil.rmtree(work)
    return out
