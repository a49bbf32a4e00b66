"""Configuration that tells an image's package manager where its packages are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Final

from sandbox.errors import ConfigurationError
from sandbox.host import mirrors
from sandbox.profiles import ImageDefinition, Profile, platforms
from sandbox.profiles.keys import key_files


@cache
def apt_settings() -> tuple[str, ...]:
    """The host apt's settings of the site's proxies and retries, which the images' apt also needs."""
    if shutil.which("apt-config") is None:
        return ()
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    found = filter(None, map(_INHERITED.match, dump.splitlines()))
    return tuple(sorted(f'{one[1]} "{one[2]}";' for one in found))


_INHERITED: Final = re.compile(
    r"^(Acquire::(?:https?|ftp)::Proxy(?:::\S+)?|Acquire::Check-Valid-Until|Acquire::Check-Date|Acquire::Retries)"
    r' "(.+)";$'
)


_LOGIN: Final = re.compile(rb"://[^\s/?#\"'@]+@")


def refuse_logins(configuration: bytes) -> None:
    """Raises `ConfigurationError` where a URL has a user or a password.

    What configures the package manager of an image stays in it, for the cases that run there and for all who get the
    image; and other users of the host see the arguments of a tool.
    """
    if _LOGIN.search(configuration):
        raise ConfigurationError(
            "a mirror, or a proxy of this host's apt, has a user or password in its URL, which an image would keep",
            hint="name one without in $VMBOX_MIRRORS or /etc/apt/apt.conf.d; or take an image from a registry",
        )


def repositories(image: ImageDefinition, keys: str = "/etc/vmbox/vmbox.asc") -> str:
    """The sources of an RPM distribution as a .repo file for dnf, yum, tdnf and zypper.

    `keys` is the path, where the package manager runs, of the keys that must have signed the packages.
    """
    check = f"gpgcheck=1\ngpgkey=file://{keys}" if image.keys else "gpgcheck=0"
    sections = []
    for source in image.sources:
        name, *urls = source.split()
        if not name.startswith("deb"):
            # Several URLs are tried in turn, one per line. Amazon's URL is of a list of mirrors.
            key = "mirrorlist" if urls[0].endswith("mirror.list") else "baseurl"
            where = "\n    ".join(mirrors.rewrite(url) for url in urls)
            # repo_gpgcheck stays off: not all vendors sign their metadata, and every package is checked.
            sections.append(f"[{name}]\nname={name}\n{key}={where}\nenabled=1\n{check}\nrepo_gpgcheck=0\n")
    return "\n".join(sections)


def package_sources(profile: Profile) -> Mapping[str, bytes]:
    """The files of a build context that configure its package manager."""
    return {
        "sources.list": source_lines(_of_architecture(profile)).encode(),
        "apt.conf": source_lines(apt_settings()).encode(),
        "vmbox.repo": repositories(profile.image).encode(),
        "vmbox.asc": b"\n".join(path.read_bytes() for path in key_files(profile.image.keys)),
    }


def architecture(profile: Profile) -> str:
    """The distribution's name of the architecture of a profile's programs; this host's, unless it says another one."""
    name = machine(profile)
    return profile.arch.get(name, name)


def machine(profile: Profile) -> str:
    """The machine that a profile's programs are for, as uname -m prints it."""
    return os.uname().machine if profile.platform is None else platforms.arch_of(profile.platform)


def _of_architecture(profile: Profile) -> Iterator[str]:
    """Its package sources without those for other architectures, whose hosts apt would ask too."""
    own = architecture(profile)
    for line in profile.image.sources:
        named = re.search(r"^deb \[[^]]*\barch=([\w,]+)", line)
        if named is None or own in named[1].split(","):
            yield line


def source_lines(lines: Iterable[str]) -> str:
    """Lines of a package manager's configuration, with the site's mirrors inserted."""
    return "".join(mirrors.rewrite(line) + "\n" for line in lines)
