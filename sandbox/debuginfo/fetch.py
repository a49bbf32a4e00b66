"""Fetches vmlinux from one package of an archive into a directory: by ranges if possible, else the whole package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.debuginfo.download import read_package
from sandbox.debuginfo.extract import ExtractSpec, extract, extract_ranged, finalize, unpack
from sandbox.debuginfo.http_ranges import HttpFile, RangesUnsupported
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.debuginfo.proof import Identity, identity
from sandbox.debuginfo.unstrip import merge
from sandbox.errors import DebuginfoMismatch, DebuginfoNotFound, VerificationFailed
from sandbox.formats import elf
from sandbox.formats.streams import CorruptData, Stream
from sandbox.formats.xz import NotSeekable
from sandbox.host import config
from sandbox.model import DebuginfoFormat, Verification
from sandbox.progress import Reporter


def verify_strictly() -> bool:
    """Whether the setting `verify` asks for the hash of every package: "strict". The default is "auto".

    The signature of a .deb is over the hash of all its bytes, so reading a tenth of it proves less. With "auto" it is
    read by ranges when the dump has a build-id. Then every block that is read is checked, the package must be as long
    as the archive's signed index says, and vmlinux must have the dump's build-id. This finds every mistake, but not an
    attacker who changes plain HTTP on its way. Such an attacker can make crash print wrong answers, in the sandbox.
    """
    return config.current().verify == "strict"


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
    # A signed header with a digest of each file proves as much as the hash of the whole package.
    signed = order.contents.kind is DebuginfoFormat.RPM and bool(order.contents.keys)
    packaged = order.contents.kind is not DebuginfoFormat.VMLINUX
    if packaged and not begun and (signed or (order.build_id_decides and not verify_strictly())):
        try:
            return _by_ranges(order, remote, directory, reporter)
        except (RangesUnsupported, NotSeekable) as why:
            reporter.notice(f"{remote.package}: {why}, so all of it is downloaded")
    return _whole(order, remote, directory, part, reporter)


def add_kernel(what: ExtractSpec, remote: RemotePackage, directory: Path, part: Path, reporter: Reporter) -> None:
    """Joins the stripped vmlinux in the package `remote` with the debug information in `directory`/vmlinux.

    Raises `DebuginfoMismatch` when they are of different builds, `DownloadFailed`, `VerificationFailed`, `NoSpace`.
    """
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


def identify(vmlinux: Path) -> Identity:
    """Reads build-id and banners. Raises `DebuginfoNotFound` if it is no vmlinux or has no debug information."""
    try:
        found = identity(vmlinux)
    except elf.NotElf as error:
        raise DebuginfoNotFound(f"{vmlinux}: {error}") from None
    if not found.dwarf:
        raise DebuginfoNotFound(
            f"{vmlinux}: has no debug information",
            hint="the vmlinux of the debug package is needed, not the one in /boot",
        )
    return found


def _by_ranges(order: FetchRequest, remote: RemotePackage, directory: Path, reporter: Reporter) -> FetchResult:
    def check(build_id: str | None) -> None:
        if order.build_id_decides:
            order.prove(Identity(build_id=build_id, banners=(), dwarf=True))

    with reporter.step(f"Downloading {_title(remote)}", unit="B") as step:
        file = HttpFile(remote.url, remote.size, reporter, step)
        try:
            proven = extract_ranged(order.contents, file, directory, check=check, step=step)
        except CorruptData as error:
            raise VerificationFailed(f"{remote.url}: {error}") from None
        size = file.size
    found, proof = identify_and_match(order, directory / "vmlinux")
    read = f"{file.fetched / 1e6:.0f} of {size / 1e6:.0f} MB were read"
    level = Verification.SIGNATURE if order.contents.keys else Verification.NONE
    if not proven:
        secure = remote.url.startswith("https:")
        level = Verification.RANGED_TLS if secure else Verification.RANGED_PLAIN
        proven = (
            f"read by ranges {'over TLS' if secure else 'without TLS'}: build-id, size and block checks, "
            "not the package's hash (VMBOX_VERIFY=strict compares it)"
        )
    return FetchResult(identity=found, proof=proof, verified=f"{proven}; {read}", check=level)


def _whole(order: FetchRequest, remote: RemotePackage, directory: Path, part: Path, reporter: Reporter) -> FetchResult:
    def consume(package: Stream) -> tuple[Identity, str, str]:
        # Checked while the rest arrives: a package that does not match need not be fetched to its end.
        proven = extract(order.contents, package, directory)
        return (*identify_and_match(order, directory / "vmlinux"), proven)

    try:
        (found, proof, proven), sha256 = read_package(
            remote, part, consume, title=f"Downloading {_title(remote)}", reporter=reporter
        )
    except (DebuginfoMismatch, DebuginfoNotFound):
        part.unlink(missing_ok=True)
        raise
    checked = [proven] if proven else []
    if remote.sha256:
        checked.insert(0, "SHA-256 of the whole package")
    verified = "; ".join(checked) or "nothing but its size: no hash is known"
    if order.contents.keys and proven:
        check = Verification.SIGNATURE
    else:
        check = Verification.HASH if remote.sha256 else Verification.NONE
    return FetchResult(identity=found, proof=proof, verified=verified, check=check, sha256=sha256)


def _title(remote: RemotePackage) -> str:
    return remote.package if remote.version is None else f"{remote.package} {remote.version}"
