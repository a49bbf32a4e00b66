"""Makes a genuine vmcore: boots a distribution's kernel under QEMU in a container, makes it panic, captures its memory.

Nothing is needed on the host but the engine; QEMU translates, so no KVM is needed either. The dump is written by the
kernel's own kexec, /proc/vmcore and makedumpfile, or by QEMU for the formats that hypervisors write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from sandbox import image
from sandbox.commands.demo_triggers import TRIGGERS
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs
from sandbox.errors import ConfigurationError, DemoFailed, EngineFailed, UsageError, pasteable, unwritable
from sandbox.host import paths
from sandbox.host.files import write_atomically
from sandbox.host.locks import locked
from sandbox.host.tempdirs import scratch_directory
from sandbox.image import containerfile, package_sources
from sandbox.profiles import Profile, by_name, load
from sandbox.progress import QUIET, Reporter, Step

_FAILED: Final = "vmbox-demo: FAILED: "
_DESCRIPTION: Final = "demo.json"
"""Beside each dump that was made here, and beside no other."""
_ELSEWHERE: Final = "choose another directory: vmbox demo DIR"
_LIST: Final = ".packages"
"""Suffix of a file with what demo-fetch printed: a kernel's packages, the one that was asked for first."""
_NO_DEBUGINFO: Final = "no-debuginfo"
"""The last of them, where the profile's package sources have no debuginfo of this kernel."""

_MAKEDUMPFILE: Final[Mapping[str, str]] = {
    "kdump": "makedumpfile -c -d {level} /proc/vmcore vmcore",
    "kdump-lzo": "makedumpfile -l -d {level} /proc/vmcore vmcore",
    "kdump-snappy": "makedumpfile -p -d {level} /proc/vmcore vmcore",
    "kdump-zstd": "makedumpfile -z -d {level} /proc/vmcore vmcore",
    "kdump-raw-pages": "makedumpfile -d {level} /proc/vmcore vmcore",
    "flattened": "makedumpfile -F -c -d {level} /proc/vmcore > vmcore",
    "elf": "makedumpfile -E -d {level} /proc/vmcore vmcore",
    "proc-vmcore": "cp /proc/vmcore vmcore",
    "split": "makedumpfile --split -c -d {level} /proc/vmcore vmcore vmcore-2",
}
_QEMU: Final[Mapping[str, str]] = {
    "qemu-elf": "dump-guest-memory /work/out/vmcore",
    "qemu-kdump": "dump-guest-memory -z /work/out/vmcore",
}
_FILLED: Final = 20
"""MiB that are filled and written in a second, at least."""

FORMATS: Final = (*_MAKEDUMPFILE, *_QEMU)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSpec:
    """Which kernel dies how, and how its memory is written down."""

    profile: str = "debian-12"
    kernel: str | None = None
    """Package, or PACKAGE=VERSION; a meta package stands for the newest kernel of the profile's suites. None, like for
    `memory` and `crashkernel`: as the profile says (`sandbox.profiles.Demo`)."""
    trigger: str = "sysrq"
    format: str = "kdump"
    level: int = 31
    """makedumpfile -d"""
    memory: int | None = None
    """MiB"""
    fill: int = 0
    """MiB of the memory that are filled with what no compression makes smaller."""
    crashkernel: str | None = None
    """The boot parameter."""
    cpus: int = 2
    timeout: int = 240
    """Seconds from the start of QEMU to the whole dump, and more for what is filled."""
    more: Sequence[str] = ()
    """What the capture kernel runs after it has written the dump, beside it: for other forms of the same crash."""


