"""The places that may have a kernel's debuginfo, in order, and what is asked there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final

from sandbox.debuginfo.package_names import PackageNames, RemotePackage, expand
from sandbox.dump.release import built_on
from sandbox.model import DebuginfoFormat, Vmcore
from sandbox.profiles import DebuginfoRules, Profile, RepositoryVersions


class Source(StrEnum):
    """The kinds of places that have debuginfo, in the order in which they are asked."""

    PACKAGE_MANAGER = "package manager"
    SNAPSHOTS = "snapshots"
    URLS = "URLs"
    REPOSITORIES = "repositories"
    UNSIGNED = "unsigned"
    DEBUGINFOD = "debuginfod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Entries of a profile of one kind and one vendor."""

    source: Source
    templates: tuple[str, ...]
    """Package sources, URL templates, or servers; best first."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/`, one of which must have signed an RPM."""
    vendor: str | None = None
    """Owner of the archive, for releases that several vendors build under one name."""


def places(profile: Profile) -> list[Place]:
    """Every place that the profile names for debuginfo, in the order in which they are asked."""
    rules = profile.debuginfo
    if rules is None:
        return []
    return [place for source in Source for place in _places(source, profile, rules) if place.templates]


def kernel_repositories(rules: DebuginfoRules) -> tuple[str, ...]:
    """Templates of the repositories with the stripped kernel itself, best first."""
    return (*rules.kernel_repositories, *rules.repositories)


