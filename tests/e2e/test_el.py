"""Enterprise Linux 7 to 10 from dump to backtrace in the majors' own images, from nothing but servers on loopback.

The shipped profiles as they are: dnf makes the base or it is pulled, the fragments put crash on it, debuginfo comes
from where the vendor keeps it. Stand-ins: dumps and kernels are Debian's under EL names (standins.py), packages and
base images too (vendors.py), every host is one server, every vendor's key is the test's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import archives
import rpms
import standins
import vendors
from archives import Archive
from e2e.conftest import Dumps
from engines import EngineUnderTest
from registries import registry
from sandbox import image, profiles
from sandbox.engine import ContainerSpec, Engine, labels
from sandbox.host import paths
from standins import Disguise
from vendors import Vendor


@dataclass(frozen=True, kw_only=True)
class Family:
    """One major: which Debian kernel plays it, who built it, how its package is packed and where it lies."""

    profile: str
    kernel: str
    debian: str
    """The profile of the Debian that plays its base, and whose crash is packed."""
    manager: str
    base: str | None
    """What quay.io calls its base image; None: dnf makes it."""
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
        debian="debian-12",
        manager="yum",
        base="centos/centos:7",
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
        debian="debian-12",
        manager="dnf",
        base=None,
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
        debian="debian-12",
        manager="dnf",
        base="rockylinux/rockylinux:9",
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
        debian="debian-13",
        manager="microdnf",
        base="rockylinux/rockylinux:10",
        template="6.12.0-{}.el10.x86_64",
        vendor="oracle",
        payload="w0T2.xzdio",
        place="/oss.oracle.com/ol10/debuginfo/{package}",
        build_id=True,
        saves=True,
    ),
)


def _tried() -> tuple[Family, ...]:
    """Each takes a minute and more: all of them are for whoever changes how archives are read."""
    every = os.environ.get("VMBOX_TEST_FAMILIES") == "all"
    return tuple(family for family in FAMILIES if every or family.profile == "el8")


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
def pairs(
    docker_engine: EngineUnderTest, dumps: Dumps, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Family], Pair]:
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
            for module in (vmlinux.parent / "modules").glob("*.ko*"):
                disguise.put_on(module, tree / "kernel" / f"{module.name}.debug")
            made[family.profile] = Pair(dump=directory / "vmcore", tree=directory / "tree", disguise=disguise)
        return made[family.profile]

    return pair


@dataclass(frozen=True, kw_only=True)
class World:
    """A vmbox with its own cache and configuration, and servers that are all it knows of the world of EL."""

    engine: EngineUnderTest
    vendor: Vendor
    env: dict[str, str]

    @property
    def archive(self) -> Archive:
        return self.vendor.archive

    def run(self, *arguments: object, status: int = 0, **env: str) -> subprocess.CompletedProcess[bytes]:
        command = [*self.engine.vmbox, *map(str, arguments)]
        env = {**self.env, **env}
        done = subprocess.run(command, env=env, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=600)
        assert done.returncode == status, (command, done.stdout[-2000:], done.stderr[-5000:])
        return done

    def case(self, dump: Path) -> dict[str, str]:
        (case,) = (case for case in json.loads(self.run("list", "--json").stdout) if case["dump"] == str(dump))
        return case


@pytest.fixture(scope="module")
def world(
    docker_engine: EngineUnderTest, signer: rpms.Signer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    top = tmp_path_factory.mktemp("world")
    keys = top / "config" / "images" / "keys"
    keys.mkdir(parents=True)
    for key in (paths.data_dir() / "images" / "keys").iterdir():
        shutil.copy(signer.key, keys / key.name)
    engine = docker_engine.engine
    forget(engine)
    with registry(top / "registry") as address, archives.serve(Archive(files={})) as archive:
        vendor = Vendor(archive=archive, signer=signer, directory=top)
        for family in _tried():
            root = vendors.stand_in(engine, family.debian, family.manager)
            debian = profiles.by_name(family.debian)
            crash = vendors.unpack(engine, image.ensure(debian, engine), vendors.CRASH, top / family.profile)
            packages = [vendor.package("crash", crash, version=debian.crash.version)]
            packages += [vendor.package(name) for name in ("less", "util-linux")]
            if family.base is None:
                first, *others = vendors.needed(family.profile)
                tree = vendors.unpack(engine, root, ".", top / "root")
                packages += [vendor.package(first, tree), *map(vendor.package, others)]
                shutil.rmtree(tree)
            else:
                there = f"{address}/{family.base}"
                engine.tag(root, there)
                list(engine.push(there))
                engine.remove_image(there)
            # Of the URLs of each repository the last one has it: the vault, where there is one.
            vendor.publish(family.profile, packages, url=1)
        mirrors = [f"{host}={archive.url}/{host.partition('//')[2]}" for host in vendors.WORLD]
        mirrors += [f"{name}={address}" for name in vendors.REGISTRIES]
        env = dict(docker_engine.env)
        env |= {"VMBOX_CONFIG_DIR": str(top / "config"), "VMBOX_CACHE_DIR": str(top / "cache")}
        env["VMBOX_MIRRORS"] = " ".join([env.get("VMBOX_MIRRORS", ""), *mirrors])
        made = World(engine=docker_engine, vendor=vendor, env=env)
        yield made
        made.run("close", "--all")
        forget(engine)
        for tag in [tag for one in engine.images({"vmbox.standin": ""}) for tag in one.tags]:
            if tag.startswith("127.0.0.1:"):
                engine.remove_image(tag)


def forget(engine: Engine, *names: str) -> None:
    """Removes the images of EL profiles, and of their bases, or of those named."""
    for one in engine.images({labels.IMAGE: ""}):
        if one.labels[labels.IMAGE] in names or (not names and re.match(r"(base-)?el\d", one.labels[labels.IMAGE])):
            for tag in one.tags:
                engine.remove_image(tag)


@pytest.mark.parametrize("family", _tried(), ids=lambda family: family.profile)
def test_backtrace(
    world: World, pairs: Callable[[Family], Pair], signer: rpms.Signer, family: Family, tmp_path: Path
) -> None:
    # A second try builds the image, too.
    forget(world.engine.engine, family.profile)
    pair = pairs(family)
    release = pair.disguise.release
    nevra = f"kernel-debuginfo-{release}"
    name = f"{nevra}.rpm"
    package = standins.rpm(pair.tree, nevra, payload=family.payload, signer=signer, out=tmp_path / name).read_bytes()
    world.archive.files[family.place.format(package=name)] = package
    facts = json.loads(world.run("info", pair.dump, "--json").stdout)
    assert (facts["release"], facts["vendor"], facts["profile"]) == (release, family.vendor, family.profile)
    built = world.run("image", "build", family.profile).stdout.decode().strip()
    assert any(re.search(r"/crash-[\d.]+-1\.x86_64\.rpm$", path) for path, _ in world.archive.requests)
    # Repositories that a base image came with, and that are gone in the world, were not asked.
    assert not [path for path, _ in world.archive.requests if "mirrorlist" in path]
    world.archive.requests.clear()
    world.archive.sent = 0
    try:
        # A stand-in's kernel may be newer than its name, and than what its crash knows: drgn would answer the second.
        crash = ("run", pair.dump, "--with", "crash", "--")
        done = world.run(*crash, "bt", "--", "sys", "--", "!rpm -q crash")
        for_vmlinux = world.archive.sent
        modules = world.run(*crash, "mod", "-S").stdout.decode()
        case = world.case(pair.dump)
        by_drgn = world.run("run", pair.dump, "--with", "drgn", "--", "bt")
    finally:
        world.run("close", pair.dump)
    assert b"sysrq_handle_crash" in done.stdout
    assert f"RELEASE: {release}".encode() in done.stdout
    # It is the major's own image, with the crash that its package manager installed.
    assert (case["profile"], case["image"]) == (family.profile, built)
    assert f"crash-{profiles.by_name(family.debian).crash.version}-1.x86_64".encode() in done.stdout
    # drgn's wheel is in it, where it can be; else the newest image has drgn.
    lacking = profiles.by_name(family.profile).image.lacks
    assert case["versions"].get("drgn") == (None if "drgn" in lacking else profiles.wheels.load().version)
    assert b"sysrq_handle_crash" in by_drgn.stdout
    assert (f"image {family.profile} has no drgn".encode() in by_drgn.stderr) == ("drgn" in lacking)
    # The image is there, so none is built for a kernel of the major. That of `prepare` may be lacking: no test before
    # this one may have indexed a vmlinux.
    assert f"Building image {family.profile}".encode() not in done.stderr
    assert case["proof"].startswith("build-id" if facts["build_id"] else "banner")
    # For debuginfo, only the vendor's own archives were asked.
    hosts = {path.split("/")[1] for path, _ in world.archive.requests}
    assert all(family.vendor in host or host in family.place for host in hosts) or family.vendor == "centos"
    # Modules come from the same package, and have appeared in the running case.
    assert re.search(r"/case/debuginfo/modules/\S+\.ko\.debug", modules)
    assert "(not loaded)" not in modules
    if family.saves:
        assert for_vmlinux < len(package)
        assert world.archive.sent - for_vmlinux < 0.5 * len(package)
    about = json.loads((Path(case["vmlinux"]).parent / "about.json").read_text())
    assert "which Kernel Builders <k@example.org>" in about["verified"]


def test_a_package_that_somebody_else_signed_is_not_installed(world: World, tmp_path: Path) -> None:
    engine = world.engine.engine
    world.run("image", "build", "el8")
    # What is built last is removed, and then built of other repositories.
    forget(engine, "el8")
    before = {one.id for one in engine.images({})}
    kept = dict(world.archive.files)
    somebody = Vendor(archive=world.archive, signer=rpms.Signer.new(tmp_path), directory=tmp_path)
    somebody.publish("el8", [somebody.package(name) for name in ("crash", "less", "util-linux")], url=1)
    try:
        failed = world.run("image", "build", "el8", status=31)
    finally:
        world.archive.files.clear()
        world.archive.files.update(kept)
    shown = [line for line in failed.stderr.decode().splitlines() if line.startswith("    ")]
    assert 3 < len(shown) <= 20
    assert any("GPG" in line or "not signed" in line or "key" in line for line in shown), shown
    # Nothing is left of it: no image, no container.
    assert {one.id for one in engine.images({})} <= before
    assert engine.containers({}) == []
    # With the vendor's packages there again, two builds at once make one.
    command = [*world.engine.vmbox, "image", "build", "el8"]
    both = [subprocess.Popen(command, env=world.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert sum(b"Building image el8" in stderr for _, stderr in said) == 1


@pytest.mark.on_demand("FAMILIES")
def test_rootless_podman_makes_it_as_well(world: World, podman_rootless: EngineUnderTest) -> None:
    config = podman_rootless.directory()
    shutil.copytree(Path(world.env["VMBOX_CONFIG_DIR"]) / "images", config / "images")
    subprocess.run(["chmod", "-R", "a+rX", str(config)], check=True)
    env = {**podman_rootless.env, "VMBOX_MIRRORS": world.env["VMBOX_MIRRORS"], "VMBOX_CONFIG_DIR": str(config)}
    engine = podman_rootless.engine
    forget(engine)
    try:
        command = [*podman_rootless.vmbox, "image", "build", "el8"]
        done = subprocess.run(command, env=env, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=900)
        assert done.returncode == 0, done.stderr.decode()
        spec = ContainerSpec(image=done.stdout.decode().strip(), argv=["sh", "-c", "rpm -q crash && crash --version"])
        said = b"".join(engine.run(spec)).decode()
        assert "crash-8.0.2-1.x86_64" in said
        assert "crash 8.0.2" in said
    finally:
        forget(engine)
        (Path(env["VMBOX_CACHE_DIR"]) / "rootfs" / "el8.tar").unlink(missing_ok=True)
