"""Free space on disks."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from sandbox.errors import NoSpace, VmboxError
from sandbox.host import paths

_MARGIN: Final = 64 << 20
"""Space that stays free: a full disk does more harm than a refusal."""

_FULL: Final = 1 << 20
"""A file system with less free than this counts as full: what vmbox had begun to write there is removed by then."""

_CACHE: Final = "free some there, or put the cache on another disk: export VMBOX_CACHE_DIR=DIRECTORY"


def need_space(directory: Path, size: int, what: str, *, hint: str = _CACHE) -> None:
    """Raises `NoSpace` unless `size` bytes fit where `directory` is, or will be. `hint`: of another place."""
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < size + _MARGIN:
        raise no_space(directory, what, size + _MARGIN - free, hint=hint)


def no_space(directory: Path, what: str, missing: int | None = None, *, hint: str = _CACHE) -> NoSpace:
    lacking = f", {missing / 1e6:,.0f} MB are missing" if missing else ""
    return NoSpace(f"no space for {what} in {directory}{lacking}", hint=hint)


def full_places() -> list[Path]:
    """Of the directories that vmbox writes to, those on a file system that has no room, or no inode, left."""
    full: list[Path] = []
    for where in (paths.cache_dir, paths.runtime_dir, paths.state_dir, lambda: Path(tempfile.gettempdir())):
        try:
            place = where()
            free = os.statvfs(next(path for path in (place, *place.absolute().parents) if path.exists()))
        except (OSError, VmboxError):
            continue
        if place not in full and (free.f_bavail * free.f_frsize < _FULL or free.f_files > 0 == free.f_favail):
            full.append(place)
    return full
