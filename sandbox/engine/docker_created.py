"""What Docker says of a container that it has created and not started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sandbox.engine import created
from sandbox.engine.created import Created
from sandbox.engine.protocol import ContainerSpec, EngineInfo

SETTINGS: Final = {
    "mounts": "init in daemon.json, and the engine's authorization plugins",
    "devices": "the engine's devices (CDI) and its authorization plugins",
    "hooks": "default-runtime in daemon.json",
    "apparmor": "the engine's authorization plugins",
    "ipc": "default-ipc-mode in daemon.json",
    "cgroup": "default-cgroupns-mode in daemon.json",
    "seccomp": "seccomp-profile in daemon.json",
    "ulimits": "default-ulimits in daemon.json",
}
"""Where a deviation of each kind comes from."""

_ISOLATING_RUNTIMES: Final = ("runc", "io.containerd.runc.", "crun", "youki", "runsc", "io.containerd.runsc.", "kata")
"""Beginnings of the names of runtimes that do what they are told, and no more."""
_BUILTIN: Final = frozenset({"builtin", "default"})
"""The names of Docker's own seccomp profile: since version 23, and before."""
_NAMES_BUILTIN: Final = 23


def isolates(runtime: str) -> bool:
    """Whether a runtime is known to add nothing to a container."""
    return runtime.startswith(_ISOLATING_RUNTIMES)


def seccomp_profile(options: Iterable[str]) -> str:
    """The daemon's default profile, of the SecurityOptions in its information; "" where the kernel has no seccomp."""
    for option in options:
        words = option.split(",")
        if words[0] == "name=seccomp":
            return next((word.removeprefix("profile=") for word in words if word.startswith("profile=")), "default")
    return ""


def seccomp_option(profile: str, version: str) -> list[str]:
    """What to ask for so that Docker's own profile is used, where daemon.json names another.

    Docker before 23 has no name for it: there the container is refused.
    """
    major = version.partition(".")[0]
    named = major.isdigit() and int(major) >= _NAMES_BUILTIN
    return ["seccomp=builtin"] if named and profile and profile not in _BUILTIN else []


def refuse_unless_as_asked(
    inspected: Mapping[str, Any],
    image: Mapping[str, Any],
    spec: ContainerSpec,
    info: EngineInfo,
    *,
    seccomp: str,
    cgroup_namespaces: bool,
) -> None:
    """Raise `EngineFailed` when the container that Docker describes has more than `spec` asked for."""
    created.refuse_unless_as_asked(
        of(inspected, seccomp=seccomp, cgroup_namespaces=cgroup_namespaces),
        spec,
        engine="Docker",
        settings=SETTINGS,
        image_environment=created.environment((image.get("Config") or {}).get("Env")),
        limits=info.limits,
    )


def of(inspected: Mapping[str, Any], *, seccomp: str, cgroup_namespaces: bool) -> Created:
    """`seccomp`: the daemon's profile, for what nothing is asked for. `cgroup_namespaces`: whether the host has them
    (cgroup v2).
    """
    host, config = inspected["HostConfig"], inspected["Config"]
    options = host.get("SecurityOpt") or ()
    binds = {
        mount["Destination"]: (mount["Source"].removeprefix("/host_mnt"), not mount["RW"])  # Docker Desktop's prefix
        for mount in inspected["Mounts"]
        if mount["Type"] == "bind"
    }
    # Docker makes the volumes of an image in every container: new ones, which are removed with it.
    images = config.get("Volumes") or {}
    others = {
        mount["Destination"]
        for mount in inspected["Mounts"]
        if mount["Type"] not in {"bind", "tmpfs"} and not (mount["Type"] == "volume" and mount["Destination"] in images)
    }
    modes = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroup": "CgroupnsMode"}
    shared = [
        name
        for name, key in modes.items()
        if str(host.get(key) or "").partition(":")[0] in {"host", "container"}
        and (name != "cgroup" or cgroup_namespaces)
    ]
    # Drops all and adds none: what is left is none.
    dropped = "ALL" in {one.upper() for one in host.get("CapDrop") or ()}
    capabilities = [*(host.get("CapAdd") or ()), *(() if dropped else ("those of every container",))]
    runtime = host.get("Runtime") or "runc"
    told = [one for one in options if one.startswith("seccomp=")]
    return Created(
        binds=binds,
        tmpfs={target: frozenset(given.split(",")) for target, given in (host.get("Tmpfs") or {}).items()},
        strangers=(
            *sorted(others),
            *(host.get("VolumesFrom") or ()),
            *(["/sbin/docker-init"] if host.get("Init") else ()),
        ),
        devices=(
            *(one["PathOnHost"] for one in host.get("Devices") or ()),
            *(str(one.get("Driver") or one) for one in host.get("DeviceRequests") or ()),
            *(host.get("DeviceCgroupRules") or ()),
        ),
        hooks=() if isolates(runtime) else (f"runtime {runtime}",),
        shared=tuple(shared),
        network=host["NetworkMode"],
        privileged=host["Privileged"],
        capabilities=frozenset(capabilities),
        seccomp=told == ["seccomp=builtin"] or (not told and seccomp in _BUILTIN),
        no_new_privileges=any(one in {"no-new-privileges", "no-new-privileges:true"} for one in options),
        read_only=host["ReadonlyRootfs"],
        masked="/proc/kcore" in (host.get("MaskedPaths") or ()),
        sysctls=tuple(host.get("Sysctls") or ()),
        unconfined=tuple(one.partition("=")[0] for one in options if one.endswith("=unconfined") and one not in told),
        spared=(host.get("OomScoreAdj") or 0) < 0 or bool(host.get("OomKillDisable")),
        environment=created.environment(config.get("Env")),
        ulimits={one["Name"].lower(): one["Hard"] for one in host.get("Ulimits") or ()},
        memory=host.get("Memory"),
        pids=host.get("PidsLimit"),
        cpus=host.get("NanoCpus", 0) / 1e9 or None,
    )
