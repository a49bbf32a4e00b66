"""Makes an excerpt: asks the dump, and writes the pages that were read as a dump of their own."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox.case.dumps import identify_inside_of
from sandbox.case.options import OpenOptions
from sandbox.case.page_record import pages_of
from sandbox.case.view_server import open_file
from sandbox.case.what_to_open import refuse_log
from sandbox.dump import kdump
from sandbox.dump.header import Memory
from sandbox.dump.kdump_writer import Beginning, PageView, write_pages
from sandbox.dump.view import additions, open_view
from sandbox.errors import DumpUnreadable, SessionFailed, UsageError, pasteable, unwritable
from sandbox.excerpt import compare, page_kinds, questions
from sandbox.excerpt.model import Excerpt, Manifest, ranges
from sandbox.host import paths
from sandbox.host.files import STDOUT, check_output, refuse_evidence, write_output
from sandbox.host.tempdirs import scratch_directory
from sandbox.model import Vmcore, Wrapper
from sandbox.progress import QUIET, Reporter, Step
from sandbox.remote import described
from sandbox.render import plain
from sandbox.version import __version__

_UNPACKED_BY: Final = {
    Wrapper.GZ: "gzip -dk",
    Wrapper.BZ2: "bzip2 -dk",
    Wrapper.XZ: "xz -dk",
    Wrapper.ZST: "zstd -d",
    Wrapper.LZ4: "lz4 -d",
    Wrapper.LZOP: "lzop -d",
    Wrapper.ZIP: "unzip",
    Wrapper.SEVENZIP: "7z x",
    Wrapper.TAR: "tar -xf",
    Wrapper.CPIO: "cpio -id <",
}
"""The outermost layer of a dump; what is in it may be wrapped again."""

_GZIP: Final = ".gz"
_LARGE: Final = 16 << 20
"""Bytes of bitmaps, of which a machine has 64 MiB for each TiB, from which it is said how they are saved."""

_ELSEWHERE: Final = "choose another place with -o or --manifest"


def make(
    dump: Path,
    output: Path,
    options: OpenOptions,
    reporter: Reporter = QUIET,
    *,
    commands: Sequence[str] = (),
    exclude_user: bool = False,
    verify: bool = False,
    timeout: float = 60,
    listed: Path | None = None,
) -> Excerpt:
    """Write an excerpt of `dump` to `output`: what a report by each debugger reads, and what `commands` do.

    Its manifest is written to `listed` as JSON. `exclude_user` leaves out the pages of which the kernel does not say
    that they are its own. `verify` opens the excerpt and makes the same report of it. Raises `VmboxError`; OSError
    where the output cannot be written.
    """
    reporter = _OnceEach(reporter)
    if verify and output == STDOUT:
        raise UsageError("--verify opens the excerpt, which standard output is not", hint="-o FILE")
    vmcore = identify_inside_of(dump, reporter, unpacking=False)
    _check_places([output] if listed is None else [output, listed], vmcore, options)
    dump = vmcore.path  # it was looked for in a directory, or stands for a URL
    refuse_log(vmcore, dump)
    with _open_pages(vmcore, reporter):
        pass  # a dump of which no excerpt is made is refused before anything is started for it
    if vmcore.excerpt is not None:
        reporter.notice(f"{dump.name} is an excerpt itself: {vmcore.excerpt}")
    asked = [
        one
        for name in questions.debuggers(vmcore, options, reporter)
        if (one := questions.report(dump, name, options, reporter, timeout=timeout)) is not None
    ]
    if not asked:
        raise SessionFailed("no debugger opens the dump, so that nothing says which pages to take")
    if commands:
        asked += questions.commands(dump, commands, options, reporter, timeout=timeout)
    frames = sorted({frame for one in asked for frame in one.frames})
    kinds = page_kinds.kinds(dump, frames, options, reporter, timeout=10 * timeout) if exclude_user else None
    foreign = {*page_kinds.USER, page_kinds.UNKNOWN}
    left_out = frozenset(frame for frame, kind in (kinds or {}).items() if kind in foreign)
    taken = [frame for frame in frames if frame not in left_out]
    made = datetime.now(UTC).replace(microsecond=0)
    with _open_pages(vmcore, reporter) as (beginning, memory):
        total = PageView(beginning, memory).pages
        manifest = Manifest(
            excerpt_of=described.name(dump).rpartition("/")[2],
            size=vmcore.size,
            made=made.isoformat().replace("+00:00", "Z"),
            vmbox_version=__version__,
            release=vmcore.release,
            build_id=vmcore.build_id,
            page_size=beginning.block_size,
            pages_in_dump=total,
            pages=len(taken),
            questions=tuple(one.name for one in asked),
            user_pages_left_out=None if kinds is None else _count(kinds, page_kinds.USER),
            unknown_pages_left_out=None if kinds is None else _count(kinds, {page_kinds.UNKNOWN}),
            kinds=Counter(kinds[frame] for frame in taken) if kinds is not None else {},
            ranges=tuple(ranges(asked, kinds, left_out)),
        )
        noted = beginning.with_note(kdump.excerpt_note(_note(manifest), beginning.order))
        with reporter.step(f"Writing {output}", total=None), scratch_directory() as place:
            size = _write(output, write_pages(noted, memory, taken, place))
        bitmaps = noted.bitmap_blocks * noted.block_size
        if bitmaps >= _LARGE and output.suffix != _GZIP:
            reporter.notice(
                f"{bitmaps >> 20} MiB of it are the bitmaps of the machine's pages, which are nothing when compressed: "
                f"-o {pasteable(output)}{_GZIP}"
            )
    if listed is not None:
        _write(listed, iter([json.dumps(plain(manifest), indent=1).encode() + b"\n"]))
    unanswered = tuple(one.name for one in asked if one.failed)
    differences = None
    if verify:
        differences = tuple(compare.differences(output, asked, options, reporter, timeout=timeout))
    return Excerpt(path=str(output), bytes=size, manifest=manifest, unanswered=unanswered, differences=differences)


@contextmanager
def _open_pages(vmcore: Vmcore, reporter: Reporter) -> Iterator[tuple[Beginning, Memory]]:
    """What a kdump file of the dump begins with, and the dump's memory, while it is open. Raises `DumpError`."""
    kept = paths.unpacked_dir()
    views = []
    with ExitStack() as stack:
        for path in vmcore.files if len(vmcore.files) > 1 else (vmcore.path,):
            file = open_file(path)
            stack.callback(file.close)
            added = additions(file, vmcore, kept, reporter)
            view = None if added is None else open_view(file, kept, reporter, additions=added)
            if view is None:
                what = described.name(vmcore.path)
                by = _UNPACKED_BY.get(vmcore.wrappers[0]) if vmcore.wrappers else None
                raise DumpUnreadable(
                    f"the pages of {what} cannot be read where they are",
                    hint="unpack it first" + (f": {by} {pasteable(path)}" if by else ""),
                )
            views.append(view)
        yield pages_of(views, vmcore)


