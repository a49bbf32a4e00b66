"""The cache: one directory per kernel build, complete or absent.

debuginfo/<build-id>/vmlinux, about.json, modules/…
debuginfo/<build-id>-of-<dump>-<source>/…   the same of what was not checked: for one dump, from one file or URL
debuginfo/.new-<build-id>-…     being filled; left by a dead process when the lock of the build is free
downloads/<hash>.part           the part of a package that has arrived; resumed, also after kill -9
locks/<key>                     held by the one fetch of a build, on this host or on a shared file system
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import ConfigurationError
from sandbox.host import decode, paths
from sandbox.host.disk import no_space
from sandbox.host.files import age
from sandbox.host.locks import locked
from sandbox.model import Verification
from sandbox.progress import Reporter

_ABOUT: Final = "about.json"
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Facts of one cached build; about.json."""

    build_id: str | None
    banners: tuple[str, ...] = ()
    origin: str
    verified: str
    """Checks that the package passed, in words."""
    check: Verification = Verification.UNKNOWN
    """The same in one word; unknown in entries of early versions."""
    package: str | None = None
    url: str | None = None
    """URL of the package, to fetch its modules from later."""
    sha256: str | None = None
    size: int | None = None
    kind: str = ""
    """As `DebuginfoFormat`; empty in entries of early versions."""
    keys: tuple[str, ...] = ()
    """Names of the keys, one of which signed the package."""
    dump: str = ""
    """The path of the dump that it is kept for; empty where it is for every dump of the build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cached build."""

    directory: Path
    about: About

    @property
    def vmlinux(self) -> Path:
        return self.directory / "vmlinux"


def key_of(build_id: str | None, banners: tuple[str, ...]) -> str:
    """The directory's name: the build-id, or a hash of the banner where the kernel has none."""
    if build_id:
        return build_id
    return "banner-" + hashlib.sha256("\n".join(sorted(banners)).encode()).hexdigest()[:40]


def private_key(key: str, dump: str, source: str) -> str:
    """The name of what is kept for one dump: `dump` and `source` as `trust` names them."""
    return f"{key}-of-{dump}-{source}"


