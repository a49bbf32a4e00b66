"""Free space on disks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from sandbox.errors import NoSpace

_MARGIN: Final = 64 << 20
"""Space that stays free: a full disk does more harm than a refusal."""


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
