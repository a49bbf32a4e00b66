"""What a profile says: the keys of `images/NAME.toml`, each a field of one of these.

The table [image] is `ImageDefinition`, [crash] is `Crash`, and so on; `loading` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.model import DebuginfoFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How a base image is made from packages where no registry can be reached."""

    tool: str
    """mmdebstrap, or dnf for families of RPM packages."""
    suite: str
    """mmdebstrap's word for the release; dnf's $releasever."""
    mirror: str = ""
    """For mmdebstrap. dnf takes the image's `sources` and `keys`."""
    keyring: str | None = None
    """For mmdebstrap: the keys that the suite is signed with, where the host's apt does not trust them. A file of
    `images/keys/`, or the path of one that a package of the host's has."""
    packages: tuple[str, ...] = ()
    """For dnf: what the root file system is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the image is made from."""

    images: tuple[str, ...]
    """References, preferred first."""
    bootstrap: Bootstrap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefinition:
    """What is put on the base."""

    fragments: tuple[str, ...]
    """Files of `Containerfile.d/`, joined in this order."""
    sources: tuple[str, ...] = ()
    """Package sources: lines of sources.list, or "NAME URL [URL …]" for a repository of RPM packages, best URL first.
    None: the base image's own are used."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/` with public keys, one of which must have signed each RPM package."""
    args: Mapping[str, str] = field(default_factory=dict)
    """Build arguments of the fragments; `DRGN` is the package that has drgn."""
    debuggers: tuple[str, ...] = (DEFAULT.name,)
    """Names of the debuggers in it; see `sandbox.debugger`."""
    unusable: str | None = None
    """Why programs of this distribution cannot be run today; the `latest` profile's crash is used then."""

    def emulated(self) -> ImageDefinition:
        """The same for an architecture that is emulated: without debuggers that read its dumps on any architecture.

        To install them takes minutes under emulation. A build argument of a debugger's name is its package.
        """
        left_out = {name for name in self.debuggers if name in DEBUGGERS and DEBUGGERS[name].reads_any_arch}
        return replace(
            self,
            args={name: value for name, value in self.args.items() if name.lower() not in left_out},
            debuggers=tuple(name for name in self.debuggers if name not in left_out),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The crash of the distribution."""

    version: str
    max_kernel: str | None = None
    """major.minor of the newest kernel this crash knows; above it the `latest` profile's crash is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebuginfoArchive:
    """One vendor's own, for releases that several vendors build under one name."""

    vendor: str
    """As `Vmcore.vendor` has it."""
    urls: tuple[str, ...]
    """URL templates, current tree first, then vault or archive."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/` with the vendor's public keys, one of which must have signed an RPM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebuginfoRules:
    """Where a kernel's debuginfo is, and how it is known to be the vendor's."""

    format: DebuginfoFormat
    """deb or rpm."""
    packages: tuple[str, ...]
    """Templates, tried in order. `{release}` is uname -r, `{arch}` the distribution's word for the machine, and the
    named groups of `version` are there too."""
    vmlinux: tuple[str, ...]
    """Regular expressions over member paths, `{release}` put in; the first regular file that matches is vmlinux."""
    version: str | None = None
    """Regular expression over uname -v, for families whose release does not name the package."""
    names: str | None = None
    """Regular expression over uname -r, whose named groups the templates may use."""
    base_packages: Mapping[str, str] = field(default_factory=dict)
    """`{base}` of the templates by regular expression over uname -r; the first that is found in it counts."""
    query_script: str | None = None
    """Script of `Containerfile.d/files/` that asks the distribution's package manager for URL, size and hash."""
    sources: tuple[str, ...] = ()
    """Package sources that only debuginfo is taken from, beside the image's."""
    urls: tuple[str, ...] = ()
    """URL templates, current tree first, then vault or archive; `{package}` is a filled one of `packages`."""
    keys: tuple[str, ...] = ()
    """Files of `images/keys/` with public keys, one of which must have signed an RPM."""
    archives: tuple[DebuginfoArchive, ...] = ()
    """The same by vendor; tried first."""
    repositories: tuple[str, ...] = ()
    """RPM repositories whose index is asked for `packages`, where a file's name or place cannot be derived; URL
    templates. One that ends in ".list" is a list of mirrors. A package's release may go on after a dot."""
    kernel: tuple[str, ...] = ()
    """Package templates like `packages`, where the debug package has no whole vmlinux but what was stripped from it."""
    kernel_files: tuple[str, ...] = ()
    """Regular expressions over member paths of that package: the stripped vmlinux, compressed or not."""
    kernel_repositories: tuple[str, ...] = ()
    """Where that package is, beside `repositories`."""
    unsigned: tuple[str, ...] = ()
    """URL templates of build systems, which have every build and sign none: used where the dump's build-id decides."""
    debuginfod: tuple[str, ...] = ()
    """Servers that have vmlinux by build-id; tried last, for they send it uncompressed and cannot resume."""
    banner_decides: tuple[str, ...] = ()
    """Regular expressions over uname -r: kernels whose shipped vmlinux has another build-id than the running one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One distribution major."""

    name: str
    title: str
    base: Base
    image: ImageDefinition
    crash: Crash
    classes: tuple[str, ...] = ()
    """Release classes it opens, e.g. "debian:12"; "rhel:8" takes in "rhel:8.10", and "fedora" takes in "fedora:40"."""
    releases: tuple[str, ...] = ()
    """Regular expressions over uname -r, for kernels that no class names."""
    arch: Mapping[str, str] = field(default_factory=dict)
    """The distribution's word for each `uname -m` it was built for."""
    debuginfo: DebuginfoRules | None = None
    latest: bool = False
    """Its crash is the newest there is: it takes over above another profile's ceiling, and opens unknown kernels."""
    platform: str | None = None
    """As engines call the machine that its programs are of, e.g. linux/arm64, where that is not the engine's own; see
    `platforms.on`. Not in the file."""
    tested: str | None = None
    """What of it was really run, in words, for docs/support-matrix.md; None when it is written from documents only."""
    builds_gdb_index: bool = False
    """Its gdb writes the .gdb_index version that every crash reads (8: up to gdb 13)."""
