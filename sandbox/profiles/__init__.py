"""What vmbox knows about each distribution major: `images/*.toml`, read into `ImageProfile`.

A distribution is one file and no code. The user's own files in `<config>/images/` add to these, or replace the one of
the same name. Unknown keys are errors, so that a typo is seen; two profiles that claim the same release are one, too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import ConfigurationError, UnknownKernel
from sandbox.host import paths
from sandbox.model import Vmcore, kernel_version

_T = TypeVar("_T")

_NOT_PROFILES: Final = frozenset({"releases.toml", "digests.toml", "crash-changes.toml"})
"""Rules about release strings, which `dump.release` reads; what tags of base images mean, see `digests`; and which
kernels an older crash does not know, which a test holds the profiles to."""


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

    format: str
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a dump is opened with."""

    distribution: Profile
    """The profile of the kernel's own distribution: it says where debuginfo is."""
    crash_from: Profile
    """The profile whose crash is used: not `distribution` when the kernel is too new for its crash."""
    reason: str
    """Why this image, in words."""


@cache
def load() -> Mapping[str, Profile]:
    """All profiles by name. Raises `ConfigurationError` naming file and key."""
    return _check_unique_claims({name: read(file) for name, file in _files().items()})


def _files() -> dict[str, Path]:
    """By the profiles' names; the user's own replace those that come with vmbox."""
    return {
        file.stem: file
        for directory in (paths.data_dir() / "images", paths.config_dir() / "images")
        for file in sorted(directory.glob("*.toml"))
        if file.name not in _NOT_PROFILES
    }


def _claiming(klass: str) -> Mapping[str, Profile]:
    """The profiles that can claim a class, and the latest: all of them take longer to read than a dump does.

    A class is claimed by its own name or by one that it goes on from, and that stands in the file in quotes.
    """
    claims = {klass, *(klass[:at] for at, char in enumerate(klass) if char in ".:")}
    quoted = [f"{quote}{claim}{quote}".encode() for claim in claims for quote in "'\""]
    found = {}
    for name, file in _files().items():
        try:
            text = file.read_bytes()
        except OSError:
            text = b"latest"  # reading it properly says what is wrong
        if b"latest" in text or any(claim in text for claim in quoted):
            found[name] = read(file)
    return _check_unique_claims(found)


def _check_unique_claims(found: Mapping[str, Profile]) -> Mapping[str, Profile]:
    claimed: dict[str, str] = {}
    for profile in found.values():
        for claim in (*profile.classes, *profile.releases):
            if claim in claimed:
                raise ConfigurationError(
                    f"profiles {claimed[claim]} and {profile.name} both claim {claim}",
                    hint=f"remove it from one of them in {paths.config_dir() / 'images'}",
                )
            claimed[claim] = profile.name
    return found


@cache
def digests() -> Mapping[str, str]:
    """Digests of base images by reference, where a tag is pinned: `images/digests.toml`, then the user's own."""
    found: dict[str, str] = {}
    for directory in (paths.data_dir() / "images", paths.config_dir() / "images"):
        file = directory / "digests.toml"
        if not file.is_file():
            continue
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{file}: {error}", hint="mend the file or move it away") from error
        for ref, digest in table.items():
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ConfigurationError(f"{file}: {ref} is pinned to {digest!r}, which is no digest sha256:…")
            found[ref] = digest
    return found


