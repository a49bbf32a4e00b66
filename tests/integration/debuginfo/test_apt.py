"""`verify = "strict"` with a correct Debian repository, and with one thing in it changed.

apt itself makes the query, in a container based on Debian 12. The repository is on loopback, and signed with the
test's key, which that image trusts.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import apt_repository
import archives
import rpms
from archives import Archive
from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.case import package_query
from sandbox.case.package_query import ContainerPackageQuery
from sandbox.debuginfo import locate
from sandbox.errors import DebuginfoError
from sandbox.host import config
from sandbox.model import Debuginfo, Vmcore
from sandbox.profiles import Base

PACKAGE = f"linux-image-{archives.RELEASE}-dbg"
POOL = f"pool/main/l/linux/{PACKAGE}_{archives.VERSION}_amd64.deb"
LIST = "main/binary-amd64/Packages"


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> rpms.Signer:
    return rpms.Signer.new(tmp_path_factory.mktemp("vendor"))


@pytest.fixture(scope="module")
def base(docker_engine: EngineUnderTest, vendor: rpms.Signer) -> Iterator[str]:
    """Debian 12 whose apt trusts only the test's key."""
    below = image.ensure_base(profiles.by_name("debian-12"), docker_engine.engine)
    ref = "localhost/vmbox/test-apt:1"
    # The settings of this host's apt, with which the base was made, may ignore the date.
    clear = "rm -rf /etc/apt/trusted.gpg.d/* /etc/apt/apt.conf.d/99mmdebstrap"
    apt_repository.trust(docker_engine.engine, below, vendor.key, ref, clear)
    yield ref
    docker_engine.engine.remove_image(ref)


@dataclass
class Repository:
    archive: Archive
    vendor: rpms.Signer
    cache: Path
    find: Callable[[], Debuginfo]

    def path(self, name: str, root: str = "deb.debian.org/debian") -> str:
        return f"/{root}/{name}"

    def publish(
        self,
        *,
        valid: timedelta = timedelta(days=7),
        root: str = "deb.debian.org/debian",
        suite: str = "bookworm",
        package: bytes | None = None,
        version: str = archives.VERSION,
    ) -> None:
        package = package or archives.deb({archives.PATH: archives.vmlinux(dwarf=random.Random(1).randbytes(300_000))})
        listed = (
            f"Package: {PACKAGE}\nVersion: {version}\nArchitecture: amd64\nMaintainer: k@example.org\n"
            f"Filename: {POOL}\nSize: {len(package)}\nSHA256: {archives.sha256(package)}\nDescription: debug\n\n"
        ).encode()
        now = datetime.now(UTC)
        stamps = [f"{when:%a, %d %b %Y %H:%M:%S} UTC" for when in (now - timedelta(days=30), now + valid)]
        packed = gzip.compress(listed)
        sums = "".join(
            f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n"
            for name, data in ((LIST, listed), (f"{LIST}.gz", packed))
        )
        release = (
            f"Origin: Debian\nSuite: stable\nCodename: {suite}\nDate: {stamps[0]}\nValid-Until: {stamps[1]}\n"
            f"Architectures: amd64\nComponents: main\nSHA256:\n{sums}"
        )
        plain = self.cache.parent / "Release"
        plain.write_text(release)
        signed = self.vendor.clearsigned(plain)
        self.archive.files |= {
            self.path(POOL, root): package,
            self.path(f"dists/{suite}/InRelease", root): signed,
            self.path(f"dists/{suite}/{LIST}", root): listed,
            self.path(f"dists/{suite}/{LIST}.gz", root): packed,
        }

    def change(self, name: str, before: bytes, after: bytes) -> None:
        data = self.archive.files[self.path(name)]
        assert before in data
        self.archive.files[self.path(name)] = data.replace(before, after, 1)


