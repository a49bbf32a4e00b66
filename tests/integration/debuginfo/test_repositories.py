"""Repositories made by createrepo_c, where only the index has the names of packages; and Debian's debuginfod."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import archives
import rpms
import standins
from archives import Archive
from sandbox import profiles
from sandbox.debuginfo import locate
from sandbox.debuginfo.fetch import identify
from sandbox.debuginfo.unstrip import merge
from sandbox.errors import DebuginfoError, VerificationFailed
from sandbox.formats import elf, zstandard
from sandbox.host import paths
from sandbox.model import Debuginfo, Vmcore
from sandbox.profiles import Profile

SUSE = "5.14.21-150400.24.18-default"
AMAZON = "6.1.61-85.141.amzn2023.x86_64"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> rpms.Signer:
    return rpms.Signer.new(tmp_path_factory.mktemp("vendor"))


@pytest.fixture
def keys(tmp_path: Path, signer: rpms.Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "config" / "images" / "keys"
    directory.mkdir(parents=True)
    for key in (paths.data_dir() / "images" / "keys").iterdir():
        shutil.copy(signer.key, directory / key.name)
    monkeypatch.setattr(paths, "config_dir", lambda: tmp_path / "config")
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


def banner(release: str) -> str:
    return f"Linux version {release} (geeko@buildhost) (gcc) #1 SMP PREEMPT_DYNAMIC"


def vmcore(release: str, cache: Path, **changes: object) -> Vmcore:
    fields: dict[str, object] = {"path": cache / "vmcore", "format": "elf", "size": 1, "release": release}
    fields |= {"arch": "x86_64", "banner": banner(release), "build_id": archives.BUILD_ID}
    return Vmcore(**(fields | changes))  # type: ignore[arg-type]


def publish(repository: Path, archive: Archive, at: str, *, compression: str = "gz") -> None:
    """Index the packages in `repository` with createrepo_c, and serve all at a URL path."""
    rpms.run(["createrepo_c", "--quiet", "--simple-md-filenames", "--no-database", str(repository)])
    data = repository / "repodata"
    xml = gzip.decompress((data / "primary.xml.gz").read_bytes())
    packed = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.module().compress}[compression](xml)
    (data / "primary.xml.gz").unlink()
    (data / f"primary.xml.{compression}").write_bytes(packed)
    repomd = data / "repomd.xml"
    said = repomd.read_text().replace("primary.xml.gz", f"primary.xml.{compression}")
    before, primary, after = said.partition('<data type="primary">')
    primary, end, rest = f"{primary}{after}".partition("</data>")
    primary = re.sub("<size>[0-9]+", f"<size>{len(packed)}", primary)
    primary = re.sub('<checksum type="sha256">[0-9a-f]+', f'<checksum type="sha256">{archives.sha256(packed)}', primary)
    repomd.write_text(before + primary + end + rest)
    for file in repository.rglob("*"):
        if file.is_file():
            archive.files[f"{at}/{file.relative_to(repository)}"] = file.read_bytes()


def package(repository: Path, signer: rpms.Signer, name: str, files: dict[str, bytes], payload: str) -> None:
    repository.mkdir(parents=True, exist_ok=True)
    root = repository.parent / f"{name}.root"
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    standins.rpm(root, name, payload=payload, signer=signer, out=repository / f"{name}.rpm")


def mirrored(monkeypatch: pytest.MonkeyPatch, archive: Archive, *hosts: str) -> None:
    words = (f"{host}={archive.url}/{host.partition('//')[2]}" for host in hosts)
    monkeypatch.setenv("VMBOX_MIRRORS", " ".join(words))


def find(profile: str, dump: Vmcore, cache: Path) -> Debuginfo:
    return locate(dump, profiles.by_name(profile), package_query=lambda *_: [], cache=cache)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
def test_amazon(
    tmp_path: Path, archive: Archive, signer: rpms.Signer, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    whole = archives.vmlinux(banner=banner(AMAZON), dwarf=b"x" * 100_000)
    member = f"usr/lib/debug/lib/modules/{AMAZON}/vmlinux"
    repository = tmp_path / "repository"
    package(repository, signer, f"kernel-debuginfo-{AMAZON}", {member: whole}, "w3.zstdio")
    package(repository, signer, "kernel-debuginfo-6.1.62-1.amzn2023.x86_64", {member: b"another"}, "w3.zstdio")
    publish(repository, archive, "/cdn.amazonlinux.com/guids/0123abcd/x86_64", compression=compression)
    mirrored(monkeypatch, archive, "https://cdn.amazonlinux.com")
    # The first of the mirrors has lost it.
    listed = "/cdn.amazonlinux.com/al2023/core/mirrors/latest/debuginfo/x86_64/mirror.list"
    archive.files[listed] = b"".join(
        b"https://cdn.amazonlinux.com/guids/%s/x86_64/\n" % name for name in (b"lost", b"0123abcd")
    )
    found = find("amazon-2023", vmcore(AMAZON, tmp_path), tmp_path / "cache")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert found.origin.endswith(f"guids/0123abcd/x86_64/kernel-debuginfo-{AMAZON}.rpm")
    assert "which Kernel Builders" in found.verification_detail
    archive.files[listed] = b"\n"
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(VerificationFailed, match="it names no mirror"):
        find("amazon-2023", vmcore(AMAZON, tmp_path), tmp_path / "cache")


@pytest.mark.usefixtures("keys")
def test_amazon_of_an_earlier_version(
    tmp_path: Path, archive: Archive, signer: rpms.Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "latest" has another kernel, and the list of versions names the one that was the first with the dump's."""
    mirrored(monkeypatch, archive, "https://cdn.amazonlinux.com")
    core = "/cdn.amazonlinux.com/al2023/core"
    member = f"usr/lib/debug/lib/modules/{AMAZON}/vmlinux"
    for version, release in (("latest", "6.1.99-1.1.amzn2023.x86_64"), ("2023.2.20231113", AMAZON)):
        repository = tmp_path / version / "repository"
        package(
            repository,
            signer,
            f"kernel-debuginfo-{release}",
            {member: archives.vmlinux(banner=banner(AMAZON))},
            "w0.gzdio",
        )
        publish(repository, archive, f"/cdn.amazonlinux.com/guids/{version}/x86_64")
        archive.files[f"{core}/mirrors/{version}/debuginfo/x86_64/mirror.list"] = (
            f"https://cdn.amazonlinux.com/guids/{version}/x86_64/\n".encode()
        )
    archive.files[f"{core}/releasemd.xml"] = (
        b"<?xml version='1.0'?><root><releases>"
        b"<release><version>2023.0.20230222</version></release><release><version>2023.2.20231113</version></release>"
        b"<release><version>2023.3.20231211</version></release></releases></root>"
    )
    dump = vmcore(AMAZON, tmp_path, utsname_version="#1 SMP PREEMPT_DYNAMIC Wed Nov  8 00:54:18 UTC 2023")
    found = find("amazon-2023", dump, tmp_path / "cache")
    assert found.origin.endswith(f"guids/2023.2.20231113/x86_64/kernel-debuginfo-{AMAZON}.rpm")
    assert "which Kernel Builders" in found.verification_detail
    # No version from before the build was asked.
    assert not [path for path, _ in archive.requests if "20230222" in path]


