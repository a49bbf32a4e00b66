"""Starts and ends the servers that give a case the view of its dump, instead of an unpacked copy.

A server has a directory of its own below the runtime directory: a lock that it holds while it lives, its output, and
the mount. For rootless Podman that is in the namespace of its containers: the runtime looks at the file as the root
of that namespace, and the kernel lets it look into no mount that was made in another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sandbox.case.places import VIEW_LOCK, VIEW_LOG
from sandbox.case.view_server import MOUNT, READY, names, open_file, unmount
from sandbox.dump import crash_directory, kdump_lost, view
from sandbox.engine import EngineInfo
from sandbox.host import paths
from sandbox.host.files import age, write_all
from sandbox.host.locks import is_locked
from sandbox.log import Log
from sandbox.model import Vmcore
from sandbox.progress import QUIET, Reporter
from sandbox.render import plain

_STARTUP: Final = 30.0
_END: Final = 5.0
"""Seconds in which a server ends after its case."""

_HINTS: Final = (
    ("libfuse", "apt-get install fuse3   (dnf install fuse3)"),
    ("user_allow_other", "as root: echo user_allow_other >> /etc/fuse.conf"),
    ("/dev/fuse", "as root: modprobe fuse; chmod 666 /dev/fuse"),
    ("fuse: device not found", "as root: modprobe fuse; chmod 666 /dev/fuse"),
    ("fusermount", "apt-get install fuse3   (dnf install fuse3)"),
)
"""By a word of what libfuse or Python says: the command that makes a view possible."""

_log = Log("case")


class NotServed(Exception):
    """The view cannot be mounted here; a copy of the dump can be made instead. One line, and what would help."""

    def __init__(self, reason: str, *, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class Server:
    """A running server. Until `attach` it ends with this process."""

    def __init__(self, place: Path, leash: int, count: int) -> None:
        self.place = place
        self._leash = leash
        self._count = count

    @property
    def files(self) -> tuple[Path, ...]:
        """The view, as the engine sees it: several files of a split set."""
        return tuple(self.place / MOUNT / name for name in names(self._count))

    def attach(self, ctl: Path) -> None:
        """Let the server live as long as the case whose script reads the FIFO `ctl`."""
        os.write(self._leash, f"{ctl}\n".encode())
        os.close(self._leash)
        self._leash = -1

    def close(self) -> None:
        """End it, unless it is attached."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
            end(self.place)


def serve(
    vmcore: Vmcore, engine: EngineInfo, reporter: Reporter = QUIET, *, record: Path | None = None
) -> Server | None:
    """Start serving the view of a dump to the containers of `engine`; None if the dump has no view.

    In the file `record` the pages that are read are written down, see `sandbox.case.page_record`. Raises `NotServed`
    with the reason where this host, or this engine, does not allow it, and `DumpUnreadable`.
    """
    kept = paths.unpacked_dir()
    prefix = _into_namespace(engine)
    dump = crash_directory.choose(vmcore.path) if vmcore.path.is_dir() else vmcore.path
    if dump is None:
        return None
    # Of split sets, only those on servers are not plain.
    dumps = []
    for path in vmcore.files if len(vmcore.files) > 1 else (dump,):
        with open_file(path) as file:
            identity, added = file.identity, view.additions(file, vmcore, kept, reporter)
        if added is None:
            return None
        additions = [(at, data.hex()) for at, data in added]
        marking = record is None and kdump_lost.reads_as_zeros(vmcore)
        one = {"dump": str(path.resolve()), "identity": identity, "additions": additions, "marking": marking}
        dumps.append(one)
    for lost in unserved():
        end(lost)
    place = directory() / secrets.token_hex(4)
    (place / MOUNT).mkdir(parents=True, mode=0o700)
    request = {
        "place": str(place),
        "kept": str(kept),
        "dumps": dumps,
        "record": None if record is None else str(record),
        "vmcore": None if record is None else plain(vmcore),
    }
    began = time.monotonic()
    argv = [*prefix, sys.executable, "-P", "-m", "sandbox.case.view_server"]
    server = _start(argv, place, json.dumps(request), len(dumps) if record is None else 1)
    _log.info("view of %s at %s after %.3f s", vmcore.path, place, time.monotonic() - began)
    return server


