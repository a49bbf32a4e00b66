"""Finds the vmlinux of exactly a dump's kernel: asks the sources in order and keeps the failure of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox.debuginfo import certificates, local, repodata, trust, user_provided
from sandbox.debuginfo.attempts import SearchLog
from sandbox.debuginfo.download import TimedOut, Untrusted, host_of
from sandbox.debuginfo.extract import ExtractSpec
from sandbox.debuginfo.fetch import FetchRequest, add_kernel, fetch, identify
from sandbox.debuginfo.gdb_index import GdbIndexBuilder, add_gdb_index
from sandbox.debuginfo.lookup import banner_decides, cached, debuginfo_of
from sandbox.debuginfo.package_names import (
    NoPackageManager,
    PackageNames,
    PackageQuery,
    RemotePackage,
    file_names,
    package_names,
)
from sandbox.debuginfo.proof import Identity, prove
from sandbox.debuginfo.store import About, Entry, Store, key_of, private_key
from sandbox.debuginfo.urls import (
    Candidate,
    PackageSources,
    Question,
    Repository,
    Source,
    VersionedRepositories,
    kernel_repositories,
    places,
    questions,
    repository_urls,
)
from sandbox.errors import (
    DebuginfoError,
    DebuginfoNotFound,
    ImageError,
    Unreachable,
    VerificationFailed,
    VmboxError,
    pasteable,
)
from sandbox.host import config, mirrors, paths
from sandbox.log import Log
from sandbox.model import Debuginfo, DebuginfoFormat, DumpFormat, Vmcore
from sandbox.profiles import Profile
from sandbox.profiles.keys import key_files
from sandbox.progress import QUIET, Reporter

_log = Log("debuginfo")


def locate(
    vmcore: Vmcore,
    home: Profile,
    *,
    package_query: PackageQuery,
    given: Path | None = None,
    force: bool = False,
    reporter: Reporter = QUIET,
    cache: Path | None = None,
    gdb_index_builder: GdbIndexBuilder | None = None,
    in_use: Callable[[], frozenset[str]] = frozenset,
) -> Debuginfo:
    """Debuginfo of exactly the kernel build that wrote `vmcore`, in the cache and proven to match.

    Sources in order: `given` (vmlinux, package or directory; nothing else is tried then), the cache, what lies beside
    the dump, the package manager (`package_query`). What was not checked is kept for this dump alone. With `force`, or
    where the dump says nothing to compare, a given file is used as it is, and the proof says so. A vmlinux gets a
    .gdb_index before it enters the cache, where a `gdb_index_builder` is given. Then the least recently used builds are
    removed above the setting debuginfo_limit, except those `in_use`.

    Raises `DebuginfoNotFound` (its `detail` has one line for each source), `DebuginfoMismatch`, `DownloadFailed`,
    `VerificationFailed`, `NoSpace`.
    """
    search = _Search(
        vmcore=vmcore,
        home=home,
        package_query=package_query,
        force=force,
        reporter=reporter,
        store=Store(cache or paths.cache_dir()),
        gdb_index_builder=gdb_index_builder,
        in_use=in_use,
        wanted=package_names(vmcore, home),
    )
    return search.run(given)


@dataclass(slots=True, kw_only=True)
class _Search:
    vmcore: Vmcore
    home: Profile
    package_query: PackageQuery
    force: bool
    reporter: Reporter
    store: Store
    gdb_index_builder: GdbIndexBuilder | None
    in_use: Callable[[], frozenset[str]]
    wanted: PackageNames | None
    search_log: SearchLog = field(init=False)
    refused: set[Path] = field(init=False, default_factory=set)
    unreachable: dict[str, VmboxError] = field(init=False, default_factory=dict)
    """By host, or by what else is asked: it is not asked a second time."""
    no_manager: bool = field(init=False, default=False)
    """There is no image to ask it in: not for the archive of another day either."""

    def __post_init__(self) -> None:
        self.search_log = SearchLog(self.vmcore.release)

    def run(self, given: Path | None) -> Debuginfo:
        found = self._found(given)
        _log.info("%s, from %s: %s; %s", found.vmlinux, found.origin, found.proof, found.verification_detail)
        return found

    def _found(self, given: Path | None) -> Debuginfo:
        wanted = self._packages()
        _log.info(
            "looking for that of kernel %s, build-id %s, packages %s",
            self.vmcore.release, self.vmcore.build_id or "unknown", " ".join(wanted) or "unknown",
        )  # fmt: skip
        if given is not None:
            if not (self.vmcore.release or self.vmcore.banner or self.vmcore.build_id):
                # There is nothing that a second wish could overrule.
                self.force = True
                self.reporter.notice(f"{given} is believed: the dump does not say which kernel wrote it")
            return self._given(given.absolute())
        if (found := self._cached()) is not None:
            return found
        with self.store.locked(self._key(), self.reporter):
            # Look in the cache again: another vmbox may have fetched it while this one waited.
            if (found := self._cached() or self._beside()) is not None:
                return found
            for source in Source:
                _log.debug("asking: %s", source)
                if (found := self._ask(source)) is not None:
                    return found
                _log.debug("nothing from: %s", source)
        self._note_unpublished()
        rules = self.home.debuginfo
        files = () if self.wanted is None or rules is None else file_names(self.wanted, rules, self.vmcore.arch)
        raise self.search_log.to_error(files=files)

    def _note_unpublished(self) -> None:
        rules = self.home.debuginfo
        if rules is not None and (why := rules.why_unpublished(self.vmcore)) is not None:
            self.search_log.note(self.home.title, why)

    def _key(self) -> str:
        """Name of the lock: the same for all dumps of one build."""
        return self.vmcore.build_id or key_of(
            None, (self.vmcore.release or "", self.vmcore.utsname_version or "", self.vmcore.banner or "")
        )

    def _cached(self) -> Debuginfo | None:
        def refused(entry: Entry, why: str) -> None:
            if entry.directory not in self.refused:
                self.refused.add(entry.directory)
                self.reporter.notice(f"{entry.vmlinux} is not used: {why}")
                self.search_log.note(str(entry.vmlinux), f"not used: {why}")

        found = cached(self.vmcore, self.home, self.store, refused)
        _log.debug("cache %s: %s", self.store.entries_dir, "nothing" if found is None else found.directory.name)
        if found is not None:
            self.store.used(found.directory)
        return found

    @property
    def _by_banner(self) -> bool:
        return banner_decides(self.vmcore, self.home)

    def _prove(self, found: Identity, name: object, *, force: bool = False) -> str:
        return prove(self.vmcore, found, name=str(name), banner_decides=self._by_banner, force=force)

    # The sources. Each returns None when it has nothing, and logs the reason.

    def _given(self, path: Path) -> Debuginfo:
        if not path.is_dir():
            return self._from_file(path, force=self.force)
        candidates = list(local.candidates(path, self.vmcore.release))
        for force in (False, True) if self.force else (False,):
            for candidate in candidates:
                try:
                    return self._from_file(candidate, force=force)
                except DebuginfoError as error:
                    self.search_log.note(str(candidate), error)
        raise self.search_log.to_error(f"{path}: no debuginfo of this kernel in it")

    def _beside(self) -> Debuginfo | None:
        for path in local.beside(self.vmcore.path, self.vmcore.release):
            _log.debug("beside the dump: %s", path)
            if trust.strict():
                self.reporter.notice(f'{path} is not used: nothing signed it, and verify is "strict"')
                self.search_log.note(str(path), 'nothing signed it, and verify is "strict"')
                continue
            if path.is_symlink():
                self.reporter.notice(f"{path} is not used: it is a link; --debuginfo {pasteable(path)} uses it")
                self.search_log.note(str(path), "it is a link, which only --debuginfo follows")
                continue
            try:
                return self._from_file(path)
            except DebuginfoError as error:
                self.search_log.note(str(path), error)
        return None

    def _ask(self, source: Source) -> Debuginfo | None:
        asked = False
        for question in questions(source, self.home, self.vmcore, self.wanted, banner_decides=self._by_banner):
            asked = True
            if (found := self._answer(question)) is not None:
                return found
        if not asked and (why := self._unasked(source)):
            self.search_log.note(*why)
        return None

    def _unasked(self, source: Source) -> tuple[str, str] | None:
        """(place, reason) where a kind of places was left out for a reason that the user should know."""
        rules = self.home.debuginfo
        if source is Source.PACKAGE_MANAGER and (rules is None or self.wanted is None or not places(self.home)):
            return self.home.title, "vmbox knows no place that has debuginfo of this kernel"
        if source is Source.PACKAGE_MANAGER and rules is not None and rules.packages and not self._packages():
            if self.vmcore.format is DumpFormat.RELEASE:
                # Builds of one release have packages of several versions, and uname -v has the version.
                return self.home.title, "which package it is of, says uname -v of the kernel: --utsname-version"
            return self.home.title, "the dump does not say which package its kernel came from"
        if source is Source.URLS and rules is not None and rules.archives:
            whose = f" of {self.vmcore.vendor}" if self.vmcore.vendor is not None else ""
            return "archives", f"none{whose} is known to have it"
        return None

    def _packages(self) -> tuple[str, ...]:
        return self.wanted.packages if self.wanted is not None else ()

    def _answer(self, question: Question) -> Debuginfo | None:
        if isinstance(question, Candidate):
            return self._try(question)
        rules, wanted = self.home.debuginfo, self.wanted
        assert rules is not None  # noqa: S101 - of its sources the question was made
        assert wanted is not None  # noqa: S101 - of its names the question was made
        for remote in self._remotes(question, wanted.packages):
            if (found := self._try(Candidate(remote=remote, keys=rules.keys, kind=rules.format))) is not None:
                return found
        return None

    def _remotes(
        self, question: PackageSources | Repository | VersionedRepositories, packages: Sequence[str]
    ) -> Iterator[RemotePackage]:
        match question:
            case PackageSources():
                yield from self._query(question, packages)
            case Repository():
                yield from self._look_up(question.url, packages)
            case VersionedRepositories():
                host = host_of(question.index)
                try:
                    if host in self.unreachable:
                        raise self.unreachable[host]
                    text = repodata.text(question.index, self.reporter)
                except DebuginfoError as error:
                    self._failed(host, question.index, error)
                    return
                versions = question.versions(text)
                if not versions:
                    self.search_log.note(question.index, VerificationFailed(f"{question.index}: it names no version"))
                for version in versions:
                    for url in question.of(version):
                        yield from self._look_up(url, packages)

    def _query(self, question: PackageSources, packages: Sequence[str]) -> list[RemotePackage]:
        if self.no_manager:
            return []
        manager = f"package manager of {self.home.title}"
        place = question.said or manager
        # All days are on one host, which is not the live archive's.
        asked = "snapshots" if question.said else manager
        try:
            if asked in self.unreachable:
                raise self.unreachable[asked]
            remotes = list(self.package_query(packages, question.lines))
        except (NoPackageManager, ImageError) as error:
            self.no_manager = True
            self.search_log.note(manager, error)
            return []
        except DebuginfoError as error:
            self._failed(asked, place, error)
            return []
        if not remotes:
            self.search_log.note_absent(place, packages)
        return remotes

    def _failed(self, asked: str, place: str, error: VmboxError) -> None:
        if isinstance(error, Unreachable | Untrusted | TimedOut):
            self.unreachable[asked] = error
        self.search_log.note(place, error)

    def _look_up(self, base: str, packages: Sequence[str]) -> list[RemotePackage]:
        host = host_of(base)
        try:
            if host in self.unreachable:
                raise self.unreachable[host]
            remotes = repodata.find(base, packages, self.vmcore.arch, self.reporter)
        except DebuginfoError as error:
            self._failed(host, base, error)
            return []
        if not remotes:
            self.search_log.note_absent(base, packages)
        return remotes

    def _try(self, candidate: Candidate) -> Debuginfo | None:
        host = host_of(candidate.remote.url)
        try:
            if host in self.unreachable:
                raise self.unreachable[host]
            certificates.require(mirrors.rewrite(candidate.remote.url))
            return self._fetch(candidate)
        except DebuginfoError as error:
            self._failed(host, candidate.remote.url, error)
            return None

    def _from_file(self, path: Path, *, force: bool = False) -> Debuginfo:
        """A vmlinux or package of this host, for this dump alone: nothing says that it is what it says it is.

        It is copied: what the user does to the original later must not matter.
        """
        kind = local.kind(path)
        source, dump = trust.key_of_file(path), trust.key_of_dump(self.vmcore)
        if (entry := next(iter(self.store.private(dump, source)), None)) is not None:
            return self._again(entry, path, force=force)
        with self.store.locked(f"{dump}-{source}", self.reporter):
            if (entry := next(iter(self.store.private(dump, source)), None)) is not None:
                return self._again(entry, path, force=force)
            if kind is DebuginfoFormat.VMLINUX and local.compression(path) == "none":
                self._prove(identify(path), path, force=force)
            with self.store.new(f"{dump}-{source}") as directory:
                about = self._linked(source, directory)
                if about is None:
                    about = user_provided.about(
                        *user_provided.unpacked(path, self._contents(kind), directory, self.reporter), path
                    )
                found = Identity(build_id=about.build_id, banners=about.banners, dwarf=True)
                proof = self._prove(found, path, force=force)
                entry = self._keep(directory, about, source)
        return self._result(entry, proof)

    def _linked(self, source: str, directory: Path) -> About | None:
        """Makes `directory`/vmlinux a link, where the same file was given for another dump; None where it was not."""
        twin = self.store.same_source(source)
        if twin is None:
            return None
        try:
            (directory / "vmlinux").hardlink_to(twin.vmlinux)
        except OSError:
            return None
        return twin.about

    def _again(self, entry: Entry, path: Path, *, force: bool) -> Debuginfo:
        """What was made for this dump of this file before."""
        found = Identity(build_id=entry.about.build_id, banners=entry.about.banners, dwarf=True)
        return self._result(entry, self._prove(found, path, force=force))

    def _fetch(self, candidate: Candidate) -> Debuginfo:
        remote = candidate.remote
        part = self.store.part(remote.sha256 or remote.url)
        order = FetchRequest(
            contents=self._contents(candidate.kind, candidate.keys),
            prove=lambda found: self._prove(found, remote.package, force=self.force),
            build_id_decides=self.vmcore.build_id is not None and not self._by_banner and not self.force,
        )
        with self.store.new(self._key()) as directory:
            fetched = fetch(order, remote, directory, part, self.reporter)
            if self.wanted is not None and self.wanted.kernel:
                self._add_kernel(directory, candidate)
            about = About(
                build_id=fetched.identity.build_id,
                banners=fetched.identity.banners,
                origin=remote.url,
                verified=fetched.verified,
                check=fetched.check,
                package=remote.package,
                url=remote.url,
                size=remote.size,
                sha256=fetched.sha256 or remote.sha256,
                kind=candidate.kind,
                keys=tuple(candidate.keys),
            )
            entry = self._keep(directory, about, trust.key_of_text(f"{remote.url} {fetched.sha256}"))
        part.unlink(missing_ok=True)
        return self._result(entry, fetched.proof)

    def _add_kernel(self, directory: Path, candidate: Candidate) -> None:
        """Completes `directory`/vmlinux, which has only the debug information."""
        rules, names = self.home.debuginfo, self.wanted
        assert rules is not None  # noqa: S101 - there are names
        assert names is not None  # noqa: S101 - the caller looked
        what = ExtractSpec(kind=rules.format, patterns=names.kernel_files, keys=key_files(rules.keys))
        for base in repository_urls(kernel_repositories(rules), names):
            for remote in self._look_up(base, names.kernel):
                part = self.store.part(remote.sha256 or remote.url)
                try:
                    add_kernel(what, remote, directory, part, self.reporter)
                except DebuginfoError as error:
                    self.search_log.note(remote.url, error)
                else:
                    part.unlink(missing_ok=True)
                    return
        raise DebuginfoNotFound(f"{candidate.remote.url}: the kernel it was stripped from is nowhere", hint="")

    def _keep(self, directory: Path, about: About, source: str) -> Entry:
        """Under its build-id where it was checked, else for this dump alone."""
        if self.gdb_index_builder is not None and (directory / "vmlinux").stat().st_nlink == 1:
            add_gdb_index(directory, self.gdb_index_builder, self.reporter)
        key = key_of(about.build_id, about.banners)
        there = self.store.find(key)
        replaced = there is None or trust.shared(there.about.check) or there.directory.stat().st_uid == os.getuid()
        if trust.shared(about.check) and replaced:
            entry = self.store.keep(directory, about, in_use=self.in_use())
        else:
            name = private_key(key, trust.key_of_dump(self.vmcore), source)
            about = replace(about, dump=str(self.vmcore.path))
            entry = self.store.keep(directory, about, name, in_use=self.in_use())
        gone = self.store.prune(config.current().debuginfo_limit, keep=self.in_use() | {entry.directory.name})
        if gone:
            self.reporter.notice(
                f"the cache is full: debuginfo of {len(gone)} kernels that was not used for long is gone"
            )
        return entry

    def _contents(self, kind: DebuginfoFormat, keys: Sequence[str] = ()) -> ExtractSpec:
        return ExtractSpec(
            kind=kind,
            patterns=(self.wanted.vmlinux if self.wanted is not None else ()) or user_provided.ANY_VMLINUX,
            keys=key_files(keys),
        )

    def _result(self, entry: Entry, proof: str) -> Debuginfo:
        self.store.used(entry.directory)
        return debuginfo_of(entry, proof)
