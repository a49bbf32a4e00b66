"""Writes files in one step, so that no process reads half of one, and every byte, also to pipes."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.errors import UsageError

STDOUT: Final = Path("-")
"""The name of standard output where a user names a file to write."""


def age(moment: float) -> float:
    """Seconds between a file's time stamp and now.

    One of the future, as a clock that was set back leaves it, is as old as it is far away: else it would never be old.
    """
    return abs(time.time() - moment)


def write_atomically(
    path: Path, data: bytes | Iterable[bytes], *, mode: int | None = None, durable: bool = False
) -> None:
    """Puts `data`, in one piece or several, at `path`, or leaves there what was there before.

    The file gets exactly `mode`; without it, what the umask leaves of 0666. `durable` waits until the disk has the
    content. Raises OSError, and what the making of the pieces raises.
    """
    # Not the path's own name, to which nothing could be added where it is as long as a name can be.
    temporary = path.parent / f".vmbox-{os.urandom(8).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            for piece in (data,) if isinstance(data, bytes) else data:
                write_all(descriptor, piece)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_output(path: Path, data: bytes | Iterable[bytes], *, mode: int | None = None, durable: bool = False) -> None:
    """Writes `data`, in one piece or several, to what a user named: a file, a link to one, a device, a FIFO, or "-".

    A file that is missing, or is the user's own, gets the content in one step and keeps its mode. Everything else stays
    what it is and is written to: a rename would put a file in the place of a device. Raises OSError, and what the
    making of the pieces raises.
    """
    descriptor = _opened_output(path)
    if descriptor is None:
        target = Path(os.path.realpath(path))
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else mode
        write_atomically(target, data, mode=mode, durable=durable)
        return
    try:
        for piece in (data,) if isinstance(data, bytes) else data:
            write_all(descriptor, piece)
        if durable and stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: Path) -> None:
    """Raises OSError where `write_output` would, as far as that can be told before there is anything to write.

    Changes nothing. Minutes of work would else be lost to a slip.
    """
    if path == STDOUT:
        return
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        place = Path(os.path.realpath(path)).parent
        place.stat()
        if not os.access(place, os.W_OK | os.X_OK):
            read_only = os.statvfs(place).f_flag & os.ST_RDONLY
            raise OSError(code := errno.EROFS if read_only else errno.EACCES, os.strerror(code)) from None
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISREG(mode) and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def is_file_output(path: Path) -> bool:
    """Whether `write_output` makes or replaces a file with this name, beside which there may be another one."""
    return path != STDOUT and _descriptor_link(path) is None and (path.is_file() or not path.exists())


def refuse_evidence(output: Path, evidence: Iterable[Path]) -> None:
    """Raises `UsageError` if `output` is one of these files by whatever name, so that it would be written over."""
    for one in evidence:
        with suppress(OSError):
            if output != STDOUT and output.samefile(one):
                raise UsageError(
                    f"{output} is {one} itself, which is only read", hint="choose another place for what is made"
                )


def refuse_planted(path: Path, *, hint: str, several_names: bool = True) -> None:
    """Raises `UsageError` if `path`, a name that vmbox chose and not the user, is there and is no plain file.

    In a directory of a stranger it may be a link to a file of the user's, or a FIFO; without `several_names` also a
    second name of a dump.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode) or (status.st_nlink > 1 and not several_names):
        raise UsageError(f"{path} is there, and is a link or no file: it is not written to", hint=hint)


def write_chosen(path: Path, data: bytes | Iterable[bytes], *, hint: str, mode: int | None = None) -> None:
    """Writes `data` to a name that vmbox chose: what is there is replaced in one step, and no link is followed.

    A file that is there keeps its mode. Raises `UsageError` as `refuse_planted` does, and OSError.
    """
    refuse_planted(path, hint=hint)
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.lstat().st_mode)
    write_atomically(path, data, mode=mode)


def mode_of(evidence: Iterable[Path]) -> int | None:
    """The mode of a file made of these: the owner's alone, unless every user may read all of them. For `write_output`.

    What cannot be asked, as a dump on a server, is taken for one that others may not read.
    """
    try:
        return None if all(one.stat().st_mode & stat.S_IROTH for one in evidence) else 0o600
    except OSError:
        return 0o600


def _opened_output(path: Path) -> int | None:
    """`path` opened for writing; None for a file that can be replaced. Raises OSError."""
    if path == STDOUT:
        return os.dup(1)
    magic = _descriptor_link(path)
    if magic is not None and magic.parent == Path(f"/proc/{os.getpid()}/fd") and magic.name.isdecimal():
        # Opened again, a redirected standard output would be written from its beginning.
        return os.dup(int(magic.name))
    try:
        # Opened and not resolved: the kernel follows links, except those that fs.protected_symlinks forbids.
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        if magic is None and status.st_nlink == 1 and status.st_uid == os.geteuid():
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
    return descriptor


def _descriptor_link(path: Path) -> Path | None:
    """The link below /proc that `path` is or leads to: it stands for an open file, which may have no name."""
    for _ in range(40):  # as many links as the kernel follows
        place = Path(os.path.realpath(path.parent)) / path.name
        if place.is_relative_to("/proc"):
            return place
        try:
            path = place.parent / place.readlink()
        except OSError:
            return None
    return None


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: a pipe or a terminal may take less at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
