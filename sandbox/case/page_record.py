"""The record of the pages of a dump that a case has read: frame numbers, each once, in the order of their first read.

The server of a view writes it where it is asked to; what it serves is then the dump as `PageView` tells it, of which
every read is of known pages.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.dump.reader import parse
from sandbox.dump.split_set import SplitMemory
from sandbox.errors import DumpUnreadable
from sandbox.host import decode
from sandbox.model import Vmcore

if TYPE_CHECKING:
    from sandbox.dump.header import Memory
    from sandbox.dump.kdump_writer import Beginning, PageView
    from sandbox.dump.view import View

MOST: Final = 1 << 21
"""Pages that are recorded: 8 GiB of memory. A case chooses what it reads, and every page costs memory here."""

_CODE: Final = "Q"
_SIZE: Final = array(_CODE).itemsize


def pages_of(views: Sequence[View], vmcore: Vmcore) -> tuple[Beginning, Memory]:
    """What a kdump file of a dump begins with, and the dump's memory; `views` are of the dump, or of all its parts.

    Raises `DumpUnreadable` for a dump that no kdump file can be made of.
    """
    files = [parse(view, vmcore.path.name) for view in views]
    beginning = None if files[0] is None else files[0].as_kdump(vmcore)
    parts = [(one.part, one.memory()) for one in files if one is not None and one.part is not None]
    whole = not parts or len(parts) == len(files) > 1
    if not whole:
        why = vmcore.incomplete_reason or "it is a part of a split dump"
        raise DumpUnreadable(f"{vmcore.path.name}: {why}", hint="an excerpt is made of all parts together")
    if files[0] is None or beginning is None:
        raise DumpUnreadable(
            f"{vmcore.path.name} ({vmcore.format} of {vmcore.arch or 'an unknown machine'}) is of a form of which no"
            " excerpt is made",
            hint="it is made of kdump files of 64-bit machines, with all their parts, and of ELF files of x86_64",
        )
    return beginning, SplitMemory(parts) if parts else files[0].memory()


def recorded(views: Sequence[View], facts: object, record: Path) -> PageView:
    """The dump of some views as one whose pages are written down in the file `record` when they are read.

    `facts` is the dump's `Vmcore` as JSON has it. Raises as `pages_of`.
    """
    from sandbox.dump.kdump_writer import PageView

    beginning, memory = pages_of(views, decode.decode(Vmcore, facts))
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    seen: set[int] = set()

    def write(frame: int) -> None:
        if frame not in seen:
            if len(seen) >= MOST:
                raise DumpUnreadable("no more pages are recorded")
            seen.add(frame)
            os.write(descriptor, array(_CODE, [frame]).tobytes())

    return PageView(beginning, memory, write)


def create(directory: Path) -> Path:
    """A new, empty record in a directory."""
    path = directory / "pages"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return path


def count(record: Path) -> int:
    """Pages that were read until now."""
    return record.stat().st_size // _SIZE


def read(record: Path, start: int = 0) -> list[int]:
    """The frames from the entry `start` on. Raises `DumpUnreadable` where not all that were read are there."""
    if count(record) >= MOST:
        raise DumpUnreadable(
            f"what was asked reads {MOST} pages or more, of which no excerpt is made", hint="ask for less of the dump"
        )
    frames = array(_CODE)
    with record.open("rb") as file:
        file.seek(start * _SIZE)
        raw = file.read()
    frames.frombytes(raw[: len(raw) - len(raw) % _SIZE])
    return list(frames)
