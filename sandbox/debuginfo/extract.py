"""Extracts vmlinux from a package that is read from its start, or by ranges."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from sandbox.debuginfo import strip_relocs
from sandbox.debuginfo.http_ranges import BlockStream, HttpFile, RemoteStream, XzBlocks
from sandbox.debuginfo.signature import signer
from sandbox.dump import magic
from sandbox.errors import VerificationFailed
from sandbox.formats import deb, elf, rpm, tar
from sandbox.formats.compressions import COMPRESSIONS, decompressed
from sandbox.formats.member import Member
from sandbox.formats.streams import CHUNK, CorruptData, FileStream, Stream
from sandbox.formats.xz import NotSeekable
from sandbox.host.disk import need_space, no_space
from sandbox.host.files import write_all
from sandbox.model import DebuginfoFormat
from sandbox.progress import Step

_LARGEST_FILE: Final = 16 << 30
"""Bytes that a file of unknown size may have."""
_STRIDE: Final = 256 << 20
"""Free space is checked again after so many bytes."""


class NoVmlinux(CorruptData):
    """The package is complete but has no vmlinux."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSpec:
    """How to take vmlinux out of a package."""

    kind: DebuginfoFormat
    patterns: Sequence[re.Pattern[str]]
    """Over member paths; the first regular file that matches is vmlinux."""
    keys: Sequence[Path] = ()
    """Public keys, one of which must have signed an RPM; if empty, no signature is needed."""


def extract(what: ExtractSpec, package: Stream, directory: Path) -> str:
    """Writes `directory`/vmlinux from a package read from its start; reads no further than necessary.

    Returns what the package itself proves about vmlinux, in words. Raises `CorruptData`, `NoVmlinux`, `NoSpace`,
    `VerificationFailed`.
    """
    whole = directory / "whole"
    proven = ""
    match what.kind:
        case DebuginfoFormat.RPM:
            proven = _extract_rpm(what, package, whole)
        case DebuginfoFormat.DEB:
            _extract_deb(what, package, whole)
        case DebuginfoFormat.VMLINUX:
            write(package, None, whole)
        case _:
            assert_never(what.kind)
    finalize(whole, directory / "vmlinux")
    return proven


def unpack(packed: Path, target: Path) -> None:
    """Copies `packed` to `target`, decompressed if necessary. Raises `CorruptData`, `NoSpace`."""
    with FileStream(packed) as file:
        kind = COMPRESSIONS.get(magic.wrapper(file.read(magic.PEEK)) or "", "none")
    with FileStream(packed) as file:
        write(decompressed(file, kind), None, target)


def finalize(whole: Path, target: Path) -> None:
    """Moves `whole` to `target`, without the parts that crash does not need."""
    file = strip_relocs.LocalFile(whole)
    if (plan := strip_relocs.plan(file)) is None:
        whole.rename(target)
    else:
        strip_relocs.copy(file, target, plan)
        whole.unlink()


def extract_ranged(
    what: ExtractSpec, file: HttpFile, directory: Path, *, check: Callable[[str | None], None], step: Step
) -> str:
    """Does the same by ranges: reads only the blocks with the parts of vmlinux that are needed.

    `check` gets the build-id before most of it is fetched, and may raise. Raises `RangesUnsupported`, `NotSeekable`,
    `CorruptData`, `NoVmlinux`, `NoSpace`, `DownloadFailed`, `VerificationFailed`.
    """
    if what.kind is DebuginfoFormat.RPM:
        return _rpm_by_ranges(what, file, directory, check, step)
    kind, data = deb.data_part(RemoteStream(file))
    if kind != "xz":
        raise NotSeekable(f"it is compressed with {kind}")
    with contextlib.closing(XzBlocks(file, data.offset, data.size)) as blocks:
        stream = BlockStream(blocks)
        for member in tar.members(stream):
            if _is_vmlinux(member.path, what.patterns) and member.regular:
                vmlinux = strip_relocs.Part(blocks, stream.at, member.size)
                check(_build_id(vmlinux))
                plan = strip_relocs.plan(vmlinux)
                step.total(file.fetched + blocks.cost(stream.at, vmlinux.size if plan is None else plan.cut))
                strip_relocs.copy(vmlinux, directory / "vmlinux", plan)
                return ""
    raise NoVmlinux("there is no vmlinux in it")


