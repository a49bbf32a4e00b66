"""identify(path) -> Vmcore: what a dump is, read from the file alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sandbox.dump import build_notes, completeness, kdump, memory, opening, panic, printk, signatures, vmcoreinfo
from sandbox.dump.header import Header, PageMissingError
from sandbox.dump.source import FileSource, OutOfTimeError, Source
from sandbox.errors import DumpDamaged, DumpError, NotADump
from sandbox.model import Vmcore

_SECONDS: Final = 1.5
"""Time that one file may take. Whole dumps take a hundredth of it; crafted ones take no more."""

_LARGE_BITMAP: Final = 8 << 20
"""Of a machine with 256 GiB. Counting larger ones takes longer than a header-only answer may."""


class Draft:
    """A Vmcore in the making. The first value for a field wins, and its origin is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self.values: dict[str, Any] = {"path": path, "size": size, "files": (path,)}
        self.origins: dict[str, str] = {}

    def offer(self, origin: str, **fields: object) -> None:
        for name, value in fields.items():
            if value is not None and value != () and name not in self.values:
                self.values[name] = value
                self.origins[name] = origin

    def plain(self, **fields: object) -> None:
        """Fields that need no origin."""
        self.values.update(fields)

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def finish(self) -> Vmcore:
        return Vmcore(**self.values, origins=self.origins)


def identify(path: Path, *, log: bool = True) -> Vmcore:
    """What the dump at `path` says about itself; nothing is executed, unpacked or written.

    `log=False` reads headers and notes only. Raises `DumpNotFound`, `DumpUnreadable`, `NotADump` or `DumpDamaged`;
    a dump that is cut or flagged incomplete is no error as long as its header can be read.
    """
    with FileSource(path, seconds=_SECONDS) as source:
        draft = Draft(path, source.size)
        if source.size == 0:
            raise NotADump(
                f"{path} is empty", hint="kdump ran out of space or was killed before it wrote; look for another dump"
            )
        try:
            _examine(draft, source, path, log=log)
        except OutOfTimeError as error:
            raise DumpDamaged(f"{path}: its header is damaged: reading what it names takes too long") from error
    return draft.finish()


def _examine(draft: Draft, source: Source, path: Path, *, log: bool) -> None:
    head = source.read_at(0, signatures.PEEK)
    match signatures.dump_format(head):
        case "kdump-compressed" | "diskdump" | "elf" | "flattened":
            take_dump(draft, source, path, log=log)
        case _:
            raise not_a_dump(str(path), head)


def take_dump(draft: Draft, source: Source, path: Path, *, log: bool) -> None:
    """A dump whose memory can be read: header, completeness, log, build-id."""
    opened = opening.open_dump(source, str(path))
    draft.plain(flattened=opened.flat is not None)
    take_header(draft, opened.header, opened.info)
    with ExitStack() as parts:
        _take_split_set(draft, opened, path, parts)
        if source.size is not None:
            _take_completeness(draft, opened, path, log=log)
        if log:
            try:
                _take_log(draft, opened)
                _take_build_id(draft, opened)
            except (OutOfTimeError, PageMissingError):
                # The rest of the answer stands; what could not be read stays unknown.
                pass


def take_header(draft: Draft, header: Header, info: Mapping[str, str]) -> None:
    draft.plain(format=header.format, vmcoreinfo=info)
    draft.offer("vmcoreinfo", release=_release(info))
    draft.offer("header", release=header.release, utsname_version=header.utsname_version)
    draft.offer("header", arch=header.arch)
    draft.offer("vmcoreinfo", arch=vmcoreinfo.architecture(info))
    draft.offer("vmcoreinfo", build_id=vmcoreinfo.build_id(info, draft.get("utsname_version")))
    page_size = vmcoreinfo.decimal(info, "PAGESIZE")
    draft.offer("vmcoreinfo", page_size=page_size if page_size and 4096 <= page_size <= 1 << 20 else None)
    draft.offer("header", page_size=header.page_size)
    draft.offer("notes" if header.format == "elf" else "header", nr_cpus=header.nr_cpus)
    draft.offer("vmcoreinfo", crash_time=utc(vmcoreinfo.decimal(info, "CRASHTIME")))
    draft.offer("header", crash_time=utc(header.timestamp))
    draft.offer("header", dump_level=header.dump_level, compression=header.compression, panic=header.panic)


