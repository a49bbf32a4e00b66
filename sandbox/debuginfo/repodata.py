"""Searches the index of RPM repositories, for packages whose names cannot be derived from uname -r.

repodata/repomd.xml names the list of packages (createrepo_c's formats): tens of megabytes of XML, of which a few lines
are needed. So it is parsed while it arrives and never held in memory. The index is not trusted: it may name no other
host, and the packages have signatures of their own and must match the dump.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
import xml.parsers.expat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from sandbox.debuginfo.download import counted, get, refuse, refuse_page, retried
from sandbox.debuginfo.package_download import read_package
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.errors import DebuginfoError, VerificationFailed
from sandbox.formats.compressions import by_suffix, decompressed
from sandbox.formats.streams import CorruptData, Stream
from sandbox.host import mirrors
from sandbox.log import Log
from sandbox.progress import Reporter

_log = Log("debuginfo")

_LARGEST_REPOMD: Final = 1 << 20
_LARGEST_DOWNLOAD: Final = 256 << 20
_LARGEST_LIST: Final = 2 << 30
"""Bytes of XML; openSUSE Tumbleweed's is 200 MB."""
_PIECE: Final = 64 << 10
_LONGEST_TAG: Final = 4 * _PIECE
_MOST_PIECES: Final = 64
"""Of a text, each of up to 8 KiB."""
_MOST_NAMES: Final = 256
"""Of elements and attributes; createrepo_c uses fifty."""
_DEEPEST: Final = 16
_MOST_FITTING: Final = 256
_MOST_MIRRORS: Final = 32


def find(base: str, wanted: Sequence[str], arch: str | None, reporter: Reporter) -> list[RemotePackage]:
    """The packages of the repository at `base` that `wanted` names, as NAME-VERSION-RELEASE[.ARCH].

    A release may go on after a dot: SUSE counts rebuilds there. A `base` that ends in ".list" is a list of mirrors.
    Raises `DownloadFailed`, `VerificationFailed`.
    """
    return _fitting(base, _Fits(wanted, arch), reporter)


def versions(base: str, name: str, arch: str, reporter: Reporter) -> list[RemotePackage]:
    """Every version of the package `name` in the repository at `base`; otherwise as `find`."""
    return _fitting(base, _Named(name, arch), reporter)


def _fitting(base: str, fits: _Fits | _Named, reporter: Reporter) -> list[RemotePackage]:
    failed: DebuginfoError = VerificationFailed(f"{base}: it names no mirror")
    for place in _bases(base, reporter):
        try:
            return [*_find(place, fits, reporter)]
        except CorruptData as error:
            failed = VerificationFailed(f"{place}: {error}")
        except DebuginfoError as error:
            failed = error
        _log.debug("%s", failed.message)
    raise failed


def text(url: str, reporter: Reporter) -> str:
    """A small text, such as the list of a repository's versions. Raises `DownloadFailed`, `VerificationFailed`."""
    return _small(url, reporter).decode("utf-8", "replace")


def _bases(base: str, reporter: Reporter) -> list[str]:
    """The repository itself, or those in a list of mirrors. A list from a TLS server may name only TLS mirrors."""
    if not base.endswith(".list"):
        return [base if base.endswith("/") else base + "/"]
    fitting = ("https://",) if base.startswith("https:") else ("https://", "http://")
    lines = text(base, reporter).split()
    return [line if line.endswith("/") else line + "/" for line in lines if line.startswith(fitting)][:_MOST_MIRRORS]


def _find(base: str, fits: _Fits | _Named, reporter: Reporter) -> Iterator[RemotePackage]:
    listed = _primary(_small(urljoin(base, "repodata/repomd.xml"), reporter))
    remote = RemotePackage(
        package="the package list", version=None, url=_of(base, listed.href), size=listed.size, sha256=listed.sha256
    )
    with tempfile.TemporaryDirectory(prefix="vmbox-list-") as scratch:
        found, _ = read_package(
            remote,
            Path(scratch) / "list",
            partial(_entries, kind=by_suffix(posixpath.splitext(listed.href)[1]) or "none", fits=fits),
            title=f"Reading the package list of {base}",
            reporter=reporter,
            limit=_LARGEST_DOWNLOAD,
        )
    for entry in sorted(found, key=fits.rank):
        yield RemotePackage(
            package=entry.name,
            version=f"{entry.version}-{entry.release}",
            url=_of(base, entry.href),
            size=entry.size,
            sha256=_sha256(entry.checksum_type, entry.checksum),
            index_signed=False,
        )


