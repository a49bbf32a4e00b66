"""What a line of the kernel's log tells of: one table for the marks of an excerpt and for the events of a timeline."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LineKind:
    event: str
    """Kind of the event that such a line begins; empty for one that is part of another's."""
    mark: str
    """How a log shows it: panic, oops, hardware, warning or trace."""
    pattern: re.Pattern[str]


def _kinds() -> tuple[LineKind, ...]:
    rows = (
        ("panic", "panic", r"(?<!end )Kernel panic - "),
        ("", "panic", r"end Kernel panic - "),
        ("sysrq", "panic", r"(?i)sysrq ?: Trigger a crash"),
        ("lockup", "oops", r"BUG: soft lockup|BUG: workqueue lockup"),
        ("fault", "oops", r"Oops: |Oops - |[Uu]nable to handle|Internal error: |divide error|double fault"),
        ("fault", "oops", r"BUG: |[Kk]ernel BUG at|general protection fault|KASAN|list_(?:add|del) corruption"),
        (
            "fault",
            "oops",
            r"invalid opcode: [0-9a-f]{4} \[#|CFI failure|stack segment: |Unhandled fault|Kernel Fault: ",
        ),
        ("fault", "oops", r"Unhandled kernel unaligned|Bad pagetable: |Split lock detected|control protection fault"),
        ("", "oops", r"\bRIP: 0010:|\bpc : "),
        ("hardware", "hardware", r"(?i)\[Hardware Error\]|Machine check (?:exception|events)|SError Interrupt"),
        ("hardware", "hardware", r"(?i)\bEDAC .*\b[CU]E\b|\bAER: .*error|thermal.*critical"),
        # Such lines of a boot say that these watch.
        ("", "hardware", r"(?i)\bmce: |Machine Check|\bEDAC\b|\bAER: |SError"),
        ("hung-task", "warning", r"blocked (?:in I/O wait )?for more than"),
        ("lockup", "warning", r"hard LOCKUP|detected (?:expedited )?stalls?\b|kthread starved"),
        ("oom", "warning", r"[Oo]ut of memory.*: Kill"),
        ("", "warning", r"soft lockup|rcu.*stall"),
        ("", "warning", r"[Oo]ut of memory|oom-killer|oom-kill:|page allocation failure|segfault at"),
        ("io-error", "warning", r"I/O error|EXT4-fs error|XFS .*(?:[Cc]orruption|error)|BTRFS (?:error|critical)"),
        ("warning", "warning", r"WARNING: |NETDEV WATCHDOG|UBSAN: [\w-]+ in "),
        ("taint", "", r"taints kernel|tainting kernel"),
        ("", "warning", r"Tainted: "),
        ("", "trace", r"Call [Tt]race:|\+0x[0-9a-f]+/0x[0-9a-f]+"),
    )
    return tuple(LineKind(event, mark, re.compile(pattern)) for event, mark, pattern in rows)


KINDS: Final = _kinds()


def kind_of(line: str) -> LineKind | None:
    """The first kind that fits."""
    return next((kind for kind in KINDS if kind.pattern.search(line)), None)
