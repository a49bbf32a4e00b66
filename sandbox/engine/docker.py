"""Docker, through docker-py. The only importer of `docker`. Tried with docker-py 7.2.0 and Docker 20.10 (API 1.41)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import docker
import docker.errors
import requests
from docker.types import LogConfig, Mount, Ulimit

from sandbox.engine import (
    created,
    docker_archive,
    docker_created,
    docker_tls,
    intermediate_images,
    messages,
    orphans,
    requests_log,
)
from sandbox.engine.exec_stream import ExecStream, run_attached
from sandbox.engine.protocol import Container, ContainerSpec, EngineInfo, Exec, Image
from sandbox.engine.service import Service
from sandbox.errors import ImageBuildFailed

_LOG_LIMIT: Final = "8m"
_RUNNING: Final = re.compile(r" ---> Running in ([0-9a-f]{12,64})")
"""Limit of the log. The dump decides what PID 1 prints, which must not fill the host's disk."""


class DockerEngine:
    """`sandbox.engine.Engine` for Docker, rootful or rootless. Safe to use from several threads."""

    def __init__(self, url: str, *, endpoint: str | None = None, service: Service | None = None) -> None:
        self._endpoint = endpoint or url
        self._service = service
        with self._translating_errors("connect"):
            # No timeout: builds, waits and terminals may be silent for long. Detection has a timeout of its own.
            self._client = docker.DockerClient(
                base_url=url, timeout=None, tls=docker_tls.wanted() if url.startswith("tcp:") else False
            )
        self._api = self._client.api
        requests_log.attach(self._api)
        self._info: EngineInfo | None = None
        self._steps: dict[int, str] = {}
        """The containers of the steps that builds are at."""
        self._interrupted = False
        self._seccomp = ""
        self._cgroup_namespaces = True
        self._runtime = ""

    @contextlib.contextmanager
    def _translating_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except docker.errors.APIError as error:
            messages.fail(f"Docker cannot {what}", str(error.explanation or error))
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            messages.fail(f"Docker cannot {what} at {self._endpoint}", str(error))

    def info(self) -> EngineInfo:
        if self._info is None:
            with self._translating_errors("describe itself"):
                told = self._api.info()
            host = os.uname()
            self._seccomp = docker_created.seccomp_profile(told.get("SecurityOptions") or ())
            self._cgroup_namespaces = told.get("CgroupVersion") != "1"
            self._runtime = told.get("DefaultRuntime") or "runc"
            self._info = EngineInfo(
                name="docker",
                version=told["ServerVersion"],
                endpoint=self._endpoint,
                rootless="name=rootless" in (told.get("SecurityOptions") or ()),
                arch=messages.MACHINES.get(told["Architecture"], told["Architecture"]),
                limits=bool(told.get("MemoryLimit") and told.get("PidsLimit")),
                remaps_users="name=userns" in (told.get("SecurityOptions") or ()),
                memory=told["MemTotal"],
                cpus=told["NCPU"],
                local=self._endpoint.startswith("unix:")
                and (told.get("Name"), told.get("KernelVersion")) == (host.nodename, host.release),
            )
        return self._info

    # Images

    def image(self, ref: str) -> Image | None:
        with self._translating_errors(f"look at {ref}"):
            try:
                found = self._api.inspect_image(ref)
            except docker.errors.NotFound:
                return None
        return Image(
            id=found["Id"],
            tags=tuple(found.get("RepoTags") or ()),
            labels=(found.get("Config") or {}).get("Labels") or {},
            size=found["Size"],
            arch=messages.MACHINES.get(found["Architecture"], found["Architecture"]),
        )

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        with self._translating_errors("list images"):
            found = self._api.images(filters={"label": messages.label_filters(labels)})
        return [
            Image(
                id=one["Id"],
                tags=tuple(tag for tag in one.get("RepoTags") or () if tag != "<none>:<none>"),
                labels=one.get("Labels") or {},
                size=one["Size"],
                built=float(one.get("Created") or 0),
            )
            for one in found
        ]

    def pull(self, ref: str, *, platform: str | None = None) -> Iterator[str]:
        repository, tag = docker.utils.parse_repository_tag(ref)
        try:
            events = self._api.pull(repository, tag=tag or "latest", stream=True, decode=True, platform=platform)
            yield from messages.pull_lines(events, ref)
        except docker.errors.APIError as error:
            messages.unavailable(ref, str(error.explanation or error))
        except requests.RequestException as error:
            messages.unavailable(ref, str(error))

    def push(self, ref: str) -> Iterator[str]:
        repository, tag = docker.utils.parse_repository_tag(ref)
        with self._translating_errors(f"push {ref}"):
            events = self._api.push(repository, tag=tag or "latest", stream=True, decode=True)
            yield from messages.push_lines(events, ref)

    def tag(self, ref: str, name: str) -> None:
        repository, tag = docker.utils.parse_repository_tag(name)
        with self._translating_errors(f"call {ref} {name}"):
            self._api.tag(ref, repository, tag or "latest", force=True)

    def save(self, ref: str) -> Iterator[bytes]:
        with self._translating_errors(f"save {ref}"):
            yield from self._api.get_image(ref)

    def load(self, archive: Path | IO[bytes]) -> list[str]:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(archive.open("rb")) if isinstance(archive, Path) else archive
            stack.enter_context(self._translating_errors("load an archive of images"))
            lines = list(messages.push_lines(self._api.load_image(data), "the archive"))
        return [line.removeprefix("Loaded image: ") for line in lines if line.startswith("Loaded image: ")]

    def import_rootfs(
        self, tar: Path | IO[bytes], ref: str, labels: Mapping[str, str], *, platform: str | None = None
    ) -> None:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
            repository, tag = docker.utils.parse_repository_tag(ref)
            stack.enter_context(self._translating_errors(f"import {ref}"))
            if platform is not None:
                list(
                    messages.push_lines(
                        self._api.load_image(docker_archive.of_rootfs(data, ref, labels, platform)), ref
                    )
                )
                return
            # By hand: docker-py's own call does not take `changes` for a stream.
            params = {
                "fromSrc": "-",
                "repo": repository,
                "tag": tag or "latest",
                "changes": [f"LABEL {key}={_quoted(value)}" for key, value in labels.items()],
            }
            url = self._api._url("/images/create")  # noqa: SLF001
            answer = self._api._post(url, data=data, params=params, headers={"Content-Type": "application/tar"})  # noqa: SLF001
            self._api._raise_for_status(answer)  # noqa: SLF001
            if '"error"' in answer.text:
                messages.fail(f"Docker cannot import {ref}", answer.text)

    def build(
        self,
        context: IO[bytes],
        ref: str,
        *,
        labels: Mapping[str, str],
        args: Mapping[str, str] | None = None,
        platform: str | None = None,
    ) -> Iterator[str]:
        info = self.info()
        # The classic builder: docker-py has no BuildKit (docker-py issue 2230, open since 2019).
        made: list[str] = []
        try:
            events = self._api.build(
                fileobj=context,
                custom_context=True,
                dockerfile="Containerfile",
                tag=ref,
                labels=dict(labels),
                buildargs={**messages.proxies(), **(args or {})},
                # The builder has no way around userns-remap, which shares no network with the host.
                network_mode=None if info.remaps_users else "host",
                platform=platform,
                rm=True,
                forcerm=True,
                decode=True,
            )
            try:
                for line in intermediate_images.noted(messages.build_lines(events, ref), made):
                    if found := _RUNNING.fullmatch(line):
                        self._steps[id(made)] = found[1]
                    yield line
            except GeneratorExit:
                # The daemon ends the build when its client is gone.
                events.close()
                del events
                intermediate_images.remove(made[1:], self, seconds=intermediate_images.ENDING)
                raise
        except ImageBuildFailed:
            intermediate_images.remove(made[1:], self, seconds=intermediate_images.ENDING if self._interrupted else 0)
            raise
        except docker.errors.APIError as error:
            raise ImageBuildFailed(f"{ref} cannot be built: {error.explanation or error}") from None
        except requests.RequestException as error:
            messages.fail(f"{ref} cannot be built", str(error))
        finally:
            self._steps.pop(id(made), None)

    def interrupt_builds(self) -> None:
        # The daemon ends a build whose step does.
        self._interrupted = True
        for step in list(self._steps.values()):
            with contextlib.suppress(docker.errors.APIError):
                self._api.remove_container(step, force=True)
        intermediate_images.wait_for(self._steps)

    def remove_image(self, ref: str) -> None:
        with self._translating_errors(f"remove {ref}"), contextlib.suppress(docker.errors.NotFound):
            self._api.remove_image(ref)

    # Containers

    def _create(self, spec: ContainerSpec, *, auto_remove: bool) -> str:
        info = self.info()
        hardening: dict[str, Any] = {}
        ulimits: list[Ulimit] = []
        if spec.hardened:
            hardening = {
                "read_only": True,
                "cap_drop": ["ALL"],
                "security_opt": [
                    "no-new-privileges",
                    "label=disable",
                    *docker_created.seccomp_option(self._seccomp, info.version),
                ],
                # What is not named is what daemon.json says.
                "ipc_mode": "private",
                "cgroupns": "private" if self._cgroup_namespaces else None,
                "init": False,
                "runtime": None if docker_created.isolates(self._runtime) else "runc",
            }
            ulimits += [Ulimit(name=name, soft=0, hard=0) for name in created.PRIVILEGED_ULIMITS]
        elif spec.binds:
            hardening = {"security_opt": ["label=disable"]}
        if spec.memory and not info.limits:
            # Rootless on cgroup v1. Docker takes no limit of addresses; this one is of memory that a process can write.
            ulimits.append(Ulimit(name="data", soft=spec.memory, hard=spec.memory))
        as_caller = spec.as_caller and not info.rootless
        with self._translating_errors(f"create a container of {spec.image}"):
            host_config = self._api.create_host_config(
                auto_remove=auto_remove,
                network_mode=spec.network,
                mounts=[
                    Mount(bind.target, str(bind.source), type="bind", read_only=bind.read_only) for bind in spec.binds
                ],
                tmpfs={one.target: f"rw,nosuid,nodev,noexec,size={one.size},mode={one.mode:o}" for one in spec.tmpfs},
                mem_limit=spec.memory,
                # Without it, Docker also allows the same amount of swap.
                memswap_limit=spec.memory,
                pids_limit=spec.pids,
                nano_cpus=int(spec.cpus * 1e9) if spec.cpus else None,
                # With userns-remap in daemon.json the container's user is none of the host's, and can read no dump. A
                # case has no capability that a namespace of users would take from it.
                userns_mode="host" if info.remaps_users else None,
                group_add=[str(group) for group in os.getgroups()] if as_caller else None,
                ulimits=ulimits or None,
                log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": _LOG_LIMIT, "max-file": "1"}),
                **hardening,
            )
            proxies = messages.proxies() if spec.network == "host" else {}
            answer: dict[str, Any] = self._api.create_container(
                spec.image,
                entrypoint=list(spec.argv[:1]),
                command=list(spec.argv[1:]),
                name=spec.name,
                labels=dict(spec.labels),
                environment={**proxies, **spec.env},
                working_dir=spec.workdir,
                user=f"{os.getuid()}:{os.getgid()}" if as_caller else "0:0",
                host_config=host_config,
                platform=spec.platform,
                use_config_proxy=spec.network == "host",
            )
        ident: str = answer["Id"]
        if spec.hardened:
            try:
                self._refuse_unless_as_asked(ident, spec)
            except BaseException:
                self.remove(ident)
                raise
        return ident

    def _refuse_unless_as_asked(self, ident: str, spec: ContainerSpec) -> None:
        with self._translating_errors("look at a container"):
            inspected = self._api.inspect_container(ident)
            image = self._api.inspect_image(inspected["Image"])
        docker_created.refuse_unless_as_asked(
            inspected, image, spec, self.info(), seccomp=self._seccomp, cgroup_namespaces=self._cgroup_namespaces
        )

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
            self._api.start(ident)

    def run(self, spec: ContainerSpec, *, on_stderr: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
        ident = self._create(orphans.with_owner_label(spec), auto_remove=False)
        yield from run_attached(
            spec,
            attach=lambda: self._attach(ident),
            start=lambda: self._start(ident, spec),
            remove=lambda: self.remove(ident),
            on_stderr=on_stderr,
        )

    def _attach(self, ident: str) -> ExecStream:
        with self._translating_errors("attach to a container"):
            sock = self._api.attach_socket(ident, params={"stdout": 1, "stderr": 1, "stream": 1})
        answer = sock._response  # noqa: SLF001 - as in `exec`
        reader = answer.raw._fp.fp  # noqa: SLF001
        return ExecStream(answer, reader, _raw_socket(sock), tty=False, exit_code=lambda: self.wait(ident))

    def container(self, ident: str) -> Container | None:
        with self._translating_errors("look at a container"):
            try:
                found = self._api.inspect_container(ident)
            except docker.errors.NotFound:
                return None
        state = found["State"]
        return Container(
            id=found["Id"],
            name=found["Name"].lstrip("/"),
            running=state["Running"],
            labels=found["Config"].get("Labels") or {},
            exit_code=None if state["Running"] else state["ExitCode"],
            process=state.get("Pid") or 0,
        )

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        with self._translating_errors("list containers"):
            found = self._api.containers(all=True, filters={"label": messages.label_filters(labels)})
        return [
            Container(
                id=one["Id"],
                name=one["Names"][0].lstrip("/") if one.get("Names") else one["Id"],
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
            exec_id = self._api.exec_create(
                ident,
                list(argv),
                stdin=stdin,
                tty=tty,
                environment=dict(env or {}),
                detach_keys=messages.NO_DETACH,
            )["Id"]
            sock = self._api.exec_start(exec_id, tty=tty, socket=True)
        answer = sock._response  # noqa: SLF001 - its reader may hold the first bytes, see ExecStream
        return ExecStream(
            answer,
            answer.raw._fp.fp,  # noqa: SLF001
            _raw_socket(sock),
            tty=tty,
            exit_code=lambda: self._exec_exit_code(exec_id),
            resize=lambda rows, columns: self._exec_resize(exec_id, rows, columns),
        )

    def _exec_exit_code(self, exec_id: str) -> int:
        while True:
            with self._translating_errors("tell how a command ended"):
                state = self._api.exec_inspect(exec_id)
            if not state["Running"]:
                return int(state["ExitCode"] or 0)
            time.sleep(0.02)

    def _exec_resize(self, exec_id: str, rows: int, columns: int) -> None:
        with self._translating_errors("resize a terminal"):
            self._api.exec_resize(exec_id, height=rows, width=columns)

    def logs(self, ident: str, *, tail: int = 50) -> bytes:
        with self._translating_errors("read a container's log"):
            log: bytes = self._api.logs(ident, stdout=True, stderr=True, tail=tail)
        return log

    def wait(self, ident: str) -> int:
        with self._translating_errors("wait for a container"):
            return int(self._api.wait(ident)["StatusCode"])

    def remove(self, ident: str) -> None:
        with self._translating_errors("remove a container"):
            try:
                self._api.remove_container(ident, v=True, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != requests.codes.conflict:
                    raise
                # Its auto-remove, or another caller, is removing it: wait for that.
                with contextlib.suppress(docker.errors.NotFound):
                    self._api.wait(ident, condition="removed")

    def obstacles(self) -> Iterator[tuple[str, str]]:
        if not self.info().limits:
            yield (
                "cannot limit a case's memory (rootless on cgroup v1)",
                "boot with systemd.unified_cgroup_hierarchy=1, or use a rootful engine",
            )

    def close(self) -> None:
        self._client.close()
        if self._service:
            self._service.close()


def _raw_socket(sock: Any) -> Any:
    """The socket below docker-py's read-only SocketIO (docker-py issue 2255). With TLS, docker-py gives the socket."""
    return getattr(sock, "_sock", sock)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
