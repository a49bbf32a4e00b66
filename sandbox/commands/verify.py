"""A dump as evidence: what the file is, to the byte, recorded once and compared ever after.

Records lie in the user's state directory, one for each path, and outlive cases, caches and reboots. Nothing is written
to the dump or beside it.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from sandbox.dump import identify
from sandbox.dump.source import FileSource, cannot_open, open_evidence
from sandbox.errors import DumpUnreadable, EvidenceChanged, NotADump, UsageError, VmboxError, pasteable, unwritable
from sandbox.host import decode, paths
from sandbox.host.background import in_background
from sandbox.host.files import write_atomically
from sandbox.model import field_with_key
from sandbox.progress import QUIET, Reporter, Step
from sandbox.remote import described

_PIECE: Final = 4 << 20
_ZEROS: Final = bytes(_PIECE)
_AT_ONCE: Final = 4
"""Files hashed at the same time; hashlib lets the others go on meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All of a file that tells whether it is still what it was."""

    sha256: str
    size: int
    """Bytes."""
    mode: str | None = None
    """Octal, file type included, as stat shows it. This and what follows is of a file of this host."""
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: Mapping[str, str] = field(default_factory=dict)
    """Extended attributes, the SELinux label and ACLs among them; values in base 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFile:
    """One file, looked at again or for the first time."""

    path: Path
    name: str
    """The path, or the URL without what may be secret."""
    found: Fingerprint
    recorded: datetime
    """When what it is compared with was recorded; now, if there was nothing."""
    newly_recorded: bool = field_with_key("first")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """The record of a file, made when it was first looked at and kept in the state directory."""

    path: str = ""
    """For who reads the directory; the file's name tells which one is meant."""
    recorded: datetime
    fingerprint: Fingerprint


def verify(
    dumps: Sequence[Path], *, expected: str | None = None, accept: bool = False, reporter: Reporter = QUIET
) -> list[VerifiedFile]:
    """Compares each file with its record, and records it where there is none, or with `accept`.

    `expected` is a SHA-256 known from elsewhere; without it that of FILE.sha256 beside a file counts, in the form
    sha256sum writes. Raises `EvidenceChanged` with every difference of every file, `DumpNotFound`, `DumpUnreadable`, or
    `UsageError` for an `expected` that cannot be the hash of one file.
    """
    if expected is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UsageError("a SHA-256 has 64 hexadecimal digits", hint="sha256sum FILE prints it")
    if expected is not None and len(dumps) > 1:
        raise UsageError("one SHA-256 is of one file", hint="verify the files one by one")
    dumps = [described.local(dump, reporter) for dump in dumps]
    found = _fingerprints(dumps, reporter)
    results, changes = [], []
    for path, now in zip(dumps, found, strict=True):
        wanted = expected or _beside(path, reporter)
        if wanted is not None and wanted.lower() != now.sha256:
            changes.append(f"{described.name(path)}: its SHA-256 is {now.sha256}, it should be {wanted.lower()}")
            continue
        before = None if accept else _read(path)
        if before is None:
            when = _record(path, now)
        else:
            when = before.recorded
            changes += [f"{described.name(path)}: {change}" for change in _differences(before.fingerprint, now)]
        results.append(
            VerifiedFile(path=path, name=described.name(path), found=now, recorded=when, newly_recorded=before is None)
        )
    if changes:
        names = ", ".join(sorted({change.partition(": ")[0] for change in changes}))
        raise EvidenceChanged(f"not what was recorded: {names}", detail="\n".join(changes))
    for path in dumps:
        _name_other_parts(path, dumps, reporter)
    return results


def _name_other_parts(path: Path, named: Sequence[Path], reporter: Reporter) -> None:
    """Says which files of the same dump were not named, the other parts of a split set: they were not looked at."""
    if described.is_description(path):
        return
    with suppress(VmboxError):  # any file is verified, also what is no dump
        here = {os.path.realpath(one) for one in named}
        vmcore = identify(path, log=False)
        others = [one for one in vmcore.files if os.path.realpath(one) not in here]
        if others:
            paths = " ".join(pasteable(one) for one in others)
            reporter.notice(
                f"{path.name} is one of {len(others) + 1} files of a dump; the others: vmbox verify {paths}"
            )
        if vmcore.missing_parts:
            reporter.notice(f"{path.name}: {vmcore.incomplete_reason}")


def _fingerprints(dumps: Sequence[Path], reporter: Reporter) -> list[Fingerprint]:
    """Of each file, some at a time. Ctrl-C ends it at once, for which no thread may be waited for."""
    found: dict[int, Fingerprint] = {}

    def take(first: int) -> None:
        for number in range(first, len(dumps), _AT_ONCE):
            found[number] = fingerprint(dumps[number], reporter)

    for future in [in_background(partial(take, first), name="hash") for first in range(min(_AT_ONCE, len(dumps)))]:
        future.result()
    return [found[number] for number in range(len(dumps))]


