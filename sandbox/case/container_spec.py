"""What the container of a case is made of: its mounts, its limits, and a sandbox around them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.case.places import SESSION, dump_paths
from sandbox.engine import Bind, ContainerSpec, EngineInfo, Tmpfs, connect
from sandbox.host import config
from sandbox.model import Case

_ENVIRONMENT: Final = {
    # Scratch memory: the root file system is read-only.
    "HOME": "/scratch",
    "TMPDIR": "/tmp",  # noqa: S108 - in the container
    "LC_ALL": "C.UTF-8",
    "LESSSECURE": "1",
    # Huge pages for what crash allocates, where the kernel gives them to who asks (glibc 2.35): its gdb walks through
    # lists of a million file names, and a tenth of a start is spent on looking up their pages.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

_SCRATCH_SHARE: Final = 8
"""A scratch memory is this part of a case's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a case. None: as much as there is."""

    memory: int | None
    """Bytes."""
    cpus: float | None
    pids: int | None
    scratch: int
    """Bytes of each of the two scratch memories; they count against `memory`."""


def limits(host: EngineInfo) -> Limits:
    """As the settings say, else three quarters of the host: crash needs room for the page tables and lists of a large
    machine, and the host must go on whatever a dump makes of it.
    """
    wanted = config.current()
    memory = host.memory * 3 // 4 if wanted.memory is None else wanted.memory
    cpus = max(1.0, host.cpus * 0.75) if wanted.cpus is None else min(wanted.cpus, host.cpus)
    return Limits(
        memory=memory or None,
        cpus=cpus or None,
        pids=wanted.pids or None,
        scratch=(memory or host.memory) // _SCRATCH_SHARE,
    )


def scratch_size(case: Case) -> int:
    """Bytes that each scratch memory of a case can hold, by the settings; asks its engine where that is elsewhere."""
    wanted = config.current().memory
    if wanted:
        return wanted // _SCRATCH_SHARE
    if not case.remote:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        engine = connect(case.endpoint)
        try:
            memory = engine.info().memory
        finally:
            engine.close()
    return (memory if wanted == 0 else memory * 3 // 4) // _SCRATCH_SHARE


def container_name(directory: Path) -> str:
    """The name of the container of the case in `directory`: another one for each user, host and runtime directory.

    Those may share an engine and open the same dump, and none of them may remove the container of another.
    """
    owner = f"{platform.node()}\0{os.getuid()}\0{directory.parent}"
    return f"vmbox-{directory.name}-{hashlib.sha256(os.fsencode(owner)).hexdigest()[:8]}"


def container_spec(
    *,
    name: str,
    image: str,
    files: Sequence[Path],
    debuginfo: Path | None,
    runtime: Path | None,
    labels: dict[str, str],
    env: dict[str, str],
    limits: Limits,
    platform: str | None = None,
) -> ContainerSpec:
    """The one hardened container a dump is ever given to. A split dump has several `files`.

    Without `debuginfo` it is in the image; without `runtime` the FIFOs are, and the paths are of the engine's host,
    where who we are means nothing: the case has the uid that the engine runs as, without any capability.
    """
    dumps = dump_paths(len(files))
    return ContainerSpec(
        image=image,
        platform=platform,
        name=name,
        argv=[SESSION],
        labels=labels,
        env=_ENVIRONMENT | env,
        binds=[
            *(Bind(source=file, target=target) for file, target in zip(files, dumps, strict=True)),
            *([Bind(source=debuginfo.resolve(), target="/case/debuginfo")] if debuginfo is not None else ()),
            *([Bind(source=runtime, target="/run/vmbox")] if runtime is not None else ()),
        ],
        tmpfs=[
            *(Tmpfs(target=target, size=limits.scratch) for target in ("/tmp", "/scratch")),  # noqa: S108 - in the container
            *([Tmpfs(target="/run/vmbox", size=1 << 20)] if runtime is None else ()),
        ],
        workdir="/scratch",
        network="none",
        hardened=True,
        as_caller=runtime is not None,
        memory=limits.memory,
        pids=limits.pids,
        cpus=limits.cpus,
    )
