"""The places that may have a kernel's debuginfo, in order, and the URLs to try there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sandbox.debuginfo.package_names import PackageNames, RemotePackage, expand
from sandbox.model import DebuginfoFormat, Vmcore
from sandbox.profiles import DebuginfoRules, Profile


class Source(StrEnum):
    """The kinds of places that have debuginfo, in the order in which they are asked."""

    PACKAGE_MANAGER = "package manager"
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
        case Source.URLS:
            archives = [
                Place(source=source, templates=archive.urls, keys=archive.keys, vendor=archive.vendor)
                for archive in rules.archives
            ]
            return [*archives, Place(source=source, templates=rules.urls, keys=rules.keys)]
        case Source.REPOSITORIES:
            return [Place(source=source, templates=rules.repositories, keys=rules.keys)]
        case Source.UNSIGNED:
            return [Place(source=source, templates=rules.unsigned)]
        case Source.DEBUGINFOD:
            return [Place(source=source, templates=rules.debuginfod)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One URL where the package may be, and the keys one of which must have signed it."""

    remote: RemotePackage
    keys: Sequence[str]
    kind: DebuginfoFormat


def candidates(profile: Profile, vmcore: Vmcore, wanted: PackageNames) -> Iterator[Candidate]:
    """URLs to try, best first: the vendor's archives, current tree before vault; then archives of several vendors.

    If the dump does not tell the vendor, the archives of all vendors of such releases are tried: the proof decides.
    """
    rules = profile.debuginfo
    if rules is None:
        return
    seen: set[str] = set()
    for place in _places(Source.URLS, profile, rules):
        if None not in {place.vendor, vmcore.vendor} and place.vendor != vmcore.vendor:
            continue
        for url, package in _urls(place.templates, wanted):
            if url not in seen:
                seen.add(url)
                yield _candidate(rules, url, package, place.keys)


def unsigned(rules: DebuginfoRules, wanted: PackageNames) -> Iterator[Candidate]:
    """URLs of unsigned packages."""
    for url, package in _urls(rules.unsigned, wanted):
        yield _candidate(rules, url, package, ())


def bases(templates: Sequence[str], wanted: PackageNames) -> list[str]:
    """Repositories to ask, each once."""
    return list(dict.fromkeys(url for template in templates if (url := expand(template, wanted.names)) is not None))


def debuginfods(rules: DebuginfoRules | None, vmcore: Vmcore) -> Iterator[Candidate]:
    """Servers that have vmlinux by build-id: those of $DEBUGINFOD_URLS, then the profile's."""
    if vmcore.build_id is None:
        return
    # elfutils 0.192 also has words about file signatures in the list.
    named = [word for word in os.environ.get("DEBUGINFOD_URLS", "").split() if "://" in word]
    for server in dict.fromkeys((*named, *(rules.debuginfod if rules is not None else ()))):
        url = f"{server.rstrip('/')}/buildid/{vmcore.build_id}/debuginfo"
        remote = RemotePackage(package=f"vmlinux {vmcore.build_id[:12]}", version=None, url=url, size=None, sha256=None)
        yield Candidate(remote=remote, keys=(), kind=DebuginfoFormat.VMLINUX)


def _candidate(rules: DebuginfoRules, url: str, package: str, keys: Sequence[str]) -> Candidate:
    remote = RemotePackage(package=package, version=None, url=url, size=None, sha256=None)
    return Candidate(remote=remote, keys=keys, kind=rules.format)


def _urls(templates: Sequence[str], wanted: PackageNames) -> Iterator[tuple[str, str]]:
    for asked in wanted.packages:
        package = asked.partition("=")[0]
        for template in templates:
            if (url := expand(template, {**wanted.names, "package": package})) is not None:
                yield url, package
