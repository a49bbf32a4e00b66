"""Locks between processes: files under `flock`, so that the kernel frees them whatever happens to their owner."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.progress import QUIET, Reporter


@contextmanager
def locked(path: Path, reporter: Reporter = QUIET, doing: str = "") -> Iterator[None]:
    """Holds the lock file `path`; waits for it, and says that it waits for another process `doing` something."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.notice(f"waiting for another vmbox ({doing})" if doing else "waiting for another vmbox")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
