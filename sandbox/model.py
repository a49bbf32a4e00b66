"""The values that are passed between stages. All are frozen; an unknown value is None."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

REMOTE_SCHEMES: Final = ("ssh:", "tcp:", "http:")
"""Beginnings of the address of an engine on another host."""

DUMP_SCHEMES: Final = ("https:/", "http:/", "s3:/", "sftp:/")
"""Beginnings of the URL of a dump on a server; with one slash, as `Path` writes it where a file is read only."""


def field_with_key(key: str, default: object = MISSING) -> Any:
    """A field with another name in JSON: users and earlier versions have JSON with that key."""
    if default is MISSING:
        return field(metadata={"key": key})
    return field(default=default, metadata={"key": key})


def key_of(item: Field[Any]) -> str:
    """The key of a dataclass's field in JSON."""
    return str(item.metadata.get("key", item.name))


class DumpFormat(StrEnum):
    """Values of `Vmcore.format`. `sandbox.dump.magic` recognises them; docs/dumps.md says what is read of each."""

    KDUMP = "kdump-compressed"
    DISKDUMP = "diskdump"
    ELF = "elf"
    LKCD = "lkcd"
    S390 = "s390"
    SADUMP = "sadump"
    VMWARE = "vmware"
    QEMU_MIGRATION = "qemu-migration"
    LIBVIRT_SAVE = "libvirt-save"
    XEN = "xen"
    MCLX = "mclx"
    FLATTENED = "flattened"
    """Only a result for the first bytes: `Vmcore.format` is the format after the pieces are put in order."""
    LOG = "log"
    """The kernel's log as text."""
    SOSREPORT = "sosreport"
    """A report without the dump."""
    RELEASE = "release"
    """A kernel given by name, without a dump."""


class Wrapper(StrEnum):
    """A layer around a dump."""

    GZ = "gz"
    BZ2 = "bz2"
    XZ = "xz"
    ZST = "zst"
    LZ4 = "lz4"
    LZOP = "lzop"
    ZIP = "zip"
    SEVENZIP = "7z"
    RAR = "rar"
    """Recognised only to be refused: no `Vmcore` has it."""
    TAR = "tar"
    CPIO = "cpio"
    DIRECTORY = "directory"


class PageCompression(StrEnum):
    """Compression of the pages in a dump."""

    NONE = "none"
    ZLIB = "zlib"
    LZO = "lzo"
    SNAPPY = "snappy"
    ZSTD = "zstd"


class PanicCause(StrEnum):
    """Class of a panic. `sandbox.dump.panic` has the messages of each, `sandbox.report.causes` its meaning."""

    SYSRQ = "sysrq"
    HUNG_TASK = "hung-task"
    OOM = "oom"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    RCU_STALL = "rcu-stall"
    MCE = "mce"
    NMI = "nmi"
    SERROR = "serror"
    INIT_KILLED = "init-killed"
    NO_ROOT = "no-root"
    KASAN = "kasan"
    KFENCE = "kfence"
    KCSAN = "kcsan"
    KMSAN = "kmsan"
    UBSAN = "ubsan"
    CFI = "cfi-failure"
    ATOMIC = "scheduling-while-atomic"
    WORKQUEUE = "workqueue-stall"
    WARNING = "warning"
    STACK_OVERFLOW = "stack-overflow"
    NULL_POINTER = "null-pointer"
    LIST_CORRUPTION = "list-corruption"
    BUG = "bug"
    PAGE_FAULT = "page-fault"
    GENERAL_PROTECTION = "general-protection"
    DOUBLE_FAULT = "double-fault"
    DIVIDE_ERROR = "divide-error"
    INVALID_OPCODE = "invalid-opcode"
    FILESYSTEM = "filesystem"
    IPMI = "ipmi"
    HARDWARE_ERROR = "hardware-error"
    OOPS = "oops"
    OTHER = "other"
    """A panic of none of these classes."""


class CommandStatus(StrEnum):
    """Result of a debugger's command."""

    OK = "ok"
    ERROR = "error"
    """The debugger reported an error."""
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    DIED = "died"
    """The debugger ended during the command."""
    UNASKED = "unasked"
    """Only in a report: the debugger did not get the command."""


