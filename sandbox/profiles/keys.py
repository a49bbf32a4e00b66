"""Files with the public keys of vendors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sandbox.errors import ConfigurationError
from sandbox.host import paths

SHA1_SUFFIX: Final = ".sha1.asc"
"""End of the names of keys whose signatures over SHA-1 count: see `sandbox.formats.openpgp.rsa_keys`."""


def key_files(names: Sequence[str]) -> tuple[Path, ...]:
    """Find vendors' public keys by file name: in the user's `<config>/images/keys`, else among those of vmbox.

    Raises `ConfigurationError` for a key that is in neither.
    """
    found: list[Path] = []
    for name in names:
        for directory in (paths.config_dir(), paths.data_dir()):
            path = directory / "images" / "keys" / name
            if path.is_file():
                found.append(path)
                break
        else:
            raise ConfigurationError(
                f"there is no key {name}", hint=f"put it into {paths.config_dir() / 'images' / 'keys'}"
            )
    return tuple(found)
