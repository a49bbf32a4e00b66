"""The wheels of drgn that images may take, as `images/drgn.toml` has them: by hash, so that no other is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.host import mirrors
from sandbox.profiles.tables import read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One wheel."""

    python: str
    """major.minor of the Python that it is for."""
    arch: str
    """As uname -m prints it."""
    url: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """The file."""

    version: str
    """Of drgn."""
    max_kernel: str
    """major.minor of the newest kernel that this version was tried with."""
    wheel: tuple[Wheel, ...]


def load() -> Wheels:
    """Read the file. Raises `ConfigurationError`."""
    return read_table(Wheels, "drgn.toml")


def arguments(arch: str) -> Mapping[str, str]:
    """Build arguments of the fragment drgn-wheel on a machine, with the site's mirrors put in."""
    words = (f"{one.python},{mirrors.rewrite(one.url)},{one.sha256}" for one in load().wheel if one.arch == arch)
    return {"DRGN_WHEELS": " ".join(words)}
