"""Makes a genuine vmcore: boots a distribution's kernel under QEMU in a container, makes it panic, captures its memory.

Nothing is needed on the host but the engine; QEMU translates, so no KVM is needed either. The dump is written by the
kernel's own kexec, /proc/vmcore and makedumpfile, or by QEMU for the formats that hypervisors write.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sandbox import image
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs
from sandbox.errors import ConfigurationError, DemoFailed, EngineFailed, NoSpace, pasteable
from sandbox.host import paths
from sandbox.host.locks import locked
from sandbox.host.tempdirs import scratch_directory
from sandbox.image import containerfile, package_sources
from sandbox.profiles import Profile, by_name
from sandbox.progress import QUIET, Reporter, Step

TRIGGERS: Final = ("sysrq", "oom", "hung-task")
"""The trigger of the panic."""

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
FORMATS: Final = (*_MAKEDUMPFILE, *_QEMU)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSpec:
    """Which kernel dies how, and how its memory is written down."""

    profile: str = "debian-12"
    kernel: str = "linux-image-cloud-amd64"
    """Package, or PACKAGE=VERSION; a meta package stands for the newest kernel of the profile's suite."""
    trigger: str = "sysrq"
    format: str = "kdump"
    level: int = 31
    """makedumpfile -d"""
    memory: int = 768
    """MiB; a 6.12 kernel needs 640 with its crash kernel beside it."""
    crashkernel: str = "256M"
    cpus: int = 2
    timeout: int = 240
    """Seconds from the start of QEMU to the whole dump."""


def make_vmcore(spec: DemoSpec, directory: Path, *, engine: Engine, reporter: Reporter = QUIET) -> Path:
    """Leaves `vmcore`, the kernel's log, its console and a description in `directory`; returns the vmcore's path.

    Raises `DemoFailed` with the console's last lines when there is no dump in the end.
    """
    for value, known in ((spec.trigger, TRIGGERS), (spec.format, FORMATS)):
        if value not in known:
            raise ConfigurationError(f"{value} is not one of {', '.join(known)}")
    profile = by_name(spec.profile)
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
        package = _fetch(spec, profile, kernels, ref=ref, engine=engine, reporter=reporter)
    with scratch_directory() as work:
        console = _crash(spec, kernels / package, work, ref=ref, engine=engine, reporter=reporter)
        made = work / "out" / "vmcore"
        if not made.is_file() or made.stat().st_size == 0:
            failed = [said for line in console if (said := line.partition("vmbox-demo: FAILED: ")[2])]
            raise DemoFailed(
                f"{package} left no dump" + (f": {failed[0]}" if failed else ""),
                hint="try another --format or --profile (debian-13's makedumpfile knows zstd)"
                if failed and "built without" in failed[0]
                else "try another --kernel or more --memory",
                detail="\n".join(console[-20:]),
            )
        (work / "out" / "console.txt").write_text("\n".join(console) + "\n", encoding="utf-8")
        described = {**asdict(spec), "package": package}
        (work / "out" / "demo.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return _deliver(work / "out", directory)


def _fetch(spec: DemoSpec, profile: Profile, kernels: Path, *, ref: str, engine: Engine, reporter: Reporter) -> str:
    """The kernel package's file name in `kernels`; downloaded unless an exact package is there already."""
    name, _, version = spec.kernel.partition("=")
    # linux-image-6.1.0-56-cloud-amd64 names a kernel, linux-image-cloud-amd64 whichever is the newest today.
    if re.match(r"linux-image-\d", name):
        present = sorted(kernels.glob(f"{name}_{version}*.deb"))
        if present:
            return present[-1].name
    rules = profile.debuginfo
    container = ContainerSpec(
        image=ref,
        argv=["/usr/libexec/vmbox/demo-fetch", spec.kernel],
        env={"SOURCES": package_sources.source_lines((*profile.image.sources, *(rules.sources if rules else ())))},
        binds=[Bind(source=kernels.resolve(), target="/kernel", read_only=False)],
        network="host",
        hardened=False,
        as_caller=False,
    )
    with reporter.step(f"Fetching {spec.kernel}"):
        try:
            answer = b"".join(engine.run(container)).decode().split()
        except EngineFailed as error:
            raise DemoFailed(
                f"{profile.title} has no package {spec.kernel}, or its mirror cannot be reached",
                hint="choose one with --kernel; those available stand above, if the mirror answered",
                detail=error.detail or error.message,
            ) from error
    if not answer:
        raise DemoFailed(f"{spec.kernel} was not downloaded", hint="run it again")
    return answer[-1]


def _crash(spec: DemoSpec, package: Path, work: Path, *, ref: str, engine: Engine, reporter: Reporter) -> list[str]:
    """Boots, panics, captures; everything lands in `work`/out. Returns the console's lines."""
    monitor = _QEMU.get(spec.format, "")
    container = ContainerSpec(
        image=ref,
        argv=["/usr/libexec/vmbox/demo-crash"],
        env={
            "KERNEL": package.name,
            "TRIGGER": spec.trigger,
            "CAPTURE": _MAKEDUMPFILE.get(spec.format, "").format(level=spec.level),
            "MONITOR": monitor,
            "PANIC": "0" if monitor else "10",
            "MEMORY": str(spec.memory),
            "CRASHKERNEL": spec.crashkernel,
            "CPUS": str(spec.cpus),
            "TIMEOUT": str(spec.timeout),
        },
        binds=[
            Bind(source=package.parent.resolve(), target="/kernel"),
            Bind(source=work.resolve(), target="/work", read_only=False),
        ],
        tmpfs=[Tmpfs(target="/tmp", size=64 << 20)],  # noqa: S108 - in the container
    )
    lines: list[str] = []
    with reporter.step(f"Crashing {package.name.partition('_')[0]}") as step:
        for line in _lines(engine.run(container)):
            lines.append(line)
            _follow(line, step, reporter)
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
        raise NoSpace(f"{directory}: {error.strerror}", hint=f"df -h {pasteable(directory)}") from error
    return directory / "vmcore"