@pytest.mark.usefixtures("keys")
def test_alibaba_whose_key_does_not_come_with_vmbox(
    tmp_path: Path, archive: Archive, signer: rpms.Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = "4.19.91-28.7.al7.x86_64"
    mirrored(monkeypatch, archive, "https://mirrors.aliyun.com")
    member = f"usr/lib/debug/lib/modules/{release}/vmlinux"
    made = {member: archives.vmlinux(banner=banner(release))}
    package(tmp_path / "made", signer, f"kernel-debuginfo-{release}", made, "w0.gzdio")
    place = f"/mirrors.aliyun.com/alinux/2/kernels/x86_64/debug/kernel-debuginfo-{release}.rpm"
    archive.files[place] = (tmp_path / "made" / f"kernel-debuginfo-{release}.rpm").read_bytes()
    # It is used by its banner, for this dump alone, and not at all where a signature is required.
    found = find("alibaba", vmcore(release, tmp_path, build_id=None), tmp_path / "cache")
    assert (found.proof, found.origin.endswith(place.removeprefix("/mirrors.aliyun.com"))) == ("banner", True)
    assert found.verification in {"none", "tls"}
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    with pytest.raises(DebuginfoError):
        find("alibaba", vmcore(release, tmp_path, build_id=None), tmp_path / "strict")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("profile", "release", "package_name", "place"),
    [
        # The first kernel of 8.5, whose release does not spell the minor version.
        (
            "el8",
            "4.18.0-348.el8.0.2.x86_64",
            "kernel-debuginfo",
            "dl.rockylinux.org/vault/rocky/8.5/BaseOS/x86_64/debug/tree/Packages/k",
        ),
        (
            "el8",
            "4.18.0-305.19.1.rt7.91.el8_4.x86_64",
            "kernel-rt-debuginfo",
            "dl.rockylinux.org/vault/rocky/8.4/NFV/x86_64/debug/tree/Packages/k",
        ),
        (
            "el9",
            "5.14.0-427.13.1.el9_4.x86_64+rt-debug",
            "kernel-rt-debug-debuginfo",
            "dl.rockylinux.org/vault/rocky/9.4/RT/x86_64/debug/tree/Packages/k",
        ),
    ],
)
def test_vaults_and_trees_of_enterprise_linux(
    tmp_path: Path,
    archive: Archive,
    signer: rpms.Signer,
    *,
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    release: str,
    package_name: str,
    place: str,
) -> None:
    mirrored(monkeypatch, archive, "https://dl.rockylinux.org")
    name = f"{package_name}-{release.partition('+')[0]}"
    member = f"usr/lib/debug/lib/modules/{release}/vmlinux"
    package(tmp_path / "made", signer, name, {member: archives.vmlinux(banner=banner(release))}, "w0.gzdio")
    archive.files[f"/{place}/{name}.rpm"] = (tmp_path / "made" / f"{name}.rpm").read_bytes()
    found = find(profile, vmcore(release, tmp_path, vendor="rocky"), tmp_path / "cache")
    assert found.origin == f"https://{place}/{name}.rpm"
    assert (found.verification, found.proof) == ("signature", f"build-id {archives.BUILD_ID}")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("key", "release", "tree"),
    [
        ("openeuler", "5.10.0-60.18.0.50.oe2203.x86_64", "openEuler-22.03-LTS/debuginfo"),
        ("openeuler-eulermaker", "6.6.0-72.0.0.76.oe2403sp1.x86_64", "openEuler-24.03-LTS-SP1/update"),
    ],
)
def test_openeuler_which_two_keys_have_signed(
    tmp_path: Path,
    archive: Archive,
    signer: rpms.Signer,
    *,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    release: str,
    tree: str,
) -> None:
    (other,) = {"openeuler", "openeuler-eulermaker"} - {key}
    keys = tmp_path / "config" / "images" / "keys"
    shutil.copy(paths.data_dir() / "images" / "keys" / f"{other}.asc", keys)
    mirrored(monkeypatch, archive, "https://repo.openeuler.org", "https://archives.openeuler.openatom.cn")
    name = f"kernel-debuginfo-{release}"
    member = f"usr/lib/debug/lib/modules/{release}/vmlinux"
    package(tmp_path / "made", signer, name, {member: archives.vmlinux(banner=banner(release))}, "w0.gzdio")
    archive.files[f"/repo.openeuler.org/{tree}/x86_64/Packages/{name}.rpm"] = (
        tmp_path / "made" / f"{name}.rpm"
    ).read_bytes()
    found = find("openeuler", vmcore(release, tmp_path), tmp_path / "cache")
    assert f"/{tree}/" in found.origin
    assert (found.verification, found.proof) == ("signature", f"build-id {archives.BUILD_ID}")
    # Of neither key: not the vendor's.
    shutil.copy(paths.data_dir() / "images" / "keys" / f"{key}.asc", keys)
    with pytest.raises(VerificationFailed, match="not one of the vendor's"):
        find("openeuler", vmcore(release, tmp_path), tmp_path / "neither")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("profile", "release"), [("el6", "2.6.32-754.35.1.el6.x86_64"), ("el7", "3.10.0-1160.el7.x86_64")]
)
def test_signatures_over_sha1_count_for_centos_6_alone(
    tmp_path: Path,
    archive: Archive,
    signer: rpms.Signer,
    *,
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    release: str,
) -> None:
    mirrored(
        monkeypatch,
        archive,
        "http://debuginfo.centos.org",
        "http://mirror.facebook.net",
        "http://mirrors.ocf.berkeley.edu",
    )
    member = f"usr/lib/debug/lib/modules/{release}/vmlinux"
    made = tmp_path / "made"
    package(made, signer, f"kernel-debuginfo-{release}", {member: archives.vmlinux(banner=banner(release))}, "w0.gzdio")
    file = made / f"kernel-debuginfo-{release}.rpm"
    rpms.run(["rpmsign", "--delsign", str(file)])
    signer.sign(file, digest="sha1")
    archive.files[f"/debuginfo.centos.org/{profile[2:]}/x86_64/{file.name}"] = file.read_bytes()
    dump = vmcore(release, tmp_path, build_id=None, vendor="centos")
    if profile == "el6":
        found = find(profile, dump, tmp_path / "cache")
        assert (found.verification, found.proof) == ("signature", "banner")
        # In vmlinux, which is stored in the payload as it is.
        archive.flip = file.read_bytes().rindex(b"dwarf")
        with pytest.raises(DebuginfoError):
            find(profile, dump, tmp_path / "flipped")
    else:
        with pytest.raises(VerificationFailed, match="not one of the vendor's"):
            find(profile, dump, tmp_path / "cache")


