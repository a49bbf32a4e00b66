"""The files that `makedumpfile --split` makes of one dump."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sandbox.dump import reader
from sandbox.dump.dump_file import DumpFile, Part
from sandbox.dump.header import Memory, PageMissingError
from sandbox.dump.source import FileSource

_MOST_PARTS: Final = 64


def find(path: Path, opened: reader.DumpReader) -> tuple[Path, ...]:
    """The files in order, found beside `path` by their common header; `path` alone where the dump is one file."""
    part = opened.file.part
    if part is None:
        return (path,)
    common = opened.source.read_at(0, part.header_size)
    found = {path: part.start_pfn}
    try:
        siblings = sorted(one for one in path.parent.iterdir() if one != path and one.is_file())
    except OSError:
        return (path,)
    for sibling in siblings[:_MOST_PARTS]:
        try:
            with FileSource(sibling, seconds=0.5) as source:
                if source.read_at(0, len(common)) != common:
                    continue
                other = reader.parse(source, str(sibling))
        except Exception:  # noqa: BLE001, S112 - any other file may lie there, readable or not
            continue
        if other is not None and other.part is not None:
            found[sibling] = other.part.start_pfn
    return tuple(sorted(found, key=found.__getitem__))


def open_files(files: Sequence[Path], stack: ExitStack, *, seconds: float) -> Iterator[tuple[Path, Part, DumpFile]]:
    """Each of the files, open as long as `stack` is. Reading one may take so many seconds."""
    for path in files:
        file = reader.parse(stack.enter_context(FileSource(path, seconds=seconds)), str(path))
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
