"""read_records(path): the kernel log of a dump, message by message; of a text the boot that panicked last."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sandbox.dump import crash_directory, magic, piece_index, printk, pstore, reader, saved_log, split_set
from sandbox.dump.header import PageMissingError
from sandbox.dump.printk import Record
from sandbox.dump.source import Asking, Budget, DeadlineExceeded, FileSource, cannot_open
from sandbox.errors import DumpDamaged, DumpUnreadable, pasteable
from sandbox.formats.streams import Source
from sandbox.model import DumpFormat
from sandbox.progress import QUIET, Reporter

_SECONDS: Final = 60.0


class LogTooDeep(DumpUnreadable):
    """The dump has to be unpacked before its log can be read. Raised before the first line."""


def read_records(
    path: Path,
    *,
    keep_into: Path | None = None,
    reporter: Reporter = QUIET,
    on_saved: Callable[[Path], object] = lambda _saved: None,
) -> Iterator[Record]:
    """The messages, oldest first; control characters are the caller's business.

    The index of a flattened dump is kept under `keep_into`, and takes the time it takes; without, it is made here.
    Where the log cannot be walked in the dump, the one that kdump saved beside it is given instead, and `on_saved` is
    told its path. Raises `DumpUnreadable` when there is neither, and what `identify` raises.
    """
    try:
        yield from _read(path, keep_into, reporter, on_saved)
    except DeadlineExceeded as error:
        raise DumpDamaged(f"{path}: reading the log took more than {_SECONDS:.0f} s") from error


def is_log(source: Source) -> bool:
    """Whether a file is the text of a kernel log, and no dump."""
    head = source.read_at(0, magic.PEEK)
    plain = magic.dump_format(head) is None and magic.wrapper(head) is None
    return plain and saved_log.is_log(source, Budget(_SECONDS, patience=math.inf))


def read_source(source: Source, path: Path, beside: split_set.Neighbours | None = None) -> Iterator[Record]:
    """The same of a plain dump, or a log, whose bytes `source` has. `path` is its name.

    Raises `DumpUnreadable`, `DumpDamaged`.
    """
    budget = Budget(_SECONDS, patience=math.inf)
    try:
        if is_log(source):
            yield from saved_log.read(Asking(source, budget), budget).records
            return
        yield from _walk(reader.open_dump(Asking(source, budget), str(path)), path, budget, beside)
    except printk.LogMissingError as error:
        raise DumpUnreadable(f"{path}: {error}", hint="crash may read it: vmbox run DUMP -- log") from error
    except DeadlineExceeded as error:
        raise DumpDamaged(f"{path}: reading the log took more than {_SECONDS:.0f} s") from error


def _read(
    path: Path, keep_into: Path | None, reporter: Reporter, on_saved: Callable[[Path], object]
) -> Iterator[Record]:
    """The same, which may raise `DeadlineExceeded`."""
    budget = Budget(_SECONDS)
    below = index = None
    try:
        directory = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise cannot_open(path, error) from error
    if directory:
        contents = crash_directory.look(path, budget)
        dump = crash_directory.choose(path, contents)
        if dump is None:
            found = saved_log.read_directory(path, contents, budget)
            if found is None:
                raise DumpUnreadable(f"{path} holds neither a dump nor a kernel log")
            yield from found[0].records
            return
        path, below = dump, path
    with FileSource(path, budget=budget, below=below) as source:
        head = source.read_at(0, magic.PEEK)
        if magic.dump_format(head) is None and magic.wrapper(head) is not None:
            yield from _wrapped(source, path)
            return
        if magic.dump_format(head) is None:
            part = saved_log.read_part(path, budget) if pstore.is_part(path.name) else None
            text = part[0] if part is not None else None
            if text is None and saved_log.is_log(source, budget):
                text = saved_log.read(source, budget)
            if text is not None:
                yield from text.records
                return
        kind = magic.dump_format_of(source)
        if kind is None:
            from sandbox.dump.identify import not_a_dump

            raise not_a_dump(str(path), head, source)
        if not reader.reads_memory(kind):
            saved = crash_directory.log_beside(path)
            if saved is None:
                raise DumpUnreadable(
                    f"{path}: the log of a {kind} file is not read here",
                    hint=f"crash may: vmbox run {pasteable(path)} -- log",
                )
            on_saved(saved)
            yield from _saved_beside(saved)
            return
        if kind is DumpFormat.FLATTENED and keep_into is not None:
            with FileSource(path, below=below) as whole:
                index = piece_index.keep(whole, keep_into, reporter)
            budget.restart()
        opened = reader.open_dump(source, str(path), index)
        try:
            yield from _walk(opened, path, budget, searching=None if keep_into is None else reporter)
        except printk.LogMissingError as error:
            saved = crash_directory.log_beside(path)
            if saved is None:
                hint = f"crash may read it: vmbox run {pasteable(path)} -- log"
                if isinstance(error.__cause__, PageMissingError):
                    hint = "kdump's vmcore-dmesg.txt has it, if there is one beside the original: copy that, too"
                if opened.file.part is not None:
                    hint = f"it is a part of a split dump: vmbox info {pasteable(path)} names what is not beside it"
                raise DumpUnreadable(f"{path}: {error}", hint=hint) from error
            on_saved(saved)
            yield from _saved_beside(saved)


def _walk(
    opened: reader.DumpReader,
    path: Path,
    budget: Budget,
    beside: split_set.Neighbours | None = None,
    searching: Reporter | None = None,
) -> Iterator[Record]:
    """With `searching`, all of memory is searched for VMCOREINFO, where a second was not enough."""
    opened.search()
    if opened.given_up is not None and not opened.info and searching is not None:
        with searching.step(f"Searching all of {path.name} for VMCOREINFO"), budget.suspended():
            opened.search(thorough=True)
    opened.detect_arch()
    files = split_set.find(path, opened, budget, beside)
    with ExitStack() as stack:
        if len(files) > 1:
            parts = split_set.open_files(files, path, opened, stack, budget, beside=beside)
            opened.use_memory(split_set.SplitMemory([(part, file.memory()) for _, part, file in parts]))
        yield from opened.log()


def _wrapped(source: FileSource, path: Path) -> Iterator[Record]:
    from sandbox.dump import wrappers
    from sandbox.formats.streams import PeekSource

    found = wrappers.unwrap(source, str(path))
    if found.source is not None and found.is_log:
        yield from saved_log.read(found.source, Budget(_SECONDS)).records
        return
    inside = found.source
    if isinstance(inside, PeekSource):
        inside.exhaust(wrappers.WHOLE_LIMIT, seconds=_SECONDS / 2)
    # The log in a part of the dump would have gaps that the user cannot see.
    if inside is not None and inside.size:
        try:
            opened = reader.open_dump(inside, str(path))
            yield from opened.log()
        except printk.LogMissingError:
            pass
        else:
            return
    layers = ", ".join(found.layers)
    raise LogTooDeep(
        f"{path}: the log lies too deep in the archive ({layers}) to be read without unpacking",
        hint=f"unpack it first, or open a case, which does: vmbox run {pasteable(path)} -- log",
    )


def _saved_beside(path: Path) -> Iterator[Record]:
    with FileSource(path, below=path.parent) as source:
        text = saved_log.read(source, Budget(_SECONDS))
    yield from text.records
