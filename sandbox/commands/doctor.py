"""Checks what vmbox needs of the host. Each finding has the command that fixes it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sandbox.case import store
from sandbox.engine import Engine, EngineName, connect, labels
from sandbox.errors import EngineNotFound, VmboxError, missing_extra
from sandbox.host import checks, config, paths
from sandbox.image import bootstrap
from sandbox.profiles import Profile, load
from sandbox.render import size
from sandbox.version import __version__

_ROOM = 10 * 10**9
"""Bytes below which a first opening may not fit: a package, its vmlinux, and two images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    subject: str
    good: bool
    text: str
    hint: str = ""
    """The command that mends it, or what else to do."""
    required: bool = False
    """Whether vmbox cannot open a dump without it."""


def examine(engine: str | None = None, *, offline: bool = False) -> Iterator[Finding]:
    """Looks at this host and changes nothing. `offline` asks no server."""
    yield Finding(subject="vmbox", good=True, text=f"{__version__}, Python {platform.python_version()}")
    settings = _settings()
    yield settings
    if not settings.good:
        return
    yield from _engines(engine)
    yield from _host()
    try:
        profiles = load()
    except VmboxError as error:
        yield Finding(subject="profiles", good=False, text=error.message, hint=error.hint, required=True)
        profiles = {}
    else:
        yield Finding(subject="profiles", good=True, text=", ".join(sorted(profiles)))
    for subject, directory in (("cache", paths.cache_dir), ("runtime", paths.runtime_dir), ("state", paths.state_dir)):
        yield _directory(subject, directory)
    yield _cases()
    yield from _bootstrap(profiles)
    if not offline:
        yield from _servers(profiles)


def _settings() -> Finding:
    try:
        given = [f"{item.key} ({item.origin})" for item in config.show() if item.origin != "default"]
    except VmboxError as error:
        return Finding(subject="settings", good=False, text=error.message, hint=error.hint, required=True)
    for name, near in config.unknown_variables().items():
        return Finding(subject="settings", good=False, text=f"${name} is no setting", hint=f"did you mean ${near}?")
    return Finding(
        subject="settings", good=True, text=", ".join(given) or f"as they come; {config.file()} is not there"
    )


def _engines(wanted: str | None) -> Iterator[Finding]:
    names = [wanted] if wanted else EngineName
    found: list[Finding] = []
    for name in names:
        try:
            engine = connect(name)
        except VmboxError as error:
            found.append(Finding(subject=name, good=False, text=error.message, hint=error.hint))
            continue
        try:
            found += _engine(name, engine)
        except VmboxError as error:
            found.append(Finding(subject=name, good=False, text=error.message, hint=error.hint))
        finally:
            engine.close()
    yield from found
    if not any(finding.good for finding in found):
        yield Finding(
            subject="engine", good=False, text="no engine answers", hint=EngineNotFound.default_hint, required=True
        )


def _engine(name: str, engine: Engine) -> Iterator[Finding]:
    info = engine.info()
    mode = "rootless" if info.rootless else "as root"
    if info.remaps_users:
        mode += " with userns-remap, from which cases are taken out,"
    images = engine.images({labels.IMAGE: ""})
    kept = f"; {len(images)} images of vmbox, {size(sum(image.size for image in images))}" if images else ""
    text = f"{info.version} {mode} on {info.arch} at {info.endpoint}{kept}"
    yield Finding(subject=name, good=True, text=text)
    for obstacle, hint in engine.obstacles():
        yield Finding(subject=name, good=False, text=obstacle, hint=hint)


def _host() -> Iterator[Finding]:
    if os.getuid() != 0:
        obstacles = list(checks.rootless_obstacles())
        for text, hint in obstacles:
            yield Finding(subject="rootless", good=False, text=text, hint=hint)
        if not obstacles:
            yield Finding(subject="rootless", good=True, text="subordinate ids, user namespaces and cgroups are set up")
    if (obstacle := checks.fuse_obstacle()) is None:
        yield Finding(
            subject="fuse", good=True, text="flattened dumps, and those on web servers, are read where they are"
        )
    else:
        text = f"{obstacle[0]}: flattened dumps are copied into the cache, and no case reads one on a web server"
        yield Finding(subject="fuse", good=False, text=text, hint=obstacle[1])
    yield from _extras()
    text = f"{checks.selinux()}; cases run with label=disable, and no dump is relabelled"
    yield Finding(subject="selinux", good=True, text=text)
    can, cannot = checks.emulated()
    if cannot:
        text = f"dumps of {', '.join(cannot)} are read by drgn only: no emulation is registered for their crash"
        yield Finding(subject="binfmt", good=False, text=text, hint=checks.emulation_fix())
    if can:
        yield Finding(subject="binfmt", good=True, text=f"dumps of {', '.join(can)} open under emulation")


