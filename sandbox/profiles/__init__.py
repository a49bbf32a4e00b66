"""Profiles of distributions: `images/*.toml`, read into `Profile`. There is one for each major version.

A distribution is one file and no code. The user's own files in `<config>/images/` add profiles, or replace the one of
the same name. Errors are: an unknown key, so that typos are noticed, and two profiles that claim the same release.
"""

from sandbox.profiles.definition import (
    Base,
    Bootstrap,
    Crash,
    DebuginfoArchive,
    DebuginfoRules,
    Demo,
    ImageDefinition,
    Profile,
    RepositoryVersions,
    Snapshots,
)
from sandbox.profiles.doubts import doubt_crash, doubts, only_misread, with_version
from sandbox.profiles.loading import digests, load, read
from sandbox.profiles.selection import Selection, by_name, fallbacks, select

__all__ = [
    "Base",
    "Bootstrap",
    "Crash",
    "DebuginfoArchive",
    "DebuginfoRules",
    "Demo",
    "ImageDefinition",
    "Profile",
    "RepositoryVersions",
    "Selection",
    "Snapshots",
    "by_name",
    "digests",
    "doubt_crash",
    "doubts",
    "fallbacks",
    "load",
    "only_misread",
    "read",
    "select",
    "with_version",
]
