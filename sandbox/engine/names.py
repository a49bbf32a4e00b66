"""The engines, by the names that users give."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    """The engines, in the order in which they are tried."""

    PODMAN = "podman"
    DOCKER = "docker"
