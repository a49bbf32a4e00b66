"""Self-contained images: built, shared through a registry, carried to a host without any network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import engines
from e2e.conftest import BY_DRGN
from engines import EngineUnderTest
from registries import registry
from sandbox.case import self_contained
from sandbox.dump import identify
from sandbox.engine import Engine, labels


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as at:
        yield at


@pytest.fixture(scope="module", autouse=True)
def _kernels_go_with_the_module() -> Iterator[None]:
    """What has an image of its own is opened with it: other tests would fetch and build nothing."""
    yield
    for under_test in engines.RUNNING:
        under_test.run("close", "--all")
        _remove_kernels(under_test.engine)


def _vmbox(
    user: EngineUnderTest, *arguments: object, status: int = 0, **env: str
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [*user.vmbox, *map(str, arguments)],
        env={**user.env, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == status, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    return done


def _elsewhere(user: EngineUnderTest) -> dict[str, str]:
    """The settings of a host that has nothing: an empty cache, no package mirror, no registry, no way out."""
    nowhere = "http://127.0.0.1:9"
    return {
        "VMBOX_CACHE_DIR": str(user.directory()),
        "VMBOX_MIRRORS": f"http://deb.debian.org={nowhere} docker.io=127.0.0.1:9",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
    }


def _remove_kernels(engine: Engine) -> None:
    for image in engine.images({labels.IMAGE: labels.KERNEL_IMAGE}):
        for tag in image.tags or (image.id,):
            engine.remove_image(tag)


def _forget(engine: Engine, dump: Path) -> None:
    _remove_kernels(engine)
    assert engine.image(self_contained.reference(identify(dump))) is None


def test_built_by_one_engine_pushed_pulled_and_opened_by_the_other(
    docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest, dumps, address: str
) -> None:
    dump = dumps.copy_for(docker_engine, dumps())
    vmcore = identify(dump)
    built = _vmbox(docker_engine, "image", "build", dump)
    ref = built.stdout.decode().strip()
    assert ref == f"localhost/vmbox/kernel:{vmcore.build_id}"
    image = docker_engine.engine.image(ref)
    assert image is not None
    assert image.labels[labels.KERNEL_RELEASE] == vmcore.release
    assert image.labels[labels.KERNEL_BUILD_ID] == vmcore.build_id
    listing = json.loads(_vmbox(docker_engine, "image", "list", "--json").stdout)
    (listed,) = [one for one in listing if one["ref"] == ref]
    assert (listed["release"], listed["arch"], listed["profile"]) == (vmcore.release, "x86_64", "latest")
    found = json.loads(_vmbox(docker_engine, "debuginfo", "fetch", dump, "--json").stdout)["debuginfo"]
    assert listed["check"] == found["check"]
    # What it costs: the layer with vmlinux, over the image it stands on.
    below = docker_engine.engine.image(_vmbox(docker_engine, "image", "build", "latest").stdout.decode().strip())
    vmlinux = next(Path(docker_engine.env["VMBOX_CACHE_DIR"]).glob(f"debuginfo/{vmcore.build_id}/vmlinux"))
    assert below is not None
    assert below.size < 350_000_000
    assert image.size - below.size < 1.5 * vmlinux.stat().st_size
    _vmbox(docker_engine, "image", "push", dump, VMBOX_REGISTRY=f"{address}/vmbox")

    # The other engine, whose user has nothing: run finds it in the registry by itself.
    theirs = dumps.copy_for(podman_rootless, dump)
    host = _elsewhere(podman_rootless) | {"VMBOX_REGISTRY": f"{address}/vmbox", "no_proxy": "127.0.0.1"}
    _forget(podman_rootless.engine, theirs)
    try:
        done = _vmbox(podman_rootless, "run", theirs, "--", "bt", "--", "mod -S", **host)
        assert b"sysrq_handle_crash" in done.stdout
        assert b"Downloading" not in done.stderr
        assert list(Path(host["VMBOX_CACHE_DIR"]).glob("debuginfo/*")) == []
        open_cases = json.loads(_vmbox(podman_rootless, "list", "--json").stdout)
        (case,) = (case for case in open_cases if case["dump"] == str(theirs))
        assert case["image"] == ref
        assert (case["check"], case["verified"]) == (found["check"], found["verified"])
        _vmbox(podman_rootless, "close", theirs)
        assert _vmbox(podman_rootless, "image", "pull", theirs, **host).stdout.decode().strip() == ref
    finally:
        _vmbox(podman_rootless, "close", "--all")
        _forget(podman_rootless.engine, theirs)


def test_carried_to_a_host_without_any_network(
    docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest, dumps
) -> None:
    dump = dumps.copy_for(docker_engine, dumps())
    bundle = docker_engine.directory() / "bundle.tar"
    _vmbox(docker_engine, "image", "save", dump, "-o", bundle)
    _vmbox(docker_engine, "close", "--all")
    theirs = dumps.copy_for(podman_rootless, dump)
    carried = podman_rootless.directory() / "bundle.tar"
    shutil.copyfile(bundle, carried)
    os.chown(carried, podman_rootless.uid, podman_rootless.gid)
    host = _elsewhere(podman_rootless)
    _forget(podman_rootless.engine, theirs)
    try:
        assert b"localhost/vmbox/kernel:" in _vmbox(podman_rootless, "image", "load", carried, **host).stdout
        done = _vmbox(podman_rootless, "run", theirs, *BY_DRGN, "--", "sys", **host)
        assert b"sysrq_handle_crash" in done.stdout
        # Another kernel's dump is not opened with it: neither its base image nor its package can be had.
        other = dumps.copy_for(podman_rootless, dumps("6.12"))
        refused = subprocess.run(
            [*podman_rootless.vmbox, "run", str(other), "--", "bt"],
            env={**podman_rootless.env, **host},
            capture_output=True,
            check=False,
        )
        # Bases, its own or that of the newest crash, may be there from another test.
        assert refused.returncode in {30, 31, 40, 42}, refused.stderr
        assert refused.stdout == b""
    finally:
        _vmbox(podman_rootless, "close", "--all")
        _forget(podman_rootless.engine, theirs)


def test_prune_removes_what_profiles_have_outgrown(docker_engine: EngineUnderTest) -> None:
    current = _vmbox(docker_engine, "image", "build", "debian-12").stdout.decode().strip()
    docker_engine.engine.tag(current, "localhost/vmbox/debian-12:0000000000000000")
    old = "localhost/vmbox/debian-12:0000000000000000"
    image = docker_engine.engine.image(current)
    assert image is not None
    assert image.size < 350_000_000
    listed = {one["ref"]: one for one in json.loads(_vmbox(docker_engine, "image", "list", "--json").stdout)}
    assert listed[old]["outdated"]
    assert not listed[current]["outdated"]
    gone = {one["ref"] for one in json.loads(_vmbox(docker_engine, "image", "prune", "--json").stdout)}
    assert old in gone
    assert current not in gone
    assert docker_engine.engine.image(current) is not None


def test_what_is_asked_for_has_to_be_there(docker_engine: EngineUnderTest, address: str) -> None:
    nothing = _vmbox(docker_engine, "image", "build", "/nowhere/vmcore", status=10)
    assert b"neither a dump nor a profile" in nothing.stderr
    assert b"no registry is configured" in _vmbox(docker_engine, "image", "push", "debian-12", status=70).stderr
    unknown = _vmbox(docker_engine, "image", "pull", "el9", "--registry", address, status=30)
    assert b"vmbox image push" in unknown.stderr
    assert b"no such file" in _vmbox(docker_engine, "image", "load", "/nowhere/bundle.tar", status=2).stderr
