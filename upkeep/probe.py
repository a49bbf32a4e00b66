"""Checks that every URL of the profiles exists, and asks the registries for the digests of base images.

    tools/probe-profiles [--output FILE] [--pin] [PROFILE …]

Needs the Internet, and asks each host once a second. Writes one line for each URL: profile, kind, answer, URL. What is
asked for debuginfo is what vmbox asks for three kernels of each profile, up to the index. With --pin, digests of base
images are written to images/digests.toml, so that a tag that moves does not change what is built. Mirrors of the user's
settings are used. Exit status 1: a profile has a kind of which no URL answers.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx

from sandbox.debuginfo.package_names import package_names
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
from sandbox.host import mirrors
from sandbox.model import Vmcore
from sandbox.profiles import Profile, load, select

ROOT: Final = Path(__file__).resolve().parent.parent
DIGESTS: Final = ROOT / "images" / "digests.toml"
RELEASES: Final = ROOT / "tests" / "fixtures" / "releases.tsv"
_MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_BASEARCH: Final = "x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One URL to check."""

    profile: str
    kind: str
    """base, packages or debuginfo."""
    url: str
    """A reference for base images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    probe: Probe
    good: bool
    said: str
    """A digest, a size, or an error."""


def probes(profile: Profile) -> Iterator[Probe]:
    """Everything that a profile points to."""
    for ref in profile.base.images:
        yield Probe(profile=profile.name, kind="base", url=mirrors.rewrite(ref))
    for source in profile.image.sources:
        for url in _indexes(source):
            yield Probe(profile=profile.name, kind="packages", url=mirrors.rewrite(url))
    for url in dict.fromkeys(_debuginfo(profile)):
        yield Probe(profile=profile.name, kind="debuginfo", url=mirrors.rewrite(url))


def _indexes(source: str) -> Iterator[str]:
    """The URLs of the index of a package source."""
    if found := re.match(r"deb (?:\[[^]]*\] )?(\S+) (\S+)", source):
        yield f"{found[1]}/dists/{found[2]}/Release"
        return
    for url in source.split()[1:]:
        yield url.replace("$basearch", _BASEARCH).rstrip("/") + "/repodata/repomd.xml"


def _debuginfo(profile: Profile) -> Iterator[str]:
    """What vmbox asks for debuginfo of the oldest, a middle and the newest of the releases that the tests know."""
    for kernel in _three(_kernels(profile)):
        names = package_names(kernel, profile)
        for source in Source:
            # A server of build-ids has nothing for a release.
            if source is not Source.DEBUGINFOD:
                for question in questions(source, profile, kernel, names):
                    yield from _urls(question)


def _kernels(profile: Profile) -> Iterator[Vmcore]:
    for line in RELEASES.read_text(encoding="utf-8").splitlines()[1:]:
        release, version, *_ = line.split("\t")
        kernel = of_release(release, version or None)
        if select(kernel).distribution.name == profile.name:
            # As of a dump, which has a build-id and an architecture.
            yield replace(kernel, build_id="0" * 40, arch=kernel.arch or _BASEARCH)


def _three(kernels: Iterable[Vmcore]) -> list[Vmcore]:
    known = sorted(kernels, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel.release or "")])
    return [known[at] for at in sorted({0, len(known) // 2, len(known) - 1})] if known else []


def _urls(question: Question) -> Iterator[str]:
    """The URLs that answer a question: of a package, or of an index."""
    match question:
        case Candidate():
            yield question.remote.url
        case Repository():
            yield question.url if question.url.endswith(".list") else question.url.rstrip("/") + "/repodata/repomd.xml"
        case VersionedRepositories():
            yield question.index
        case PackageSources():
            for line in question.lines:
                yield from _indexes(line)


@dataclass(slots=True)
class Pace:
    """Lets one request a second through to each host."""

    seconds: float = 1.0
    _next: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, url: str) -> None:
        """Return when it is this request's turn."""
        host = url.partition("://")[2].partition("/")[0] or url.partition("/")[0]
        with self._lock:
            now = time.monotonic()
            turn = max(self._next.get(host, now), now)
            self._next[host] = turn + self.seconds
        time.sleep(turn - now)


