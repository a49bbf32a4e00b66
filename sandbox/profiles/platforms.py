"""Emulation for dumps of another architecture than the engine's: crash only reads dumps of its own architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sandbox.engine import EngineInfo
from sandbox.errors import EmulationMissing
from sandbox.host import checks
from sandbox.profiles import Profile, load

_NAMES: Final = {"x86_64": "linux/amd64", "aarch64": "linux/arm64", "ppc64le": "linux/ppc64le", "s390x": "linux/s390x"}
"""Output of uname -m: the engines' name of the platform."""


def foreign_arch(machine: str | None, info: EngineInfo) -> str | None:
    """The architecture of a dump if it differs from the engine's; None if it is the same or unknown."""
    return None if machine is None or machine == info.arch or machine not in _NAMES else machine


def require_emulation(machine: str | None, info: EngineInfo) -> str | None:
    """Like `foreign_arch`. Raises `EmulationMissing` if this host cannot run programs of that architecture."""
    machine = foreign_arch(machine, info)
    # Whether an engine on another host can emulate is only known after a try.
    if machine is not None and info.local and machine not in checks.emulated()[0]:
        raise EmulationMissing(
            f"the dump is of {machine}, and this host ({info.arch}) cannot run its crash",
            hint=checks.emulation_fix(machine),
        )
    return machine


def for_arch(profile: Profile, machine: str | None) -> Profile:
    """The profile with programs of `machine`, which has its own image and base. The profile itself for None.

    Without debuggers that need no emulation; see `ImageDefinition.emulated`.
    """
    if machine is None or profile.platform is not None:
        return profile
    name, title = f"{profile.name}-{machine}", f"{profile.title} for {machine}"
    return replace(profile, name=name, title=title, platform=platform(machine), image=profile.image.emulated())


def by_name(name: str) -> Profile | None:
    """The profile with this name, which may be of `for_arch`; None if there is none."""
    for known in load().values():
        for other in (None, *_NAMES):
            profile = for_arch(known, other)
            if profile.name == name:
                return profile
    return None


def platform(machine: str) -> str:
    """The engines' name of an architecture of uname -m. Inverse of `arch_of`."""
    return _NAMES[machine]


def arch_of(platform: str) -> str:
    """uname -m of the engines' name of a platform."""
    return next(name for name, known in _NAMES.items() if known == platform)
