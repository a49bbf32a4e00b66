"""Where packages lie that no package manager of an image knows: URL templates, and debuginfod servers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sandbox.debuginfo.package_names import PackageNames, RemotePackage, expand
from sandbox.model import Vmcore
from sandbox.profiles import DebuginfoRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One URL where the package may be, and whose key must have signed it."""

    remote: RemotePackage
    keys: Sequence[str]
    kind: str
    """deb, rpm or vmlinux."""


def candidates(rules: DebuginfoRules, vmcore: Vmcore, wanted: PackageNames) -> Iterator[Candidate]:
    """URLs to try, best first: the vendor's archives, current tree before vault; then those that have all.

    Where the dump does not say who built its kernel, the archives of all who ship such releases: the proof decides.
    """
    seen: set[str] = set()
    for archive in rules.archives:
        if vmcore.vendor is not None and archive.vendor != vmcore.vendor:
            continue
        for url, package in _urls(archive.urls, wanted):
            if url not in seen:
                seen.add(url)
                yield _candidate(rules, url, package, archive.keys)
    for url, package in _urls(rules.urls, wanted):
        if url not in seen:
            seen.add(url)
            yield _candidate(rules, url, package, rules.keys)


def unsigned(rules: DebuginfoRules, wanted: PackageNames) -> Iterator[Candidate]:
    """URLs of packages that nobody signed."""
    for url, package in _urls(rules.unsigned, wanted):
        yield _candidate(rules, url, package, ())


def bases(templates: Sequence[str], wanted: PackageNames) -> list[str]:
    """Repositories to ask, each once."""
    return list(dict.fromkeys(url for template in templates if (url := expand(template, wanted.names)) is not None))


def debuginfods(rules: DebuginfoRules | None, vmcore: Vmcore) -> Iterator[Candidate]:
    """Servers that have vmlinux by build-id: those of $DEBUGINFOD_URLS, then the profile's."""
    if vmcore.build_id is None:
        return
    # elfutils 0.192 mixes words about signatures of files into the list.
    named = [word for word in os.environ.get("DEBUGINFOD_URLS", "").split() if "://" in word]
    for server in dict.fromkeys((*named, *(rules.debuginfod if rules is not None else ()))):
        url = f"{server.rstrip('/')}/buildid/{vmcore.build_id}/debuginfo"
        remote = RemotePackage(package=f"vmlinux {vmcore.build_id[:12]}", version=None, url=url, size=None, sha256=None)
        yield Candidate(remote=remote, keys=(), kind="vmlinux")


def _candidate(rules: DebuginfoRules, url: str, package: str, keys: Sequence[str]) -> Candidate:
    remote = RemotePackage(package=package, version=None, url=url, size=None, sha256=None)
    return Candidate(remote=remote, keys=keys, kind=rules.format)


def _urls(templates: Sequence[str], wanted: PackageNames) -> Iterator[tuple[str, str]]:
    for asked in wanted.packages:
        package = asked.partition("=")[0]
        for template in templates:
            if (url := expand(template, {**wanted.names, "package": package})) is not None:
                yield url, package
