"""Fetches debug files of modules when a command needs them, from the package that vmlinux came from.

They are put into `modules/` beside vmlinux, where crash looks for NAME.ko and NAME.ko.debug. An open case has that
directory mounted, so it sees them at once. NAME.unchecked is beside those that nothing signed was compared with.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sandbox.debuginfo import extract as packages, local, trust
from sandbox.debuginfo.deb_locator import DebFileLocator, data_blocks, md5sums
from sandbox.debuginfo.download import is_secure
from sandbox.debuginfo.extract import ExtractSpec
from sandbox.debuginfo.fetch import is_signed, ranged_url
from sandbox.debuginfo.http_ranges import BlockStream, HttpFile, RangesUnsupported, RemoteStream, XzBlocks
from sandbox.debuginfo.package_download import read_package
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.debuginfo.store import About, Entry, Store
from sandbox.errors import DebuginfoNotFound, NoSpace, VerificationFailed
from sandbox.formats import deb, rpm
from sandbox.formats.compressions import decompressed
from sandbox.formats.streams import CorruptData, FileStream, Stream
from sandbox.formats.xz import NotSeekable
from sandbox.model import DebuginfoFormat
from sandbox.profiles.keys import key_files
from sandbox.progress import QUIET, Reporter

_MODULE: Final = re.compile(r"(?:.*/)?([^/]+?)\.ko(\.debug)?$")
_UNCHECKED: Final = ".unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The result of a request for modules."""

    fetched: tuple[str, ...]
    missing: tuple[str, ...]
    """Modules that are not in the package: from a third party, or built into the kernel."""


def module_name(path: str) -> str | None:
    """The kernel's name for a module file: "virtio_blk" for "…/virtio-blk.ko.debug"; None for another file."""
    found = _MODULE.match(path)
    return None if found is None else found[1].replace("-", "_")


def spelled(names: Iterable[str]) -> frozenset[str]:
    """Names of modules as the kernel spells them: file names may have "-" in place of "_"."""
    return frozenset(name.replace("-", "_") for name in names)


def present(entry: Entry) -> frozenset[str]:
    """Names of the modules whose debug files are in the cache."""
    return those_in(entry.directory)


def those_in(directory: Path) -> frozenset[str]:
    """The same for the directory that vmlinux is in; without those that were not checked if `verify` is "strict"."""
    try:
        files = [path.name for path in (directory / "modules").iterdir()]
    except OSError:
        return frozenset()
    refused = {name.removesuffix(_UNCHECKED) for name in files if name.endswith(_UNCHECKED) and trust.strict()}
    return frozenset(name for name in map(module_name, files) if name is not None and name not in refused)


def fetch_modules(vmlinux: Path, names: Iterable[str], reporter: Reporter = QUIET) -> Modules:
    """Puts the debug files of the modules `names` beside a cached `vmlinux`.

    Reads by ranges where the package allows it, and verifies like for vmlinux. Raises `DebuginfoNotFound` if vmlinux
    came from a source without modules, `DownloadFailed`, `VerificationFailed`, `NoSpace`.
    """
    store = Store(vmlinux.parents[2])
    entry = store.find(vmlinux.parent.name)
    if entry is None:
        raise DebuginfoNotFound(f"{vmlinux} is not in the cache any more", hint="close the case and open it again")
    wanted = set(spelled(names))
    if wanted <= present(entry):
        return Modules(fetched=(), missing=())
    with store.locked(f"{vmlinux.parent.name}-modules", reporter):
        wanted -= present(entry)
        if wanted:
            with _Room(entry.directory, wanted) as room:
                _fill(room, entry, store, reporter)
            return Modules(fetched=tuple(sorted(room.taken)), missing=tuple(sorted(room.missing)))
    return Modules(fetched=(), missing=())


