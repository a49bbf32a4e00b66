"""The end of the kernel's log, with the important lines marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sandbox.report.model import LogLine

_KINDS: Final = (
    ("panic", re.compile(r"Kernel panic - |sysrq ?: Trigger a crash", re.IGNORECASE)),
    (
        "oops",
        re.compile(
            r"BUG: |[Kk]ernel BUG at|Oops: |Oops - |general protection fault|[Uu]nable to handle|Internal error: "
            r"|\bRIP: 0010:|\bpc : |divide error|double fault|KASAN|list_(?:add|del) corruption"
        ),
    ),
    (
        "hardware",
        re.compile(
            r"\[Hardware Error\]|\bmce: |Machine Check|\bEDAC\b|\bAER: |SError|thermal.*critical", re.IGNORECASE
        ),
    ),
    (
        "warning",
        re.compile(
            r"WARNING: |blocked for more than|soft lockup|hard LOCKUP|rcu.*stall|self-detected stall|[Oo]ut of memory"
            r"|oom-killer|oom-kill:|I/O error|segfault at|EXT4-fs error|XFS .*(?:[Cc]orruption|error)"
            r"|BTRFS (?:error|critical)|NETDEV WATCHDOG|page allocation failure|Tainted: "
        ),
    ),
    ("trace", re.compile(r"Call [Tt]race:|\+0x[0-9a-f]+/0x[0-9a-f]+")),
)

_MOST: Final = 400
_BEFORE: Final = 40
"""Lines of context before the first marked line."""


def excerpt(lines: Sequence[str]) -> tuple[LogLine, ...]:
    """The last lines of the log, beginning `_BEFORE` lines before the first error in them; at most `_MOST`."""
    tail = [LogLine(text=line, kind=_kind(line)) for line in lines[-_MOST:]]
    first = next((at for at, line in enumerate(tail) if line.kind in {"panic", "oops", "hardware", "warning"}), None)
    begin = max(0, len(tail) - 2 * _BEFORE) if first is None else max(0, first - _BEFORE)
    return tuple(tail[begin:])


def _kind(line: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(line)), "")
