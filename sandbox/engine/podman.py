"""Podman, by requests through podman-py: see `libpod`. Tried with Podman 4.3."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from sandbox.engine import (
    created,
    intermediate_images,
    messages,
    orphans,
    podman_created,
    podman_elsewhere,
    podman_seccomp,
    podman_spec,
)
from sandbox.engine.exec_stream import ExecStream, demultiplexed, run_attached
from sandbox.engine.libpod import FAILURES, Answer, Libpod, LibpodError
from sandbox.engine.podman_info import KeptInfo
from sandbox.engine.protocol import Container, ContainerSpec, EngineInfo, Exec, Image
from sandbox.engine.service import Service
from sandbox.errors import EngineFailed, ImageBuildFailed
from sandbox.host import checks
from sandbox.log import Log

_log = Log("engine")

_ATTEMPTS: Final = 10
"""How often Podman is asked for what others may change at that moment."""

_Found = TypeVar("_Found")


class PodmanEngine:
    """`sandbox.engine.Engine` for Podman, rootful or rootless. Safe to use from several threads."""

    def __init__(
        self, url: str, *, endpoint: str | None = None, service: Service | None = None, kept: KeptInfo | None = None
    ) -> None:
        self._endpoint = endpoint or url
        self._service = service
        self._call = Libpod(url).call
        self._kept = kept
        self._info: EngineInfo | None = None
        self._vfs = False
        self._seccomp = ""
        """The profile that it takes by itself; "" for the one that is built in."""
        self._is_ours = False
        """Whether it can read this user's files, and is on this host."""
        self._environments: dict[str, Mapping[str, str]] = {}
        """By reference, of the images that were looked at."""
        self._cgroup_namespaces = True
        self._builds: dict[int, Answer] = {}
        """Of those that run."""

    @contextlib.contextmanager
    def _translating_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except LibpodError as error:
            messages.fail(f"Podman cannot {what}", str(error))
        except FAILURES as error:
            messages.fail(f"Podman cannot {what} at {self._endpoint}", str(error))

    def info(self) -> EngineInfo:
        if self._info is None:
            told = self._kept.read() if self._kept else None
            if told is None:
                with self._translating_errors("describe itself"):
                    told = self._call("GET", "/info").json()
                if self._kept:
                    self._kept.keep(told)
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
            uids = {one["container_id"]: one["host_id"] for one in (host.get("idMappings") or {}).get("uidmap") or ()}
            self._is_ours = self._info.local and (not rootless or uids.get(0) == os.getuid())
        return self._info

    def uses_vfs(self) -> bool:
        """Whether its storage copies every layer in full because it has no overlay (driver vfs)."""
        self.info()
        return self._vfs

    # Images

    def image(self, ref: str) -> Image | None:
        with self._translating_errors(f"look at {ref}"):
            try:
                found = self._call("GET", f"/images/{_quoted(ref)}/json").json()
            except LibpodError as error:
                if error.missing:
                    return None
                raise
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
            # Podman 4.3 finds no image when asked for two labels; with one it looks at fewer.
            filters = {"label": messages.label_filters(labels)[-1:]} if labels else {}
            found = self._listed_images({"filters": json.dumps(filters)})
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

    def _listed_images(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Podman 4.3 lists no image where one disappears while it looks at each: another process removed it."""
        return self._again("image not known", lambda: list(self._call("GET", "/images/json", params=params).json()))

    def _again(self, said: str, attempt: Callable[[], _Found]) -> _Found:
        """What `attempt` returns; it is made anew, a few times, where Podman was overtaken, which it says so."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return attempt()
            except LibpodError as error:
                if said not in str(error):
                    raise
                _log.info("once more: %s", error)
        return attempt()

    def pull(self, ref: str, *, platform: str | None = None) -> Iterator[str]:
        params: dict[str, Any] = {"reference": ref}
        if messages.on_loopback(ref):
            params["tlsVerify"] = False
        if platform:
            params |= zip(("OS", "Arch", "Variant"), platform.split("/"), strict=False)
        try:
            with contextlib.closing(self._call("POST", "/images/pull", params=params)) as answer:
                yield from messages.pull_lines(answer.events(), ref)
        except FAILURES as error:
            messages.unavailable(ref, str(error))
        if self.image(ref) is None:
            messages.unavailable(ref, "the engine gives no reason")

    def push(self, ref: str) -> Iterator[str]:
        params = {"destination": ref, "tlsVerify": not messages.on_loopback(ref), "quiet": False}
        with (
            self._translating_errors(f"push {ref}"),
            contextlib.closing(self._call("POST", f"/images/{_quoted(ref)}/push", params=params)) as answer,
        ):
            # Podman 4.3 answers with one object at the end, later versions with events.
            yield from messages.push_lines(answer.events(), ref)

    def tag(self, ref: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        with self._translating_errors(f"call {ref} {name}"):
            self._call("POST", f"/images/{_quoted(ref)}/tag", params={"repo": repository, "tag": tag}).close()

    def save(self, ref: str) -> Iterator[bytes]:
        params = {"format": "docker-archive"}
        with (
            self._translating_errors(f"save {ref}"),
            contextlib.closing(self._call("GET", f"/images/{_quoted(ref)}/get", params=params)) as answer,
        ):
            yield from answer.pieces()

    def load(self, archive: Path | IO[bytes]) -> list[str]:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(archive.open("rb")) if isinstance(archive, Path) else archive
            stack.enter_context(self._translating_errors("load an archive of images"))
            names: list[str] = self._call("POST", "/images/load", data=data).json()["Names"]
        return names

    def import_rootfs(
        self, tar: Path | IO[bytes], ref: str, labels: Mapping[str, str], *, platform: str | None = None
    ) -> None:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
            stack.enter_context(self._translating_errors(f"import {ref}"))
            self._call(
                "POST",
                "/images/import",
                params={
                    "reference": ref,
                    "changes": [f"LABEL {key}={value}" for key, value in labels.items()],
                    **({"architecture": platform.rpartition("/")[2]} if platform else {}),
                },
                data=data,
            ).close()

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
                    "POST",
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
                )
            ) as answer:
                self._builds[id(made)] = answer
                yield from intermediate_images.noted(messages.build_lines(answer.events(), ref), made)
        except ImageBuildFailed:
            intermediate_images.remove(made, self)
            raise
        except GeneratorExit:
            intermediate_images.remove(made, self, seconds=intermediate_images.ENDING)
            raise
        except LibpodError as error:
            raise ImageBuildFailed(f"{ref} cannot be built: {error}") from None
        except FAILURES as error:
            # Podman ends a build whose client is gone; so it is with one that is interrupted.
            intermediate_images.remove(made, self, seconds=intermediate_images.ENDING)
            messages.fail(f"{ref} cannot be built", str(error))
        finally:
            self._builds.pop(id(made), None)

    def interrupt_builds(self) -> None:
        for answer in list(self._builds.values()):
            answer.upgraded()[1].shutdown(socket.SHUT_RDWR)
        intermediate_images.wait_for(self._builds)

    def remove_image(self, ref: str) -> None:
        path = f"/images/{_quoted(ref)}"
        with self._translating_errors(f"remove {ref}"):
            try:
                try:
                    self._call("DELETE", path).close()
                except LibpodError as error:
                    if error.status != http.client.CONFLICT or not self._remove_working_containers(ref):
                        raise
                    self._call("DELETE", path).close()
            except LibpodError as error:
                if not error.missing:
                    raise

    def _remove_working_containers(self, ref: str) -> bool:
        """Remove containers of abandoned builds from image `ref`: Podman 4.3 leaves them, and they keep it in use."""
        image = self.image(ref)
        known = self._call("GET", "/containers/json", params={"all": True, "external": True}).json()
        left = [one["Id"] for one in known if one["State"] == "storage" and image and one["ImageID"] == image.id]
        for ident in left:
            self._call("DELETE", f"/containers/{ident}", params={"force": True, "timeout": 0}).close()
        return bool(left)

    # Containers

    def _create(self, spec: ContainerSpec, *, auto_remove: bool) -> str:
        """Creates a container that is initialized, and seen to be what was asked for, when it is hardened."""
        info = self.info()
        if not spec.hardened:
            return self._make(spec, podman_spec.of(spec, info, auto_remove=auto_remove))
        if spec.image not in self._environments:
            self.image(spec.image)
        environment = self._environments.get(spec.image, {})
        shadows = podman_spec.shadows(info)
        kept = "" if self._is_ours else self._kept_filter()
        payload = podman_spec.of(
            spec,
            info,
            auto_remove=auto_remove,
            seccomp=kept or podman_seccomp.path_for(self._seccomp, reads_ours=self._is_ours),
            cgroup_namespaces=self._cgroup_namespaces,
            image_environment=environment,
            shadows=shadows,
        )
        try:
            ident, inspected, config = self._initialized(spec, payload)
        except EngineFailed as error:
            if not kept or kept not in error.message:
                raise
            _log.info("the filter that was kept is made again: %s", error.message)  # who made it was killed before
            payload["seccomp_profile_path"] = podman_seccomp.path_for(self._seccomp, reads_ours=False)
            ident, inspected, config = self._initialized(spec, payload)
        made = config["linux"].get("seccomp") or {}
        if podman_seccomp.filters(made) and podman_seccomp.allowed(made):
            self.remove(ident)
            payload["seccomp_profile_path"] = self._keep_filter(spec, payload, podman_seccomp.profile(made))
            ident, inspected, config = self._initialized(spec, payload)
        try:
            podman_created.refuse_unless_as_asked(
                inspected,
                config,
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

    def _make(self, spec: ContainerSpec, payload: Mapping[str, Any]) -> str:
        with self._translating_errors(f"create a container of {spec.image}"):
            ident: str = self._call("POST", "/containers/create", json_body=payload).json()["Id"]
        return ident

    def _initialized(
        self, spec: ContainerSpec, payload: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
        """The identifier of an initialized container, its inspection, and the runtime's config.json of it."""
        ident = self._make(spec, payload)
        try:
            self._initialize(ident, spec)
            with self._translating_errors("look at a container"):
                inspected = self._call("GET", f"/containers/{ident}/json").json()
            config = podman_created.runtime_config(
                inspected,
                local=self.info().local,
                elsewhere=lambda path: self._aside(spec, podman_elsewhere.reading(payload, path)),
            )
        except BaseException:
            self.remove(ident)
            raise
        return ident, inspected, config

    def _aside(self, spec: ContainerSpec, payload: Mapping[str, Any]) -> bytes:
        """What the container of `payload`, which is one of `podman_elsewhere`, prints."""
        own = orphans.with_owner_label(
            dataclasses.replace(spec, argv=[*payload["entrypoint"], *payload["command"]], hardened=False, name=None)
        )
        ident = self._make(own, {**payload, "labels": dict(own.labels)})
        return b"".join(self._attached(ident, own))

    def _kept_filter(self) -> str:
        """The path, for the engine, of the filter that `_keep_filter` kept; "" if there is none."""
        name = podman_elsewhere.volume_name(self.info().version)
        with self._translating_errors("look at a volume"):
            try:
                return podman_elsewhere.path_in(self._call("GET", f"/volumes/{name}/json").json()["Mountpoint"])
            except LibpodError as error:
                if not error.missing:
                    raise
        return ""

    def _keep_filter(self, spec: ContainerSpec, payload: Mapping[str, Any], profile: bytes) -> str:
        """The path, for the engine, of a file with `profile`."""
        if self._is_ours:
            return podman_seccomp.kept(profile)
        name = podman_elsewhere.volume_name(self.info().version)
        self._aside(spec, podman_elsewhere.writing(payload, name, profile))
        return self._kept_filter()

    def _initialize(self, ident: str, spec: ContainerSpec) -> None:
        """Has the runtime make it, but not start its process."""
        with self._translating_errors(f"start {spec.argv[0]} in {spec.image}"):
            self._call("POST", f"/containers/{ident}/init").close()

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
            self._call("POST", f"/containers/{ident}/start").close()

    def run(self, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
        ident = self._create(orphans.with_owner_label(spec), auto_remove=False)
        yield from self._attached(ident, spec, on_stderr=on_stderr)

    def _attached(
        self, ident: str, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None
    ) -> Iterator[bytes]:
        yield from run_attached(
            spec,
            attach=lambda: self._attach(ident, spec),
            start=lambda: self._start(ident, spec),
            remove=lambda: self.remove(ident),
            on_stderr=on_stderr,
        )

    def _attach(self, ident: str, spec: ContainerSpec) -> ExecStream:
        if not spec.hardened:  # what is, is initialized already
            self._initialize(ident, spec)  # what is not initialized cannot be attached to
        with self._translating_errors(f"start {spec.argv[0]} in {spec.image}"):
            params = {"stdout": True, "stderr": True, "stream": True}
            answer = self._call("POST", f"/containers/{ident}/attach", params=params, upgrade=True)
        return ExecStream(answer, *answer.upgraded(), tty=False, exit_code=lambda: self.wait(ident))

    def container(self, ident: str) -> Container | None:
        with self._translating_errors("look at a container"):
            try:
                found = self._call("GET", f"/containers/{_quoted(ident)}/json").json()
            except LibpodError as error:
                if error.missing:
                    return None
                raise
        state = found["State"]
        return Container(
            id=found["Id"],
            name=found["Name"],
            running=state["Running"],
            labels=found["Config"].get("Labels") or {},
            exit_code=None if state["Running"] else state["ExitCode"],
            process=state.get("Pid") or 0,
        )

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        with self._translating_errors("list containers"):
            filters = {"label": messages.label_filters(labels)}
            params = {"all": True, "filters": json.dumps(filters)}
            found = self._call("GET", "/containers/json", params=params).json()
        return [
            Container(
                id=one["Id"],
                name=one["Names"][0],
                running=one["State"] == "running",
                labels=one.get("Labels") or {},
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
            wanted = {
                "Cmd": list(argv),
                "AttachStdin": stdin,
                "AttachStdout": True,
                "AttachStderr": True,
                "Tty": tty,
                "DetachKeys": messages.NO_DETACH,
                "Env": [f"{key}={value}" for key, value in (env or {}).items()],
            }
            made = self._call("POST", f"/containers/{_quoted(ident)}/exec", json_body=wanted).json()
            exec_id: str = made["Id"]
            start = {"Detach": False, "Tty": tty}
            answer = self._call("POST", f"/exec/{exec_id}/start", json_body=start, upgrade=True)
        return ExecStream(
            answer,
            *answer.upgraded(),
            tty=tty,
            exit_code=lambda: self._exec_exit_code(exec_id),
            resize=lambda rows, columns: self._exec_resize(exec_id, rows, columns),
        )

    def _exec_exit_code(self, exec_id: str) -> int:
        while True:
            with self._translating_errors("tell how a command ended"):
                state = self._call("GET", f"/exec/{exec_id}/json").json()
            if not state["Running"]:
                return int(state["ExitCode"] or 0)
            time.sleep(0.02)

    def _exec_resize(self, exec_id: str, rows: int, columns: int) -> None:
        with self._translating_errors("resize a terminal"):
            self._call("POST", f"/exec/{exec_id}/resize", params={"h": rows, "w": columns}).close()

    def logs(self, ident: str, *, tail: int = 50) -> bytes:
        with self._translating_errors("read a container's log"):
            params = {"stdout": True, "stderr": True, "tail": tail}
            said = self._call("GET", f"/containers/{ident}/logs", params=params).body()
        return demultiplexed(said)

    def wait(self, ident: str) -> int:
        with self._translating_errors("wait for a container"):
            # Podman looks every quarter of a second, where it is not told.
            return int(self._call("POST", f"/containers/{ident}/wait", params={"interval": "10ms"}).body())

    def remove(self, ident: str) -> None:
        with self._translating_errors("remove a container"):
            params = {"force": True, "volumes": True, "timeout": 0}
            try:
                # One that ends at that moment cannot be stopped for Podman up to 4.4 (its issue 16142).
                self._again(
                    "container state improper",
                    lambda: self._call("DELETE", f"/containers/{ident}", params=params).close(),
                )
            except LibpodError as error:
                if not error.missing:
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
        if self._service:
            self._service.close()


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