def take_findings(draft: Draft, found: panic.Findings, origin: str) -> None:
    draft.offer(
        origin,
        banner=found.banner,
        release=found.release,
        utsname_version=found.utsname_version,
        cause=found.cause,
        panic=found.panic,
        taint=found.taint,
        hardware=found.hardware,
        uptime_seconds=found.uptime_seconds,
    )
    if found.banner is not None:
        # The rules are only read when there is something to ask them.
        from sandbox.dump.release import vendor

        draft.offer("log", vendor=vendor(found.banner))


def _take_split_set(draft: Draft, opened: opening.OpenedDump, path: Path, parts: ExitStack) -> None:
    layout = opened.layout
    if not isinstance(layout, kdump.Layout) or not layout.split or opened.flat is not None:
        return
    files = opening.split_set(path, opened)
    draft.plain(files=files)
    memories: list[memory.KdumpMemory] = []
    expected = 0
    for file in files:
        source = parts.enter_context(FileSource(file, seconds=_SECONDS))
        found = kdump.parse(source)
        if found is None:
            continue
        part = found[1]
        if part.start_pfn != expected and expected >= 0:
            draft.offer("header", complete=False, incomplete_reason=_gap(expected, part.start_pfn))
        expected = part.end_pfn
        index = memory.PageIndex(source, part)
        memories.append(memory.KdumpMemory(source, part, index))
        if reason := completeness.of_kdump(source, part, index):
            draft.offer("size", complete=False, incomplete_reason=f"{file.name}: {reason}")
    if expected < layout.max_mapnr:
        draft.offer("header", complete=False, incomplete_reason=_gap(expected, layout.max_mapnr))
    opened.use_memory(memory.SplitMemory(memories))


def _gap(start: int, end: int) -> str:
    return f"a part of the split dump is not beside it: the one with pages {start} to {end}"


def _take_completeness(draft: Draft, opened: opening.OpenedDump, path: Path, *, log: bool) -> None:
    if opened.header.flag is not None:
        draft.offer("header", complete=False, incomplete_reason=opened.header.flag)
    layout = opened.layout
    if not log and isinstance(layout, kdump.Layout) and layout.bitmap_size > _LARGE_BITMAP:
        return
    try:
        reason = opened.incomplete()
    except OutOfTimeError:
        return
    if reason is not None:
        if draft.get("complete") is False:
            # The writer's flag says that, the size says what.
            draft.plain(incomplete_reason=f"{draft.get('incomplete_reason')}; {reason}")
        draft.offer("size", complete=False, incomplete_reason=reason)
    if by_name := completeness.of_name(path):
        draft.offer("file name", complete=False, incomplete_reason=by_name)
    draft.offer("size", complete=True)


def _take_log(draft: Draft, opened: opening.OpenedDump) -> None:
    try:
        found = panic.examine(opened.log())
    except printk.LogMissingError:
        return
    take_findings(draft, found, "log")


def _take_build_id(draft: Draft, opened: opening.OpenedDump) -> None:
    """From the kernel image in memory, where VMCOREINFO has none or a wrong one."""
    if draft.get("build_id") is not None:
        return
    kernel = opened.kernel()
    start = vmcoreinfo.symbol(opened.info, "_stext")
    if kernel is not None and start is not None:
        draft.offer("memory", build_id=build_notes.find(kernel, start))


def _release(info: Mapping[str, str]) -> str | None:
    value = info.get("OSRELEASE")
    # A format string of some program's own, found in place of the value, is no release.
    return value if value and "%" not in value and value.isprintable() and len(value) <= 64 else None


def utc(seconds: int | None) -> datetime | None:
    """None for 0, which means unknown, and for years no crash dump comes from."""
    if seconds is None or not 0 < seconds < 1 << 33:
        return None
    return datetime.fromtimestamp(seconds, tz=UTC)


def not_a_dump(name: str, head: bytes) -> DumpError:
    if found := signatures.foreign(head):
        what, hint = found
        return NotADump(f"{name} is {what}, not a kernel crash dump", hint=hint and hint.replace("FILE", name))
    if not head.strip(b"\0"):
        return NotADump(
            f"{name} begins with zeros: the writing of it never finished",
            hint="kdump or the copy was interrupted; look for the same dump where it was first written",
        )
    if signatures.is_text(head):
        return NotADump(f"{name} is text, but no kernel log", hint="give the vmcore, or the output of dmesg")
    return NotADump(f"{name} is not a kernel crash dump, as far as its first bytes tell")
