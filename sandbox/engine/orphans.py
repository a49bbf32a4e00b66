"""Label a container of `Engine.run` with its owner, to find and remove containers whose owner is gone.

A vmbox that is killed cannot remove its containers, and an engine does not know that its client is gone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.engine import labels

if TYPE_CHECKING:
    from sandbox.engine.protocol import Container, ContainerSpec, Engine


def with_owner_label(spec: ContainerSpec) -> ContainerSpec:
    """`spec` with a label that names this process."""
    return dataclasses.replace(spec, labels={**spec.labels, labels.RUN: _name(os.getpid())})


def orphans(engine: Engine) -> Iterator[Container]:
    """Yield containers of `Engine.run` whose vmbox is gone.

    Leaves out containers of other hosts and process namespaces: their processes are not visible from here.
    """
    for container in engine.containers({labels.RUN: ""}):
        boot, namespace, pid, started = (container.labels[labels.RUN].split(".") + [""] * 4)[:4]
        if not pid.isdigit():
            continue
        ended = boot == _boot() and namespace == _namespace() and started != _started(int(pid))
        # Another boot id is an earlier boot of this host, or another host. A local engine excludes the latter.
        if ended or (boot != _boot() and engine.info().local):
            yield container


def _name(pid: int) -> str:
    return f"{_boot()}.{_namespace()}.{pid}.{_started(pid)}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]


def _namespace() -> str:
    return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")


def _started(pid: int) -> str:
    """Start of a process in ticks since boot; "" if there is none. Pids are reused, but not with the same start."""
    try:
        # The name, in parentheses, may contain anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
