"""Find the dumps of a triage in files, directories, globs and lists of them. Each dump is found once."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sandbox.dump import magic
from sandbox.dump.source import FileSource
from sandbox.errors import DumpNotFound, VmboxError

_NAMES = ("vmcore", "dump.")
"""Prefixes of kdump's file names. Such a file is a dump whatever its content, so that damaged dumps are reported."""
_ARCHIVES = (".tar", ".tgz", ".txz", ".tbz2", ".tzst", ".zip", ".7z", ".cpio")
_BESIDE = (".txt", ".log", ".html", ".json", ".sha256", ".lock", ".filelist")


def find(paths: Iterable[str | Path]) -> list[Path]:
    """Find the dumps in `paths`, sorted within a directory, without duplicates.

    Expands a pattern that the shell did not expand, and searches directories recursively. Raises `DumpNotFound` if a
    path does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        for one in _expanded(str(path)):
            for dump in _below(one) if one.is_dir() else (one,):
                found.setdefault(dump.resolve())
    return list(found)


def listed(file: Path) -> list[str]:
    """Read the paths in a file, one per line, relative to the working directory. `-` is standard input."""
    try:
        text = Path("/dev/stdin").read_text("utf-8") if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DumpNotFound(f"{file}: {error}", hint="--from-file takes a file with one path a line") from error
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def _expanded(path: str) -> list[Path]:
    if os.path.lexists(path):
        return [Path(path)]
    found = [Path(one) for one in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207 - patterns may be absolute
    if not found:
        raise DumpNotFound(f"{path}: there is no such file or directory")
    return found


def _below(directory: Path) -> Iterator[Path]:
    for top, directories, files in os.walk(directory):
        directories.sort()
        paths = [Path(top) / name for name in sorted(files)]
        dumps = [path for path in paths if not path.is_symlink() and _is_dump(path)]
        yield from dumps
        if "sos_commands" in directories:
            # An unpacked sosreport: search only var, because the rest is thousands of small files.
            directories[:] = [name for name in directories if name == "var"]
            if not any(_below(Path(top) / "var")):
                yield Path(top)
        elif not dumps:
            # kdump's log, if the dump itself was not written or was removed.
            yield from (path for path in paths if path.name.startswith("vmcore-dmesg") and path.suffix == ".txt")


def _is_dump(path: Path) -> bool:
    if path.name.startswith(_NAMES):
        return path.suffix not in _BESIDE
    try:
        archived = path.name.startswith("sosreport-") or path.suffix in _ARCHIVES
        with FileSource(path) as source:
            head = source.read_at(0, magic.PEEK)
    except (VmboxError, OSError):
        return False
    return magic.is_dump(head) or (archived and magic.wrapper(head) is not None)
