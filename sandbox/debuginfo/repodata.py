"""RPM repositories whose package names cannot be derived from uname -r: their index is asked.

repodata/repomd.xml names the list of packages (createrepo_c's formats), which is read while it arrives and never held:
tens of megabytes of XML for a few lines. Nothing in it is trusted: what it leads to is signed itself, and proven.
"""

from __future__ import annotations

import posixpath
import xml.parsers.expat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

from sandbox.debuginfo.download import client, refuse, retried
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.errors import VerificationFailed
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.streams import CHUNK, ChunkStream, CorruptData
from sandbox.host import mirrors
from sandbox.progress import Reporter

_LARGEST_REPOMD: Final = 1 << 20
_LARGEST_LIST: Final = 2 << 30
"""Bytes of XML; openSUSE Tumbleweed's is 200 MB."""


def find(base: str, wanted: Sequence[str], arch: str | None, reporter: Reporter) -> list[RemotePackage]:
    """The packages of the repository at `base` that `wanted` names, as NAME-VERSION-RELEASE[.ARCH].

    A release may go on after a dot: SUSE counts rebuilds there. A `base` that ends in ".list" is a list of mirrors.
    Raises `DownloadFailed`, `VerificationFailed`.
    """
    for place in _bases(base, reporter):
        try:
            return [*_find(place, wanted, arch, reporter)]
        except CorruptData as error:
            raise VerificationFailed(f"{place}: {error}") from None
    return []


def _bases(base: str, reporter: Reporter) -> list[str]:
    if not base.endswith(".list"):
        return [base if base.endswith("/") else base + "/"]
    lines = _small(base, reporter).decode("utf-8", "replace").split()
    return [line if line.endswith("/") else line + "/" for line in lines if "://" in line]


def _find(base: str, wanted: Sequence[str], arch: str | None, reporter: Reporter) -> Iterator[RemotePackage]:
    href, size = _primary(_small(urljoin(base, "repodata/repomd.xml"), reporter))
    found: list[_Entry] = []
    fits = _Fits(wanted, arch)
    with reporter.step(f"Reading the package list of {base}", total=size, unit="B") as step:
        reading = _Packages(lambda entry: found.append(entry) if fits(entry) else None)
        arriving = ChunkStream(_arriving(mirrors.rewrite(urljoin(base, href)), reporter, step.advance))
        unpacked = decompressed(arriving, by_suffix(posixpath.splitext(href)[1]) or "none")
        total = 0
        while data := unpacked.read(CHUNK):
            total += len(data)
            if total > _LARGEST_LIST:
                raise CorruptData("its package list is too long")
            reading.feed(data)
        reading.feed(b"", last=True)
    for entry in sorted(found, key=fits.rank):
        yield RemotePackage(
            package=entry.name,
            version=f"{entry.version}-{entry.release}",
            url=urljoin(base, entry.href),
            size=entry.size,
            sha256=entry.checksum if entry.checksum_type == "sha256" else None,
        )


@dataclass(slots=True)
class _Entry:
    """One package of the list."""

    name: str = ""
    arch: str = ""
    version: str = ""
    release: str = ""
    href: str = ""
    size: int | None = None
    checksum: str = ""
    checksum_type: str = ""

    @property
    def nevra(self) -> str:
        return f"{self.name}-{self.version}-{self.release}.{self.arch}"


@dataclass(frozen=True, slots=True)
class _Fits:
    wanted: Sequence[str]
    arch: str | None

    def __call__(self, entry: _Entry) -> bool:
        return self.rank(entry) < len(self.wanted) and (self.arch is None or entry.arch == self.arch)

    def rank(self, entry: _Entry) -> int:
        nevra = entry.nevra
        fitting = (at for at, one in enumerate(self.wanted) if nevra == one or nevra.startswith(one + "."))
        return next(fitting, len(self.wanted))


def _arriving(url: str, reporter: Reporter, advance: Callable[[int], None]) -> Iterator[bytes]:
    """A download. A cut connection is continued where it stopped."""
    data = bytearray()

    def attempt() -> None:
        headers = {"Range": f"bytes={len(data)}-"} if data else {}
        with client(url).stream("GET", url, headers=headers) as response:
            refuse(response)
            if data and response.status_code != 206:
                data.clear()
            for piece in response.iter_raw():
                data.extend(piece)
                advance(len(piece))

    # Compressed, a list is a few megabytes; it is what it unpacks to that must not be held.
    retried(url, attempt, reporter, lambda: len(data))
    view = bytes(data)
    yield from (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))


def _small(url: str, reporter: Reporter) -> bytes:
    url = mirrors.rewrite(url)

    def attempt() -> bytes:
        with client(url).stream("GET", url) as response:
            refuse(response)
            data = b""
            for piece in response.iter_raw():
                data += piece
                if len(data) > _LARGEST_REPOMD:
                    raise VerificationFailed(f"{url}: too long")
            return data

    return retried(url, attempt, reporter)


def _primary(repomd: bytes) -> tuple[str, int | None]:
    """(href, bytes) of the list of packages."""
    found: dict[str, str] = {}
    inside = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal inside
        match _local(name):
            case "data":
                inside = attributes.get("type") == "primary"
            case "location" if inside:
                found["href"] = attributes.get("href", "")

    _parse(start, lambda _: None, lambda _: None)(repomd, last=True)
    if not found.get("href"):
        raise CorruptData("its repomd.xml names no list of packages")
    return found["href"], None


class _Packages:
    """Calls back with every package of a primary.xml that is fed to it."""

    def __init__(self, take: Callable[[_Entry], object]) -> None:
        self._take = take
        self._entry: _Entry | None = None
        self._text: list[str] | None = None
        self._feed = _parse(self._start, self._end, self._characters)

    def feed(self, data: bytes, *, last: bool = False) -> None:
        self._feed(data, last=last)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = _local(name)
        if local == "package":
            self._entry = _Entry()
        if self._entry is None:
            return
        match local:
            case "name" | "arch":
                self._text = []
            case "checksum":
                self._text = []
                self._entry.checksum_type = attributes.get("type", "")
            case "version":
                self._entry.version = attributes.get("ver", "")
                self._entry.release = attributes.get("rel", "")
            case "size":
                size = attributes.get("package", "")
                self._entry.size = int(size) if size.isdigit() else None
            case "location":
                # Where a repository's packages lie elsewhere, xml:base says so.
                base = attributes.get("xml:base", "")
                self._entry.href = urljoin(base, attributes.get("href", "")) if base else attributes.get("href", "")
            case _:
                pass

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        local = _local(name)
        if self._entry is None:
            return
        if self._text is not None and local in {"name", "arch", "checksum"}:
            # The format part of an entry has names of its own, below rpm:; the first ones are the package's.
            if not getattr(self._entry, local):
                setattr(self._entry, local, "".join(self._text).strip())
            self._text = None
        if local == "package":
            self._take(self._entry)
            self._entry = None


def _local(name: str) -> str:
    return "" if name.startswith("rpm:") else name


def _parse(
    start: Callable[[str, dict[str, str]], None], end: Callable[[str], None], characters: Callable[[str], None]
) -> Callable[..., None]:
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters

    def no_entities(*_: object) -> None:
        # A few lines of entities can stand for gigabytes, and repodata has none.
        raise CorruptData("its XML declares entities")

    parser.EntityDeclHandler = no_entities

    def feed(data: bytes, *, last: bool) -> None:
        try:
            parser.Parse(data, last)
        except xml.parsers.expat.ExpatError as error:
            raise CorruptData(f"its XML is damaged: {error}") from None

    return feed
