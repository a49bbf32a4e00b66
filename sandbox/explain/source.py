"""Lines of source around a fault, of a directory or a package that the user named."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from sandbox.explain import source_package
from sandbox.explain.model import SourceLine

_BEFORE, _AFTER = 5, 4
_LONGEST: Final = 8 << 20
"""Bytes of a source file."""
_LONGEST_PATH: Final = 4096


def can_read(where: Path) -> bool:
    """Whether it is a directory, or a package by its name."""
    return where.is_dir() or (where.is_file() and source_package.is_package(where.name))


def excerpt(where: Path, file: str, line: int) -> tuple[SourceLine, ...]:
    """Ten lines around `line` of `file`, a path as debug information has it.

    The file is the one in `where`, a directory or a package of source, with the longest end of that path. Raises
    `LookupError` with the reason where there is none, or it has no such line.
    """
    if len(file) > _LONGEST_PATH:
        raise LookupError("the debug information has a path that is too long for one")
    # The path is of the dump's debug information: it leads to no place outside of the directory.
    parts = [part for part in PurePosixPath(file).parts if part not in {"/", "..", "."}]
    if not parts:
        raise LookupError("the debug information has no path of the file")
    if where.is_dir():
        name, text = _read(_find(where, parts))
    else:
        name, text = source_package.read(where, parts)
    # Not splitlines: some sources have form feeds, which begin no line for a compiler.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if not 0 < line <= len(lines):
        raise LookupError(
            f"{name} has {len(lines)} lines, and not the line {line} of the fault: it is of another version"
        )
    first = max(1, line - _BEFORE)
    return tuple(
        SourceLine(number=number, text=lines[number - 1], fault=number == line)
        for number in range(first, min(len(lines), line + _AFTER) + 1)
    )


def _read(path: Path) -> tuple[str, str]:
    try:
        if path.stat().st_size > _LONGEST:
            raise LookupError(f"{path} is too large for source")
        return str(path), path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise LookupError(f"{path}: {error.strerror}") from None


def _find(directory: Path, parts: Sequence[str]) -> Path:
    root = directory.resolve()
    for first in range(len(parts)):
        path = root.joinpath(*parts[first:])
        with suppress(OSError):  # a name that is too long
            if path.is_file() and path.resolve().is_relative_to(root):
                return path
    raise LookupError(f"{directory} has no {'/'.join(parts[-3:])}")
