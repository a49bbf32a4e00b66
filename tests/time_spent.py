"""Where a long run of the tests spent its time: by process, and by file and engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import pytest

_LONG: Final = 300.0
"""Seconds of a run that is worth a table."""
_MOST: Final = 25
"""Lines of the table."""


def lines(stats: Mapping[str, Iterable[object]]) -> Iterator[str]:
    """The table; nothing for a short run. `stats` are those of pytest's terminal reporter, of all processes.

    Setups are counted apart: what a file's first test waits for is often of use to others.
    """
    reports = [one for kind in stats.values() for one in kind if isinstance(one, pytest.TestReport)]
    if not reports or max(one.stop for one in reports) - (begin := min(one.start for one in reports)) < _LONG:
        return
    processes = defaultdict[str, list[pytest.TestReport]](list)
    files, setups = Counter[str](), Counter[str]()
    for one in reports:
        processes[getattr(one, "worker_id", "all")].append(one)
        path, _, rest = one.nodeid.partition("::")
        _, at, group = rest.rpartition("@")
        key = f"{path}{at}{group}" if at and group.isalpha() else path
        files[key] += one.duration
        setups[key] += one.duration if one.when == "setup" else 0.0
    for name, of_it in sorted(processes.items()):
        until = max(one.stop for one in of_it) - begin
        yield f"{name}: {sum(one.duration for one in of_it):.0f} s in tests, the last ended after {until:.0f} s"
    for key, seconds in files.most_common(_MOST):
        yield f"{seconds:7.1f} s, of which setups {setups[key]:6.1f} s: {key}"
