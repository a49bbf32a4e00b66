"""Container engines behind one protocol.

Only the adapters in `docker.py` and `podman.py` import the engine libraries, and every difference between the engines
stays inside them. Code outside this package does not ask which engine it talks to.
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
    """Connect to the engine `name_or_url`: docker, podman, or a unix://, tcp:// or ssh:// URL.

    The default is the setting `engine`, which takes the same values. Without either, this is the first engine that
    answers; rootless Podman is tried first unless the caller is root.

    Raises `EngineNotFound`, `EnginePermission` or `EngineFailed`.
    """
    from sandbox.engine.detection import detect

    return detect(name_or_url)
