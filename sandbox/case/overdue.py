"""Closes cases that should have ended by themselves: for the keeper of one, and at an opening for all.

python -m sandbox.case.overdue DIRECTORY
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Final

from sandbox.case import keeper, store
from sandbox.case.container import close
from sandbox.errors import EngineError
from sandbox.host.files import age
from sandbox.log import Log
from sandbox.model import Case

_OVERDUE: Final = 120
"""Seconds after its idle limit within which a case ends by itself, or its keeper ends it, on a busy host."""

_log = Log("case")


def close_overdue() -> None:
    """Closes the cases of this user that should have ended, and have no keeper any more."""
    for case in store.open_cases():
        if not case.remote and _is_overdue(case):
            with contextlib.suppress(EngineError):
                close(case)


def _is_overdue(case: Case) -> bool:
    limit = keeper.limit_of(str(case.directory)) or 0
    queue = case.directory / "queue"
    unused = min(age(case.opened.timestamp()), age(queue.stat().st_mtime) if queue.exists() else math.inf)
    return 0 < limit < unused - _OVERDUE and not keeper.is_in_use(str(case.directory))


def main(directory: Path) -> None:
    """Closes the case in `directory` for its keeper, unless a client has begun to use it."""
    case = store.read(directory)
    if case is None or keeper.is_in_use(str(directory)):
        return
    _log.info("case %s did not end by itself when its idle limit had passed: it is removed", case.id)
    close(case)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
