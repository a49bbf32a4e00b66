"""The files that `makedumpfile --split` makes of one dump."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final

from sandbox.dump import reader
from sandbox.dump.dump_file import DumpFile, Part
from sandbox.dump.header import Memory, PageMissingError
from sandbox.dump.source import Budget, FileSource

_MOST_PARTS: Final = 64
_MOST_ENTRIES: Final = 10_000


def find(path: Path, opened: reader.DumpReader, budget: Budget) -> tuple[Path, ...]:
    """The files in order, found beside `path` by their common header; `path` alone where the dump is one file."""
    part = opened.file.part
    if part is None:
        return (path,)
    common = opened.source.read_at(0, part.header_size)
    found = {path: part.start_pfn}
    try:
        with os.scandir(path.parent) as listing:
            names = sorted(
                entry.name for entry in islice(listing, _MOST_ENTRIES) if entry.is_file(follow_symlinks=False)
            )
    except OSError:
        return (path,)
    siblings = (path.parent / name for name in names if name != path.name)
    for sibling in islice(siblings, _MOST_PARTS):
        try:
            with FileSource(sibling, budget=budget.part(0.5), below=path.parent) as source:
                if source.read_at(0, len(common)) != common:
                    continue
                other = reader.parse(source, str(sibling))
        except Exception:  # noqa: BLE001, S112 - any other file may lie there, readable or not
            continue
        if other is not None and other.part is not None:
            found[sibling] = other.part.start_pfn
    return tuple(sorted(found, key=found.__getitem__))


def open_files(
    files: Sequence[Path], named: Path, stack: ExitStack, budget: Budget
) -> Iterator[tuple[Path, Part, DumpFile]]:
    """Open each of the files for as long as `stack` lives. `named` is the one the user gave, which may be a link."""
    for path in files:
        below = None if path == named else named.parent
        file = reader.parse(stack.enter_context(FileSource(path, budget=budget, below=below)), str(path))
        if file is not None and file.part is not None:
            yield path, file.part, file


class SplitMemory:
    """The memory of all files, together."""

    def __init__(self, parts: Sequence[tuple[Part, Memory]]) -> None:
        self._parts = parts

    def read(self, address: int, size: int) -> bytes:
        for part, memory in self._parts:
            if part.covers(address):
                return memory.read(address, size)
        raise PageMissingError
