"""Processes that vmbox starts to reach an engine: a private Podman service, an ssh tunnel. They end with vmbox."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sandbox.engine import podman_config
from sandbox.errors import EngineFailed, EngineNotFound
from sandbox.host import config, paths
from sandbox.host.files import write_atomically
from sandbox.log import Log

_log = Log("engine")

_STARTUP: Final = 30.0
"""Seconds that a service may take to answer. The first start of rootless Podman creates its storage."""
_LONGEST_SOCKET: Final = 100
"""Bytes; sun_path holds 108."""
_LONGEST_RUNROOT: Final = 50
"""Characters that Podman allows."""

_SUPERVISOR: Final = """
exec 3<&0 </dev/null
(
    trap '' HUP INT TERM
    read -r _ <&3
    kill -s TERM -- "-$$"
    rm -f "$1"
    for _ in $(seq 20); do
        sleep 1
        pgrep -g "$$" -x "$2" || exit 0
    done
    kill -s KILL -- "-$$"
) >/dev/null 2>&1 &
exec 3<&-
shift 2
exec "$@"
"""
"""A shell that becomes the service. Its subshell reads from a pipe whose other end only vmbox holds. When vmbox ends,
even by kill -9, the kernel closes that end, and the subshell kills the service's process group. The subshell is in that
group, so the group's id is not reused before then. The whole group is killed because rootless Podman runs itself again
in its user namespace, and Podman 4.3 does not always pass a signal on to that process. PR_SET_PDEATHSIG is no
substitute: it acts when the thread that started the child ends."""

_count = itertools.count()


class Service:
    """A process with a socket of its own."""

    def __init__(
        self, argv: Sequence[str], socket: Path, *, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """Start it. `prefix` is a command that runs it as another user, e.g. sudo; only that user may end it."""
        self.socket = socket
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the service
        self._name = Path(argv[0]).name
        self._began = time.monotonic()
        _log.info("starting %s", " ".join(argv))
        read_end, self._leash = os.pipe()
        try:
            # Its own session, so that Ctrl-C ends only vmbox, which still needs the service to remove containers.
            self._process = subprocess.Popen(
                [*prefix, "/bin/sh", "-c", _SUPERVISOR, "vmbox-service", str(socket), self._name, *argv],
                stdin=read_end,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, **(env or {})},
                cwd="/",  # the user of `prefix` may have no access to this directory
                start_new_session=True,
            )
        finally:
            os.close(read_end)

    def wait_until_up(self) -> None:
        """Wait until the socket accepts connections. Raises `EngineFailed` with the service's output."""
        from sandbox.engine.service import reachable

        deadline = time.monotonic() + _STARTUP
        while not reachable(self.socket):
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                said = self._said()
                self.close()
                state = f"ended with exit status {ended}" if ended is not None else "does not answer"
                reason = said.splitlines()[-1] if said else "no reason given"
                raise EngineFailed(f"{self._name} {state}: {reason}", detail=said or None)
            time.sleep(0.005)
        _log.debug("%s listens at %s after %.3f s", self._name, self.socket, time.monotonic() - self._began)

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def close(self) -> None:
        if self._leash < 0:
            return
        os.close(self._leash)
        self._leash = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=25)
        self._log.close()


def private_socket(kind: str) -> Path:
    """A path for a service's socket: in the runtime directory, or in /tmp if that path is too long for a socket."""
    name = f"{kind}-{os.getpid()}-{next(_count)}.sock"
    path = paths.runtime_dir() / name
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        path = Path(tempfile.mkdtemp(prefix="vmbox-", dir="/tmp")) / name
    path.unlink(missing_ok=True)
    return path


def start_podman(command: Sequence[str]) -> Service:
    """Start a private `podman system service` as the calling user: `command` is `podman_command`'s."""
    socket = private_socket("podman")
    # --time 0: it may be idle during a long download. The pipe of `Service` ends it.
    argv = [*command, "system", "service", "--time", "0", f"unix://{socket}"]
    return Service(argv, socket, env=_podman_environment())


def podman_command(*, own_storage: bool = False) -> list[str]:
    """The command that is Podman with the storage of the calling user. Raises `EngineNotFound` if it is missing."""
    podman = shutil.which("podman")
    if not podman:
        raise EngineNotFound("no podman command was found")
    return [podman, *(_own_storage() if own_storage or _has_own_storage() else [])]


def start_tunnel(target: str, port: int | None, remote_socket: str) -> Service:
    """Start an ssh that forwards a local socket to `remote_socket` on `target` (user@host)."""
    ssh = shutil.which("ssh")
    if not ssh:
        raise EngineNotFound("no ssh command was found", hint="apt-get install openssh-client")
    socket = private_socket("ssh")
    argv = [ssh, "-nNT", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ControlPath=none"]
    # Detect within a minute that the host disappeared.
    argv += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
    argv += ["-p", str(port)] if port else []
    service = Service([*argv, "-L", f"{socket}:{remote_socket}", "--", target], socket)
    service.wait_until_up()
    return service


def _podman_environment() -> dict[str, str]:
    """A containers.conf of vmbox's own, in the place of those of the host and the user, which reach into containers.

    The file keeps its name and is never removed: containers outlive the service, and Podman's clean-up after a
    container reads the file again.
    """
    path = paths.runtime_dir() / "containers.conf"
    _write(path, podman_config.containers_conf(rootless=os.geteuid() != 0))
    return {"CONTAINERS_CONF": str(path), "CONTAINERS_CONF_OVERRIDE": ""}


def _own_storage_root() -> Path:
    return paths.state_dir() / "podman"


def _has_own_storage() -> bool:
    root = _own_storage_root()
    try:
        return root.exists()
    except PermissionError as error:
        raise config.unreadable(root, error) from error


def _own_storage() -> list[str]:
    """Options for storage with overlay, for users whose Podman would copy every layer in full (vfs).

    storage.conf does not help: once Podman has made its database, that overrides the file, and the user stays at vfs.
    """
    root = _own_storage_root()
    root.mkdir(parents=True, exist_ok=True)
    # Podman uses only the run root with which its database was made, so the first one is stored.
    remembered = root / "runroot"
    if not remembered.exists():
        runroot = str(paths.runtime_dir() / "podman")
        _write(remembered, runroot if len(runroot) <= _LONGEST_RUNROOT else tempfile.mkdtemp(prefix="vmbox-"))
    options = ["--root", str(root / "storage"), "--runroot", remembered.read_text(), "--storage-driver", "overlay"]
    if not _native_overlay():
        options += ["--storage-opt", f"overlay.mount_program={shutil.which('fuse-overlayfs')}"]
    return options


def _native_overlay() -> bool:
    """Whether an unprivileged user namespace can mount overlay: Linux 5.11, 5.13 with SELinux."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 13)


def can_own_storage() -> bool:
    """Whether storage with overlay would work although Podman chose vfs."""
    return _native_overlay() or (shutil.which("fuse-overlayfs") is not None and os.access("/dev/fuse", os.W_OK))


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    write_atomically(path, text.encode())


def reachable(path: Path) -> bool:
    """Whether something accepts connections at the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
