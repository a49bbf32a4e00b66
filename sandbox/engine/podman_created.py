"""What Podman says of a container that it has created and not started: its inspection and the runtime's config.json.

The inspection leaves out what containers.conf and mounts.conf add (Podman 4.3 to 5.8). The file, which is written when
the container is initialized, has all. Only the engine's own user can read it, on the engine's host; elsewhere a
container reads it (`podman_elsewhere`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.engine import created, podman_seccomp
from sandbox.engine.created import Created
from sandbox.engine.protocol import ContainerSpec, EngineInfo
from sandbox.errors import EngineFailed
from sandbox.host import decode

SETTINGS: Final = {
    "mounts": "volumes in containers.conf, and mounts.conf of /etc/containers and /usr/share/containers",
    "devices": "devices in containers.conf",
    "hooks": "hooks_dir and annotations in containers.conf, and the hooks in /usr/share/containers/oci/hooks.d",
    "pid": "pidns in containers.conf",
    "ipc": "ipcns in containers.conf",
    "uts": "utsns in containers.conf",
    "cgroup": "cgroupns in containers.conf",
    "user": "userns in containers.conf",
    "network": "netns in containers.conf",
    "privileged": "privileged in containers.conf",
    "capabilities": "default_capabilities in containers.conf",
    "seccomp": "seccomp_profile in containers.conf",
    "apparmor": "apparmor_profile in containers.conf",
    "sysctls": "default_sysctls in containers.conf",
    "oom": "oom_score_adj in containers.conf",
    "privileges": "no_new_privileges in containers.conf",
    "read-only": "read_only in containers.conf",
    "environment": "env in containers.conf",
    "ulimits": "default_ulimits in containers.conf",
    "limits": "pids_limit, cgroups and cgroup_conf in containers.conf",
}
"""Where a deviation of each kind comes from."""

_OWN_MOUNTS: Final = frozenset(
    {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys", "/sys/fs/cgroup"}  # noqa: S108 - in the container
)
_OWN_FILES: Final = frozenset(
    {
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/etc/passwd",
        "/etc/group",
        "/etc/localtime",
        "/run/.containerenv",
    }
)
_KERNELS_OWN: Final = frozenset({"proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup", "cgroup2"})
_CHANGES_RUNTIME: Final = ("run.oci.", "org.systemd.property.", "org.criu.")
_KNOWN_ANNOTATIONS: Final = frozenset({"run.oci.keep_original_groups"})


def refuse_unless_as_asked(
    inspected: Mapping[str, Any],
    config: Mapping[str, Any],
    spec: ContainerSpec,
    info: EngineInfo,
    *,
    shadows: Iterable[str],
    image_environment: Mapping[str, str],
    cgroup_namespaces: bool,
) -> None:
    """Raise `EngineFailed` when the initialized container that Podman describes has more than `spec` asked for.

    `config` is the one of `runtime_config`.
    """
    created.refuse_unless_as_asked(
        of(inspected, config, shadows=shadows, cgroup_namespaces=cgroup_namespaces),
        spec,
        engine="Podman",
        settings=SETTINGS,
        image_environment=image_environment,
        limits=info.limits,
    )


def runtime_config(
    inspected: Mapping[str, Any], *, local: bool, elsewhere: Callable[[str], bytes]
) -> Mapping[str, Any]:
    """config.json of an initialized container. `elsewhere` reads it where this process cannot, as is seen if `local`.

    Raises `EngineFailed` when there is none.
    """
    path = str(inspected.get("OCIConfigPath") or "")
    text = _read_here(path) if local else None
    try:
        found = decode.parse_json(elsewhere(path) if text is None and path else text or b"")
    except decode.DecodeError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in ("process", "linux")):
        raise EngineFailed(
            "Podman does not say how it made a container, so that a case cannot be seen to be as isolated as promised",
            hint="use a service of your own: --engine podman",
        )
    return found


def _read_here(path: str) -> bytes | None:
    """None where it is another host's or another user's."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def of(
    inspected: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    shadows: Iterable[str],
    cgroup_namespaces: bool,
) -> Created:
    """Both put together. `shadows`: places that were covered so that nothing else is there.

    `cgroup_namespaces`: whether the host has them (cgroup v2).
    """
    host = inspected["HostConfig"]
    hidden = frozenset(shadows)
    binds = {
        mount["Destination"]: (mount["Source"], not mount["RW"])
        for mount in inspected["Mounts"]
        if mount["Type"] == "bind" and mount["Destination"] not in hidden
    }
    strangers = [mount["Destination"] for mount in inspected["Mounts"] if mount["Type"] != "bind"]
    tmpfs = {
        target: frozenset(options.split(","))
        for target, options in (host.get("Tmpfs") or {}).items()
        if target not in hidden
    }
    modes = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroup": "CgroupMode"}
    shared = [
        name
        for name, key in modes.items()
        if str(host.get(key) or "private").partition(":")[0] not in {"private", "shareable", "none"}
        and (name != "cgroup" or cgroup_namespaces)
    ]
    hooks = [
        name
        for name in inspected["Config"].get("Annotations") or {}
        if name.startswith(_CHANGES_RUNTIME) and name not in _KNOWN_ANNOTATIONS
    ]
    capabilities = {*(inspected.get("EffectiveCaps") or ()), *(inspected.get("BoundingCaps") or ())}
    devices = [one["PathOnHost"] for one in host.get("Devices") or ()]
    process, linux = config["process"], config["linux"]
    userdata = f"/{inspected['Id']}/userdata/"
    root = (config.get("root") or {}).get("path") or userdata
    for mount in config["mounts"]:
        target = mount["destination"]
        if target not in hidden | binds.keys() | tmpfs.keys() and not _is_own(mount, userdata, root):
            strangers.append(target)
    # The paths of its own devices are made by the runtime, and not in here.
    devices += [one["path"] for one in linux.get("devices") or () if one["path"] not in devices]
    hooks += [one["path"] for kind in (config.get("hooks") or {}).values() for one in kind or ()]
    own = {one["type"] for one in linux["namespaces"] if not _joins_host(one)}
    names = ("pid", "ipc", "uts", *(("cgroup",) if cgroup_namespaces else ()))
    shared += [name for name in names if name not in own and name not in shared]
    capabilities.update(*((process.get("capabilities") or {}).values()))
    score = min(host.get("OomScoreAdj") or 0, process.get("oomScoreAdj") or 0)
    filtered = linux.get("seccomp") or {}
    apparmor = {inspected.get("AppArmorProfile"), process.get("apparmorProfile")}
    unified = (linux.get("resources") or {}).get("unified") or ()
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 0
    return Created(
        binds=binds,
        tmpfs=tmpfs,
        strangers=tuple(strangers),
        devices=tuple(devices),
        hooks=tuple(hooks),
        shared=tuple(shared),
        network=host["NetworkMode"],
        privileged=host["Privileged"],
        capabilities=frozenset(capabilities),
        seccomp=podman_seccomp.filters(filtered),
        calls=podman_seccomp.allowed(filtered),
        no_new_privileges="no-new-privileges" in (host.get("SecurityOpt") or ()),
        read_only=host["ReadonlyRootfs"],
        masked="/proc/kcore" in (linux.get("maskedPaths") or ()),
        sysctls=tuple(dict.fromkeys([*(host.get("Sysctls") or ()), *(linux.get("sysctl") or ())])),
        unconfined=("apparmor",) if "unconfined" in apparmor else (),
        overridden=tuple(dict.fromkeys([*(host.get("CgroupConf") or ()), *unified])),
        spared=score < 0 or bool(host.get("OomKillDisable")),
        environment=created.environment(process.get("env")),
        ulimits={_limit(one["type"]): one["hard"] for one in process.get("rlimits") or ()},
        memory=host.get("Memory"),
        pids=host.get("PidsLimit"),
        cpus=quota / period if quota > 0 and period else None,
    )


def _is_own(mount: Mapping[str, Any], userdata: str, root: str) -> bool:
    """Whether the engine makes this one in every container, of nothing but its own files for it."""
    target, kind, source = mount["destination"], mount.get("type"), str(mount.get("source"))
    if kind in _KERNELS_OWN:
        return target in _OWN_MOUNTS
    if target in {"/sys", "/dev/mqueue"}:  # rootless, where the kernel does not let it mount a new one
        return bool(source == target)
    if target.startswith("/etc/crypto-policies/"):  # on a host in FIPS mode, from another place of the image
        return source.startswith(f"{root}/") or userdata in source
    return target in _OWN_FILES | {"/dev/shm"} and userdata in source  # noqa: S108 - in the container


def _joins_host(namespace: Mapping[str, Any]) -> bool:
    return bool(namespace.get("path"))


def _limit(name: str) -> str:
    return name.removeprefix("RLIMIT_").lower()
