"""Which boot a text with several of them tells of: the last that panicked.

A capture of a serial console goes on with the capture kernel and the next boots; syslog has weeks of them. The release
of one and the panic of another would be a crash that never was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sandbox.dump import panic
from sandbox.dump.printk import Record
from sandbox.dump.source import Budget

_BANNER: Final = re.compile(rb"Linux version \d\S* \(")
_FELL: Final = 2_000_000_000
"""Nanoseconds. CPUs whose clocks differ, and a network, reorder lines by less."""
_ASKED: Final = 1024


def last_panicked(records: Sequence[Record], budget: Budget) -> Sequence[Record]:
    """The records of one boot: the last with a panic, else the last with an oops, else the last.

    A capture kernel counts only where there is no other: it panics for want of memory after it was booted by a panic.
    """
    boots = _split(records, budget)
    if len(boots) < 2:
        return records
    ranked: list[tuple[int, int]] = []
    for at, (begin, end) in enumerate(boots):
        rank = 0
        for number, record in enumerate(records[begin:end]):
            if number % _ASKED == 0:
                budget.ask()
            if b"elfcorehdr=" in record.text and panic.is_of_capture_kernel(record.text[:2048].decode("latin-1")):
                rank = -1
                break
            if rank < 2 and not record.from_program:
                rank = max(rank, panic.severity(record.text))
        ranked.append((rank, at))
    begin, end = boots[max(ranked)[1]]
    return records[begin:end]


def _split(records: Sequence[Record], budget: Budget) -> list[tuple[int, int]]:
    """(first record, record after the last) of each boot."""
    begins = [0]
    latest: int | None = None
    for at, record in enumerate(records):
        if at % _ASKED == 0:
            budget.ask()
        now = record.nanoseconds
        fell = now is not None and latest is not None and now + _FELL < latest and now < latest // 2
        # The banner is among the first lines; a program can print one, too, but not at another time.
        banner = _BANNER.match(record.text) is not None and (now is None or now < _FELL)
        if (fell or (banner and latest is not None) or (banner and now is None)) and at > begins[-1]:
            begins.append(at)
            latest = None
        if now is not None:
            latest = now if latest is None or fell else max(latest, now)
    return list(zip(begins, [*begins[1:], len(records)], strict=True))
