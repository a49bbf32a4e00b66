"""Unpacks a dump from its wrappers into the cache: plain, sparse and rearranged. The original is only read.

crash does not read archives, and is slow with flattened files, which it sorts again at every start. The copy is the
dump as makedumpfile would have written it to a local disk.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.dump import crash_directory, flattened, piece_index, reader, wrappers
from sandbox.dump.source import FileSource, identity
from sandbox.errors import ConfigurationError, DumpDamaged, DumpError, NoSpace, NotADump
from sandbox.formats.streams import CorruptData, Source, SourceStream, Stream
from sandbox.host import paths
from sandbox.model import Vmcore
from sandbox.progress import QUIET, Reporter, Step

_STEP: Final = 1 << 20
_HOLE: Final = 64 << 10
"""Runs of at least so many zeros become holes in the file."""
_KEPT_BY_GLIBC: Final = 16 << 20
"""M_MMAP_THRESHOLD follows the largest block that was freed, up to 32 MiB, and M_TRIM_THRESHOLD is twice that."""
_ZEROS: Final = bytes(_HOLE)

_RESERVE: Final = 512 << 20
"""Free space that is never used: a full cache disk breaks other programs too."""

_LARGEST: Final = 64 << 40
_MOST_RATIO: Final = 20_000
"""Bytes out for each byte in. xz packs zeros 7000 to 1; bombs are nested and exceed that by far."""

PASSING: Final = "of-a-triage"
"""Name of the mark beside a copy that triage removes after its report."""

_PIECE: Final = struct.Struct(">qq")


def unpacked_path(path: Path, into: Path) -> Path:
    """Where `unpack` puts the dump at `path`; the name depends on the file's identity, not on its content."""
    return into / identity(path, path.stat()) / "vmcore"


def unpack(vmcore: Vmcore, into: Path, reporter: Reporter = QUIET) -> Path:
    """The dump as a plain file: `vmcore.path` itself if it is one, else a copy under `into`, made only once.

    A cut dump is unpacked as far as it goes, with a notice. Raises `NotADump` when there is none inside,
    `NoSpace` before the disk is full, `DumpDamaged` when nothing could be unpacked or the archive is a bomb.
    """
    if not vmcore.wrappers and not vmcore.flattened:
        return vmcore.path
    if vmcore.path.is_dir():
        dump = crash_directory.choose(vmcore.path)
        if dump is None:
            raise _no_dump(vmcore)
        return dump
    target = unpacked_path(vmcore.path, into)
    make_place(target)
    if _is_own(target):
        return target
    _check_space(target.parent, vmcore.path.stat().st_size)
    part = target.with_suffix(f".part{os.getpid()}")
    try:
        _write(vmcore, part, reporter)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
        with suppress(OSError):
            target.parent.rmdir()
    return target


def make_place(copy: Path) -> None:
    """Make the directory of a copy, and that of all copies, the user's own. Raises `ConfigurationError`.

    A dump is as secret as its most secret reader: no other user may have made these directories, or write there.
    """
    paths.make_private(copy.parent.parent)
    paths.make_private(copy.parent)


def _is_own(copy: Path) -> bool:
    """Whether a copy is there. Raises `ConfigurationError` for a link or another user's file in its place."""
    try:
        status = copy.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise ConfigurationError(f"{copy} is not a file of your own", hint=f"remove {copy.parent}, and try again")
    if status.st_mode & 0o022:  # another user may have changed it
        copy.unlink()
        return False
    if status.st_mode & 0o077:
        copy.chmod(0o600)
    return True


def _open_private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


def forget(path: Path, into: Path) -> bool:
    """Removes what is kept of the dump at `path`: copy and index. Returns whether there was any. Keeps `path`."""
    try:
        return discard(unpacked_path(path, into))
    except OSError:  # the dump is gone, and with it the copy's name
        return False


def discard(copy: Path) -> bool:
    """Removes a copy that `unpack` made, with the indexes beside it and their directory; says whether one existed."""
    there = False
    # The mark last: it tells the next triage to remove a copy that is still there.
    for kept in (copy, *map(copy.with_name, (piece_index.NAME, piece_index.GZIP, PASSING))):
        try:
            kept.unlink()
        except FileNotFoundError:
            continue
        except OSError:
            return there
        there = there or kept.name != PASSING
    with suppress(OSError):
        copy.parent.rmdir()
    return there


def _write(vmcore: Vmcore, part: Path, reporter: Reporter) -> None:
    with (
        FileSource(vmcore.path) as source,
        reporter.step(f"unpacking {vmcore.path.name}", total=source.size, unit="B") as step,
        open(part, "xb", opener=_open_private) as out,
    ):
        counted = _Counted(source, step)
        stream: Stream = SourceStream(counted)
        if vmcore.wrappers:
            found = wrappers.unwrap_stream(stream, str(vmcore.path))
            if found.stream is None or found.is_log:
                raise _no_dump(vmcore)
            stream = found.stream
        sink = _Sink(out.fileno(), part, counted)
        try:
            _copy(stream, sink)
        except CorruptData as error:
            if sink.end == 0:
                raise DumpDamaged(f"{vmcore.path}: {error}") from error
            reporter.notice(f"{vmcore.path}: {error}; the dump is unpacked as far as it goes")
        with FileSource(part) as written:
            for where, said in _additions(written, sink.end, vmcore):
                sink.write(where, said)
        os.ftruncate(out.fileno(), sink.end)


