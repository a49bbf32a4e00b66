"""Make base images from a distribution's packages, for sites with a package mirror and no registry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.errors import BaseImageUnavailable, NoSpace, pasteable
from sandbox.host import mirrors
from sandbox.image.package_sources import apt_settings, refuse_logins
from sandbox.profiles import Bootstrap
from sandbox.profiles.keys import key_files
from sandbox.progress import Step


def make_rootfs(how: Bootstrap, tar: Path, step: Step, *, architecture: str | None = None) -> None:
    """Write the tar of a minimal root file system, by default of the host's architecture.

    Raises `BaseImageUnavailable` or `NoSpace`.
    """
    make_command = _COMMANDS.get(how.tool)
    if make_command is None:
        raise BaseImageUnavailable(
            f"no bootstrap tool {how.tool} is known", hint="one of: " + ", ".join(sorted(_COMMANDS))
        )
    if shutil.which(how.tool) is None:
        raise BaseImageUnavailable(
            f"{how.tool} is not installed", hint=f"apt-get install {how.tool}, or connect to a container registry"
        )
    # mmdebstrap needs it to check whether programs of another architecture run here.
    if architecture is not None and how.tool == "mmdebstrap" and shutil.which("arch-test") is None:
        raise BaseImageUnavailable(
            f"mmdebstrap needs arch-test to make a base of {architecture}", hint="sudo apt-get install arch-test"
        )
    seen: list[str] = []
    with (
        _keyring(how) as keyring,
        subprocess.Popen(
            make_command(replace(how, keyring=keyring), tar, architecture),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            for line in process.stderr or ():
                seen.append(line.rstrip())
                step.detail(line.rstrip())
        except BaseException:
            # Ctrl-C: on SIGTERM the tool removes the directory into which it unpacks.
            process.terminate()
            raise
    if process.returncode != 0:
        if any("No space left on device" in line for line in seen):
            raise NoSpace(
                f"no space left for a base image in {tar.parent}", hint=f"free some: df -h {pasteable(tar.parent)}"
            )
        raise BaseImageUnavailable(
            f"{how.tool} failed: {_reason(seen)}",
            hint=f"can {_url(mirrors.rewrite(how.mirror))} be reached? name another mirror in $VMBOX_MIRRORS",
            detail="\n".join(seen[-20:]),
        )


@contextmanager
def _keyring(how: Bootstrap) -> Iterator[str | None]:
    """Yield a path of the keys that apt can read: it checks signatures as its own user."""
    if how.keyring is None or "/" in how.keyring:
        if how.keyring is not None and not Path(how.keyring).is_file():
            raise BaseImageUnavailable(
                f"there is no {how.keyring}",
                hint="sudo apt-get install debian-archive-keyring, or connect to a registry",
            )
        yield how.keyring
        return
    (key,) = key_files((how.keyring,))
    with tempfile.TemporaryDirectory(prefix="vmbox-keys-") as directory:
        Path(directory).chmod(0o755)
        copy = Path(directory) / key.name
        copy.write_bytes(key.read_bytes())
        copy.chmod(0o644)
        yield str(copy)


def _mmdebstrap(how: Bootstrap, tar: Path, architecture: str | None) -> list[str]:
    # Slim images leave these out: a case needs no documentation.
    left_out = ("doc", "info", "locale", "lintian")
    mirror = mirrors.rewrite(how.mirror)
    refuse_logins("\n".join((mirror, *apt_settings())).encode())
    return [
        "mmdebstrap",
        "--variant=minbase",
        # Of priority required in Debian, and so in minbase, but only important in Ubuntu.
        "--include=apt",
        "--format=tar",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in left_out),
        # Afterwards, because dash of older suites cannot be installed without its manual.
        '--customize-hook=rm -rf "$1"/usr/share/man/*',
        *(f"--aptopt={setting.removesuffix(';')}" for setting in apt_settings()),
        *([f"--keyring={how.keyring}"] if how.keyring else ()),
        *([f"--architectures={architecture}"] if architecture else ()),
        how.suite,
        str(tar),
        mirror,
    ]


_COMMANDS: Final[dict[str, Callable[[Bootstrap, Path, str | None], list[str]]]] = {"mmdebstrap": _mmdebstrap}

ON_HOST: Final = frozenset(_COMMANDS)
"""Tools that must be installed on this host; others run in a container."""


def _url(mirror: str) -> str:
    """The URL alone of a line of sources.list."""
    return next((word for word in mirror.split() if "://" in word), mirror)


def _reason(lines: Sequence[str]) -> str:
    return next((line.removeprefix("E: ") for line in lines if line.startswith("E: ")), lines[-1] if lines else "")
