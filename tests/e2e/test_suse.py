"""A kernel of SUSE's from dump to backtrace: the kernel in one package, its debug information in another one.

Stand-ins as in test_el.py: a dump and a kernel of Debian's under a name of Tumbleweed's, parted by objcopy as SUSE's
build service parts them, in packages that rpmbuild made, in repositories that createrepo_c made, on loopback. crash is
that of the newest image: there is no zypper in Debian to build Tumbleweed's own with.
"""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import archives
import rpms
import standins
from archives import Archive
from engines import EngineUnderTest
from sandbox.formats import elf
from sandbox.host import paths
from standins import Disguise

RELEASE = "6.12.100-{}-longterm"
HOST = "https://download.opensuse.org"


def publish(archive: Archive, package: Path, at: str) -> None:
    """A repository with one package in it, and the index over it."""
    directory = package.parent
    rpms.run(["createrepo_c", "--quiet", "--simple-md-filenames", "--no-database", str(directory)])
    for file in directory.rglob("*"):
        if file.is_file():
            archive.files[f"/{HOST.partition('//')[2]}/{at}/{file.relative_to(directory)}"] = file.read_bytes()
    shutil.rmtree(directory)


@pytest.mark.on_demand("FAMILIES")
def test_backtrace_of_a_kernel_in_two_packages(
    docker_engine: EngineUnderTest, dumps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(standins.HOSTS, "suse", b"geeko@buildhost.build-service1")
    raw = dumps(form="elf")
    said = docker_engine.run("debuginfo", "fetch", str(raw), "--json")
    assert said.returncode == 0, said.stderr.decode()
    real = json.loads(docker_engine.run("info", str(raw), "--json").stdout)["release"]
    release = standins.release_like(RELEASE, real)
    disguise = Disguise(real=real, release=release, vendor="suse")
    dump, whole = tmp_path / "vmcore", tmp_path / "vmlinux"
    disguise.put_on(raw, dump)
    disguise.put_on(Path(json.loads(said.stdout)["debuginfo"]["vmlinux"]), whole)
    version = release.removesuffix("-longterm")
    trees = {"kernel-longterm-debuginfo": tmp_path / "debug", "kernel-longterm": tmp_path / "kernel"}
    debug = trees["kernel-longterm-debuginfo"] / "usr" / "lib" / "debug" / "boot" / f"vmlinux-{release}.debug"
    packed = trees["kernel-longterm"] / "boot" / f"vmlinux-{release}.gz"
    for file in (debug, packed):
        file.parent.mkdir(parents=True)
    rpms.run(["objcopy", "--only-keep-debug", "--remove-section=.gdb_index", str(whole), str(debug)])
    rpms.run(["objcopy", "--strip-debug", str(whole), str(tmp_path / "stripped")])
    packed.write_bytes(gzip.compress((tmp_path / "stripped").read_bytes(), 1))
    for file in (whole, tmp_path / "stripped"):
        file.unlink()

    signer = rpms.Signer.new(tmp_path)
    keys = tmp_path / "config" / "images" / "keys"
    keys.mkdir(parents=True)
    for key in (paths.data_dir() / "images" / "keys").iterdir():
        shutil.copy(signer.key, keys / key.name)
    with archives.serve(Archive(files={})) as archive:
        for name, tree in trees.items():
            repository = tmp_path / f"{name}.repository"
            repository.mkdir()
            # A number of rebuilds that uname -r does not have.
            nevra = f"{name}-{version}.2.x86_64"
            package = standins.rpm(tree, nevra, payload="w1.zstdio", signer=signer, out=repository / f"{nevra}.rpm")
            shutil.rmtree(tree)
            publish(archive, package, f"{'debug/' if 'debug' in name else ''}tumbleweed/repo/oss")
        mirror = f"{HOST}={archive.url}/{HOST.partition('//')[2]}"
        env = {
            **docker_engine.env,
            "VMBOX_CONFIG_DIR": str(keys.parents[1]),
            "VMBOX_CACHE_DIR": str(tmp_path / "cache"),
        }
        env["VMBOX_MIRRORS"] = f"{env.get('VMBOX_MIRRORS', '')} {mirror}"
        user = replace(docker_engine, env=env)
        facts = json.loads(user.run("info", str(dump), "--json").stdout)
        assert (facts["release"], facts["profile"]) == (release, "tumbleweed")
        try:
            done = user.run("run", str(dump), "--image", "latest", "--", "bt", "--", "sys")
            assert done.returncode == 0, done.stderr.decode()
            (case,) = (it for it in json.loads(user.run("list", "--json").stdout) if it["dump"] == str(dump))
        finally:
            user.run("close", str(dump))
    assert b"sysrq_handle_crash" in done.stdout
    assert f"RELEASE: {release}".encode() in done.stdout
    assert (case["proof"], case["check"]) == (f"build-id {facts['build_id']}", "signature")
    assert elf.read(Path(case["vmlinux"])).section(".debug_info") is not None
    asked = {path for path, _ in archive.requests}
    assert {path for path in asked if path.endswith(".rpm")} == {
        f"/download.opensuse.org/debug/tumbleweed/repo/oss/kernel-longterm-debuginfo-{version}.2.x86_64.rpm",
        f"/download.opensuse.org/tumbleweed/repo/oss/kernel-longterm-{version}.2.x86_64.rpm",
    }
