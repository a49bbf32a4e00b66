"""Reads the tables of `images/` that are of no distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sandbox.errors import ConfigurationError
from sandbox.host import paths
from sandbox.host.decode import DecodeError, decode, read_toml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T", bound="DataclassInstance")


def read_table(kind: type[_T], name: str) -> _T:
    """Read `images/NAME` as the dataclass `kind`. Raises `ConfigurationError`."""
    file = paths.data_dir() / "images" / name
    try:
        return decode(kind, read_toml(file))
    except (OSError, DecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
