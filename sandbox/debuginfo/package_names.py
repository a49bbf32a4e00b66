"""Package names from a profile, and the interface to a distribution's package manager."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import Formatter
from typing import Protocol

from sandbox.errors import Unreachable
from sandbox.model import DebuginfoFormat, Vmcore
from sandbox.profiles import DebuginfoRules, Profile


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


class NoPackageManager(Unreachable):
    """There is no image in which the package manager runs, and where it would come from cannot be reached."""


class PackageQuery(Protocol):
    """A package manager that says where packages are, without installing any."""

    def __call__(self, packages: Sequence[str], sources: Sequence[str]) -> Iterable[RemotePackage]:
        """Those of `packages` that are in `sources`, best first. Names may carry a version: "NAME=VERSION"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageNames:
    """The names that a dump's debuginfo may have."""

    packages: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    """Values for the profile's templates: release, arch, the groups of its `names` and `version`, and its `values`."""
    vmlinux: tuple[re.Pattern[str], ...]
    """Match member paths without a leading "./" or "/"."""
    kernel: tuple[str, ...] = ()
    """Packages with the kernel itself, if vmlinux is in two parts."""
    kernel_files: tuple[re.Pattern[str], ...] = ()
    """Match the paths of the kernel in those packages."""


def file_names(names: PackageNames, rules: DebuginfoRules, arch: str | None) -> tuple[str, ...]:
    """File names of the packages, as the vendor has them; "*" is what only the vendor's index knows."""
    files = []
    for asked in names.packages:
        package, _, version = asked.partition("=")
        if rules.format is DebuginfoFormat.RPM:
            whole = arch is None or package.endswith(f".{arch}") or arch in package
            files.append(f"{package}.rpm" if whole else f"{package}.*.{arch}.rpm")
        else:
            word = names.names.get("arch", ("*",))[0]
            # Ubuntu calls packages of debug symbols so, and their files .ddeb.
            files.append(f"{package}_{version or '*'}_{word}.{'ddeb' if package.endswith('-dbgsym') else 'deb'}")
    return tuple(files)


def package_names(vmcore: Vmcore, profile: Profile, *, placeholders: bool = False) -> PackageNames | None:
    """The packages to ask for; None when the profile has no rules or the dump does not name its kernel.

    With `placeholders`, for people who have no dump yet, an unknown uname -v or architecture stays in its braces.
    """
    rules = profile.debuginfo
    if rules is None or vmcore.release is None:
        return None
    names: dict[str, tuple[str, ...]] = {"release": (vmcore.release,)}
    if vmcore.arch is not None:
        names["arch"] = (profile.arch.get(vmcore.arch, vmcore.arch),)
    elif placeholders:
        names["arch"] = ("{arch}",)
    if rules.names is not None:
        names |= _groups(re.match(rules.names, vmcore.release))
    if rules.version is not None:
        if vmcore.utsname_version is None and placeholders:
            names |= {name: (f"{{{name}}}",) for name in re.compile(rules.version).groupindex}
        names |= _groups(re.search(rules.version, vmcore.utsname_version or ""))
    for name, choices in rules.values.items():
        chosen = next((values for pattern, values in choices.items() if re.search(pattern, vmcore.release)), None)
        if chosen is not None:
            names.setdefault(name, chosen)

    def patterns(expressions: Sequence[str]) -> tuple[re.Pattern[str], ...]:
        release = re.escape(vmcore.release or "")
        return tuple(re.compile(expression.replace("{release}", release)) for expression in expressions)

    return PackageNames(
        # A template with a value that this dump lacks is left out; another one may work.
        packages=tuple(name for template in rules.packages for name in expand(template, names)),
        names=names,
        vmlinux=patterns(rules.vmlinux),
        kernel=tuple(name for template in rules.kernel for name in expand(template, names)),
        kernel_files=patterns(rules.kernel_files),
    )


def _groups(found: re.Match[str] | None) -> dict[str, tuple[str, ...]]:
    return {} if found is None else {key: (value,) for key, value in found.groupdict().items() if value is not None}


def expand(template: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """The template with each combination of the values of its names; none when a name is missing."""
    used = list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name is not None))
    if not all(name in names for name in used):
        return []
    return [
        template.format_map(dict(zip(used, values, strict=True))) for values in product(*(names[name] for name in used))
    ]