def _start(argv: Sequence[str], place: Path, request: str, count: int) -> Server:
    package = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    asked, leash = os.pipe()
    answer, answering = os.pipe()
    server = Server(place, leash, count)
    try:
        try:
            with (place / VIEW_LOG).open("wb") as log:
                starting = subprocess.Popen(
                    argv,
                    stdin=asked,
                    stdout=answering,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": search},
                    cwd="/",
                    # Ctrl-C ends vmbox, and that the server, by its leash.
                    start_new_session=True,
                )
        finally:
            os.close(asked)
            os.close(answering)
        said = _ask(leash, answer, request)
        if said != READY:
            starting.kill()
        starting.wait()
        _refuse_unless(said == READY, place / VIEW_LOG)
    except BaseException:
        server.close()
        raise
    finally:
        os.close(answer)
    return server


def _ask(leash: int, answer: int, request: str) -> bytes:
    # One that has ended already has said why.
    with contextlib.suppress(BrokenPipeError):
        write_all(leash, f"{request}\n".encode())
    ready, _, _ = select.select([answer], [], [], _STARTUP)
    return os.read(answer, 64) if ready else b""


def _into_namespace(engine: EngineInfo) -> list[str]:
    """The command that runs another one in the namespaces of the engine's containers; empty for an engine of root."""
    if not engine.rootless:
        return []
    service = _service_namespace(engine.endpoint)
    if service is not None:
        return ["nsenter", f"--target={service}", "--user", "--mount", "--preserve-credentials", "--"]
    podman = shutil.which("podman")
    if engine.name != "podman" or podman is None:
        raise NotServed(
            f"the namespace of {engine.name}'s containers cannot be entered",
            hint="take an engine whose can: --engine podman",
        )
    return [podman, "unshare"]


def _service_namespace(endpoint: str) -> int | None:
    """The process that listens at a socket, if it has a user namespace of its own; not of one that systemd started."""
    path = endpoint.removeprefix("unix://")
    if path == endpoint or shutil.which("nsenter") is None:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            process, user, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        there = (Path("/proc") / str(process) / "ns" / "user").stat().st_ino
    except OSError:
        return None
    return process if user == os.geteuid() and there != Path("/proc/self/ns/user").stat().st_ino else None


def _refuse_unless(serves: bool, log: Path) -> None:
    """Raises `NotServed` with what libfuse said."""
    if serves:
        return
    said = log.read_text(errors="replace")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = next((line for line in lines if "fuse" in line), lines[-1] if lines else "the server does not answer")
    hint = next((hint for word, hint in _HINTS if word in said), "vmbox doctor checks the host")
    raise NotServed(reason, hint=hint)


def directory() -> Path:
    """The directory of all views; each is in a directory of its own."""
    place = paths.runtime_dir() / "views"
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def is_served(place: Path) -> bool:
    """Whether the server of the view lives."""
    return is_locked(place / VIEW_LOCK)


def unserved() -> Iterator[Path]:
    """The directories of views whose server has ended without taking its mount with it."""
    for place in sorted(directory().iterdir()):
        if place.is_dir() and not is_served(place) and _is_old(place):
            yield place


def _is_old(place: Path) -> bool:
    """Whether a directory without a lock is not of a server that is just starting."""
    try:
        return (place / VIEW_LOCK).exists() or age(place.stat().st_mtime) > _STARTUP
    except OSError:
        return False


def end(place: Path) -> None:
    """Waits for the end of a server whose case has ended, ends one that does not, and removes mount and directory."""
    deadline = time.monotonic() + _END
    while is_served(place) and time.monotonic() < deadline:
        time.sleep(0.01)
    if is_served(place):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((place / VIEW_LOCK).read_text()), signal.SIGKILL)
        while is_served(place) and time.monotonic() < deadline + _END:
            time.sleep(0.01)
    unmount(place / MOUNT)
    # In another mount namespace, the kernel detaches what is mounted at a directory that is removed
    # (commit 8ed936b5671b ("vfs: Lazily remove mounts on unlinked files and directories."), v3.18).
    with contextlib.suppress(OSError):
        (place / MOUNT).rmdir()
        for name in (VIEW_LOCK, VIEW_LOG):
            (place / name).unlink(missing_ok=True)
        place.rmdir()
