"""Reads what kernel and system files of this host say about running containers. Changes nothing.

Each function takes the root of the file system, so that a host of another kind can be described in a test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.host.paths import user_name

ROOT: Final = Path("/")

MACHINES: Final = {"x86_64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}
"""uname -m -> QEMU's name in binfmt_misc, for the machines whose dumps are common."""


def fuse_obstacle(root: Path = ROOT) -> tuple[str, str] | None:
    """(obstacle to mounts by FUSE, command that fixes it); None if there is none."""
    # Runs ldconfig.
    from ctypes.util import find_library

    if find_library("fuse3") is None and find_library("fuse") is None:
        return "libfuse is not installed", "sudo apt-get install fuse3   (dnf install fuse3)"
    device = root / "dev/fuse"
    if not device.exists():
        return "there is no /dev/fuse", "sudo modprobe fuse"
    if not os.access(device, os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened", "sudo chmod 666 /dev/fuse"
    return None


def rootless_obstacles(root: Path = ROOT, uid: int | None = None) -> Iterator[tuple[str, str]]:
    """Yields (obstacle to rootless containers, command that fixes it)."""
    uid = os.getuid() if uid is None else uid
    name = user_name(uid)
    for file, option in (("subuid", "--add-subuids"), ("subgid", "--add-subgids")):
        if not _has_range(root / "etc" / file, {name, str(uid)}):
            yield f"{name} has no range in /etc/{file}", f"sudo usermod {option} 100000-165535 {name}"
    if program("newuidmap") is None:
        yield "newuidmap is not installed", "sudo apt-get install uidmap   (dnf install shadow-utils)"
    sysctl = root / "proc/sys"
    if _read(sysctl / "user/max_user_namespaces") == "0":
        yield "user namespaces are off", "sudo sysctl -w user.max_user_namespaces=15000"
    if _read(sysctl / "kernel/unprivileged_userns_clone") == "0":
        yield "user namespaces are for root only", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if not (root / "sys/fs/cgroup/cgroup.controllers").exists():
        yield "cgroup v1: memory limits do not hold", "boot with systemd.unified_cgroup_hierarchy=1"
        return
    delegated = root / f"sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers"
    missing = {"memory", "pids"} - set(_read(delegated).split())
    if delegated.exists() and missing:
        drop_in = "/etc/systemd/system/user@.service.d/delegate.conf"
        write = f"printf '[Service]\\nDelegate=memory pids cpu\\n' | sudo tee {drop_in}"
        yield (
            f"cgroup controllers {', '.join(sorted(missing))} are not delegated to {name}",
            f"sudo mkdir -p {drop_in.rpartition('/')[0]} && {write} && sudo systemctl daemon-reload",
        )


HYBRID_CGROUPS_FIX: Final = "sudo apt-get install runc"


def hybrid_cgroups(root: Path = ROOT) -> bool:
    """Whether cgroups of both versions are mounted; crun 1.8 starts no container on such a host, runc does."""
    cgroup = root / "sys/fs/cgroup"
    return (cgroup / "unified").is_dir() and not (cgroup / "cgroup.controllers").exists()


def program(name: str) -> str | None:
    """Finds a program, also one for root that is not in a user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin")


def selinux(root: Path = ROOT) -> str:
    """enforcing, permissive or off."""
    return {"1": "enforcing", "0": "permissive"}.get(_read(root / "sys/fs/selinux/enforce"), "off")


def emulated(root: Path = ROOT, machine: str | None = None) -> tuple[list[str], list[str]]:
    """Machines other than this one whose programs run here by emulation, also in containers; and those that do not."""
    machine = machine or os.uname().machine
    can: list[str] = []
    cannot: list[str] = []
    for name, qemu in MACHINES.items():
        if name == machine:
            continue
        entry = _read(root / f"proc/sys/fs/binfmt_misc/qemu-{qemu}").splitlines()
        # F: the emulator is opened when it is registered, so that a container need not hold it.
        fixed = any(line.startswith("flags:") and "F" in line for line in entry)
        (can if "enabled" in entry and fixed else cannot).append(name)
    return can, cannot


def emulation_fix(machine: str | None = None, root: Path = ROOT) -> str:
    """The one command that lets programs of `machine` (or of all common ones) run here."""
    emulator = f"qemu-{MACHINES.get(machine or '', 'aarch64')}-static"
    if not any((root / directory / emulator).exists() for directory in ("usr/bin", "usr/local/bin")):
        return "sudo apt-get install qemu-user-static binfmt-support   (dnf install qemu-user-static)"
    # It is installed and not registered: there was no init system at the time, or the registry was cleared.
    if (root / "run/systemd/system").exists():
        return "sudo systemctl restart systemd-binfmt"
    if (root / "usr/sbin/update-binfmts").exists():
        return (
            f"sudo update-binfmts --enable qemu-{MACHINES[machine]}"
            if machine in MACHINES
            else "sudo update-binfmts --enable"
        )
    return "sudo apt-get install binfmt-support"


def _has_range(file: Path, owners: set[str]) -> bool:
    return any(line.partition(":")[0] in owners for line in _read(file).splitlines())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
