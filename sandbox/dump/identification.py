"""identify(path) -> Vmcore: what a dump is, read from the file alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sandbox.dump import (
    completeness,
    directories,
    elf,
    kdump,
    kernel_image,
    memory,
    opening,
    panic,
    printk,
    signatures,
    vmcoreinfo,
)
from sandbox.dump.header import MACHINES, Header, PageMissingError
from sandbox.dump.source import FileSource, OutOfTimeError, Source, cannot_open
from sandbox.errors import DumpDamaged, DumpError, NotADump, VmboxError
from sandbox.model import Vmcore

_SECONDS: Final = 1.5
"""Time that one file may take. Whole dumps take a hundredth of it; crafted ones take no more."""

_LOG_BYTES: Final = 4 << 20

_CASE_NAME: Final = re.compile(r".+-\d{4}-\d\d-\d\d-\d\d:\d\d(?::\d\d)?|\d{12,14}")
"""What kdump calls the directory of one dump: address and time, on Debian the time alone."""

_LARGE_BITMAP: Final = 1 << 20
"""Of a machine with 32 GiB. Counting larger ones takes longer than a header-only answer may."""


class Draft:
    """A Vmcore in the making. The first value for a field wins, and its origin is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self.values: dict[str, Any] = {"path": path, "size": size, "files": (path,)}
        self.origins: dict[str, str] = {}

    def offer(self, origin: str, **fields: object) -> None:
        for name, value in fields.items():
            if value is not None and name not in self.values:
                self.values[name] = value
                self.origins[name] = origin

    def take_over(self, other: Draft) -> None:
        for name, origin in other.origins.items():
            self.offer(origin, **{name: other.values[name]})

    def plain(self, **fields: object) -> None:
        """Fields that need no origin."""
        self.values.update(fields)

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def finish(self) -> Vmcore:
        return Vmcore(**self.values, origins=self.origins)


def identify(path: Path, *, log: bool = True) -> Vmcore:
    """What the dump at `path` says about itself; nothing is executed, unpacked or written.

    `path` may also be a compressed dump or an archive with one, a directory of kdump's, a sosreport, or a kernel log as
    text. `log=False` reads headers and notes only. Raises `DumpNotFound`, `DumpUnreadable`, `NotADump` or
    `DumpDamaged`;
    a dump that is cut or flagged incomplete is no error as long as its header can be read.
    """
    try:
        directory = path.is_dir()
    except OSError as error:  # a directory above it is closed to us
        raise cannot_open(path, error) from error
    if directory:
        return _identify_directory(path, log=log)
    if path.suffix == ".vmem":
        # VMware's memory without the state that says what it is; that lies beside it.
        state = next((one for suffix in (".vmss", ".vmsn") if (one := path.with_suffix(suffix)).is_file()), None)
        if state is not None:
            return identify(state, log=log)
    with FileSource(path, seconds=_SECONDS) as source:
        draft = Draft(path, source.size)
        if source.size == 0:
            raise NotADump(
                f"{path} is empty", hint="kdump ran out of space or was killed before it wrote; look for another dump"
            )
        try:
            _examine(draft, source, path, log=log)
        except OutOfTimeError as error:
            raise DumpDamaged(
                f"{path}: no dump was found in it in {_SECONDS} s", hint="unpack it, if it is an archive, and try again"
            ) from error
    return draft.finish()


def _identify_directory(directory: Path, *, log: bool) -> Vmcore:
    dump = directories.choose(directory)
    if dump is not None:
        return identify(dump, log=log)
    contents = directories.look(directory)
    if not contents.logs and contents.uname is None:
        raise NotADump(
            f"{directory} holds no kernel crash dump", hint="kdump writes to /var/crash/<host>-<time>/vmcore"
        )
    draft = Draft(directory, 0)
    draft.plain(format="sosreport" if contents.uname else "log", wrappers=("directory",))
    if contents.logs:
        saved = contents.logs[-1]
        with FileSource(saved, seconds=_SECONDS) as source:
            draft.plain(member=str(saved.relative_to(directory)))
            _take_text(draft, source, "log")
    if contents.uname is not None:
        with FileSource(contents.uname) as source:
            _take_uname(draft, source.read_at(0, 512).decode("utf-8", "replace"))
    _take_wanted(draft, str(contents.logs[-1].absolute()) if contents.logs else None)
    return draft.finish()


