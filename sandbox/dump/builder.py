"""Builds a Vmcore from the facts in each part of a dump, the most trusted part first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sandbox.dump import panic, vmcoreinfo
from sandbox.dump.header import Header
from sandbox.dump.printk import Record
from sandbox.model import Vmcore

if TYPE_CHECKING:
    # Most dumps need no search.
    from sandbox.dump.header_only import ScanResult

_RELEASE: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+~:^@-]{0,63}")


def is_release(text: str) -> bool:
    """Whether `text` can be a kernel's release.

    It is a part of file names, URLs, package names and arguments, so a dump must not choose what leads elsewhere. Nor
    is it a format string that some program of the dump had in place of the value.
    """
    return _RELEASE.fullmatch(text) is not None


class VmcoreBuilder:
    """Collects the fields of a Vmcore. The first value for a field wins, and its origin is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self.values: dict[str, Any] = {"path": path, "size": size, "files": (path,)}
        self.origins: dict[str, str] = {}

    def propose(self, origin: str, **fields: object) -> None:
        for name, value in fields.items():
            if name == "release" and not (isinstance(value, str) and is_release(value)):
                continue
            if value is not None and name not in self.values:
                self.values[name] = value
                self.origins[name] = origin

    def merge(self, other: VmcoreBuilder) -> None:
        for name, origin in other.origins.items():
            self.propose(origin, **{name: other.values[name]})

    def set(self, **fields: object) -> None:
        """Sets fields that need no origin."""
        self.values.update(fields)

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def build(self) -> Vmcore:
        texts = {name: panic.printable(value) for name, value in self.values.items() if type(value) is str}
        return Vmcore(**{**self.values, **texts}, origins=self.origins)


def apply_header(builder: VmcoreBuilder, header: Header, info: Mapping[str, str], origin: str) -> None:
    """`origin` is "notes", or "memory" if the VMCOREINFO note was lost and its text was found by a search."""
    builder.set(format=header.format, vmcoreinfo=info)
    found = "vmcoreinfo" if origin == "notes" else "vmcoreinfo in memory"
    builder.propose(found, release=info.get("OSRELEASE"))
    builder.propose("header", release=header.release, utsname_version=header.utsname_version)
    builder.propose(header.arch_origin, arch=header.arch)
    builder.propose(found, arch=vmcoreinfo.architecture(info))
    builder.propose(found, build_id=vmcoreinfo.build_id(info, builder.get("utsname_version")))
    page_size = vmcoreinfo.decimal(info, "PAGESIZE")
    builder.propose(found, page_size=page_size if page_size and 4096 <= page_size <= 1 << 20 else None)
    builder.propose("header", page_size=header.page_size)
    builder.propose(header.nr_cpus_origin, nr_cpus=header.nr_cpus)
    builder.propose(found, crash_time=_utc(vmcoreinfo.decimal(info, "CRASHTIME")))
    builder.propose("header", crash_time=_utc(header.timestamp))
    builder.propose("header", dump_level=header.dump_level, compression=header.compression, panic=header.panic)
    builder.propose("notes", excerpt=header.excerpt)


def apply_findings(builder: VmcoreBuilder, found: panic.LogFindings, origin: str) -> None:
    builder.propose(
        origin,
        banner=found.banner,
        release=found.release,
        utsname_version=found.utsname_version,
        cause=found.cause,
        panic=found.panic,
        taint=found.taint,
        hardware=found.hardware,
        uptime_seconds=found.uptime_seconds,
        arch=found.arch,
        build_id=found.build_id,
    )
    if found.banner is not None and "mockbuild@" in found.banner:
        # RPM's build system; the rules are only read when there is something to ask them.
        from sandbox.dump.release import vendor

        builder.propose("banner", vendor=vendor(found.banner))
    if found.release is not None and found.release != builder.get("release") is not None:
        # Some tools that convert hypervisors' snapshots insert VMCOREINFO of another kernel (drgn issue 350).
        builder.origins["release"] += f"; the {origin} says {found.release}"


def apply_scan(builder: VmcoreBuilder, found: ScanResult) -> None:
    """Facts that were found in memory without page tables."""
    named = panic.LogFindings(banner=found.banner, release=found.release, utsname_version=found.utsname_version)
    apply_findings(builder, named, "utsname in memory")
    if found.panic is not None:
        # One line: the budget of the search may be used up.
        line = Record(nanoseconds=None, text=found.panic.encode())
        apply_findings(builder, panic.examine([line]), "text in memory")


def _utc(seconds: int | None) -> datetime | None:
    """None for 0, which means unknown, and for years before there were crash dumps."""
    if seconds is None or not 0 < seconds < 1 << 33:
        return None
    return datetime.fromtimestamp(seconds, tz=UTC)
