"""Make a build context from a profile: the fragments of `Containerfile.d/` joined, and the files that they copy.

The result uses only what both Docker's classic builder and Podman's know, because docker-py has no BuildKit: no
here-documents, `--mount` or `--chmod`.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.host import paths
from sandbox.image.package_sources import machine, package_sources
from sandbox.profiles import Profile, wheels


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """The sources of an image: a name for people, and everything that is hashed."""

    name: str
    fragments: Sequence[str]
    """Files of `Containerfile.d/`, joined in this order."""
    args: Mapping[str, str]
    files: Mapping[str, bytes]
    """Generated files of the context, in addition to those of `Containerfile.d/files/` that the fragments copy."""


def of_profile(profile: Profile) -> BuildContext:
    wheel = "drgn-wheel" in profile.image.fragments
    return BuildContext(
        name=profile.name,
        fragments=profile.image.fragments,
        args={**profile.image.args, **(wheels.arguments(machine(profile)) if wheel else {})},
        files=package_sources(profile),
    )


def context(recipe: BuildContext) -> bytes:
    """Make the build context as a tar. The same recipe gives the same bytes."""
    directory = _fragments()
    parts = [(directory / name).read_bytes() for name in recipe.fragments]
    # The arguments change the image, so they must be part of the hash.
    header = "".join(f"# {key}={value}\n" for key, value in sorted(recipe.args.items())).encode()
    containerfile = header + b"\n".join(parts)
    files = {"Containerfile": containerfile}
    for name in _copied(containerfile.decode()):
        file = directory / "files" / name
        files[name] = recipe.files[name] if name in recipe.files else file.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if content.startswith(b"#!") else 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _copied(containerfile: str) -> Iterator[str]:
    for line in re.findall(r"(?m)^COPY\s+(.*)$", containerfile):
        yield from line.split()[:-1]


def reference(name: str, context: bytes) -> str:
    # Without localhost/ both engines prefix a registry.
    return f"localhost/vmbox/{name}:{hashlib.sha256(context).hexdigest()[:16]}"


def _fragments() -> Path:
    return paths.data_dir() / "Containerfile.d"
