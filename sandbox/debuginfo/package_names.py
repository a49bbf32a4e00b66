"""Package names from a profile, and the interface to a distribution's package manager."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sandbox.model import Vmcore
from sandbox.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePackage:
    """One package as its archive's index describes it."""

    package: str
    """The requested name, e.g. "linux-image-6.1.0-50-cloud-amd64-dbg=6.1.176-1"."""
    version: str | None
    url: str
    size: int | None
    """Bytes; None if unknown."""
    sha256: str | None
    """Hash of the whole package, lower-case hexadecimal; None if unknown."""
    index_signed: bool = True
    """Whether a package manager checked a signature of what says so."""


class PackageQuery(Protocol):
    """A package manager that says where packages are, without installing any."""

    def __call__(self, packages: Sequence[str]) -> Iterable[RemotePackage]:
        """Those of `packages` that it knows, best first. Names may carry a version: "NAME=VERSION"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageNames:
    """The names that a dump's debuginfo may have."""

    packages: tuple[str, ...]
    names: Mapping[str, str]
    """Values for the profile's templates: release, arch, and the named groups of its `version`."""
    vmlinux: tuple[re.Pattern[str], ...]
    """Match member paths without a leading "./" or "/"."""
    kernel: tuple[str, ...] = ()
    """Packages with the kernel itself, if vmlinux is in two parts."""
    kernel_files: tuple[re.Pattern[str], ...] = ()
    """Match the paths of the kernel in those packages."""


def package_names(vmcore: Vmcore, profile: Profile) -> PackageNames | None:
    """The packages to ask for; None when the profile has no rules or the dump does not name its kernel."""
    rules = profile.debuginfo
    if rules is None or vmcore.release is None:
        return None
    names = {"release": vmcore.release}
    if vmcore.arch is not None:
        names["arch"] = profile.arch.get(vmcore.arch, vmcore.arch)
    if rules.names is not None and (found := re.match(rules.names, vmcore.release)):
        names |= {key: value for key, value in found.groupdict().items() if value is not None}
    for pattern, base in rules.base_packages.items():
        if re.search(pattern, vmcore.release):
            names["base"] = base
            break
    if rules.version is not None and (found := re.search(rules.version, vmcore.utsname_version or "")):
        names |= {key: value for key, value in found.groupdict().items() if value is not None}

    def patterns(expressions: Sequence[str]) -> tuple[re.Pattern[str], ...]:
        release = re.escape(vmcore.release or "")
        return tuple(re.compile(expression.replace("{release}", release)) for expression in expressions)

    return PackageNames(
        # A template with a value that this dump lacks is left out; another one may work.
        packages=tuple(name for template in rules.packages if (name := expand(template, names)) is not None),
        names=names,
        vmlinux=patterns(rules.vmlinux),
        kernel=tuple(name for template in rules.kernel if (name := expand(template, names)) is not None),
        kernel_files=patterns(rules.kernel_files),
    )


def expand(template: str, names: Mapping[str, str]) -> str | None:
    """The template with names filled in; None when one is missing."""
    try:
        return template.format_map(names)
    except KeyError:
        return None