def ask(client: httpx.Client, probe: Probe, pace: Pace) -> Seen:
    pace.wait(probe.url)
    try:
        return _digest(client, probe) if probe.kind == "base" else _there(client, probe)
    except httpx.HTTPError as error:
        return Seen(probe=probe, good=False, said=f"{type(error).__name__}: {error}")


def _there(client: httpx.Client, probe: Probe) -> Seen:
    # One byte, and not HEAD, which some mirrors answer with 403.
    with client.stream("GET", probe.url, headers={"Range": "bytes=0-0"}) as answer:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers.get("Content-Length", "?")
        said = f"{answer.status_code}, {size} bytes" if answer.is_success else str(answer.status_code)
        return Seen(probe=probe, good=answer.is_success, said=said)


def _digest(client: httpx.Client, probe: Probe) -> Seen:
    host, _, rest = probe.url.partition("/")
    name, _, tag = rest.rpartition(":")
    server = "registry-1.docker.io" if host == "docker.io" else host
    scheme = "http" if re.match(r"127\.|localhost:", server) else "https"
    url = f"{scheme}://{server}/v2/{name}/manifests/{tag}"
    headers = {"Accept": ", ".join(_MANIFESTS)}
    answer = client.head(url, headers=headers)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        # Public registries require a token from anonymous clients too.
        asked = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("WWW-Authenticate", "")))
        token = client.get(asked.pop("realm", ""), params=asked).json()
        headers["Authorization"] = f"Bearer {token.get('token') or token.get('access_token')}"
        answer = client.head(url, headers=headers)
    digest = answer.headers.get("Docker-Content-Digest", "")
    return Seen(probe=probe, good=answer.is_success and bool(digest), said=digest or str(answer.status_code))


def pin(seen: Iterable[Seen], file: Path = DIGESTS) -> None:
    """Writes the digests of base images, under the references of the profiles; other pinned digests are kept."""
    refs = {mirrors.rewrite(ref): ref for profile in load().values() for ref in profile.base.images}
    digests = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    digests |= {refs[one.probe.url]: one.said for one in seen if one.good and one.probe.kind == "base"}
    known = _HEAD + "".join(f'"{ref}" = "{digest}"\n' for ref, digest in sorted(digests.items()))
    file.write_text(known, encoding="utf-8")


_HEAD: Final = """\
# Digests of base images, by reference, as of the last look-up. Written by tools/probe-profiles --pin. A reference that
# is not here is pulled by its tag.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Check that every URL of the profiles exists.")
    parser.add_argument("profiles", nargs="*", metavar="PROFILE")
    parser.add_argument("--output", type=Path, help="where the lines go; standard output otherwise")
    parser.add_argument("--pin", action="store_true", help="write images/digests.toml")
    parser.add_argument("--pin-to", type=Path, default=DIGESTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [profile for name, profile in load().items() if not options.profiles or name in options.profiles]
    asked = [probe for profile in chosen for probe in probes(profile)]
    with httpx.Client(timeout=30, follow_redirects=True) as client, ThreadPoolExecutor(8) as pool:
        pace = Pace()
        seen = list(pool.map(lambda probe: ask(client, probe, pace), asked))
    lines = [f"{one.probe.profile}\t{one.probe.kind}\t{one.said}\t{one.probe.url}" for one in seen]
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        print(*lines, sep="\n")  # noqa: T201 - what it is run for
    if options.pin:
        pin(seen, options.pin_to)
    answered = {(one.probe.profile, one.probe.kind) for one in seen if one.good}
    lacking = sorted({(one.profile, one.kind) for one in asked} - answered)
    for name, kind in lacking:
        print(f"{name}: nothing of its {kind} answers", file=sys.stderr)  # noqa: T201 - what it is run for
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
