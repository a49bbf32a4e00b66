"""Copies the user's debuginfo into the cache: a vmlinux, a package, or a directory of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.debuginfo import local, strip_relocs, trust
from sandbox.debuginfo.extract import ExtractSpec, extract
from sandbox.debuginfo.fetch import identify
from sandbox.debuginfo.gdb_index import GdbIndexBuilder, add_gdb_index
from sandbox.debuginfo.proof import Identity
from sandbox.debuginfo.store import About, Entry, Store, key_of
from sandbox.errors import DebuginfoError, DebuginfoNotFound
from sandbox.formats.compressions import decompressed
from sandbox.formats.streams import CorruptData, FileStream
from sandbox.host import paths
from sandbox.model import DebuginfoFormat, Verification
from sandbox.progress import QUIET, Reporter

ANY_VMLINUX: Final = (re.compile(r"(.*/)?vmlinux(-[^/]*)?(\.debug)?$"),)
"""For a user's package of a kernel that no profile knows."""


def add(
    path: Path,
    *,
    gdb_index_builder: GdbIndexBuilder | None = None,
    reporter: Reporter = QUIET,
    cache: Path | None = None,
    in_use: Callable[[], frozenset[str]] = frozenset,
) -> tuple[Entry, ...]:
    """Puts a vmlinux, a package, or all that is in a directory into the cache, for dumps that are still to come.

    Raises `DebuginfoNotFound` when there is nothing for crash in it, `NoSpace`.
    """
    store = Store(cache or paths.cache_dir())
    if path.is_dir():
        files = list(local.candidates(path, None))
    else:
        local.kind(path)  # which says what is wrong with a single file
        files = [path]
    added: list[Entry] = []
    failures: list[str] = []
    for file in files:
        try:
            added.append(_added(file, store, gdb_index_builder, reporter, in_use))
        except DebuginfoError as error:
            failures.append(error.message)
    if not added:
        raise DebuginfoNotFound(f"{path}: no vmlinux with debug information in it", detail="\n".join(failures) or None)
    return tuple(added)


def _added(
    file: Path,
    store: Store,
    gdb_index_builder: GdbIndexBuilder | None,
    reporter: Reporter,
    in_use: Callable[[], frozenset[str]],
) -> Entry:
    file = file.absolute()
    key = hashlib.sha256(bytes(file)).hexdigest()
    with store.locked(key, reporter), store.new(key) as directory:
        found, proven = unpacked(file, ExtractSpec(kind=local.kind(file), patterns=ANY_VMLINUX), directory, reporter)
        there = store.find(key_of(found.build_id, found.banners))
        if there is not None and trust.shared(there.about.check):
            return there
        if gdb_index_builder is not None:
            add_gdb_index(directory, gdb_index_builder, reporter)
        said = about(found, proven, file)
        said = replace(said, check=Verification.ADDED, verified=f"added by the user for every dump; {said.verified}")
        return store.keep(directory, said, in_use=in_use())


def unpacked(file: Path, contents: ExtractSpec, directory: Path, reporter: Reporter) -> tuple[Identity, str]:
    """Writes `directory`/vmlinux from a vmlinux or package: (its identity, what the package proves about it)."""
    proven = ""
    packing = local.compression(file) if contents.kind is DebuginfoFormat.VMLINUX else "none"
    if contents.kind is DebuginfoFormat.VMLINUX and packing == "none":
        identify(file)
        whole = strip_relocs.LocalFile(file)
        strip_relocs.copy(whole, directory / "vmlinux", strip_relocs.plan(whole))
    else:
        with FileStream(file) as package, reporter.step(f"Unpacking vmlinux of {file.name}"):
            try:
                proven = extract(contents, decompressed(package, packing), directory)
            except CorruptData as error:
                raise DebuginfoNotFound(f"{file}: {error}") from None
    return identify(directory / "vmlinux", file), proven


def about(found: Identity, proven: str, path: Path) -> About:
    return About(
        build_id=found.build_id,
        banners=found.banners,
        origin=str(path),
        verified=proven or "given as it is",
        check=Verification.GIVEN,
        kind=local.kind(path),
    )
