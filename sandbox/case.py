"""Cases: one dump, open in one disposable container.

A case's state is the container and a directory in the runtime directory; nothing else remembers it. The directory is
found from the dump alone, so a later command needs no engine to talk to a case that is open.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox import paths
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs, connect
from sandbox.errors import CaseNotFound, EngineError, NoSpace, SessionFailed, VmboxError
from sandbox.locks import locked
from sandbox.model import Case, Debuginfo, Vmcore
from sandbox.profiles import ImageProfile
from sandbox.progress import QUIET, Reporter

LABEL: Final = "vmbox.case"
"""Carried by every case container; the value is the case's id."""

DUMP: Final = "/case/vmcore"
VMLINUX: Final = "/case/debuginfo/vmlinux"
"""Where a case container has them."""

IDLE: Final = 30 * 60
"""Seconds after which an unused case disposes of itself."""

_FIFOS: Final = ("in", "out", "ctl")
_DESCRIPTION: Final = "case.json"


def find(dump: Path, *, engine: str | None = None) -> Case | None:
    """The open case of a dump file, if there is one; of a certain engine if asked for. Touches no engine."""
    for directory in sorted(_cases().glob(f"{_key(dump)}-*")):
        case = _read(directory)
        if case is not None and engine in {None, case.engine, case.endpoint} and alive(case):
            return case
    return None


def open_case(
    vmcore: Vmcore,
    *,
    profile: ImageProfile,
    image: str,
    debuginfo: Debuginfo,
    engine: Engine,
    asked: str = "",
    idle: int = IDLE,
    reporter: Reporter = QUIET,
) -> Case:
    """Starts the case container of a dump, or returns the case that another process has opened meanwhile."""
    info = engine.info()
    key = _key(vmcore.path)
    ident = f"{key}-{info.name}"
    directory = _cases() / ident
    with locked(_cases() / f"{ident}.lock", reporter, f"opening {vmcore.path.name}"):
        present = _read(directory)
        if present is not None and alive(present):
            return present
        # Whatever is left is of a container that is gone: a reboot, a restarted engine, a kill.
        engine.remove(f"vmbox-{ident}")
        _forget(directory)
        _prepare(directory)
        token = secrets.token_hex(16)
        spec = container_spec(
            ident=ident,
            image=image,
            dump=vmcore.path,
            debuginfo=debuginfo.directory,
            runtime=directory,
            labels={
                LABEL: ident,
                "vmbox.dump": str(vmcore.path.resolve()),
                "vmbox.release": vmcore.release or "",
                "vmbox.user": str(os.getuid()),
            },
            env={"TOKEN": token, "IDLE": str(idle)},
        )
        try:
            with reporter.step("Starting the case container"):
                container = engine.start(spec)
                _await_ready(directory, token, engine, container.id)
        except BaseException:
            engine.remove(f"vmbox-{ident}")
            _forget(directory)
            raise
        case = Case(
            id=ident,
            dump=vmcore.path.resolve(),
            release=vmcore.release or "",
            profile=profile.name,
            image=image,
            vmlinux=debuginfo.vmlinux,
            proof=debuginfo.proof,
            engine=info.name,
            endpoint=info.endpoint,
            container=container.id,
            opened=datetime.now(UTC),
            directory=directory,
            token=token,
            asked=asked,
        )
        _write(case)
        return case


def container_spec(
    *,
    ident: str,
    image: str,
    dump: Path,
    debuginfo: Path,
    runtime: Path,
    labels: dict[str, str],
    env: dict[str, str],
) -> ContainerSpec:
    """The one hardened container a dump is ever given to."""
    return ContainerSpec(
        image=image,
        name=f"vmbox-{ident}",
        argv=["/usr/libexec/vmbox/session", VMLINUX, DUMP],
        labels=labels,
        # HOME and TMPDIR point at scratch memory: the root file system is read-only.
        env={"HOME": "/scratch", "TMPDIR": "/tmp", "LC_ALL": "C.UTF-8", "LESSSECURE": "1", **env},  # noqa: S108 - in the container
        binds=[
            Bind(source=dump.resolve(), target=DUMP),
            Bind(source=debuginfo.resolve(), target="/case/debuginfo"),
            Bind(source=runtime, target="/run/vmbox"),
        ],
        tmpfs=[Tmpfs(target="/tmp", size=_scratch()), Tmpfs(target="/scratch", size=_scratch())],  # noqa: S108 - in the container
        workdir="/scratch",
        network="none",
        hardened=True,
        memory=_memory(),
        pids=512,
    )


