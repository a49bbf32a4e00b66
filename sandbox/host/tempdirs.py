"""Temporary directories on the file system of the cache."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandbox.errors import NoSpace
from sandbox.host import paths
from sandbox.host.locks import is_locked, locked

_LOCK: Final = ".lock"
"""Held while a directory is made and locked."""


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory on the cache's file system, removed at the end; leftovers of killed processes are removed first."""
    directory = paths.cache_dir() / "tmp"
    with contextlib.ExitStack() as stack:
        try:
            paths.make_directory(directory)
            with locked(directory / _LOCK):
                for left in _left_in(directory):
                    shutil.rmtree(left, ignore_errors=True)
                made = Path(tempfile.mkdtemp(dir=directory))
                # Held while this process lives, also while it is removed: one that can be locked belongs to no process.
                stack.enter_context(locked(made))
                stack.callback(shutil.rmtree, made, ignore_errors=True)
        except OSError as error:
            hint = "choose another place with $VMBOX_CACHE_DIR"
            raise NoSpace(f"{directory}: {error.strerror}", hint=hint) from error
        yield made


def left_behind() -> list[Path]:
    """Scratch directories whose process is gone."""
    directory = paths.cache_dir() / "tmp"
    try:
        if (directory / _LOCK).exists():
            with locked(directory / _LOCK):
                return list(_left_in(directory))
    except PermissionError:
        pass  # another user's
    return []


def _left_in(directory: Path) -> Iterator[Path]:
    return (entry for entry in directory.iterdir() if entry.is_dir() and not is_locked(entry))
