"""Lists the cached builds, with release, size and last use, and removes some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.debuginfo.modules import present
from sandbox.debuginfo.store import Entry, Store, size_on_disk
from sandbox.errors import DebuginfoNotFound, refuse_empty


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedBuild:
    """One cached build."""

    build: str
    """Build-id, or a name made from the banner if the kernel has none."""
    release: str
    size: int
    """Bytes on the disk."""
    modules: int
    """Number of modules whose debug files are cached."""
    used: float
    """Time of the last use; seconds since 1970."""
    origin: str
    verified: str
    check: str
    """The same in one word; as `Debuginfo.verification`."""
    dump: str
    """The dump that it is kept for; empty where it is for every dump of the build."""
    vmlinux: Path


def cached_builds(cache: Path) -> list[CachedBuild]:
    """All builds in the cache, the last used first."""
    return sorted(map(_kept, Store(cache).entries()), key=lambda one: -one.used)


def remove(cache: Path, builds: Sequence[str], *, limit: int, in_use: frozenset[str]) -> list[CachedBuild]:
    """Removes the builds whose names begin with `builds`; without any, the least recently used beyond `limit` bytes.

    Returns the removed ones. Raises `DebuginfoNotFound` if a name fits no build, or one that an open case uses.
    """
    store = Store(cache)
    everything = {entry.directory.name: (entry, _kept(entry)) for entry in store.entries()}
    if not builds:
        gone = store.prune(limit, keep=in_use)
        return [everything[entry.directory.name][1] for entry in gone]
    chosen: dict[str, Entry] = {}
    for beginning in builds:
        refuse_empty(beginning)
        names = [name for name in everything if name.startswith(beginning)]
        if not names:
            raise DebuginfoNotFound(f"no debuginfo of build {beginning} is kept", hint="vmbox debuginfo list")
        for name in names:
            if name in in_use:
                raise DebuginfoNotFound(f"build {name} is open", hint="vmbox list; vmbox close CASE")
            chosen[name] = everything[name][0]
    for entry in chosen.values():
        store.remove(entry)
    return [everything[name][1] for name in chosen]


def _kept(entry: Entry) -> CachedBuild:
    banner = next(iter(entry.about.banners), "")
    return CachedBuild(
        build=entry.directory.name,
        release=banner.removeprefix("Linux version ").partition(" ")[0],
        size=size_on_disk(entry.directory),
        modules=len(present(entry)),
        used=entry.directory.stat().st_mtime,
        origin=entry.about.origin,
        verified=entry.about.verified,
        check=entry.about.check,
        dump=entry.about.dump,
        vmlinux=entry.vmlinux,
    )
