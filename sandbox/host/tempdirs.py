"""Temporary directories on the file system of the cache."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.errors import NoSpace
from sandbox.host import paths
from sandbox.host.locks import is_locked, locked


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory on the cache's file system, removed at the end; leftovers of killed processes are removed first."""
    directory = paths.cache_dir() / "tmp"
    with contextlib.ExitStack() as stack:
        try:
            paths.make_directory(directory)
            with locked(directory / ".lock"):
                for left in directory.iterdir():
                    if left.is_dir() and not is_locked(left):
                        shutil.rmtree(left, ignore_errors=True)
                made = Path(tempfile.mkdtemp(dir=directory))
                stack.callback(shutil.rmtree, made, ignore_errors=True)
                # Held while this process lives. A directory that can be locked belongs to no process.
                stack.enter_context(locked(made))
        except OSError as error:
            hint = "choose another place with $VMBOX_CACHE_DIR"
            raise NoSpace(f"{directory}: {error.strerror}", hint=hint) from error
        yield made
