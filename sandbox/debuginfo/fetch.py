"""Fetches vmlinux from one package of an archive into a directory: by ranges if possible, else the whole package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox import render
from sandbox.debuginfo import trust
from sandbox.debuginfo.download import is_secure, over_tls, refuse_page
from sandbox.debuginfo.extract import ExtractSpec, extract, extract_ranged, finalize, unpack
from sandbox.debuginfo.http_ranges import HttpFile, RangesUnsupported
from sandbox.debuginfo.package_download import read_package
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.debuginfo.proof import Identity, identity
from sandbox.debuginfo.unstrip import merge
from sandbox.errors import DebuginfoMismatch, DebuginfoNotFound, VerificationFailed
from sandbox.formats import elf
from sandbox.formats.streams import CorruptData, Stream
from sandbox.formats.xz import NotSeekable
from sandbox.host import mirrors
from sandbox.model import DebuginfoFormat, Verification
from sandbox.progress import Reporter

_BEGINNING: Final = 64
"""Bytes that tell a web page from a package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """Files to take out of a package, and how to check them."""

    contents: ExtractSpec
    prove: Callable[[Identity], str]
    build_id_decides: bool
    """The dump has a build-id, and no vmlinux with another one is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    identity: Identity
    proof: str
    verified: str
    check: Verification
    sha256: str | None = None
    """Of the whole package, where all of it was read."""


def fetch(order: FetchRequest, remote: RemotePackage, directory: Path, part: Path, reporter: Reporter) -> FetchResult:
    """Puts vmlinux of `remote` into `directory`.

    Raises `DebuginfoMismatch`, `DebuginfoNotFound`, `DownloadFailed`, `VerificationFailed`, `NoSpace`.
    """
    # Continuing an interrupted download costs less than reading by ranges from the start.
    begun = part.exists() and part.stat().st_size > 0
    signed = is_signed(order.contents)
    if order.contents.kind is DebuginfoFormat.RPM and not signed:
        reporter.notice(f"{remote.package}: packages of this archive are not signed")
    if trust.strict() and not signed and not _hash_is_signed(remote):
        raise VerificationFailed(
            f'{remote.url}: neither a signature nor a signed hash of it is known, and verify is "strict"',
            hint="get it another way and vouch for it: vmbox debuginfo add FILE",
        )
    packaged = order.contents.kind is not DebuginfoFormat.VMLINUX
    url = None
    if packaged and not begun and (signed or (order.build_id_decides and not trust.strict())):
        url = ranged_url(remote, signed=signed, reporter=reporter)
    if url is not None:
        try:
            return _by_ranges(order, remote, url, directory, reporter)
        except (RangesUnsupported, NotSeekable) as why:
            if isinstance(why, RangesUnsupported):
                refuse_page(url, why.beginning)
            reporter.notice(f"{remote.package}: {why}, so all of it is downloaded")
    return _whole(order, remote, directory, part, reporter)


def is_signed(contents: ExtractSpec) -> bool:
    """Whether the package proves each of its files by itself: an RPM's signed header has a digest of each."""
    return contents.kind is DebuginfoFormat.RPM and bool(contents.keys)


def ranged_url(remote: RemotePackage, *, signed: bool, reporter: Reporter) -> str | None:
    """Where parts of the package may be read; None where only all of it can be compared with its hash.

    A .deb is signed through the hash of all its bytes, so a part of it proves nothing by itself. Over TLS it comes from
    the archive, and is checked block by block, by the size in the archive's signed index, and by the dump's build-id.
    Without TLS anybody on the way could make crash print wrong answers, so the archive is asked for TLS first.
    """
    url = mirrors.rewrite(remote.url)
    if signed or url.startswith("https:"):
        return url
    if (secure := over_tls(url, remote.size)) is not None:
        return secure
    if remote.sha256 is not None:
        reporter.notice(f"{remote.package}: it comes without TLS, so all of it is downloaded to compare its hash")
        return None
    # No hash: all of it would prove no more than a part.
    return url


def _hash_is_signed(remote: RemotePackage) -> bool:
    return remote.sha256 is not None and remote.index_signed


