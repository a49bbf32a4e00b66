"""Looks through compression and archives at the dump inside, without unpacking all of it.

Only the first bytes are unpacked, through all layers. From an archive the member that is a dump is taken, or else the
kernel log that kdump saves beside a dump.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

from sandbox.dump import log_forms, magic, pstore
from sandbox.dump.source import DeadlineExceeded
from sandbox.errors import DumpDamaged, DumpUnreadable, NotADump, pasteable
from sandbox.formats import archives
from sandbox.formats.compressions import decompressed
from sandbox.formats.member import Member
from sandbox.formats.streams import (
    ChunkStream,
    CorruptData,
    LimitedStream,
    PeekSource,
    SliceSource,
    Source,
    SourceStream,
    Stream,
    UnsupportedFormat,
)
from sandbox.model import Wrapper

PEEK_LIMIT: Final = 4 << 20
"""Bytes of the dump that are unpacked to look at it: header, notes, and the bitmap of a machine of usual size."""

WHOLE_LIMIT: Final = 64 << 20
"""Bytes of a dump that are unpacked to read its log."""

SLOWEST: Final = 8 << 20
"""Bytes of a compressed dump that are unpacked in a second of processor time at least: bz2, or lz4 in Python."""

_MEMORY: Final = 100 << 20
"""xz -9 needs 65 MiB to decompress; files that want more are not customary."""

_LARGE: Final = frozenset({Wrapper.XZ, Wrapper.ZST, Wrapper.SEVENZIP})
_MEMORY_DEEP: Final = 16 << 20
"""Of a compression in another one that also takes much memory: all of them are held at once."""

_DEEPEST: Final = 6

_MOST_UNPACKED: Final = 64
"""Bytes to look at for each byte of the file, and at least `_UNPACKED`. The memory of zstd grows with what is unpacked,
up to its window: a file of a few kilobytes must not fill one of 128 MiB."""
_UNPACKED: Final = 64 << 20

_LOG_NAME: Final = re.compile(r"(?:^|/)vmcore-dmesg(?:-incomplete)?\.txt$|(?:^|/)crash/[^/]+/dmesg[\w.-]*$")
_UNAME_NAME: Final = re.compile(r"(?:^|/)sos_commands/kernel/uname_-a$")
_SOSREPORT: Final = re.compile(r"(?:^|/)(?:sos_commands|sos_logs|sos_reports)/")

_CUT_HINT: Final = "the copy is probably cut: compare its size with the original's, and copy it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """The content below all layers."""

    source: PeekSource | SliceSource | None
    """The dump, or a kernel log as text; None for a sosreport with neither."""
    stream: Stream | None
    """The same from its beginning; only one of the two can be used."""
    layers: tuple[Wrapper, ...]
    member: str | None = None
    """Name in the innermost archive."""
    is_log: bool = False
    cut: str | None = None
    """What is missing of a log that is in several files, in words."""
    log: PeekSource | SliceSource | None = None
    """The kernel's log as kdump saved it, where the archive has it before the dump."""
    sosreport: bool = False
    uname: str | None = None
    """`uname -a` of the machine after its reboot, from a sosreport."""


def unwrap(source: Source, name: str) -> Unwrapped:
    """Peel all layers of `source`, whose first bytes are a wrapper's.

    Raises `NotADump` when there is no dump inside, `DumpUnreadable` for a wrapper that is not read here, `DumpDamaged`
    when the wrapper is cut before anything could be seen.
    """
    return unwrap_stream(SourceStream(source), name, most=max(_UNPACKED, _MOST_UNPACKED * (source.size or 0)))


def unwrap_stream(stream: Stream, name: str, *, most: int | None = None) -> Unwrapped:
    """The same for bytes in order. `most` limits the bytes that come out of the outermost compression."""
    try:
        return _peel(stream, name, (), None, most)
    except UnsupportedFormat as error:
        raise DumpUnreadable(f"{name}: {error}", hint="unpack it by hand, and give the dump in it") from error
    except CorruptData as error:
        raise DumpDamaged(f"{name}: {error}", hint=_CUT_HINT) from error


