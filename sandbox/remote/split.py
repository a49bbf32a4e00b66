"""The other parts of a split set, whose first part to be named is on a server.

A web server lists no files. The parts of one dump have names that differ in a number, and are asked for one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from sandbox.dump.source import Budget
from sandbox.errors import VmboxError
from sandbox.formats.streams import Source
from sandbox.progress import QUIET, Reporter
from sandbox.remote import described
from sandbox.remote.naming import named
from sandbox.remote.source import RemoteSource

_MOST: Final = 64
_NUMBER: Final = re.compile(r"([0-9]{1,18})(?=[^0-9/]*(?:\?|$))")
"""The last number of a URL's path, or its last digits."""


class RemoteNeighbours:
    """Dumps whose URLs have the numbers after and before that of the one that a description stands for."""

    def __init__(self, here: Path, reporter: Reporter = QUIET) -> None:
        self._here = here
        self._reporter = reporter

    def paths(self) -> Sequence[Path]:
        description = described.read(self._here)
        path, query, signature = (description.url if description is not None else "").partition("?")
        found = _NUMBER.search(path)
        if found is None or found.start() <= path.find("://") + 3:
            return []
        begin, end = path[: found.start()], f"{path[found.end() :]}{query}{signature}"
        return [one for step in (1, -1) for one in self._there(begin, found[1], end, step)]

    def _there(self, begin: str, number: str, end: str, step: int) -> Iterator[Path]:
        """Those that are on the server, up to the first that is not."""
        for distance in range(1, _MOST):
            wanted = int(number) + step * distance
            if wanted < 0:
                return
            try:
                yield described.local(named(f"{begin}{wanted:0{len(number)}}{end}"), self._reporter)
            except VmboxError:
                return

    def open(self, path: Path, budget: Budget) -> AbstractContextManager[Source]:
        del budget  # a server is waited for
        return RemoteSource(path, self._reporter)
