"""The JSON that describes a container to Podman: its SpecGenerator (pkg/specgen in Podman's source)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.engine import messages
from sandbox.engine.created import RUNTIME_ADDRESSES
from sandbox.engine.protocol import ContainerSpec, EngineInfo

_LOG_LIMIT: Final = 8 << 20
"""Bytes. The dump decides what PID 1 prints, which must not fill the host's disk."""
_CPU_PERIOD: Final = 100_000
"""Microseconds; the kernel's default."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECRETS: Final = "/run/secrets"
_MOUNTS_CONF: Final = ("/etc/containers/mounts.conf", "/usr/share/containers/mounts.conf")
_USERS_MOUNTS_CONF: Final = "~/.config/containers/mounts.conf"


def of(
    spec: ContainerSpec,
    info: EngineInfo,
    *,
    auto_remove: bool,
    seccomp: str = "",
    cgroup_namespaces: bool = True,
    image_environment: Mapping[str, str] | None = None,
    shadows: Mapping[str, bool] | None = None,
) -> dict[str, Any]:
    """The body of a request to create the container of `spec` on the engine that `info` describes.

    What is not named here is what the engine's containers.conf says. `seccomp` is the profile of a hardened container
    (`podman_seccomp.path_for`); `cgroup_namespaces` is whether its host has them. `shadows`, see there, are covered in
    a hardened container.
    """
    payload: dict[str, Any] = {
        "image": spec.image,
        "entrypoint": list(spec.argv[:1]),
        "command": list(spec.argv[1:]),
        "name": spec.name,
        "labels": dict(spec.labels),
        "env": {**(messages.proxies() if spec.network == "host" else {}), **spec.env},
        "work_dir": spec.workdir,
        "netns": {"nsmode": spec.network},
        "pidns": {"nsmode": "private"},
        "ipcns": {"nsmode": "private"},
        "utsns": {"nsmode": "private"},
        "cgroupns": {"nsmode": "private" if cgroup_namespaces else "host"},
        "userns": {"nsmode": "host"},  # of the engine: root's, or that of a rootless user
        "cgroups_mode": "enabled",
        "privileged": False,
        "umask": "0022",
        "remove": auto_remove,
        "systemd": "false",
        "httpproxy": False,  # would pass on the service's own proxies, which can contain a password
        "selinux_opts": ["disable"],
        "log_configuration": {"driver": "k8s-file", "size": _LOG_LIMIT},
        "mounts": [
            {
                "type": "bind",
                "source": str(bind.source),
                "destination": bind.target,
                "options": ["ro" if bind.read_only else "rw", "rbind", "nosuid", "nodev"],
            }
            for bind in spec.binds
        ]
        + [
            {
                "type": "tmpfs",
                "source": "tmpfs",
                "destination": one.target,
                "options": ["rw", "nosuid", "nodev", "noexec", f"size={one.size}", f"mode={one.mode:o}"],
            }
            for one in spec.tmpfs
        ],
        "user": "0:0",
    }
    if spec.as_caller and not info.rootless:
        payload["user"] = f"{os.getuid()}:{os.getgid()}"
        payload["groups"] = [str(group) for group in os.getgroups()]
    elif spec.as_caller:
        # Often only a group may read a dump. crun keeps the caller's groups; runc cannot.
        payload["annotations"] = {"run.oci.keep_original_groups": "1"}
    if spec.hardened:
        payload |= {
            "read_only_filesystem": True,
            "cap_drop": ["ALL"],
            "no_new_privileges": True,
            "read_write_tmpfs": False,
            "image_volume_mode": "ignore",
            # Of what the engine's configuration sets, nothing; of the image's own, all.
            "unsetenvall": True,
            "env": {"PATH": _PATH, **(image_environment or {}), **payload["env"]},
            "mounts": payload["mounts"] + [_shadow(*one) for one in (shadows or {}).items()],
            "seccomp_policy": "default",
        }
        if seccomp:
            payload["seccomp_profile_path"] = seccomp
    if info.limits:
        payload["resource_limits"] = {
            "memory": {"limit": spec.memory} if spec.memory else None,
            "pids": {"limit": spec.pids} if spec.pids else None,
            "cpu": {"quota": int(spec.cpus * _CPU_PERIOD), "period": _CPU_PERIOD} if spec.cpus else None,
        }
    elif spec.memory:
        # The runtime itself starts under this limit, and Go reserves many more addresses than it uses.
        addresses = max(spec.memory, RUNTIME_ADDRESSES)
        payload["r_limits"] = [{"type": "AS", "soft": addresses, "hard": addresses}]
    return _without_none(payload)


def shadows(info: EngineInfo) -> dict[str, bool]:
    """Where Podman puts subscriptions and secrets of the host into every container, and whether that is a directory.

    It leaves out those that a request has something else for. The files that list them are read where Podman reads
    them; of another host only the usual place is known.
    """
    found = {_SECRETS: True}
    if info.local:
        for path in (*_MOUNTS_CONF, *([_USERS_MOUNTS_CONF] if info.rootless else ())):
            found |= dict(_listed(Path(path).expanduser()))
    return found


def _listed(path: Path) -> Iterator[tuple[str, bool]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        source, _, target = line.strip().partition(":")
        if source.startswith("/"):
            yield os.path.normpath(target or source), not Path(source).is_file()


def _shadow(target: str, directory: bool) -> dict[str, Any]:
    if not directory:
        options = ["ro", "rbind", "nosuid", "nodev", "noexec"]
        return {"type": "bind", "source": "/dev/null", "destination": target, "options": options}
    options = ["ro", "nosuid", "nodev", "noexec", "notmpcopyup", "size=4096", "mode=555"]
    return {"type": "tmpfs", "source": "tmpfs", "destination": target, "options": options}


def _without_none(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in payload.items()
        if value is not None
    }
