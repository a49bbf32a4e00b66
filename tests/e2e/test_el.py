"""Enterprise Linux 7 to 10 from dump to backtrace, with the URL templates of the shipped profiles.

Stand-ins: dumps and kernels are Debian's under EL names (see standins.py), every host is one server on loopback, every
vendor's key is the test's, and crash runs in a Debian image. The archives' layouts are the real ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import archives
import rpms
import standins
from archives import Archive
from e2e.conftest import Dumps
from engines import EngineUnderTest
from sandbox import image, profiles
from standins import Disguise

HOSTS = {
    "https://dl.rockylinux.org",
    "https://repo.almalinux.org",
    "https://vault.almalinux.org",
    "http://debuginfo.centos.org",
    "http://mirror.facebook.net",
    "http://mirrors.ocf.berkeley.edu",
    "https://mirror.stream.centos.org",
    "https://kojihub.stream.centos.org",
    "https://oss.oracle.com",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One major: which Debian kernel plays it, who built it, how its package is packed and where it lies."""

    profile: str
    kernel: str
    image: str
    """The profile whose image plays the vendor's."""
    template: str
    vendor: str
    payload: str
    place: str
    build_id: bool
    """Whether VMCOREINFO has it: since 5.9. Without it, it may still be found in the dump's memory."""
    saves: bool
    """Whether the payload can be read by ranges."""


