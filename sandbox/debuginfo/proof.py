"""Whether a vmlinux is of exactly the build that crashed.

crash itself compares the banners, and only after minutes of loading. A build-id is compared at once, and also
distinguishes builds of one source on one host. VMCOREINFO has it (commit 0935288c6e00 ("kdump: append kernel build-id
string to VMCOREINFO"), v5.9).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import DebuginfoMismatch
from sandbox.formats import elf
from sandbox.formats.streams import pread
from sandbox.model import DumpFormat, Vmcore

_BANNER: Final = re.compile(rb"Linux version [\x20-\x7e]{8,1000}")

_LOGS: Final = frozenset({DumpFormat.LOG, DumpFormat.SOSREPORT})
"""What may name its kernel incompletely: an oops that was cut out of a log."""

_MOST_SEARCHED: Final = 1 << 30
"""Bytes: crafted sections may all be one large part of the file."""
_MOST_BANNERS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Build-id and banners of one vmlinux."""

    build_id: str | None
    banners: tuple[str, ...]
    dwarf: bool


def identity(vmlinux: Path) -> Identity:
    """Raises `elf.NotElf`."""
    read = elf.read(vmlinux)
    return Identity(build_id=read.build_id, banners=banners(vmlinux, read), dwarf=read.has_dwarf)


def banners(vmlinux: Path, read: elf.Elf) -> tuple[str, ...]:
    """The "Linux version …" lines inside, each once. There may be two: only the last link step completes one."""
    found: dict[str, None] = {}
    left = _MOST_SEARCHED
    with vmlinux.open("rb", buffering=0) as file:
        for section in read.sections:
            if section.type == elf.SHT_NOBITS or not section.name.startswith((".rodata", ".init.rodata", ".init.data")):
                continue
            for piece in _pieces(file.fileno(), section):
                left -= len(piece)
                for match in _BANNER.finditer(piece):
                    found.setdefault(match[0].decode("ascii").rstrip(), None)
                if left <= 0 or len(found) >= _MOST_BANNERS:
                    break
            if left <= 0 or len(found) >= _MOST_BANNERS:
                break
    # The format string of /proc/version looks similar, but has no release.
    return tuple(banner for banner in found if "%s" not in banner)[:_MOST_BANNERS]


def _pieces(fd: int, section: elf.Section, step: int = 4 << 20, overlap: int = 1024) -> Iterator[bytes]:
    end = section.offset + section.size
    for at in range(section.offset, end, step):
        yield (piece := pread(fd, at, min(step + overlap, end - at)))
        if not piece:
            break


def prove(vmcore: Vmcore, found: Identity, *, name: str, banner_decides: bool = False, force: bool = False) -> str:
    """Compares vmlinux and dump; returns what agrees, in words. Raises `DebuginfoMismatch` if not, unless `force`.

    `banner_decides` is for kernels whose shipped vmlinux has another build-id than the running one (Oracle's UEK
    before 5.4.17-2136.332.2).
    """
    problem, agreed = _compare(vmcore, found, banner_decides=banner_decides)
    if agreed:
        return agreed
    if force:
        return f"forced: {problem}"
    raise DebuginfoMismatch(f"{name} does not match the dump: {problem}")


def _compare(vmcore: Vmcore, found: Identity, *, banner_decides: bool) -> tuple[str, str]:
    """(what differs, what agrees); one of them is empty."""
    if vmcore.build_id and found.build_id:
        if vmcore.build_id == found.build_id:
            return "", f"build-id {found.build_id}"
        if not banner_decides:
            return f"its build-id is {found.build_id}, the dump's {vmcore.build_id}", ""
    if vmcore.banner and found.banners:
        # init/version.c is compiled before the number of the build is known: its copy ends in "# SMP …".
        if any(_words(banner) == _words(vmcore.banner) for banner in found.banners):
            return "", "banner"
        if all(" # " in banner for banner in found.banners) and any(
            _before_number(banner) == _before_number(vmcore.banner) for banner in found.banners
        ):
            return "", "banner up to the build number"
        return f'its banner is "{found.banners[0]}", the dump\'s "{vmcore.banner}"', ""
    if vmcore.release and vmcore.utsname_version and found.banners:
        for banner in found.banners:
            if banner.startswith(f"Linux version {vmcore.release} "):
                if banner.endswith(vmcore.utsname_version):
                    return "", "release and version"
                if vmcore.format in _LOGS and _in_order(vmcore.utsname_version, banner):
                    return "", "release, and what the log has of the version"
        return f'its banner is "{found.banners[0]}", the dump is of {vmcore.release} {vmcore.utsname_version}', ""
    if vmcore.format in _LOGS and any(one.startswith(f"Linux version {vmcore.release} ") for one in found.banners):
        return "", "release alone"
    return "neither build-id nor banner can be compared", ""


def _in_order(version: str, banner: str) -> bool:
    """Whether a banner has the words of the line above a stack: "#1 PREEMPT(lazy)  Debian 7.2.12-1" for
    "#1 SMP PREEMPT_DYNAMIC Debian 7.2.12-1 (2026-10-22)". Its kind of preemption is that at the time.
    """
    words = iter(banner.split())
    return all(word in words for word in version.split() if not word.startswith("PREEMPT"))


def _words(banner: str) -> list[str]:
    return banner.split()


def _before_number(banner: str) -> str:
    return re.split(r" #\d* ", banner, maxsplit=1)[0]
