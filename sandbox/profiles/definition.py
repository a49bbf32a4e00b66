"""The keys of a profile, `images/NAME.toml`, as fields of dataclasses.

The table [image] is `ImageDefinition`, [crash] is `Crash`, and so on. `loading` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.model import DebuginfoFormat, Vmcore, kernel_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How to make a base image from packages if no registry can be reached."""

    tool: str
    """mmdebstrap, or dnf for families of RPM packages."""
    suite: str
    """mmdebstrap's name of the release, or dnf's $releasever."""
    mirror: str = ""
    """For mmdebstrap, a URL or a line of sources.list; dnf uses the image's `sources` and `keys`."""
    ports: Mapping[str, str] = field(default_factory=dict)
    """For mmdebstrap: the mirrors of architectures, by the distribution's name, that `mirror` does not have."""
    keyring: str | None = None
    """For mmdebstrap: the keys that sign the suite, if the host's apt does not trust them. A file of `images/keys/`, or
    the path of a file from one of the host's packages."""
    packages: tuple[str, ...] = ()
    """For dnf: the packages of the root file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base of the image."""

    images: tuple[str, ...]
    """References, preferred first."""
    bootstrap: Bootstrap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefinition:
    """What the image adds to its base."""

    fragments: tuple[str, ...]
    """Files of `Containerfile.d/`, joined in this order."""
    sources: tuple[str, ...] = ()
    """Package sources: lines of sources.list, of which those with [arch=…] are for these architectures only, or
    "NAME URL [URL …]" for a repository of RPM packages, best URL first. Without any, the base image's own are used."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/` with public keys, one of which must have signed each RPM package."""
    args: Mapping[str, str] = field(default_factory=dict)
    """Build arguments of the fragments; `DRGN` is the package of drgn, or of the Python for its wheel. Of several, from
    RPM repositories, the first that there is gets installed."""
    debuggers: tuple[str, ...] = (DEFAULT.name,)
    """Names of the debuggers in it; see `sandbox.debugger`."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Names of those that cannot be in it, and why; the newest image runs them."""
    snapshot: str | None = None
    """A mirror of the past, for a suite that moves: what it has is used where that of today is broken; see
    `Profile.of_the_past`."""
    unusable: str | None = None
    """Why programs of this distribution cannot be run today; then the `latest` profile's crash is used."""

    def emulated(self) -> ImageDefinition:
        """The same image for emulation: without debuggers that read the dump on any architecture.

        Their installation takes minutes under emulation. A build argument with a debugger's name is its package.
        """
        left_out = {name for name in self.debuggers if name in DEBUGGERS and DEBUGGERS[name].reads_any_arch}
        return replace(
            self,
            args={name: value for name, value in self.args.items() if name.lower() not in left_out},
            fragments=tuple(name for name in self.fragments if name.removesuffix("-wheel") not in left_out),
            debuggers=tuple(name for name in self.debuggers if name not in left_out),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The crash of the distribution."""

    version: str
    max_kernel: str | None = None
    """major.minor of the newest kernel that this crash knows; for newer ones the `latest` profile's crash is used."""

    @property
    def gains_from_index(self) -> bool:
        """Whether a .gdb_index saves its first start as much time as making the index costs, 5 to 9 s.

        The gdb of crash 9 (16.2) reads DWARF on all CPUs and gains one second; that of crash 8 (10.2) gains six.
        """
        return int(self.version.partition(".")[0]) < 9


@dataclass(frozen=True, slots=True, kw_only=True)
class DebuginfoArchive:
    """The archive of one vendor, for releases that several vendors build under one name."""

    vendor: str
    """Value of `Vmcore.vendor`."""
    urls: tuple[str, ...]
    """URL templates, current tree first, then vault or archive."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/` with the vendor's public keys, one of which must have signed an RPM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshots:
    """Package sources of an archive of the past, as it was some days after the kernel was built."""

    days: tuple[int, ...]
    """Days after the day `{built}` that `DebuginfoRules.version` found; each is one question to the package manager."""
    sources: tuple[str, ...]
    """Lines of sources.list; `{day}` is the day, as 20240507."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryVersions:
    """Versions of a repository, of which each has only the packages of its time."""

    index: str
    """URL of a text that names all versions."""
    pattern: str
    """Regular expression of a version. Its group `day` is the version's day, as 20260608."""
    repositories: tuple[str, ...]
    """As `DebuginfoRules.repositories`; `{repository_version}` is a version. Asked after those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribers:
    """Kernels that are for subscribers only, as their distribution's standard support had ended."""

    since: Mapping[str, str]
    """By class of releases: the first day, as 2025-08-01, whose kernels are all of them."""
    reason: str
    """In words for the user, and where the debuginfo is to be had. `{day}` is that day."""

    def why(self, kernel: Vmcore) -> str | None:
        """The reason for a kernel whose uname -v has such a day; None for others."""
        from sandbox.dump.release import built_on, classify

        assert kernel.release is not None  # noqa: S101 - only such kernels are asked about
        day = self.since.get(classify(kernel.release, kernel.utsname_version).klass)
        built = built_on(kernel.utsname_version)
        if day is None or built is None or built < date.fromisoformat(day):
            return None
        return self.reason.replace("{day}", day)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebuginfoRules:
    """Where to find a kernel's debuginfo, and how to verify that it is the vendor's."""

    format: DebuginfoFormat
    """deb or rpm; vmlinux where there are no packages."""
    packages: tuple[str, ...]
    """Templates, tried in order. `{release}` is uname -r, `{arch}` the distribution's name of the architecture. The
    named groups of `version` can also be used."""
    vmlinux: tuple[str, ...]
    """Regular expressions over member paths, with `{release}` filled in. The first regular file that matches is
    vmlinux."""
    version: str | None = None
    """Regular expression over uname -v, for families whose release does not name the package. A group `built` is the
    day of the build, as 2024-05-03."""
    names: str | None = None
    """Regular expression over uname -r, whose named groups the templates may use."""
    values: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """More names for the templates, unless `names` found them: the values of each by regular expression over uname -r,
    of which the first that matches counts. A template with a name of several values stands for several templates."""
    query_script: str | None = None
    """Script of `Containerfile.d/files/` that asks the distribution's package manager for URL, size and hash."""
    sources: tuple[str, ...] = ()
    """Package sources only for debuginfo, in addition to the image's."""
    snapshots: tuple[Snapshots, ...] = ()
    """Archives that keep every package, for mirrors that keep only the last ones. Asked with `query_script`."""
    urls: tuple[str, ...] = ()
    """URL templates, current tree first, then vault or archive; `{package}` is a filled one of `packages`."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/` with public keys, one of which must have signed an RPM."""
    archives: tuple[DebuginfoArchive, ...] = ()
    """Archives by vendor; tried first."""
    repositories: tuple[str, ...] = ()
    """URL templates of RPM repositories. Their index is searched for `packages`, if the file's name or directory cannot
    be derived. A URL that ends in ".list" is a list of mirrors. A package's release may continue after a dot."""
    repository_versions: RepositoryVersions | None = None
    """Where the repositories have versions: the first ones since the kernel was built are asked."""
    kernel: tuple[str, ...] = ()
    """Package templates like `packages`, if the debug package contains only what was stripped from vmlinux."""
    kernel_files: tuple[str, ...] = ()
    """Regular expressions over member paths of that package: the stripped vmlinux, compressed or not."""
    kernel_repositories: tuple[str, ...] = ()
    """More repositories of that package, in addition to `repositories`."""
    unsigned: tuple[str, ...] = ()
    """URL templates of build systems, which have every build but sign none: only used if the dump has a build-id."""
    debuginfod: tuple[str, ...] = ()
    """Servers that have vmlinux by build-id. Tried last, because they send it uncompressed and cannot resume."""
    unpublished: Mapping[str, str] = field(default_factory=dict)
    """Kernels whose debuginfo is in no place that vmbox can ask, by regular expression over uname -r: the reason, and
    where the user gets it. The first one that matches counts; see `why_unpublished`."""
    subscribers: Subscribers | None = None
    """Whose kernels are for subscribers only from some day on."""
    banner_decides: tuple[str, ...] = ()
    """Regular expressions over uname -r: kernels whose shipped vmlinux has another build-id than the running one."""

    @property
    def signed(self) -> bool:
        """Whether packages are verified by a signature: a .deb's hash is in a signed index, an RPM has its own."""
        if self.format is DebuginfoFormat.RPM:
            return bool(self.keys) or any(archive.keys for archive in self.archives)
        return self.query_script is not None

    def why_unpublished(self, kernel: Vmcore) -> str | None:
        """Why no place may have a kernel's debuginfo, in words for the user; None where that is not known."""
        release = kernel.release
        if release is None:
            return None
        found = (why for pattern, why in self.unpublished.items() if re.search(pattern, release))
        return next(found, None) or (self.subscribers.why(kernel) if self.subscribers is not None else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """The machine on which `vmbox demo` makes one of the distribution's kernels panic."""

    kernel: str
    """Package; a meta package is the newest kernel."""
    memory: int = 768
    """MiB; a 6.12 kernel needs 640 with its crash kernel beside it."""
    crashkernel: str = "256M"
    """The boot parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One distribution major."""

    name: str
    title: str
    base: Base
    image: ImageDefinition
    crash: Crash
    classes: tuple[str, ...] = ()
    """Release classes it opens, e.g. "debian:12"; "rhel:8" includes "rhel:8.10", and "fedora" includes "fedora:40"."""
    releases: tuple[str, ...] = ()
    """Regular expressions over uname -r, for kernels without a class."""
    arch: Mapping[str, str] = field(default_factory=dict)
    """The distribution's name of each architecture (`uname -m`)."""
    debuginfo: DebuginfoRules | None = None
    demo: Demo | None = None
    """None if `vmbox demo` cannot use its kernels: it unpacks .deb packages only."""
    latest: bool = False
    """Whether its crash is the newest: it is used above another profile's `max_kernel`, and for unknown kernels."""
    platform: str | None = None
    """Engines' name of its architecture, e.g. linux/arm64, if that is not the engine's own; see `platforms.for_arch`.
    Not in the file."""
    tested: str | None = None
    """What has really been run with it, in words, for docs/support-matrix.md; None if nothing has."""
    builds_gdb_index: bool = False
    """Whether its gdb writes the .gdb_index version that every crash reads (8: up to gdb 13)."""

    def of_the_past(self) -> Profile | None:
        """The same of the packages of an earlier day, under a name of its own; None if no day is named.

        The suite is signed as it was that day, and has expired since.
        """
        now, past = self.base.bootstrap, self.image.snapshot
        if now is None or past is None:
            return None

        def dated(text: str) -> str:
            return text.replace(now.mirror, past)

        line = f"deb [check-valid-until=no] {past} {now.suite} main"
        sources = tuple(
            dated(source).replace("deb ", "deb [check-valid-until=no] ", 1) for source in self.image.sources
        )
        day = re.search(r"\d{8}", past)
        return replace(
            self,
            name=f"{self.name}-{day[0] if day is not None else 'snapshot'}",
            base=replace(self.base, bootstrap=replace(now, mirror=line)),
            image=replace(self.image, sources=sources, snapshot=None),
        )

    def doubt(self, release: str | None) -> str | None:
        """The reason why this crash may answer wrongly about a kernel of `release`; None where none is known.

        A crash above its ceiling does not fail: it prints stacks that are not true.
        """
        ceiling = self.crash.max_kernel
        if release is None or ceiling is None or kernel_version(release) <= kernel_version(ceiling):
            return None
        return (
            f"crash {self.crash.version} of {self.name} knows kernels up to {ceiling}, and this is {release}: "
            "what it prints may be wrong, stacks above all"
        )