def make_vmcore(spec: DemoSpec, directory: Path, *, engine: Engine, reporter: Reporter = QUIET) -> Path:
    """Leaves `vmcore`, the kernel's log, its console and a description in `directory`; returns the vmcore's path.

    Raises `UsageError` where a dump is in `directory` that no demo has made, and `DemoFailed` with the console's last
    lines when there is no dump in the end.
    """
    for value, known in ((spec.trigger, TRIGGERS), (spec.format, FORMATS)):
        if value not in known:
            raise ConfigurationError(f"{value} is not one of {', '.join(known)}")
    _check_place(directory)
    trigger = TRIGGERS[spec.trigger]
    profile = by_name(spec.profile)
    spec = _with_defaults(spec, profile)
    recipe = containerfile.BuildContext(
        name=f"demo-{profile.name}",
        fragments=("base", "apt", "demo-apt"),
        args={},
        files=package_sources.package_sources(profile),
    )
    ref = image.build(recipe, engine, base=lambda: image.ensure_base(profile, engine, reporter), reporter=reporter)
    kernels = paths.cache_dir() / "demo" / profile.name
    kernels.mkdir(parents=True, exist_ok=True)
    with locked(kernels / ".lock", reporter, "fetching a kernel"):
        packages = _fetch(spec, profile, kernels, ref=ref, engine=engine, reporter=reporter)
        module = (
            _module(packages[0], profile, kernels, ref=ref, engine=engine, reporter=reporter)
            if trigger.module
            else None
        )
    with scratch_directory() as work:
        package = packages[0]
        console = _crash(spec, kernels, packages, module, work, ref=ref, engine=engine, reporter=reporter)
        made = work / "out" / "vmcore"
        if not made.is_file() or made.stat().st_size == 0:
            failed = [said for line in console if (said := line.partition(_FAILED)[2])]
            raise DemoFailed(
                f"{package} left no dump" + (f": {failed[0]}" if failed else ""),
                hint="try another --format or --profile (debian-13's makedumpfile knows zstd)"
                if failed and "built without" in failed[0]
                else "try another --kernel or more --memory",
                detail="\n".join(console[-20:]),
            )
        (work / "out" / "console.txt").write_text("\n".join(console) + "\n", encoding="utf-8")
        if module is not None:
            # No debug package has it: its frames and their lines are read with this file.
            shutil.copyfile(kernels / module, work / "out" / "vmbox_demo.ko")
            shutil.copyfile(_trigger_source(), work / "out" / "vmbox_demo.c")
        described = {**asdict(spec), "package": package}
        (work / "out" / _DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return _deliver(work / "out", directory)


def _check_place(directory: Path) -> None:
    """Raises where the dump cannot be put, or would replace evidence: by default it goes to the working directory."""
    try:
        found = next((path for path in directory.iterdir() if path.name.startswith("vmcore")), None)
        if found is not None and not (directory / _DESCRIPTION).is_file():
            raise UsageError(f"{found} was not made by vmbox demo, and is not replaced", hint=_ELSEWHERE)
    except FileNotFoundError:
        pass  # it is made in the end
    except OSError as error:
        raise unwritable(directory, error, hint=_ELSEWHERE) from error
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise unwritable(directory, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), hint=_ELSEWHERE)


def _with_defaults(spec: DemoSpec, profile: Profile) -> DemoSpec:
    """`spec` with the profile's values where it has none itself. Raises `ConfigurationError` for a profile without."""
    rules = profile.demo
    if rules is None:
        able = sorted(one.name for one in load().values() if one.demo)
        raise ConfigurationError(
            f"no demo of {profile.name}: only .deb packages of kernels are unpacked",
            hint=f"vmbox demo --profile {able[-1]}; there are {', '.join(able)}" if able else "",
        )
    return replace(
        spec,
        kernel=spec.kernel or rules.kernel,
        memory=spec.memory or rules.memory,
        crashkernel=spec.crashkernel or rules.crashkernel,
    )


def _fetch(
    spec: DemoSpec, profile: Profile, kernels: Path, *, ref: str, engine: Engine, reporter: Reporter
) -> tuple[str, ...]:
    """The file names of the kernel's packages in `kernels`; downloaded unless those of an exact package are there."""
    wanted = spec.kernel or ""
    name, _, version = wanted.partition("=")
    # linux-image-6.1.0-56-cloud-amd64 names a kernel, linux-image-cloud-amd64 whichever is the newest today.
    if re.match(r"linux-image-\d", name):
        for listed in sorted(kernels.glob(f"{name}_{version}*{_LIST}"), reverse=True):
            present = _packages(listed.read_text(encoding="utf-8").split(), profile, reporter)
            if present and all((kernels / file).is_file() for file in present):
                return present
    container = _with_network(["/usr/libexec/vmbox/demo-fetch", wanted], profile, kernels, ref)
    with reporter.step(f"Fetching {wanted}"):
        try:
            answer = b"".join(engine.run(container)).decode().split()
        except EngineFailed as error:
            raise DemoFailed(
                f"{profile.title} has no package {wanted}, or its mirror cannot be reached",
                hint="choose one with --kernel; those available stand above, if the mirror answered",
                detail=error.detail or error.message,
            ) from error
    if not answer:
        raise DemoFailed(f"{wanted} was not downloaded", hint="run it again")
    write_atomically(kernels / (answer[0].removesuffix(".deb") + _LIST), "\n".join(answer).encode())
    return _packages(answer, profile, reporter)


def _packages(printed: Sequence[str], profile: Profile, reporter: Reporter) -> tuple[str, ...]:
    """The packages of what demo-fetch printed; a notice where their kernel has no debuginfo."""
    packages = tuple(one for one in printed if one != _NO_DEBUGINFO)
    if len(packages) < len(printed):
        name, version, _ = packages[0].split("_", 2)
        reporter.notice(
            f"{name} {version}: {profile.title}'s package sources have no debuginfo of it; vmbox run will ask other "
            "places, or answer without. Another kernel: --kernel"
        )
    return packages


