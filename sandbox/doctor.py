"""What of the host helps or hinders vmbox, each finding with the command that mends it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox import paths
from sandbox.engine import connect
from sandbox.errors import EngineNotFound, VmboxError
from sandbox.profiles import load
from sandbox.render import size

_ROOM = 10 * 10**9
"""Bytes below which a first opening may not fit: a package, its vmlinux, and two images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    subject: str
    good: bool
    text: str
    hint: str = ""
    required: bool = False
    """Whether vmbox cannot open a dump without it."""


def examine(engine: str | None = None) -> Iterator[Finding]:
    """Looks at engines, profiles, directories and bootstrap tools; changes nothing."""
    yield from _engines(engine)
    yield _profiles()
    for subject, directory in (("cache", paths.cache_dir()), ("runtime", paths.runtime_dir())):
        yield _directory(subject, directory)
    yield _bootstrap()


def _engines(wanted: str | None) -> Iterator[Finding]:
    names = [wanted] if wanted else ["podman", "docker"]
    found: list[Finding] = []
    for name in names:
        try:
            engine = connect(name)
        except VmboxError as error:
            found.append(Finding(subject=name, good=False, text=error.message, hint=error.hint))
            continue
        try:
            info = engine.info()
        finally:
            engine.close()
        mode = "rootless" if info.rootless else "as root"
        found.append(Finding(subject=name, good=True, text=f"{info.version} {mode} on {info.arch} at {info.endpoint}"))
        if not info.limits:
            found.append(
                Finding(
                    subject=name,
                    good=False,
                    text="cannot limit a case's memory (rootless on cgroup v1)",
                    hint="boot with systemd.unified_cgroup_hierarchy=1, or use a rootful engine",
                )
            )
    yield from found
    if not any(finding.good for finding in found):
        yield Finding(
            subject="engine", good=False, text="no engine answers", hint=EngineNotFound.default_hint, required=True
        )


def _profiles() -> Finding:
    try:
        profiles = load()
    except VmboxError as error:
        return Finding(subject="profiles", good=False, text=error.message, hint=error.hint, required=True)
    return Finding(subject="profiles", good=True, text=", ".join(sorted(profiles)))


def _directory(subject: str, directory: Path) -> Finding:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        hint = f"choose another place with $VMBOX_{subject.upper()}_DIR"
        return Finding(subject=subject, good=False, text=f"{directory} cannot be written", hint=hint, required=True)
    free = shutil.disk_usage(existing).free
    if subject == "cache" and free < _ROOM:
        hint = "free some, or choose another place with $VMBOX_CACHE_DIR"
        return Finding(subject=subject, good=False, text=f"{directory}: {size(free)} free", hint=hint)
    return Finding(subject=subject, good=True, text=f"{directory}: {size(free)} free")


def _bootstrap() -> Finding:
    if shutil.which("mmdebstrap"):
        return Finding(subject="mmdebstrap", good=True, text="base images can be made without a registry")
    return Finding(
        subject="mmdebstrap",
        good=False,
        text="not installed: without a registry no base image can be made",
        hint="apt-get install mmdebstrap",
    )
