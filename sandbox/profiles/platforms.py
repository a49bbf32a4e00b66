"""Dumps of another machine than the engine's. crash reads those of the machine it was built for, so it is emulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sandbox.engine import EngineInfo
from sandbox.errors import EmulationMissing
from sandbox.host import checks
from sandbox.profiles import Profile, load

_NAMES: Final = {"x86_64": "linux/amd64", "aarch64": "linux/arm64", "ppc64le": "linux/ppc64le", "s390x": "linux/s390x"}
"""uname -m -> what engines call the platform."""


def foreign_arch(machine: str | None, info: EngineInfo) -> str | None:
    """The machine of a dump when it is another than the engine's; None when it is not, or not known."""
    return None if machine is None or machine == info.arch or machine not in _NAMES else machine


def require_emulation(machine: str | None, info: EngineInfo) -> str | None:
    """`foreign`, for what has to run there. Raises `EmulationMissing` when this host cannot run programs of it."""
    machine = foreign_arch(machine, info)
    # What an engine on another host can run is seen when it is tried.
    if machine is not None and info.local and machine not in checks.emulated()[0]:
        raise EmulationMissing(
            f"the dump is of {machine}, and this host ({info.arch}) cannot run its crash",
            hint=checks.emulation_fix(machine),
        )
    return machine


def for_arch(profile: Profile, machine: str | None) -> Profile:
    """The profile with programs of `machine`: an image and a base of their own. The profile itself for None.

    Without debuggers that need no emulation; see `ImageDefinition.emulated`.
    """
    if machine is None or profile.platform is not None:
        return profile
    name, title = f"{profile.name}-{machine}", f"{profile.title} for {machine}"
    return replace(profile, name=name, title=title, platform=platform(machine), image=profile.image.emulated())


def by_name(name: str) -> Profile | None:
    """The profile of a name that it has here or, by `on`, for another machine."""
    for known in load().values():
        for other in (None, *_NAMES):
            profile = for_arch(known, other)
            if profile.name == name:
                return profile
    return None


def platform(machine: str) -> str:
    """What engines call a machine that has one of the names of uname -m. Inverse of `machine`."""
    return _NAMES[machine]


def arch_of(platform: str) -> str:
    """uname -m of what engines call a platform."""
    return next(name for name, known in _NAMES.items() if known == platform)