FAMILIES = (
    Family(
        profile="el7",
        kernel="5.10",
        image="debian-12",
        template="3.10.0-{}.el7.x86_64",
        vendor="centos",
        payload="w0.xzdio",
        place="/debuginfo.centos.org/7/x86_64/{package}",
        build_id=False,
        saves=False,
    ),
    Family(
        profile="el8",
        kernel="6.1",
        image="latest",
        template="4.18.0-{}.el8.x86_64",
        vendor="rocky",
        payload="w0T2.xzdio",
        place="/dl.rockylinux.org/vault/rocky/8.0/BaseOS/x86_64/debug/tree/Packages/k/{package}",
        build_id=False,
        saves=True,
    ),
    Family(
        profile="el9",
        kernel="6.1",
        image="latest",
        template="5.14.0-{}.el9.x86_64",
        vendor="alma",
        payload="w1.zstdio",
        place="/vault.almalinux.org/9/BaseOS/debug/x86_64/Packages/{package}",
        build_id=True,
        saves=False,
    ),
    Family(
        profile="el10",
        kernel="6.12",
        image="debian-13",
        template="6.12.0-{}.el10.x86_64",
        vendor="oracle",
        payload="w0T2.xzdio",
        place="/oss.oracle.com/ol10/debuginfo/{package}",
        build_id=True,
        saves=True,
    ),
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> rpms.Signer:
    return rpms.Signer.new(tmp_path_factory.mktemp("vendor"))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A dump under an EL name, and the tree its debug package is made of."""

    dump: Path
    tree: Path
    disguise: Disguise


@pytest.fixture(scope="module")
def pairs(docker_engine: EngineUnderTest, dumps: Dumps, tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Pair] = {}

    def pair(family: Family) -> Pair:
        if family.profile not in made:
            raw = dumps(family.kernel, form="elf")
            said = docker_engine.run("info", str(raw), "--json")
            real = json.loads(said.stdout)["release"]
            # The debuginfo that vmbox itself finds is what plays the vendor's.
            ready = docker_engine.run("debuginfo", "fetch", str(raw), "--modules", "--json")
            assert ready.returncode == 0, ready.stderr.decode()
            assert docker_engine.run("close", str(raw)).returncode == 0
            vmlinux = Path(json.loads(ready.stdout)["debuginfo"]["vmlinux"])
            release = standins.release_like(family.template, real)
            disguise = Disguise(real=real, release=release, vendor=family.vendor, build_id=family.build_id)
            directory = tmp_path_factory.mktemp(family.profile)
            tree = directory / "tree" / "usr" / "lib" / "debug" / "lib" / "modules" / release
            (tree / "kernel").mkdir(parents=True)
            disguise.put_on(raw, directory / "vmcore")
            disguise.put_on(vmlinux, tree / "vmlinux")
            for module in (vmlinux.parent / "modules").iterdir():
                disguise.put_on(module, tree / "kernel" / f"{module.name}.debug")
            made[family.profile] = Pair(dump=directory / "vmcore", tree=directory / "tree", disguise=disguise)
        return made[family.profile]

    return pair


@dataclass(frozen=True, kw_only=True)
class Site:
    """vmbox with its own cache and configuration, and a server that is all of the world's archives."""

    engine: EngineUnderTest
    archive: Archive
    env: dict[str, str]

    def run(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[bytes]:
        command = [*self.engine.vmbox, *map(str, arguments)]
        done = subprocess.run(command, env=self.env, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == status, (command, done.stdout[-2000:], done.stderr[-4000:])
        return done


@pytest.fixture
def site(docker_engine: EngineUnderTest, signer: rpms.Signer, tmp_path: Path) -> Iterator[Site]:
    config = tmp_path / "config" / "images"
    (config / "keys").mkdir(parents=True)
    shipped = Path(profiles.__file__).parents[1] / "images"
    for key in (shipped / "keys").iterdir():
        shutil.copy(signer.key, config / "keys" / key.name)
    for family in FAMILIES:
        own = profiles.by_name(family.image)
        base = image.ensure_base(own, docker_engine.engine)
        text = (shipped / f"{family.profile}.toml").read_text()
        playing = (shipped / f"{family.image}.toml").read_text()
        head = re.match(r"(?s).*?(?=\n\[base\])", text)[0]  # type: ignore[index]
        rest = re.search(r"(?s)\n\[image\].*?(?=\n\[arch\]|\n\[debuginfo)", playing)[0]  # type: ignore[index]
        debuginfo = re.search(r"(?s)\n\[debuginfo\].*", text)[0]  # type: ignore[index]
        rest = re.sub(r"(?m)^newest_kernel.*$", "", rest)
        (config / f"{family.profile}.toml").write_text(f'{head}\n[base]\nimages = ["{base}"]\n{rest}\n{debuginfo}')
    with archives.serve(Archive(files={})) as archive:
        mirrors = " ".join(f"{host}={archive.url}/{host.partition('//')[2]}" for host in HOSTS)
        given = docker_engine.env.get("VMBOX_MIRRORS", "")
        env = dict(docker_engine.env)
        env |= {"VMBOX_CONFIG_DIR": str(config.parent), "VMBOX_CACHE_DIR": str(tmp_path / "cache")}
        env["VMBOX_MIRRORS"] = f"{given} {mirrors}"
        yield Site(engine=docker_engine, archive=archive, env=env)


def _tried() -> tuple[Family, ...]:
    """Each takes a minute and more: all of them are for whoever changes how archives are read."""
    every = os.environ.get("VMBOX_TEST_FAMILIES") == "all"
    return tuple(family for family in FAMILIES if every or family.profile == "el8")


@pytest.mark.parametrize("family", _tried(), ids=lambda family: family.profile)
def test_backtrace(site: Site, pairs, signer: rpms.Signer, family: Family, tmp_path: Path) -> None:
    pair = pairs(family)
    release = pair.disguise.release
    nevra = f"kernel-debuginfo-{release}"
    name = f"{nevra}.rpm"
    package = standins.rpm(pair.tree, nevra, payload=family.payload, signer=signer, out=tmp_path / name).read_bytes()
    site.archive.files[family.place.format(package=name)] = package
    facts = json.loads(site.run("info", pair.dump, "--json").stdout)
    assert (facts["release"], facts["vendor"], facts["profile"]) == (release, family.vendor, family.profile)
    try:
        done = site.run("run", pair.dump, "--", "bt", "--", "sys")
        for_vmlinux = site.archive.sent
        modules = site.run("run", pair.dump, "--", "mod", "-S").stdout.decode()
        (case,) = (case for case in json.loads(site.run("list", "--json").stdout) if case["dump"] == str(pair.dump))
    finally:
        site.run("close", pair.dump)
    assert b"sysrq_handle_crash" in done.stdout
    assert f"RELEASE: {release}".encode() in done.stdout
    assert case["proof"].startswith("build-id" if facts["build_id"] else "banner")
    # Only the vendor's own archives were asked.
    hosts = {path.split("/")[1] for path, _ in site.archive.requests}
    assert all(family.vendor in host or host in family.place for host in hosts) or family.vendor == "centos"
    # Modules come from the same package, and have appeared in the running case.
    assert re.search(r"/case/debuginfo/modules/\S+\.ko\.debug", modules)
    assert "(not loaded)" not in modules
    if family.saves:
        assert for_vmlinux < len(package)
        assert site.archive.sent - for_vmlinux < 0.5 * len(package)
    about = json.loads((Path(case["vmlinux"]).parent / "about.json").read_text())
    assert "which Kernel Builders <k@example.org>" in about["verified"]