def _examine(draft: Draft, source: Source, path: Path, *, log: bool) -> None:
    head = source.read_at(0, signatures.PEEK)
    kind = signatures.dump_format(head) or signatures.dump_format(source.read_at(4096, 8).rjust(4104, b"\0"))
    if kind in {"kdump-compressed", "diskdump", "elf", "flattened"}:
        take_dump(draft, source, path, log=log)
    elif kind is not None:
        _take_named(draft, kind, source, path)
    elif signatures.wrapper(head) is not None:
        _take_wrapped(draft, source, path, log=log)
    elif signatures.is_kernel_log(source.read_at(0, 4096)):
        draft.plain(format="log")
        _take_text(draft, source, "log")
        _take_wanted(draft, str(path.absolute()) if path.name.startswith(("vmcore-dmesg", "dmesg.")) else None)
    else:
        raise not_a_dump(str(path), head)


def take_dump(draft: Draft, source: Source, path: Path, *, log: bool) -> None:
    """A dump whose memory can be read: header, completeness, log, build-id."""
    opened = opening.open_dump(source, str(path))
    draft.plain(flattened=opened.flat is not None)
    with ExitStack() as parts:
        _take_split_set(draft, opened, path, parts)
        if source.size is not None:
            _take_completeness(draft, opened, path, log=log)
        if log or isinstance(opened.layout, elf.Layout):
            with suppress(OutOfTimeError):
                opened.look_for_vmcoreinfo()
        if log:
            with suppress(OutOfTimeError):
                opened.settle_machine()
        take_header(draft, opened.header, opened.info, "notes" if opened.header.vmcoreinfo else "memory")
        if log:
            # Where time runs out or a page is missing, the rest of the answer stands.
            with suppress(OutOfTimeError, PageMissingError):
                _take_log(draft, opened)
                _take_image(draft, opened)


def _take_named(draft: Draft, kind: str, source: Source, path: Path) -> None:
    from sandbox.dump import named

    header = named.parse(kind, source)
    text = b""
    with suppress(OutOfTimeError, VmboxError):
        text = named.find_vmcoreinfo(source)
        memory_file = named.find_sibling_memory(path.name)
        if memory_file is not None and (path.parent / memory_file).is_file():
            draft.plain(files=(path, path.parent / memory_file))
            with FileSource(path.parent / memory_file, seconds=_SECONDS / 2) as beside:
                text = text or named.find_vmcoreinfo(beside)
    take_header(draft, header, vmcoreinfo.parse(text), "memory")
    if header.flag is not None:
        draft.offer("header", complete=False, incomplete_reason=header.flag)


def _take_wrapped(draft: Draft, source: FileSource | Source, path: Path, *, log: bool) -> None:
    # With every decompressor there is; most dumps need none.
    from sandbox.dump import named, wrappers
    from sandbox.dump.streams import PeekSource

    found = wrappers.unwrap(source, str(path))
    draft.plain(wrappers=found.layers)
    if found.member is not None:
        draft.plain(member=found.member)
    if found.sosreport or found.is_log:
        draft.plain(format="sosreport" if found.sosreport and found.source is None else "log")
        if found.source is not None:
            _take_text(draft, found.source, "log")
        if found.uname is not None:
            _take_uname(draft, found.uname)
        _take_wanted(draft, found.member)
        return
    inner = found.source
    if inner is None:
        raise NotADump(f"{path} holds no kernel crash dump")
    head = inner.read_at(0, signatures.PEEK)
    kind = signatures.dump_format(head)
    if kind in {"kdump-compressed", "diskdump", "elf", "flattened"}:
        # Only of a small dump the whole can be looked at; of others the header has to do.
        if isinstance(inner, PeekSource) and (source.size or 0) <= wrappers.PEEK_LIMIT // 4:
            inner.exhaust()
        take_dump(draft, inner, path, log=log and inner.size is not None)
    elif kind is not None:
        header = named.parse(kind, inner)
        take_header(draft, header, vmcoreinfo.parse(named.find_vmcoreinfo(inner)), "memory")
    else:
        layers = " in ".join(reversed(found.layers))
        raise not_a_dump(f"what is in {path} ({layers})", head)
    if inner.damage is not None:
        draft.plain(complete=False, incomplete_reason=f"the archive is cut off or damaged: {inner.damage}")
        draft.origins["complete"] = draft.origins["incomplete_reason"] = "size"
    elif "xz" in found.layers[:1] and (reason := completeness.of_xz(source)):
        draft.offer("size", complete=False, incomplete_reason=reason)


def _take_text(draft: Draft, source: Source, origin: str) -> None:
    text = source.read_at(0, _LOG_BYTES)
    size = source.size
    if size is not None and size > _LOG_BYTES:
        # The beginning has the banner, the end the panic.
        text = text[: 1 << 20] + source.read_at(size - _LOG_BYTES, _LOG_BYTES)
    take_findings(draft, panic.examine(printk.from_text(text)), origin)


