"""The page that says what was there when the profiles were probed: docs/probed.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from upkeep.asking import Seen
from upkeep.probes import Kind

_HEAD: Final = """\
---
orphan: true
---
# What was there

Written by `tools/probe-profiles` on {day}; do not edit. For each profile: how many of its base images, package sources
and repositories with its crash answered, and for its oldest, a middle and its newest kernel that the tests know, how
many of the places that vmbox asks have its debuginfo. One place of each is enough. Places for subscribers are asked
without a certificate.

| profile | base images | package sources | crash | debuginfo |
|---|---|---|---|---|
"""


def page(seen: Sequence[Seen], lacking: Sequence[str]) -> str:
    """The whole page. `lacking`: what is in none of its places, one line each."""
    rows = "".join(f"| {' | '.join(_row(name, seen))} |\n" for name in dict.fromkeys(one.probe.profile for one in seen))
    missing = "".join(f"* {line}\n" for line in lacking) or "Nothing.\n"
    return f"{_HEAD.format(day=f'{datetime.now(UTC):%Y-%m-%d}')}{rows}\n## Gone\n\n{missing}"


def _row(name: str, seen: Iterable[Seen]) -> Iterator[str]:
    own = [one for one in seen if one.probe.profile == name]
    yield f"`{name}`"
    for kind in (Kind.BASE, Kind.PACKAGES, Kind.CRASH):
        yield _count([one for one in own if one.probe.kind is kind])
    of = [one for one in own if one.probe.kind is Kind.DEBUGINFO]
    kernels = dict.fromkeys(one.probe.release for one in of)
    counted = (f"`{kernel}`: {_count([one for one in of if one.probe.release == kernel])}" for kernel in kernels)
    yield "; ".join(counted) or "-"


def _count(seen: Sequence[Seen]) -> str:
    return f"{sum(one.good for one in seen)} of {len(seen)}" if seen else "-"
