"""What is kept of dumps between commands, and forgotten when it was not used for long: indexes, and pages of servers.

Copies stay: they were asked for, or took long to make. `vmbox close DUMP` removes them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.case import store
from sandbox.dump import piece_index
from sandbox.host import paths
from sandbox.host.files import age
from sandbox.log import Log
from sandbox.remote import described, pages
from sandbox.remote.places import DESCRIBED

_DAYS: Final = 30

_log = Log("case")


def prune(days: float = _DAYS) -> list[Path]:
    """Removes what was not used for so many days, and belongs to no open case. Returns the directories it was in."""
    gone: list[Path] = []
    try:
        with os.scandir(paths.unpacked_dir()) as listing:
            places = [Path(entry.path) for entry in listing if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return gone
    old = [place for place in places if (used := _last_use(place)) is not None and age(used) > days * 86400]
    open_now = {case.dump.parent for case in store.open_cases()} if old else set()
    for place in old:
        if place.resolve() in open_now:
            continue
        description = next((one for one in place.iterdir() if one.name != pages.NAME), None)
        if description is not None and described.is_description(description):
            described.forget(description)
        else:
            for name in (piece_index.NAME, piece_index.GZIP):
                (place / name).unlink(missing_ok=True)
            with suppress(OSError):
                place.rmdir()
        _log.info("%s was not used for %d days: removed", place, days)
        gone.append(place)
    return gone


def _last_use(place: Path) -> float | None:
    """When an index, or a description and its pages, was last used; None where there is none of them."""
    remote = place.suffix == DESCRIBED
    times = []
    with suppress(OSError), os.scandir(place) as listing:
        times = [
            entry.stat(follow_symlinks=False).st_mtime
            for entry in listing
            if remote or entry.name in {piece_index.NAME, piece_index.GZIP}
        ]
    return max(times, default=None)