def _take_uname(draft: Draft, uname: str) -> None:
    """`uname -a` of the machine after its reboot, usually with the same kernel."""
    words = uname.split()
    if len(words) > 3 and words[0] == "Linux":
        draft.offer("sosreport", release=words[2])
        draft.offer("sosreport", arch=next((word for word in reversed(words) if word in MACHINES), None))


def _take_wanted(draft: Draft, saved_log: str | None) -> None:
    """Where the dump itself is, as far as the name of the log beside it tells."""
    if saved_log is None:
        draft.plain(wanted="/var/crash/<address>-<time>/vmcore")
        return
    before, found, name = saved_log.rpartition("/")
    at = before.find("var/crash")
    own = before.rpartition("/")[2]
    if at >= 0:
        directory = "/" + before[at:]
    else:
        directory = f"/var/crash/{own if _CASE_NAME.fullmatch(own) else '<address>-<time>'}"
    stamp = name.removeprefix("dmesg.")
    dump = f"dump.{stamp}" if found and stamp.isdigit() else "vmcore"
    draft.plain(wanted=f"{directory}/{dump}")


def take_header(draft: Draft, header: Header, info: Mapping[str, str], origin: str) -> None:
    """`origin` is "notes", or "memory" when the VMCOREINFO note was lost and its text found by looking for it."""
    draft.plain(format=header.format, vmcoreinfo=info)
    found = "vmcoreinfo" if origin == "notes" else "vmcoreinfo in memory"
    draft.offer(found, release=_release(info))
    draft.offer("header", release=header.release, utsname_version=header.utsname_version)
    draft.offer(header.arch_origin, arch=header.arch)
    draft.offer(found, arch=vmcoreinfo.architecture(info))
    draft.offer(found, build_id=vmcoreinfo.build_id(info, draft.get("utsname_version")))
    page_size = vmcoreinfo.decimal(info, "PAGESIZE")
    draft.offer(found, page_size=page_size if page_size and 4096 <= page_size <= 1 << 20 else None)
    draft.offer("header", page_size=header.page_size)
    draft.offer("notes" if header.format == "elf" else "header", nr_cpus=header.nr_cpus)
    draft.offer(found, crash_time=utc(vmcoreinfo.decimal(info, "CRASHTIME")))
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
    if found.banner is not None and "mockbuild@" in found.banner:
        # RPM's build system; the rules are only read when there is something to ask them.
        from sandbox.dump.release import vendor

        draft.offer("banner", vendor=vendor(found.banner))
    if found.release is not None and found.release != draft.get("release"):
        # Some tools that convert hypervisors' snapshots put VMCOREINFO of another kernel in (drgn issue 350).
        draft.origins["release"] += f"; the {origin} says {found.release}"


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
    if directories.unfinished_beside(path):
        draft.offer("README.txt", complete=False, incomplete_reason="kdump's README.txt beside it says so")
    draft.offer("size", complete=True)


def _take_log(draft: Draft, opened: opening.OpenedDump) -> None:
    try:
        take_findings(draft, panic.examine(opened.log()), "log")
    except printk.LogMissingError:
        saved = directories.log_beside(draft.values["path"])
        if saved is not None:
            with suppress(VmboxError), FileSource(saved, seconds=_SECONDS / 2) as source:
                beside = Draft(saved, source.size)
                _take_text(beside, source, saved.name)
                # Of another kernel it is another crash's.
                if draft.get("release") in {None, beside.get("release")}:
                    draft.take_over(beside)


def _take_image(draft: Draft, opened: opening.OpenedDump) -> None:
    """From the kernel image in memory, what neither VMCOREINFO nor the log gave."""
    kernel = opened.kernel()
    start = vmcoreinfo.symbol(opened.info, "_stext")
    if kernel is None:
        return
    if draft.get("utsname_version") is None:
        with suppress(PageMissingError):
            draft.offer("memory", utsname_version=kernel_image.utsname_version(kernel, opened.info))
    if start is None:
        return
    if draft.get("build_id") is None:
        draft.offer("memory", build_id=kernel_image.find_build_id(kernel, start))
    release = draft.get("release")
    if draft.get("banner") is None and draft.get("uptime_seconds") is not None and release is not None:
        # The log was read, and its beginning is gone.
        banner = kernel_image.find_banner(kernel, start, release)
        take_findings(draft, panic.Findings(banner=banner), "memory")


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
    if name.endswith(".vmem"):
        return NotADump(
            f"{name} is the memory of a VMware machine, without its state", hint="put the .vmss or .vmsn beside it"
        )
    return NotADump(f"{name} is not a kernel crash dump, as far as its first bytes tell")
