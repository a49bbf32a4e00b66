"""Turn messages of an engine into lines and errors. Both engines send the same JSON events."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn

from sandbox.errors import (
    AccessDenied,
    BaseImageUnavailable,
    EngineFailed,
    ImageBuildFailed,
    ImageNotInRegistry,
    NoSpace,
    PathNotFound,
)
from sandbox.host import checks

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
"""Docker's classic builder prints stderr in red."""
NO_DETACH: Final = "ctrl-^,ctrl-@,ctrl-^,ctrl-@"
"""Keys that detach a client from an exec. Both engines require some, and delay the first key until the next is typed.
The default begins with Ctrl-P, which is "previous line" at every prompt. Podman also looks for the keys in piped input.
"""
_PROXIES: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def proxies() -> dict[str, str]:
    """The caller's proxy settings, for builds and fetch containers. Both engines predeclare these build arguments."""
    names = [name for lower in _PROXIES for name in (lower, lower.upper())]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


_REMEDIES: Final = {
    # crun 1.8 starts no container on a host with both cgroup versions; there vmbox uses runc if it is installed.
    "cgroups in hybrid mode not supported": checks.HYBRID_CGROUPS_FIX,
    "rlimit": "default_ulimits in containers.conf, or default-ulimits in daemon.json, ask for more than this host has",
    "apparmor": "AppArmor refuses it: sudo aa-status, sudo dmesg | grep -i apparmor",
    "selinux": "SELinux refuses it: sudo ausearch -m avc -ts recent",
}
"""Error text of an engine, in lower case: the command that fixes the host, or shows what to fix."""


def remedy(said: str) -> str | None:
    """The command that fixes the error in `said`, if known."""
    return next((hint for words, hint in _REMEDIES.items() if words in said.lower()), None)


_NO_PATH: Final = re.compile(r"does not exist|no such file|not a directory")
"""The engine was to mount what is not there, in the words of both engines."""


def fail(what: str, said: str) -> NoReturn:
    """Raise an error with one line: `what`, and the first line of the engine's answer `said`. The rest is detail."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
    if "no space left on device" in said.lower():
        raise NoSpace(
            f"{what}: the engine's storage is full",
            hint="docker system prune, podman system prune, or vmbox image prune make room",
            detail=said,
        )
    if "nil pointer dereference" in said and (place := _full_temporary_directory()) is not None:
        raise NoSpace(f"{what}: {place}, which it needs, is full", hint="free some, or: export TMPDIR=DIRECTORY")
    kind = EngineFailed
    # Podman ends each EPERM and EACCES of its runtime with "OCI permission denied", whatever was denied.
    if "permission denied" in said.lower().replace("oci permission denied", ""):
        kind = AccessDenied
    elif _NO_PATH.search(lines[0]):
        kind = PathNotFound
    raise kind(f"{what}: {lines[0]}", hint=remedy(said), detail=said if len(lines) > 1 else None)


def _full_temporary_directory() -> str | None:
    """The directory for temporary files of a Podman that vmbox starts, where its file system is full. Podman 4.3 looks
    at no image then: its answer is a panic of Go.
    """
    place = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Go's os.TempDir
    try:
        return place if os.statvfs(place).f_bavail == 0 else None
    except OSError:
        return None


def label_filters(labels: Mapping[str, str]) -> list[str]:
    """`labels` in the syntax of filters; an empty value matches any."""
    return [f"{key}={value}" if value else key for key, value in labels.items()]


def carries(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether labels `found` include all of `wanted`, where an empty value matches any."""
    return all(key in found and value in ("", found[key]) for key, value in wanted.items())


_RUNTIME: Final = re.compile(r"error running container|OCI runtime")
"""Buildah's and Docker's words before those of a runtime. In other lines of a build, SELinux is a library."""


def build_lines(events: Iterable[Mapping[str, Any]], ref: str) -> Iterator[str]:
    """Yield lines of a build's output. On both engines a failure is an event in an answer with status 200.

    Raises `ImageBuildFailed`, and `EngineFailed` where the engine can start no container at all.
    """
    last: deque[str] = deque(maxlen=20)
    rest = ""
    for event in events:
        if error := event.get("error"):
            reason = _message(event, error)
            detail = "\n".join(last)
            if "no space left on device" in f"{detail}\n{reason}".lower():
                fail(f"{ref} cannot be built", f"{reason}\n{detail}\nno space left on device")
            if refused := next((line for line in (*last, reason) if _RUNTIME.search(line) and remedy(line)), None):
                # No other image can be built on this host either.
                raise EngineFailed(f"{ref} cannot be built: {refused}", hint=remedy(refused), detail=detail)
            hint = "the last lines of the build are above"
            raise ImageBuildFailed(f"{ref} cannot be built: {reason}", hint=hint, detail=detail)
        rest += _COLOUR.sub("", event.get("stream") or "")
        *lines, rest = rest.split("\n")
        for line in lines:
            if line := line.rstrip():
                last.append(line)
                yield line
    if rest.strip():
        yield rest.rstrip()


def pull_lines(events: Iterable[Mapping[str, Any]], ref: str) -> Iterator[str]:
    """Yield lines of a pull's progress."""
    for event in events:
        if error := event.get("error"):
            unavailable(ref, _message(event, error))
        line = " ".join(str(event[key]) for key in ("id", "status", "progress") if event.get(key))
        if line := line.strip() or str(event.get("stream") or "").strip():
            yield line


def push_lines(events: Iterable[Mapping[str, Any]], ref: str) -> Iterator[str]:
    """Yield lines of a push's progress. Here also a failure is an event."""
    for event in events:
        if error := event.get("error"):
            fail(f"{ref} cannot be pushed", _message(event, error))
        line = " ".join(str(event[key]) for key in ("id", "status", "progress") if event.get(key))
        if line := line.strip() or str(event.get("stream") or "").strip():
            yield line


def on_loopback(ref: str) -> bool:
    """Whether a reference is of a registry on this host, for which Docker by default needs no TLS."""
    host = ref.partition("/")[0].rpartition(":")[0]
    return host == "localhost" or host.startswith("127.") or host == "[::1]"


_REFUSED: Final = re.compile(r"unauthorized|authentication required|no basic auth|access denied", re.IGNORECASE)
"""How both engines say that a registry requires a login."""

_NOT_IN_REGISTRY: Final = re.compile(r"unknown(?! (?:certificate )?authority)|not found")
"""A registry that has no such image: "manifest unknown", "name unknown", "manifest for … not found"."""

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Engines' names of architectures: the output of uname -m. Other names are the same in both."""


def unavailable(ref: str, said: str) -> NoReturn:
    """Raise that image `ref` cannot be pulled, with the engine's reason."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
    host = ref.partition("/")[0]
    refused = _REFUSED.search(said) is not None
    kind = ImageNotInRegistry if _NOT_IN_REGISTRY.search(lines[-1]) else BaseImageUnavailable
    error = kind(
        f"{ref} cannot be pulled: {lines[-1]}",
        hint=f"log the engine in to it: docker login {host}, or podman login {host}"
        if refused
        else f"check the network, or bring the image in yourself: docker load / podman load, tagged {ref}",
        detail=said if len(lines) > 1 else None,
    )
    error.login_needed = refused
    raise error


def _message(event: Mapping[str, Any], error: object) -> str:
    detail = event.get("errorDetail")
    message = str(detail.get("message") if isinstance(detail, dict) and detail.get("message") else error)
    return " ".join(message.split())
