"""Locks between processes: files with `flock`, which the kernel frees when their owner ends in any way."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.host import paths
from sandbox.progress import QUIET, Reporter


@contextmanager
def locked(path: Path, reporter: Reporter = QUIET, doing: str = "") -> Iterator[None]:
    """Holds the lock file (or directory) `path`; waits, and says for another `doing` what."""
    paths.make_directory(path.parent)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path.is_dir() else _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.notice(f"waiting for another vmbox ({doing})" if doing else "waiting for another vmbox")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock file, or locked directory, `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    """Opens the file without making it where it is there: another user's, in a directory that users share, is too."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            # To read is enough for flock, except on NFS.
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
    shared = path.parent.stat().st_mode & 0o022
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if shared:
        os.fchmod(descriptor, 0o666)
    return descriptor