def _entries(arriving: Stream, *, kind: str, fits: _Fits | _Named) -> list[_Entry]:
    """The matching entries of a list of packages."""
    found: list[_Entry] = []

    def take(entry: _Entry) -> None:
        if fits(entry):
            found.append(entry)
            if len(found) > _MOST_FITTING:
                raise CorruptData("its package list has one package again and again")

    reading = _Packages(take)
    unpacked = decompressed(arriving, kind)
    total = 0
    while data := unpacked.read(_PIECE):
        total += len(data)
        if total > _LARGEST_LIST:
            raise CorruptData("its package list is too long")
        reading.feed(data)
    reading.feed(b"", last=True)
    return found


def _of(base: str, href: str) -> str:
    """The URL that a repository's index means by `href`. The index is not signed: it may name no other host."""
    import httpx

    try:
        url = urljoin(base, href)
        named, own = httpx.URL(url), httpx.URL(base)
    except (ValueError, httpx.InvalidURL):
        raise CorruptData("its index names what is no URL") from None
    if named.userinfo or (named.scheme, named.host, named.port) != (own.scheme, own.host, own.port):
        raise CorruptData("its index names another host")
    return url


def _sha256(kind: str, checksum: str) -> str | None:
    return checksum.lower() if kind == "sha256" and re.fullmatch("[0-9a-fA-F]{64}", checksum) else None


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


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    arch: str

    def __call__(self, entry: _Entry) -> bool:
        return (entry.name, entry.arch) == (self.name, self.arch)

    def rank(self, _: _Entry) -> int:
        return 0


def _small(url: str, reporter: Reporter) -> bytes:
    url = mirrors.rewrite(url)

    def attempt() -> bytes:
        with get(url) as response:
            refuse(response)
            data = bytearray()
            for piece in response.iter_raw():
                data += piece
                if len(data) > _LARGEST_REPOMD:
                    raise VerificationFailed(f"{url}: too long")
            refuse_page(url, bytes(data))
            return bytes(data)

    return retried(url, attempt, reporter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """The list of packages, as repomd.xml describes it."""

    href: str
    size: int | None
    sha256: str | None


def _primary(repomd: bytes) -> _Listed:
    found: dict[str, str] = {}
    inside = False
    text: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal inside
        text.clear()
        match name:
            case "data":
                inside = attributes.get("type") == "primary"
            case "location" if inside:
                found["href"] = attributes.get("href", "")
            case "checksum" if inside:
                found["kind"] = attributes.get("type", "")
            case _:
                pass

    def end(name: str) -> None:
        if inside and name in {"size", "checksum"}:
            found[name] = "".join(text).strip()

    _parse(start, end, text.append)(repomd, last=True)
    if not found.get("href"):
        raise CorruptData("its repomd.xml names no list of packages")
    return _Listed(
        href=found["href"],
        size=counted(found.get("size", "")),
        sha256=_sha256(found.get("kind", ""), found.get("checksum", "")),
    )


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
                self._entry.size = counted(attributes.get("package", ""))
            case "location":
                # xml:base is set if the packages are in another place.
                base = attributes.get("xml:base", "")
                self._entry.href = urljoin(base, attributes.get("href", "")) if base else attributes.get("href", "")
            case _:
                pass

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
            if len(self._text) > _MOST_PIECES:
                raise CorruptData("its package list has a name without an end")

    def _end(self, name: str) -> None:
        local = _local(name)
        if self._entry is None:
            return
        if self._text is not None and local in {"name", "arch", "checksum"}:
            # The format part of an entry repeats some names; the first ones are the package's.
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
    """Feeds expat, and bounds what it keeps in memory: open elements, names it has seen, an incomplete tag."""
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    names: set[str] = set()
    depth = fed = 0

    def start_element(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        names.add(name)
        names.update(attributes)
        if depth > _DEEPEST or len(names) > _MOST_NAMES:
            raise CorruptData("its XML is not that of an index")
        start(name, attributes)

    def end_element(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name)

    def no_document_type(*_: object) -> None:
        # A few lines of entities can expand to gigabytes, and repodata has none.
        raise CorruptData("its XML declares entities")

    parser.StartElementHandler = start_element
    parser.EndElementHandler = end_element
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = no_document_type

    def feed(data: bytes, *, last: bool) -> None:
        nonlocal fed
        fed += len(data)
        try:
            parser.Parse(data, last)
        except xml.parsers.expat.ExpatError as error:
            raise CorruptData(f"its XML is damaged: {error}") from None
        if not last and fed - parser.CurrentByteIndex > _LONGEST_TAG:
            raise CorruptData("its XML has a tag without an end")

    return feed