def _peel(
    stream: Stream, name: str, layers: tuple[Wrapper, ...], member: str | None, most: int | None = None
) -> Unwrapped:
    peek = PeekSource(stream, PEEK_LIMIT)
    head = peek.read_at(0, magic.PEEK)
    if peek.damage is not None and len(head) < magic.PEEK:
        raise CorruptData(peek.damage)
    kind = magic.wrapper(head)
    whole = _Replayed(peek, stream)
    if kind is None:
        return Unwrapped(
            source=peek,
            stream=whole,
            layers=layers,
            member=member,
            is_log=magic.dump_format(head) is None and log_forms.is_log(peek.read_at(0, log_forms.PEEK), stream.ask),
        )
    if len(layers) >= _DEEPEST:
        raise NotADump(f"{name} is wrapped more than {_DEEPEST} times", hint="unpack it by hand and give the dump")
    match kind:
        case Wrapper.RAR:
            raise DumpUnreadable(f"{name} is a {kind} archive", hint=f"unpack it first: unrar x {pasteable(name)}")
        case Wrapper.TAR | Wrapper.CPIO | Wrapper.ZIP | Wrapper.SEVENZIP:
            # A fresh stream where that is possible, so that members can be reached without reading what is before them.
            fresh = SourceStream(stream.source) if isinstance(stream, SourceStream) else whole
            return _choose(archives.files(kind, fresh), fresh, name, (*layers, kind))
        case Wrapper.GZ | Wrapper.BZ2 | Wrapper.XZ | Wrapper.ZST | Wrapper.LZ4 | Wrapper.LZOP:
            memory = _MEMORY_DEEP if _LARGE.intersection(layers) else _MEMORY
            inner = decompressed(whole, kind, memory=memory, padded=True)
            if most is not None:
                inner = _Bounded(inner, most)
            return _peel(inner, name, (*layers, kind), member)
        case Wrapper.DIRECTORY:
            raise AssertionError(kind)  # no file begins so
        case _:
            assert_never(kind)


def _choose(members: Iterator[Member], stream: Stream, name: str, layers: tuple[Wrapper, ...]) -> Unwrapped:
    log: Unwrapped | None = None
    uname: str | None = None
    parts: list[pstore.Part | None] = []
    sosreport = False
    seen = 0
    try:
        for member in members:
            seen += 1
            stream.ask()
            sosreport = sosreport or bool(_SOSREPORT.search(member.text))
            if _UNAME_NAME.search(member.text):
                uname = member.content.read(512).decode("utf-8", "replace").strip()
                continue
            if pstore.is_part(path := member.text.rpartition("/")[2]) and len(parts) < pstore.MOST:
                parts.append(pstore.read(Path(path), member.content.read(pstore.LARGEST)))
                continue
            if log is None and _LOG_NAME.search(member.text):
                log = _log(member, layers)
                continue
            if member.size < 512:
                continue
            found = _dump_inside(member, name, layers)
            if found is not None:
                return replace(found, log=log.source) if log is not None else found
    except (DeadlineExceeded, CorruptData):
        # What was found until then is an answer all the same.
        if log is None and not sosreport and not parts:
            raise
    if log is None and (joined := pstore.join(part for part in parts if part is not None)) is not None:
        source = PeekSource(ChunkStream(iter([joined.text])), PEEK_LIMIT)
        log = Unwrapped(
            source=source, stream=None, layers=layers, member=joined.last.name, is_log=True, cut=joined.problem
        )
    if log is not None:
        return replace(log, sosreport=sosreport, uname=uname)
    if sosreport:
        return Unwrapped(source=None, stream=None, layers=layers, sosreport=True, uname=uname)
    raise NotADump(f"{name}: none of the {seen} files in the archive is a kernel crash dump")


def _dump_inside(member: Member, name: str, layers: tuple[Wrapper, ...]) -> Unwrapped | None:
    """The member, if it is a dump or wraps one."""
    stored = member.content.slice() if isinstance(member.content, LimitedStream) else None
    peek = PeekSource(member.content, PEEK_LIMIT)
    head = peek.read_at(0, magic.PEEK)
    whole = _Replayed(peek, member.content)
    if magic.is_dump(head):
        return Unwrapped(source=stored or peek, stream=whole, layers=layers, member=member.text)
    if magic.wrapper(head) is None:
        return None
    try:
        inner = _peel(whole, name, layers, member.text)
    except (NotADump, DumpUnreadable, CorruptData):
        return None
    inner_head = inner.source.read_at(0, magic.PEEK) if inner.source is not None else b""
    return inner if magic.dump_format(inner_head) is not None else None


def _log(member: Member, layers: tuple[Wrapper, ...]) -> Unwrapped:
    peek = PeekSource(member.content, PEEK_LIMIT)
    peek.exhaust()
    return Unwrapped(source=peek, stream=None, layers=layers, member=member.text, is_log=True)


class _Bounded(Stream):
    """At most `most` bytes of a stream; who wants more is told that it is no dump."""

    def __init__(self, stream: Stream, most: int) -> None:
        self._stream = stream
        self._left = most

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UnsupportedFormat("it unpacks to far more than a dump does, and no dump is at its beginning")
        return data

    def ask(self) -> None:
        self._stream.ask()


class _Replayed(Stream):
    """A stream from its beginning, after some of it went into a peek."""

    def __init__(self, peek: PeekSource, rest: Stream) -> None:
        self._peek = peek
        self._rest = rest
        self._at = 0

    def read(self, size: int) -> bytes:
        kept = self._peek.kept
        if self._at < kept:
            data = self._peek.read_at(self._at, min(size, kept - self._at))
            self._at += len(data)
            return data if len(data) == size else data + self._rest.read(size - len(data))
        if self._peek.damage is not None:
            raise CorruptData(self._peek.damage)
        return self._rest.read(size)

    def ask(self) -> None:
        self._rest.ask()

    def skip(self, size: int) -> None:
        kept = min(size, max(0, self._peek.kept - self._at))
        self._at += kept
        if size > kept:
            self._rest.skip(size - kept)
