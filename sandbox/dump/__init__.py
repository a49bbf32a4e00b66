"""Reads kernel crash dumps in plain Python. Executes nothing, and writes nothing except what `unpack` is asked to.

The file comes from another machine, so no number in it is trusted, every read may be short, and time and memory are
bounded. libkdumpfile reads dumps too, but is a C library: this package is sent to the host of a remote engine, where
there is only Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.dump.identify import identify as identify_alone
from sandbox.model import Vmcore
from sandbox.progress import QUIET, Reporter

if TYPE_CHECKING:
    from sandbox.dump.printk import Record

__all__ = [
    "identify",
    "identify_alone",
    "identify_inside",
    "index_pieces",
    "is_partly_searched",
    "is_plain",
    "read_log",
    "read_records",
    "search_all",
    "unpack",
]


def identify(path: Path, *, log: bool = True) -> Vmcore:
    """`sandbox.dump.identify.identify`, with the index of a flattened dump where the cache has one."""
    from sandbox.host import paths

    return identify_alone(path, log=log, kept=paths.unpacked_dir)


def is_partly_searched(vmcore: Vmcore) -> bool:
    """Whether `identify` gave up the search of a dump's memory for VMCOREINFO, of which the dump has no note."""
    from sandbox.dump.reader import reads_memory

    return vmcore.skipped is not None and not vmcore.vmcoreinfo and is_plain(vmcore) and reads_memory(vmcore.format)


def search_all(vmcore: Vmcore, reporter: Reporter = QUIET) -> Vmcore:
    """A dump of which `identify` gave up the search for VMCOREINFO, with what a search of all its memory finds.

    The same `vmcore` where that is not what it lacks.
    """
    from sandbox.host import paths

    if not is_partly_searched(vmcore):
        return vmcore
    with reporter.step(f"Searching all of {vmcore.path.name} for VMCOREINFO"):
        return identify_alone(vmcore.path, kept=paths.unpacked_dir, thorough=True)


def index_pieces(path: Path, into: Path, reporter: Reporter = QUIET) -> None:
    """Keeps the index of a large flattened dump under `into`, so that `identify` and all others find it there.

    It is made once, by a walk through the file. Does nothing for any other file, and for one that cannot be read.
    Raises `ConfigurationError` for a directory that is not the user's own.
    """
    from sandbox.dump import flattened, piece_index
    from sandbox.dump.source import FileSource
    from sandbox.errors import DumpError

    with suppress(DumpError), FileSource(path) as source:
        if source.size >= piece_index.LARGE and source.read_at(0, len(flattened.MAGIC)) == flattened.MAGIC:
            piece_index.keep(source, into, reporter)


def read_log(
    path: Path,
    *,
    unpack_into: Path | None = None,
    reporter: Reporter = QUIET,
    on_saved: Callable[[Path], object] = lambda _saved: None,
) -> Iterator[bytes]:
    """Lines of the kernel log as dmesg prints them, without newline: `[    1.234567] text`. See `read_records`."""
    for record in read_records(path, unpack_into=unpack_into, reporter=reporter, on_saved=on_saved):
        yield from record.lines()


def read_records(
    path: Path,
    *,
    unpack_into: Path | None = None,
    reporter: Reporter = QUIET,
    on_saved: Callable[[Path], object] = lambda _saved: None,
) -> Iterator[Record]:
    """Messages of the kernel log. See `sandbox.dump.kernel_log`.

    A dump too deep in an archive to be read there is read in its view, where it has one, else unpacked under
    `unpack_into`, once, if that is given. So is the index of a flattened or gzip file kept there. `on_saved` is told
    the file beside the dump that is read in place of the dump's own log.
    """
    from sandbox.dump import kernel_log
    from sandbox.dump.source import FileSource
    from sandbox.dump.view import open_view

    try:
        yield from kernel_log.read_records(path, keep_into=unpack_into, reporter=reporter, on_saved=on_saved)
    except kernel_log.LogTooDeep:
        if unpack_into is None:
            raise
        with FileSource(path) as file:
            view = open_view(file, unpack_into, reporter)
            if view is not None:
                yield from kernel_log.read_source(view, path)
                return
        yield from kernel_log.read_records(unpack(identify(path, log=False), unpack_into, reporter))


def identify_inside(vmcore: Vmcore, into: Path, reporter: Reporter = QUIET, *, unpacking: bool = True) -> Vmcore:
    """A dump that `identify` has not read as a whole (`skipped`), with what only the whole tells.

    It is read in its view, where it has one, else in the copy that is under `into`, or that is made there; the same
    `vmcore` without `unpacking` where one would have to be made. Raises what `unpack` raises.
    """
    from sandbox.dump.identify import identify_source
    from sandbox.dump.source import FileSource
    from sandbox.dump.unpacking import unpacked_path
    from sandbox.dump.view import open_view

    if vmcore.path.is_dir() or is_plain(vmcore):
        return vmcore
    unpacked = unpacked_path(vmcore.path, into).is_file()
    with FileSource(vmcore.path) as file:
        view = None if unpacked else open_view(file, into, reporter, indexing=unpacking)
        inner = None if view is None else identify_source(vmcore.path, view)
    if inner is None and (unpacking or unpacked):
        inner = identify(unpack(vmcore, into, reporter))
    if inner is None:
        return vmcore
    of_the_file = ("path", "size", "files", "flattened", "wrappers", "member")
    damage = ("complete", "incomplete_reason") if vmcore.complete is False else ()
    return replace(inner, **{name: getattr(vmcore, name) for name in (*of_the_file, *damage)})


def is_plain(vmcore: Vmcore) -> bool:
    """Whether crash can open the file as it is in a case: neither wrapped nor flattened.

    Nor a disk that kdump wrote to (`raw` in kdump.conf): no device is let into a case.
    """
    return not vmcore.wrappers and not vmcore.flattened and not vmcore.path.is_block_device()


def unpack(vmcore: Vmcore, into: Path, reporter: Reporter = QUIET) -> Path:
    """The dump as a plain file, under `into` if it was wrapped or flattened. See `sandbox.dump.unpacking`."""
    from sandbox.dump import unpacking

    return unpacking.unpack(vmcore, into, reporter)
