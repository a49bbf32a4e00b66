"""Finds what a killed vmbox left behind, and nothing that is in use.

Looked for where vmbox makes things: containers by their label, the runtime directory, the cache. What belongs to a
process that lives is told by the locks it holds: the kernel frees them however their owner ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from sandbox.case import keeper, store, views
from sandbox.engine import Engine, EngineName, connect, labels
from sandbox.engine.orphans import orphans
from sandbox.errors import EngineError
from sandbox.host import paths, tempdirs
from sandbox.host.files import age
from sandbox.host.locks import is_locked

_KEEPER: Final = f"/case/{Path(keeper.__file__).name}".encode()

_BEGINNING: Final = 600.0
"""Seconds for which a file without a lock may belong to a process that has just begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A thing that no process will use or remove any more."""

    kind: str
    """container, case, socket, temporary file, half image …"""
    name: str
    why: str
    remove: Callable[[], None] = field(repr=False, compare=False)


def find(engine: str | None = None) -> Iterator[Leak]:
    """Leaks on this host, of this user. With `engine`, that one's containers; else those of every engine that
    answers. Changes nothing; each leak has a `remove`.
    """
    cases = {case.container: case for case in store.open_cases()}
    for name in [engine] if engine else EngineName:
        try:
            connected = connect(name)
        except EngineError:
            if engine:
                raise
            continue
        with contextlib.closing(connected):
            yield from _containers(connected, set(cases))
            for left in orphans(connected):
                endpoint = connected.info().endpoint
                remove = partial(_remove_container, endpoint, left.id)
                yield Leak(kind="container", name=left.name, why="the vmbox it ran for is gone", remove=remove)
            yield from _images(connected)
    yield from _runtime()
    yield from _keepers()
    yield from _views()
    yield from _cache()


def _containers(engine: Engine, open_ones: set[str]) -> Iterator[Leak]:
    here = platform.node()
    for container in engine.containers({labels.CASE: ""}):
        ident = container.labels.get(labels.CASE, "")
        if container.labels.get(labels.HOST, here) != here:
            continue  # opened from another host, which alone can tell
        if container.id in open_ones or container.labels.get(labels.USER) not in {None, str(os.getuid())}:
            continue
        # Where it was opened from: a login session and a cron job have different runtime directories.
        place = Path(container.labels.get(labels.DIRECTORY) or store.directory() / ident)
        if is_locked(place.with_name(f"{place.name}.lock")):
            continue  # being opened, or closed
        case = store.read(place)
        if case is not None and case.container == container.id and store.is_running(case):
            continue
        if case is None and container.running and store.is_held(place):
            continue  # of another version of vmbox, which may use it
        yield Leak(
            kind="container",
            name=container.name,
            why="its case is not open" if container.running else "has ended and was not removed",
            remove=partial(_remove_container, engine.info().endpoint, container.id),
        )


def _images(engine: Engine) -> Iterator[Leak]:
    # The newest first: one that another stands on cannot be removed before it.
    for image in sorted(engine.images({labels.IMAGE: ""}), key=lambda image: -image.built):
        if not image.tags:
            yield Leak(
                kind="half image",
                name=image.id.removeprefix("sha256:")[:12],
                why="has no name: its build did not end, or a newer one took its place",
                remove=partial(_remove_image, engine.info().endpoint, image.id),
            )


def _remove_container(endpoint: str, ident: str) -> None:
    with contextlib.closing(connect(endpoint)) as engine:
        engine.remove(ident)


def _remove_image(endpoint: str, ident: str) -> None:
    with contextlib.closing(connect(endpoint)) as engine:
        engine.remove_image(ident)


def _runtime() -> Iterator[Leak]:
    place = paths.runtime_dir()
    for entry in sorted(store.directory().iterdir()):
        if not entry.is_dir() or store.read(entry) is not None or store.is_held(entry):
            continue
        if not is_locked(entry.with_name(f"{entry.name}.lock")):
            yield _file(entry, "case", "its opening did not end")
    for entry in sorted(place.iterdir()):
        # podman-PID-NUMBER.sock, ssh-PID-NUMBER.sock, NAME.PID of a file being replaced
        owner = re.search(r"-(\d+)-\d+\.sock$|\.(\d+)$", entry.name)
        if owner and not entry.is_dir() and not Path(f"/proc/{owner[1] or owner[2]}").exists():
            yield _file(entry, "socket" if entry.name.endswith(".sock") else "temporary file", "its process is gone")


def _keepers() -> Iterator[Leak]:
    """Processes that keep a case whose directory was removed by hand; at the next look they end by themselves."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            at = next((number for number, word in enumerate(words[:5]) if word.endswith(_KEEPER)), None)
            if at is None or process.stat().st_uid != os.getuid():
                continue
            place = Path(os.fsdecode(words[at + 1]))
            if place.parent == store.directory() and not place.exists():
                end = partial(os.kill, int(process.name), signal.SIGTERM)
                yield Leak(kind="process", name=process.name, why=f"keeps {place.name}, which is gone", remove=end)


def _views() -> Iterator[Leak]:
    attached = {view for place in store.directory().iterdir() if (view := store.view_of(place)) is not None}
    for place in views.unserved():
        why = "the server of this mount was killed" if place not in attached else "its case has lost its dump"
        yield Leak(kind="mount", name=str(place), why=why, remove=partial(views.end, place))


def _cache() -> Iterator[Leak]:
    place = paths.cache_dir()
    for entry in sorted(place.glob("debuginfo/.new-*")):
        # Filled under the lock of its key.
        key = entry.name.removeprefix(".new-").rpartition("-")[0]
        if _mine(entry) and not is_locked(place / "locks" / key):
            yield _file(entry, "temporary file", "was not filled to its end")
    for pattern in ("debuginfo/.old-*", "debuginfo/*/.modules-*"):
        for entry in sorted(place.glob(pattern)):
            if _mine(entry) and not _may_be_in_use(entry):
                yield _file(entry, "temporary file", "was not removed to its end")
    for entry in sorted(tempdirs.left_behind()):
        if _mine(entry):
            yield _file(entry, "temporary file", "its process is gone")
    for entry in sorted(place.glob("dumps/*/*.part*")):
        if _mine(entry) and not Path(f"/proc/{entry.name.rpartition('.part')[2]}").exists():
            yield _file(entry, "temporary file", "a dump's copy or index that was not finished")


def _mine(entry: Path) -> bool:
    try:
        return entry.lstat().st_uid == os.getuid()
    except OSError:
        return False


def _may_be_in_use(entry: Path) -> bool:
    """Whether a thing without a lock may be in use: it is young, and another vmbox of this user runs."""
    try:
        state = entry.lstat()
    except OSError:
        return True
    if age(state.st_mtime) > _BEGINNING:
        return False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) == os.getpid() or process.stat().st_uid != state.st_uid:
                continue
            words = (process / "cmdline").read_bytes().split(b"\0")[:3]
            if any(word.endswith((b"/vmbox", b"sandbox")) or b"sandbox.__main__" in word for word in words):
                return True
    return False


def _file(entry: Path, kind: str, why: str) -> Leak:
    def remove() -> None:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)

    return Leak(kind=kind, name=str(entry), why=why, remove=remove)