def alive(case: Case) -> bool:
    """Whether the case's container still holds its FIFOs open."""
    try:
        descriptor = os.open(case.directory / "in", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:
            return False
        raise
    os.close(descriptor)
    return True


def list_cases() -> list[Case]:
    """All open cases of this user, oldest first. What is left of dead ones is removed on the way."""
    found: list[Case] = []
    for directory in _cases().iterdir():
        if not directory.is_dir():
            continue
        case = _read(directory)
        if case is None:
            continue
        if alive(case):
            found.append(case)
        else:
            with locked(_cases() / f"{case.id}.lock"):
                if not alive(case):
                    _forget(directory)
    return sorted(found, key=lambda case: case.opened)


def close(case: Case) -> None:
    """Ends a case: the container goes, and with it everything that was in it."""
    with locked(_cases() / f"{case.id}.lock"):
        if alive(case):
            _say_stop(case)
        _remove_container(case)
        _forget(case.directory)
    (_cases() / f"{case.id}.lock").unlink(missing_ok=True)


def matching(what: str) -> list[Case]:
    """The open cases that `what` names: an id, the beginning of one, or a dump file."""
    cases = list_cases()
    by_id = [case for case in cases if case.id.startswith(what)]
    path = Path(what).resolve()
    found = by_id or [case for case in cases if case.dump == path]
    if not found:
        raise CaseNotFound(f"no open case matches {what}")
    return found


def _say_stop(case: Case) -> None:
    # The container ends by itself within milliseconds and its engine removes it; no engine call is needed.
    descriptor = os.open(case.directory / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, b"stop\n")
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and alive(case):
        time.sleep(0.01)


def _remove_container(case: Case) -> None:
    try:
        engine = connect(case.endpoint)
    except EngineError:
        # An engine that is gone has no containers either; one that is down removes it when it comes up.
        return
    try:
        engine.remove(case.container)
    finally:
        engine.close()


def _await_ready(directory: Path, token: str, engine: Engine, container: str) -> None:
    """Waits for the session script to hold the FIFOs, so that whoever finds the case can use it."""
    descriptor = os.open(directory / "out", os.O_RDONLY | os.O_NONBLOCK)
    try:
        seen = b""
        deadline = time.monotonic() + 30
        ready = f"{token} ready\n".encode()
        while ready not in seen:
            with contextlib.suppress(BlockingIOError):
                seen += os.read(descriptor, 65536)
            state = engine.container(container)
            if state is None or not state.running or time.monotonic() > deadline:
                said = engine.logs(container) if state is not None else b""
                raise SessionFailed(
                    "the case container ended before it was ready",
                    hint="vmbox doctor checks the engine",
                    detail=said.decode(errors="replace") or None,
                )
            time.sleep(0.02)
    finally:
        os.close(descriptor)


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
        for name in _FIFOS:
            os.mkfifo(directory / name, 0o600)
        (directory / "lock").touch(mode=0o600)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(
                f"no space left in {directory.parent}", hint=f"free some: df -h {directory.parent}"
            ) from error
        raise VmboxError(
            f"{directory}: {error.strerror}", hint="choose another place with $VMBOX_RUNTIME_DIR"
        ) from error


def _forget(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _cases() -> Path:
    directory = paths.runtime_dir() / "cases"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _key(dump: Path) -> str:
    """Names a dump file as it is now: a file that was replaced is another dump."""
    path = dump.resolve()
    state = path.stat()
    text = f"{path}\0{state.st_dev}\0{state.st_ino}\0{state.st_size}\0{state.st_mtime_ns}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:10]


_PATHS: Final = frozenset({"dump", "vmlinux", "directory"})


def _write(case: Case) -> None:
    values = {name: getattr(case, name) for name in Case.__slots__}
    text = json.dumps(values | {"opened": case.opened.isoformat()}, default=str)
    temporary = case.directory / f"{_DESCRIPTION}.new"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(case.directory / _DESCRIPTION)


def _read(directory: Path) -> Case | None:
    try:
        values = json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))
        values |= {name: Path(values[name]) for name in _PATHS}
        values["opened"] = datetime.fromisoformat(values["opened"])
        return Case(**values)
    except (OSError, ValueError, TypeError, KeyError):
        # Half made, or of another version of vmbox: not a case we can use.
        return None


def _memory() -> int:
    """Three quarters of the host's memory: crash needs room for the page tables and lists of a large machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


def _scratch() -> int:
    """Bytes of each scratch memory; it counts against the container's limit."""
    return _memory() // 8
