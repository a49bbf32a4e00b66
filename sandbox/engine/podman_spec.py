"""The JSON that describes a container to Podman: its SpecGenerator (pkg/specgen in Podman's source).

podman-py is not used for it: its tmpfs cannot be noexec, and it sends security options as SELinux options.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from sandbox.engine import messages
from sandbox.engine.protocol import ContainerSpec, EngineInfo

_LOG_LIMIT: Final = 8 << 20
"""Bytes. The dump decides what PID 1 prints, which must not fill the host's disk."""
_CPU_PERIOD: Final = 100_000
"""Microseconds; the kernel's default."""
_RUNTIME_ADDRESSES: Final = 4 << 30
"""Bytes of address space that runc needs to start: with less it fails to set up seccomp."""


def of(spec: ContainerSpec, info: EngineInfo, *, auto_remove: bool) -> dict[str, Any]:
    """The body of a request to create the container of `spec` on the engine that `info` describes."""
    payload: dict[str, Any] = {
        "image": spec.image,
        "entrypoint": list(spec.argv[:1]),
        "command": list(spec.argv[1:]),
        "name": spec.name,
        "labels": dict(spec.labels),
        "env": {**(messages.proxies() if spec.network == "host" else {}), **spec.env},
        "work_dir": spec.workdir,
        "netns": {"nsmode": spec.network},
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
        }
    if info.limits:
        payload["resource_limits"] = {
            "memory": {"limit": spec.memory} if spec.memory else None,
            "pids": {"limit": spec.pids} if spec.pids else None,
            "cpu": {"quota": int(spec.cpus * _CPU_PERIOD), "period": _CPU_PERIOD} if spec.cpus else None,
        }
    elif spec.memory:
        # The runtime itself starts under this limit, and Go reserves many more addresses than it uses.
        addresses = max(spec.memory, _RUNTIME_ADDRESSES)
        payload["r_limits"] = [{"type": "AS", "soft": addresses, "hard": addresses}]
    return _without_none(payload)


def _without_none(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in payload.items()
        if value is not None
    }
