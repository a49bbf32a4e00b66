"""Profiles from their files, checked: those that come with vmbox, and the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from sandbox.errors import ConfigurationError
from sandbox.host import paths
from sandbox.host.decode import DecodeError, UnknownKey, decode, read_toml
from sandbox.profiles.definition import Profile

_NOT_PROFILES: Final = frozenset({"releases.toml", "digests.toml", "crash-changes.toml"})
"""Rules about release strings, which `dump.release` reads; what tags of base images mean, see `digests`; and which
kernels an older crash does not know, which a test holds the profiles to."""

_RENAMED: Final = {
    "ask": "query_script",
    "bases": "base_packages",
    "indexer": "builds_gdb_index",
    "newest_kernel": "max_kernel",
    "not_run": "unusable",
    "tried": "tested",
}
"""Keys of earlier versions, which a user's file may still have -> what they are called now."""


@cache
def load() -> Mapping[str, Profile]:
    """All profiles by name. Raises `ConfigurationError` naming file and key."""
    return _check_unique_claims({name: read(file) for name, file in _files().items()})


def _files() -> dict[str, Path]:
    """By the profiles' names; the user's own replace those that come with vmbox."""
    return {
        file.stem: file
        for directory in (paths.data_dir() / "images", paths.config_dir() / "images")
        for file in sorted(directory.glob("*.toml"))
        if file.name not in _NOT_PROFILES
    }


def load_claiming(klass: str) -> Mapping[str, Profile]:
    """The profiles that can claim a class, and the latest: all of them take longer to read than a dump does.

    A class is claimed by its own name or by one that it goes on from, and that stands in the file in quotes.
    """
    claims = {klass, *(klass[:at] for at, char in enumerate(klass) if char in ".:")}
    quoted = [f"{quote}{claim}{quote}".encode() for claim in claims for quote in "'\""]
    found = {}
    for name, file in _files().items():
        try:
            text = file.read_bytes()
        except OSError:
            text = b"latest"  # reading it properly says what is wrong
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
    """Digests of base images by reference, where a tag is pinned: `images/digests.toml`, then the user's own."""
    found: dict[str, str] = {}
    for directory in (paths.data_dir() / "images", paths.config_dir() / "images"):
        file = directory / "digests.toml"
        if not file.is_file():
            continue
        for ref, digest in _table(file).items():
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ConfigurationError(f"{file}: {ref} is pinned to {digest!r}, which is no digest sha256:…")
            found[ref] = digest
    return found


_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def read(file: Path) -> Profile:
    """One profile from its TOML file. Raises `ConfigurationError` naming file and key."""
    try:
        return decode(Profile, _table(file), given={"name": file.stem, "platform": None})
    except UnknownKey as error:
        if (renamed := _RENAMED.get(error.key)) in error.known:
            old, new = (f"{error.table}.{name}" if error.table else name for name in (error.key, renamed))
            hint = f"sed -i 's/{error.key}/{renamed}/' {file}"
            raise ConfigurationError(f"{file}: {old} is called {new} now", hint=hint) from None
        raise ConfigurationError(f"{file}: {error}", hint="keys there: " + ", ".join(sorted(error.known))) from None
    except DecodeError as error:
        raise ConfigurationError(f"{file}: {error}", hint="see the profiles that come with vmbox") from None


def _table(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file)
    except (OSError, DecodeError) as error:
        raise ConfigurationError(f"{file}: {error}", hint="fix the file or remove it") from error
