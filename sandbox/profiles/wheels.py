"""The wheels of drgn that images may take, as `images/drgn.toml` has them: by hash, so that no other is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.errors import ConfigurationError
from sandbox.host import mirrors, paths
from sandbox.host.decode import DecodeError, decode, read_toml


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
    file = paths.data_dir() / "images" / "drgn.toml"
    try:
        return decode(Wheels, read_toml(file))
    except (OSError, DecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from error


def arguments(arch: str) -> Mapping[str, str]:
    """Build arguments of the fragment drgn-wheel on a machine, with the site's mirrors put in."""
    words = (f"{one.python},{mirrors.rewrite(one.url)},{one.sha256}" for one in load().wheel if one.arch == arch)
    return {"DRGN_WHEELS": " ".join(words)}
