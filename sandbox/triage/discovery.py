"""Find the dumps of a triage in files, directories, globs and lists of them. Each dump is found once."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sandbox.dump import identify, magic, pstore
from sandbox.dump.crash_directory import is_dump_name, leads_out
from sandbox.dump.source import FileSource
from sandbox.errors import DumpNotFound, VmboxError
from sandbox.host.paths import CACHE_TAG
from sandbox.model import DumpFormat

_NAMES = ("vmcore", "dump.", "kdump.")
"""Prefixes of kdump's file names. Such a file is a dump whatever its content, so that damaged dumps are reported."""
_ARCHIVES = (".tar", ".tgz", ".txz", ".tbz2", ".tzst", ".zip", ".7z", ".cpio")
_LOG = re.compile(
    r"dmesg|kern|netcon|console|serial|oops|panic|syslog|journal|messages|ipmi|bmc|(?:\.log|\.crash)(?:\.gz)?$",
    re.IGNORECASE,
)
"""Names of files that may be the log of a crash."""
_DEEPEST = 100
"""Directories in each other that are searched: more are no place where dumps are kept."""
_BESIDE = (".txt", ".log", ".html", ".json", ".sha256", ".lock", ".filelist")


def find(paths: Iterable[str | Path], links: list[Path] | None = None) -> list[Path]:
    """Find the dumps in `paths`, sorted within a directory, without duplicates.

    Expands a pattern that the shell did not expand, and searches directories recursively. `links` gets the links there
    that have a dump's name and lead out of their directory: they are not followed. Raises `DumpNotFound` if a path does
    not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        for one in _expanded(str(path)):
            for dump in _below(one, [] if links is None else links) if one.is_dir() else (one,):
                found.setdefault(dump.resolve())
    return list(found)


def listed(file: Path) -> list[str]:
    """Read the paths in a file, one per line, relative to the working directory. `-` is standard input."""
    try:
        # Names need not be UTF-8, and Windows' editors begin UTF-8 with a mark.
        text = Path("/dev/stdin" if str(file) == "-" else file).read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DumpNotFound(f"{file}: {error}", hint="--from-file takes a file with one path a line") from error
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def _expanded(path: str) -> list[Path]:
    if os.path.lexists(path):
        return [Path(path)]
    found = [Path(one) for one in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207 - patterns may be absolute
    if not found:
        raise DumpNotFound(f"{path}: there is no such file or directory")
    return found


def _below(directory: Path, links: list[Path]) -> Iterator[Path]:
    # Sosreports around the current directory, outermost first, in whose var nothing was found so far.
    empty: list[Path] = []
    for top, directories, files in os.walk(directory):
        place = Path(top)
        if empty and not place.is_relative_to(empty[-1]):
            yield empty[-1]
            empty.clear()
        if CACHE_TAG in files and place != directory:
            # What vmbox unpacked is in its cache a second time.
            directories.clear()
            continue
        directories.sort()
        paths = [path for name in sorted(files) if not (path := place / name).is_symlink()]
        named = (place / name for name in sorted({*files} - {path.name for path in paths}) if is_dump_name(name))
        links += [link for link in named if leads_out(link, directory)]
        found = [path for path in paths if _is_dump(path, directory)]
        if "sos_commands" in directories:
            # An unpacked sosreport: search only var, because the rest is thousands of small files.
            directories[:] = [name for name in directories if name == "var"]
            empty.append(place)
        else:
            found = found or _logs(place, paths)
            if found:
                empty.clear()
        yield from found
        if len(place.parts) - len(directory.parts) >= _DEEPEST:
            directories.clear()
    if empty:
        yield empty[-1]


def _logs(place: Path, paths: list[Path]) -> list[Path]:
    """Logs of crashes, where no dump was written or it was removed: kdump's, pstore's parts, and others by content."""
    if saved := [path for path in paths if path.name.startswith("vmcore-dmesg") and path.suffix == ".txt"]:
        return saved
    if any(pstore.is_part(path.name) for path in paths):
        return [place]
    return [path for path in paths if _LOG.search(path.name) and _tells_of_a_crash(path)]


def _tells_of_a_crash(path: Path) -> bool:
    try:
        found = identify(path)
    except (VmboxError, OSError):
        return False
    return found.format is DumpFormat.LOG and found.panic is not None


def _is_dump(path: Path, directory: Path) -> bool:
    if path.name.startswith(_NAMES):
        return path.suffix not in _BESIDE
    if is_dump_name(path.name) and path.suffix in _BESIDE:
        return False
    try:
        archived = path.name.startswith("sosreport-") or path.suffix in _ARCHIVES or is_dump_name(path.name)
        with FileSource(path, below=directory) as source:
            head = source.read_at(0, magic.PEEK)
    except (VmboxError, OSError):
        return False
    return magic.is_dump(head) or (archived and magic.wrapper(head) is not None)
