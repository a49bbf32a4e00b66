"""A dump, a cache, and an archive with one package of the dump's kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import archives
from archives import Archive
from sandbox import profiles
from sandbox.debuginfo import RemotePackage, download, locate
from sandbox.model import Debuginfo, Vmcore


@dataclass
class Heard:
    """A reporter that remembers."""

    notices: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    done: int = 0

    @contextmanager
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Heard]:
        self.steps.append(title)
        yield self

    def notice(self, line: str) -> None:
        self.notices.append(line)

    def advance(self, amount: int) -> None:
        self.done += amount

    def total(self, amount: int) -> None: ...
    def detail(self, line: str) -> None: ...


@dataclass
class Bench:
    """A dump, a cache, and an archive with one package of the dump's kernel."""

    directory: Path
    archive: Archive
    package: bytes
    heard: Heard = field(default_factory=Heard)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    sha256: str | None = ""
    size: int | None = -1
    urls: tuple[str, ...] = ("/vmlinux-dbg.deb",)
    snapshots: tuple[profiles.Snapshots, ...] = ()
    sources: list[tuple[str, ...]] = field(default_factory=list)
    """Those of each question to the package manager."""
    known_in: str = ""
    """What a source line contains whose archive has the package; empty: each has it."""

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def dump(self) -> Path:
        (self.directory / "crash").mkdir(exist_ok=True)
        return self.directory / "crash" / "vmcore"

    def put(self, package: bytes) -> None:
        self.package = package
        self.archive.files["/vmlinux-dbg.deb"] = package

    def vmcore(self, **changes: object) -> Vmcore:
        fields: dict[str, object] = {
            "path": self.dump,
            "format": "kdump-compressed",
            "size": 1,
            "release": archives.RELEASE,
            "utsname_version": archives.UTSNAME_VERSION,
            "banner": archives.BANNER,
            "build_id": archives.BUILD_ID,
            "arch": "x86_64",
        }
        return Vmcore(**(fields | changes))  # type: ignore[arg-type]

    def package_query(self, packages: Sequence[str], sources: Sequence[str]) -> Iterator[RemotePackage]:
        self.asked.append(tuple(packages))
        self.sources.append(tuple(sources))
        if not any(self.known_in in line for line in sources):
            return
        for url in self.urls:
            yield RemotePackage(
                package="linux-image-dbg",
                version=archives.VERSION,
                url=self.archive.url + url,
                size=len(self.package) if self.size == -1 else self.size,
                sha256=archives.sha256(self.package) if self.sha256 == "" else self.sha256,
            )

    def locate(self, **options: object) -> Debuginfo:
        vmcore = options.pop("vmcore", None) or self.vmcore()
        home = profiles.read(Path(__file__).parents[1] / "images" / "debian-12.toml")
        assert home.debuginfo is not None
        # Only the package manager is the bench's own.
        home = replace(home, debuginfo=replace(home.debuginfo, snapshots=self.snapshots, debuginfod=()))
        return locate(vmcore, home, package_query=self.package_query, reporter=self.heard, cache=self.cache, **options)  # type: ignore[arg-type]

    def left_over(self) -> list[str]:
        """What lies in the cache beside whole entries."""
        return [
            str(path.relative_to(self.cache))
            for pattern in ("debuginfo/.*", "downloads/*")
            for path in self.cache.glob(pattern)
        ]


def forget_connections() -> None:
    """So that the next request reads the certificates again."""
    if download._client.cache_info().currsize:
        download._client(None).close()
    download._client.cache_clear()
