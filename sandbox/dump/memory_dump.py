"""A dump whose memory can be read: header, completeness, the log in its memory, and what the kernel image adds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

from sandbox.dump import (
    completeness,
    crash_directory,
    kernel_image,
    panic,
    printk,
    reader,
    saved_log,
    split_file,
    split_set,
    vmcoreinfo,
)
from sandbox.dump.builder import VmcoreBuilder, apply_findings, apply_header, apply_scan
from sandbox.dump.dump_file import Part
from sandbox.dump.header import Memory, PageMissingError
from sandbox.dump.piece_index import PieceIndex
from sandbox.dump.source import SECONDS, Budget, DeadlineExceeded, FileSource
from sandbox.errors import VmboxError, pasteable
from sandbox.formats.streams import Source


def apply_dump(
    builder: VmcoreBuilder,
    source: Source,
    path: Path,
    budget: Budget,
    *,
    log: bool,
    index: PieceIndex | None = None,
    patience: float | None = None,
    beside: split_set.Neighbours | None = None,
    thorough: bool = False,
) -> None:
    """A dump whose memory can be read: header, completeness, log, build-id. `index` is of a flattened one.

    Without it, at most `patience` seconds are taken to make it; by default half of what identification has. `thorough`
    searches all of memory for VMCOREINFO, for as long as that takes.
    """
    opened = reader.open_dump(source, str(path), index, patience=SECONDS / 2 if patience is None else patience)
    builder.set(flattened=opened.flat is not None)
    with ExitStack() as parts:
        _apply_split_set(builder, opened, path, budget, stack=parts, beside=beside)
        if source.size is not None:
            _apply_completeness(builder, opened, path, log=log)
        found = None
        if log or opened.file.stores_text_as_is:
            try:
                with budget.suspended() if thorough else nullcontext():
                    found = opened.search(thorough=thorough)
            except DeadlineExceeded:
                opened.given_up = "as much of memory as could be read in that time"
        if log:
            with suppress(DeadlineExceeded):
                opened.detect_arch()
        apply_header(builder, opened.header, opened.info, "notes" if opened.header.vmcoreinfo else "memory")
        if found is not None and builder.get("release") is None:
            # The kernel died before it made its VMCOREINFO, or is built without (CRASH_CORE).
            apply_scan(builder, found)
        if log:
            # Where time runs out or a page is missing, the rest of the answer stands.
            with suppress(DeadlineExceeded, PageMissingError):
                _apply_log(builder, opened, budget)
                _apply_image(builder, opened, budget)
            if opened.given_up is not None and not opened.info:
                builder.set(skipped=opened.why_without_info)
            elif opened.flat is not None and opened.flat.size is None and builder.get("panic") is None:
                builder.set(skipped="the log, with cause and panic: it has too many pieces to be indexed on the way")


def _apply_split_set(
    builder: VmcoreBuilder,
    opened: reader.DumpReader,
    path: Path,
    budget: Budget,
    *,
    stack: ExitStack,
    beside: split_set.Neighbours | None,
) -> None:
    own = opened.file.part
    if own is None or opened.flat is not None:
        return
    gaps: list[str] = []
    files = split_set.find(path, opened, budget, beside)
    builder.set(files=files)
    memories: list[tuple[Part, Memory]] = []
    expected = 0
    for place, part, file in split_set.open_files(files, path, opened, stack, budget, beside=beside):
        if part.start_pfn != expected and expected >= 0:
            gaps.append(f"{expected} to {part.start_pfn}")
        expected = part.end_pfn
        memories.append((part, file.memory()))
        if reason := file.missing():
            builder.propose("size", complete=False, incomplete_reason=f"{place.name}: {reason}")
    if expected < own.max_pfn:
        gaps.append(f"{expected} to {own.max_pfn}")
    if gaps:
        reason = _lacking(builder, own, None if beside is not None else path.parent, gaps)
        builder.propose("header", complete=False, incomplete_reason=reason, missing_parts=tuple(gaps))
    opened.use_memory(split_set.SplitMemory(memories))


def _lacking(builder: VmcoreBuilder, own: Part, directory: Path | None, gaps: Sequence[str]) -> str:
    """Which parts are not there. `directory` is where they are looked for, if it is one of this host."""
    pages = " and ".join(gaps)
    if builder.values.get("wrappers"):
        return f"pages {pages} are in other parts of it: unpacked into one directory, parts are read together"
    way = "" if directory is None else f": cp PART {pasteable(directory)}/"
    return (
        f"it is the part of a split dump with pages {own.start_pfn} to {own.end_pfn}, and what has pages {pages}"
        f" is not beside it{way}"
    )


def _apply_completeness(builder: VmcoreBuilder, opened: reader.DumpReader, path: Path, *, log: bool) -> None:
    if opened.header.flag is not None:
        builder.propose("header", complete=False, incomplete_reason=opened.header.flag)
    if not log and opened.file.slow_to_measure:
        return
    try:
        # The parts of a split set were judged together.
        reason = None if opened.file.part is not None else opened.incomplete()
    except DeadlineExceeded:
        return
    if reason is not None:
        reason += split_file.remark(path)
        if builder.get("complete") is False:
            # The writer's flag says that, the size says what.
            builder.set(incomplete_reason=f"{builder.get('incomplete_reason')}; {reason}")
        builder.propose("size", complete=False, incomplete_reason=reason)
    if by_name := completeness.of_name(path):
        builder.propose("file name", complete=False, incomplete_reason=by_name)
    if crash_directory.unfinished_beside(path):
        builder.propose("README.txt", complete=False, incomplete_reason="kdump's README.txt beside it says so")
    builder.propose("size", complete=True)


def _apply_log(builder: VmcoreBuilder, opened: reader.DumpReader, budget: Budget) -> None:
    try:
        apply_findings(builder, panic.examine(opened.log(), budget), "log")
    except printk.LogMissingError:
        saved = crash_directory.log_beside(builder.values["path"])
        if saved is not None:
            with suppress(VmboxError), FileSource(saved, budget=budget, below=saved.parent) as source:
                saved_log.apply_saved_log(builder, saved.name, source, budget)


def _apply_image(builder: VmcoreBuilder, opened: reader.DumpReader, budget: Budget) -> None:
    """From the kernel image in memory, what neither VMCOREINFO nor the log gave."""
    kernel = opened.kernel()
    start = vmcoreinfo.symbol(opened.info, "_stext")
    if kernel is None:
        return
    if builder.get("utsname_version") is None:
        with suppress(PageMissingError):
            builder.propose("memory", utsname_version=kernel_image.utsname_version(kernel, opened.info))
    if start is None:
        return
    if builder.get("build_id") is None:
        builder.propose("memory", build_id=kernel_image.find_build_id(kernel, start, budget))
    release = builder.get("release")
    if builder.get("banner") is None and builder.get("uptime_seconds") is not None and release is not None:
        # The log was read, but its beginning was overwritten.
        banner = kernel_image.find_banner(kernel, start, release)
        apply_findings(builder, panic.LogFindings(banner=banner), "memory")
