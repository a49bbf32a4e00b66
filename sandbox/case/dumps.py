"""A dump wherever it is: a path of this host, or a URL.

`sandbox.dump` reads files only. The functions here take what a user names, and the path that stands for a URL
(`sandbox.remote.described`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.dump import (
    identify as identify_file,
    identify_inside,
    index_pieces,
    read_records as records_of_file,
    search_all,
)
from sandbox.dump.reader import reads_memory
from sandbox.host import paths
from sandbox.model import Vmcore
from sandbox.progress import QUIET, Reporter
from sandbox.remote.places import DESCRIBED

if TYPE_CHECKING:
    # Most dumps are files of this host: what reads others is not loaded for them.
    from sandbox.dump.printk import Record
    from sandbox.dump.view import View
    from sandbox.judge.log import Witness
    from sandbox.remote.source import RemoteSource


def _here(dump: Path, reporter: Reporter) -> tuple[Path, bool]:
    """The file of a dump, or what stands for one on a server, and whether it is that."""
    if dump.parent.suffix != DESCRIBED:
        return dump, False
    from sandbox.remote import described

    here = described.local(dump, reporter)
    return here, described.is_description(here)


def identify(dump: Path, reporter: Reporter = QUIET) -> Vmcore:
    """The facts about a dump that are found without unpacking it. Raises as `sandbox.dump.identify`."""
    here, remote = _here(dump, reporter)
    if not remote:
        return identify_file(here)
    with _named(here):
        return _identify_remote(here, reporter, whole=False)


def identify_inside_of(dump: Path, reporter: Reporter = QUIET, *, unpacking: bool, measuring: bool = True) -> Vmcore:
    """The same with what only the whole dump tells. A large flattened dump is indexed, once.

    One that has to be unpacked for it is, into the cache, with `unpacking` only; so is all of memory searched for
    VMCOREINFO, where the dump has no note of it. Without `measuring` it is not looked
    whether the dump in an archive is complete, where a log beside it told the rest. Raises what `unpack` raises.
    """
    here, remote = _here(dump, reporter)
    if remote:
        with _named(here):
            return _identify_remote(here, reporter, whole=unpacking)
    kept = paths.unpacked_dir()
    index_pieces(here, kept, reporter)
    vmcore = identify_file(here)
    if vmcore.flattened and vmcore.skipped is not None and vmcore.path != here:
        # It was found in a directory.
        index_pieces(vmcore.path, kept, reporter)
        vmcore = identify_file(here)
    unmeasured = measuring and bool(vmcore.wrappers) and vmcore.complete is None and reads_memory(vmcore.format)
    if unpacking:
        vmcore = search_all(vmcore, reporter)
    if vmcore.skipped is None and not unmeasured:
        return vmcore
    return identify_inside(vmcore, kept, reporter, unpacking=unpacking)


def read_log(dump: Path, reporter: Reporter = QUIET) -> Iterator[bytes]:
    """Lines of the kernel's log, as `sandbox.dump.read_log` has them. What has to be unpacked is, into the cache."""
    here, remote = _here(dump, reporter)
    records = (
        _records_there(here, reporter)
        if remote
        else records_of_file(here, unpack_into=paths.unpacked_dir(), reporter=reporter)
    )
    for record in records:
        yield from record.lines()


def _records_there(here: Path, reporter: Reporter) -> Iterator[Record]:
    """Messages of the log of a dump on a server."""
    from sandbox.dump.kernel_log import read_source
    from sandbox.remote.split import RemoteNeighbours

    with _named(here), _view(here, reporter) as (_, view):
        yield from read_source(view, here, RemoteNeighbours(here, reporter))


def witness(dump: Path, vmcore: Vmcore | None = None, *, unpacked: Path | None = None) -> Witness:
    """The log of a dump, and whether it is to be believed. See `sandbox.judge.log.witness`."""
    from sandbox.judge import log
    from sandbox.judge.log import Witness

    here, remote = _here(dump, QUIET)
    if remote:
        return Witness.of(_records_there(here, QUIET))
    return log.witness(here, vmcore, unpacked=unpacked)


def _named(here: Path) -> AbstractContextManager[None]:
    """Errors of what is read have the URL in the place of the path that stands for it."""
    from sandbox.errors import called
    from sandbox.remote import described

    return called(here, lambda: described.name(here))


@contextmanager
def _view(here: Path, reporter: Reporter) -> Iterator[tuple[RemoteSource, RemoteSource | View]]:
    """A dump on a server, and what is in it. A log is what it is."""
    from sandbox.dump.kernel_log import is_log
    from sandbox.dump.view import open_view
    from sandbox.errors import DumpUnreadable
    from sandbox.remote import described
    from sandbox.remote.file import download_hint
    from sandbox.remote.source import RemoteSource

    with RemoteSource(here, reporter) as source:
        view = open_view(source, paths.unpacked_dir(), reporter) or (source if is_log(source) else None)
        if view is None:
            shown = described.name(here)
            raise DumpUnreadable(f"{shown} has to be unpacked, which takes all of it", hint=download_hint(shown))
        yield source, view


def _identify_remote(here: Path, reporter: Reporter, *, whole: bool) -> Vmcore:
    """`whole`: all of a flattened or gzip file is fetched, once, to index it; else only its beginning is read."""
    from sandbox.dump import piece_index
    from sandbox.dump.flattened import MAGIC
    from sandbox.dump.identify import identify_source
    from sandbox.dump.view import open_view
    from sandbox.errors import DumpDamaged
    from sandbox.remote.source import RemoteSource
    from sandbox.remote.split import RemoteNeighbours

    beside = RemoteNeighbours(here, reporter)
    if whole:
        with _view(here, reporter) as (source, view):
            return _with_layers(identify_source(here, view, beside=beside), source)
    kept = paths.unpacked_dir()
    with RemoteSource(here, reporter) as source:
        if source.read_at(0, len(MAGIC)) == MAGIC:
            # Without its header in the first pieces, all of it has to be walked through.
            with suppress(DumpDamaged):
                return identify_source(here, source, index=piece_index.find(source, kept), patience=0)
        found = open_view(source, kept, reporter, indexing=False)
        if found is None:
            return identify_source(here, source)
        return _with_layers(identify_source(here, found, beside=beside), source)


def _with_layers(vmcore: Vmcore, source: RemoteSource) -> Vmcore:
    """What its view does not show of the file itself."""
    from sandbox.dump.flattened import MAGIC

    return replace(vmcore, size=source.size, flattened=source.read_at(0, len(MAGIC)) == MAGIC)