@pytest.fixture
def repository(
    tmp_path: Path,
    docker_engine: EngineUnderTest,
    vendor: rpms.Signer,
    archive: Archive,
    *,
    base: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Repository:
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    hosts = ("deb.debian.org", "snapshot.debian.org")
    monkeypatch.setenv("VMBOX_MIRRORS", " ".join(f"http://{host}={archive.url}/{host}" for host in hosts))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    # Nor when it is asked.
    monkeypatch.setattr(package_query, "apt_settings", tuple)
    # The shipped profile, on a base that trusts the test's key, with the archives that are served here.
    home = profiles.by_name("debian-12")
    assert home.debuginfo is not None
    image = replace(home.image, sources=("deb http://deb.debian.org/debian bookworm main",))
    rules = replace(home.debuginfo, sources=(), debuginfod=())
    home = replace(home, base=Base(images=(base,)), image=image, debuginfo=rules)
    dump = Vmcore(
        path=tmp_path / "vmcore",
        format="elf",
        size=1,
        release=archives.RELEASE,
        utsname_version=archives.UTSNAME_VERSION,
        arch="x86_64",
        banner=archives.BANNER,
        build_id=archives.BUILD_ID,
    )
    cache = tmp_path / "cache"

    def find() -> Debuginfo:
        return locate(dump, home, package_query=ContainerPackageQuery(home, docker_engine.engine), cache=cache)

    made = Repository(archive=archive, vendor=vendor, cache=cache, find=find)
    made.publish()
    return made


def refused(repository: Repository) -> str:
    """The error of vmbox. Nothing may have been kept."""
    with pytest.raises(DebuginfoError) as caught:
        repository.find()
    assert list(repository.cache.glob("debuginfo/*")) == []
    return f"{caught.value.message}\n{caught.value.detail}"


def test_strict_reads_all_of_the_package(repository: Repository) -> None:
    assert config.current().verify == "strict"
    found = repository.find()
    assert (found.verification, found.verification_detail) == ("hash", "SHA-256 of the whole package")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    assert [span for path, span in repository.archive.requests if path.endswith(".deb")] == [None]


def test_a_changed_inrelease(repository: Repository) -> None:
    repository.change("dists/bookworm/InRelease", b"Suite: stable", b"Suite: stabli")
    said = refused(repository)
    assert "The following signatures were invalid: BADSIG" in said
    assert repository.path(POOL) not in {path for path, _ in repository.archive.requests}


def test_another_keys_signature_is_refused(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    repository.vendor = rpms.Signer.new(tmp_path / "else")
    repository.publish()
    assert "the public key is not available: NO_PUBKEY" in refused(repository)


def test_a_changed_list_of_packages(repository: Repository) -> None:
    del repository.archive.files[repository.path(f"dists/bookworm/{LIST}.gz")]
    repository.change(f"dists/bookworm/{LIST}", b"SHA256: ", b"SHA256: 0")
    assert "unexpected size" in refused(repository)
    repository.publish()
    del repository.archive.files[repository.path(f"dists/bookworm/{LIST}.gz")]
    repository.change(f"dists/bookworm/{LIST}", b"Description: debug", b"Description: debog")
    assert "Hash Sum mismatch" in refused(repository)


@pytest.mark.parametrize("at", [0.05, 0.5, 0.99])
def test_a_changed_package(repository: Repository, at: float) -> None:
    name = repository.path(POOL)
    data = bytearray(repository.archive.files[name])
    data[int(at * len(data))] ^= 1
    repository.archive.files[name] = bytes(data)
    said = refused(repository)
    assert POOL.rpartition("/")[2] in said
    repository.publish()
    assert repository.find().verification == "hash"


def test_another_package_that_fits_the_dump(repository: Repository) -> None:
    """Its vmlinux has the build-id and the banner, and its blocks are correct: only the hash differs."""
    name = repository.path(POOL)
    size = len(repository.archive.files[name])
    others = (archives.vmlinux(dwarf=random.Random(seed).randbytes(300_000)) for seed in range(2, 100))
    forged = next(deb for deb in (archives.deb({archives.PATH: one}) for one in others) if len(deb) == size)
    repository.archive.files[name] = forged
    assert "SHA-256" in refused(repository)


def test_an_expired_release(repository: Repository) -> None:
    repository.publish(valid=timedelta(days=-2))
    assert "is expired" in refused(repository)


SNAPSHOT = "snapshot.debian.org/archive/debian-security/20260706T000000Z"


def _only_in_the_past(repository: Repository) -> bytes:
    """The mirror has a newer version than the dump's; four days after its build, the archive had that one."""
    package = repository.archive.files[repository.path(POOL)]
    repository.publish(package=archives.deb({"./usr/share/doc/x": b"newer"}), version="6.1.999-1")
    for root, suite, version in (
        ("debian-security", "bookworm-security", archives.VERSION),
        ("debian", "bookworm-proposed-updates", "6.1.177-1"),
        ("debian", "bookworm-backports", "6.12.3-1~bpo12+1"),
    ):
        other = None if version == archives.VERSION else archives.deb({"./usr/share/doc/x": version.encode()})
        repository.publish(
            root=f"snapshot.debian.org/archive/{root}/20260706T000000Z",
            suite=suite,
            version=version,
            package=other or package,
            # As every InRelease of the past.
            valid=timedelta(days=-2),
        )
    return package


def test_a_version_that_only_the_snapshots_have(repository: Repository) -> None:
    package = _only_in_the_past(repository)
    found = repository.find()
    assert found.origin.endswith(f"/{SNAPSHOT}/{POOL}")
    assert (found.verification, found.verification_detail) == ("hash", "SHA-256 of the whole package")
    assert found.proof == f"build-id {archives.BUILD_ID}"
    # Its hash is in the suite's signed index: with one byte changed on the way it is refused.
    name = repository.path(POOL, SNAPSHOT)
    repository.archive.files[name] = package[:-3000] + bytes([package[-3000] ^ 1]) + package[-2999:]
    shutil.rmtree(repository.cache)
    assert "20260706T000000Z" in refused(repository)


def test_a_snapshot_that_another_key_signed(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    ours = repository.vendor
    repository.vendor = rpms.Signer.new(tmp_path / "else")
    _only_in_the_past(repository)
    repository.vendor = ours
    repository.publish(package=archives.deb({"./usr/share/doc/x": b"newer"}), version="6.1.999-1")
    said = refused(repository)
    assert "the archive of 20260706" in said
    assert "the public key is not available: NO_PUBKEY" in said
    assert not [path for path, _ in repository.archive.requests if path.startswith("/snapshot") and "/pool/" in path]
