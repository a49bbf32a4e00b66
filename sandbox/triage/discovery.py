"""Find the dumps of a triage in files, directories, globs and lists of them. Each dump is found once."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sandbox.dump import identify, magic, pstore
from sandbox.dump.crash_directory import is_collected, is_dump_name, leads_out
from sandbox.dump.source import FileSource
from sandbox.errors import DumpNotFound, VmboxError
from sandbox.host.paths import CACHE_TAG

_NAMES = ("vmcore", "dump.", "kdump.")
"""Prefixes of kdump's file names. Such a file is a dump whatever its content, so that damaged dumps are reported."""
_SAVED = re.compile(r"vmcore-dmesg.*\.txt$")
"""What kdump calls the log that it saves of a dump."""
_ARCHIVES = (".tar", ".tgz", ".txz", ".tbz2", ".tzst", ".zip", ".7z", ".cpio")
_LOG = re.compile(
    r"dmesg|kern|netcon|console|serial|oops|panic|crash|trace|syslog|journal|messages|ipmi|bmc|(?:\.log|\.crash)(?:\.gz)?$",
    re.IGNORECASE,
)
"""Names of files that may be the log of a crash."""
_DEEPEST = 100
"""Directories in each other that are searched: more are no place where dumps are kept."""
_BESIDE = (".txt", ".log", ".html", ".json", ".sha256", ".lock", ".filelist")


def find(paths: Iterable[str | Path], links: list[Path] | None = None) -> list[Path]:
    """Find the dumps in `paths`, sorted within a directory, without duplicates.

    Expands a pattern that the shell did not expand, and searches directories recursively. `links` gets the links there
    that have a dump's name, or stand in one of `paths` for a directory, and lead out of it: they are not followed.
    Raises `DumpNotFound` if a path does not exist.
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
        if place == directory and "sos_commands" not in directories:
            top_links = (place / name for name in directories if (place / name).is_symlink())
            links += [link for link in top_links if not link.resolve().is_relative_to(directory.resolve())]
        paths = [path for name in sorted(files) if not (path := place / name).is_symlink()]
        named = (place / name for name in sorted({*files} - {path.name for path in paths}) if is_dump_name(name))
        links += [link for link in named if leads_out(link, directory)]
        found = [path for path in paths if _is_dump(path, directory)]
        if "sos_commands" in directories:
            # An unpacked sosreport: search only var, because the rest is thousands of small files.
            directories[:] = [name for name in directories if name == "var"]
            empty.append(place)
        else:
            found += _logs(place, paths, found)
            if found:
                empty.clear()
        yield from found
        if len(place.parts) - len(directory.parts) >= _DEEPEST:
            directories.clear()
    if empty:
        yield empty[-1]


def _logs(place: Path, paths: list[Path], dumps: list[Path]) -> list[Path]:
    """Logs of crashes of which there is no dump: kdump's, pstore's parts, and others by content."""
    if not dumps:
        if saved := [path for path in paths if _SAVED.match(path.name)]:
            return saved
        names = {path.name for path in paths}
        if any(map(pstore.is_part, names)) or (is_collected(names) and _crash_of(place)):
            return [place]
    logs = [path for path in paths if path not in dumps and _LOG.search(path.name) and not _SAVED.match(path.name)]
    told = {path: crash for path in logs if (crash := _crash_of(path))}
    if not told or not dumps:
        return list(told)
    own = [crash for dump in dumps if (crash := _crash_of(dump))]
    if not own and len(set(told.values())) == 1:
        return []  # of the dump that cannot be read
    return [path for path, crash in told.items() if all(_is_other(crash, one) for one in own)]


def _is_other(log: tuple[str | None, str], dump: tuple[str | None, str]) -> bool:
    """Whether a log beside a dump is of another crash. One of the dump's own may be cut before the panic."""
    (release, panic), (of_dump, panicked) = log, dump
    if None in {release, of_dump}:
        return False
    return release != of_dump or (panic != panicked and panic.startswith("Kernel panic"))


def _crash_of(path: Path) -> tuple[str | None, str] | None:
    """Release and panic of a dump, or of a log that tells of a crash."""
    try:
        found = identify(path)
    except (VmboxError, OSError):
        return None
    return None if found.panic is None else (found.release, found.panic)


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