def _rpm_by_ranges(
    what: ExtractSpec, file: HttpFile, directory: Path, check: Callable[[str | None], None], step: Step
) -> str:
    header = rpm.read(RemoteStream(file))
    by = signed(what, header)
    wanted = _wanted(what, header)
    if header.compression != "xz":
        raise NotSeekable(f"it is compressed with {header.compression}")
    at = rpm.offset_in_payload(header, wanted)
    if at is None:
        raise NotSeekable("its files cannot be found without reading all of them")
    with contextlib.closing(XzBlocks(file, header.payload_at, file.size - header.payload_at)) as blocks:
        stream = BlockStream(blocks)
        stream.skip(at)
        if not is_file(rpm.payload_member(stream, header), wanted):
            raise NotSeekable("its files are not where its header says")
        # Also the parts that are not kept: the digest is over the whole file.
        vmlinux = strip_relocs.Part(blocks, stream.at, wanted.size)
        check(_build_id(vmlinux))
        step.total(file.fetched + blocks.cost(stream.at, wanted.size))
        strip_relocs.copy(vmlinux, directory / "whole", None)
    with (directory / "whole").open("rb") as whole:
        compare(header, wanted, hashlib.file_digest(whole, header.hash).hexdigest())
    finalize(directory / "whole", directory / "vmlinux")
    return _proven(header, by)


def _extract_rpm(what: ExtractSpec, package: Stream, target: Path) -> str:
    header = rpm.read(package)
    by = signed(what, header)
    wanted = _wanted(what, header)
    stream = decompressed(package, header.compression)
    for member in rpm.payload_members(stream, header):
        if is_file(member, wanted):
            compare(header, wanted, write(member.content, wanted.size, target, header.hash))
            return _proven(header, by)
    raise CorruptData("its payload has no vmlinux, though its header has")


def signed(what: ExtractSpec, header: rpm.Rpm) -> str:
    """The signer of the package's header, in words; empty when none is required. Raises `VerificationFailed`."""
    return signer(header.header, header.signatures, what.keys, what=header.nevra) if what.keys else ""


def _wanted(what: ExtractSpec, header: rpm.Rpm) -> rpm.RpmFile:
    wanted = rpm.find(header, what.patterns)
    if wanted is None:
        raise NoVmlinux(f"there is no vmlinux in {header.nevra}")
    if not header.hash:
        raise CorruptData("its digests are of a kind that is not known here")
    return wanted


def is_file(member: Member | None, file: rpm.RpmFile) -> bool:
    """Whether a member of the payload is the file that the header describes."""
    return member is not None and (member.path, member.size) == (file.path, file.size)


def compare(header: rpm.Rpm, wanted: rpm.RpmFile, digest: str) -> None:
    """Raises `VerificationFailed` unless `digest` is the one that the header has for that file."""
    if digest != wanted.digest:
        raise VerificationFailed(
            f"{header.nevra}: the {header.hash.upper()} of {Path(wanted.path).name} is {digest}, "
            f"its header says {wanted.digest}"
        )


def _proven(header: rpm.Rpm, signed: str) -> str:
    digest = f"{header.hash.upper().replace('SHA', 'SHA-')} of vmlinux from the package's header"
    return f"{digest}, which {signed} signed" if signed else f"{digest}, no signature required"


def _build_id(vmlinux: strip_relocs.Part) -> str | None:
    try:
        return elf.parse(vmlinux.read_at).build_id
    except elf.NotElf as error:
        raise CorruptData(f"its vmlinux is {error}") from None


def _extract_deb(what: ExtractSpec, package: Stream, target: Path) -> None:
    for member in deb.files(package):
        if _is_vmlinux(member.path, what.patterns) and member.regular:
            write(member.content, member.size, target)
            return
    raise NoVmlinux("there is no vmlinux in it")


def _is_vmlinux(path: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(pattern.match(path) for pattern in patterns)


def write(stream: Stream, size: int | None, target: Path, algorithm: str = "sha256") -> str:
    """Writes the next `size` bytes of `stream`, or all of it, to `target`; returns their digest."""
    need_space(target.parent, size or 0, "vmlinux")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    left = _LARGEST_FILE if size is None else size
    done = 0
    try:
        with target.open("wb", buffering=0) as out:
            while left:
                data = stream.read(min(left, CHUNK))
                if not data:
                    if size is None:
                        break
                    raise CorruptData("it ends too early")
                write_all(out.fileno(), data)
                digest.update(data)
                left -= len(data)
                done += len(data)
                if size is None:
                    if not left:
                        raise CorruptData("what it unpacks to has no end")
                    if done // _STRIDE != (done - len(data)) // _STRIDE:
                        need_space(target.parent, _STRIDE, "vmlinux")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(target.parent, "vmlinux") from None
        raise
    return digest.hexdigest()