def fingerprint(path: Path, reporter: Reporter = QUIET) -> Fingerprint:
    """Reads all of a file, or of a dump on a server. Raises `DumpUnreadable` also when it changes meanwhile."""
    if described.is_description(path):
        return _remote_fingerprint(path, reporter)
    try:
        descriptor = open_evidence(path)
    except OSError as error:
        raise cannot_open(path, error) from error
    try:
        before = os.fstat(descriptor)
        _refuse_endless(path, before.st_mode)
        with reporter.step(f"Hashing {path.name}", total=before.st_size, unit="B") as step:
            sha256 = _hash(descriptor, before.st_size, step)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DumpUnreadable(f"{path} changes while it is read", hint="wait until it has been copied to its end")
        return Fingerprint(
            sha256=sha256,
            size=after.st_size,
            mode=f"{after.st_mode:o}",
            uid=after.st_uid,
            gid=after.st_gid,
            mtime_ns=after.st_mtime_ns,
            xattrs=_xattrs(descriptor),
        )
    except OSError as error:
        raise DumpUnreadable(f"{path}: {error.strerror}", hint="the disk or the network file system failed") from error
    finally:
        os.close(descriptor)


def _refuse_endless(path: Path, mode: int) -> None:
    """Raises `NotADump` for what has no content of its own, such as /dev/zero: it is never read to its end."""
    if stat.S_ISDIR(mode):
        raise NotADump(f"{path} is a directory", hint=f"name its files: vmbox verify {pasteable(path)}/*")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise NotADump(f"{path} is not a regular file", hint="save it to a file first: cat SOURCE > vmcore")


def _remote_fingerprint(path: Path, reporter: Reporter) -> Fingerprint:
    """Streams the dump once; nothing of it is kept."""
    from sandbox.remote.source import RemoteSource

    sha256 = hashlib.sha256()
    with (
        RemoteSource(path, reporter) as source,
        reporter.step(f"Hashing {path.name}", total=source.size, unit="B") as step,
    ):

        def take(data: bytes) -> None:
            sha256.update(data)
            step.advance(len(data))

        source.feed(take)
        return Fingerprint(sha256=sha256.hexdigest(), size=source.size)


def _hash(descriptor: int, size: int, step: Step) -> str:
    """The SHA-256. Holes are not read, which takes longer than to hash their zeros, and fills the page cache."""
    sha256 = hashlib.sha256()
    at = 0
    while at < size:
        start = _next_data(descriptor, at, size)
        while at < start:
            zeros = _ZEROS[: start - at]
            sha256.update(zeros)
            at += len(zeros)
            step.advance(len(zeros))
        end = _end_of_data(descriptor, at, size)
        while at < end and (data := os.pread(descriptor, min(_PIECE, end - at), at)):
            sha256.update(data)
            at += len(data)
            step.advance(len(data))
        if at < end:
            break  # it was cut meanwhile, which the caller finds
    # A disk has no size for stat.
    while data := os.pread(descriptor, _PIECE, at):
        sha256.update(data)
        at += len(data)
        step.advance(len(data))
    return sha256.hexdigest()


def _next_data(descriptor: int, at: int, size: int) -> int:
    """Where the hole at an offset ends; the offset itself where there is none."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: nothing but a hole follows. Others: it is no file system, or one that does not tell of holes.
        return size if error.errno == errno.ENXIO else at


def _end_of_data(descriptor: int, at: int, size: int) -> int:
    """Where the next hole begins."""
    try:
        return min(os.lseek(descriptor, at, os.SEEK_HOLE), size)
    except OSError:
        return size


def _xattrs(descriptor: int) -> dict[str, str]:
    try:
        names = os.listxattr(descriptor)
        return {name: base64.b64encode(os.getxattr(descriptor, name)).decode() for name in sorted(names)}
    except OSError:
        return {}  # a file system without them


def _differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    words = {"sha256": "content (SHA-256)", "xattrs": "extended attributes"}
    return [
        f"{words.get(item.name, item.name)} was {getattr(before, item.name)}, is {getattr(now, item.name)}"
        for item in fields(Fingerprint)
        if getattr(before, item.name) != getattr(now, item.name)
    ]


def _beside(path: Path, reporter: Reporter) -> str | None:
    """The SHA-256 in the file beside a dump. Says so where there is a file and no SHA-256 in it."""
    if described.is_description(path):
        return None
    beside = path.with_name(f"{path.name}.sha256")
    if not os.path.lexists(beside):
        return None
    try:
        with FileSource(beside, below=path.parent) as source:
            text = source.read_at(0, 4096).decode("utf-8", "replace")
    except VmboxError as error:
        reporter.notice(f"{beside.name} is not compared: {error.message}")
        return None
    found = re.match(r"([0-9a-fA-F]{64})\b", text)
    if found is None:
        reporter.notice(f"{beside.name} is not compared: it does not begin with a SHA-256")
        return None
    return found[1]


def _named(path: Path) -> str:
    """What a record is of, for who reads it."""
    return described.name(path) if described.is_description(path) else str(path.resolve())


def _place(path: Path) -> Path:
    what = described.without_signature(path) if described.is_description(path) else str(path.resolve())
    name = hashlib.sha256(os.fsencode(what)).hexdigest()[:24]
    return paths.state_dir() / "evidence" / f"{name}.json"


def _read(path: Path) -> _Record | None:
    try:
        return decode.read_json(_Record, _place(path), keys="any")
    except (OSError, decode.DecodeError):
        return None


def _record(path: Path, found: Fingerprint) -> datetime:
    place, now = _place(path), datetime.now(UTC)
    record = {"path": _named(path), "recorded": now.isoformat(), "fingerprint": asdict(found)}
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(place, json.dumps(record, indent=1).encode() + b"\n")
    except OSError as error:
        hint = "choose another place with $VMBOX_STATE_DIR"
        raise unwritable(place.parent, error, hint=hint, setting=True) from error
    return now