def add_kernel(what: ExtractSpec, remote: RemotePackage, directory: Path, part: Path, reporter: Reporter) -> None:
    """Joins the stripped vmlinux in the package `remote` with the debug information in `directory`/vmlinux.

    Raises `DebuginfoMismatch` when they are of different builds, `DownloadFailed`, `VerificationFailed`, `NoSpace`.
    """
    if trust.strict() and not is_signed(what):
        raise VerificationFailed(f'{remote.url}: it need not be signed, and verify is "strict"', hint="")
    apart = directory / "kernel"
    apart.mkdir()
    try:
        read_package(
            remote,
            part,
            lambda package: extract(what, package, apart),
            title=f"Downloading {_title(remote)}",
            reporter=reporter,
        )
        unpack(apart / "vmlinux", apart / "unpacked")
        with reporter.step("Joining kernel and debug information"):
            merge(apart / "unpacked", directory / "vmlinux", apart / "whole")
        finalize(apart / "whole", directory / "vmlinux")
    except CorruptData as error:
        raise DebuginfoMismatch(f"{remote.url}: {error}") from None
    finally:
        shutil.rmtree(apart)


def identify_and_match(order: FetchRequest, vmlinux: Path) -> tuple[Identity, str]:
    """(identity, proof) of an unpacked vmlinux. Raises `DebuginfoMismatch`, `DebuginfoNotFound`."""
    found = identify(vmlinux)
    return found, order.prove(found)


def identify(vmlinux: Path, name: Path | None = None) -> Identity:
    """Reads build-id and banners. Raises `DebuginfoNotFound` if it is no vmlinux or has no debug information.

    `name` is the file that it was unpacked from, for the message.
    """
    name = name or vmlinux
    try:
        found = identity(vmlinux)
    except elf.NotElf as error:
        raise DebuginfoNotFound(f"{name}: {error}") from None
    if not found.dwarf:
        raise DebuginfoNotFound(
            f"{name}: has no debug information",
            hint="the vmlinux of the debug package is needed, not the one in /boot",
        )
    return found


def _by_ranges(
    order: FetchRequest, remote: RemotePackage, url: str, directory: Path, reporter: Reporter
) -> FetchResult:
    def check(build_id: str | None) -> None:
        if order.build_id_decides:
            order.prove(Identity(build_id=build_id, banners=(), dwarf=True))

    with reporter.step(f"Downloading {_title(remote)}", unit="B") as step:
        file = HttpFile(url, remote.size, reporter, step)
        try:
            proven = extract_ranged(order.contents, file, directory, check=check, step=step)
        except CorruptData as error:
            refuse_page(url, file.read_at(0, min(file.size, _BEGINNING)))
            raise VerificationFailed(f"{remote.url}: {error}") from None
        size = file.size
    found, proof = identify_and_match(order, directory / "vmlinux")
    read = f"{render.size(file.fetched)} of {render.size(size)} were read"
    level = Verification.SIGNATURE
    if not is_signed(order.contents):
        level = Verification.RANGED_TLS if file.secure else Verification.RANGED_PLAIN
        ranged = (
            f"read by ranges {'over TLS' if file.secure else 'without TLS'}: build-id, size and block checks, "
            "not the package's hash (VMBOX_VERIFY=strict compares it)"
        )
        proven = "; ".join(filter(None, (proven, ranged)))
    return FetchResult(identity=found, proof=proof, verified=f"{proven}; {read}", check=level)


def _whole(order: FetchRequest, remote: RemotePackage, directory: Path, part: Path, reporter: Reporter) -> FetchResult:
    def consume(package: Stream) -> tuple[Identity, str, str]:
        # Checked while the rest arrives: a package that does not match need not be fetched to its end.
        proven = extract(order.contents, package, directory)
        return (*identify_and_match(order, directory / "vmlinux"), proven)

    # What an earlier attempt left may have come another way.
    secure = is_secure(remote.url) and not (part.exists() and part.stat().st_size)
    try:
        (found, proof, proven), sha256 = read_package(
            remote, part, consume, title=f"Downloading {_title(remote)}", reporter=reporter
        )
    except (DebuginfoMismatch, DebuginfoNotFound):
        part.unlink(missing_ok=True)
        raise
    checked = [proven] if proven else []
    if remote.sha256:
        known = "" if remote.index_signed else ", as an index without a signature has it"
        checked.insert(0, f"SHA-256 of the whole package{known}")
    if secure and not remote.sha256:
        checked.append("all of it came over TLS: no hash is known")
    verified = "; ".join(checked) or "nothing but its size: no hash is known"
    if is_signed(order.contents):
        check = Verification.SIGNATURE
    elif _hash_is_signed(remote):
        check = Verification.HASH
    else:
        check = Verification.TLS if secure else Verification.NONE
    return FetchResult(identity=found, proof=proof, verified=verified, check=check, sha256=sha256)


def _title(remote: RemotePackage) -> str:
    return remote.package if remote.version is None else f"{remote.package} {remote.version}"
