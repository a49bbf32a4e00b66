"""Lines of source around a fault, of a directory that the user named."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from sandbox.explain.model import SourceLine

_BEFORE, _AFTER = 5, 4
_LONGEST: Final = 8 << 20
"""Bytes of a source file."""
_LONGEST_PATH: Final = 4096


def excerpt(directory: Path, file: str, line: int) -> tuple[SourceLine, ...]:
    """Ten lines around `line` of `file`, a path as debug information has it.

    The file is the one in `directory` with the longest end of that path. Raises `LookupError` with the reason where
    there is none, or it has no such line.
    """
    path = _find(directory, file)
    try:
        if path.stat().st_size > _LONGEST:
            raise LookupError(f"{path} is too large for source")
        lines = path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except OSError as error:
        raise LookupError(f"{path}: {error.strerror}") from None
    if not 0 < line <= len(lines):
        raise LookupError(
            f"{path} has {len(lines)} lines, and not the line {line} of the fault: it is of another version"
        )
    first = max(1, line - _BEFORE)
    return tuple(
        SourceLine(number=number, text=lines[number - 1], fault=number == line)
        for number in range(first, min(len(lines), line + _AFTER) + 1)
    )


def _find(directory: Path, file: str) -> Path:
    if len(file) > _LONGEST_PATH:
        raise LookupError("the debug information has a path that is too long for one")
    # The path is of the dump's debug information: it leads to no place outside of the directory.
    parts = [part for part in PurePosixPath(file).parts if part not in {"/", "..", "."}]
    root = directory.resolve()
    for first in range(len(parts)):
        path = root.joinpath(*parts[first:])
        with suppress(OSError):  # a name that is too long
            if path.is_file() and path.resolve().is_relative_to(root):
                return path
    raise LookupError(f"{directory} has no {'/'.join(parts[-3:])}")
