"""A container as the engine made it, compared with what was asked for, before anything runs in it.

Engines add what their own configuration says: containers.conf, mounts.conf and OCI hooks of Podman, daemon.json of
Docker. A request cannot name all of it away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.engine.protocol import ContainerSpec
from sandbox.errors import EngineFailed

_SCRATCH: Final = frozenset({"nosuid", "nodev", "noexec"})
_FROM_ENGINES: Final = frozenset({"container", "HOSTNAME", "TERM", "HOME"})
"""Variables that engines set in every container, and may."""
_OWN_SYSCTLS: Final = ("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm", "kernel.domainname")
"""Beginnings of kernel settings that each network, IPC or UTS namespace has of its own: in those of a case they are
harmless. All others are the host's (pkg/sysctl in containers/common, docker/cli opts)."""
RUNTIME_ADDRESSES: Final = 4 << 30
"""Bytes of address space that runc needs to start: with less it fails to set up seccomp."""
_MEMORY_ULIMITS: Final = ("as", "data")
"""Either limits each process where a container cannot be limited: addresses (Podman), memory to write to (Docker)."""
PRIVILEGED_ULIMITS: Final = frozenset({"nice", "rtprio"})
"""Those that give a process more than its share of processors, which the limits of a container do not hold back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What one engine says of a container that it has created. None: it does not say."""

    binds: Mapping[str, tuple[str, bool]]
    """By place in the container: the source on the host, and whether it is read-only."""
    tmpfs: Mapping[str, frozenset[str]]
    """By place in the container: the options of its mount."""
    strangers: tuple[str, ...] = ()
    """Places of other mounts, except those that the engine always makes: volumes, secrets, subscriptions."""
    devices: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    """Programs of the host that the runtime would run with it, and annotations that change what the runtime does."""
    shared: tuple[str, ...] = ()
    """Names of the namespaces that are not its own (pid, ipc, uts, cgroup, user), except those that must not be."""
    network: str = "none"
    privileged: bool = False
    capabilities: frozenset[str] = frozenset()
    seccomp: bool | None = True
    """Whether system calls are filtered, by a list of those that are allowed."""
    calls: tuple[str, ...] = ()
    """Names of system calls that its filter was to refuse and allows, e.g. keyctl."""
    no_new_privileges: bool = True
    read_only: bool = True
    """The root file system."""
    masked: bool | None = True
    """Whether /proc/kcore and what engines hide beside it is hidden."""
    sysctls: tuple[str, ...] = ()
    """Names of kernel settings that are written for it."""
    unconfined: tuple[str, ...] = ()
    """Names of protections that were taken away by name, e.g. apparmor."""
    overridden: tuple[str, ...] = ()
    """Names of settings of its control group that are written after its limits."""
    spared: bool = False
    """Whether the kernel would rather kill other processes for want of memory."""
    environment: Mapping[str, str]
    ulimits: Mapping[str, int]
    """Hard limits by their names in small letters, e.g. nofile."""
    memory: int | None = None
    """Bytes; None and 0 are no limit."""
    pids: int | None = None
    cpus: float | None = None


def refuse_unless_as_asked(
    created: Created,
    spec: ContainerSpec,
    *,
    engine: str,
    settings: Mapping[str, str],
    image_environment: Mapping[str, str],
    limits: bool,
) -> None:
    """Raise `EngineFailed` when `created` has more than the hardened `spec` asked for.

    `settings` names by the kind of what was found the file or setting that is its likely cause. `limits` is whether the
    engine can limit a container at all.
    """
    for kind, found in _deviations(created, spec, image_environment, limits=limits):
        cause = settings.get(kind, "the configuration of the engine")
        raise EngineFailed(
            f"{engine} made a case other than it was asked to: {found}",
            hint=f"it would be less isolated than promised. See {cause}",
        )


def environment(variables: Iterable[str] | None) -> dict[str, str]:
    """The mapping of NAME=VALUE words."""
    return dict(one.partition("=")[::2] for one in variables or ())


