"""identify(path) -> Vmcore: what a dump is, read from the file alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sandbox.dump import elf, kdump, signatures, vmcoreinfo
from sandbox.dump.header import Header
from sandbox.dump.source import FileSource, OutOfTimeError, Source
from sandbox.errors import DumpDamaged, NotADump
from sandbox.model import Vmcore

_SECONDS: Final = 1.5
"""Time that one file may take. Whole dumps take a hundredth of it; crafted ones take no more."""


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
            _examine(draft, source, str(path), log=log)
        except OutOfTimeError as error:
            raise DumpDamaged(f"{path}: its header is damaged: reading what it names takes too long") from error
    return draft.finish()


def _examine(draft: Draft, source: Source, name: str, *, log: bool) -> None:  # noqa: ARG001 - the log comes next
    head = source.read_at(0, signatures.PEEK)
    match signatures.dump_format(head):
        case "kdump-compressed" | "diskdump":
            found = kdump.parse(source)
            if found is None:
                raise damaged_header(name, source, kdump.HEADER_SIZE)
            _take_header(draft, found[0])
        case "elf":
            _take_header(draft, elf.parse(source, name)[0])
        case _:
            raise not_a_dump(name, head)


def _take_header(draft: Draft, header: Header) -> None:
    info = vmcoreinfo.parse(header.vmcoreinfo)
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
    if header.flag is not None:
        draft.offer("header", complete=False, incomplete_reason=header.flag)


def _release(info: Mapping[str, str]) -> str | None:
    value = info.get("OSRELEASE")
    # A format string of some program's own, found in place of the value, is no release.
    return value if value and "%" not in value and value.isprintable() and len(value) <= 64 else None


def utc(seconds: int | None) -> datetime | None:
    """None for 0, which means unknown, and for years no crash dump comes from."""
    if seconds is None or not 0 < seconds < 1 << 33:
        return None
    return datetime.fromtimestamp(seconds, tz=UTC)


def damaged_header(name: str, source: Source, needed: int) -> DumpDamaged:
    left = len(source.read_at(0, needed))
    if left < needed:
        return DumpDamaged(f"{name}: cut off in the header: only {left} bytes are there")
    return DumpDamaged(f"{name}: the header is damaged: its fields contradict each other")


def not_a_dump(name: str, head: bytes) -> NotADump:
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
    return NotADump(f"{os.path.basename(name) or name}: not a kernel crash dump, as far as its first bytes tell")  # noqa: PTH119 - a plain string here