_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def read(file: Path) -> Profile:
    """One profile from its TOML file."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{file}: {error}", hint="mend the file or move it away") from error
    build = _Reader(file)
    base = build.table(table, "base")
    bootstrap = base.pop("bootstrap", None)
    debuginfo = table.pop("debuginfo", None)
    archives = debuginfo.pop("archives", []) if isinstance(debuginfo, dict) else []
    return build.make(
        Profile,
        table,
        "",
        name=file.stem,
        platform=None,
        base=build.make(
            Base,
            base,
            "base",
            bootstrap=build.make(Bootstrap, bootstrap, "base.bootstrap") if bootstrap is not None else None,
        ),
        image=build.make(ImageDefinition, build.table(table, "image"), "image"),
        crash=build.make(Crash, build.table(table, "crash"), "crash"),
        debuginfo=build.make(
            DebuginfoRules,
            debuginfo,
            "debuginfo",
            archives=tuple(build.make(DebuginfoArchive, archive, "debuginfo.archives") for archive in archives),
        )
        if debuginfo is not None
        else None,
    )


def select(vmcore: Vmcore, *, override: str | None = None) -> Selection:
    """The profile for a dump. Raises `UnknownKernel` when the dump does not name its kernel and none was chosen."""
    if vmcore.release is None:
        raise UnknownKernel(f"{vmcore.path}: the dump does not say which kernel wrote it")
    from sandbox.dump.release import classify

    klass = classify(vmcore.release, vmcore.utsname_version).klass
    # Whoever asks about many kernels has read all profiles already.
    profiles = load() if load.cache_info().currsize else _claiming(klass)
    home = _of_class(profiles, klass)
    if home is None:
        profiles = load()
        home = _of_release(profiles, vmcore.release)
    newest = next((profile for profile in profiles.values() if profile.latest), None)
    home = home or newest
    if override is not None:
        chosen = by_name(override)
        return Selection(distribution=home or chosen, crash_from=chosen, reason="chosen with --image")
    if home is None:
        raise UnknownKernel(f"no profile knows kernel {vmcore.release}")
    if home.latest:
        reason = f"no profile is of kernel {vmcore.release}, so {home.name} with crash {home.crash.version} is used"
        return Selection(distribution=home, crash_from=home, reason=reason)
    if newest is None:
        return Selection(distribution=home, crash_from=home, reason=f"kernel {vmcore.release} is of {home.title}")
    instead = f"{newest.name} with crash {newest.crash.version} is used"
    if home.image.unusable is not None:
        return Selection(distribution=home, crash_from=newest, reason=f"{home.image.unusable}, so {instead}")
    ceiling = home.crash.max_kernel
    if ceiling is not None and kernel_version(vmcore.release) > kernel_version(ceiling):
        reason = f"crash {home.crash.version} of {home.name} knows kernels up to {ceiling}, so {instead}"
        return Selection(distribution=home, crash_from=newest, reason=reason)
    return Selection(distribution=home, crash_from=home, reason=f"kernel {vmcore.release} is of {home.title}")


def fallback(selection: Selection) -> Selection | None:
    """What is left when the selected image cannot be had, or its crash does not open the dump: the newest crash.

    None when that is what was selected.
    """
    newest = next((profile for profile in load().values() if profile.latest), None)
    if newest is None or selection.crash_from.latest:
        return None
    reason = f"{newest.name} with crash {newest.crash.version} is used in place of {selection.crash_from.name}"
    return Selection(distribution=selection.distribution, crash_from=newest, reason=reason)


def by_name(name: str) -> Profile:
    profiles = load()
    if name not in profiles:
        raise ConfigurationError(f"there is no profile {name}", hint="one of: " + ", ".join(sorted(profiles)))
    return profiles[name]


def _of_class(profiles: Mapping[str, Profile], klass: str) -> Profile | None:
    for profile in profiles.values():
        if any(klass == known or klass.startswith((f"{known}.", f"{known}:")) for known in profile.classes):
            return profile
    return None


def _of_release(profiles: Mapping[str, Profile], release: str) -> Profile | None:
    for profile in profiles.values():
        if any(re.search(pattern, release) for pattern in profile.releases):
            return profile
    return None


_RENAMED: Final = {
    "ask": "query_script",
    "bases": "base_packages",
    "indexer": "builds_gdb_index",
    "newest_kernel": "max_kernel",
    "not_run": "unusable",
    "tried": "tested",
}
"""Keys of earlier versions, which a user's file may still have -> what they are called now."""


class _Reader:
    """Turns TOML tables into dataclasses and names what does not fit."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def table(self, parent: dict[str, Any], key: str) -> dict[str, Any]:
        value = parent.pop(key, None)
        if not isinstance(value, dict):
            raise self.error(f"needs a table [{key}]")
        return value

    def make(self, kind: type[_T], table: object, where: str, **given: object) -> _T:
        if not isinstance(table, dict):
            raise self.error(f"{where} is not a table")
        known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # every kind here is a dataclass
        values: dict[str, object] = dict(given)
        for key, value in table.items():
            if key in _RENAMED and _RENAMED[key] in known:
                old, new = (f"{where + '.' if where else ''}{name}" for name in (key, _RENAMED[key]))
                raise self.error(f"{old} is called {new} now", hint=f"sed -i 's/{key}/{_RENAMED[key]}/' {self.file}")
            if key not in known or key in given:
                raise self.error(f"unknown key {where + '.' if where else ''}{key}", known)
            wanted = str(known[key].type)
            expected: tuple[type, str]
            if wanted.startswith("tuple"):
                expected = (list, "a list of strings")
            elif wanted.startswith("Mapping"):
                expected = (dict, "a table of strings")
            elif wanted == "bool":
                expected = (bool, "true or false")
            else:
                expected = (str, "a string")
            items: Sequence[object] = (
                value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else ()
            )
            if not isinstance(value, expected[0]) or not all(isinstance(item, str) for item in items):
                raise self.error(f"{where + '.' if where else ''}{key} must be {expected[1]}")
            values[key] = tuple(value) if isinstance(value, list) else value
        try:
            return kind(**values)
        except TypeError as error:
            missing = ", ".join(re.findall(r"'(\w+)'", str(error)))
            raise self.error(f"[{where or 'top level'}] lacks {missing}") from None

    def error(
        self, what: str, known: Mapping[str, object] | None = None, *, hint: str | None = None
    ) -> ConfigurationError:
        hint = hint or ("keys there: " + ", ".join(sorted(known)) if known else "see the profiles that come with vmbox")
        return ConfigurationError(f"{self.file}: {what}", hint=hint)