class Verification(StrEnum):
    """How a debuginfo package was checked against its archive."""

    SIGNATURE = "signature"
    """The vendor's signature of an RPM's header, and the file's digest."""
    HASH = "hash"
    """Hash of the whole package."""
    RANGED_TLS = "ranged-tls"
    """Build-id, size and blocks of the parts that were read over TLS."""
    TLS = "tls"
    """All of the package came over TLS; no hash of it is known."""
    RANGED_PLAIN = "ranged-plain"
    """As ranged-tls without TLS: not proven to be the archive's."""
    ADDED = "added"
    """Added by the user, for every dump of the build: `vmbox debuginfo add`."""
    GIVEN = "given"
    """Given by the user for one dump, or found beside it."""
    NONE = "none"
    UNKNOWN = ""


class DebuginfoFormat(StrEnum):
    """Form of a file that contains vmlinux."""

    DEB = "deb"
    RPM = "rpm"
    VMLINUX = "vmlinux"
    """Not in a package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vmcore:
    """Properties of a crash dump. Made by `sandbox.dump.identify`, which executes nothing."""

    path: Path
    format: DumpFormat
    size: int
    """Bytes of the file itself, not of its unpacked content."""
    files: tuple[Path, ...] = ()
    """All files of a split set (`makedumpfile --split`), or the two of a VMware suspend; else just `path`."""
    flattened: bool = False
    wrappers: tuple[Wrapper, ...] = ()
    """Compression and archive layers around the dump, outermost first, e.g. ("tar", "xz")."""
    release: str | None = None
    """uname -r of the crashed kernel."""
    utsname_version: str | None = None
    """uname -v of the crashed kernel, e.g. "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-3 (2026-05-08)"."""
    banner: str | None = None
    """The kernel's "Linux version …" line, including the build host, if memory or log could be read."""
    arch: str | None = None
    """As uname -m prints it: x86_64, aarch64, ppc64le, s390x …"""
    build_id: str | None = None
    """Of vmlinux, lower-case hexadecimal."""
    vendor: str | None = None
    """Who built an EL kernel: rhel, centos, rocky, alma, oracle. The release string does not say."""
    page_size: int | None = None
    nr_cpus: int | None = None
    """CPUs whose registers are in the dump."""
    crash_time: datetime | None = None
    """UTC."""
    uptime_seconds: float | None = None
    dump_level: int | None = None
    """makedumpfile -d, the pages that are left out: 1 zero, 2 cache, 4 private cache, 8 user, 16 free; 0 none."""
    compression: PageCompression | None = None
    excerpt: str | None = None
    """For a file that `vmbox excerpt` has made: of which dump, when, by which questions."""
    complete: bool | None = None
    incomplete_reason: str | None = None
    missing_parts: tuple[str, ...] = ()
    """Of a split set, the page frames that no file beside this one has: "FIRST to END", without END."""
    cause: PanicCause | None = None
    panic: str | None = None
    """The line the kernel printed."""
    taint: tuple[str, ...] | None = None
    """Meanings of the taint letters, in words; empty if the kernel said that it was not tainted."""
    hardware: str | None = None
    member: str | None = None
    """Name of the dump in its archive."""
    skipped: str | None = field_with_key("unread", None)
    """Part that was not read because it would take too long, and why; see `vmbox info --unpack`."""
    original_path: str | None = field_with_key("wanted", None)
    """Path of the dump on the crashed machine, if only a report or log of it is here."""
    vmcoreinfo: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    """For each field above that is set: vmcoreinfo, header, notes, memory, log or file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRelease:
    """The parts of a release string. Made by `sandbox.dump.release.classify`."""

    release: str
    klass: str
    """Distribution and version, e.g. debian:12, rhel:8.8, oracle-uek:9, sle:15.SP4; vanilla; unknown."""
    minor: str | None = None
    """The version after its first dot: "8" of rhel:8.8, "SP4" of sle:15.SP4."""
    variant: str | None = None
    """Difference from the main build, in words: rt, debug, 64k, "64k debug", PAE, plus …"""
    arch: str | None = None
    """As in the release, e.g. x86_64 or amd64; None if it has none."""
    flavour: str | None = None
    """The distribution's name for the build: generic, aws, cloud, default, esx, uek …"""
    also: str | None = None
    """Another class whose kernels have the same release, where only uname -v would tell, and it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debuginfo:
    """Debug information of exactly one kernel build, in the cache."""

    directory: Path
    """Contains `vmlinux` and, after a fetch, `modules/`."""
    vmlinux: Path
    build_id: str | None
    origin: str
    """Its source, e.g. a URL or a path that the user gave."""
    proof: str
    """What was compared with the dump, in words; begins with "forced" if nothing matched and the user gave --force."""
    verification_detail: str = field_with_key("verified", "")
    """What of the package was checked against its archive, in words."""
    verification: Verification = field(default=Verification.UNKNOWN, metadata={"key": "check"})
    """The same in one word."""
    package: str | None = None
    """Name of the package it was in."""
    in_image: bool = False
    """Whether these paths are in the image, and not on this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlace:
    """Where the kernel is in a dump whose file does not say it, by VMCOREINFO in its memory."""

    offset: int | None = None
    """Bytes by which KASLR moved the kernel of an x86_64."""
    phys_base: int | None = None
    """Physical address of an x86_64's kernel image, less that for which it was linked; known with `offset`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One dump, open in one disposable container."""

    id: str
    """Short and stable: the same dump file gives the same id."""
    dump: Path
    release: str
    profile: str
    image: str
    vmlinux: Path | None
    """None: the dump is read without debuginfo, by what the kernel has of itself."""
    proof: str
    engine: str
    """docker or podman."""
    endpoint: str
    container: str
    opened: datetime
    directory: Path
    """The runtime directory: locks and records of vmbox, and `shared` with the FIFOs."""
    files: int
    """Number of the dump's files in the container: more than one for a split dump."""
    token: str
    """Random beginning of the session script's own lines."""
    script: int = 1
    """Version of the session script's control words."""
    requested: str = field_with_key("asked", "")
    """Options that the user gave for it, e.g. "image=debian-13"; empty if none."""
    origin: str = ""
    """Source of the debuginfo."""
    mounted: str = ""
    """Device and inode of the directory of `vmlinux` that the container has, "2049:131" say. Empty if not known."""
    verification_detail: str = field_with_key("verified", "")
    """What of its package was checked against its archive, in words."""
    verification: Verification = field(default=Verification.UNKNOWN, metadata={"key": "check"})
    """The same in one word."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of each debugger in its image, by name, as the image says."""
    doubts: Mapping[str, str] = field(default_factory=dict)
    """By debugger: the reason why its answers may be wrong, e.g. a kernel that is newer than it knows."""
    only_misread: bool = False
    """Whether the doubt about crash is of some stacks that each crash misreads: where drgn cannot, it answers."""
    incomplete: str | None = None
    """Missing part of the dump, if known."""
    place: KernelPlace | None = None
    """What the debuggers have to be told, because the dump's file does not say it."""
    build_id: str | None = None
    """Of the kernel, lower-case hexadecimal."""
    no_debuginfo: str = ""
    """Why there is no debuginfo: --no-debuginfo, or the reason that none was found. Empty with debuginfo."""
    awaited: bool = False
    """Whether debuginfo was on its way when the case was opened without."""
    native: bool = False
    """Whether its programs are of the engine's machine, and the dump is of another, which crash does not read."""
    remote: bool = field_with_key("elsewhere", False)
    """Whether the engine is on another host: then `dump` is a path of that host, and the FIFOs are in the container."""

    @property
    def shared(self) -> Path:
        """The part of `directory` that is mounted into the container. The rest is out of the case's reach."""
        return self.directory / "shared" if self.script > 1 else self.directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One crash command and its status. The output is streamed, not kept."""

    command: str
    status: CommandStatus
    seconds: float
    bytes: int


_RELEASE_NUMBERS = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of a kernel release, e.g. (5, 14) for "5.14.0-70.el9.x86_64"; (0, 0) if it has none."""
    found = _RELEASE_NUMBERS.match(release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
