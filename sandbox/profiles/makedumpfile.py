"""What an older makedumpfile leaves out of a kernel's dump that it must not: `images/makedumpfile-changes.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from sandbox.model import kernel_version
from sandbox.profiles.tables import read_table

_FILE: Final = "makedumpfile-changes.toml"

# crash: "bt: page excluded: kernel virtual address: ff… type: "…"" (memory.c, readmem()); drgn: "Excluded page: 0xff…"
# (libkdumpfile), and of modules what drgn-session.py says. User space, caches and free pages are left out on purpose; a
# kernel's object is in none of them.
_MISSING: Final = re.compile(
    r"page excluded: kernel virtual address: (?:0x)?[0-9a-f]+|Excluded page: 0x[89a-f][0-9a-f]{15}\b"
    r"|(?:is|are) left out: pages of (?:it|them) are not in the dump"
)

_LEVEL: Final = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the kernel after which an older makedumpfile leaves out pages that it must not."""

    kernel: str
    """major.minor of the first kernel with it."""
    makedumpfile: str
    """The first makedumpfile that knows it."""
    commit: str
    """Of makedumpfile."""
    without: int
    """The bits of its option -d that have to be off, so that nothing is lost."""
    what: str
    """The pages that are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    change: tuple[Change, ...]


@cache
def changes() -> tuple[Change, ...]:
    """Read the table. Raises `ConfigurationError`."""
    return read_table(_Changes, _FILE).change


def misses_kernel_page(answer: str) -> bool:
    """Whether a debugger says that a page of the kernel's own is not in the dump."""
    return _MISSING.search(answer) is not None


def explain(release: str | None, level: int | None = None) -> str | None:
    """Why pages of a kernel's own may be missing in its dump, and what to do; None where no fault is known of it.

    The dump does not name the makedumpfile that wrote it. `level` is the dump's, of -d.
    """
    if release is None:
        return None
    known = [one for one in changes() if kernel_version(one.kernel) <= kernel_version(release)]
    if not known or (level is not None and not any(level & one.without for one in known)):
        return None
    newest = max(known, key=lambda one: kernel_version(one.kernel))
    better = (_LEVEL if level is None else level) & ~newest.without
    return (
        f"makedumpfile before {newest.makedumpfile} leaves out {newest.what} on Linux {newest.kernel} and later "
        f"(its commit {newest.commit} fixes that). What is missing cannot be had from this dump; for the next one "
        f"let kdump run a newer makedumpfile, or makedumpfile -d {better}"
    )
