"""Read and check profiles: those of vmbox, and the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from sandbox.errors import ConfigurationError, pasteable
from sandbox.host import paths
from sandbox.host.decode import DecodeError, UnknownKey, decode, read_toml
from sandbox.profiles.definition import Profile

_NOT_PROFILES: Final = frozenset(
    {"releases.toml", "digests.toml", "drgn.toml", "crash-changes.toml", "makedumpfile-changes.toml"}
)
"""Files that are not profiles: rules about release strings, which `dump.release` reads; pinned tags of base images, see
`digests`; and the kernels that need a newer crash, by which a test checks the profiles."""

_RENAMED: Final = {
    "ask": "query_script",
    "indexer": "builds_gdb_index",
    "newest_kernel": "max_kernel",
    "not_run": "unusable",
    "tried": "tested",
}
"""Key of an earlier version, which a user's file may still have: its present name."""


@cache
def load() -> Mapping[str, Profile]:
    """Read all profiles, by name. Raises `ConfigurationError` with file and key."""
    return _check_unique_claims({name: read(file) for name, file in _files().items()})


def _files() -> dict[str, Path]:
    """The files by the profiles' names; the user's own replace those of vmbox."""
    return {
        file.stem: file
        for directory in (paths.data_dir() / "images", paths.config_dir() / "images")
        for file in paths.own_files(directory, "*.toml")
        if file.name not in _NOT_PROFILES
    }


def load_claiming(klass: str) -> Mapping[str, Profile]:
    """Read only the profiles that can claim a class, and the latest: to read all takes longer than to read a dump.

    A claim is the class or a prefix of it that ends before "." or ":". It is in quotes in the file.
    """
    claims = {klass, *(klass[:at] for at, char in enumerate(klass) if char in ".:")}
    quoted = [f"{quote}{claim}{quote}".encode() for claim in claims for quote in "'\""]
    found = {}
    for name, file in _files().items():
        try:
            text = file.read_bytes()
        except OSError:
            text = b"latest"  # so that read() raises the error
        if b"latest" in text or any(claim in text for claim in quoted):
            found[name] = read(file)
    return _check_unique_claims(found)


def _check_unique_claims(found: Mapping[str, Profile]) -> Mapping[str, Profile]:
    claimed: dict[str, str] = {}
    for profile in found.values():
        for claim in (*profile.classes, *profile.releases):
            if claim in claimed:
                raise ConfigurationError(
                    f"profiles {claimed[claim]} and {profile.name} both claim {claim}",
                    hint=f"remove it from one of them in {paths.config_dir() / 'images'}",
                )
            claimed[claim] = profile.name
    return found


@cache
def digests() -> Mapping[str, str]:
    """Read the digests of base images with a pinned tag, by reference: `images/digests.toml`, then the user's own."""
    found: dict[str, str] = {}
    for directory in (paths.data_dir() / "images", paths.config_dir() / "images"):
        file = directory / "digests.toml"
        if not file.is_file():
            continue
        for ref, digest in _table(file).items():
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ConfigurationError(f"{file}: {ref} is pinned to {digest!r}, which is not a digest sha256:…")
            found[ref] = digest
    return found


_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def read(file: Path) -> Profile:
    """Read one profile from its TOML file. Raises `ConfigurationError` with file and key."""
    try:
        return decode(Profile, _table(file), given={"name": file.stem, "platform": None})
    except UnknownKey as error:
        if (renamed := _RENAMED.get(error.key)) in error.known:
            old, new = (f"{error.table}.{name}" if error.table else name for name in (error.key, renamed))
            hint = f"sed -i 's/{error.key}/{renamed}/' {pasteable(file)}"
            raise ConfigurationError(f"{file}: {old} is called {new} now", hint=hint) from None
        raise ConfigurationError(f"{file}: {error}", hint="keys there: " + ", ".join(sorted(error.known))) from None
    except DecodeError as error:
        raise ConfigurationError(f"{file}: {error}", hint="see the profiles that come with vmbox") from None


def _table(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file)
    except (OSError, DecodeError) as error:
        raise ConfigurationError(f"{file}: {error}", hint="fix the file or remove it") from error
