"""Looks in the cache for a dump's debuginfo. Uses no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sandbox.debuginfo import trust
from sandbox.debuginfo.proof import Identity, prove
from sandbox.debuginfo.store import Entry, Store
from sandbox.errors import DebuginfoMismatch
from sandbox.model import Debuginfo, Vmcore
from sandbox.profiles import Profile


def cached(
    vmcore: Vmcore, home: Profile | None, store: Store, refused: Callable[[Entry, str], object] | None = None
) -> Debuginfo | None:
    """The debuginfo that is there and matches; `home` is the profile of the dump's kernel, if there is one.

    Checked entries come before those that are kept for this dump alone. `refused` is called for each entry that matches
    but must not be used, with the reason.
    """
    by_banner = banner_decides(vmcore, home)
    for entry in _fitting(vmcore, store, by_banner=by_banner):
        try:
            found = _matching(vmcore, entry, by_banner=by_banner)
        except DebuginfoMismatch:
            continue
        why = trust.objection(entry.about.check, private=bool(entry.about.dump))
        if not why:
            return found
        if refused is not None:
            refused(entry, why)
    return None


def peek(vmcore: Vmcore, home: Profile | None, cache: Path) -> Debuginfo | None:
    """The same without a call for refused entries."""
    return cached(vmcore, home, Store(cache))


def _fitting(vmcore: Vmcore, store: Store, *, by_banner: bool) -> Iterator[Entry]:
    """Entries that may be of the dump's build: those for every dump first, then those for this one."""
    if vmcore.build_id is not None and (entry := store.find(vmcore.build_id)) is not None:
        yield entry
    if vmcore.build_id is None or by_banner:
        yield from sorted(
            (entry for entry in store.entries() if not entry.about.dump),
            key=lambda entry: not trust.shared(entry.about.check),
        )
    yield from store.private(trust.key_of_dump(vmcore))


def banner_decides(vmcore: Vmcore, home: Profile | None) -> bool:
    """Whether the shipped vmlinux of this kernel may have another build-id than the running kernel had."""
    rules = home.debuginfo if home is not None else None
    release = vmcore.release
    return rules is not None and release is not None and any(re.match(it, release) for it in rules.banner_decides)


def debuginfo_of(entry: Entry, proof: str) -> Debuginfo:
    """The debuginfo of a cached build; `proof` says how it was compared with the dump."""
    about = entry.about
    return Debuginfo(
        directory=entry.directory,
        vmlinux=entry.vmlinux,
        build_id=about.build_id,
        origin=about.origin,
        package=about.package,
        proof=proof,
        verification_detail=about.verified,
        verification=about.check,
    )


def _matching(vmcore: Vmcore, entry: Entry, *, by_banner: bool) -> Debuginfo:
    about = entry.about
    found = Identity(build_id=about.build_id, banners=about.banners, dwarf=True)
    return debuginfo_of(entry, prove(vmcore, found, name=str(entry.vmlinux), banner_decides=by_banner))
