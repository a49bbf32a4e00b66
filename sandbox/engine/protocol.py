"""The protocol `Engine`: what vmbox uses of a container engine. It contains nothing that only one engine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol, Self

from sandbox.model import REMOTE_SCHEMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory in the container. Never relabelled, because relabelling writes to the evidence."""

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
    """A container to start. A case is always `hardened`; containers that never see a dump need not be."""

    image: str
    argv: Sequence[str]
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[Tmpfs] = ()
    workdir: str | None = None
    network: Literal["none", "host"] = "none"
    """host: the fetch zone. It needs no bridge, works rootless without a tun device, and uses the host's resolver."""
    hardened: bool = True
    """Read-only root, no capabilities, no new privileges, default seccomp, SELinux label=disable for the binds."""
    as_caller: bool = True
    """Run as the caller: the container reads the files that the caller can read, and its files belong to the caller.
    That is the caller's uid:gid on a rootful engine, the container's root (which is the caller) on a rootless one."""
    memory: int | None = None
    """Bytes, including swap. If the engine cannot limit a container (rootless on cgroup v1, `EngineInfo.limits` is
    false), this limits each process: its address space, or with Docker the memory that it can write to. Then `pids` and
    `cpus` are ignored."""
    pids: int | None = None
    cpus: float | None = None
    """Number of CPUs it may use, e.g. 1.5."""
    platform: str | None = None
    """In the engines' form, e.g. linux/arm64; None is the engine's own."""
    auto_remove: bool = True
    """False keeps the container after its end. The contract tests need its log and exit status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    name: str
    """docker or podman."""
    version: str
    endpoint: str
    """Argument with which `connect` reaches it again: a URL, e.g. unix:///run/docker.sock, or "podman" for the private
    service, whose socket does not outlive this process."""
    rootless: bool
    arch: str
    """As uname -m prints it."""
    limits: bool
    """Whether it can limit a container's memory, pids and CPUs. If not, memory is limited for each process."""
    memory: int
    """Bytes of memory of the engine's host."""
    cpus: int
    """Of the engine's host."""
    local: bool
    """Whether the engine sees the host's files and FIFOs (false for ssh://, tcp://, a VM)."""
    remaps_users: bool = False
    """Docker's userns-remap: users of a container are none of the host's, except where a container asks for the host's
    user namespace, as a case does."""

    @property
    def remote(self) -> bool:
        """Whether it is reached over the network: then paths are those of its host, and FIFOs cannot be shared."""
        return self.endpoint.startswith(REMOTE_SCHEMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    size: int
    """Bytes."""
    arch: str = ""
    """As uname -m prints it. Set by `image`, not by `images`."""
    built: float = 0.0
    """Seconds since the epoch. Set by `images`, not by `image`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    id: str
    name: str
    running: bool
    labels: Mapping[str, str]
    exit_code: int | None = None
    """Set by `container`, not by `containers`."""
    process: int = 0
    """Number of its first process on the engine's host. Set by `container`; 0 when it does not run."""


class Exec(Protocol):
    """A process started in a running container, connected to its streams.

    Without a TTY, `read` returns stdout and `errors` collects stderr; with a TTY, `read` returns all output.
    """

    def fileno(self) -> int:
        """Descriptor to select on. Readable data may also be buffered: call `pending` first."""

    def pending(self) -> bool:
        """Whether `read` returns at once."""

    def ready(self, seconds: float | None) -> bool:
        """Wait up to `seconds` until `read` returns at once; what stderr gets does not end the wait."""

    def read(self, size: int = 65536) -> bytes:
        """Return the next bytes as soon as there are any; b"" at the end."""

    def write(self, data: bytes) -> None: ...

    def close_stdin(self) -> None: ...

    def resize(self, *, rows: int, columns: int) -> None: ...

    def exit_code(self) -> int:
        """Wait for the process and return its exit code. Call it after the end of the output."""

    @property
    def errors(self) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """One reachable engine. A method that the engine refuses raises `EngineFailed` with one line."""

    def info(self) -> EngineInfo: ...

    # Images

    def image(self, ref: str) -> Image | None: ...

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        """List the images with all of `labels`; an empty value matches any."""

    def pull(self, ref: str, *, platform: str | None = None) -> Iterator[str]:
        """Pull an image and yield lines of progress.

        Raises `BaseImageUnavailable` if that fails, or `ImageNotInRegistry` if the registry does not have the image.
        """

    def push(self, ref: str) -> Iterator[str]:
        """Push image `ref` to the registry in its name, with the engine's credentials, and yield lines of progress."""

    def tag(self, ref: str, name: str) -> None:
        """Give image `ref` a second name."""

    def save(self, ref: str) -> Iterator[bytes]:
        """Yield the image as an archive (docker-archive) in pieces. Every engine can load it."""

    def load(self, archive: Path | IO[bytes]) -> list[str]:
        """Load the images of an archive, and return their names."""

    def import_rootfs(
        self, tar: Path | IO[bytes], ref: str, labels: Mapping[str, str], *, platform: str | None = None
    ) -> None:
        """Make image `ref` of the tar of a root file system."""

    def build(
        self,
        context: IO[bytes],
        ref: str,
        *,
        labels: Mapping[str, str],
        args: Mapping[str, str] | None = None,
        platform: str | None = None,
    ) -> Iterator[str]:
        """Build the tar `context`, which has a Containerfile at its root, and yield lines of output.

        The build uses the host's network. Raises `ImageBuildFailed` with the last 20 lines. A failed build leaves
        nothing behind. An abandoned build is stopped; Podman 4.3 stops it only when its current command ends, or when
        the private service ends.
        """

    def interrupt_builds(self) -> None:
        """Have each `build` of other threads fail, also one that waits for the network, and remove what it made.

        Waits for that, but not for ever.
        """

    def remove_image(self, ref: str) -> None:
        """Remove an image. It is no error if there is none."""

    # Containers

    def start(self, spec: ContainerSpec) -> Container:
        """Start a container.

        Raises `PathNotFound` if a path to mount does not exist, `AccessDenied` if the engine has no access to it.
        """

    def run(self, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
        """Start a container, yield its stdout in pieces as they arrive, and remove it.

        `on_stderr` receives stderr as it arrives. Raises `EngineFailed` with the exit status and the last lines of
        stderr if the process fails. The container is also removed when the iterator is closed early.
        """

    def container(self, ident: str) -> Container | None:
        """Find a container by id or name."""

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """List running and stopped containers with all of `labels`; an empty value matches any."""

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
        """Kill and remove a container. It is no error if there is none."""

    def obstacles(self) -> Iterator[tuple[str, str]]:
        """Yield what prevents cases from running or limits from working: one line each, and its fix."""

    def close(self) -> None:
        """Close the connection, and end a service that this process started for it."""