def _places(source: Source, profile: Profile, rules: DebuginfoRules) -> list[Place]:
    match source:
        case Source.PACKAGE_MANAGER:
            asked = (*profile.image.sources, *rules.sources) if rules.query_script is not None else ()
            return [Place(source=source, templates=asked, keys=rules.keys)]
        case Source.SNAPSHOTS:
            lines = dict.fromkeys(line for snapshots in rules.snapshots for line in snapshots.sources)
            return [Place(source=source, templates=tuple(lines), keys=rules.keys)]
        case Source.URLS:
            archives = [
                Place(source=source, templates=archive.urls, keys=archive.keys, vendor=archive.vendor)
                for archive in rules.archives
            ]
            return [*archives, Place(source=source, templates=rules.urls, keys=rules.keys)]
        case Source.REPOSITORIES:
            versions = rules.repository_versions
            more = () if versions is None else (versions.index, *versions.repositories)
            return [Place(source=source, templates=(*rules.repositories, *more), keys=rules.keys)]
        case Source.UNSIGNED:
            return [Place(source=source, templates=rules.unsigned)]
        case Source.DEBUGINFOD:
            return [Place(source=source, templates=rules.debuginfod)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSources:
    """The package manager is asked, with these package sources."""

    lines: tuple[str, ...]
    said: str = ""
    """What they are, where they are not the live ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The index of one RPM repository is searched."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionedRepositories:
    """A vendor's list of versions is read, and the indexes of repositories of some versions are searched."""

    index: str
    pattern: str
    urls: tuple[str, ...]
    """With `{repository_version}` left in them."""
    built: date | None
    """When the kernel was built."""

    def versions(self, text: str) -> list[str]:
        """The versions of a list that may have the kernel, best first.

        A kernel is in the first version after its build, and in some after that. Without the day of the build, or where
        no version is as new, they are the newest ones.
        """
        days = {found[0]: found["day"] for found in re.finditer(self.pattern, text)}
        newest = sorted(days, key=lambda version: days[version], reverse=True)
        since = [version for version in newest if self.built is not None and days[version] >= f"{self.built:%Y%m%d}"]
        return (since[::-1] or newest)[:_MOST_VERSIONS]

    def of(self, version: str) -> list[str]:
        """The repositories of a version."""
        return [url.replace(_VERSION, version) for url in self.urls]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One URL where the package may be, and the keys one of which must have signed it."""

    remote: RemotePackage
    keys: Sequence[str]
    kind: DebuginfoFormat
    vendor: str | None = None
    """Owner of the archive."""


Question = PackageSources | Repository | VersionedRepositories | Candidate

_VERSION: Final = "{repository_version}"
_MOST_VERSIONS: Final = 6
"""The index of each has some megabytes."""


def questions(
    source: Source, profile: Profile, vmcore: Vmcore, wanted: PackageNames | None, *, banner_decides: bool = False
) -> Iterator[Question]:
    """What is asked of one kind of places, best first. `locate` asks it, and `vmbox info --release` prints it.

    `banner_decides`: the shipped vmlinux may have another build-id than the dump.
    """
    rules = profile.debuginfo
    if source is Source.DEBUGINFOD:
        yield from _debuginfods(rules, vmcore)
    if rules is None or wanted is None:
        return
    match source:
        case Source.PACKAGE_MANAGER:
            if wanted.packages and rules.query_script is not None:
                yield PackageSources(lines=(*profile.image.sources, *rules.sources))
        case Source.SNAPSHOTS:
            if wanted.packages and rules.query_script is not None:
                yield from _snapshots(rules, wanted)
        case Source.URLS:
            yield from _candidates(profile, rules, vmcore, wanted)
        case Source.REPOSITORIES:
            if wanted.packages:
                yield from (Repository(url=url) for url in repository_urls(rules.repositories, wanted))
                if rules.repository_versions is not None:
                    yield _versions(rules.repository_versions, vmcore, wanted)
        case Source.UNSIGNED:
            if vmcore.build_id is not None and not banner_decides:
                yield from (_candidate(rules, *found, keys=()) for found in _urls(rules.unsigned, wanted))
        case Source.DEBUGINFOD:
            pass


def _versions(rules: RepositoryVersions, vmcore: Vmcore, wanted: PackageNames) -> VersionedRepositories:
    names = {**wanted.names, _VERSION[1:-1]: (_VERSION,)}
    urls = [url for template in rules.repositories for url in expand(template, names)]
    return VersionedRepositories(
        index=rules.index, pattern=rules.pattern, urls=tuple(urls), built=built_on(vmcore.utsname_version)
    )


def _snapshots(rules: DebuginfoRules, wanted: PackageNames) -> Iterator[PackageSources]:
    """The archive as it was on each of the days: not on days to come, when it is as it is today."""
    built = wanted.names.get("built", ("",))[0]
    today = datetime.now(UTC).date()
    for snapshots in rules.snapshots:
        for days in snapshots.days:
            try:
                day = date.fromisoformat(built) + timedelta(days=days)
            except (ValueError, OverflowError):
                word = "{day}" if built == "{built}" else None
            else:
                word = f"{day:%Y%m%d}" if day <= today else None
            if word is None:
                continue
            names = {**wanted.names, "day": (word,)}
            lines = tuple(line for template in snapshots.sources for line in expand(template, names))
            yield PackageSources(lines=lines, said=f"the archive of {word}")


def _candidates(profile: Profile, rules: DebuginfoRules, vmcore: Vmcore, wanted: PackageNames) -> Iterator[Candidate]:
    """URLs to try, best first: the vendor's archives, current tree before vault; then archives of several vendors.

    If the dump does not tell the vendor, the archives of all vendors of such releases are tried: the proof decides.
    """
    seen: set[str] = set()
    for place in _places(Source.URLS, profile, rules):
        if None not in {place.vendor, vmcore.vendor} and place.vendor != vmcore.vendor:
            continue
        for url, package in _urls(place.templates, wanted):
            if url not in seen:
                seen.add(url)
                yield _candidate(rules, url, package, keys=place.keys, vendor=place.vendor)


def repository_urls(templates: Sequence[str], wanted: PackageNames) -> list[str]:
    """Repositories to ask, each once."""
    return list(dict.fromkeys(url for template in templates for url in expand(template, wanted.names)))


def _debuginfods(rules: DebuginfoRules | None, vmcore: Vmcore) -> Iterator[Candidate]:
    """Servers that have vmlinux by build-id: those of $DEBUGINFOD_URLS, then the profile's."""
    if vmcore.build_id is None:
        return
    # elfutils 0.192 also has words about file signatures in the list.
    named = [word for word in os.environ.get("DEBUGINFOD_URLS", "").split() if "://" in word]
    for server in dict.fromkeys((*named, *(rules.debuginfod if rules is not None else ()))):
        url = f"{server.rstrip('/')}/buildid/{vmcore.build_id}/debuginfo"
        remote = RemotePackage(package=f"vmlinux {vmcore.build_id[:12]}", version=None, url=url, size=None, sha256=None)
        yield Candidate(remote=remote, keys=(), kind=DebuginfoFormat.VMLINUX)


def _candidate(
    rules: DebuginfoRules, url: str, package: str, *, keys: Sequence[str], vendor: str | None = None
) -> Candidate:
    remote = RemotePackage(package=package, version=None, url=url, size=None, sha256=None)
    return Candidate(remote=remote, keys=keys, kind=rules.format, vendor=vendor)


def _urls(templates: Sequence[str], wanted: PackageNames) -> Iterator[tuple[str, str]]:
    for asked in wanted.packages:
        package = asked.partition("=")[0]
        for template in templates:
            for url in expand(template, {**wanted.names, "package": (package,)}):
                yield url, package
