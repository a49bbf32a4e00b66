"""What vmbox needs of a container engine, and nothing that only one of them has.

The adapters in `docker.py` and `podman.py` are the only importers of the engine libraries; every difference between
the engines stays inside them. Nothing outside this package asks which engine it talks to.
"""

from __future__ import annotations

from sandbox.engine.names import EngineName
from sandbox.engine.protocol import Bind, Container, ContainerSpec, Engine, EngineInfo, Exec, Image, Tmpfs

__all__ = [
    "Bind",
    "Container",
    "ContainerSpec",
    "Engine",
    "EngineInfo",
    "EngineName",
    "Exec",
    "Image",
    "Tmpfs",
    "connect",
]


def connect(name_or_url: str | None = None) -> Engine:
    """The engine called `name_or_url`: docker, podman, or a unix://, tcp:// or ssh:// URL; else the one that
    the setting `engine` names the same way; else whichever answers, rootless Podman first unless the caller is root.

    Raises `EngineNotFound`, `EnginePermission` or `EngineFailed`.
    """
    from sandbox.engine.detection import detect

    return detect(name_or_url)
