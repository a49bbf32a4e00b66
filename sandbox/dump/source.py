"""Bytes of a dump, wherever they lie: in a file, behind a compression, scattered by the flattened format.

Everything above asks for ranges and must live with less than it asked for. Files are read with `os.pread`, never
mapped: a file that is cut by another process, or by NFS, would end a mapping process with SIGBUS.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from sandbox.errors import DumpNotFound, DumpUnreadable, NotADump, pasteable
from sandbox.formats.streams import Source
from sandbox.host import network_files
from sandbox.host.paths import user_name
from sandbox.log import without_secrets
from sandbox.model import DUMP_SCHEMES

READ_LIMIT: Final = 32 << 20
"""Most bytes that one read returns. Sizes in a dump are not trusted; nothing here needs more at once."""


SECONDS: Final = 1.5
"""Time that identification may take. Whole dumps take a hundredth of it; crafted ones take no more."""


_PATIENCE: Final = 10
"""Times the processor time that a question may take by the clock, on a busy machine or a slow file system."""


class DeadlineExceeded(Exception):
    """The time one question about a dump may take is over. Caught inside this package."""


class Budget:
    """Time that one question about a dump may take, whatever files, layers and entries it leads to.

    Every loop whose length a stranger chose asks it, also where nothing is read. What is read in between has a bound of
    its own, so that work per byte is bounded, and not size. It is the thread's own processor time that counts, so that
    an answer does not depend on what else the machine does; by the clock it may take `_PATIENCE` times as long.
    """

    def __init__(self, seconds: float, *, patience: float = _PATIENCE) -> None:
        self._seconds = seconds
        self._patience = patience
        self.restart()

    def restart(self) -> None:
        """Gives all of the time again, after something that had to be waited for."""
        now = time.monotonic()
        self._not_before = now + self._seconds
        self._deadline = now + self._seconds * self._patience
        self._processor_deadline = time.thread_time() + self._seconds

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """No limit until the context ends, for work that the user asked for and sees; then all of the time again."""
        self._not_before = math.inf
        try:
            yield
        finally:
            self.restart()

    def extend(self, seconds: float) -> None:
        """Gives more time, for work in proportion to the size of a file."""
        self._seconds += seconds
        self._not_before += seconds
        self._deadline += seconds * self._patience
        self._processor_deadline += seconds

    def ask(self) -> None:
        """Raises `DeadlineExceeded`."""
        # The clock alone tells mostly, and costs a tenth.
        now = time.monotonic()
        if now > self._not_before and (now > self._deadline or time.thread_time() > self._processor_deadline):
            raise DeadlineExceeded

    def part(self, seconds: float) -> Budget:
        """A budget of its own, that ends with this one at the latest."""
        part = Budget(seconds, patience=self._patience)
        part._not_before = min(part._not_before, self._not_before)
        part._deadline = min(part._deadline, self._deadline)
        part._processor_deadline = min(part._processor_deadline, self._processor_deadline)
        return part


class Asking:
    """A source each read of which asks a budget."""

    def __init__(self, source: Source, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    @property
    def size(self) -> int | None:
        return self._source.size

    def read_at(self, offset: int, size: int) -> bytes:
        self._budget.ask()
        return self._source.read_at(offset, size)


_ALLOWED: ContextVar[tuple[Path, ...]] = ContextVar("directories that dumps may be read from", default=())


@contextmanager
def confined(directories: tuple[Path, ...]) -> Iterator[None]:
    """Let this thread open dumps below `directories` only; without any, everywhere.

    The opened file is checked, not its name: a directory or file that becomes a link after a check of the name is
    refused, too. `directories` are absolute, without links.
    """
    token = _ALLOWED.set(directories)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def open_evidence(path: Path, *, directory: int | None = None) -> int:
    """Open a dump for reading. Raises `OSError`.

    Its access time is evidence too, and stays as it is where the kernel allows that: for its owner, and for root.
    With the descriptor of a `directory`, `path` is relative to it, and no link.
    """
    # O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if directory is not None:
        flags |= os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        return os.open(path, flags, dir_fd=directory)


def open_below(directory: Path, path: Path) -> int:
    """Open a file that was found below `directory`, to which no link may lead. Raises `OSError`.

    What a user names may be a link. What lies beside it was put there by the directory's author, whose link to
    another file would be read with the user's rights. Each component is opened with O_NOFOLLOW: that needs no
    openat2(2), since a path without ".." cannot leave its directory in another way.
    """
    *parents, name = path.relative_to(directory).parts
    if ".." in {*parents, name}:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            inner = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = inner
        return open_evidence(Path(name), directory=place)
    finally:
        os.close(place)


def beside(dump: Path, name: str) -> Path | None:
    """The regular file `name` in the directory of a dump; None where there is none, or where it is a link.

    To be opened with `FileSource(path, below=path.parent)`.
    """
    path = dump.parent / name
    try:
        return path if stat.S_ISREG(path.lstat().st_mode) else None
    except (OSError, ValueError):
        return None


class OpenFile(Source, Protocol):
    """A dump's file that is open, here or elsewhere."""

    @property
    def path(self) -> Path: ...

    @property
    def identity(self) -> str:
        """Names the file as it is now."""

    @property
    def cheap_to_walk(self) -> bool:
        """Whether all of it may be read to find its way in it."""


_LIVE: Final = frozenset({"/proc/kcore", "/dev/mem", "/dev/crash"})
"""The running kernel's memory, by the names that crash takes for it."""


