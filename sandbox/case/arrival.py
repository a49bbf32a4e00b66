"""Debuginfo that is on its way while a dump is read without: fetched by a process of its own.

That is `sandbox.case.arrival_process`, which `start` starts. It outlives the vmbox that started it, and ends when it
has image and debuginfo, when it has failed, and when the case of the dump is closed. Like every fetch it leaves the
whole debuginfo in the cache or none, and what it has of a download, which the next one goes on with.

Its place is arrivals/ID/ in the runtime directory, where ID is the case's. `lock` is held while it lives, and has its
number; `log` has what it says; `result.json` says how it ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from sandbox.errors import VmboxError
from sandbox.host import decode, paths
from sandbox.host.locks import is_locked
from sandbox.log import Log

_LOCK: Final = "lock"
_LOG: Final = "log"
RESULT: Final = "result.json"

_TICK: Final = 0.02
PATIENCE: Final = 5.0
"""Seconds that a process which is told to end has to remove what is half made."""

_log = Log("case")


class Stage(StrEnum):
    """How far debuginfo has come that is on its way, or was."""

    FETCHING = "fetching"
    ARRIVED = "arrived"
    FAILED = "failed"
    STOPPED = "stopped"
    """Its process was ended before it had a result, or there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a fetch ended: the error that it raised, or 0."""

    exit_code: int = 0
    message: str = ""
    hint: str = ""
    detail: str | None = None


def stage(ident: str) -> Stage:
    """The stage of the debuginfo for the case `ident`."""
    place = _place(ident)
    if is_locked(place / _LOCK):
        return Stage.FETCHING
    result = _result(place)
    if result is None:
        return Stage.STOPPED
    return Stage.FAILED if result.exit_code else Stage.ARRIVED


def error(ident: str) -> VmboxError | None:
    """Why debuginfo did not come; None where no fetch of it has failed."""
    from sandbox.errors import kinds

    result = _result(_place(ident))
    if result is None or not result.exit_code:
        return None
    kind = next((kind for kind in kinds() if kind.exit_code == result.exit_code), VmboxError)
    return kind(result.message, hint=result.hint, detail=result.detail)


def doing(ident: str) -> str:
    """The last line that the process has said, e.g. what it downloads; empty before the first."""
    try:
        lines = (_place(ident) / _LOG).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def start(ident: str, dump: Path, endpoint: str) -> None:
    """Starts the fetch of image and debuginfo for a dump of this host, unless it is under way. Raises OSError."""
    import subprocess

    from sandbox.host import config

    place = _place(ident)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            return
        # The number of an earlier process may be another program's by now; `end` sends signals to what is there.
        os.ftruncate(lock, 0)
        (place / RESULT).unlink(missing_ok=True)
        request = {
            "place": str(place),
            "lock": lock,
            "dump": str(dump.absolute()),
            "engine": endpoint,
            "settings": config.overrides(),
        }
        package = str(Path(__file__).parents[2])
        search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with (place / _LOG).open("wb") as log:
            starting = subprocess.Popen(
                [sys.executable, "-P", "-m", "sandbox.case.arrival_process"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": search},
                cwd="/",
                # The lock is of both processes, so it is held without a gap.
                pass_fds=(lock,),
                # Ctrl-C is for the vmbox that answers.
                start_new_session=True,
            )
        with contextlib.suppress(BrokenPipeError):
            starting.communicate(json.dumps(request).encode() + b"\n")
        _log.info("debuginfo for %s is fetched beside it", dump)
    finally:
        os.close(lock)


def wait(ident: str, seconds: float) -> Stage:
    """The stage after at most so many seconds, sooner where it has ended. Interrupted, it ends the process."""
    deadline = time.monotonic() + seconds
    try:
        while (now := stage(ident)) is Stage.FETCHING and time.monotonic() < deadline:
            time.sleep(_TICK)
    except BaseException:
        end(ident)
        raise
    return now


def end(ident: str) -> None:
    """Ends the process, if it lives, and removes its place. What it has downloaded so far is kept for the next one."""
    import shutil

    place = _place(ident)
    deadline = time.monotonic() + PATIENCE
    for how in (signal.SIGTERM, signal.SIGKILL):
        if not is_locked(place / _LOCK):
            break
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((place / _LOCK).read_text()), how)
        while is_locked(place / _LOCK) and time.monotonic() < deadline:
            time.sleep(_TICK)
        deadline += PATIENCE
    shutil.rmtree(place, ignore_errors=True)


def _place(ident: str) -> Path:
    return paths.runtime_dir() / "arrivals" / ident


def _result(place: Path) -> Result | None:
    try:
        return decode.read_json(Result, place / RESULT)
    except (OSError, decode.DecodeError):
        return None