class _OnceEach:
    """A reporter of steps and notices; each case that is opened would say the same again."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._said: set[str] = set()

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        return self._reporter.step(title, total=total, unit=unit)

    def notice(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._reporter.notice(line)


def _count(kinds: Mapping[int, str], wanted: AbstractSet[str]) -> int:
    return sum(kind in wanted for kind in kinds.values())


def _note(manifest: Manifest) -> str:
    without = "" if manifest.user_pages_left_out is None else ", without user memory"
    return (
        f"of {manifest.excerpt_of} ({manifest.size} bytes), made {manifest.made} by vmbox {manifest.vmbox_version}: "
        f"{manifest.pages} of {manifest.pages_in_dump} pages{without}, read for {'; '.join(manifest.questions)}"
    )


def _gzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _write(output: Path, pieces: Iterator[bytes]) -> int:
    """Writes for the owner alone, compressed where the name says so. Returns its size in bytes. Raises `VmboxError`."""
    written = 0
    if output.suffix == _GZIP:
        pieces = _gzip(pieces)

    def counted() -> Iterator[bytes]:
        nonlocal written
        for piece in pieces:
            written += len(piece)
            yield piece

    try:
        write_output(output, counted(), mode=0o600)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(output, error, hint=_ELSEWHERE) from error
    return written


def _check_places(outputs: Sequence[Path], vmcore: Vmcore, options: OpenOptions) -> None:
    """Raises `VmboxError` where nothing can be written, or evidence would be written over."""
    given = () if options.debuginfo is None else (options.debuginfo,)
    for output in outputs:
        refuse_evidence(output, (vmcore.path, *vmcore.files, *given))
        try:
            check_output(output)
        except OSError as error:
            raise unwritable(output, error, hint=_ELSEWHERE) from error
    if STDOUT not in outputs and len({os.path.realpath(one) for one in outputs}) < len(outputs):
        raise UsageError(f"{outputs[0]} cannot be the excerpt and its manifest", hint=_ELSEWHERE)
