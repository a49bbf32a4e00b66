"""From a dump to `bt` with debuginfo from where vendors keep that of kernels that are not their newest.

Stand-ins: dump and kernel are Debian's under the vendor's names (standins.py), every host is one server on loopback,
every vendor's key is the test's. The image is the newest one; that profiles' own are made is seen in test_el.py and
test_distributions.py. The vault of a minor version that only the kernel's number tells is in test_el.py.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import pytest

import apt_repository
import archives
import certificates
import rpms
import standins
from archives import Archive
from e2e.conftest import Dumps
from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.host import paths
from standins import Disguise

AMAZON = "/cdn.amazonlinux.com/al2023/core"
HOSTS = (
    "https://dl.rockylinux.org",
    "https://cdn.amazonlinux.com",
    "https://mirrors.aliyun.com",
    "https://repo.openeuler.org",
    "https://archives.openeuler.openatom.cn",
    "http://debuginfo.centos.org",
    "http://mirror.facebook.net",
)
SUBSCRIBED = "https://cdn.redhat.com"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where a vendor keeps the debuginfo of one kernel."""

    release: str
    """With {} for what fills it to the length of the real one."""
    package: str
    directory: str
    vendor: str = "unknown"
    digest: str = "sha256"
    """What its signature is over."""
    check: str = "signature"
    """What vmbox says it has compared; the key that signs Alibaba's does not come with it."""
    asked: dict[str, bytes] = field(default_factory=dict)
    """Files that lead to the directory, which is then a repository."""
    debugger: str = "drgn"
    """drgn is up sooner than crash."""


