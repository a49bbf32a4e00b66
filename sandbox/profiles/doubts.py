"""What the debuggers of an image do not know: kernels above the newest that their real versions read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from sandbox.dump import kdump_lost
from sandbox.model import Vmcore, kernel_version
from sandbox.profiles import wheels
from sandbox.profiles.definition import Crash, Profile
from sandbox.profiles.tables import read_table

CRASH_CHANGES: Final = "crash-changes.toml"
"""The file of `images/` with kernels that need a newer crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the kernel that an older crash cannot follow."""

    kernel: str
    """major.minor of the first kernel with it."""
    crash: str
    """The first crash that reads it."""
    commit: str
    """Of crash."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backport:
    """A change of the kernel that its stable releases took over, and an older crash does not look for there."""

    kernels: tuple[str, ...]
    """The first release of each stable series with it, e.g. 5.4.32."""
    crash: str
    """The first crash that reads it."""
    commit: str
    """Of crash."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Misreading:
    """Kernels, from a first to a last one, of which no crash prints some stacks right."""

    first: str
    """major.minor of the first kernel."""
    last: str
    """The same of the last one."""
    arch: str
    """As uname -m prints it."""
    commits: str
    """The kernel's: the one that began it, and the one that ended it."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    change: tuple[Change, ...]
    backport: tuple[Backport, ...]
    misreading: tuple[Misreading, ...]


@cache
def _read() -> _Changes:
    return read_table(_Changes, CRASH_CHANGES)


def crash_changes() -> tuple[Change, ...]:
    """Read `images/crash-changes.toml`. Raises `ConfigurationError`."""
    return _read().change


def crash_backports() -> tuple[Backport, ...]:
    """As `crash_changes`: those in stable releases."""
    return _read().backport


def crash_misreadings() -> tuple[Misreading, ...]:
    """As `crash_changes`: kernels of which each crash misreads something."""
    return _read().misreading


def max_kernel(crash: Crash, version: str) -> str | None:
    """major.minor of the newest kernel that a crash of `version` knows, where the profile's data are of `crash`.

    A version that the profile was not written for knows the kernels before the first change that it cannot read, or,
    where it reads all that are known, those up to the last change: nothing is known of the kernels after it.
    """
    if not version or _numbers(version) == _numbers(crash.version) or crash.max_kernel is None:
        return crash.max_kernel
    changes = crash_changes()
    unread = [kernel_version(one.kernel) for one in changes if _numbers(one.crash) > _numbers(version)]
    newest = max(kernel_version(one.kernel) for one in changes)
    ceiling = min(map(_before, unread), default=newest)
    if _numbers(version) > _numbers(crash.version):
        # What the profile's version was tried with, a newer one reads, too.
        ceiling = max(ceiling, kernel_version(crash.max_kernel))
    return "{}.{}".format(*ceiling)


_LAST_MINORS: Final = {4: 20, 5: 19, 6: 19}
"""The last minor version of a major one: 4.20, 5.19, 6.19 were followed by 5.0, 6.0, 7.0."""


def _before(kernel: tuple[int, int]) -> tuple[int, int]:
    major, minor = kernel
    return (major, minor - 1) if minor else (major - 1, _LAST_MINORS.get(major - 1, 19))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split(".") if word.isdigit())


def with_version(profile: Profile, versions: Mapping[str, str]) -> Profile:
    """The profile with what is so of the crash that its image really has; `versions` are the image's, by debugger."""
    version = versions.get("crash", "")
    if not version:
        return profile
    crash = Crash(version=version, max_kernel=max_kernel(profile.crash, version))
    return replace(profile, crash=crash)


def doubts(
    profile: Profile,
    versions: Mapping[str, str],
    vmcore: Vmcore,
    *,
    native: str | None = None,
    served: bool = False,
) -> dict[str, str]:
    """By debugger of an image: the reason why it may answer wrongly about a dump's kernel, where one is known.

    `native` is the machine of the image's programs where the dump is of another. `served`: the debuggers read a view
    of the dump, in which lost pages are marked.
    """
    other = None if native is None else f"crash of {native} reads no dumps of {vmcore.arch}"
    own = with_version(profile, versions)
    said = {
        "crash": other or doubt_crash(own, vmcore.release, vmcore.utsname_version) or _misreads(vmcore),
        "drgn": (None if served else _doubt_zeros(vmcore)) or _doubt_drgn(versions, vmcore.release),
    }
    return {name: words for name, words in said.items() if words is not None}


def doubt_crash(profile: Profile, release: str | None, utsname_version: str | None) -> str | None:
    """The reason why a profile's crash may answer wrongly about a kernel: above its ceiling, or with a backport."""
    if (above := profile.doubt(release)) is not None or release is None:
        return above
    stable = _stable(release, utsname_version or "")
    for one in crash_backports():
        known = _numbers(profile.crash.version) >= _numbers(one.crash)
        if not known and any(first[:2] == stable[:2] and first <= stable for first in map(_numbers, one.kernels)):
            return (
                f"crash {profile.crash.version} of {profile.name} does not know what "
                f"{'.'.join(map(str, stable))} has of newer kernels: {one.what}"
            )
    return None


def _misreads(vmcore: Vmcore) -> str | None:
    """What each crash misreads of a dump's kernel, whatever its version; None where nothing is known."""
    if vmcore.release is None:
        return None
    kernel = kernel_version(vmcore.release)
    for one in crash_misreadings():
        if one.arch == vmcore.arch and kernel_version(one.first) <= kernel <= kernel_version(one.last):
            return (
                f"no crash reads all stacks of kernels {one.first} to {one.last} right, and this is {vmcore.release}: "
                f"{one.what}"
            )
    return None


def only_misread(profile: Profile, versions: Mapping[str, str], vmcore: Vmcore) -> bool:
    """Whether the crash of an image knows a dump's kernel, but for some stacks that each crash misreads."""
    known = doubt_crash(with_version(profile, versions), vmcore.release, vmcore.utsname_version) is None
    return known and _misreads(vmcore) is not None


def _stable(release: str, utsname_version: str) -> tuple[int, ...]:
    """major, minor and patch of a kernel. Debian has the patch in its `uname -v` only: "Debian 4.19.304-1"."""
    series = kernel_version(release)
    named = re.findall(r"(?<![\d.])(\d{1,4}\.\d{1,4}\.\d{1,4})(?!\d)", f"{release} {utsname_version}")
    return max((found for found in map(_numbers, named) if found[:2] == series), default=series)


def _doubt_zeros(vmcore: Vmcore) -> str | None:
    if not kdump_lost.reads_as_zeros(vmcore):
        return None
    return "the dump is cut off, and drgn reads lost pages that were stored without compression as zeros"


def _doubt_drgn(versions: Mapping[str, str], release: str | None) -> str | None:
    known = wheels.load()
    newer = release is not None and kernel_version(release) > kernel_version(known.max_kernel)
    # Nothing is known of a version that is newer than the one of the file.
    if not newer or "drgn" not in versions or _numbers(versions["drgn"]) > _numbers(known.version):
        return None
    return (
        f"drgn {versions['drgn']} was tried with kernels up to {known.max_kernel}, and this is {release}: "
        "what it prints may be wrong"
    )
