"""One file of the source in a package: a debugsource RPM, a source RPM, Debian's linux-source, or a tar archive.

A package is read from its start to the file, and nothing of it is unpacked to the disk. Archives within it are read,
too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sandbox.formats import deb, rpm, tar
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.member import Member
from sandbox.formats.streams import CorruptData, FileStream, Stream

_LONGEST: Final = 8 << 20
"""Bytes of a source file."""
_MOST_READ: Final = 8 << 30
"""Bytes of an archive's members."""
_DEEPEST: Final = 2
"""Archives around an archive: a .deb has one, and some archives have themselves in them."""
_SHALLOW: Final = 1
"""Directories above the path of a file, as the one of a release: no other file can fit better."""
_FEWEST: Final = 2
"""Parts of a path that must agree, where not all of them do."""


def read(package: Path, parts: Sequence[str]) -> tuple[str, str]:
    """(path in the package, text) of the file whose path ends most like `parts`.

    Raises `LookupError` with the reason where there is none, or the package cannot be read.
    """
    best: tuple[int, int] | None = None
    found: tuple[str, str] | None = None
    try:
        with FileStream(package) as file:
            for member in _members(file, package.name):
                path = member.path.split("/")
                same = _common_end(path, parts)
                # Of those that agree as far, the one that is the least deep: tools/ has copies of headers.
                rank = (same, -len(path))
                if same < min(len(parts), _FEWEST) or (best is not None and rank <= best):
                    continue
                if member.size > _LONGEST:
                    raise LookupError(f"{member.text} is too large for source")
                content = b"".join(iter(lambda stream=member.content: stream.read(1 << 16), b""))  # type: ignore[misc]
                best, found = rank, (member.text, content.decode("utf-8", "backslashreplace"))
                if same == len(parts) and len(path) - same <= _SHALLOW:
                    break
    except OSError as error:
        raise LookupError(f"{package}: {error.strerror}") from None
    except CorruptData as error:
        raise LookupError(f"{package} cannot be read: {error}") from None
    if found is None:
        raise LookupError(f"{package} has no {'/'.join(parts[-3:])}")
    return found


def is_package(name: str) -> bool:
    return name.endswith((".rpm", ".deb")) or _archive(name) is not None


def _common_end(path: Sequence[str], parts: Sequence[str]) -> int:
    same = 0
    while same < min(len(path), len(parts)) and path[-1 - same] == parts[-1 - same]:
        same += 1
    return same


def _members(stream: Stream, name: str, depth: int = 0) -> Iterator[Member]:
    if depth > _DEEPEST:
        raise CorruptData("it has archives in archives in archives")
    left = _MOST_READ
    for member in _files(stream, name):
        if member.regular:
            left -= min(member.size, left)
            if not left:
                raise CorruptData("it is too large")
            if _archive(member.name) is not None:
                yield from _members(member.content, member.name, depth + 1)
            else:
                yield member


def _files(stream: Stream, name: str) -> Iterator[Member]:
    if name.endswith(".rpm"):
        package = rpm.read(stream)
        return rpm.payload_members(decompressed(stream, package.compression), package)
    if name.endswith(".deb"):
        return deb.files(stream)
    kind = _archive(name)
    if kind is None:
        raise CorruptData("it is no directory, and neither .rpm nor .deb nor .tar")
    return tar.members(decompressed(stream, kind))


def _archive(name: str) -> str | None:
    """The compression of a tar archive of that name; None for another file."""
    stem, found, suffix = name.rpartition(".tar")
    return by_suffix(suffix) if found and stem else None