KEPT = {
    "extended-support-behind-a-certificate": Kept(
        release="5.14.0-427.{}.el9_4.x86_64",
        package="kernel-debuginfo",
        directory="/cdn.redhat.com/content/eus/rhel9/9.4/x86_64/baseos/debug/Packages/k",
        vendor="rhel",
    ),
    "realtime-tree": Kept(
        release="5.14.0-{}.el9_4.x86_64+rt",
        package="kernel-rt-debuginfo",
        directory="/dl.rockylinux.org/vault/rocky/9.4/NFV/x86_64/debug/tree/Packages/k",
        vendor="rocky",
    ),
    "index-of-versions": Kept(
        release="6.12.90-{}.amzn2023.x86_64",
        package="kernel6.12-debuginfo",
        directory="/cdn.amazonlinux.com/guids/0123/x86_64",
        asked={
            f"{AMAZON}/releasemd.xml": b"<root><release><version>2023.99.20991231</version></release></root>",
            f"{AMAZON}/mirrors/2023.99.20991231/debuginfo/x86_64/mirror.list": (
                b"https://cdn.amazonlinux.com/guids/0123/x86_64/\n"
            ),
        },
    ),
    "flat-directory": Kept(
        release="5.10.134-{}.al8.x86_64",
        package="kernel-debuginfo",
        directory="/mirrors.aliyun.com/alinux/3/plus/x86_64/debug",
        check="none",
        debugger="crash",
    ),
    "second-key": Kept(
        release="6.6.0-{}.oe2403sp1.x86_64",
        package="kernel-debuginfo",
        directory="/repo.openeuler.org/openEuler-24.03-LTS-SP1/update/x86_64/Packages",
    ),
    "sha-1": Kept(
        release="2.6.32-754.{}.el6.x86_64",
        package="kernel-debuginfo",
        directory="/debuginfo.centos.org/6/x86_64",
        vendor="centos",
        digest="sha1",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Debian's, which plays all of the others."""

    dump: Path
    vmlinux: Path
    release: str
    utsname_version: str


@pytest.fixture(scope="module")
def kernel(podman_rootful: EngineUnderTest, dumps: Dumps) -> Kernel:
    dump = dumps("6.12", form="stored")
    ready = podman_rootful.run("debuginfo", "fetch", str(dump), "--json")
    assert ready.returncode == 0, ready.stderr.decode()
    facts = json.loads(podman_rootful.run("info", str(dump), "--json").stdout)
    vmlinux = Path(json.loads(ready.stdout)["debuginfo"]["vmlinux"])
    return Kernel(dump=dump, vmlinux=vmlinux, release=facts["release"], utsname_version=facts["utsname_version"])


@dataclass(frozen=True, kw_only=True)
class World:
    """A vmbox for which all vendors are one archive, and their keys the signer's."""

    engine: EngineUnderTest
    archive: Archive
    cdn: Archive
    """The same files, for clients with a certificate."""
    signer: rpms.Signer

    def backtrace(self, dump: Path, cache: Path, *options: str) -> tuple[str, dict[str, str]]:
        """What `bt` and `sys` print, and the case. The cache is the test's: all kernels have one build-id."""
        engine = replace(self.engine, env={**self.engine.env, "VMBOX_CACHE_DIR": str(cache)})
        try:
            done = engine.run("run", "--image", "latest", *options, str(dump), "--", "bt", "--", "sys")
            assert done.returncode == 0, done.stderr.decode()
            (case,) = (one for one in json.loads(engine.run("list", "--json").stdout) if one["dump"] == str(dump))
        finally:
            engine.run("close", str(dump))
        assert case["vmlinux"] is not None, done.stderr.decode()
        assert b"AGREES WITH: the log's call trace" in done.stderr
        assert b"sysrq_handle_crash" in done.stdout
        return done.stdout.decode(), case


@pytest.fixture(scope="module")
def world(podman_rootful: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    top = tmp_path_factory.mktemp("vendors")
    signer = rpms.Signer.new(top)
    keys = top / "config" / "images" / "keys"
    keys.mkdir(parents=True)
    for key in (paths.data_dir() / "images" / "keys").iterdir():
        # Of openEuler's two it is the newer one, so the other is not enough.
        shutil.copy(key if key.name == "openeuler.asc" else signer.key, keys / key.name)
    made = certificates.make(top / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "cert.pem", made / "key.pem")
    context.load_verify_locations(made / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    entitlement = top / "entitlement"
    entitlement.mkdir()
    shutil.copy(made / "cert.pem", entitlement / "1234.pem")
    shutil.copy(made / "key.pem", entitlement / "1234-key.pem")
    files: dict[str, bytes] = {}
    with archives.serve(Archive(files=files)) as archive, archives.serve(Archive(files=files), tls=context) as cdn:
        mirrors = [f"{host}={archive.url}/{host.partition('//')[2]}" for host in HOSTS]
        mirrors.append(f"{SUBSCRIBED}={cdn.url}/{SUBSCRIBED.partition('//')[2]}")
        env = {
            **podman_rootful.env,
            "VMBOX_CONFIG_DIR": str(top / "config"),
            "VMBOX_MIRRORS": " ".join([podman_rootful.env.get("VMBOX_MIRRORS", ""), *mirrors]),
            "VMBOX_CLIENT_CERTIFICATES": f"{cdn.url}={entitlement}",
            "SSL_CERT_FILE": str(made / "ca.pem"),
        }
        engine = replace(podman_rootful, env=env)
        yield World(engine=engine, archive=archive, cdn=cdn, signer=signer)


@pytest.mark.parametrize("name", KEPT)
def test_backtrace(name: str, kernel: Kernel, world: World, tmp_path: Path) -> None:
    kept = KEPT[name]
    release = standins.release_like(kept.release, kernel.release)
    disguise = Disguise(real=kernel.release, release=release, vendor=kept.vendor)
    tree = tmp_path / "tree" / "usr" / "lib" / "debug" / "lib" / "modules" / release
    tree.mkdir(parents=True)
    dump = tmp_path / "vmcore"
    disguise.put_on(kernel.dump, dump)
    disguise.put_on(kernel.vmlinux, tree / "vmlinux")
    nevra = f"{kept.package}-{release.partition('+')[0]}"
    repository = tmp_path / "repository"
    repository.mkdir()
    file = repository / f"{nevra}.rpm"
    standins.rpm(tmp_path / "tree", nevra, payload="w1.zstdio", signer=world.signer, out=file, digest=kept.digest)
    if kept.asked:
        rpms.run(["createrepo_c", "--quiet", "--simple-md-filenames", "--no-database", str(repository)])
    try:
        world.archive.files.update(kept.asked)
        for one in repository.rglob("*.*"):
            world.archive.files[f"{kept.directory}/{one.relative_to(repository)}"] = one.read_bytes()
        said, case = world.backtrace(dump, tmp_path / "cache", "--with", kept.debugger)
    finally:
        world.archive.files.clear()
    assert re.search(rf"RELEASE: {re.escape(release)}\b", said)
    assert (case["check"], case["proof"].partition(" ")[0]) == (kept.check, "build-id")
    served = world.cdn if kept.directory.startswith("/cdn.redhat.com/") else world.archive
    assert f"{kept.directory}/{file.name}" in {path for path, _ in served.requests}


DAY = "2026-03-02"
"""When a Debian kernel was built that no mirror has any more."""
AFTER = "20260306T000000Z"
"""The first day on which vmbox asks for it, four days later."""


@pytest.fixture(scope="module")
def debian(podman_rootful: EngineUnderTest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """`world` with Debian 13 on a base whose apt also trusts the test's key. Its mirrors are the real ones."""
    top = tmp_path_factory.mktemp("debian")
    below = image.ensure_base(profiles.by_name("debian-13"), podman_rootful.engine)
    ref = "localhost/vmbox/test-trixie:1"
    apt_repository.trust(podman_rootful.engine, below, world.signer.key, ref)
    shipped = (paths.data_dir() / "images" / "debian-13.toml").read_text()
    own, made = re.subn(r"\[base\]\n.*?(?=\[image\])", f'[base]\nimages = ["{ref}"]\n\n', shipped, flags=re.DOTALL)
    assert made == 1
    (top / "images").mkdir()
    (top / "images" / "debian-13.toml").write_text(own)
    host = "http://snapshot.debian.org"
    env = {
        **world.engine.env,
        "VMBOX_CONFIG_DIR": str(top),
        "VMBOX_MIRRORS": f"{world.engine.env['VMBOX_MIRRORS']} {host}={world.archive.url}/snapshot.debian.org",
    }
    yield replace(world, engine=replace(world.engine, env=env))
    podman_rootful.engine.remove_image(ref)


def test_backtrace_of_a_kernel_that_only_a_dated_suite_has(kernel: Kernel, debian: World, tmp_path: Path) -> None:
    """The suite is as apt-ftparchive writes it, and signed; apt finds the package in it. Nothing is on the mirrors."""
    found = re.search(r"Debian (\d+\.\d+)\.(\d+)(\S+) \(\d{4}-\d\d-\d\d\)", kernel.utsname_version)
    assert found is not None
    old = f"{found[1]}.{'1'.ljust(len(found[2]), '0')}"
    release = kernel.release.replace(f"{found[1]}.{found[2]}", old, 1)
    assert release != kernel.release
    version = f"{old}{found[3]}"
    words = {found[0].encode(): f"Debian {version} ({DAY})".encode()}
    disguise = Disguise(real=kernel.release, release=release, vendor="debian", more=words)
    package = f"linux-image-{release}-dbg"
    tree = tmp_path / "package"
    (tree / "usr" / "lib" / "debug" / "boot").mkdir(parents=True)
    dump = tmp_path / "vmcore"
    disguise.put_on(kernel.dump, dump)
    disguise.put_on(kernel.vmlinux, tree / "usr" / "lib" / "debug" / "boot" / f"vmlinux-{release}")
    suites = {
        "debian-security": ["trixie-security"],
        "debian": ["trixie-proposed-updates", "trixie-backports"],
    }
    archive = tmp_path / "snapshot.debian.org" / "archive"
    apt_repository.deb(
        tree, package, version, archive / "debian-security" / AFTER / "pool" / "updates" / "main" / "l" / "linux"
    )
    for root, names in suites.items():
        for name in names:
            apt_repository.publish(archive / root / AFTER, name, debian.signer)
    try:
        for file in archive.rglob("*"):
            if file.is_file():
                # As apt asks for it; the server compares paths as they come.
                debian.archive.files[f"/{file.relative_to(tmp_path)}".replace("+", "%2b")] = file.read_bytes()
        said, case = debian.backtrace(dump, tmp_path / "cache", "--with", "crash")
    finally:
        debian.archive.files.clear()
    assert re.search(rf"RELEASE: {re.escape(release)}\b", said)
    assert (case["check"], case["proof"].partition(" ")[0]) == ("hash", "build-id")
    asked = {unquote(path) for path, _ in debian.archive.requests}
    pool = f"/snapshot.debian.org/archive/debian-security/{AFTER}/pool/updates/main/l/linux"
    assert f"{pool}/{package}_{version}_amd64.deb" in asked
