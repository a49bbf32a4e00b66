"""What there is to check about profiles: base images, package sources, crash, and the debuginfo of real kernels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from sandbox.debuginfo.package_names import PackageNames, package_names
from sandbox.debuginfo.urls import (
    Candidate,
    PackageSources,
    Question,
    Repository,
    Source,
    VersionedRepositories,
    questions,
)
from sandbox.dump.release import of_release
from sandbox.model import DebuginfoFormat, Vmcore
from sandbox.profiles import Profile, select

RELEASES: Final = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "releases.tsv"
ARCH: Final = "x86_64"
"""The architecture that is checked, but for kernels that name theirs."""
_DEBIAN: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Kind(StrEnum):
    """What is checked, in the order of the page's columns."""

    BASE = "base"
    PACKAGES = "packages"
    CRASH = "crash"
    DEBUGINFO = "debuginfo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One place to ask."""

    profile: str
    kind: Kind
    url: str
    """A reference for base images; the repository or suite of packages; a package's own URL."""
    wanted: tuple[str, ...] = ()
    """Packages to look for in an index: NAME-VERSION-RELEASE.ARCH of RPMs, NAME=VERSION of Debian's."""
    release: str = ""
    """The kernel whose debuginfo it is."""
    arch: str = ARCH
    """As the index calls it."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/`, or of the host's keyrings, one of which must have signed what is found."""
    question: Question | None = None
    """What vmbox itself asks, if that is more than a URL."""


def probes(profile: Profile) -> Iterator[Probe]:
    """Everything that a profile points to."""
    for ref in profile.base.images:
        yield Probe(profile=profile.name, kind=Kind.BASE, url=ref)
    if profile.image.unusable is None:
        yield from _image(profile)
    for kernel in three(kernels(profile)):
        yield from dict.fromkeys(_debuginfo(profile, kernel))


def _image(profile: Profile) -> Iterator[Probe]:
    """Its package sources, and crash in them."""
    arch = profile.arch.get(ARCH, ARCH)
    for source in profile.image.sources:
        for url in _places(source, arch):
            deb = source.startswith("deb ")
            keys = keyrings(profile) if deb else ()
            yield Probe(profile=profile.name, kind=Kind.PACKAGES, url=url, arch=arch, keys=keys)
            wanted = (f"crash={profile.crash.version}",)
            keys = () if deb else profile.image.keys
            yield Probe(profile=profile.name, kind=Kind.CRASH, url=url, wanted=wanted, arch=arch, keys=keys)


def keyrings(profile: Profile) -> tuple[str, ...]:
    """What signs the suites of a profile whose packages are Debian's or Ubuntu's."""
    how = profile.base.bootstrap
    return (how.keyring if how is not None and how.keyring is not None else _DEBIAN,)


def _places(source: str, arch: str) -> Iterator[str]:
    """The suites, ending in "/dists/NAME", or repositories of a line of package sources."""
    if found := re.match(r"deb (?:\[([^]]*)\] )?(\S+) (\S+)", source):
        named = re.search(r"arch=(\S+)", found[1] or "")
        if named is None or arch in named[1].split(","):
            yield f"{found[2]}/dists/{found[3]}"
        return
    for url in source.split()[1:]:
        yield url.replace("$basearch", ARCH)


def _debuginfo(profile: Profile, kernel: Vmcore) -> Iterator[Probe]:
    """What vmbox asks for the debuginfo of a kernel. A server of build-ids has nothing for a release alone."""
    rules, names = profile.debuginfo, package_names(kernel, profile)
    if rules is None or names is None:
        return
    for source in Source:
        if source is not Source.DEBUGINFOD:
            for question in questions(source, profile, kernel, names):
                yield from _asked(profile, kernel, names, question)


def _asked(profile: Profile, kernel: Vmcore, names: PackageNames, question: Question) -> Iterator[Probe]:
    assert profile.debuginfo is not None  # noqa: S101 - it has questions
    arch = profile.arch.get(kernel.arch or ARCH, kernel.arch or ARCH)
    one = Probe(
        profile=profile.name,
        kind=Kind.DEBUGINFO,
        url="",
        wanted=names.packages,
        release=kernel.release or "",
        arch=arch,
        keys=profile.debuginfo.keys,
        question=question,
    )
    match question:
        case Candidate():
            keys = tuple(question.keys) if question.kind is DebuginfoFormat.RPM else ()
            yield replace(one, url=question.remote.url, wanted=(), keys=keys)
        case Repository():
            yield replace(one, url=question.url)
        case VersionedRepositories():
            yield replace(one, url=question.index)
        case PackageSources():
            for line in question.lines:
                for url in _places(line, arch):
                    yield replace(one, url=url, keys=keyrings(profile), question=None)


def kernels(profile: Profile) -> Iterator[Vmcore]:
    """Real kernels of a profile whose packages are published, and can be named by what is known of them."""
    rules = profile.debuginfo
    if rules is None:
        return
    for line in RELEASES.read_text(encoding="utf-8").splitlines()[1:]:
        release, version, *_ = line.split("\t")
        kernel = of_release(release, version or None)
        # As of a dump, which has a build-id and an architecture.
        kernel = replace(kernel, build_id="0" * 40, arch=kernel.arch or _machine(profile))
        if select(kernel).distribution.name == profile.name and not rules.why_unpublished(kernel):
            names = package_names(kernel, profile)
            if names is not None and names.packages:
                yield kernel


def _machine(profile: Profile) -> str:
    """The machine of kernels that do not name it: some distributions are of one that is not ours."""
    return ARCH if not profile.arch or ARCH in profile.arch else next(iter(profile.arch))


def three(known: Iterable[Vmcore]) -> list[Vmcore]:
    """The oldest, a middle one, and the newest."""
    ordered = sorted(known, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel.release or "")])
    return [ordered[at] for at in sorted({0, len(ordered) // 2, len(ordered) - 1})] if ordered else []
