"""The processes of a `MemoryEngine`: functions in threads, or programs of this host."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Self

from sandbox.engine import ContainerSpec

BUSYBOX: Final = "/bin/busybox"
"""Runs the commands of a container that are no function: by themselves, on this host."""
PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a function that stands for a program gets: it is the process, its return value the exit status."""

    argv: Sequence[str]
    env: Mapping[str, str]
    spec: ContainerSpec
    stdin: int
    stdout: int
    stderr: int
    killed: threading.Event
    """Set when its container is removed: then it has to return."""

    def place(self, target: str) -> Path:
        """Where this host has what the container has at `target`."""
        for bind in sorted(self.spec.binds, key=lambda bind: -len(bind.target)):
            if PurePosixPath(target).is_relative_to(bind.target):
                return bind.source / PurePosixPath(target).relative_to(bind.target)
        raise FileNotFoundError(target)


Program = Callable[[Running], int]


@dataclass(kw_only=True)
class Process:
    """A function in a thread, or a program of this host."""

    stdin: int
    stdout: int
    errors: bytearray = field(default_factory=bytearray)
    on_error: Callable[[bytes], None] | None = None
    killed: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    child: subprocess.Popen[bytes] | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def kill(self) -> None:
        self.killed.set()
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
        self.ended.wait(10)


class MemoryExec:
    def __init__(self, process: Process) -> None:
        self._process = process

    def fileno(self) -> int:
        return self._process.stdout

    def pending(self) -> bool:
        return self.ready(0)

    def ready(self, seconds: float | None) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def read(self, size: int = 65536) -> bytes:
        return os.read(self._process.stdout, size)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._process.stdin, view) :]

    def close_stdin(self) -> None:
        if self._process.stdin >= 0:
            os.close(self._process.stdin)
            self._process.stdin = -1

    def resize(self, *, rows: int, columns: int) -> None:
        raise NotImplementedError("an engine in memory has no terminals")

    def exit_code(self) -> int:
        self._process.ended.wait()
        assert self._process.status is not None
        return self._process.status

    @property
    def errors(self) -> bytes:
        return bytes(self._process.errors)

    def close(self) -> None:
        self.close_stdin()
        if self._process.stdout >= 0:
            os.close(self._process.stdout)
            self._process.stdout = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def started(
    program: Program,
    argv: Sequence[str],
    env: Mapping[str, str],
    spec: ContainerSpec,
    *,
    merged: bool = False,
    on_error: Callable[[bytes], None] | None = None,
    then: Callable[[], object] = lambda: None,
) -> Process:
    from_client, stdin = os.pipe()
    errors, stderr = os.pipe()
    stdout, to_client = (-1, os.dup(stderr)) if merged else os.pipe()
    process = Process(stdin=stdin, stdout=stdout, on_error=on_error)

    def collect() -> None:
        while piece := os.read(errors, 65536):
            process.errors += piece
            if process.on_error is not None:
                process.on_error(piece)
        os.close(errors)

    def live() -> None:
        running = Running(
            argv=argv, env=env, spec=spec, stdin=from_client, stdout=to_client, stderr=stderr, killed=process.killed
        )
        status = 1
        try:
            if program is on_this_host:
                process.child = _host_process(running)
                launched.set()
                status = process.child.wait()
            else:
                launched.set()
                status = program(running)
        finally:
            launched.set()
            os.close(from_client)
            os.close(stderr)
            if merged:
                os.close(to_client)
            collecting.join()
            if not merged:
                # Who has read all of one stream can ask for all of the other.
                os.close(to_client)
            # As a shell tells it.
            process.status = 128 - status if status < 0 else status
            then()
            process.ended.set()

    launched = threading.Event()
    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    threading.Thread(target=live, daemon=True).start()
    launched.wait()
    return process


def _host_process(running: Running) -> subprocess.Popen[bytes]:
    argv = list(running.argv)
    return subprocess.Popen(
        [BUSYBOX, argv[0].rpartition("/")[2], *argv[1:]],
        stdin=running.stdin,
        stdout=running.stdout,
        stderr=running.stderr,
        env={"PATH": ":".join(PATH), **running.env},
        cwd="/",
        start_new_session=True,
    )


def on_this_host(running: Running) -> int:
    raise AssertionError(f"{running.argv} is a program")


def missing(running: Running) -> int:
    os.write(running.stderr, f"{running.argv[0]}: not found\n".encode())
    return 127