_EXTRAS: Final = (
    ("remote", "botocore", "boto3", "dumps in buckets (s3://)"),
    ("remote", "asyncssh", "asyncssh", "dumps on hosts with SSH (sftp://)"),
    ("gzip", "indexed_gzip", "indexed_gzip", "a .gz without a copy in the cache"),
)
"""(extra, module, library, what it is for)"""


def _extras() -> Iterator[Finding]:
    """What reads dumps that are no plain files of this host. A library that is missing is no fault: few need one."""
    import importlib.util

    for extra, module, library, what in _EXTRAS:
        if importlib.util.find_spec(module) is not None:
            yield Finding(subject="extras", good=True, text=f"{what}: read, by {library}")
        else:
            hint = missing_extra(what, extra, library).hint
            yield Finding(subject="extras", good=True, text=f"{what}: not read, {library} is not installed", hint=hint)


def _directory(subject: str, where: Callable[[], Path]) -> Finding:
    variable = config.variable(f"{subject}_dir")
    try:
        directory = where()
    except VmboxError as error:
        return Finding(subject=subject, good=False, text=error.message, hint=error.hint, required=True)
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        hint = f"choose another place with ${variable}"
        return Finding(subject=subject, good=False, text=f"{directory} cannot be written", hint=hint, required=True)
    free = shutil.disk_usage(existing).free
    text = f"{directory}: {size(free)} free"
    if subject == "cache":
        held = {part: _used(directory / part) for part in ("debuginfo", "dumps", "downloads", "rootfs", "demo")}
        text += "".join(f", {part} {size(amount)}" for part, amount in held.items() if amount)
        if free < _ROOM:
            hint = f"vmbox debuginfo prune, or choose another place with ${variable}"
            return Finding(subject=subject, good=False, text=text, hint=hint)
    return Finding(subject=subject, good=True, text=text)


def _used(directory: Path) -> int:
    """Bytes on the disk; holes of sparse files are not."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_blocks * 512
            except OSError:
                continue
    return total


def _cases() -> Finding:
    try:
        open_now = store.open_cases()
    except (VmboxError, OSError) as error:
        return Finding(subject="cases", good=False, text=str(error), hint="vmbox list")
    hint = "vmbox close --all closes them" if open_now else ""
    return Finding(subject="cases", good=True, text=f"{len(open_now)} open", hint=hint)


def _bootstrap(profiles: Mapping[str, Profile]) -> Iterator[Finding]:
    by_tool: dict[str, list[str]] = {}
    for name, profile in sorted(profiles.items()):
        if profile.base.bootstrap is not None:
            by_tool.setdefault(profile.base.bootstrap.tool, []).append(name)
    for tool, families in sorted(by_tool.items()):
        bases = f"bases can be made without a registry: {', '.join(families)}"
        if tool not in bootstrap.ON_HOST:
            yield Finding(subject=tool, good=True, text=f"in a container, so that it need not be installed, {bases}")
        elif shutil.which(tool):
            yield Finding(subject=tool, good=True, text=bases)
        else:
            yield Finding(
                subject=tool, good=False, text=f"not installed; with it, {bases}", hint=f"sudo apt-get install {tool}"
            )


def _servers(profiles: Mapping[str, Profile]) -> Iterator[Finding]:
    from sandbox.commands import servers

    kinds = {"registries": servers.registries(profiles.values()), "archives": servers.archives(profiles.values())}
    try:
        answers = servers.probe(kinds["registries"] | kinds["archives"])
    except VmboxError as error:
        yield Finding(subject="network", good=False, text=error.message, hint=error.hint)
        return
    for subject, addresses in kinds.items():
        reached = sorted(address for address in addresses if answers[address] is None)
        missed = sorted(addresses - set(reached))
        if reached:
            yield Finding(subject=subject, good=True, text=f"reached {_hosts(reached)}")
        if missed:
            why = answers[missed[0]]
            hint = (
                "check the network and $HTTPS_PROXY, or name mirrors: vmbox config template"
                if len(missed) == len(addresses)
                else "only dumps of those distributions need them; mirrors can be named: vmbox config template"
            )
            text = f"not reached {_hosts(missed)} ({missed[0]}: {why})"
            yield Finding(subject=subject, good=False, text=text, hint=hint)


def _hosts(addresses: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(urlsplit(address).netloc for address in addresses))
