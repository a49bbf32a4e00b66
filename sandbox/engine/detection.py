"""Find the engine to use, or say why there is none. An engine's library is imported only after it has answered."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import shutil
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never, cast

from sandbox.engine import service, tls
from sandbox.engine.names import EngineName
from sandbox.engine.protocol import Engine
from sandbox.engine.unix_socket import UnixConnection
from sandbox.errors import ConfigurationError, EngineError, EngineFailed, EngineNotFound, EnginePermission
from sandbox.host import config
from sandbox.log import Log, without_secrets

_log = Log("engine")

_PATIENCE: Final = 60.0
"""Seconds that a listening engine has to send its version. An engine that was killed cleans up when it starts again,
and Podman answers no other client while it serves eight at once on a busy host."""
_CONTEXT: Final = "docker context"
"""Begins the source of an address that `docker context use` chose."""
_TRIES: Final = 3
"""An engine that is starting may accept a connection and close it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    url: str
    why: str
    """Source of the address, for messages."""


def detect(name_or_url: str | None) -> Engine:
    """See `sandbox.engine.connect`."""
    wanted, why = name_or_url, "--engine"
    if not wanted:
        wanted, why = config.current().engine, config.origin("engine")
    match wanted:
        case None | "" | "auto":
            return _first_that_answers(_any_candidates(), podman_binary=True, wanted="Docker or Podman")
        case EngineName.DOCKER:
            return _first_that_answers(_docker_candidates(), podman_binary=False, wanted="Docker")
        case EngineName.PODMAN:
            return _first_that_answers(_podman_candidates(), podman_binary=True, wanted="Podman")
        case str() if "://" in wanted:
            return _open(_Candidate(url=wanted, why=why))
        case _:
            raise ConfigurationError(
                f"{why} {wanted}: not an engine", hint="docker, podman, unix:///run/docker.sock, ssh://host, tcp://host"
            )


def _docker_candidates() -> Iterator[_Candidate]:
    if url := os.environ.get("DOCKER_HOST"):
        yield _Candidate(url=url, why="$DOCKER_HOST")
        return
    if context := _docker_context():
        yield context
    yield _Candidate(url="unix:///run/docker.sock", why="the standard socket")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield _Candidate(url=f"unix://{runtime}/docker.sock", why="rootless Docker's socket")


def _podman_candidates() -> Iterator[_Candidate]:
    if url := os.environ.get("CONTAINER_HOST"):
        yield _Candidate(url=url, why="$CONTAINER_HOST")
        return
    if os.geteuid() != 0:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        yield _Candidate(url=f"unix://{runtime}/podman/podman.sock", why="rootless Podman's socket")
    yield _Candidate(url="unix:///run/podman/podman.sock", why="Podman's socket")


def _any_candidates() -> list[_Candidate]:
    docker, podman = list(_docker_candidates()), list(_podman_candidates())
    if os.environ.get("CONTAINER_HOST") or (os.geteuid() != 0 and not os.environ.get("DOCKER_HOST")):
        return [*podman, *docker]
    return [*docker, *podman]