def _additions(written: Source, end: int, vmcore: Vmcore) -> list[tuple[int, bytes]]:
    """(place, bytes) to add to the copy: facts that are known of the dump and missing in it."""
    try:
        file = reader.parse(written, str(vmcore.path))
    except DumpError:  # it is cut, and unpacked as far as it goes
        return []
    return [] if file is None else list(file.additions(vmcore, end))


def _copy(stream: Stream, sink: _Sink) -> None:
    # Once glibc has had so large a block back, it keeps memory of that size. Else it gives the buffer of each piece
    # back to the kernel, and the page faults of 5 GB of noise took a third of the time.
    bytes(_KEPT_BY_GLIBC)
    head = stream.read(flattened.HEADER_SIZE)
    if not head.startswith(flattened.MAGIC):
        sink.write(0, head)
        at = len(head)
        while data := stream.read(_STEP):
            sink.write(at, data)
            at += len(data)
        return
    for target, data in _pieces(stream):
        sink.write(target, data)


def _pieces(stream: Stream) -> Iterator[tuple[int, bytes]]:
    while True:
        raw = stream.read(_PIECE.size)
        if raw == flattened.END_MARK:
            return
        if len(raw) < _PIECE.size:
            raise CorruptData("the flattened dump ends without its end mark")
        target, size = _PIECE.unpack(raw)
        if target < 0 or size <= 0 or target + size > _LARGEST:
            raise CorruptData("the flattened dump is damaged")
        while size > 0:
            data = stream.read(min(size, _STEP))
            if not data:
                raise CorruptData("the flattened dump ends inside a piece")
            yield target, data
            target += len(data)
            size -= len(data)


class _Counted:
    """Counts the bytes of the file as they are read, for progress."""

    def __init__(self, source: Source, step: Step) -> None:
        self._source = source
        self._step = step
        self.used = 0
        """Bytes read; other members of an archive are skipped."""

    @property
    def size(self) -> int | None:
        return self._source.size

    def read_at(self, offset: int, size: int) -> bytes:
        data = self._source.read_at(offset, size)
        self.used += len(data)
        self._step.advance(len(data))
        return data


class _Sink:
    """A sparse file that refuses to fill the disk, or to take the output of a bomb."""

    def __init__(self, fd: int, path: Path, counted: _Counted) -> None:
        self._fd = fd
        self._path = path
        self._counted = counted
        self._unchecked = 0
        self.end = 0
        self._written = 0

    def write(self, offset: int, data: bytes) -> None:
        self._guard(offset + len(data), len(data))
        begun = 0
        # Compared, which takes a tenth of looking at each byte. Pieces of a flattened dump may overlap: zeros over
        # earlier data must be written.
        if offset >= self.end:
            for at in range(0, len(data), _HOLE):
                if data[at : at + _HOLE] == _ZEROS[: len(data) - at]:
                    self._put(offset + begun, data[begun:at])
                    begun = at + _HOLE
        self._put(offset + begun, data[begun:])
        self.end = max(self.end, offset + len(data))

    def _put(self, offset: int, piece: bytes) -> None:
        view = memoryview(piece)
        try:
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise NoSpace(f"{self._path}: {error.strerror}", hint=_space_hint(self._path)) from error
        self._unchecked += len(piece)

    def _guard(self, end: int, size: int) -> None:
        self._written += size
        if end > _LARGEST or self._written > _MOST_RATIO * (self._counted.used + _STEP):
            raise DumpDamaged(
                f"the archive unpacks to more than {self._written >> 30} GiB: it is no dump",
                hint="unpack it by hand where there is room, and give the dump in it",
            )
        if self._unchecked >= 64 << 20:
            self._unchecked = 0
            _check_space(self._path.parent, 0)


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed + _RESERVE:
        raise NoSpace(
            f"{directory} has {free >> 20} MiB free, and unpacking needs {(needed + _RESERVE) >> 20} MiB or more",
            hint=_space_hint(directory),
        )


def _space_hint(directory: Path) -> str:
    return f"make room in {directory}, or choose another cache: export VMBOX_CACHE_DIR=DIRECTORY"


def _no_dump(vmcore: Vmcore) -> NotADump:
    where = vmcore.original_path or "/var/crash"
    return NotADump(
        f"{vmcore.path} has the kernel's log but not the dump itself",
        hint=f"ask for {where}; until then vmbox info shows the panic, and vmbox prepare makes everything ready",
    )