def _with_network(argv: Sequence[str], profile: Profile, kernels: Path, ref: str) -> ContainerSpec:
    """A throw-away container that may install packages of the profile and write to `kernels`."""
    rules = profile.debuginfo
    return ContainerSpec(
        image=ref,
        argv=argv,
        env={"SOURCES": package_sources.source_lines((*profile.image.sources, *(rules.sources if rules else ())))},
        binds=[Bind(source=kernels.resolve(), target="/kernel", read_only=False)],
        network="host",
        hardened=False,
        as_caller=False,
    )


def _trigger_source() -> Path:
    return paths.data_dir() / "Containerfile.d" / "files" / "demo-trigger.c"


def _module(package: str, profile: Profile, kernels: Path, *, ref: str, engine: Engine, reporter: Reporter) -> str:
    """The file name in `kernels` of the module that ends the kernel of `package`; compiled if it is not there.

    Beside it is the program of the trigger "futex".
    """
    name, version, _ = package.split("_", 2)
    release = name.removeprefix("linux-image-")
    source = _trigger_source()
    recipe = b"".join(source.with_name(name).read_bytes() for name in (source.name, "demo-user.c", "demo-build"))
    module = f"vmbox_demo-{release}_{version}-{hashlib.sha256(recipe).hexdigest()[:12]}.ko"
    if not (kernels / module).is_file():
        container = _with_network(["/usr/libexec/vmbox/demo-build", release, version, module], profile, kernels, ref)
        with reporter.step(f"Compiling a module for {release}"):
            try:
                for _ in engine.run(container):
                    pass
            except EngineFailed as error:
                raise DemoFailed(
                    f"no module could be compiled for {release}",
                    hint="choose a kernel whose headers the mirror has: --kernel, or another --trigger",
                    detail=error.detail or error.message,
                ) from error
    return module


def _crash(
    spec: DemoSpec,
    kernels: Path,
    packages: Sequence[str],
    module: str | None,
    work: Path,
    *,
    ref: str,
    engine: Engine,
    reporter: Reporter,
) -> list[str]:
    """Boots, panics, captures; everything lands in `work`/out. Returns the console's lines.

    Raises `DemoFailed` with the last of them if the container's script fails.
    """
    monitor = _QEMU.get(spec.format, "")
    trigger = TRIGGERS[spec.trigger]
    container = ContainerSpec(
        image=ref,
        argv=["/usr/libexec/vmbox/demo-crash"],
        env={
            "KERNEL": " ".join(packages),
            "TRIGGER": spec.trigger,
            "MODULE": module or "",
            "APPEND": trigger.append,
            "SETTINGS": " ".join(trigger.settings),
            "SLOW_DISK": "yes" if trigger.slow_disk else "",
            "SYSRQ_AFTER": str(trigger.sysrq_after),
            "CAPTURE": "; ".join([_MAKEDUMPFILE.get(spec.format, "").format(level=spec.level), *spec.more]),
            "MONITOR": monitor,
            "PANIC": "0" if monitor else "10",
            "MEMORY": str(spec.memory),
            "CRASHKERNEL": str(spec.crashkernel),
            "CPUS": str(spec.cpus),
            "FILL": str(spec.fill),
            "TIMEOUT": str(spec.timeout + spec.fill // _FILLED),
        },
        binds=[
            Bind(source=kernels.resolve(), target="/kernel"),
            Bind(source=work.resolve(), target="/work", read_only=False),
        ],
        tmpfs=[Tmpfs(target="/tmp", size=64 << 20)],  # noqa: S108 - in the container
    )
    lines: list[str] = []
    kernel = packages[0].partition("_")[0]
    with reporter.step(f"Crashing {kernel}") as step:
        try:
            for line in _lines(engine.run(container)):
                lines.append(line)
                _follow(line, step, reporter)
        except EngineFailed as error:
            failed = [said for line in lines if (said := line.partition(_FAILED)[2])]
            if not failed:
                raise
            raise DemoFailed(
                f"{kernel}: {failed[-1]}",
                hint="try another --kernel or --profile",
                detail=error.detail or "\n".join(lines[-20:]),
            ) from error
    return lines


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace") for line in whole if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace")


def _follow(line: str, step: Step, reporter: Reporter) -> None:
    said = line.partition("vmbox-demo: ")[2]
    if "Kernel panic" in line and "end Kernel panic" not in line:
        reporter.notice(line.partition("] ")[2] or line)
    elif said.startswith("FAILED"):
        reporter.notice(said)
    step.detail(said or line)


def _deliver(made: Path, directory: Path) -> Path:
    """Moves the results; the vmcore last, so that one that is there is whole."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "vmcore"):
            if file.is_file():
                part = directory / f".{file.name}.part"
                shutil.move(file, part)
                part.replace(directory / file.name)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise unwritable(directory, error, hint=f"df -h {pasteable(directory)}" if full else _ELSEWHERE) from error
    return directory / "vmcore"