@pytest.fixture
def suse(tmp_path: Path) -> tuple[bytes, bytes]:
    """(vmlinux, vmlinux.debug), split by objcopy."""
    directory = tmp_path / "built"
    directory.mkdir()
    whole = directory / "vmlinux"
    whole.write_bytes(archives.vmlinux(banner=banner(SUSE), dwarf=b"d" * 200_000))
    rpms.run(["objcopy", "--only-keep-debug", str(whole), str(directory / "vmlinux.debug")])
    rpms.run(["objcopy", "--strip-debug", str(whole), str(directory / "vmlinux.stripped")])
    return (directory / "vmlinux.stripped").read_bytes(), (directory / "vmlinux.debug").read_bytes()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("payload", ["w0.xzdio", "w0T2.xzdio"])
def test_suse_in_two_packages(
    tmp_path: Path,
    archive: Archive,
    *,
    signer: rpms.Signer,
    suse: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
    payload: str,
) -> None:
    kernel, debug = suse
    mirrored(monkeypatch, archive, "https://download.opensuse.org")
    host = "/download.opensuse.org"
    version = SUSE.removesuffix("-default")
    # Two rebuilds of one release: only the second one is of the dump.
    wrong = archives.vmlinux("00" * 20, banner(SUSE))
    debugs, kernels = tmp_path / "debug", tmp_path / "kernel"
    path = f"usr/lib/debug/boot/vmlinux-{SUSE}.debug"
    package(debugs, signer, f"kernel-default-debuginfo-{version}.1.x86_64", {path: wrong}, payload)
    package(debugs, signer, f"kernel-default-debuginfo-{version}.2.x86_64", {path: debug}, payload)
    package(debugs, signer, f"kernel-default-debuginfo-{version}5.1.x86_64", {path: b"of another release"}, payload)
    boot = f"boot/vmlinux-{SUSE}.gz"
    package(kernels, signer, f"kernel-default-{version}.1.x86_64", {boot: gzip.compress(wrong)}, payload)
    package(kernels, signer, f"kernel-default-{version}.2.x86_64", {boot: gzip.compress(kernel)}, payload)
    publish(debugs, archive, f"{host}/debug/update/leap/15.4/sle", compression="zst")
    publish(kernels, archive, f"{host}/update/leap/15.4/sle")
    found = find("sles-15", vmcore(SUSE, tmp_path), tmp_path / "cache")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert found.origin.endswith(".2.x86_64.rpm")
    joined = identify(found.vmlinux)
    assert (joined.build_id, joined.banners) == (archives.BUILD_ID, (banner(SUSE),))
    read = elf.read(found.vmlinux)
    dwarf = read.section(".debug_info")
    assert dwarf is not None
    assert found.vmlinux.read_bytes()[dwarf.offset : dwarf.offset + dwarf.size] == b"d" * 200_000
    assert sorted(path.name for path in found.directory.iterdir()) == ["about.json", "vmlinux"]


