"""What vmbox knows about each distribution major: `images/*.toml`, read into `Profile`.

A distribution is one file and no code. The user's own files in `<config>/images/` add to these, or replace the one of
the same name. Unknown keys are errors, so that a typo is seen; two profiles that claim the same release are one, too.
"""

from sandbox.profiles.definition import (
    Base,
    Bootstrap,
    Crash,
    DebuginfoArchive,
    DebuginfoRules,
    ImageDefinition,
    Profile,
)
from sandbox.profiles.loading import digests, load, read
from sandbox.profiles.selection import Selection, by_name, fallback, select

__all__ = [
    "Base",
    "Bootstrap",
    "Crash",
    "DebuginfoArchive",
    "DebuginfoRules",
    "ImageDefinition",
    "Profile",
    "Selection",
    "by_name",
    "digests",
    "fallback",
    "load",
    "read",
    "select",
]