def _docker_context() -> _Candidate | None:
    """Read the context of $DOCKER_CONTEXT or of `docker context use` from the docker command's own files.

    Raises `ConfigurationError` for one of $DOCKER_CONTEXT that is not there.
    """
    directory = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    given = os.environ.get("DOCKER_CONTEXT")
    name = given
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        name = given or json.loads((directory / "config.json").read_text())["currentContext"]
    if not name or name == "default":
        return None
    for meta in sorted(directory.glob("contexts/meta/*/meta.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            described = json.loads(meta.read_text())
            if described["Name"] == name:
                url = str(described["Endpoints"]["docker"]["Host"])
                return _Candidate(url=url, why=f"{'$DOCKER_CONTEXT' if given else _CONTEXT} {name}")
    if given:
        raise ConfigurationError(f"$DOCKER_CONTEXT {name}: there is no such docker context", hint="docker context ls")
    return None


def _first_that_answers(
    candidates: Iterator[_Candidate] | list[_Candidate], *, podman_binary: bool, wanted: str
) -> Engine:
    denied: EngineError | None = None
    for candidate in candidates:
        chosen = candidate.why.startswith(_CONTEXT)
        try:
            return _open(candidate)
        except EnginePermission as error:
            denied = denied or error
        except EngineError as error:
            if candidate.why.startswith("$"):  # never skip an address that the user gave
                raise
            if chosen and wanted == "Docker":
                # docker itself goes to no other engine either.
                raise
            if chosen or not isinstance(error, EngineNotFound):
                denied = denied or error
    if podman_binary and shutil.which("podman"):
        return _private_podman()
    if denied:
        raise denied
    if wanted == "Docker" and shutil.which("dockerd"):
        raise EngineNotFound("Docker is installed but not running", hint="sudo systemctl start docker")
    raise EngineNotFound(f"{wanted} was not found on this machine")


def _open(candidate: _Candidate) -> Engine:
    """Raises `EngineNotFound` when nothing listens there, `EnginePermission`, or `EngineFailed` for other failures."""
    try:
        engine = _reached(candidate)
    except EngineError as error:
        _log.info("%s, %s: %s: %s", candidate.url, candidate.why, type(error).__name__, error.message)
        raise
    _log.info("%s, %s: %s answers", candidate.url, candidate.why, type(engine).__name__.removesuffix("Engine"))
    return engine


def _reached(candidate: _Candidate) -> Engine:
    url = candidate.url
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(
            f"{without_secrets(url)} is no URL ({candidate.why})", hint="ssh://USER@HOST[:PORT], tcp://HOST[:PORT]"
        ) from None
    tunnel: service.Service | None = None
    match parts.scheme:
        case "unix" | "http+unix":
            path = Path(urllib.parse.unquote(parts.path or parts.netloc))
            url = f"unix://{path}"
            kind = _kind(_unix_version(path, candidate))
        case "ssh":
            target = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname or ""
            remote = parts.path.rstrip("/") or "/var/run/docker.sock"
            tunnel = service.start_tunnel(target, parts.port, remote)
            try:
                kind = _kind(_unix_version(tunnel.socket, candidate))
            except EngineError:
                tunnel.close()
                raise EngineNotFound(
                    f"no engine answers at {remote} on {parts.hostname} ({candidate.why})",
                    hint=f"give the socket's path: ssh://{target}/run/user/1000/podman/podman.sock",
                ) from None
            return _adapter(kind, f"unix://{tunnel.socket}", endpoint=url, tunnel=tunnel)
        case "tcp" | "http":
            kind = _kind(_tcp_version(parts, candidate))
        case _:
            raise ConfigurationError(
                f"{candidate.why}: {url} is not an engine's address", hint="unix://, tcp:// or ssh://"
            )
    return _adapter(kind, url, endpoint=url, tunnel=tunnel)


def _adapter(kind: EngineName, url: str, *, endpoint: str, tunnel: service.Service | None) -> Engine:
    match kind:
        case EngineName.PODMAN:
            from sandbox.engine.podman import PodmanEngine

            return PodmanEngine(url, endpoint=endpoint, service=tunnel)
        case EngineName.DOCKER:
            from sandbox.engine.docker import DockerEngine

            return DockerEngine(url, endpoint=endpoint, service=tunnel)
        case _:
            assert_never(kind)


def _private_podman() -> Engine:
    engine, uses_vfs = _started_podman(service.podman_command())
    if not uses_vfs or not service.can_own_storage():
        return engine
    engine.close()
    engine, _ = _started_podman(service.podman_command(own_storage=True))
    return engine


def _started_podman(command: Sequence[str]) -> tuple[Engine, bool]:
    """(the engine, whether its storage copies every layer in full)"""
    started = service.start_podman(command)
    try:
        # Loaded while the service starts.
        from sandbox.engine.podman import PodmanEngine
        from sandbox.engine.podman_info import KeptInfo

        kept = KeptInfo(command)
        started.wait_until_up()
        _log.info("no engine answers: vmbox has started a Podman of its own at %s", started.socket)
        engine = PodmanEngine(f"unix://{started.socket}", endpoint=EngineName.PODMAN, service=started, kept=kept)
        return engine, engine.uses_vfs()
    except BaseException:
        started.close()
        raise


def _patiently(path: Path) -> dict[str, Any]:
    for _ in range(_TRIES - 1):
        try:
            return _version(UnixConnection(path, timeout=_PATIENCE))
        except ConnectionResetError:  # RemoteDisconnected is one
            time.sleep(1)
    return _version(UnixConnection(path, timeout=_PATIENCE))


def _unix_version(path: Path, candidate: _Candidate) -> dict[str, Any]:
    try:
        return _patiently(path)
    except PermissionError:
        raise EnginePermission(f"no permission to use {path}", hint=_permission_hint(path)) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise EngineNotFound(
            f"no engine answers at {path} ({candidate.why})",
            hint=_start_hint(candidate),
        ) from None
    except (TimeoutError, ConnectionResetError):  # RemoteDisconnected is one
        raise EngineFailed(
            f"the engine at {path} does not answer ({candidate.why})",
            hint="is it starting, or its host overloaded? try again",
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EngineFailed(f"{path} is not an engine's socket ({candidate.why}): {error}") from None


def _tcp_version(parts: urllib.parse.SplitResult, candidate: _Candidate) -> dict[str, Any]:
    address = without_secrets(parts.netloc)
    host, proof = parts.hostname or "", tls.certificates()
    connection: http.client.HTTPConnection
    try:
        if proof is None:
            connection = http.client.HTTPConnection(host, parts.port or 2375, timeout=_PATIENCE)
        else:
            port = parts.port or 2376
            connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=proof.context())
        return _version(connection)
    except ssl.SSLError as error:
        raise _distrust(address, candidate, getattr(error, "verify_message", "") or error.reason or error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if proof is not None and isinstance(error, BrokenPipeError | ConnectionResetError):
            # In TLS 1.3 our handshake ends before the engine checks our certificate: it may close while we send.
            raise _distrust(address, candidate, error) from None
        if proof is None and _speaks_tls(host, parts.port or 2375):
            raise EnginePermission(
                f"{address} requires TLS ({candidate.why})",
                hint="export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=DIRECTORY   with ca.pem, cert.pem and key.pem in it",
            ) from None
        raise EngineNotFound(
            f"no engine answers at {address} ({candidate.why}): {error}",
            hint="ssh://user@host needs no open port, and no certificates",
        ) from None


def _distrust(address: str, candidate: _Candidate, why: object) -> EnginePermission:
    return EnginePermission(
        f"{address} and this host do not trust each other ({candidate.why}): {why}",
        hint="$DOCKER_CERT_PATH names the directory with ca.pem, cert.pem and key.pem of this engine",
    )


def _speaks_tls(host: str, port: int) -> bool:
    unverified = ssl.create_default_context()
    # Nothing is sent over this connection, and nothing that it receives is used.
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=_PATIENCE) as bare,
            unverified.wrap_socket(bare, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _version(connection: http.client.HTTPConnection) -> dict[str, Any]:
    began = time.monotonic()
    with contextlib.closing(connection):
        connection.request("GET", "/version")
        answer = connection.getresponse()
        told = answer.read()
    _log.debug("GET /version %d %.0f ms", answer.status, (time.monotonic() - began) * 1000)
    return cast("dict[str, Any]", json.loads(told))


def _kind(version: dict[str, Any]) -> EngineName:
    """Tell the engines apart by their answer. A socket's name proves nothing: Podman also answers on Docker's paths."""
    components = version.get("Components") or [{}]
    return EngineName.PODMAN if "Podman" in str(components[0].get("Name")) else EngineName.DOCKER


def _start_hint(candidate: _Candidate) -> str:
    others = "choose another with --engine docker, --engine podman, --engine unix://PATH"
    if candidate.why.startswith(_CONTEXT):
        return "start it; or docker context use default, or --engine podman"
    if candidate.why.startswith("$"):
        return f"start it; or unset {candidate.why[1:].split(' ')[0]}, or {others}"
    return f"start it, or {others}"


def _permission_hint(path: Path) -> str:
    if "podman" in path.name:
        return "use Podman without root: vmbox --engine podman starts it for you"
    user = getpass.getuser()
    return f"sudo usermod -aG docker {user}   and log in again; or install podman, which needs no permission"
