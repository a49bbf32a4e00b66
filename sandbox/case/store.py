"""The open cases, as the runtime directory has them: found from the dump alone, without asking an engine.

Everything a warm `vmbox run` needs is here and in `session`, so both import little.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.case.places import SESSION_VERSION, SLOTS, VIEW_LOCK, VIEW_LOG, fifo
from sandbox.errors import CaseNotFound, pasteable, refuse_empty, unwritable
from sandbox.host import decode, network_files, paths
from sandbox.host.files import write_atomically
from sandbox.host.locks import is_locked, locked
from sandbox.model import REMOTE_SCHEMES, Case, key_of
from sandbox.progress import QUIET, Reporter

if TYPE_CHECKING:
    # A warm run asks no engine.
    from sandbox.engine import EngineInfo

SHARED: Final = "shared"
"""The directory in a case's own that is mounted into its container."""

_HEAD: Final = 1 << 16

_DESCRIPTION: Final = "case.json"

VIEW: Final = "view"
"""In a case's directory: the directory of the view that it was given instead of a plain dump (`sandbox.case.views`)."""

ONCE: Final = ".once"
"""In the id of a case that is its opener's alone."""


def find(dump: Path, *, engine: str | None = None) -> Case | None:
    """The open case of a dump file, if there is one; of `engine` if given. Asks only an engine on another host."""
    endpoint = engine if engine is not None and engine.startswith(REMOTE_SCHEMES) else None
    for place in sorted(directory().glob(f"{key(dump, endpoint)}-*")):
        case = read(place) if ONCE not in place.name else None
        if case is None or case.script != SESSION_VERSION or engine not in {None, case.engine, case.endpoint}:
            continue
        if is_running(case):
            return case
    return None


