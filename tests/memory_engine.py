"""An `Engine` in memory: images are entries of a table, containers are functions or programs of this host.

It isolates nothing, limits nothing and has no terminals, so nothing about a sandbox is tested on it. What it is for are
the decisions of whoever uses an engine: which image is made, pulled or taken, what is started, what is removed, and
what is said when something is lacking. It keeps `contract`, the part of the engines' contract that needs no kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Final

from engines import INFO
from memory_process import PATH, MemoryExec, Process, Program, missing, on_this_host, started
from sandbox.engine import Container, ContainerSpec, EngineInfo, Image
from sandbox.engine.orphans import with_owner_label
from sandbox.errors import BaseImageUnavailable, EngineFailed, ImageBuildFailed, ImageNotInRegistry, PathNotFound
from sandbox.profiles import platforms

_KEPT: Final = 20
"""Lines of a build, or of standard error, that an error shows."""


@dataclass(kw_only=True)
class _Made:
    """A container."""

    spec: ContainerSpec
    id: str
    name: str
    process: Process
    children: list[Process] = field(default_factory=list)


class MemoryEngine:
    """See the module. All that it is asked to change or fetch is in `asked`, in order."""

    def __init__(
        self,
        info: EngineInfo = INFO,
        *,
        programs: Mapping[str, Program] | None = None,
        registries: Mapping[str, Mapping[str, Image]] | None = None,
        on_run: Callable[[str, str], Iterator[str]] | None = None,
    ) -> None:
        """`programs` are functions by the path of the program. `registries` have images by the reference in them; one
        that is not named cannot be reached. `on_run` is called with the reference that is built and the command of each
        RUN, and yields what that prints, or raises `ImageBuildFailed`; by default commands do nothing.
        """
        self._info = info
        self._programs = programs or {}
        self._registries = registries or {}
        self._on_run = on_run or (lambda _ref, _command: iter(()))
        self._images: dict[str, Image] = {}
        """By id."""
        self._files: dict[str, frozenset[str]] = {}
        """By the image's id: the paths in it."""
        self._containers: dict[str, _Made] = {}
        self.asked: list[tuple[str, str]] = []
        """(method, image or name of the container)."""
        self.started: list[ContainerSpec] = []
        self.closed = 0
        """How often it was closed."""

    def info(self) -> EngineInfo:
        return self._info

    # Images

    def have(self, ref: str, labels: Mapping[str, str] | None = None, *, arch: str = "") -> Image:
        """Let the engine have an image already."""
        return self._keep(ref, labels or {}, arch or self._info.arch, frozenset())

    def image(self, ref: str) -> Image | None:
        found = self._find(ref)
        return None if found is None else replace(found, built=0.0)

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        return [replace(image, arch="") for image in self._images.values() if _has(image.labels, labels)]

    def pull(self, ref: str, *, platform: str | None = None) -> Iterator[str]:
        self.asked.append(("pull", ref))
        registry = self._registries.get(ref.partition("/")[0])
        if registry is None:
            raise BaseImageUnavailable(f"{ref} cannot be pulled: no such host")
        if ref not in registry:
            raise ImageNotInRegistry(f"{ref} is not in the registry")
        yield f"Pulling {ref}"
        found = registry[ref]
        arch = self._info.arch if platform is None else platforms.arch_of(platform)
        self._keep(ref, found.labels, found.arch or arch, frozenset())

    def push(self, ref: str) -> Iterator[str]:
        self.asked.append(("push", ref))
        if self._find(ref) is None or ref.partition("/")[0] not in self._registries:
            raise EngineFailed(f"{ref} cannot be pushed")
        yield f"Pushing {ref}"

    def tag(self, ref: str, name: str) -> None:
        image = self._find(ref)
        if image is None:
            raise EngineFailed(f"no such image: {ref}")
        self._untag(name)
        image = self._images[image.id]
        self._images[image.id] = replace(image, tags=(*image.tags, name))

    def save(self, ref: str) -> Iterator[bytes]:
        image = self._find(ref)
        if image is None:
            raise EngineFailed(f"no such image: {ref}")
        files = sorted(self._files[image.id])
        yield json.dumps({"ref": ref, "labels": dict(image.labels), "arch": image.arch, "files": files}).encode()

    def load(self, archive: Path | IO[bytes]) -> list[str]:
        try:
            saved = json.loads(archive.read_bytes() if isinstance(archive, Path) else archive.read())
        except ValueError as error:
            raise EngineFailed(f"no archive of an image: {error}") from None
        self._keep(saved["ref"], saved["labels"], saved["arch"], frozenset(saved["files"]))
        return [saved["ref"]]

    def import_rootfs(
        self, tar: Path | IO[bytes], ref: str, labels: Mapping[str, str], *, platform: str | None = None
    ) -> None:
        self.asked.append(("import", ref))
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
            names = frozenset(
                f"/{member.name}" for member in stack.enter_context(tarfile.open(fileobj=file, mode="r|"))
            )
            size = file.tell()
        arch = self._info.arch if platform is None else platforms.arch_of(platform)
        self._keep(ref, labels, arch, names, size=size)

    def build(
        self,
        context: IO[bytes],
        ref: str,
        *,
        labels: Mapping[str, str],
        args: Mapping[str, str] | None = None,
        platform: str | None = None,
    ) -> Iterator[str]:
        self.asked.append(("build", ref))
        given, said, below = dict(args or {}), [], None
        with tarfile.open(fileobj=context, mode="r|") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
        files: frozenset[str] = frozenset()
        for number, (word, rest) in enumerate(_steps(members.get("Containerfile", b"").decode()), 1):
            said.append(f"STEP {number}: {word} {rest}")
            yield said[-1]
            match word:
                case "FROM":
                    below = self._find(re.sub(r"\$\{?(\w+)\}?", lambda name: given.get(name[1], ""), rest))
                    if below is None:
                        raise ImageBuildFailed(f"{ref} cannot be built: no image {rest}", detail="\n".join(said))
                    files = self._files[below.id]
                case "RUN":
                    try:
                        for line in self._on_run(ref, rest):
                            said.append(line)
                            yield line
                    except ImageBuildFailed as error:
                        detail = "\n".join([*said, error.message][-_KEPT:])
                        raise ImageBuildFailed(f"{ref} cannot be built: {rest} failed", detail=detail) from None
                case "COPY":
                    source, target = rest.split()[-2:]
                    if not any(PurePosixPath(name).is_relative_to(source) for name in members):
                        raise ImageBuildFailed(f"{ref} cannot be built: there is no {source}", detail="\n".join(said))
                    files |= {target}
                case "ARG" | "ENTRYPOINT" | "CMD" | "ENV" | "LABEL" | "WORKDIR" | "VOLUME" | "USER" | "SHELL":
                    pass  # a container has neither entry point nor environment but those of its spec
                case _:
                    raise ImageBuildFailed(f"{ref} cannot be built: unknown instruction {word}", detail="\n".join(said))
        if below is None:
            raise ImageBuildFailed(f"{ref} cannot be built: it is from no image", detail="\n".join(said))
        self._keep(ref, {**below.labels, **labels}, below.arch, files)

    def interrupt_builds(self) -> None:
        self.asked.append(("interrupt", ""))

    def remove_image(self, ref: str) -> None:
        image = self._find(ref)
        if image is None:
            return
        if ref in image.tags and len(image.tags) > 1:
            self._untag(ref)
        else:
            del self._images[image.id], self._files[image.id]

    def _find(self, ref: str) -> Image | None:
        return self._images.get(ref) or next((one for one in self._images.values() if ref in one.tags), None)

    def _untag(self, name: str) -> None:
        for image in self._images.values():
            if name in image.tags:
                tags = tuple(tag for tag in image.tags if tag != name)
                self._images[image.id] = replace(image, tags=tags)
                return

    def _keep(self, ref: str, labels: Mapping[str, str], arch: str, files: frozenset[str], *, size: int = 0) -> Image:
        text = json.dumps([ref, sorted(labels.items()), arch, sorted(files), secrets.token_hex(4)])
        ident = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        self._untag(ref)
        self._images[ident] = Image(id=ident, tags=(ref,), labels=dict(labels), size=size, arch=arch)
        self._files[ident] = files
        return self._images[ident]

    # Containers

    def start(self, spec: ContainerSpec) -> Container:
        made = self._start(spec)
        return self._described(made)

    def run(self, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
        made = self._start(with_owner_label(replace(spec, auto_remove=False)), attached=True, on_error=on_stderr)
        try:
            with MemoryExec(made.process) as stream:
                while piece := stream.read():
                    yield piece
                status = stream.exit_code()
            if status != 0:
                lines = stream.errors.decode(errors="replace").strip().splitlines()[-_KEPT:]
                reason = f": {lines[-1]}" if lines else ""
                raise EngineFailed(
                    f"{spec.argv[0]} ended with exit status {status}{reason}", detail="\n".join(lines) or None
                )
        finally:
            self.remove(made.id)

    def container(self, ident: str) -> Container | None:
        made = self._made(ident)
        return None if made is None else self._described(made)

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        found = [made for made in list(self._containers.values()) if _has(made.spec.labels, labels)]
        return [replace(self._described(made), exit_code=None, process=0) for made in found]

    def exec(
        self,
        ident: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> MemoryExec:
        if tty:
            raise NotImplementedError("an engine in memory has no terminals")
        made = self._made(ident)
        if made is None or made.process.ended.is_set():
            raise EngineFailed(f"no such container: {ident}")
        program = self._program(made.spec.image, argv[0])
        if program is None:
            program = missing
        process = started(program, argv, {**made.spec.env, **(env or {})}, made.spec)
        made.children.append(process)
        stream = MemoryExec(process)
        if not stdin:
            stream.close_stdin()
        return stream

    def logs(self, ident: str, *, tail: int = 50) -> bytes:
        made = self._made(ident)
        if made is None:
            raise EngineFailed(f"no such container: {ident}")
        said = bytes(made.process.errors)
        return b"".join(said.splitlines(keepends=True)[-tail:])

    def wait(self, ident: str) -> int:
        made = self._made(ident)
        if made is None:
            raise EngineFailed(f"no such container: {ident}")
        made.process.ended.wait()
        assert made.process.status is not None
        return made.process.status

    def remove(self, ident: str) -> None:
        self.asked.append(("remove", ident))
        made = self._made(ident)
        if made is None:
            return
        for process in (*made.children, made.process):
            process.kill()
        self._containers.pop(made.id, None)

    def obstacles(self) -> Iterator[tuple[str, str]]:
        return iter(())

    def close(self) -> None:
        self.closed += 1

    def end(self) -> None:
        """Remove all containers."""
        for ident in list(self._containers):
            self.remove(ident)

    def _made(self, ident: str) -> _Made | None:
        named = (made for made in list(self._containers.values()) if made.name == ident)
        return self._containers.get(ident) or next(named, None)

    def _described(self, made: _Made) -> Container:
        return Container(
            id=made.id,
            name=made.name,
            running=not made.process.ended.is_set(),
            labels=dict(made.spec.labels),
            exit_code=made.process.status,
            # A function has no process of its own, and this one is not to be taken for it.
            process=0 if made.process.child is None or made.process.ended.is_set() else made.process.child.pid,
        )

    def _program(self, ref: str, name: str) -> Program | None:
        image = self._find(ref)
        assert image is not None
        if name in self._programs:
            return self._programs[name]
        paths = [name] if "/" in name else [f"{place}/{name}" for place in PATH]
        return on_this_host if self._files[image.id].intersection(paths) else None

    def _start(
        self, spec: ContainerSpec, *, attached: bool = False, on_error: Callable[[bytes], None] | None = None
    ) -> _Made:
        self.asked.append(("start", spec.image))
        if self._find(spec.image) is None:
            raise EngineFailed(f"no such image: {spec.image}")
        for bind in spec.binds:
            if not bind.source.exists():
                raise PathNotFound(f"{bind.source} does not exist")
        program = self._program(spec.image, spec.argv[0])
        if program is None:
            raise EngineFailed(f"{spec.argv[0]}: no such file in {spec.image}")
        ident = secrets.token_hex(32)
        name = spec.name or f"nameless_{ident[:12]}"
        if self._made(name) is not None:
            raise EngineFailed(f"the name {name} is in use")
        self.started.append(spec)
        # What a detached container prints is its log, both streams in one.
        process = started(
            program, spec.argv, spec.env, spec, merged=not attached, on_error=on_error,
            then=lambda: spec.auto_remove and self._containers.pop(ident, None),
        )  # fmt: skip
        MemoryExec(process).close_stdin()
        made = _Made(spec=spec, id=ident, name=name, process=process)
        if not (process.ended.is_set() and spec.auto_remove):
            self._containers[ident] = made
        return made


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(name in labels and value in {"", labels[name]} for name, value in wanted.items())


def _steps(text: str) -> Iterator[tuple[str, str]]:
    """(instruction, its arguments), of a Containerfile without here-documents."""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word and not word.startswith("#"):
            yield word, rest.strip()


def containerfile(text: str, files: Mapping[str, str] | None = None) -> io.BytesIO:
    """A build context."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in {"Containerfile": text, "files/hello": "hello\n", **(files or {})}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    context.seek(0)
    return context
