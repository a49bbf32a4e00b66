"""The files that `makedumpfile --split` makes of one dump."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from sandbox.dump import reader
from sandbox.dump.dump_file import DumpFile, Part
from sandbox.dump.header import Memory, PageMissingError
from sandbox.dump.source import Budget, FileSource
from sandbox.formats.streams import Source

_MOST_PARTS: Final = 64
_MOST_ENTRIES: Final = 10_000


class Neighbours(Protocol):
    """What is beside a part of a split set, where the other parts are looked for."""

    def paths(self) -> Sequence[Path]: ...

    def open(self, path: Path, budget: Budget) -> AbstractContextManager[Source]:
        """Opens one of `paths`."""


class Directory:
    """The files in the directory of the one that the user named, which may be a link; the others may not."""

    def __init__(self, named: Path) -> None:
        self._named = named

    def paths(self) -> Sequence[Path]:
        try:
            with os.scandir(self._named.parent) as listing:
                names = sorted(
                    entry.name for entry in islice(listing, _MOST_ENTRIES) if entry.is_file(follow_symlinks=False)
                )
        except OSError:
            return []
        return [self._named.parent / name for name in names if name != self._named.name]

    def open(self, path: Path, budget: Budget) -> AbstractContextManager[Source]:
        return FileSource(path, budget=budget, below=None if path == self._named else self._named.parent)


def find(path: Path, opened: reader.DumpReader, budget: Budget, beside: Neighbours | None = None) -> tuple[Path, ...]:
    """The files in order, found beside `path` by their common header; `path` alone where the dump is one file."""
    part = opened.file.part
    if part is None:
        return (path,)
    beside = beside or Directory(path)
    common = opened.source.read_at(0, part.header_size)
    found = {path: part.start_pfn}
    for sibling in islice(beside.paths(), _MOST_PARTS):
        try:
            with beside.open(sibling, budget.part(0.5)) as source:
                if source.read_at(0, len(common)) != common:
                    continue
                other = reader.parse(source, str(sibling))
        except Exception:  # noqa: BLE001, S112 - any other file may lie there, readable or not
            continue
        if other is not None and other.part is not None:
            found[sibling] = other.part.start_pfn
    return tuple(sorted(found, key=found.__getitem__))


def open_files(
    files: Sequence[Path],
    named: Path,
    opened: reader.DumpReader,
    stack: ExitStack,
    budget: Budget,
    *,
    beside: Neighbours | None = None,
) -> Iterator[tuple[Path, Part, DumpFile]]:
    """Open each of the files for as long as `stack` lives. `opened` is the dump in `named`, which the user gave."""
    beside = beside or Directory(named)
    for path in files:
        file: DumpFile | None = opened.file
        if path != named:
            file = reader.parse(stack.enter_context(beside.open(path, budget)), str(path))
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
