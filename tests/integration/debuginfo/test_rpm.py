"""Packages made by rpmbuild and signed by rpmsign with a GnuPG key, from a server on loopback."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import archives
from archives import Archive
from rpms import BANNER, PAYLOADS, RELEASE, Packages
from sandbox import profiles
from sandbox.debuginfo import RemotePackage, locate
from sandbox.errors import VerificationFailed
from sandbox.formats import elf, rpm
from sandbox.formats.streams import FileStream
from sandbox.host import paths
from sandbox.model import Debuginfo, Vmcore
from sandbox.profiles import Profile

PROFILE = """\
title = "An EL 8"
[base]
images = ["example"]
[image]
fragments = []
[crash]
version = "7.3"
[debuginfo]
format = "rpm"
query_script = "ask-dnf"
packages = ["kernel-debuginfo-{release}"]
vmlinux = ['usr/lib/debug/(usr/)?lib/modules/{release}/vmlinux$']
keys = ["key.asc"]
"""


@pytest.fixture
def home(tmp_path: Path, packages: Packages, monkeypatch: pytest.MonkeyPatch) -> Profile:
    keys = tmp_path / "config" / "images" / "keys"
    keys.mkdir(parents=True)
    shutil.copy(packages.key, keys / "key.asc")
    monkeypatch.setattr(paths, "config_dir", lambda: tmp_path / "config")
    (tmp_path / "el8.toml").write_text(PROFILE)
    return profiles.read(tmp_path / "el8.toml")


def find(home: Profile, archive: Archive, cache: Path, **changes: object) -> Debuginfo:
    def package_query(names: object, sources: object) -> list[RemotePackage]:
        size = len(archive.files["/x.rpm"])
        return [
            RemotePackage(package="kernel-debuginfo", version=None, url=f"{archive.url}/x.rpm", size=size, sha256=None)
        ]

    fields: dict[str, object] = {
        "path": cache / "vmcore",
        "format": "elf",
        "size": 1,
        "release": RELEASE,
        "arch": "x86_64",
        "banner": BANNER,
        "build_id": archives.BUILD_ID,
    }
    return locate(Vmcore(**(fields | changes)), home, package_query=package_query, cache=cache)  # type: ignore[arg-type]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("build_id", [archives.BUILD_ID, None])
def test_signed_package(
    packages: Packages, home: Profile, archive: Archive, tmp_path: Path, *, payload: str, build_id: str | None
) -> None:
    archive.files["/x.rpm"] = packages.files[payload].read_bytes()
    found = find(home, archive, tmp_path / "cache", build_id=build_id)
    assert "which Kernel Builders <k@example.org>" in found.verification_detail
    assert "SHA-256 of vmlinux" in found.verification_detail
    assert found.verification == "signature"
    assert elf.read(found.vmlinux).build_id == archives.BUILD_ID
    assert found.vmlinux.stat().st_size < 0.7 * len(packages.vmlinux)
    if payload == "xz blocks":
        assert archive.sent < 0.5 * len(archive.files["/x.rpm"])
    assert found.proof == (f"build-id {build_id}" if build_id else "banner")


@pytest.mark.parametrize("payload", ["one xz block", "xz blocks", "zstd"])
def test_flipped_bytes(packages: Packages, home: Profile, archive: Archive, tmp_path: Path, payload: str) -> None:
    data = archive.files["/x.rpm"] = packages.files[payload].read_bytes()
    for flip in (0, 120, 3000, 12_000, len(data) - 1_000_000, len(data) - 30):
        archive.flip = flip
        try:
            find(home, archive, tmp_path / "cache")
        except VerificationFailed:
            assert list((tmp_path / "cache" / "debuginfo").iterdir()) == []
        else:
            # These bytes are not used: the name in the lead, a module's block, the signature over header and payload.
            shutil.rmtree(tmp_path / "cache" / "debuginfo")
    archive.flip = None
    assert find(home, archive, tmp_path / "cache").proof


def test_unsigned_packages_and_other_keys_are_refused(
    packages: Packages, home: Profile, archive: Archive, tmp_path: Path
) -> None:
    copy = tmp_path / "unsigned.rpm"
    shutil.copy(packages.files["gzip"], copy)
    subprocess.run(["rpmsign", "--delsign", str(copy)], check=True, capture_output=True)
    archive.files["/x.rpm"] = copy.read_bytes()
    with pytest.raises(VerificationFailed, match="it is not signed"):
        find(home, archive, tmp_path / "cache")
    import pysequoia

    other = pysequoia.Tsk.generate(user_id="Somebody else <e@example.org>").extract_certificate()
    (paths.config_dir() / "images" / "keys" / "key.asc").write_text(str(other))
    archive.files["/x.rpm"] = packages.files["gzip"].read_bytes()
    with pytest.raises(VerificationFailed, match="not one of the vendor's"):
        find(home, archive, tmp_path / "cache")


def with_signatures(package: bytes, added: list[bytes], *, classic: bool) -> bytes:
    """Add OpenPGP signatures of its header to a package, in base64 with tag 278, as rpm 6 does.

    Written by hand, because the rpm of Debian 12 cannot. The signatures are real.
    """
    at = 96
    count, size = struct.unpack(">II", package[at + 8 : at + 16])
    entries = [struct.unpack_from(">4I", package, at + 16 + 16 * number) for number in range(count)]
    data_at = at + 16 + 16 * count
    data = package[data_at : data_at + size]
    rest = package[data_at + size + -(16 + 16 * count + size) % 8 :]
    kept = [entry for entry in entries if classic or entry[0] not in {267, 268, 1002, 1005}]
    kept.append((278, 8, len(data), len(added)))
    data += b"".join(base64.b64encode(one) + b"\0" for one in added)
    header = package[at : at + 8] + struct.pack(">II", len(kept), len(data))
    header += b"".join(struct.pack(">4I", *entry) for entry in kept) + data
    return package[:at] + header + bytes(-len(header) % 8) + rest


def test_newer_signatures_besides_a_classic_one(
    packages: Packages, home: Profile, archive: Archive, tmp_path: Path
) -> None:
    """Version 6 and post-quantum (ML-DSA-65 with Ed25519), made by Sequoia."""
    import pysequoia

    package = packages.files["xz blocks"].read_bytes()
    with FileStream(packages.files["xz blocks"]) as stream:
        header = rpm.read(stream).header
    suites = (pysequoia.CipherSuite.Cv25519, pysequoia.CipherSuite.MLDSA65_Ed25519)
    tsks = [
        pysequoia.Tsk.generate(user_id="Newer <n@example.org>", profile=pysequoia.Profile.RFC9580, cipher_suite=suite)
        for suite in suites
    ]

    def signed(data: bytes) -> list[bytes]:
        armored = [pysequoia.sign(tsk.signer(), data, mode=pysequoia.SignatureMode.DETACHED) for tsk in tsks]
        return [bytes(pysequoia.Sig.from_bytes(one)) for one in armored]

    newer = signed(header)
    assert [one[3] if one[1] >= 192 else one[2] for one in newer] == [6, 6]
    keys = paths.config_dir() / "images" / "keys" / "key.asc"
    classic = keys.read_text()
    later = b"\xc2\xe1" + bytes(100)  # a packet in parts, of no kind that is known
    for number, added in enumerate([newer, newer[::-1], [later, *newer], [*newer, later]]):
        archive.files["/x.rpm"] = with_signatures(package, added, classic=True)
        found = find(home, archive, tmp_path / f"beside-{number}")
        assert "which Kernel Builders <k@example.org>" in found.verification_detail
    # Without the classic signature: accepted only if the vendor's key file has these keys.
    for one in newer:
        archive.files["/x.rpm"] = with_signatures(package, [later, one], classic=False)
        keys.write_text(classic)
        with pytest.raises(VerificationFailed, match="its signature"):
            find(home, archive, tmp_path / "nobody")
        keys.write_text("".join(str(tsk.extract_certificate()) for tsk in tsks) + classic)
        found = find(home, archive, tmp_path / f"alone-{newer.index(one)}")
        assert "which Newer <n@example.org>" in found.verification_detail
        assert found.verification == "signature"
    archive.files["/x.rpm"] = with_signatures(package, signed(header + b"x"), classic=False)
    with pytest.raises(VerificationFailed):
        find(home, archive, tmp_path / "nobody")
    assert list((tmp_path / "nobody" / "debuginfo").iterdir()) == []


def test_given_rpm(packages: Packages, home: Profile, tmp_path: Path) -> None:
    vmcore = Vmcore(path=tmp_path / "v", format="elf", size=1, release=RELEASE, build_id=archives.BUILD_ID)
    for package in packages.files.values():
        found = locate(vmcore, home, package_query=lambda *_: [], given=package, cache=tmp_path / "cache")
        assert found.proof
        shutil.rmtree(tmp_path / "cache")
