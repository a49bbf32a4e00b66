"""The engines there are, by the names that users give."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    """An engine with an adapter of its own, in the order in which all of them are looked at."""

    PODMAN = "podman"
    DOCKER = "docker"