def is_running(case: Case) -> bool:
    """Whether the case's PID 1 still holds `ctl`, which is its alone; crash, which has `in`, may take longer to die.

    One whose dump is not served any more cannot be used, and counts as ended.
    """
    if case.remote:
        return _is_running_remote(case)
    view = view_of(case.directory)
    if view is not None and not is_locked(view / VIEW_LOCK):
        return False
    try:
        descriptor = os.open(case.shared / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:
            return False
        raise
    os.close(descriptor)
    return True


def is_held(place: Path) -> bool:
    """Whether a session script runs in the case of this directory, which another version may have described."""
    for control in (place / SHARED / "ctl", place / "ctl"):
        try:
            os.close(os.open(control, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        return True
    return False


def _is_running_remote(case: Case) -> bool:
    """Whether the container runs; a case whose host cannot be asked is not given up."""
    from sandbox.engine import connect
    from sandbox.errors import EngineError

    try:
        engine = connect(case.endpoint)
    except EngineError:
        return True
    try:
        container = engine.container(case.container)
    except EngineError:
        return True
    finally:
        engine.close()
    return container is not None and container.running


def open_cases() -> list[Case]:
    """All open cases of this user, oldest first. What is left of dead ones is removed on the way."""
    found: list[Case] = []
    for place in directory().iterdir():
        case = read(place)
        if case is None:
            continue
        if is_running(case):
            found.append(case)
            continue
        with lock(case.id):
            if not is_running(case):
                remove(place)
    return sorted(found, key=lambda case: case.opened)


def debuginfo_in_use() -> frozenset[str]:
    """Names of the cached builds that open cases have mounted."""
    return frozenset(case.vmlinux.parent.name for case in open_cases() if case.vmlinux is not None)


def find_by_id_or_dump(what: str) -> list[Case]:
    """The open cases that `what` names: an id, the beginning of one, or a dump file."""
    refuse_empty(what)
    cases = open_cases()
    by_id = [case for case in cases if case.id.startswith(what)]
    path = Path(what).resolve()
    found = by_id or [case for case in cases if case.dump == path] or _only_one_below(path, cases)
    if not found:
        raise CaseNotFound(f"no open case matches {what}")
    return found


def _only_one_below(directory: Path, cases: Sequence[Case]) -> list[Case]:
    """The cases of the one dump below a directory, which opens that dump. Raises `CaseNotFound` for several dumps."""
    below = [case for case in cases if not case.remote and directory in case.dump.parents]
    dumps = {case.dump for case in below}
    if len(dumps) > 1:
        raise CaseNotFound(
            f"{len(dumps)} dumps below {directory} are open", hint=f"name one of them: {pasteable(below[0].dump)}"
        )
    return below


def make_directory(place: Path) -> None:
    """Makes a case's directory with its FIFOs. Raises `NoSpace`, or `ConfigurationError` when it cannot be written."""
    from sandbox.case import keeper

    try:
        shared = place / SHARED
        shared.mkdir(mode=0o700, parents=True)
        place.chmod(0o700)
        for name in (*(fifo(end, slot) for end in ("in", "out") for slot in SLOTS), "ctl"):
            os.mkfifo(shared / name, 0o600)
        os.mkfifo(place / keeper.FIFO, 0o600)
        # A lock in the mounted directory can be held by the case: there it only shows that a client is there.
        for lock in (place / "lock", shared / "lock"):
            lock.touch(mode=0o600)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = f"free some: df -h {pasteable(place.parent)}" if full else "choose another place with $VMBOX_RUNTIME_DIR"
        raise unwritable(place.parent, error, hint=hint, setting=True) from error


def mounted(directory: Path) -> str:
    """Names a directory as it is now, for `Case.mounted`. "" where there is none.

    The mount of an open case keeps its inode from being used again. A directory that only was renamed, or into which
    debug files of modules came, is the same one.
    """
    try:
        state = directory.stat()
    except OSError:
        return ""
    return f"{state.st_dev}:{state.st_ino}"


def view_of(place: Path) -> Path | None:
    """The directory of the view that the case in this directory reads its dump from; None where that is a file."""
    try:
        return Path((place / VIEW).read_text())
    except OSError:
        return None


def last_failure(place: Path, *, since: float = 0) -> str | None:
    """Why the view of the case in this directory could not give a part of the dump, the last time. None if it could,
    `since` a time of the clock.
    """
    view = view_of(place)
    if view is None:
        return None
    try:
        if (view / VIEW_LOG).stat().st_mtime < since:
            return None
        said = (view / VIEW_LOG).read_text(errors="replace")
    except OSError:
        return None
    return said.strip() or None


def remove(place: Path) -> None:
    """Removes a case's directory, the mount of its view, and its keeper."""
    # A warm run forgets nothing, and should not pay for what this imports.
    import shutil

    from sandbox.case import keeper

    view = view_of(place)
    if view is not None:
        from sandbox.case import views

        views.end(view)
    waiting = keeper.reach(str(place))
    shutil.rmtree(place, ignore_errors=True)
    keeper.wake(waiting)


def lock(ident: str, reporter: Reporter = QUIET, doing: str = "") -> AbstractContextManager[None]:
    """Held while a case is opened or closed."""
    return locked(directory() / f"{ident}.lock", reporter, doing)


def directory() -> Path:
    """The directory of all cases; each has a directory called after its id."""
    place = paths.runtime_dir() / "cases"
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def ident(dump: Path, engine: EngineInfo) -> str:
    """The id of a dump's case on an engine."""
    return f"{key(dump, engine.endpoint if engine.remote else None)}-{engine.name}"


def key(dump: Path, endpoint: str | None = None) -> str:
    """Names a dump file as it is now: a file that was replaced is another dump. One of another host, which `endpoint`
    leads to, is named by its path alone.
    """
    if endpoint is not None:
        return hashlib.sha256(f"{endpoint}\0{dump}".encode(errors="surrogateescape")).hexdigest()[:10]
    network_files.ask(dump)
    path = dump.resolve()
    state = path.stat()
    text = f"{path}\0{state.st_dev}\0{state.st_ino}\0{state.st_size}\0{state.st_mtime_ns}"
    if stat.S_ISBLK(state.st_mode):
        # What the node says stays when another dump is written to the disk. The head has the time of the crash.
        with path.open("rb", buffering=0) as disk:
            text += f"\0{hashlib.sha256(disk.read(_HEAD)).hexdigest()}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:10]


def write(case: Case) -> None:
    """Makes a case findable; last, when it can be used."""
    values = {key_of(item): getattr(case, item.name) for item in fields(Case)}
    place = None if case.place is None else asdict(case.place)
    text = json.dumps(values | {"opened": case.opened.isoformat(), "place": place}, default=str)
    write_atomically(case.directory / _DESCRIPTION, text.encode())


def read(place: Path) -> Case | None:
    """The case a directory describes; None for one that is half made, or of another version of vmbox."""
    try:
        return decode.read_json(Case, place / _DESCRIPTION)
    except (OSError, decode.DecodeError):
        return None


def about_debuginfo(case: Case) -> dict[str, str]:
    """The vmlinux of a case: what of it was compared with the dump, where it came from, what of that was checked."""
    return {
        "vmlinux": "" if case.vmlinux is None else str(case.vmlinux),
        "proof": case.proof,
        "origin": case.origin,
        "verified": case.verification_detail,
        "check": case.verification,
    }