@pytest.mark.usefixtures("keys")
def test_the_error_lists_what_was_tried(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(monkeypatch, archive, "https://download.opensuse.org", "https://debuginfod.opensuse.org")
    with pytest.raises(DebuginfoError) as caught:
        find("sles-15", vmcore(SUSE, tmp_path), tmp_path / "cache")
    detail = caught.value.detail or ""
    assert detail == "not there: 3 places (127.0.0.1 for download.opensuse.org)"
    assert len([path for path, _ in archive.requests if "/leap/15.4/" in path]) == 3
    assert "kernel-default-debuginfo-5.14.21-150400.24.18.*.x86_64.rpm" in caught.value.hint


@pytest.mark.parametrize(
    "list_of_packages",
    [b"<metadata", b"not XML", b'<!DOCTYPE x [<!ENTITY a "b">]><metadata>&a;</metadata>'],
)
@pytest.mark.usefixtures("keys")
def test_a_damaged_index(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch, list_of_packages: bytes
) -> None:
    mirrored(monkeypatch, archive, "https://cdn.amazonlinux.com")
    top = "/cdn.amazonlinux.com"
    archive.files[f"{top}/al2023/core/mirrors/latest/debuginfo/x86_64/mirror.list"] = (
        b"https://cdn.amazonlinux.com/guids/\n"
    )
    archive.files[f"{top}/guids/repodata/repomd.xml"] = (
        b'<repomd><data type="primary"><location href="repodata/primary.xml.gz"/></data></repomd>'
    )
    archive.files[f"{top}/guids/repodata/primary.xml.gz"] = gzip.compress(list_of_packages)
    with pytest.raises(DebuginfoError) as caught:
        find("amazon-2023", vmcore(AMAZON, tmp_path), tmp_path / "cache")
    assert "XML" in f"{caught.value.message}{caught.value.detail}"


@pytest.mark.usefixtures("keys")
def test_koji_after_the_mirrors_and_the_archive(
    tmp_path: Path, archive: Archive, signer: rpms.Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirrors no longer have the build. Koji has it without a signature, so a build-id must prove the match."""
    release = "6.14.0-63.fc42.x86_64"
    name = f"kernel-debuginfo-{release}"
    member = f"usr/lib/debug/lib/modules/{release}/vmlinux"
    whole = archives.vmlinux(banner=banner(release), dwarf=random.Random(4).randbytes(300_000))
    package(tmp_path / "koji", signer, name, {member: whole}, "w0T2.xzdio")
    rpms.run(["rpmsign", "--delsign", str(tmp_path / "koji" / f"{name}.rpm")])
    place = f"/kojipkgs.fedoraproject.org/packages/kernel/6.14.0/63.fc42/x86_64/{name}.rpm"
    archive.files[place] = (tmp_path / "koji" / f"{name}.rpm").read_bytes()
    names = ("dl", "archives", "kojipkgs", "debuginfod")
    mirrored(monkeypatch, archive, *(f"https://{it}.fedoraproject.org" for it in names))
    found = find("fedora", vmcore(release, tmp_path), tmp_path / "cache")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert found.origin.endswith(place)
    assert found.verification == "none"
    assert "no signature required" in found.verification_detail
    assert elf.read(found.vmlinux).has_dwarf
    asked = list(dict.fromkeys(path.partition("/Everything")[0] for path, _ in archive.requests))
    assert asked == [
        "/dl.fedoraproject.org/pub/fedora/linux/updates/42",
        "/dl.fedoraproject.org/pub/fedora/linux/releases/42",
        "/archives.fedoraproject.org/pub/archive/fedora/linux/updates/42",
        "/archives.fedoraproject.org/pub/archive/fedora/linux/releases/42",
        place,
    ]
    # A flipped byte, another build, and a dump that only has its banner to compare.
    archive.flip = len(archive.files[place]) // 2
    for_dump = vmcore(release, tmp_path)
    with pytest.raises(DebuginfoError):
        find("fedora", for_dump, tmp_path / "flipped")
    archive.flip = None
    for unproven in ("00" * 20, None):
        with pytest.raises(DebuginfoError):
            find("fedora", vmcore(release, tmp_path, build_id=unproven), tmp_path / "unproven")
    assert [*tmp_path.glob("flipped/debuginfo/*"), *tmp_path.glob("unproven/debuginfo/*")] == []


def test_parts_of_different_builds(tmp_path: Path, suse: tuple[bytes, bytes]) -> None:
    (tmp_path / "k").write_bytes(archives.vmlinux("11" * 20, banner(SUSE)))
    (tmp_path / "d").write_bytes(suse[1])
    with pytest.raises(Exception, match="build-id"):
        merge(tmp_path / "k", tmp_path / "d", tmp_path / "whole")


@contextmanager
def debuginfod(directory: Path, scratch: Path) -> Iterator[str]:
    """Run Debian's debuginfod with the packages and files of a directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = ["debuginfod", "-F", "-d", str(scratch / "db.sqlite"), "-p", str(port), str(directory)]
    with (scratch / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_debians_debuginfod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: rpms.Packages, archive: Archive
) -> None:
    served, scratch = tmp_path / "served", tmp_path / "scratch"
    served.mkdir()
    scratch.mkdir()
    (served / "vmlinux").write_bytes(packages.vmlinux)
    home: Profile = profiles.by_name("fedora")
    release = "6.14.0-63.fc42.x86_64"
    names = ("dl", "archives", "kojipkgs", "debuginfod")
    mirrored(monkeypatch, archive, *(f"https://{name}.fedoraproject.org" for name in names))
    with debuginfod(served, scratch) as url:
        monkeypatch.setenv("DEBUGINFOD_URLS", url)
        wait_for(f"{url}/buildid/{archives.BUILD_ID}/debuginfo")
        dump = vmcore(release, tmp_path / "crash")
        found = locate(dump, home, package_query=lambda *_: [], cache=tmp_path / "cache")
        assert found.origin == f"{url}/buildid/{archives.BUILD_ID}/debuginfo"
        assert found.proof == f"build-id {archives.BUILD_ID}"
        unknown = vmcore(release, tmp_path / "crash", build_id="00" * 20)
        with pytest.raises(DebuginfoError):
            locate(unknown, home, package_query=lambda *_: [], cache=tmp_path / "other")


def wait_for(url: str) -> None:
    """Wait until the server has found the file."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            # It only knows GET.
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.2)
    pytest.fail(f"{url} does not come up")
