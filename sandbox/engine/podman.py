"""Podman, through podman-py. The only importer of `podman`. Tried with podman-py 5.8.0 and Podman 4.3.

Calls that podman-py gets wrong or lacks are made by hand on its session: create (see `podman_spec`), build (no
progress), exec and attach (stdin hangs, no TTY size, no exit code; podman-py issue 421), remove (waits ten seconds for
SIGTERM).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import podman
import podman.errors
import requests

from sandbox.engine import created, intermediate_images, messages, orphans, podman_created, podman_spec, requests_log
from sandbox.engine.exec_stream import ExecStream, demultiplexed, run_attached
from sandbox.engine.protocol import Container, ContainerSpec, EngineInfo, Exec, Image
from sandbox.engine.service import Service
from sandbox.errors import ImageBuildFailed
from sandbox.host import checks

_UPGRADE: Final = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}


class PodmanEngine:
    """`sandbox.engine.Engine` for Podman, rootful or rootless. Safe to use from several threads."""

    def __init__(self, url: str, *, endpoint: str | None = None, service: Service | None = None) -> None:
        self._endpoint = endpoint or url
        self._service = service
        self._client: Any = podman.PodmanClient(base_url=url)
        requests_log.attach(self._client.api)
        self._info: EngineInfo | None = None
        self._vfs = False
        self._seccomp = ""
        self._environments: dict[str, Mapping[str, str]] = {}
        """By reference, of the images that were looked at."""
        self._cgroup_namespaces = True

    @contextlib.contextmanager
    def _translating_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except podman.errors.APIError as error:
            # For a dead socket podman-py raises the same class, without response; the reason is the chained error.
            said = error.explanation or error.__cause__ or error
            messages.fail(f"Podman cannot {what}", str(said))
        except (podman.errors.PodmanError, requests.RequestException, OSError) as error:
            messages.fail(f"Podman cannot {what} at {self._endpoint}", str(error))

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        answer = getattr(self._client.api, method)(path, **kwargs)
        answer.raise_for_status()
        return answer

    def info(self) -> EngineInfo:
        if self._info is None:
            with self._translating_errors("describe itself"):
                told = self._client.info()
            host, here = told["host"], os.uname()
            self._vfs = told["store"]["graphDriverName"] == "vfs"
            self._seccomp = host["security"].get("seccompProfilePath") or ""
            self._cgroup_namespaces = host.get("cgroupVersion") != "v1"
            rootless = bool(host["security"]["rootless"])
            self._info = EngineInfo(
                name="podman",
                version=told["version"]["Version"],
                endpoint=self._endpoint,
                rootless=rootless,
                arch=messages.MACHINES.get(host["arch"], host["arch"]),
                # Rootless cgroups need v2 and delegation; on v1 Podman refuses limits or silently drops them.
                limits=not rootless or {"memory", "pids"} <= set(host.get("cgroupControllers") or ()),
                memory=host["memTotal"],
                cpus=host["cpus"],
                local=self._endpoint.startswith(("unix:", "podman"))
                and (host["hostname"], host["kernel"]) == (here.nodename, here.release),
            )
        return self._info

    def uses_vfs(self) -> bool:
        """Whether its storage copies every layer in full because it has no overlay (driver vfs)."""
        self.info()
        return self._vfs

    # Images

    def image(self, ref: str) -> Image | None:
        with self._translating_errors(f"look at {ref}"):
            try:
                found = self._client.images.get(ref).attrs
            except podman.errors.ImageNotFound:
                return None
        self._environments[ref] = created.environment((found.get("Config") or {}).get("Env"))
        return Image(
            id=found["Id"],
            tags=tuple(found.get("RepoTags") or ()),
            labels=found.get("Labels") or {},
            size=found["Size"],
            arch=messages.MACHINES.get(found["Architecture"], found["Architecture"]),
        )

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        with self._translating_errors("list images"):
            found = [one.attrs for one in self._client.images.list()]
        # Filtered here: Podman 4.3 finds no image when asked for two labels.
        return [
            Image(
                id=one["Id"],
                tags=tuple(one.get("RepoTags") or ()),
                labels=one.get("Labels") or {},
                size=one["Size"],
                built=float(one.get("Created") or 0),
            )
            for one in found
            if messages.carries(one.get("Labels") or {}, labels)
        ]

    def pull(self, ref: str, *, platform: str | None = None) -> Iterator[str]:
        try:
            secure = {"tls_verify": False} if messages.on_loopback(ref) else {}
            events = self._client.images.pull(ref, stream=True, decode=True, platform=platform, **secure)
            yield from messages.pull_lines(events, ref)
        except podman.errors.APIError as error:
            messages.unavailable(ref, str(error.explanation or error))
        except requests.RequestException as error:
            messages.unavailable(ref, str(error))
        if self.image(ref) is None:  # podman-py 5.8.0 does not say when a pull fails
            messages.unavailable(ref, "the engine gives no reason")

    def push(self, ref: str) -> Iterator[str]:
        path = f"/images/{urllib.parse.quote(ref, safe='')}/push"
        params = {"destination": ref, "tlsVerify": not messages.on_loopback(ref), "quiet": False}
        with (
            self._translating_errors(f"push {ref}"),
            contextlib.closing(self._call("post", path, params=params, stream=True)) as answer,
        ):
            # Podman 4.3 answers with one object at the end, later versions with events.
            events = (json.loads(line) for line in answer.iter_lines(chunk_size=1) if line)
            yield from messages.push_lines(events, ref)

    def tag(self, ref: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        path = f"/images/{urllib.parse.quote(ref, safe='')}/tag"
        with self._translating_errors(f"call {ref} {name}"):
            self._call("post", path, params={"repo": repository, "tag": tag})

    def save(self, ref: str) -> Iterator[bytes]:
        path = f"/images/{urllib.parse.quote(ref, safe='')}/get"
        with (
            self._translating_errors(f"save {ref}"),
            contextlib.closing(self._call("get", path, params={"format": "docker-archive"}, stream=True)) as answer,
        ):
            yield from answer.iter_content(chunk_size=1 << 20)

    def load(self, archive: Path | IO[bytes]) -> list[str]:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(archive.open("rb")) if isinstance(archive, Path) else archive
            stack.enter_context(self._translating_errors("load an archive of images"))
            headers = {"Content-Type": "application/x-tar"}
            names: list[str] = self._call("post", "/images/load", data=data, headers=headers).json()["Names"]
        return names

    def import_rootfs(
        self, tar: Path | IO[bytes], ref: str, labels: Mapping[str, str], *, platform: str | None = None
    ) -> None:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
            stack.enter_context(self._translating_errors(f"import {ref}"))
            self._call(
                "post",
                "/images/import",
                params={
                    "reference": ref,
                    "changes": [f"LABEL {key}={value}" for key, value in labels.items()],
                    **({"architecture": platform.rpartition("/")[2]} if platform else {}),
                },
                data=data,
                headers={"Content-Type": "application/x-tar"},
            )

    def build(
        self,
        context: IO[bytes],
        ref: str,
        *,
        labels: Mapping[str, str],
        args: Mapping[str, str] | None = None,
        platform: str | None = None,
    ) -> Iterator[str]:
        made: list[str] = []
        try:
            with contextlib.closing(
                self._call(
                    "post",
                    "/build",
                    params={
                        "t": ref,
                        "dockerfile": "Containerfile",
                        "labels": json.dumps(dict(labels)),
                        "buildargs": json.dumps({**messages.proxies(), **(args or {})}),
                        "networkmode": "host",
                        **({"platform": platform} if platform else {}),
                        "rm": True,
                        "forcerm": True,
                        "layers": True,
                    },
                    data=context,
                    headers={"Content-Type": "application/x-tar"},
                    stream=True,
                )
            ) as answer:
                events = (json.loads(line) for line in answer.iter_lines(chunk_size=1) if line)
                yield from intermediate_images.noted(messages.build_lines(events, ref), made)
        except ImageBuildFailed:
            intermediate_images.remove(made, self)
            raise
        except podman.errors.APIError as error:
            raise ImageBuildFailed(f"{ref} cannot be built: {error.explanation or error}") from None
        except requests.RequestException as error:
            messages.fail(f"{ref} cannot be built", str(error))

    def remove_image(self, ref: str) -> None:
        path = f"/images/{urllib.parse.quote(ref, safe='')}"
        with (
            self._translating_errors(f"remove {ref}"),
            contextlib.suppress(podman.errors.NotFound, podman.errors.ImageNotFound),
        ):
            try:
                self._call("delete", path)
            except podman.errors.APIError as error:
                if error.status_code != requests.codes.conflict or not self._remove_working_containers(ref):
                    raise
                self._call("delete", path)

    def _remove_working_containers(self, ref: str) -> bool:
        """Remove containers of abandoned builds from image `ref`: Podman 4.3 leaves them, and they keep it in use."""
        image = self.image(ref)
        known = self._call("get", "/containers/json", params={"all": True, "external": True}).json()
        left = [one["Id"] for one in known if one["State"] == "storage" and image and one["ImageID"] == image.id]
        for ident in left:
            self._call("delete", f"/containers/{ident}", params={"force": True, "timeout": 0})
        return bool(left)

    # Containers

    def _create(self, spec: ContainerSpec, *, auto_remove: bool) -> str:
        """Creates a container that is initialized, and seen to be what was asked for, when it is hardened."""
        info = self.info()
        if spec.hardened and spec.image not in self._environments:
            self.image(spec.image)
        environment = self._environments.get(spec.image, {})
        shadows = podman_spec.shadows(info) if spec.hardened else {}
        payload = podman_spec.of(
            spec,
            info,
            auto_remove=auto_remove,
            seccomp=self._seccomp,
            cgroup_namespaces=self._cgroup_namespaces,
            image_environment=environment,
            shadows=shadows,
        )
        with self._translating_errors(f"create a container of {spec.image}"):
            ident: str = self._call("post", "/containers/create", data=json.dumps(payload)).json()["Id"]
        if spec.hardened:
            try:
                self._initialize(ident, spec)
                with self._translating_errors("look at a container"):
                    inspected = self._call("get", f"/containers/{ident}/json").json()
                podman_created.refuse_unless_as_asked(
                    inspected,
                    spec,
                    info,
                    shadows=shadows,
                    image_environment=environment,
                    cgroup_namespaces=self._cgroup_namespaces,
                )
            except BaseException:
                self.remove(ident)
                raise
        return ident

    def _initialize(self, ident: str, spec: ContainerSpec) -> None:
        """Has the runtime make it, but not start its process."""
        with self._translating_errors(f"start {spec.argv[0]} in {spec.image}"):
            self._call("post", f"/containers/{ident}/init")

    def start(self, spec: ContainerSpec) -> Container:
        ident = self._create(spec, auto_remove=spec.auto_remove)
        try:
            self._start(ident, spec)
        except BaseException:
            self.remove(ident)
            raise
        # A container that ends at once may already be removed (auto_remove): that is not an error.
        return self.container(ident) or Container(id=ident, name=spec.name or ident, running=False, labels=spec.labels)

    def _start(self, ident: str, spec: ContainerSpec) -> None:
        with self._translating_errors(f"start {spec.argv[0]} in {spec.image}"):
            self._call("post", f"/containers/{ident}/start")

    def run(self, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
        ident = self._create(orphans.with_owner_label(spec), auto_remove=False)
        yield from run_attached(
            spec,
            attach=lambda: self._attach(ident, spec),
            start=lambda: self._start(ident, spec),
            remove=lambda: self.remove(ident),
            on_stderr=on_stderr,
        )

    def _attach(self, ident: str, spec: ContainerSpec) -> ExecStream:
        if not spec.hardened:
            self._initialize(ident, spec)  # what is not initialized cannot be attached to
        with self._translating_errors(f"start {spec.argv[0]} in {spec.image}"):
            answer = self._call(
                "post",
                f"/containers/{ident}/attach",
                params={"stdout": True, "stderr": True, "stream": True},
                headers=_UPGRADE,
                stream=True,
            )
        return ExecStream(answer, answer.raw.connection.sock, tty=False, exit_code=lambda: self.wait(ident))

    def container(self, ident: str) -> Container | None:
        with self._translating_errors("look at a container"):
            try:
                found = self._call("get", f"/containers/{urllib.parse.quote(ident, safe='')}/json").json()
            except podman.errors.APIError as error:
                # Podman 4.3 answers 500 for a container that disappears while it is inspected.
                if isinstance(error, podman.errors.NotFound) or "no such container" in str(error.explanation):
                    return None
                raise
        state = found["State"]
        return Container(
            id=found["Id"],
            name=found["Name"],
            running=state["Running"],
            labels=found["Config"].get("Labels") or {},
            exit_code=None if state["Running"] else state["ExitCode"],
        )

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        with self._translating_errors("list containers"):
            # A list: podman-py turns a mapping's lists into one string, which matches nothing (podman-py issue 542).
            found = self._client.containers.list(
                all=True, sparse=True, filters=[f"label={one}" for one in messages.label_filters(labels)]
            )
        return [
            Container(
                id=one.attrs["Id"],
                name=one.attrs["Names"][0],
                running=one.attrs["State"] == "running",
                labels=one.attrs.get("Labels") or {},
            )
            for one in found
        ]

    def exec(
        self,
        ident: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Exec:
        with self._translating_errors(f"run {argv[0]} in the container"):
            exec_id: str = self._call(
                "post",
                f"/containers/{urllib.parse.quote(ident, safe='')}/exec",
                data=json.dumps(
                    {
                        "Cmd": list(argv),
                        "AttachStdin": stdin,
                        "AttachStdout": True,
                        "AttachStderr": True,
                        "Tty": tty,
                        "DetachKeys": messages.NO_DETACH,
                        "Env": [f"{key}={value}" for key, value in (env or {}).items()],
                    }
                ),
                headers={"Content-Type": "application/json"},
            ).json()["Id"]
            answer = self._call(
                "post",
                f"/exec/{exec_id}/start",
                data=json.dumps({"Detach": False, "Tty": tty}),
                headers=_UPGRADE,
                stream=True,
            )
        return ExecStream(
            answer,
            answer.raw.connection.sock,
            tty=tty,
            exit_code=lambda: self._exec_exit_code(exec_id),
            resize=lambda rows, columns: self._exec_resize(exec_id, rows, columns),
        )

    def _exec_exit_code(self, exec_id: str) -> int:
        while True:
            with self._translating_errors("tell how a command ended"):
                state = self._call("get", f"/exec/{exec_id}/json").json()
            if not state["Running"]:
                return int(state["ExitCode"] or 0)
            time.sleep(0.02)

    def _exec_resize(self, exec_id: str, rows: int, columns: int) -> None:
        with self._translating_errors("resize a terminal"):
            self._call("post", f"/exec/{exec_id}/resize", params={"h": rows, "w": columns})

    def logs(self, ident: str, *, tail: int = 50) -> bytes:
        with self._translating_errors("read a container's log"):
            answer = self._call(
                "get", f"/containers/{ident}/logs", params={"stdout": True, "stderr": True, "tail": tail}
            )
        return demultiplexed(answer.content)

    def wait(self, ident: str) -> int:
        with self._translating_errors("wait for a container"):
            return int(self._call("post", f"/containers/{ident}/wait").text)

    def remove(self, ident: str) -> None:
        with self._translating_errors("remove a container"):
            try:
                self._call("delete", f"/containers/{ident}", params={"force": True, "volumes": True, "timeout": 0})
            except podman.errors.APIError as error:
                if not isinstance(error, podman.errors.NotFound) and "no such container" not in str(error.explanation):
                    raise

    def obstacles(self) -> Iterator[tuple[str, str]]:
        if checks.hybrid_cgroups() and not checks.program("runc"):
            yield (
                "crun starts no container on a host with cgroups of both versions, and runc is not installed",
                f"{checks.HYBRID_CGROUPS_FIX}   (or boot with systemd.unified_cgroup_hierarchy=1)",
            )
        if not self.info().limits:
            yield (
                "cannot limit a case's memory (rootless on cgroup v1)",
                "boot with systemd.unified_cgroup_hierarchy=1, or use a rootful engine",
            )

    def close(self) -> None:
        self._client.close()
        if self._service:
            self._service.close()
