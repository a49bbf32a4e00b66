"""Whose a container is that ends with the call that started it, so that nobody's can be told and removed.

A vmbox that is killed cannot remove what it runs, and an engine does not know that its client is gone.
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
    """Containers of `Engine.run` whose vmbox is gone. Those of other hosts, and of other process namespaces, where
    nothing can be known from here, are left out.
    """
    for container in engine.containers({labels.RUN: ""}):
        boot, namespace, pid, started = (container.labels[labels.RUN].split(".") + [""] * 4)[:4]
        if not pid.isdigit():
            continue
        ended = boot == _boot() and namespace == _namespace() and started != _started(int(pid))
        # This host before it was booted, or another host: only an engine of our own tells which.
        if ended or (boot != _boot() and engine.info().local):
            yield container


def _name(pid: int) -> str:
    return f"{_boot()}.{_namespace()}.{pid}.{_started(pid)}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]


def _namespace() -> str:
    return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")


def _started(pid: int) -> str:
    """Ticks since boot when a process began; "" when there is none. Numbers are given again, this with them is not."""
    try:
        # The name, in parentheses, may contain anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
