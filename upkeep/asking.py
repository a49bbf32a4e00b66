"""Asks a place whether it has what a profile says: one byte of it, its index, or the signature over it."""

from __future__ import annotations

import lzma
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from sandbox.debuginfo import repodata, signature
from sandbox.debuginfo.download import TimedOut, Untrusted
from sandbox.debuginfo.http_ranges import HttpFile, RangesUnsupported, RemoteStream
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.debuginfo.urls import VersionedRepositories
from sandbox.errors import ConfigurationError, DebuginfoError, Unreachable
from sandbox.formats import rpm
from sandbox.formats.streams import CorruptData
from sandbox.host import mirrors
from sandbox.profiles.keys import key_files
from sandbox.progress import QUIET
from upkeep.probes import Kind, Probe

_MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LARGEST_LIST: Final = 256 << 20
"""Bytes of an unpacked list of packages; that of sid's main has 60 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a place said."""

    probe: Probe
    good: bool
    said: str
    """A digest, a size, the name of the key that signed it, or an error."""
    reached: bool = True
    """Whether the place said anything at all."""


@dataclass(slots=True)
class Pace:
    """Lets one request a second through to each host."""

    seconds: float = 1.0
    _next: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Let nothing through any more."""
        self._ended.set()

    def wait(self, url: str, requests: int = 1) -> None:
        """Return when it is the turn of the caller, who sends so many requests. Raises `Ended`."""
        host = urlsplit(url).netloc or url.partition("/")[0]
        with self._lock:
            now = time.monotonic()
            turn = max(self._next.get(host, now), now)
            self._next[host] = turn + requests * self.seconds
        if self._ended.wait(turn - now):
            raise Ended


class Ended(Exception):
    """The probe was ended, by Ctrl-C."""


class _Lacking(Exception):
    """The place answers, and does not have it."""


@dataclass(slots=True)
class Asker:
    """Asks with one client, at one pace."""

    client: httpx.Client
    pace: Pace = field(default_factory=Pace)
    _lists: dict[str, dict[str, list[str]] | _Lacking] = field(default_factory=dict)
    """Of Debian's suites: each is fetched once, for main's has 9 MB."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, probe: Probe) -> Seen:
        """Ask what `probe` names, at the site's mirrors. Whatever goes wrong is what is seen."""
        url = mirrors.rewrite(probe.url)
        try:
            return Seen(probe=probe, good=True, said=self._said(probe, url))
        except (httpx.HTTPError, DebuginfoError, ConfigurationError, CorruptData, _Lacking) as error:
            said = " ".join(f"{error}".split()) or type(error).__name__
            lost = isinstance(error, httpx.TransportError | Unreachable | TimedOut | Untrusted)
            return Seen(probe=probe, good=False, said=said, reached=not lost)

    def _said(self, probe: Probe, url: str) -> str:
        match probe.kind:
            case Kind.BASE:
                self.pace.wait(url, 3)
                return self._digest(url)
            case Kind.PACKAGES:
                self.pace.wait(url)
                return self._index(url, probe.keys) if is_suite(url) else self._repository(url)
            case Kind.CRASH | Kind.DEBUGINFO:
                return self._in_suite(probe, url) if is_suite(url) else self._package(probe, url)

    def _there(self, url: str) -> str:
        # One byte, and not HEAD, which some mirrors answer with 403.
        with self.client.stream("GET", url, headers={"Range": "bytes=0-0"}) as answer:
            if not answer.is_success:
                raise _Lacking(str(answer.status_code))
            size = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers.get(
                "Content-Length", "?"
            )
            return f"{answer.status_code}, {size} bytes"

    def _repository(self, url: str) -> str:
        return self._there(url if url.endswith(".list") else url.rstrip("/") + "/repodata/repomd.xml")

    def _index(self, suite: str, keys: Sequence[str]) -> str:
        """The key that signed a suite's InRelease."""
        answer = self.client.get(f"{suite}/InRelease")
        if not answer.is_success:
            raise _Lacking(str(answer.status_code))
        with tempfile.TemporaryDirectory(prefix="vmbox-probe-") as scratch:
            signed = Path(scratch) / "InRelease"
            signed.write_bytes(answer.content)
            try:
                rings = [word for ring in _rings(keys, Path(scratch)) for word in ("--keyring", str(ring))]
                done = subprocess.run(["gpgv", *rings, str(signed)], capture_output=True, text=True, check=False)
            except FileNotFoundError as error:
                raise _Lacking(f"its signature cannot be checked: there is no {error.filename}") from None
        found = re.search(r'Good signature from "([^"]*)"', done.stderr)
        if done.returncode or found is None:
            raise _Lacking(f"its signature: {(done.stderr.strip() or 'none').splitlines()[-1]}")
        return f"signed by {found[1]}"

    def _package(self, probe: Probe, url: str) -> str:
        if probe.kind is Kind.CRASH:
            self.pace.wait(url, 2)
            name, _, version = probe.wanted[0].partition("=")
            listed = repodata.versions(probe.url, name, probe.arch, QUIET)
            fitting = [one for one in listed if _is_version(one.version, version)]
            if not fitting:
                has = ", ".join(sorted({one.version or "" for one in listed})) or "no such package"
                raise _Lacking(f"not {name} {version}: {has}")
            return self._signed(fitting[-1], probe.keys)
        if isinstance(probe.question, VersionedRepositories):
            return self._in_versions(probe, probe.question)
        self.pace.wait(url, 2)
        if not probe.wanted:
            said = self._there(url)
            return self._signed(_remote(probe.url), probe.keys) if probe.keys else said
        if not (found := repodata.find(probe.url, probe.wanted, probe.arch, QUIET)):
            raise _Lacking(f"it has no {' '.join(probe.wanted)}")
        return self._signed(found[0], probe.keys)

    def _in_versions(self, probe: Probe, question: VersionedRepositories) -> str:
        self.pace.wait(mirrors.rewrite(question.index))
        versions = question.versions(repodata.text(question.index, QUIET))
        for version in versions:
            for url in question.of(version):
                self.pace.wait(mirrors.rewrite(url), 3)
                with suppress(DebuginfoError):
                    if found := repodata.find(url, probe.wanted, probe.arch, QUIET):
                        return f"{self._signed(found[0], probe.keys)}, in {version}"
        raise _Lacking(f"not in {', '.join(versions) or 'a version: the list names none'}")

    def _signed(self, remote: RemotePackage, keys: Sequence[str]) -> str:
        """The name of the key that signed an RPM, of which the header alone is read."""
        if not keys:
            return f"there, {remote.version or remote.package}"
        url = mirrors.rewrite(remote.url)
        self.pace.wait(url, 2)
        try:
            package = rpm.read(RemoteStream(HttpFile(url, None, QUIET)))
        except RangesUnsupported:
            raise _Lacking("its signature cannot be checked: the server sends no ranges") from None
        signer = signature.signer(package.header, package.signatures, key_files(keys), what=remote.package)
        return f"signed by {signer}"

    def _in_suite(self, probe: Probe, suite: str) -> str:
        """Whether a Debian suite's list has one of the packages, at its version."""
        with self._lock:
            if suite not in self._lists:
                self._lists[suite] = self._list(suite, probe.arch)
            listed = self._lists[suite]
        if isinstance(listed, _Lacking):
            raise listed
        near = []
        for wanted in probe.wanted:
            name, _, version = wanted.partition("=")
            for found in listed.get(name, ()):
                if found == version or (probe.kind is Kind.CRASH and _is_version(found, version)):
                    return f"there, {name} {found}"
                near.append(f"{name} {found}")
        raise _Lacking(f"not {' '.join(probe.wanted)}: {', '.join(near) or 'no such package'}")

    def _list(self, suite: str, arch: str) -> dict[str, list[str]] | _Lacking:
        """Versions by name, of crash and of kernels' debug packages."""
        self.pace.wait(suite)
        answer = self.client.get(f"{suite}/main/binary-{arch}/Packages.xz")
        if not answer.is_success:
            return _Lacking(f"{answer.status_code} for its list of packages")
        text = lzma.LZMADecompressor().decompress(answer.content, _LARGEST_LIST).decode("utf-8", "replace")
        found: dict[str, list[str]] = {}
        for name, version in re.findall(r"(?m)^Package: (crash|linux-image-\S+)$(?:\n.+)*?\nVersion: (\S+)$", text):
            found.setdefault(name, []).append(version)
        return found

    def _digest(self, ref: str) -> str:
        host, _, rest = ref.partition("/")
        name, _, tag = rest.rpartition(":")
        server = "registry-1.docker.io" if host == "docker.io" else host
        scheme = "http" if re.match(r"127\.|localhost:", server) else "https"
        url = f"{scheme}://{server}/v2/{name}/manifests/{tag}"
        headers = {"Accept": ", ".join(_MANIFESTS)}
        answer = self.client.head(url, headers=headers)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            # Public registries require a token from anonymous clients too.
            asked = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("WWW-Authenticate", "")))
            token = self.client.get(asked.pop("realm", ""), params=asked).json()
            headers["Authorization"] = f"Bearer {token.get('token') or token.get('access_token')}"
            answer = self.client.head(url, headers=headers)
        digest = answer.headers.get("Docker-Content-Digest", "")
        if not answer.is_success or not digest:
            raise _Lacking(str(answer.status_code))
        return str(digest)


def is_suite(url: str) -> bool:
    """Whether it is of a Debian archive: the other places are repositories of RPMs, or packages."""
    return "/dists/" in url and not url.endswith((".deb", ".ddeb"))


def _is_version(found: str | None, wanted: str) -> bool:
    """Whether an index's version, such as 9.0.1-1ubuntu1 or 1:7.2.9-2, is of upstream's version."""
    return re.match(rf"(?:\d+:)?{re.escape(wanted)}(?![\d.])", found or "") is not None


def _remote(url: str) -> RemotePackage:
    return RemotePackage(package=url.rpartition("/")[2], version=None, url=url, size=None, sha256=None)


def _rings(keys: Sequence[str], scratch: Path) -> Iterator[Path]:
    """Files of keys as gpgv reads them, which armored ones it does not."""
    for number, key in enumerate(keys):
        file = Path(key) if key.startswith("/") else key_files([key])[0]
        if file.suffix != ".asc":
            yield file
            continue
        ring = scratch / f"{number}.gpg"
        armored = [
            "gpg",
            "--homedir",
            str(scratch),
            "--batch",
            "--quiet",
            "--output",
            str(ring),
            "--dearmor",
            str(file),
        ]
        subprocess.run(armored, capture_output=True, check=True)
        yield ring
