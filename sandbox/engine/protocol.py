"""What vmbox needs of a container engine, and nothing that only one of them has.

The adapters in `docker.py` and `podman.py` are the only importers of the engine libraries; every difference between
the engines stays inside them. Nothing outside this package asks which engine it talks to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol, Self

from sandbox.model import REMOTE_SCHEMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory in the container. Never relabelled: relabelling writes to the evidence."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """Scratch memory: nosuid, nodev, noexec."""

    target: str
    size: int
    """Bytes."""
    mode: int = 0o1777


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container to start. `hardened` is what a case runs with; unhardened is for containers that never see a dump."""

    image: str
    argv: Sequence[str]
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[Tmpfs] = ()
    workdir: str | None = None
    network: Literal["none", "host"] = "none"
    """host: the fetch zone. It needs no bridge, works rootless without a tun device, and sees the host's resolver."""
    hardened: bool = True
    """Read-only root, no capabilities, no new privileges, default seccomp, SELinux label=disable for the binds."""
    as_caller: bool = True
    """Files the caller can read can be read, files it creates belong to the caller: the caller's uid:gid on an engine
    that runs as root, the container's root (which is the caller) on a rootless one."""
    memory: int | None = None
    """Bytes, swap included. Where the engine cannot limit a container (rootless on cgroup v1, `EngineInfo.limits`
    false) each process has this as its limit of address space, and the next two are ignored."""
    pids: int | None = None
    cpus: float | None = None
    """How many may be kept busy, e.g. 1.5."""
    platform: str | None = None
    """As engines write it, e.g. linux/arm64; None is the engine's own."""
    auto_remove: bool = True
    """False: it stays when it ends. The engines' contract looks at the log and exit status of such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    name: str
    """docker or podman."""
    version: str
    endpoint: str
    """What `connect` takes to reach it again: a URL, e.g. unix:///run/docker.sock, or "podman" for the private
    service, whose socket does not outlive this process."""
    rootless: bool
    arch: str
    """As uname -m prints it."""
    limits: bool
    """Whether memory, pids and CPU limits hold for a container. Where not, memory is limited for each process."""
    memory: int
    """Bytes the engine's host has."""
    cpus: int
    """Of the engine's host."""
    local: bool
    """Whether the engine sees the host's files and FIFOs (false for ssh://, tcp://, a VM)."""

    @property
    def remote(self) -> bool:
        """Whether it was reached over the network: paths are those of its host, and there are no FIFOs to share."""
        return self.endpoint.startswith(REMOTE_SCHEMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    size: int
    """Bytes."""
    arch: str = ""
    """As uname -m prints it. Known from `image`; not from `images`."""
    built: float = 0.0
    """Seconds since the epoch. Known from `images`; not from `image`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    id: str
    name: str
    running: bool
    labels: Mapping[str, str]
    exit_code: int | None = None
    """Known from `container`; not from `containers`."""


class Exec(Protocol):
    """A process started in a running container, with its streams in our hands.

    Without a TTY, `read` returns stdout and `errors` collects stderr; with one, all output comes from `read`.
    """

    def fileno(self) -> int:
        """Descriptor to select on. Readable data may also be buffered: call `pending` first."""

    def pending(self) -> bool: ...

    def read(self, size: int = 65536) -> bytes:
        """Some bytes, as soon as there are any; b"" at the end."""

    def write(self, data: bytes) -> None: ...

    def close_stdin(self) -> None: ...

    def resize(self, *, rows: int, columns: int) -> None: ...

    def exit_code(self) -> int:
        """After the end of the output. Waits for the process if it has to."""

    @property
    def errors(self) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """One reachable engine. Methods raise `EngineFailed` for whatever the engine refuses, in one line."""

    def info(self) -> EngineInfo: ...

    # Images

    def image(self, ref: str) -> Image | None: ...

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        """Those that carry all of `labels`; an empty value matches any."""

    def pull(self, ref: str, *, platform: str | None = None) -> Iterator[str]:
        """Lines of progress. Raises `BaseImageUnavailable` when the image cannot be had, of which `ImageNotInRegistry`
        is the registry's own answer.
        """

    def push(self, ref: str) -> Iterator[str]:
        """Sends image `ref` to the registry that it is named after, with the engine's own credentials; its lines."""

    def tag(self, ref: str, name: str) -> None:
        """Gives image `ref` a second name."""

    def save(self, ref: str) -> Iterator[bytes]:
        """The image as an archive (docker-archive) that every engine loads, in pieces."""

    def load(self, archive: Path | IO[bytes]) -> list[str]:
        """Takes the images of an archive in, and returns their names."""

    def import_rootfs(
        self, tar: Path | IO[bytes], ref: str, labels: Mapping[str, str], *, platform: str | None = None
    ) -> None:
        """Makes image `ref` of a root file system's tar."""

    def build(
        self,
        context: IO[bytes],
        ref: str,
        *,
        labels: Mapping[str, str],
        args: Mapping[str, str] | None = None,
        platform: str | None = None,
    ) -> Iterator[str]:
        """Builds the tar `context`, Containerfile at its root, with the host's network, and yields lines of output.

        Raises `ImageBuildFailed` with the last 20 lines. A failed build leaves nothing behind. An abandoned one is
        stopped; on Podman (4.3) only when the command it is at has ended, or when the private service ends.
        """

    def remove_image(self, ref: str) -> None:
        """No error when it is not there."""

    # Containers

    def start(self, spec: ContainerSpec) -> Container:
        """Raises `PathNotFound` where a path to be mounted is not there, `AccessDenied` where the engine may not."""

    def run(self, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
        """Starts, yields stdout in pieces as it comes, removes. `on_stderr` gets stderr as it comes.

        Raises `EngineFailed` with the last lines of stderr (and exit status) when the process fails. The container is
        removed also when the iterator is closed early.
        """

    def container(self, ident: str) -> Container | None:
        """By id or name."""

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """Running and stopped ones that carry all of `labels`; an empty value matches any."""

    def exec(
        self,
        ident: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Exec: ...

    def logs(self, ident: str, *, tail: int = 50) -> bytes: ...

    def wait(self, ident: str) -> int: ...

    def remove(self, ident: str) -> None:
        """Kills and removes; no error when it is not there."""

    def obstacles(self) -> Iterator[tuple[str, str]]:
        """What keeps cases from running, or from their limits: a line each, and what to do about it."""

    def close(self) -> None:
        """Frees the connection, and ends a service this process started for it."""
