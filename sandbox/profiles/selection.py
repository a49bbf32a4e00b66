"""Select the profile of a dump, and the profile whose crash opens it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sandbox.errors import ConfigurationError, UnknownKernel, pasteable
from sandbox.log import Log
from sandbox.model import Vmcore, kernel_version
from sandbox.profiles.definition import Profile
from sandbox.profiles.doubts import doubt_crash
from sandbox.profiles.loading import load, load_claiming

_log = Log("profiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The profiles with which a dump is opened."""

    distribution: Profile
    """The profile of the kernel's own distribution, which has the sources of debuginfo."""
    crash_from: Profile
    """The profile whose crash is used. This is not `distribution` if the kernel is too new for its crash."""
    reason: str
    """Reason for this image, in words."""


def select(vmcore: Vmcore, *, override: str | None = None) -> Selection:
    """Select the profile for a dump. `override` is the name of the profile whose crash is used.

    Raises `UnknownKernel` if the dump does not name its kernel, and there is no `override`.
    """
    selection = _selected(vmcore, override)
    _log.info("%s, debuginfo as %s: %s", selection.crash_from.name, selection.distribution.name, selection.reason)
    return selection


def _selected(vmcore: Vmcore, override: str | None) -> Selection:
    if vmcore.release is None:
        if override is not None:
            chosen = by_name(override)
            return Selection(distribution=chosen, crash_from=chosen, reason="chosen with --image")
        why = f": {vmcore.skipped}" if vmcore.skipped is not None else ""
        raise UnknownKernel(
            f"{vmcore.path}: the dump does not say which kernel wrote it{why}",
            hint=f"name it: vmbox run --image PROFILE --debuginfo VMLINUX {pasteable(vmcore.path)} -- bt   "
            "(a debugger finds a kernel that KASLR moved only by VMCOREINFO, or by a hypervisor's notes of registers)",
        )
    from sandbox.dump.release import classify

    klass = classify(vmcore.release, vmcore.utsname_version).klass
    _log.debug("kernel %s is of class %s", vmcore.release, klass)
    # A caller that asks about many kernels has already read all profiles.
    profiles = load() if load.cache_info().currsize else load_claiming(klass)
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
    doubt = doubt_crash(home, vmcore.release, vmcore.utsname_version)
    if doubt is not None and _reads_more(newest, home):
        reason = f"{doubt.partition(': ')[0].partition(', and this is')[0]}, so {instead}"
        return Selection(distribution=home, crash_from=newest, reason=reason)
    return Selection(distribution=home, crash_from=home, reason=f"kernel {vmcore.release} is of {home.title}")


def _reads_more(newest: Profile, home: Profile) -> bool:
    """Whether the crash of `newest` knows newer kernels than that of `home`."""
    high, low = newest.crash.max_kernel, home.crash.max_kernel
    return high is None or (low is not None and kernel_version(high) > kernel_version(low))


def fallbacks(selection: Selection, release: str | None, *, debugger: str | None = None) -> Iterator[Selection]:
    """What to use where a selection's image is not available: the newest crash, then stable ones, newest first.

    The newest crash is of a distribution's moving suite, which may be broken or expired on a mirror. The stable ones
    are of other suites of that mirror, and know the kernel of `release`; with the name of another `debugger`, which
    reads any kernel, they have it. The last is the newest one of an earlier day.
    """

    def suits(profile: Profile) -> bool:
        return doubt_crash(profile, release, None) is None if debugger is None else debugger in profile.image.debuggers

    known = load().values()
    newest = next((profile for profile in known if profile.latest), None)
    if newest is None:
        return
    stable = [one for one in known if _same_mirror(one, newest) and suits(one)]
    stable.sort(key=lambda profile: [int(number) for number in re.findall(r"\d+", profile.crash.version)], reverse=True)
    past = newest.of_the_past()
    failed = selection.crash_from
    others = [*([] if failed.latest else [newest]), *stable, *([] if past is None else [past])]
    for profile in others:
        if profile.name == selection.crash_from.name:
            continue
        has = debugger or f"crash {profile.crash.version}"
        reason = f"{profile.name} with {has} is used in place of {failed.name}"
        yield Selection(distribution=selection.distribution, crash_from=profile, reason=reason)
        failed = profile


def _same_mirror(profile: Profile, newest: Profile) -> bool:
    """Whether a profile is made of another suite of the mirror that the newest crash comes from."""
    own, other = profile.base.bootstrap, newest.base.bootstrap
    return own is not None and other is not None and own.mirror == other.mirror and own.suite != other.suite


def by_name(name: str) -> Profile:
    """The profile of a name; also of one that `fallbacks` gives, which is of an earlier day."""
    profiles = load()
    if name in profiles:
        return profiles[name]
    for past in (profile.of_the_past() for profile in profiles.values()):
        if past is not None and past.name == name:
            return past
    raise ConfigurationError(f"there is no profile {name}", hint="one of: " + ", ".join(sorted(profiles)))


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
