"""What engines say, turned into lines and errors. Both send the same JSON events."""

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
"""Docker's classic builder paints stderr red."""
NO_DETACH: Final = "ctrl-^,ctrl-@,ctrl-^,ctrl-@"
"""Keys that detach a client from an exec: both engines insist on some, and hold back the first until the next is typed.
By default it is Ctrl-P, which is the line before in every prompt; Podman looks for it in piped input, too.
"""
_PROXIES: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def proxies() -> dict[str, str]:
    """The caller's proxy settings, for builds and fetch containers. Predeclared build arguments on both engines."""
    names = [name for lower in _PROXIES for name in (lower, lower.upper())]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


_REMEDIES: Final = {
    # crun 1.8 starts nothing on a host with both kinds of cgroups; vmbox takes runc there, where it is installed.
    "cgroups in hybrid mode not supported": checks.HYBRID_CGROUPS_FIX,
}
"""What mends a host whose engine says this."""


def remedy(said: str) -> str | None:
    """The command that mends what the engine complains of, where it is known."""
    return next((hint for words, hint in _REMEDIES.items() if words in said), None)


_NO_PATH: Final = re.compile(r"does not exist|no such file|not a directory")
"""The engine was to mount what is not there, in the words of both engines."""


def fail(what: str, said: str) -> NoReturn:
    """Raises the engine's answer `said` to `what` as one line, the whole of it as detail."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
    if "no space left on device" in said.lower():
        raise NoSpace(
            f"{what}: the engine's storage is full",
            hint="docker system prune, podman system prune, or vmbox image prune make room",
            detail=said,
        )
    kind = EngineFailed
    if "permission denied" in said.lower():
        kind = AccessDenied
    elif _NO_PATH.search(lines[0]):
        kind = PathNotFound
    raise kind(f"{what}: {lines[0]}", hint=remedy(said), detail=said if len(lines) > 1 else None)


def label_filters(labels: Mapping[str, str]) -> list[str]:
    """`labels` in the form filters take; an empty value matches any."""
    return [f"{key}={value}" if value else key for key, value in labels.items()]


def carries(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether labels `found` include all of `wanted`, where an empty value matches any."""
    return all(key in found and value in ("", found[key]) for key, value in wanted.items())


def build_lines(events: Iterable[Mapping[str, Any]], ref: str) -> Iterator[str]:
    """Lines of a build's output. Failure is an event on both engines, under status 200."""
    last: deque[str] = deque(maxlen=20)
    rest = ""
    for event in events:
        if error := event.get("error"):
            reason = _message(event, error)
            detail = "\n".join(last)
            if "no space left on device" in f"{detail}\n{reason}".lower():
                fail(f"{ref} cannot be built", f"{reason}\n{detail}\nno space left on device")
            hint = remedy(f"{detail}\n{reason}") or "the last lines of the build are above"
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
    """Lines of a pull's progress."""
    for event in events:
        if error := event.get("error"):
            unavailable(ref, _message(event, error))
        line = " ".join(str(event[key]) for key in ("id", "status", "progress") if event.get(key))
        if line := line.strip() or str(event.get("stream") or "").strip():
            yield line


def push_lines(events: Iterable[Mapping[str, Any]], ref: str) -> Iterator[str]:
    """Lines of a push's progress; failure is an event here, too."""
    for event in events:
        if error := event.get("error"):
            fail(f"{ref} cannot be pushed", _message(event, error))
        line = " ".join(str(event[key]) for key in ("id", "status", "progress") if event.get(key))
        if line := line.strip() or str(event.get("stream") or "").strip():
            yield line


def on_loopback(ref: str) -> bool:
    """Whether a reference is of a registry on this host, where Docker does without TLS by itself."""
    host = ref.partition("/")[0].rpartition(":")[0]
    return host == "localhost" or host.startswith("127.") or host == "[::1]"


_REFUSED: Final = re.compile(r"unauthorized|authentication required|no basic auth|access denied", re.IGNORECASE)
"""A registry that wants to know who asks, in the words of both engines."""

_NOT_IN_REGISTRY: Final = re.compile(r"unknown(?! (?:certificate )?authority)|not found")
"""A registry that has no such image: "manifest unknown", "name unknown", "manifest for … not found"."""

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""uname -m of the names that engines use; others are the same."""


def unavailable(ref: str, said: str) -> NoReturn:
    """Raises that image `ref` cannot be had, for the reason the engine gave."""
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