class Store:
    """Debuginfo kept under `root`. Reading needs no lock: every entry is complete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries_dir = root / "debuginfo"

    def find(self, key: str) -> Entry | None:
        """The cached build of that key; None when it is missing or unreadable.

        Raises `ConfigurationError` for one of a stranger: see `_refuse_strangers`.
        """
        directory = self.entries_dir / key
        try:
            self._refuse_strangers(self.entries_dir, directory, directory / _ABOUT, directory / "vmlinux")
            entry = Entry(directory=directory, about=decode.read_json(About, directory / _ABOUT))
            if not entry.vmlinux.is_file():
                return None
        except (OSError, decode.DecodeError):
            return None
        return entry

    def entries(self) -> Iterator[Entry]:
        """All cached builds."""
        try:
            names = sorted(path.name for path in self.entries_dir.iterdir())
        except FileNotFoundError:
            return
        for name in names:
            with contextlib.suppress(ConfigurationError):
                if not name.startswith(".") and (entry := self.find(name)) is not None:
                    yield entry

    def private(self, dump: str, source: str = "*") -> list[Entry]:
        """What is kept for one dump, and of one source; what was used last first."""
        found = (self.find(path.name) for path in self.entries_dir.glob(f"[!.]*-of-{dump}-{source}"))
        return sorted(
            (entry for entry in found if entry is not None and entry.about.dump),
            key=lambda entry: -entry.directory.stat().st_mtime,
        )

    def same_source(self, source: str) -> Entry | None:
        """What the user has already here of one source, for whichever dump."""
        for path in self.entries_dir.glob(f"[!.]*-of-*-{source}"):
            with contextlib.suppress(OSError):
                if path.stat().st_uid == os.getuid() and (entry := self.find(path.name)) is not None:
                    return entry
        return None

    def used(self, directory: Path) -> None:
        """Marks an entry as used now, for `prune`."""
        # Another user's cache may be read-only here; then its owner prunes without this hint.
        with contextlib.suppress(OSError):
            os.utime(directory)

    def locked(self, key: str, reporter: Reporter) -> AbstractContextManager[None]:
        """One fetch of `key` at a time; the others wait here."""
        self._make(self.root / "locks")
        return locked(self.root / "locks" / key, reporter, "fetching this debuginfo")

    @contextlib.contextmanager
    def new(self, key: str) -> Iterator[Path]:
        """An empty directory to fill, beside the entries; removed at the end unless `keep` took it.

        Hold the lock of `key`: leftovers of an earlier holder are removed.
        """
        self._make(self.entries_dir)
        for stale in self.entries_dir.glob(f".new-{key}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=f".new-{key}-", dir=self.entries_dir))
        try:
            # mkdtemp makes it private, but other users of a shared cache and the container's user must read it.
            directory.chmod(0o755)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def keep(
        self, filled: Path, about: About, name: str | None = None, *, in_use: Collection[str] = frozenset()
    ) -> Entry:
        """Makes a filled directory an entry, at once and durably; `name` is its key where it is not the build's.

        What it takes the place of stays on the disk where an open case uses it.
        """
        values = {key: value for key, value in asdict(about).items() if key != "dump" or value}
        (filled / _ABOUT).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        for file in filled.iterdir():
            if file.is_file():
                # The container's user and other users of a shared cache must read it, whatever the umask is.
                file.chmod(0o644)
                _sync(file)
        _sync(filled)
        directory = self.entries_dir / (name or key_of(about.build_id, about.banners))
        try:
            filled.rename(directory)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            if (there := self.find(directory.name)) is not None and directory.stat().st_uid != os.getuid():
                # Another user of a shared cache owns it: it is as good, and we may not replace it.
                return there
            # The same build, fetched under another key, or damaged: the new entry is as good or better.
            if directory.name in in_use:
                directory.rename(self.entries_dir / f"{directory.name}-was-{os.urandom(4).hex()}")
                filled.rename(directory)
            else:
                old = Path(tempfile.mkdtemp(prefix=".old-", dir=self.entries_dir))
                directory.rename(old / "entry")
                filled.rename(directory)
                shutil.rmtree(old, ignore_errors=True)
        _sync(self.entries_dir)
        return Entry(directory=directory, about=about)

    def part(self, identity: str) -> Path:
        """The file of a download until it is complete; `identity` is the package's hash or URL."""
        directory = self.root / "downloads"
        self._make(directory)
        name = identity if _SHA256.fullmatch(identity) else hashlib.sha256(identity.encode()).hexdigest()
        part = directory / f"{name}.part"
        with contextlib.suppress(FileNotFoundError):
            self._refuse_strangers(part)
        return part

    def _make(self, directory: Path) -> None:
        try:
            paths.make_directory(directory, self.root)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise no_space(directory, "the cache") from None
            raise ConfigurationError(
                f"{directory}: {error.strerror}", hint="choose another cache: export VMBOX_CACHE_DIR=DIRECTORY"
            ) from None
        self._refuse_strangers(directory)

    def _refuse_strangers(self, *places: Path) -> None:
        """Refuses places of another user, who is not root, in a cache that every user can write to.

        Their owner could say that they were checked, and change them. Raises `ConfigurationError`, and OSError.
        Where only a group can write, or another user alone, who set up the cache decided that they are trusted.
        """
        if not self.root.stat().st_mode & stat.S_IWOTH:
            return
        for place in places:
            owner = place.lstat().st_uid
            if owner not in {0, os.geteuid()}:
                raise ConfigurationError(
                    f"{place} belongs to user {owner}, and every user can write to this cache",
                    hint="share a cache with a group only (docs/howto.md), or export VMBOX_CACHE_DIR=DIRECTORY",
                )

    def prune(self, limit: int, *, keep: frozenset[str] = frozenset()) -> tuple[Entry, ...]:
        """Removes the least recently used builds until at most `limit` bytes are left; returns the removed ones.

        `keep` names build-ids that are open. Before that, downloads that did not continue for a week and directories
        of dead processes are removed. Entries that other users of a shared cache own stay if we may not remove them.
        """
        self._sweep()
        oldest_first = sorted(self.entries(), key=lambda entry: entry.directory.stat().st_mtime)
        total = sum(size_on_disk(entry.directory) for entry in oldest_first)
        gone: list[Entry] = []
        for entry in oldest_first:
            if total <= limit:
                break
            if entry.directory.name in keep:
                continue
            size = size_on_disk(entry.directory)
            try:
                self.remove(entry)
            except PermissionError:
                continue
            total -= size
            gone.append(entry)
        return tuple(gone)

    def _sweep(self) -> None:
        for part in (self.root / "downloads").glob("*.part"):
            with contextlib.suppress(OSError):
                if age(part.stat().st_mtime) > 7 * 86400:
                    part.unlink()
        for stale in (*self.entries_dir.glob(".new-*"), *self.entries_dir.glob(".old-*")):
            with contextlib.suppress(OSError):
                # A live fetch writes all the time, so one that has not for a day is dead.
                if min(age(path.stat().st_mtime) for path in (stale, *stale.iterdir())) > 86400:
                    shutil.rmtree(stale, ignore_errors=True)

    def remove(self, entry: Entry) -> None:
        """Removes one build: renames it first, so that no process finds half of it, then deletes it."""
        hidden = Path(tempfile.mkdtemp(prefix=".old-", dir=self.entries_dir))
        try:
            entry.directory.rename(hidden / "entry")
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def size_on_disk(directory: Path) -> int:
    """Bytes that removing it would free, roughly."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_blocks * 512
    return total


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