def _deviations(
    created: Created, spec: ContainerSpec, image_environment: Mapping[str, str], *, limits: bool
) -> Iterator[tuple[str, str]]:
    # First: a namespace that is shared brings mounts of the host with it.
    if created.shared:
        yield created.shared[0], f"it shares the host's namespaces ({', '.join(created.shared)})"
    yield from _mounts(created, spec)
    if created.devices:
        yield "devices", f"it has the host's {', '.join(created.devices)}"
    if created.hooks:
        yield "hooks", f"its runtime is told to do more: {', '.join(created.hooks)}"
    if created.network != spec.network:
        yield "network", f"its network is {created.network}, not {spec.network}"
    if created.privileged:
        yield "privileged", "it is privileged"
    if created.capabilities:
        yield "capabilities", f"it has capabilities ({', '.join(sorted(created.capabilities))})"
    if created.seccomp is False:
        yield "seccomp", "system calls are not filtered (seccomp)"
    elif created.calls:
        yield "seccomp", f"system calls are allowed that no debugger needs ({', '.join(created.calls)}) (seccomp)"
    if created.unconfined:
        yield created.unconfined[0], f"it is not confined ({', '.join(created.unconfined)})"
    if hosts := [name for name in created.sysctls if not name.startswith(_OWN_SYSCTLS)]:
        yield "sysctls", f"settings of the host's kernel are changed for it ({', '.join(sorted(hosts))})"
    if not created.no_new_privileges:
        yield "privileges", "no_new_privs is not set"
    if not created.read_only:
        yield "read-only", "its root file system can be written"
    if created.masked is False:
        yield "masked", "the kernel's memory is not hidden (/proc/kcore)"
    known = {**image_environment, **spec.env}
    more = [
        name
        for name, value in created.environment.items()
        if name not in _FROM_ENGINES - spec.env.keys() and known.get(name) != value and name != "PATH"
    ]
    if more:
        # Not the values: they can be secrets.
        yield "environment", f"its environment has {', '.join(sorted(more))}"
    if raised := [name for name in sorted(PRIVILEGED_ULIMITS) if created.ulimits.get(name)]:
        yield "ulimits", f"it may raise its priority (ulimit {', '.join(raised)})"
    yield from _limits(created, spec, limits=limits)


def _mounts(created: Created, spec: ContainerSpec) -> Iterator[tuple[str, str]]:
    asked = {bind.target: bind for bind in spec.binds}
    strangers = [*created.strangers, *(target for target in created.binds if target not in asked)]
    scratch = {one.target: one for one in spec.tmpfs}
    strangers += [target for target in created.tmpfs if target not in scratch]
    if strangers:
        yield "mounts", f"{', '.join(sorted(strangers))} is mounted in it"
    for target, bind in asked.items():
        source, read_only = created.binds.get(target, ("", True))
        if not source or os.path.normpath(source) != os.path.normpath(bind.source):
            yield "mounts", f"{target} is {source or 'missing'}"
        if bind.read_only and not read_only:
            yield "mounts", f"{target} can be written"
    for target, one in scratch.items():
        options = created.tmpfs.get(target, frozenset())
        if not options >= {*_SCRATCH, f"size={one.size}"}:
            yield "mounts", f"{target} is not the scratch memory that was asked for ({','.join(sorted(options))})"


def _limits(created: Created, spec: ContainerSpec, *, limits: bool) -> Iterator[tuple[str, str]]:
    if created.spared:
        yield "oom", "others are killed before it for want of memory"
    if created.overridden:
        yield "limits", f"its limits are overridden ({', '.join(sorted(created.overridden))})"
    if not limits:
        most = max(spec.memory or 0, RUNTIME_ADDRESSES)
        if spec.memory and not any(0 < created.ulimits.get(name, 0) <= most for name in _MEMORY_ULIMITS):
            yield "limits", "its processes' memory is not limited"
        return
    for name, wanted, found in (
        ("memory", spec.memory, created.memory),
        ("processes", spec.pids, created.pids),
        ("processors", spec.cpus, created.cpus),
    ):
        if wanted and not 0 < (found or 0) <= wanted * 1.001:  # engines round processors
            yield "limits", f"its limit of {name} is {found or 'none'}, not {wanted}"