class FileSource:
    """An open file. Raises `DumpNotFound`, `DumpUnreadable` or `NotADump` when it cannot be one.

    A file that was found, and not named by a user, is opened with `below`: see `open_below`. Each read asks `budget`.
    """

    def __init__(self, path: Path, *, budget: Budget | None = None, below: Path | None = None) -> None:
        self.path = path
        self._budget = budget
        if str(path) in _LIVE:
            raise NotADump(
                f"{path} is the memory of the running kernel, which changes while it is read",
                hint="make a dump of it: makedumpfile -d 31 /proc/kcore vmcore   or read it on the host: drgn -k",
            )
        self._network = network_files.kind(path)
        try:
            self._fd = network_files.answer(
                lambda: open_evidence(path) if below is None else open_below(below, path), path, self._network
            )
        except OSError as error:
            raise cannot_open(path, error) from error
        try:
            self._check_place()
            self.size = self._measure(found=below is not None)
        except BaseException:
            os.close(self._fd)
            raise

    def _check_place(self) -> None:
        if not (directories := _ALLOWED.get()):
            return
        try:
            real = Path(os.readlink(f"/proc/self/fd/{self._fd}"))  # noqa: PTH115 - the link is the kernel's, no file's
        except OSError as error:
            raise DumpUnreadable(f"{self.path}: {error.strerror}", hint="mount /proc") from error
        if not any(real.is_relative_to(directory) for directory in directories):
            raise DumpUnreadable(f"{self.path} is not below a directory that dumps may be read from")

    def _measure(self, *, found: bool) -> int:
        status = os.fstat(self._fd)
        if stat.S_ISREG(status.st_mode) or (stat.S_ISBLK(status.st_mode) and not found):
            try:
                return os.lseek(self._fd, 0, os.SEEK_END)
            except OSError as error:
                raise DumpUnreadable(f"{self.path}: {error.strerror}") from error
        if stat.S_ISDIR(status.st_mode):
            raise NotADump(
                f"{self.path} is a directory", hint=f"name the dump in it: vmbox info {pasteable(self.path / 'vmcore')}"
            )
        raise NotADump(f"{self.path} is not a regular file", hint="save it to a file first: cat SOURCE > vmcore")

    def read_at(self, offset: int, size: int) -> bytes:
        if self._budget is not None:
            self._budget.ask()
        if offset < 0 or size <= 0 or offset >= self.size:
            return b""
        size = min(size, READ_LIMIT, self.size - offset)
        pieces = []
        try:
            while size > 0 and (piece := self._read(size, offset)):
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        except OSError as error:
            raise DumpUnreadable(
                f"{self.path}: {error.strerror} at byte {offset}",
                hint="the disk or the network file system failed; copy the file somewhere else first",
            ) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read(self, size: int, offset: int) -> bytes:
        if self._network is None:
            return os.pread(self._fd, size, offset)
        return network_files.answer(lambda: os.pread(self._fd, size, offset), self.path, self._network)

    @property
    def identity(self) -> str:
        """Names the file as it is now. See `identity`."""
        return identity(self.path, os.fstat(self._fd))

    @property
    def cheap_to_walk(self) -> bool:
        return True

    def will_need(self, offset: int, size: int) -> None:
        """Asks the kernel to read ahead, which does not wait. Nothing happens where it cannot."""
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def identity(path: Path, status: os.stat_result) -> str:
    """The name of the directory of what is kept of a dump: made of the file's identity, not of its content."""
    text = f"{path.resolve()}\0{status.st_dev}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _permission(path: Path) -> str:
    """What makes a dump readable."""
    if os.geteuid() == 0:
        return "its file system refuses root (NFS with root_squash, FUSE): run vmbox as a user who may read it"
    closed = next((one for one in reversed(path.absolute().parents) if not os.access(one, os.X_OK)), None)
    # kdump writes vmcores with mode 0600 for root, so this is the customary first obstacle; then comes the directory.
    # By name: $USER is "root" where root pastes this.
    user = user_name(os.geteuid())
    way = f"setfacl -m u:{user}:x {pasteable(closed)}; " if closed is not None else ""
    return f"as root: {way}setfacl -m u:{user}:r {pasteable(path)}   (or chgrp and chmod g+r)"


def cannot_open(path: Path, error: OSError) -> DumpNotFound | DumpUnreadable:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            if found := re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path), re.DOTALL):
                url = without_secrets(f"{found[1]}://{found[2]}")
                read = str(path).startswith((*DUMP_SCHEMES, "file:/"))
                what = "is not read by this command" if read else "is a URL of a kind that is not read"
                hint = "vmbox info URL" if read else "give https://…, s3://… or sftp://…, or download it first"
                return DumpNotFound(f"{url} {what}", hint=hint)
            if str(path) == "-":
                hint = "save it: SOURCE > vmcore; only info, dmesg and decode read standard input"
                return DumpNotFound("a dump of this command is a file, and not standard input", hint=hint)
            if found := re.fullmatch(r"((?:[\w.-]+@)?[\w.-]+):(/.+)", str(path)):
                hint = f"of another host, as scp has it? vmbox info {pasteable(f'sftp://{found[1]}{found[2]}')}"
                return DumpNotFound(f"there is no file {path}", hint=hint)
            return DumpNotFound(f"there is no file {path}")
        case PermissionError(errno=errno.EPERM):
            # No mode and no ACL says so, but a rule for a container or a service: of devices, or of a security module.
            hint = f"read it outside of this container or service: cat {pasteable(path)} > vmcore"
            return DumpUnreadable(f"{path}: what limits this process forbids to open it ({error.strerror})", hint=hint)
        case PermissionError():
            return DumpUnreadable(f"no permission to read {path}", hint=_permission(path))
        case _:
            return DumpUnreadable(f"{path}: {error.strerror}", hint="check the path and the file system it is on")
