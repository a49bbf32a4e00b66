"""Dumps that not everybody may read: opened, or refused with what makes them readable."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import engines
from e2e.conftest import BY_DRGN, Dumps
from engines import EngineUnderTest


@contextlib.contextmanager
def refuses_root(user: EngineUnderTest, content: Path, place: Path) -> Iterator[Path]:
    """`content` in a file system that lets only `user` in, and not root. A stand-in for NFS with root_squash: FUSE."""
    below, mounted = place / "below", place / "mounted"
    for one in (below, mounted):
        one.mkdir()
        os.chown(one, user.uid, user.gid)
    shutil.copyfile(content, below / "vmcore")
    (below / "vmcore").chmod(0o600)
    os.chown(below / "vmcore", user.uid, user.gid)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={descriptor},rootmode=40000,user_id={user.uid},group_id={user.gid}"
        mount = ["mount", "-i", "-t", "fuse", "-o", options, "none", str(mounted)]
        subprocess.run(mount, check=True, pass_fds=[descriptor])
        serve = [*engines._as_user(user.uid, user.gid), "fuse-overlayfs", "-f", "-o", f"lowerdir={below}"]
        with subprocess.Popen([*serve, f"/dev/fd/{descriptor}"], pass_fds=[descriptor]) as server:
            try:
                time.sleep(1)
                yield mounted / "vmcore"
            finally:
                subprocess.run(["umount", "--lazy", str(mounted)], check=True)
                server.kill()
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def squashed(podman_rootless: EngineUnderTest, dumps: Dumps) -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("only root mounts what refuses root")
    with refuses_root(podman_rootless, dumps(), podman_rootless.directory()) as dump:
        yield dump


def test_root_who_is_refused(docker_engine: EngineUnderTest, squashed: Path) -> None:
    done = docker_engine.run("run", str(squashed), "--", "bt")
    assert done.returncode == 11, done.stderr
    assert b"refuses root" in done.stderr
    assert b"run vmbox as a user who may read it" in done.stderr


def test_engine_of_root_that_is_refused(
    docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest, squashed: Path
) -> None:
    """The user of a rootful engine may read it, and the engine may not."""
    socket = docker_engine.url.removeprefix("unix://")
    who = ["setpriv", "--reuid", str(podman_rootless.uid), "--regid", str(podman_rootless.gid), "--groups", "0", "--"]
    vmbox = [*who, *podman_rootless.vmbox[podman_rootless.vmbox.index("--") + 1 :]]
    env = {**podman_rootless.env, "VMBOX_ENGINE": f"unix://{socket}"}
    done = subprocess.run(
        [*vmbox, "run", str(squashed), "--", "bt"], env=env, capture_output=True, check=False, cwd="/", timeout=600
    )
    assert done.returncode == 11, done.stderr
    assert b"runs as root, whom the file system" in done.stderr
    assert b"--engine podman" in done.stderr


def test_engine_of_the_user_is_not_refused(podman_rootless: EngineUnderTest, squashed: Path) -> None:
    done = podman_rootless.run("run", str(squashed), *BY_DRGN)
    assert done.returncode == 0, done.stderr
    assert b"sysrq_handle_crash" in done.stdout


def test_a_vmcore_of_root_in_a_directory_of_root(podman_rootless: EngineUnderTest, dumps: Dumps) -> None:
    """As kdump leaves it; opened once what the hint says is done, by group where there is no setfacl."""
    if os.getuid() != 0:
        pytest.skip("only root makes files of root")
    crash = podman_rootless.directory() / "var crash"
    crash.mkdir(mode=0o700)
    dump = crash / "vmcore"
    shutil.copyfile(dumps(), dump)
    dump.chmod(0o600)
    user = pwd.getpwuid(podman_rootless.uid).pw_name
    closed = podman_rootless.run("run", str(dump), "--", "bt")
    assert closed.returncode == 11, closed.stderr
    assert f"setfacl -m u:{user}:x '{crash}'; setfacl -m u:{user}:r '{dump}'".encode() in closed.stderr
    os.chown(crash, 0, podman_rootless.gid)
    crash.chmod(0o710)
    unreadable = podman_rootless.run("run", str(dump), "--", "bt")
    assert unreadable.returncode == 11, unreadable.stderr
    assert f"as root: setfacl -m u:{user}:r '{dump}'".encode() in unreadable.stderr
    os.chown(dump, 0, podman_rootless.gid)
    dump.chmod(0o640)
    before = dump.stat()
    opened = podman_rootless.run("run", str(dump), *BY_DRGN)
    assert opened.returncode == 0, opened.stderr
    assert b"sysrq_handle_crash" in opened.stdout
    after = dump.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    podman_rootless.run("close", "--all")


def test_a_dump_of_another_user_for_an_engine_of_root(docker_engine: EngineUnderTest, dumps: Dumps) -> None:
    """Root reads it by a capability that a case does not have."""
    if os.getuid() != 0:
        pytest.skip("only root makes files of others")
    dump = docker_engine.directory() / "vmcore"
    shutil.copyfile(dumps(), dump)
    dump.chmod(0o600)
    os.chown(dump, 65534, 65534)
    done = docker_engine.run("run", str(dump), "--", "p 1+1")
    assert done.returncode == 11, done.stderr
    assert b"none of root's privileges" in done.stderr
    os.setxattr(dump, "system.posix_acl_access", _acl_for_root())
    done = docker_engine.run("run", str(dump), *BY_DRGN)
    assert done.returncode == 0, done.stderr
    docker_engine.run("close", "--all")


def _acl_for_root() -> bytes:
    """What `setfacl -m u:root:r` makes of mode 0600: version 2, then (tag, permissions, id) of owner, user 0, group,
    mask and others (linux/posix_acl_xattr.h).
    """
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 4, 0), (4, 0, nobody), (16, 4, nobody), (32, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