class _Room:
    """A temporary directory for files until all of them are complete and verified."""

    def __init__(self, directory: Path, wanted: set[str]) -> None:
        self.wanted = frozenset(wanted)
        self.taken: set[str] = set()
        self.checked = True
        """Whether the files were compared with something signed, or are the user's own."""
        self._target = directory / "modules"
        try:
            self._scratch = tempfile.TemporaryDirectory(prefix=".modules-", dir=directory)
        except PermissionError:
            raise NoSpace(
                f"{directory} is another user's: modules cannot be put there",
                hint="choose a cache of your own: export VMBOX_CACHE_DIR=DIRECTORY",
            ) from None
        self.directory = Path(self._scratch.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._target.mkdir(exist_ok=True)
            for file in self.directory.iterdir():
                mark = self._target / f"{module_name(file.name)}{_UNCHECKED}"
                file.chmod(0o644)
                if not self.checked:
                    mark.touch(mode=0o644)
                file.replace(self._target / file.name)
                if self.checked:
                    mark.unlink(missing_ok=True)
        self._scratch.cleanup()

    @property
    def missing(self) -> frozenset[str]:
        return self.wanted - self.taken

    def wants(self, path: str) -> bool:
        return module_name(path) in self.missing

    def take(self, stream: Stream, path: str, size: int, algorithm: str = "md5") -> str:
        """Writes the next `size` bytes of `stream`; returns their digest."""
        digest = packages.write(stream, size, self.directory / Path(path).name, algorithm)
        self.taken.add(module_name(path) or "")
        return digest


def _fill(room: _Room, entry: Entry, store: Store, reporter: Reporter) -> None:
    about = entry.about
    kind = _kind_of(about)
    if about.url is None:
        _from_host(room, Path(about.origin), kind)
        return
    if kind is DebuginfoFormat.VMLINUX:
        raise DebuginfoNotFound(
            f"{about.url} has vmlinux and no modules", hint="give a package: vmbox debuginfo add PACKAGE"
        )
    contents = ExtractSpec(kind=kind, patterns=(), keys=key_files(about.keys))
    remote = RemotePackage(
        package=about.package or "the package", version=None, url=about.url, size=about.size, sha256=about.sha256
    )
    title = f"Downloading {len(room.wanted)} modules of {remote.package}"
    signed = is_signed(contents)
    if trust.strict() and not signed and remote.sha256 is None:
        raise VerificationFailed(f'{remote.url}: no hash of it is known, and verify is "strict"')
    url = ranged_url(remote, signed=signed, reporter=reporter) if signed or not trust.strict() else None
    # vmlinux of every dump's came over TLS: its modules come no other way.
    only_tls = trust.shared(about.check) and not signed and remote.sha256 is None
    if url is not None:
        if only_tls and not url.startswith("https:"):
            raise _without_tls(url)
        room.checked = signed
        try:
            with reporter.step(title, unit="B") as step:
                file = HttpFile(url, remote.size, reporter, step)
                _by_ranges(room, file, contents)
                return
        except (RangesUnsupported, NotSeekable) as why:
            reporter.notice(f"{remote.package}: {why}, so all of it is downloaded")
        except CorruptData as error:
            raise VerificationFailed(f"{remote.url}: {error}") from None
    part = store.part(remote.sha256 or remote.url)
    room.checked = signed or remote.sha256 is not None
    if only_tls:
        if not is_secure(remote.url):
            raise _without_tls(remote.url)
        # It may have come another way.
        part.unlink(missing_ok=True)
    read_package(remote, part, lambda package: _from_start(room, package, contents), title=title, reporter=reporter)
    part.unlink(missing_ok=True)


def _without_tls(url: str) -> VerificationFailed:
    return VerificationFailed(
        f"{url}: vmlinux came over TLS, and its modules would come without, and without a hash",
        hint="give the package: vmbox debuginfo add PACKAGE",
    )


def _by_ranges(room: _Room, file: HttpFile, what: ExtractSpec) -> None:
    if what.kind is DebuginfoFormat.RPM:
        header = rpm.read(RemoteStream(file))
        packages.signed(what, header)
        if header.compression != "xz":
            raise NotSeekable(f"it is compressed with {header.compression}")
        places = [(rpm.offset_in_payload(header, found), found) for found in header.files if _is(room, found)]
        with contextlib.closing(XzBlocks(file, header.payload_at, file.size - header.payload_at)) as blocks:
            for at, found in places:
                if at is None:
                    raise NotSeekable("its files cannot be found without reading all of them")
                stream = BlockStream(blocks)
                stream.skip(at)
                if not packages.is_file(rpm.payload_member(stream, header), found):
                    raise NotSeekable("its files are not where its header says")
                packages.compare(header, found, room.take(stream, found.path, found.size, header.hash))
        return
    sums = md5sums(file)
    with contextlib.closing(data_blocks(file)) as blocks:
        index = DebFileLocator(blocks, sums)
        for path in sorted(filter(room.wants, sums), key=lambda path: path.split("/")):
            place = index.find(path)
            stream = BlockStream(blocks)
            stream.skip(place.at)
            if room.take(stream, path, place.size) != sums[path]:
                raise CorruptData(f"{path} has another MD5 than the package says")


def _is(room: _Room, file: rpm.RpmFile) -> bool:
    return file.regular and room.wants(file.path)


def _from_start(room: _Room, package: Stream, what: ExtractSpec) -> None:
    if what.kind is DebuginfoFormat.RPM:
        header = rpm.read(package)
        packages.signed(what, header)
        files: Mapping[str, rpm.RpmFile] = {file.path: file for file in header.files if _is(room, file)}
        stream = decompressed(package, header.compression)
        for member in rpm.payload_members(stream, header):
            file = files.get(member.path)
            if file is not None and packages.is_file(member, file) and room.wants(file.path):
                packages.compare(header, file, room.take(member.content, file.path, file.size, header.hash))
            if not room.missing:
                return
        return
    for member in deb.files(package):
        if member.regular and room.wants(member.path):
            room.take(member.content, member.path, member.size)
        if not room.missing:
            return


def _from_host(room: _Room, origin: Path, kind: DebuginfoFormat) -> None:
    """Takes modules from the package or tree that the user gave; a file that is gone counts as missing."""
    with contextlib.suppress(OSError):
        if kind is not DebuginfoFormat.VMLINUX:
            with FileStream(origin) as package:
                _from_start(room, package, ExtractSpec(kind=kind, patterns=()))
            return
        for path in _near(origin):
            if room.wants(str(path)):
                with FileStream(path) as file:
                    room.take(file, str(path), path.stat().st_size)


def _near(vmlinux: Path) -> Iterator[Path]:
    """Module files of the tree that vmlinux is in: beside it, or where packages install them."""
    release = re.sub(r"^vmlinux-?|\.debug$", "", vmlinux.name)
    places = [vmlinux.parent]
    if release:
        # /usr/lib/debug/boot/vmlinux-RELEASE has its modules in /usr/lib/debug/lib/modules/RELEASE.
        places += [vmlinux.parent.parent / "lib" / "modules" / release]
    for place in places:
        yield from local.modules(place)


def _kind_of(about: About) -> DebuginfoFormat:
    with contextlib.suppress(ValueError):
        return DebuginfoFormat(about.kind)
    match Path(about.url or about.origin).suffix:
        case ".deb" | ".ddeb":
            return DebuginfoFormat.DEB
        case ".rpm":
            return DebuginfoFormat.RPM
        case _:
            return DebuginfoFormat.VMLINUX
